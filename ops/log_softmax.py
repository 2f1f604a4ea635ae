"""LogSoftmax: x - log(sum(exp(x))) over the attribute "axes" together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .softmax import infer_over_axes
from .types import Array, Attrs, Operator


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axes = arrays[0], tuple(attrs["axes"])
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=axes, keepdims=True)
        total = np.exp(shifted).sum(axis=axes, keepdims=True)
        return [np.asarray(shifted - np.log(total))]


OPERATOR = Operator("LogSoftmax", infer_over_axes, _evaluate, (1, 1))
