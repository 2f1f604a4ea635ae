"""Pack: a plain tensor into the tiles of a layout, ragged sizes padded with zeros.

Attributes: `layout`, and the logical `shape` that it was made for. A packed graph is made for
one batch size: `infer` refuses another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .layout import Layout
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """The same tensor in the layout; ValueError unless it is plain and of the given shape."""
    (x,) = kinds
    layout: Layout = attrs["layout"]
    if x.layout.packed or x.shape != tuple(attrs["shape"]) or not layout.packed:
        raise ValueError(f"packs a plain {tuple(attrs['shape'])} into {layout}, got {x}")
    return [replace(x, layout=layout)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """Logical array -> storage array."""
    layout: Layout = attrs["layout"]
    return [layout.pack(arrays[0])]


OPERATOR = Operator("Pack", _infer, _evaluate, (1, 1))
