"""Comparison of two streams of (name, array): how far apart, and where they first differ.

Knows nothing of who made the streams. Errors are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import inf, log10, sqrt

import numpy as np

from ..errors import DataError
from .preprocessing import Array


@dataclass(frozen=True)
class Difference:
    """The first element that differs: its index and both values."""

    index: tuple[int, ...]
    expected: float
    actual: float

    def __str__(self) -> str:
        return f"{list(self.index)}: expected {self.expected:g}, found {self.actual:g}"


@dataclass(frozen=True)
class TensorComparison:
    """How one tensor agrees with its reference.

    `sqnr_db` is 10 log10(signal / error), infinite if there is no error; `top1_agreement` is the
    fraction of rows with the same largest element, None unless the tensor is a matrix.
    """

    name: str
    max_abs_error: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None
    first_difference: Difference | None

    @property
    def equal(self) -> bool:
        """Whether every element is the same."""
        return self.first_difference is None


@dataclass(frozen=True)
class Accuracy:
    """Fractions of the samples whose largest output is the label's."""

    cpu: float
    target: float


@dataclass(frozen=True)
class Comparison:
    """A model on a device beside its reference on the CPU.

    `outputs` compare with the reference, `layers` with float32; `counters` are those of one
    compiled batch. `arithmetic` is the reference's: "float32", or "quantised" as the model came.
    `mismatch` names the first place where the device differs from the exact integer model
    (None: every byte agrees), which is a failure and not a loss of accuracy.
    `compared_bytes` is how many bytes that left a device were compared with the simulator's, over
    `compared_samples`.
    """

    outputs: tuple[TensorComparison, ...]
    layers: tuple[TensorComparison, ...]
    accuracy: Accuracy | None
    counters: Mapping[str, int]
    launches: int
    samples: int
    run_seconds: float
    cpu_seconds: float
    reference: str
    arithmetic: str = "float32"
    mismatch: str | None = None
    compared_samples: int = 0
    compared_bytes: int = 0


def compare_tensors(name: str, expected: Array, actual: Array) -> TensorComparison:
    """Compare two arrays of one shape; raises DataError on another shape."""
    if expected.shape != actual.shape:
        raise DataError(
            f"{name!r}: the reference has shape {expected.shape}, the other {actual.shape}"
        )
    wanted, found = expected.astype(np.float64), actual.astype(np.float64)
    error = wanted - found
    signal, noise = _power(wanted), _power(error)
    return TensorComparison(
        name=name,
        max_abs_error=float(np.abs(error).max()) if error.size else 0.0,
        cosine=_cosine(wanted, found),
        sqnr_db=_decibel(signal, noise),
        top1_agreement=_agreement(wanted, found),
        first_difference=first_difference(expected, actual),
    )


def compare_streams(
    expected: Iterable[tuple[str, Array]], actual: Iterable[tuple[str, Array]]
) -> Iterator[TensorComparison]:
    """Compare tensor by tensor, holding one pair at a time; names must agree in order."""
    for one, other in zip_longest(expected, actual):
        names = [pair[0] if pair else "nothing" for pair in (one, other)]
        if one is None or other is None or names[0] != names[1]:
            raise DataError(f"the streams differ: {names[0]!r} against {names[1]!r}")
        yield compare_tensors(names[0], one[1], other[1])


def first_difference(expected: Array, actual: Array) -> Difference | None:
    """The first element, in row-major order, that is not equal; NaN equals NaN."""
    differs = expected != actual
    if expected.dtype.kind == "f" and actual.dtype.kind == "f":
        differs &= ~(np.isnan(expected) & np.isnan(actual))
    if not differs.any():
        return None
    index = tuple(int(axis) for axis in np.unravel_index(int(differs.argmax()), differs.shape))
    return Difference(index, float(expected[index]), float(actual[index]))


def accuracy(scores: Array, labels: Array) -> float:
    """Fraction of rows of `scores` whose largest element is the label's; raises DataError."""
    if scores.ndim != 2 or len(scores) != len(labels):
        raise DataError(
            f"{len(labels)} labels do not fit outputs of shape {scores.shape}: accuracy needs one "
            "row of scores a sample"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError(
            f"labels range from {labels.min()} to {labels.max()}, the model has "
            f"{scores.shape[1]} classes"
        )
    return float(np.mean(scores.argmax(axis=1) == labels))


def _power(array: Array) -> float:
    return float(np.vdot(array, array))


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal else -inf


def _cosine(one: Array, other: Array) -> float:
    norms = sqrt(_power(one)) * sqrt(_power(other))
    if norms == 0:
        return float(_power(one) == _power(other))
    return float(np.vdot(one, other) / norms)


def _agreement(one: Array, other: Array) -> float | None:
    if one.ndim != 2 or one.size == 0:
        return None
    return float(np.mean(one.argmax(axis=1) == other.argmax(axis=1)))
