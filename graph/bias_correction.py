"""Bias correction: take out of each channel's mean what quantisation put into it.

Rounded weights, and an input that carries the error of the layers before, shift the mean of a
channel. The bias is moved until, over calibration samples, the mean of the quantised channel is
that of the float reference: after the activation, against a reference clipped to what the
quantiser can represent; for a layer without activation before any clip, where one step is exact.
"""

from __future__ import annotations

import numpy as np

from ..ops.epilogue import HIGHEST, LOWEST
from ..ops.types import Array
from .shift_grid import IntegerLayer

_ROUNDS = 6
_LEAST_SLOPE = 0.1  # a channel that is clipped nearly always moves little per step of bias


def correct(
    layer: IntegerLayer, products: Array, reference: Array, residual: Array | None = None
) -> IntegerLayer:
    """`layer` with its biases moved.

    `products` are its int32 products on the samples and `reference` the float layer's outputs at
    the same positions, (rows, channels); so is the int8 `residual` of a layer that adds one.
    """
    steps = layer.unrounded(products, residual)
    wanted = reference / np.float32(layer.grid.out_scale) + layer.grid.zero_point
    if (layer.low, layer.high) == (LOWEST, HIGHEST) and not layer.grid.zero_point:
        error = wanted.mean(axis=0, dtype=np.float64) - steps.mean(axis=0, dtype=np.float64)
    else:
        error = _after_activation(layer, steps, wanted)
    return layer.corrected(error * layer.grid.out_scale)


def _after_activation(layer: IntegerLayer, steps: Array, reference: Array) -> Array:
    """Output steps to add, by Newton's method: only positions inside the clip move with the bias.

    A channel keeps the best of its rounds, the first of which adds nothing.
    """
    wanted = reference.clip(layer.low, layer.high).mean(axis=0, dtype=np.float64)
    bias = best = np.zeros(len(wanted))
    least = np.full(len(wanted), np.inf)
    for _ in range(_ROUNDS):
        rounded = np.floor(steps + (bias + 0.5).astype(steps.dtype))
        inside = (rounded > layer.low) & (rounded < layer.high)
        rounded.clip(layer.low, layer.high, out=rounded)
        error = wanted - rounded.mean(axis=0, dtype=np.float64)
        better = np.abs(error) < least
        best = np.where(better, bias, best)
        least = np.where(better, np.abs(error), least)
        bias = bias + error / np.maximum(inside.mean(axis=0), _LEAST_SLOPE)
    return best
