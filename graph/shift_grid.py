"""The numbers of a layer that is requantised by shifts alone.

With input scale Sx and output scale Sy, the weights of output channel c have the scale
Sy * 2^-k[c] / Sx, so that the accumulator is the output times 2^k[c] and a right shift by k[c]
brings it home. This module chooses the shifts and puts weights, biases and bounds on that grid.
It works on weights of any rank with the output channels on axis 0.

A residual joins at a scale that is the output's times a power of two. A coarser one is shifted
up after the right shift. Beside a finer one the accumulator keeps as many fractional bits as that
takes: it is shifted by k[c] less those, the residual is added, and the rest follows. Floors of
floors are floors of the whole, so that one rounding term for k[c] rounds the sum half-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isclose, log2

import numpy as np

from ..ops.epilogue import HIGHEST, LOWEST, MAX_SHIFT, Step, apply
from ..ops.types import Array

WEIGHT_LIMIT = 127
_BIAS_LIMIT = 2.0**30  # leaves the accumulator as much room again before it wraps
_MOST_SHIFTS = 2 * MAX_SHIFT  # the register form and the immediate one after it


@dataclass(frozen=True)
class Meeting:
    """How a residual meets the output: its scale is the output's * 2^(shift - fraction).

    Of `shift` and `fraction` one is 0.
    """

    shift: int = 0
    fraction: int = 0

    @classmethod
    def of(cls, residual_scale: float, out_scale: float) -> Meeting | None:
        """The one that fits the scales; None where they are no power of two apart."""
        power = round(log2(residual_scale / out_scale))
        if not isclose(out_scale * 2.0**power, residual_scale, rel_tol=1e-9):
            return None
        return cls(max(power, 0), max(-power, 0))


ALONE = Meeting()
"""What a layer without a residual has in its place."""


@dataclass(frozen=True)
class ShiftGrid:
    """Scales of a layer's input and output, and the right shift of every output channel."""

    in_scale: float
    out_scale: float
    shifts: Array  # int64 (O,)
    meeting: Meeting = ALONE
    zero_point: int = 0
    """Of the output: the integer that stands for 0."""

    @property
    def accumulator_scales(self) -> Array:
        """Real value of one accumulator step, per channel."""
        return np.asarray(self.out_scale * np.exp2(-self.shifts.astype(np.float64)))

    def steps(self, weight: Array) -> Array:
        """Real weights (O, ...) in steps of the int8 ones, not rounded."""
        scales = self.accumulator_scales / self.in_scale
        return np.asarray(weight.astype(np.float64) / _column(scales, weight.ndim))

    def weights(self, weight: Array) -> Array:
        """Real weights (O, ...) -> int8."""
        steps = np.rint(self.steps(weight))
        return np.clip(steps, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)

    def biases(self, bias: Array, weights: Array) -> tuple[Array, Array]:
        """Real biases (O,) -> int32 with rounding term and zero point, and which saturated.

        The rounding term of a channel that is not shifted is 0. `weights` are the whole ones: a
        bias stops where the products could still wrap the accumulator.
        """
        rounding = np.where(self.shifts > 0, np.exp2(self.shifts - 1.0), 0.0)
        steps = np.rint(bias.astype(np.float64) / self.accumulator_scales) + rounding
        steps += self.zero_point * np.exp2(self.shifts.astype(np.float64))
        reach = -LOWEST * np.abs(weights.reshape(len(bias), -1).astype(np.int64)).sum(axis=1)
        limit = np.maximum(np.iinfo(np.int32).max - reach, 0)
        folded = np.clip(steps, -limit, limit)
        return folded.astype(np.int32), folded != steps

    def step(self, value: float) -> int:
        """A real value on the output's grid, clipped to it."""
        steps = np.rint(value / self.out_scale) + self.zero_point
        return int(np.clip(steps, LOWEST, HIGHEST))


