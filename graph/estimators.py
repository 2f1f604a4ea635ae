"""Estimators: from the values that calibration saw to the limit that the quantiser clips at.

A `Histogram` of absolute values is all that is kept of a tensor, in bounded memory whatever the
amount of data. An estimator maps it to a limit T > 0; the scale is then T / steps, where steps is
127, or more where a value has more integers.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..ops.types import Array

BINS = 4096
STEPS = 127
"""Integers above 0."""
_LEVELS = STEPS + 1  # non-negative ones, for the entropy estimator
_LEAST_BINS, _WELL_FILLED, _LEAST_KEPT = 512, 16, 0.99
_PERCENTILE = 99.99
CLIPPED = 3.0
"""What a squared error by clipping counts in images, beside one by rounding. Errors of rounding
have either sign and nearly cancel in a sum; what is clipped is always too small, and a kernel sums
neighbours, of which the large ones lie together."""
_SMALLEST = 1e-30  # as good as zero, and too small for float32 to divide by


class Histogram:
    """Counts of |x| in equal bins from 0 to `reach`, which doubles as larger values come.

    Exact zeros are counted apart: every scale represents them. `lowest` and `highest` are the
    extremes with their signs. `clipped` is what a squared error by clipping counts.
    """

    def __init__(self, clipped: float = 1.0) -> None:
        self.clipped = clipped
        self.reach = 0.0
        self.peak = 0.0
        self.lowest = 0.0
        self.highest = 0.0
        self.zeros = 0
        self.counts: Array = np.zeros(BINS, np.int64)

    def add(self, values: Array) -> None:
        """Count finite `values` of any shape."""
        self.lowest = min(self.lowest, float(values.min(initial=0.0)))
        self.highest = max(self.highest, float(values.max(initial=0.0)))
        sizes = np.abs(values).ravel()
        sizes = sizes[sizes > _SMALLEST]
        self.zeros += values.size - sizes.size
        if not sizes.size:
            return
        peak = float(sizes.max())
        self.reach = self.reach or peak
        while self.reach < peak:
            self.reach *= 2
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )
        self.peak = max(self.peak, peak)
        places = (sizes * (BINS / self.reach)).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    @property
    def centres(self) -> Array:
        """The value that stands for each bin."""
        return (np.arange(BINS) + 0.5) * (self.reach / BINS)


def minmax(seen: Histogram, steps: int = STEPS) -> float:
    """The largest absolute value: nothing is clipped."""
    return seen.peak


def percentile(seen: Histogram, steps: int = STEPS) -> float:
    """The value that all but one in 10,000 stay within, zeros included."""
    outside = (seen.zeros + seen.counts.sum()) * (1 - _PERCENTILE / 100)
    above = np.cumsum(seen.counts[::-1])[::-1]  # values in this bin or a higher one
    last = int(np.flatnonzero(above > outside)[-1]) if above[0] > outside else 0
    return min(seen.peak, (last + 1) * seen.reach / BINS)


def mse(seen: Histogram, steps: int = STEPS) -> float:
    """The limit with the least mean squared error of rounding and clipping together."""
    used = seen.counts > 0
    centres, counts = seen.centres[used], seen.counts[used].astype(np.float64)
    limits = seen.peak * np.exp2(-np.arange(160) / 32)
    errors = [_noise(centres, counts, float(limit), steps, seen.clipped) for limit in limits]
    return float(limits[np.argmin(errors)])


def relative_noise(seen: Histogram, limit: float, steps: int = STEPS) -> float:
    """The power of what rounding and clipping at `limit` add, over the power of the values.

    `steps` lie between 0 and the limit.
    """
    used = seen.counts > 0
    centres, counts = seen.centres[used], seen.counts[used].astype(np.float64)
    power = counts @ centres**2
    return float(_noise(centres, counts, limit, steps, seen.clipped) / power) if power else 0.0


def _noise(centres: Array, counts: Array, limit: float, steps: int, clipped: float) -> float:
    step = limit / steps
    quantised = np.minimum(np.rint(centres / step), steps) * step
    errors = (centres - quantised) ** 2
    errors[centres > limit] *= clipped
    return float(counts @ errors)


def entropy(seen: Histogram, steps: int = STEPS) -> float:
    """The limit whose quantised distribution diverges least (Kullback-Leibler) from the clipped.

    The method of TensorRT's calibrator (S. Migacz, "8-bit inference with TensorRT", GTC 2017),
    made fit for few data, whose bins are merged until they are well filled, and for values that
    pile up at the bounds of a clip: no limit cuts off more than one value in a hundred.
    """
    counts = seen.counts
    while len(counts) > _LEAST_BINS and counts.sum() < _WELL_FILLED * np.count_nonzero(counts):
        counts = counts.reshape(-1, 2).sum(axis=1)
    top = int(np.flatnonzero(counts)[-1]) + 1
    least = int(np.searchsorted(np.cumsum(counts), _LEAST_KEPT * counts.sum())) + 1
    least = min(max(least, _LEVELS), top)
    kept = np.unique(np.linspace(least, top, 200).astype(np.int64))
    losses = [_divergence(counts, int(bins)) for bins in kept]
    return min(seen.peak, float(kept[int(np.argmin(losses))]) * seen.reach / len(counts))


def _divergence(counts: Array, bins: int) -> float:
    """KL divergence of the first `bins` bins, outliers on the last, from 128 levels of them.

    The part that is expected from the chance in the counts alone is taken off: it grows with
    the bins a level has, and would favour small limits.
    """
    inside = counts[:bins].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += counts[bins:].sum()
    level = np.arange(bins) * _LEVELS // bins
    used = inside > 0
    totals = np.bincount(level, inside, _LEVELS)
    widths = np.bincount(level, used, _LEVELS)
    spread = np.where(used, (totals / np.maximum(widths, 1))[level], 0.0)
    if not used.any():
        return float("inf")
    p, q = clipped / clipped.sum(), spread / spread.sum()
    missed = p[~used].sum()  # an empty last bin that outliers were moved to
    chance = (np.count_nonzero(used) - np.count_nonzero(widths)) / (2 * clipped.sum())
    return float((p[used] * np.log(p[used] / q[used])).sum() + missed - chance)


class Estimator(Protocol):
    """A way to find the limit that `steps` steps reach."""

    def __call__(self, seen: Histogram, steps: int = STEPS) -> float: ...


ESTIMATORS: dict[str, Estimator] = {
    "mse": mse,
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
}
