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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from ...ops.epilogue import HIGHEST
from ...ops.types import Array
from ..calibration import batches
from ..edit import free_name
from ..graph import Graph, Node
from ..interpret import interpret
from ..layers import LAYERS, device_layers, residual_of

_SAMPLES = 16
_BATCH_BYTES = 2**26  # of kept values at a time
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 16.0  # a channel that is hardly used would let its bias dwarf the others
_LEAST_SPAN = 1e-6  # of the widest channel; narrower ones are dead
_WEIGHT_STEPS = 90.0  # the largest weight of a channel lies between 64 and 127 steps
_GAIN = 0.98  # the least part of the noise that must go


@dataclass(frozen=True)
class Link:
    """A layer and the layers that alone read its result, perhaps through max-pools."""

    maker: Node
    readers: tuple[Node, ...]


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
    links = list(_links(graph))
    measured = _measure(graph, data, [link.maker.outputs[0] for link in links])
    work = _Constants(graph)
    for link in links:
        maker, readers = link.maker, link.readers
        weights = [work.own(node, 1) for node in readers]
        columns = [
            _by_input(work.arrays[name].astype(np.float64), _group(node))
            for name, node in zip(weights, readers, strict=True)
        ]
        factors = _factors(measured[maker.outputs[0]], columns, readers)
        for position in (1, 2):
            name = work.own(maker, position)
            work.arrays[name] = _over(work.arrays[name], factors)
        for name, node, column in zip(weights, readers, columns, strict=True):
            scaled = _by_input(_over(column, 1 / factors), _group(node))
            work.arrays[name] = scaled.astype(np.float32)
    return work.rebuilt()


@dataclass
class _Constants:
    """Constants of the new graph: every layer that changes gets its own copies."""

    graph: Graph
    arrays: dict[str, Array] = field(init=False)
    names: dict[tuple[str, int], str] = field(default_factory=dict)  # node, position -> copy
    taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.arrays = dict(self.graph.constants)
        self.taken = set(self.graph.types)

    def own(self, node: Node, position: int) -> str:
        """The name of the copy that `node` has of a constant input."""
        key = node.name, position
        if key not in self.names:
            self.names[key] = free_name(f"{node.inputs[position]}.equalised", self.taken)
            self.taken.add(self.names[key])
            self.arrays[self.names[key]] = self.graph.constants[node.inputs[position]]
        return self.names[key]

    def rebuilt(self) -> Graph:
        """The graph with the copies in place."""
        nodes = [
            replace(
                node,
                inputs=tuple(
                    self.names.get((node.name, position), value)
                    for position, value in enumerate(node.inputs)
                ),
            )
            for node in self.graph.nodes
        ]
        return self.graph.rebuild(nodes=nodes, constants=self.arrays)


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


def _links(graph: Graph) -> Iterator[Link]:
    """Where scaling goes through."""
    after = graph.consumers()
    for node in device_layers(graph):
        bounded = node.attrs.get("min") not in (None, 0.0) or node.attrs.get("max") is not None
        if bounded or residual_of(node):
            continue
        values, readers = [node.outputs[0]], []
        for value in values:  # grows on the way
            for one in after.get(value, ()):
                if one.op == "MaxPool" and one.device == "vta":
                    values.append(one.outputs[0])
                else:
                    readers.append((one, value))
        plain = all(
            one.op in LAYERS and one.device == "vta" and one.inputs[0] == value
            and one.inputs.count(value) == 1
            for one, value in readers
        )
        if readers and plain and not set(values) & set(graph.outputs):
            yield Link(node, tuple(one for one, _ in readers))


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
        total += _weight_noise(scaled, measured.powers / factors**2, _group(node))
    return total


def _weight_noise(columns: Array, powers: Array, group: int) -> float:
    """Noise of a layer's results from rounding its weights (C, O/group, ...)."""
    depth = len(columns) // group
    split = columns.reshape(group, depth, columns.shape[1], -1)
    steps = np.abs(split).max(axis=(1, 3)) / _WEIGHT_STEPS
    read = powers.reshape(group, depth).sum(axis=1) * split.shape[3]
    return float((steps**2 / 12 * read[:, None]).sum())


def _group(node: Node) -> int:
    return int(node.attrs.get("group", 1))


def _over(array: Array, factors: Array) -> Array:
    """`array`, of one entry a channel on axis 0, divided by `factors`."""
    scaled = array / factors.reshape(-1, *(1,) * (array.ndim - 1))
    return scaled.astype(array.dtype)


def _by_input(weight: Array, group: int) -> Array:
    """(O, C/group, ...) -> (C, O/group, ...); its own inverse."""
    outputs, depth, *kernel = weight.shape
    split = weight.reshape(group, outputs // group, depth, *kernel).swapaxes(1, 2)
    return split.reshape(group * depth, outputs // group, *kernel)


