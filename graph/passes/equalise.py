"""Equalisation: even out what the channels between two layers span.

A layer without bounds, or with Relu alone, may have each of its channels divided by a factor that
the layers after it multiply back. All channels share one scale, so that a channel of small values
has few steps left; divided by what it spans it has all of them. That costs nothing before a
depthwise convolution, whose weights have a scale a channel. Before others it widens the span of
the weights, so the factors go only as far as the noise of both, taken together, falls.

The idea is that of M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019); the spans are measured, as G. Xiao et al. do in "SmoothQuant" (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from ...ops.epilogue import HIGHEST
from ...ops.types import Array
from ..calibration import batches
from ..graph import Graph, Node
from ..interpret import interpret
from ..links import Rewrite, groups, links

_LEAST_SAMPLES, _LEAST_VALUES = 16, 512  # that are looked at, samples and of a channel
_BATCH_BYTES = 2**26  # of kept values at a time
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STEPS = 8  # of an octave: factors are powers of 2^(1/8), and so are the bins of histograms
_LOWEST, _HIGHEST = -32, 32  # powers of two between which values are told apart
_BINS = (_HIGHEST - _LOWEST) * _STEPS
_MOST = 4 * _STEPS  # a channel that is hardly used would let its bias dwarf the others
_WEIGHT_STEPS = 90.0  # the largest weight of a channel lies between 64 and 127 steps
_GAIN = 0.9  # the most of the noise that may be left


@dataclass
class Channels:
    """What the channels of an activation hold: absolute values, in bins of an eighth of an octave.

    `counts` (C, bins) are parts of all values, those near zero left out; `powers` (C,) are mean
    squares.
    """

    counts: Array
    powers: Array


@dataclass(frozen=True)
class Reader:
    """What a layer multiplies its input channels by.

    `peaks` (C, O/group) are the largest absolute weights of `taps` each, `powers` (C,) the sums of
    squares of all weights of a channel.
    """

    peaks: Array
    powers: Array
    taps: int
    group: int

    @classmethod
    def of(cls, columns: Array, group: int) -> Reader:
        """From the weights by input channels, (C, O/group, ...)."""
        flat = np.abs(columns.reshape(*columns.shape[:2], -1))
        return cls(flat.max(axis=2), (flat**2).sum(axis=(1, 2)), flat.shape[2], group)


def equalise(graph: Graph, data: Mapping[str, Array]) -> Graph:
    """The placed float graph with its channels scaled, to be calibrated afterwards.

    `data` maps each input to samples (n, ...), of which the first few are looked at; what they
    have too few values of stays as it is. The function of the graph stays the same up to rounding.
    """
    count = min(len(array) for array in data.values())
    scalable = [
        link
        for link in links(graph)
        if _is_scalable(link.maker)
        and count * _places(graph, link.maker.outputs[0]) >= _LEAST_VALUES
    ]
    measured = _measure(graph, data, [link.maker.outputs[0] for link in scalable])
    work = Rewrite(graph)
    for link in scalable:
        maker, readers = link.maker, link.readers
        weights = [work.own(node, 1) for node in readers]
        columns = [
            _by_input(work.constants[name].astype(np.float64), groups(node))
            for name, node in zip(weights, readers, strict=True)
        ]
        read_by = [
            Reader.of(column, groups(node))
            for column, node in zip(columns, readers, strict=True)
        ]
        factors = _factors(measured[maker.outputs[0]], read_by)
        for position in (1, 2):
            name = work.own(maker, position)
            work.constants[name] = _over(work.constants[name], factors)
        for name, node, column in zip(weights, readers, columns, strict=True):
            scaled = _by_input(_over(column, 1 / factors), groups(node))
            work.constants[name] = scaled.astype(np.float32)
    return work.result()


def _is_scalable(maker: Node) -> bool:
    """Whether a positive factor goes through the bounds of a layer: none, or Relu."""
    return maker.attrs.get("min") in (None, 0.0) and maker.attrs.get("max") is None


def _places(graph: Graph, value: str) -> int:
    """Values of a channel in one sample."""
    return prod(graph.types[value].shape[2:])


def _measure(
    graph: Graph, data: Mapping[str, Array], values: Sequence[str]
) -> dict[str, Channels]:
    """What `values` hold on the first samples."""
    sizes = {value: _places(graph, value) for value in values}
    found = {
        value: Channels(np.zeros((channels, _BINS)), np.zeros(channels))
        for value, channels in ((value, graph.types[value].shape[1]) for value in values)
    }
    wanted = max(_LEAST_SAMPLES, -(-_LEAST_VALUES // min(sizes.values(), default=_LEAST_VALUES)))
    some = {name: array[:wanted] for name, array in data.items()}
    total = len(next(iter(some.values())))
    for part, feeds in batches(graph, some, tuple(values), _BATCH_BYTES) if values else ():
        results = interpret(part, feeds, keep=values)
        for value, one in found.items():
            rows = np.moveaxis(results[value], 1, 0).reshape(len(one.powers), -1)
            one.powers += np.einsum("cr,cr->c", rows, rows, dtype=np.float64)
            one.counts += _histograms(rows)
    for value, one in found.items():
        one.powers /= total * sizes[value]
        one.counts /= total * sizes[value]
    return found


def _histograms(rows: Array) -> Array:
    """How many values of every row of `rows` (C, n) fall into each bin, (C, bins)."""
    sizes = np.abs(rows)
    channels, columns = np.nonzero(sizes > 2.0**_LOWEST)
    steps = np.floor(np.log2(sizes[channels, columns]) * _STEPS).astype(np.int64)
    bins = np.minimum(steps - _LOWEST * _STEPS, _BINS - 1)
    counted = np.bincount(channels * _BINS + bins, minlength=len(rows) * _BINS)
    return counted.reshape(len(rows), _BINS)


def _factors(measured: Channels, readers: list[Reader]) -> Array:
    """What to divide the channels by: the best of a family of products of powers."""
    spans = _spans(measured.counts)
    gains = np.sqrt(sum(one.powers for one in readers))
    live = (spans > 0) & (gains > 0)
    best = steps = np.zeros(len(spans), np.int64)
    least = _GAIN * _noise(steps, measured, readers)
    for by_span, by_gain in product(_POWERS, _POWERS) if live.any() else ():
        powers = by_span * np.log2(spans[live]) - by_gain * np.log2(gains[live])
        steps = np.zeros(len(spans), np.int64)
        steps[live] = np.rint((powers - powers.mean()) * _STEPS).clip(-_MOST, _MOST)
        found = _noise(steps, measured, readers)
        if found < least:
            best, least = steps, found
    return np.exp2(best / _STEPS)


def _spans(counts: Array) -> Array:
    """What every channel has to span, 0 where all is near zero.

    That is the limit with the least mean squared error of the channel alone: no channel pays with
    steps for a few large values that are better clipped.
    """
    used = np.flatnonzero(counts.any(axis=0))
    limits = _edge(used + 1)
    if not len(limits):
        return np.zeros(len(counts))
    least = np.argmin(counts[:, used] @ _errors(_edge(used + 0.5), limits).T, axis=1)
    return np.where(counts.any(axis=1), limits[least], 0.0)


def _errors(values: Array, limits: Array) -> Array:
    """Squared errors (limits, values) of rounding and clipping."""
    bounds = limits[:, None]
    step = bounds / HIGHEST
    return np.where(
        values > bounds, (values - bounds) ** 2, np.minimum(step**2 / 12, values**2)
    )


def _edge(bins: Array) -> Array:
    """The value at which a bin begins."""
    return np.asarray(np.exp2(bins / _STEPS + _LOWEST))


def _noise(steps: Array, measured: Channels, readers: list[Reader]) -> float:
    """Noise power of the readers' results if the channels are divided by 2^(steps / 8)."""
    factors = np.exp2(steps / _STEPS)
    gains = sum(one.powers for one in readers) * factors**2
    total = _activation_noise(measured.counts, steps, gains)
    for one in readers:
        total += _weight_noise(one, factors, measured.powers / factors**2)
    return total


