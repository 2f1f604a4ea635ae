"""ConvTranspose: the transpose of Conv, weight (C, O/group, ...), plus a bias [O] if there is one.

One or two spatial axes; attributes `strides`, `pads`, `dilations` (see planar.py), `group`, and
`output_padding`, the sizes that the result has beyond what strides and kernel give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .convolution import convolve
from .inference import floats, text
from .planar import flat, planar, planar_windows, slid_shape
from .types import Array, Attrs, Operator, TensorType


def outputs_first(weight: Array, group: int) -> Array:
    """(C, O/group, ...) -> (O, C/group, ...): the weights as a Conv has them."""
    inputs, outputs, *kernel = weight.shape
    split = weight.reshape(group, inputs // group, outputs, *kernel)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(
        group * outputs, inputs // group, *kernel
    )


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    x, weight = kinds[0].shape, kinds[1].shape
    sizes = slid_shape(x, weight[2:], attrs, transposed=True)
    group = attrs["group"]
    if group < 1 or weight[0] != x[1] or x[1] % group:
        raise ValueError(f"weight {text(weight)} in {group} groups does not fit {text(x)}")
    channels = weight[1] * group
    if len(kinds) == 3 and kinds[2].shape != (channels,):
        raise ValueError(f"bias {text(kinds[2].shape)} does not fit {channels} channels")
    return [TensorType((x[0], channels, *sizes), dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, weight = arrays[:2]
    kernel = planar(outputs_first(weight, attrs["group"]))
    along = planar_windows(weight.shape[2:], attrs, transposed=True)
    with np.errstate(all="ignore"):
        result = convolve(planar(x), kernel, along, attrs["group"])
        if len(arrays) == 3:
            result += arrays[2].reshape(-1, 1, 1)
    return [flat(result, x.ndim)]


OPERATOR = Operator("ConvTranspose", _infer, _evaluate, (2, 3))
