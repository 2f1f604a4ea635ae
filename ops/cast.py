"""Cast: convert to the dtype that the attribute "to" names as NumPy does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import plain
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [TensorType(kinds[0].shape, attrs["to"])]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    with np.errstate(all="ignore"):
        return [arrays[0].astype(attrs["to"])]


OPERATOR = Operator("Cast", _infer, _evaluate, (1, 1))
