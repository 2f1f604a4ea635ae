"""Unpack: a packed tensor back to a plain one, padding dropped; the inverse of Pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .layout import PLAIN, Layout
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """The same tensor, plain; ValueError unless it has the given layout and logical shape."""
    (x,) = kinds
    layout: Layout = attrs["layout"]
    if x.layout != layout or x.shape != tuple(attrs["shape"]) or not layout.packed:
        raise ValueError(f"unpacks {tuple(attrs['shape'])} from {layout}, got {x}")
    return [replace(x, layout=PLAIN)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """Storage array -> logical array."""
    layout: Layout = attrs["layout"]
    return [layout.unpack(arrays[0], tuple(attrs["shape"]))]


OPERATOR = Operator("Unpack", _infer, _evaluate, (1, 1))
