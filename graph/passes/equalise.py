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

import numpy as np

from ...ops.epilogue import HIGHEST
from ...ops.types import Array
from ..calibration import batches
from ..graph import Graph, Node
from ..interpret import interpret
from ..links import Rewrite, groups, links

_SAMPLES = 16
_BATCH_BYTES = 2**26  # of kept values at a time
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 16.0  # a channel that is hardly used would let its bias dwarf the others
_LEAST_SPAN = 1e-6  # of the widest channel; narrower ones are dead
_WEIGHT_STEPS = 90.0  # the largest weight of a channel lies between 64 and 127 steps
_GAIN = 0.98  # the least part of the noise that must go


@dataclass
class Channels:
    """The largest absolute value of every channel of an activation, and its mean square."""

    spans: Array
    powers: Array


def equalise(graph: Graph, data: Mapping[str, Array]) -> Graph:
    """The placed float graph with its channels scaled, to be calibrated afterwards.

    `data` maps each input to samples (n, ...), of which the first few are looked at. The function
    of the graph stays the same up to rounding.
    """
    scalable = [link for link in links(graph) if _is_scalable(link.maker)]
    measured = _measure(graph, data, [link.maker.outputs[0] for link in scalable])
    work = Rewrite(graph)
    for link in scalable:
        maker, readers = link.maker, link.readers
        weights = [work.own(node, 1) for node in readers]
        columns = [
            _by_input(work.constants[name].astype(np.float64), groups(node))
            for name, node in zip(weights, readers, strict=True)
        ]
        factors = _factors(measured[maker.outputs[0]], columns, readers)
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


def _measure(
    graph: Graph, data: Mapping[str, Array], values: Sequence[str]
) -> dict[str, Channels]:
    """Spans and powers of `values` on the first samples."""
    found: dict[str, Channels] = {}
    some = {name: array[:_SAMPLES] for name, array in data.items()}
    total = len(next(iter(some.values())))
    for part, feeds in batches(graph, some, tuple(values), _BATCH_BYTES) if values else ():
        results = interpret(part, feeds, keep=values)
        for value in values:
            rows = np.moveaxis(results[value], 1, 0).reshape(results[value].shape[1], -1)
            powers = np.einsum("cr,cr->c", rows, rows, dtype=np.float64)
            powers *= part.batch / total / rows.shape[1]
            one = found.setdefault(value, Channels(np.zeros(len(rows)), np.zeros(len(rows))))
            one.spans = np.maximum(one.spans, np.abs(rows).max(axis=1))
            one.powers += powers
    return found


def _factors(measured: Channels, columns: list[Array], readers: tuple[Node, ...]) -> Array:
    """What to divide the channels by: the best of a family of products of powers.

    `columns` are the weights of every reader by its input channels (C, O/group, ...).
    """
    spans = measured.spans
    gains = np.sqrt(sum((one.reshape(len(one), -1) ** 2).sum(axis=1) for one in columns))
    live = (spans > _LEAST_SPAN * spans.max(initial=0)) & (gains > 0)
    best = ones = np.ones(len(spans))
    if not live.any():
        return best
    least = _GAIN * _noise(ones, measured, columns, readers)
    for by_span, by_gain in product(_POWERS, _POWERS):
        factors = ones.copy()
        factors[live] = spans[live] ** by_span / gains[live] ** by_gain
        factors[live] /= np.exp(np.log(factors[live]).mean())
        factors[live] = factors[live].clip(1 / _MOST, _MOST)
        found = _noise(factors, measured, columns, readers)
        if found < least:
            best, least = factors, found
    return best


def _noise(
    factors: Array, measured: Channels, columns: list[Array], readers: tuple[Node, ...]
) -> float:
    """Noise power of the readers' results if the channels are divided by `factors`."""
    step = (measured.spans / factors).max() / HIGHEST
    total = 0.0
    for column, node in zip(columns, readers, strict=True):
        scaled = column * factors.reshape(-1, *(1,) * (column.ndim - 1))
        total += step**2 / 12 * float((scaled**2).sum())
        total += _weight_noise(scaled, measured.powers / factors**2, groups(node))
    return total


def _weight_noise(columns: Array, powers: Array, group: int) -> float:
    """Noise of a layer's results from rounding its weights (C, O/group, ...)."""
    depth = len(columns) // group
    split = columns.reshape(group, depth, columns.shape[1], -1)
    steps = np.abs(split).max(axis=(1, 3)) / _WEIGHT_STEPS
    read = powers.reshape(group, depth).sum(axis=1) * split.shape[3]
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


