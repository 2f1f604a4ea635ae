"""PerSample: a constant, once for every sample of a batch.

Inputs are any value (N, ...) that tells how many samples there are, and the constant (1, ...); the
result is (N, ...). ONNX has no such operator; it holds what VTA adds to every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import plain
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """The constant's type with the batch of the first operand; ValueError if it has one itself."""
    plain(*kinds)
    counted, constant = kinds
    if not counted.shape or constant.shape[:1] != (1,):
        raise ValueError(f"takes a batch and a constant of one sample, got {counted}, {constant}")
    return [replace(constant, shape=(counted.shape[0], *constant.shape[1:]))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    counted, constant = arrays
    return [np.repeat(constant, len(counted), axis=0)]


OPERATOR = Operator("PerSample", _infer, _evaluate, (2, 2))
