"""Tile: the operand repeated along every axis as often as the attribute `repeats` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, repeats = kinds[0].shape, tuple(attrs["repeats"])
    if len(repeats) != len(shape) or min(repeats, default=0) < 0:
        raise ValueError(f"repeats {text(repeats)} do not fit {text(shape)}")
    sizes = (size * times for size, times in zip(shape, repeats, strict=True))
    return [replace(kinds[0], shape=tuple(sizes))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [np.tile(arrays[0], tuple(attrs["repeats"]))]


OPERATOR = Operator("Tile", _infer, _evaluate, (1, 1))
