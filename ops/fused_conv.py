"""FusedConv: clip(convolution + bias [+ residual], min, max), the fused float image layer.

Inputs are x (N, C, H, W), weight (O, C/group, kh, kw), bias (O) and perhaps a residual of the
result's shape, or the image and the weight of a shortcut (see shortcut.py). Attributes are ONNX's
`strides`, `pads` (top, left, bottom, right), `dilations` and `group`; `transposed` and
`output_padding` make it a ConvTranspose, whose weights stand here with the output channels first;
`sections` with `kernel_shape` make the weights those of sections (see taps.py); `min` and `max`
are bounds or None. ONNX has no such operator; the passes make it from Conv, ConvTranspose,
AveragePool and what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import shortcut
from .clip import clip
from .convolution import convolve, output_shape
from .inference import numbers, text
from .taps import windows
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """float32 (N, O, H, W); ValueError when shapes do not fit."""
    if numbers(*kinds) != "float32":
        raise ValueError(f"takes float32, not {kinds[0].dtype}")
    x, weight, bias = (kind.shape for kind in kinds[:3])
    group = attrs["group"]
    ranks = (len(x), len(weight)) == (4, 4)
    if not ranks or weight[1] * group != x[1] or weight[0] % group or bias != weight[:1]:
        raise ValueError(
            f"x {text(x)}, weight {text(weight)} and bias {text(bias)} are not [N,C,H,W], "
            f"[O,C/{group},kh,kw], [O]"
        )
    shape = output_shape(x, weight[0], windows(attrs, weight[2:]))
    if shortcut.inputs(attrs):
        shortcut.check(kinds, attrs, shape)
    elif len(kinds) > 4:
        raise ValueError("takes one residual")
    elif len(kinds) == 4 and kinds[3].shape != shape:
        raise ValueError(f"the residual is {text(kinds[3].shape)}, the result {text(shape)}")
    return [TensorType(shape, "float32")]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, weight, bias, *beside = arrays
    with np.errstate(all="ignore"):
        y = convolve(x, weight, windows(attrs, weight.shape[2:]), attrs["group"])
        y += bias.reshape(1, -1, 1, 1)
        if shortcut.inputs(attrs):
            image, factors = beside
            y += convolve(image, factors, shortcut.windows(attrs))
        elif beside:
            y += beside[0]
        return [clip(y, attrs)]


OPERATOR = Operator("FusedConv", _infer, _evaluate, (3, 5))
