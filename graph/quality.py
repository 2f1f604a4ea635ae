"""Quality: how far quantised values are from the float reference, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log10, sqrt

import numpy as np

from ..ops import fused_pool
from ..ops.types import Array
from .calibration import batches
from .graph import Graph, Node
from .interpret import interpret

_BATCH_BYTES = 2**26


@dataclass
class Quality:
    """Sums over all values compared so far, of any number of batches."""

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    max_abs_error: float = 0.0

    def add(self, reference: Array, values: Array) -> None:
        """Compare two arrays of one shape."""
        expected, given = reference.astype(np.float64).ravel(), values.astype(np.float64).ravel()
        error = given - expected
        self.signal += float(expected @ expected)
        self.noise += float(error @ error)
        self.other += float(given @ given)
        self.product += float(expected @ given)
        self.max_abs_error = max(self.max_abs_error, float(np.abs(error).max(initial=0.0)))

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise in dB: inf without noise, -inf for noise alone."""
        if self.noise == 0.0:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 where both are zero, 0 where one is."""
        lengths = sqrt(self.signal) * sqrt(self.other)
        if lengths == 0.0:
            return float(self.signal == self.other)
        return self.product / lengths


def quality(reference: Array, values: Array) -> Quality:
    """The quality of one array beside a reference of the same shape."""
    result = Quality()
    result.add(reference, values)
    return result


def layer_quality(
    reference: Graph, quantised: Graph, data: Mapping[str, Array]
) -> dict[str, Quality]:
    """Per VTA node, its dequantised integer output against the float node of the same name.

    `quantised` is the graph after quantisation or after packing, `data` maps each input to an
    array (n, ...). Every layer's input carries the errors of the layers before it. Nodes that have
    no counterpart, or that only relabel values, are left out. A convolution with a fused pool has
    the result of the pool and goes by its name.
    """
    floats = {node.name: node.outputs[0] for node in reference.nodes}
    layers = [node for node in quantised.nodes if _name(node) in floats and _computes(node)]
    result = {_name(node): Quality() for node in layers}
    kept = tuple(floats[_name(node)] for node in layers)
    integers = tuple(node.outputs[0] for node in layers)
    for part, feeds in batches(reference, data, kept, _BATCH_BYTES):
        expected = interpret(part, feeds, keep=kept)
        given = _logical_values(quantised, feeds, integers)
        for node in layers:
            kind = quantised.types[node.outputs[0]]
            assert kind.scale is not None  # it is an activation on VTA
            values = (given[node.outputs[0]].astype(np.float32) - kind.zero_point) * kind.scale
            result[_name(node)].add(expected[floats[_name(node)]], values)
    return result


def _name(node: Node) -> str:
    """The float node that makes what an integer node makes."""
    name: str = node.attrs.get(fused_pool.NAME, node.name)
    return name


def _computes(node: Node) -> bool:
    """Whether a node runs on VTA and does more than relabel: packing reorders features."""
    return node.device == "vta" and node.op != "VtaFlatten"


def ranked(qualities: Mapping[str, Quality]) -> list[tuple[str, Quality]]:
    """Layers with their quality, the least SQNR first."""
    return sorted(qualities.items(), key=lambda one: one[1].sqnr_db)


def _logical_values(
    graph: Graph, feeds: Mapping[str, Array], keep: tuple[str, ...]
) -> dict[str, Array]:
    """Unpacked values for any number of samples; a packed graph takes its own batch at a time."""
    samples = len(next(iter(feeds.values())))
    if not any(graph.types[name].layout.packed for name in keep):
        return interpret(graph.rebatch(samples), feeds, keep)
    parts: dict[str, list[Array]] = {name: [] for name in keep}
    for start in range(0, samples, graph.batch):
        rows = np.minimum(np.arange(start, start + graph.batch), samples - 1)  # repeats the last
        values = interpret(graph, {name: array[rows] for name, array in feeds.items()}, keep)
        for name, arrays in parts.items():
            kind = graph.types[name]
            arrays.append(kind.layout.unpack(values[name], kind.shape))
    return {name: np.concatenate(arrays)[:samples] for name, arrays in parts.items()}
