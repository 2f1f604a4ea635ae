"""How well a shortcut fits a layer: the noise of both in one accumulator, and the best shift.

Beside a layer with small weights those of a shortcut would force a large step on both. So the
products of the shortcut are shifted to the left before they join the others: its weights have
steps of their own, a power of two larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..ops.shortcut import MOST_SHIFT
from ..ops.types import Array
from .calibration import Calibration
from .products import side_by_side
from .shift_grid import choose, output_scale


@dataclass(frozen=True)
class Branch:
    """A layer's real weights, its scales, and the mean square of the integers that it reads."""

    weight: Array
    in_scale: float
    out_scale: float
    power: float

    @property
    def noise(self) -> float:
        """The mean square of what rounding the weights adds to the result."""
        raised = output_scale(self.weight, self.in_scale, self.out_scale)
        return _noise(self.weight, self.in_scale, raised) * self.read

    @property
    def read(self) -> float:
        """The sum of squares of the integers that a result is made of."""
        return self.power * prod(self.weight.shape[1:])

    @property
    def rounding(self) -> float:
        """The mean square of what rounding the result adds to it."""
        return self.out_scale**2 / 12


def best_shift(layer: Branch, shortcut: Branch) -> tuple[int, float]:
    """The shift of a shortcut with the least noise, and the noise of both layers with it.

    The result has the scale of `layer`, raised where it is too fine for the weights.
    """
    ratio = shortcut.in_scale / layer.in_scale
    found = []
    for shift in range(MOST_SHIFT + 1):
        weight = side_by_side(layer.weight, shortcut.weight, ratio / (1 << shift))
        raised = output_scale(weight, layer.in_scale, layer.out_scale)
        read = layer.read + shortcut.read * (1 << 2 * shift)
        found.append((raised, _noise(weight, layer.in_scale, raised) * read, shift))
    _, noise, shift = min(found)
    return shift, noise


def mean_square(calibration: Calibration, value: str) -> float:
    """That of a value; as if it were uniform where nothing was seen of it."""
    seen = calibration.seen.get(value)
    if seen is None or not seen.peak:
        return calibration.limit(value) ** 2 / 3
    return float(seen.counts @ seen.centres**2) / float(seen.counts.sum() + seen.zeros)


def _noise(weight: Array, in_scale: float, out_scale: float) -> float:
    """The noise of rounding one weight, over all channels, for an input of 1."""
    grid = choose(weight, np.zeros(len(weight)), in_scale, out_scale)
    return float(np.mean(grid.accumulator_scales**2)) / 12
