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
_MOST_POSITIONS = 65_536  # means over more positions than this change nothing


def correct(layer: IntegerLayer, products: Array, reference: Array) -> IntegerLayer:
    """`layer` with its biases moved.

    `products` are its int32 products on the samples, `reference` the float layer's outputs;
    both have the shape (N, channels, ...).
    """
    products, reference = _thin(products), _thin(reference)
    if (layer.low, layer.high) == (LOWEST, HIGHEST):
        means = products.mean(axis=0, dtype=np.float64) * layer.grid.accumulator_scales
        wanted = reference.mean(axis=0, dtype=np.float64)
        return layer.corrected(wanted - means - layer.bias)
    return layer.corrected(_after_activation(layer, products, reference))


def _after_activation(layer: IntegerLayer, products: Array, reference: Array) -> Array:
    """Real biases to add, by Newton's steps: only positions inside the clip move with the bias.

    A channel keeps the best of its rounds, the first of which adds nothing.
    """
    scale = layer.grid.out_scale
    clipped = np.clip(reference, layer.low * scale, layer.high * scale)
    wanted = clipped.mean(axis=0, dtype=np.float64)
    bias = best = np.zeros(len(wanted))
    least = np.full(len(wanted), np.inf)
    for _ in range(_ROUNDS):
        steps = layer.corrected(bias).output(products)
        error = wanted - steps.mean(axis=0, dtype=np.float64) * scale
        better = np.abs(error) < least
        best = np.where(better, bias, best)
        least = np.where(better, np.abs(error), least)
        slope = ((steps > layer.low) & (steps < layer.high)).mean(axis=0)
        bias = bias + error / np.maximum(slope, _LEAST_SLOPE)
    return best


def _thin(array: Array) -> Array:
    """(N, channels, ...) -> (positions, channels), evenly thinned to a bounded number."""
    rows = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
    return rows[:: -(-len(rows) // _MOST_POSITIONS)]