def _activation_noise(counts: Array, steps: Array, gains: Array) -> float:
    """Noise that clipping and rounding add where the readers multiply by `gains` (C,).

    The limit is the one with the least mean squared error of all values alike, as calibration
    finds it.
    """
    places = np.arange(_BINS) + steps[:, None]
    moved = np.take_along_axis(counts, places.clip(0, _BINS - 1), axis=1)
    moved[(places < 0) | (places >= _BINS)] = 0
    used = np.flatnonzero(moved.any(axis=0))
    moved, values = moved[:, used], _edge(used + 0.5)
    limits = values[-2 * _STEPS * 2 :] if len(values) else np.ones(1)
    errors = _errors(values, limits)
    best = np.argmin(errors @ moved.sum(axis=0))
    return float(gains @ (moved @ errors[best]))


def _weight_noise(reader: Reader, factors: Array, powers: Array) -> float:
    """Noise of a layer's results from rounding its weights, its channels multiplied by factors."""
    scaled = (reader.peaks * factors[:, None]).reshape(reader.group, -1, reader.peaks.shape[1])
    steps = scaled.max(axis=1) / _WEIGHT_STEPS
    read = powers.reshape(reader.group, -1).sum(axis=1) * reader.taps
    return float((steps**2 / 12 * read[:, None]).sum())


def _over(array: Array, factors: Array) -> Array:
    """`array`, of one entry a channel on axis 0, divided by `factors`."""
    scaled = array / factors.reshape(-1, *(1,) * (array.ndim - 1))
    return scaled.astype(array.dtype)


def _by_input(weight: Array, group: int) -> Array:
    """(O, C/group, ...) -> (C, O/group, ...); its own inverse."""
    outputs, depth, *kernel = weight.shape
    split = weight.reshape(group, outputs // group, depth, *kernel).swapaxes(1, 2)
    return split.reshape(group * depth, outputs // group, *kernel)


