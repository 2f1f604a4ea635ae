"""Concat: the operands one after the other along the attribute "axis"."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import axis_within, plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    first = kinds[0]
    axis = axis_within(attrs["axis"], len(first.shape))
    for kind in kinds[1:]:
        if (kind.dtype, kind.scale) != (first.dtype, first.scale):
            raise ValueError(f"mixes {first} and {kind}")
        sizes = (*kind.shape[:axis], first.shape[axis], *kind.shape[axis + 1 :])
        if len(kind.shape) != len(first.shape) or sizes != first.shape:
            raise ValueError(
                f"{text(first.shape)} and {text(kind.shape)} differ beside axis {axis}"
            )
    total = sum(kind.shape[axis] for kind in kinds)
    return [replace(first, shape=(*first.shape[:axis], total, *first.shape[axis + 1 :]))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [np.concatenate(arrays, axis=attrs["axis"])]


OPERATOR = Operator("Concat", _infer, _evaluate, (1, sys.maxsize))
