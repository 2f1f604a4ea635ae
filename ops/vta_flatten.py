"""VtaFlatten: an image of VTA's integers read as rows of features, without moving a byte.

Input: x int8 (N, C, H, W). Attributes: `in_layout` of x and `layout` of the output. A plain image
becomes (N, C*H*W). A packed one keeps its storage and is read as tiles of features, in the order
of the storage and with the lanes that pad the last channel block among them; `storage_order`
tells which feature is which. Of one pixel the features are the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from .layout import Layout
from .types import Array, Attrs, Operator, TensorType


def storage_order(shape: Sequence[int], layout: Layout) -> Array:
    """For every feature of an image (N, C, H, W) packed in `layout`, its place in C*H*W.

    Lanes that pad the last block have the place -1.
    """
    places = np.arange(1, prod(shape[1:]) + 1).reshape(1, *shape[1:])
    stored = replace(layout, batch=1).pack(places)
    return np.asarray(stored.ravel() - 1, np.int64)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, features); ValueError when shape, dtype or layouts do not fit."""
    (x,) = kinds
    if len(x.shape) != 4 or x.dtype != "int8":
        raise ValueError(f"takes int8 (N, C, H, W), got {x}")
    source, layout = attrs["in_layout"], attrs["layout"]
    if x.layout != source:
        raise ValueError(f"takes x in layout {source}, got {x.layout}")
    wanted = Layout("NC", source.batch, source.block) if source.packed else source
    if layout != wanted or not source.order.startswith(layout.order[:1]):
        raise ValueError(f"reads layout {source} as {wanted}, not as {layout}")
    features = prod(source.storage_shape((1, *x.shape[1:]))) // source.batch
    if x.shape[2:] == (1, 1):
        features = x.shape[1]
    return [replace(x, shape=(x.shape[0], features), layout=layout)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """The same storage under another shape."""
    (x,) = arrays
    if not attrs["layout"].packed:
        return [x.reshape(x.shape[0], -1)]
    return [x.reshape(x.shape[0], -1, *x.shape[-2:])]


OPERATOR = Operator("VtaFlatten", _infer, _evaluate, (1, 1))
