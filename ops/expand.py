"""Expand: the operand broadcast with the attribute `shape`, where 1 keeps a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import broadcast, plain
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [replace(kinds[0], shape=broadcast(kinds[0].shape, tuple(attrs["shape"])))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    shape = broadcast(arrays[0].shape, tuple(attrs["shape"]))
    return [np.broadcast_to(arrays[0], shape).copy()]


OPERATOR = Operator("Expand", _infer, _evaluate, (1, 1))
