"""VtaConv: a two-dimensional convolution, plain, grouped or transposed, in VTA's integers.

Inputs: x int8 (N, C, H, W); weight int8 (O, C/group, kh, kw); then whatever the epilogue refers
to. Attributes are ONNX's (`strides`, `pads`, `dilations`, `group`; `transposed` with
`output_padding` for ConvTranspose, whose weights stand here with the output channels first) and
`epilogue`, `scale` of the output and its `zero_point` if that is not 0, `layout` of the output and
`in_layout` of x.

Weights stay logical: the schedule packs them in the order in which it reads them. Padding lanes
are computed as the hardware computes them, with zero weights, biases and shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import epilogue
from .convolution import convolve_integers, output_shape
from .taps import windows
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, O, H, W); ValueError when shapes, dtypes or layouts do not fit."""
    x, weight = kinds[:2]
    if len(x.shape) != 4 or x.dtype != "int8" or weight.dtype != "int8":
        raise ValueError(f"takes int8 (N, C, H, W) and int8 weights, got {x} and {weight}")
    if x.layout != attrs["in_layout"]:
        raise ValueError(f"takes x in layout {attrs['in_layout']}, got {x.layout}")
    outputs, depth, *kernel = weight.shape
    group = attrs["group"]
    if len(kernel) != 2 or depth * group != x.shape[1] or outputs % group:
        raise ValueError(f"weights {weight} in {group} groups do not fit {x}")
    if x.zero_point and any(attrs["pads"]):
        raise ValueError(f"pads with 0, the zero point of x is {x.zero_point}")
    shape = output_shape(x.shape, outputs, windows(attrs, kernel))
    quantisation = float(attrs["scale"]), attrs.get("zero_point", 0)
    output = TensorType(shape, "int8", attrs["layout"], *quantisation)
    epilogue.check(attrs["epilogue"], kinds, output)
    return [output]


def accumulate(x: Array, weight: Array, attrs: Attrs) -> Array:
    """int32 (N, O, H, W) products of logical int8 operands, exact, wrapping."""
    return convolve_integers(x, weight, windows(attrs, weight.shape[2:]), attrs["group"])


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """The layer's definition: exact products, then the epilogue."""
    data, weight = arrays[:2]
    channels = weight.shape[1] * attrs["group"]
    acc = accumulate(attrs["in_layout"].whole(data)[:, :channels], weight, attrs)
    return [epilogue.finish(acc, attrs, arrays)]


OPERATOR = Operator("VtaConv", _infer, _evaluate, (2, 8))
