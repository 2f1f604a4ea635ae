"""Softmax: exp(x) / sum(exp(x)) over the attribute "axes" together.

ONNX before opset 13 normalises over all axes from `axis` on, later over `axis` alone; a tuple of
axes says both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import axes_within, floats
from .types import Array, Attrs, Operator, TensorType


def infer_over_axes(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """The operand's type, if it has all of attrs "axes"."""
    axes_within(attrs["axes"], len(kinds[0].shape))
    return [TensorType(kinds[0].shape, floats(*kinds))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axes = arrays[0], tuple(attrs["axes"])
    with np.errstate(all="ignore"):
        powers = np.exp(x - x.max(axis=axes, keepdims=True))
        return [np.asarray(powers / powers.sum(axis=axes, keepdims=True))]


OPERATOR = Operator("Softmax", infer_over_axes, _evaluate, (1, 1))
