"""Conv: x (N, C, ...) by weight (O, C/group, ...), plus a bias [O] if there is one.

One or two spatial axes; attributes `strides`, `pads`, `dilations` (see planar.py), `group`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .convolution import convolve
from .inference import floats, text
from .planar import flat, planar, planar_windows, slid_shape
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    x, weight = kinds[0].shape, kinds[1].shape
    sizes = slid_shape(x, weight[2:], attrs)
    group = attrs["group"]
    if group < 1 or weight[1] * group != x[1] or weight[0] % group:
        raise ValueError(f"weight {text(weight)} in {group} groups does not fit {text(x)}")
    if len(kinds) == 3 and kinds[2].shape != weight[:1]:
        raise ValueError(f"bias {text(kinds[2].shape)} does not fit {weight[0]} channels")
    return [TensorType((x[0], weight[0], *sizes), dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, weight = arrays[:2]
    along = planar_windows(weight.shape[2:], attrs)
    with np.errstate(all="ignore"):
        result = convolve(planar(x), planar(weight), along, attrs["group"])
        if len(arrays) == 3:
            result += arrays[2].reshape(-1, 1, 1)
    return [flat(result, x.ndim)]


OPERATOR = Operator("Conv", _infer, _evaluate, (2, 3))