@dataclass(frozen=True)
class IntegerLayer:
    """A layer's numbers on its grid: int8 weights, real biases, the integer bounds of its clip.

    `gains` are what the products of the weights' columns are multiplied by before they are added.
    """

    grid: ShiftGrid
    weights: Array
    bias: Array
    low: int
    high: int
    residual: bool = False
    gains: Array | int = 1

    @classmethod
    def of(
        cls,
        grid: ShiftGrid,
        weight: Array,
        bias: Array,
        low: float | None,
        high: float | None,
        residual: bool = False,
        gains: Array | int = 1,
    ) -> IntegerLayer:
        """From real weights, biases and bounds; a bound that is None does not limit.

        `residual` says that one is added as the grid's meeting has it.
        """
        least = LOWEST if low is None else grid.step(low)
        most = HIGHEST if high is None else grid.step(high)
        least = min(least, most)  # where bounds cross, ONNX's Clip gives the upper one
        weights = grid.weights(weight)
        return cls(grid, weights, bias.astype(np.float64), least, most, residual, gains)

    @property
    def columns(self) -> Array:
        """The weights (O, columns) times their gains."""
        flat: Array = self.weights.reshape(len(self.bias), -1).astype(np.int64) * self.gains
        return flat

    @property
    def saturated(self) -> Array:
        """Which biases do not fit."""
        return self.grid.biases(self.bias, self.columns)[1]

    def corrected(self, bias: Array) -> IntegerLayer:
        """The same layer with a real `bias` added."""
        return replace(self, bias=self.bias + bias)

    def without_zero_points(self, x: int | Array, residual: int) -> IntegerLayer:
        """The same layer for inputs whose integers have these zero points.

        `x` may have one for every column of the weights.
        """
        sums = (self.columns * x).sum(axis=1)
        meeting = self.grid.meeting
        added = residual * self.grid.out_scale * 2.0 ** (meeting.shift - meeting.fraction)
        return self.corrected(-sums * self.grid.accumulator_scales - added)

    def epilogue(self, first: int) -> tuple[tuple[Step, ...], dict[str, Array]]:
        """The epilogue's steps, and the vectors that they read as inputs `first` and on.

        A residual is the input after the vectors. A bias of zeros is left out, and so is a shift
        by 0; equal shifts are an immediate.
        """
        steps: list[Step] = []
        vectors: dict[str, Array] = {}
        biases, _ = self.grid.biases(self.bias, self.columns)
        if biases.any():
            steps.append(("add", first))
            vectors["bias.int32"] = biases
        meeting = self.grid.meeting
        shifts = self.grid.shifts - meeting.fraction
        shared = _shared_part(shifts)
        rest = shifts - shared
        if rest.min() < rest.max():
            steps.append(("shr_vector", first + len(vectors)))
            vectors["shift.int32"] = rest.astype(np.int32)
        elif rest[0]:
            steps.append(("shr", int(rest[0])))
        if shared:
            steps.append(("shr", shared))
        if self.residual:
            steps.append(("residual", first + len(vectors), meeting.shift))
        if meeting.fraction:
            steps.append(("shr", meeting.fraction))
        return (*steps, ("max", self.low), ("min", self.high)), vectors

    def unrounded(self, products: Array, residual: Array | None = None) -> Array:
        """int32 products (rows, channels) -> float32 steps of the output before round and clip."""
        shifts = self.grid.shifts.astype(np.float64)
        bias = self.bias / self.grid.out_scale
        steps = products.astype(np.float32) * np.exp2(-shifts).astype(np.float32)
        steps += (bias + self.grid.zero_point).astype(np.float32)
        if residual is not None:
            meeting = self.grid.meeting
            steps += residual * np.float32(2.0 ** (meeting.shift - meeting.fraction))
        return steps

    def output(self, products: Array, residual: Array | None = None) -> Array:
        """int32 products (N, channels, ...) -> the layer's int8 output.

        `residual` is int8 of the same shape, for a layer that adds one.
        """
        steps, vectors = self.epilogue(0)
        operands = [*vectors.values()]
        if residual is not None:
            operands.append(residual)
        return apply(products, steps, operands)


def output_scale(weight: Array, in_scale: float, wanted: float) -> float:
    """`wanted`, raised where the largest weight would need a shift to the left."""
    peak = float(np.abs(weight).max(initial=0.0))
    return max(wanted, in_scale * peak / WEIGHT_LIMIT)


def choose(
    weight: Array,
    bias: Array,
    in_scale: float,
    out_scale: float,
    meeting: Meeting = ALONE,
    zero_point: int = 0,
) -> ShiftGrid:
    """The largest shifts that the weights, the biases and the hardware allow.

    One vector of shifts reaches 0..15. Where every channel allows more, all of them share a
    second shift. Channels whose weights are all zero take the greatest shift of the others.
    `meeting` may not keep more fractional bits than `room_for_fraction`.
    """
    by_weight, live = _shifts_by_weight(weight, in_scale, out_scale)
    offset = np.abs(bias.astype(np.float64)) + abs(zero_point) * out_scale
    by_bias = _whole_log2(_BIAS_LIMIT * out_scale, offset)
    most = np.maximum(np.minimum(by_weight, by_bias), meeting.fraction)
    most[~live] = np.minimum(most[~live], most[live].max(initial=meeting.fraction))
    first = most - meeting.fraction
    shifts = np.minimum(first, _shared_part(first) + MAX_SHIFT) + meeting.fraction
    return ShiftGrid(in_scale, out_scale, shifts, meeting, zero_point)


def room_for_fraction(weight: Array, in_scale: float, out_scale: float) -> int:
    """The fractional bits that a layer can keep beside a finer residual: its least shift."""
    by_weight, live = _shifts_by_weight(weight, in_scale, out_scale)
    return int(min(by_weight[live].min(initial=MAX_SHIFT), MAX_SHIFT))


def _shifts_by_weight(
    weight: Array, in_scale: float, out_scale: float
) -> tuple[Array, Array]:
    """The shift that brings each channel's largest weight to 64..127, and which have a weight."""
    peaks = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1, initial=0.0)
    return _whole_log2(WEIGHT_LIMIT * out_scale, in_scale * peaks.astype(np.float64)), peaks > 0


def _shared_part(shifts: Array) -> int:
    """The second shift that all channels share: 0 unless even the least is beyond one shift."""
    least, greatest = int(shifts.min()), int(shifts.max())
    if least <= MAX_SHIFT:
        return 0
    return min(greatest - MAX_SHIFT, least, MAX_SHIFT)


def _whole_log2(numerator: float, denominators: Array) -> Array:
    """floor(log2(numerator / denominator)) as int64, at most what two shifts can do."""
    ratios = numerator / np.maximum(denominators, numerator * 2.0**-_MOST_SHIFTS)
    return (np.frexp(ratios)[1] - 1).astype(np.int64)


def _column(vector: Array, rank: int) -> Array:
    return vector.reshape(-1, *(1,) * (rank - 1))
