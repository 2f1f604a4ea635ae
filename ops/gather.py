"""Gather: the slices of the first operand along "axis" that the second names; -1 is the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import INDICES, axis_within, plain
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    data, indices = kinds
    if indices.dtype not in INDICES:
        raise ValueError(f"indices are {indices.dtype}, not {' or '.join(INDICES)}")
    axis = axis_within(attrs["axis"], len(data.shape))
    return [replace(data, shape=data.shape[:axis] + indices.shape + data.shape[axis + 1 :])]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    data, indices = arrays
    size = data.shape[attrs["axis"]]
    if indices.size and not -size <= indices.min() <= indices.max() < size:
        raise ValueError(f"an index is outside -{size}..{size - 1}")
    return [np.asarray(np.take(data, indices, axis=attrs["axis"]))]


OPERATOR = Operator("Gather", _infer, _evaluate, (2, 2))
