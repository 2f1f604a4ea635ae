"""QuantizeLinear: round(x / scale) + zero point, halves to even, clipped to the integer type.

Inputs are x, the scale and, where it is not 0, the zero point: scalars, or a vector along the
attribute `axis`. `dtype` is the integer type. This is ONNX's operator of quantised models;
Quantize is the one at VTA's border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import axis_within, floats, plain, text
from .types import Array, Attrs, Operator, TensorType

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def check_parameters(kinds: Sequence[TensorType], axis: int) -> None:
    """ValueError unless scale and zero point, kinds[1:], are scalars or fit along `axis`."""
    plain(*kinds)
    shape = kinds[0].shape
    for kind in kinds[1:]:
        if kind.shape in ((), (1,)):
            continue
        if len(kind.shape) != 1 or kind.shape[0] != shape[axis_within(axis, len(shape))]:
            raise ValueError(f"scales {text(kind.shape)} do not fit axis {axis} of {text(shape)}")


def along(parameter: Array, axis: int, rank: int) -> Array:
    """A scale or zero point in a shape that broadcasts to its operand."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape(-1, *(1,) * (rank - axis % rank - 1))


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    floats(*kinds[:2])
    check_parameters(kinds, attrs["axis"])
    if attrs["dtype"] not in INTEGERS:
        raise ValueError(f"dtype {attrs['dtype']} is none of {', '.join(INTEGERS)}")
    if len(kinds) == 3 and kinds[2].dtype != attrs["dtype"]:
        raise ValueError(f"the zero point is {kinds[2].dtype}, not {attrs['dtype']}")
    return [TensorType(kinds[0].shape, attrs["dtype"])]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axis = arrays[0], attrs["axis"]
    limits = np.iinfo(attrs["dtype"])
    with np.errstate(all="ignore"):
        steps = np.rint(x / along(arrays[1], axis, x.ndim)).astype(np.float64)
        if len(arrays) == 3:
            steps = steps + along(arrays[2], axis, x.ndim)
        clipped = np.clip(np.nan_to_num(steps), limits.min, limits.max)
    return [np.asarray(clipped, attrs["dtype"])]


OPERATOR = Operator("QuantizeLinear", _infer, _evaluate, (2, 3))
