"""VtaDense: a fully connected layer in VTA's integers.

Inputs: x int8 (N, I); weight int8 (O, I), or (O/BLOCK, I/BLOCK, BLOCK, BLOCK) once packed; then
whatever the epilogue refers to. Attributes: `epilogue` (steps, see epilogue.py), `scale` of the
output and its `zero_point` if that is not 0, `layout` of x and of the output and, once that is
packed, `features` = (O, I).

Padding lanes are computed as the hardware computes them, with zero weights, biases and shifts,
so that the stored bytes of a result are those that VTA writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import epilogue
from .layout import PLAIN, Layout
from .types import Array, Attrs, Operator, TensorType

# A sum of at most 1024 products of int8 by int8 stays within 2^24, where float32 is exact.
_EXACT_IN_FLOAT32 = 1024


def weight_layout(layout: Layout) -> Layout:
    """Layout of the weights, seen as an (O, I) tensor, beside activations in `layout`."""
    if not layout.packed:
        return PLAIN
    return Layout("NC", layout.block, layout.block)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, O) in the layout of x; ValueError when shapes, dtypes or layouts do not fit."""
    x, weight = kinds[:2]
    layout: Layout = attrs["layout"]
    if len(x.shape) != 2 or x.dtype != "int8" or weight.dtype != "int8":
        raise ValueError(f"takes int8 (N, I) and int8 weights, got {x} and {weight}")
    if x.layout != layout:
        raise ValueError(f"takes x in layout {layout}, got {x.layout}")
    features = tuple(attrs["features"]) if layout.packed else weight.shape
    if len(features) != 2 or weight.shape != weight_layout(layout).storage_shape(features):
        raise ValueError(f"weights {weight} do not hold features {features} in layout {layout}")
    if x.shape[1] != features[1]:
        raise ValueError(f"x has {x.shape[1]} features, the weights take {features[1]}")
    quantisation = float(attrs["scale"]), attrs.get("zero_point", 0)
    output = TensorType((x.shape[0], features[0]), "int8", layout, *quantisation)
    epilogue.check(attrs["epilogue"], kinds, output)
    return [output]


def accumulate(x: Array, weight: Array) -> Array:
    """x (N, I) int8 times weight (O, I) int8, transposed: int32 (N, O), exact, wrapping."""
    exact = np.float32 if x.shape[1] <= _EXACT_IN_FLOAT32 else np.float64
    products = np.matmul(x.astype(exact), weight.astype(exact).T)
    return np.asarray(products.astype(np.int64).astype(np.int32))


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """The layer's definition: exact products, then the epilogue."""
    layout: Layout = attrs["layout"]
    data, weight = layout.whole(arrays[0]), weight_layout(layout).whole(arrays[1])
    return [epilogue.finish(accumulate(data, weight), attrs, arrays)]


OPERATOR = Operator("VtaDense", _infer, _evaluate, (2, 8))
