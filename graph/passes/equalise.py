"""Cross-layer equalisation: even out the ranges of channels between neighbouring layers.

A layer without bounds, or with Relu alone, may have a channel divided by a factor that the next
layer multiplies back. The factor is chosen so that the channel's weights are as large in both
(M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019). The float function stays the same up to rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ops.types import Array
from ..edit import free_name
from ..graph import Graph, Node
from ..layers import LAYERS, residual_of

_ROUNDS = 20
_MOST = 16.0  # a channel with hardly any weights would let its bias dwarf the others


def equalise(graph: Graph) -> Graph:
    """Scale the channels between layers that allow it; run before calibration."""
    pairs = [pair for pair in _pairs(graph) if _own_constants(graph, pair)]
    used = dict.fromkeys(name for pair in pairs for node in pair for name in node.inputs[1:3])
    weights = {name: graph.constants[name].astype(np.float64) for name in used}
    scaled = [np.ones(len(weights[first.inputs[1]])) for first, _ in pairs]
    for _ in range(_ROUNDS):
        for place, pair in enumerate(pairs):
            scaled[place] = _equalise(weights, *pair, scaled[place])
    taken, constants = set(graph.types), dict(graph.constants)
    names = {}
    for name in used:
        names[name] = free_name(f"{name}.equalised", taken)
        taken.add(names[name])
        constants[names[name]] = weights[name].astype(np.float32)
    nodes = [
        replace(node, inputs=tuple(names.get(value, value) for value in node.inputs))
        for node in graph.nodes
    ]
    return graph.rebuild(nodes=nodes, constants=constants)


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    """Layers and the only layer that reads their result, where scaling goes through."""
    readers = graph.consumers()
    found = []
    for node in graph.nodes:
        value = node.outputs[0]
        after = readers.get(value, ())
        if node.op not in LAYERS or len(after) != 1 or value in graph.outputs:
            continue
        (second,) = after
        bounded = node.attrs["min"] not in (None, 0.0) or node.attrs["max"] is not None
        if bounded or residual_of(node) or second.op != node.op:
            continue
        if second.inputs.count(value) == 1 and second.inputs[0] == value:
            found.append((node, second))
    return found


def _own_constants(graph: Graph, pair: tuple[Node, Node]) -> bool:
    """Whether no other layer has the same weights or biases."""
    readers = graph.consumers()
    names = [(node, name) for node in pair for name in node.inputs[1:3]]
    return all(readers[name] == (node,) and node.inputs.count(name) == 1 for node, name in names)


def _equalise(weights: dict[str, Array], first: Node, second: Node, before: Array) -> Array:
    """Scale the channels between two layers once more; factors of all rounds so far, and after."""
    made, bias, read = (*first.inputs[1:3], second.inputs[1])
    group = int(second.attrs.get("group", 1))
    columns = _by_input(weights[read], group)
    outgoing, incoming = (
        np.abs(one.reshape(len(one), -1)).max(axis=1) for one in (weights[made], columns)
    )
    live = (outgoing > 0) & (incoming > 0)
    factors = np.ones(len(outgoing))
    factors[live] = np.sqrt(outgoing[live] / incoming[live])
    total = np.clip(before * factors, 1 / _MOST, _MOST)
    factors = total / before
    weights[made] = weights[made] / _column(factors, weights[made])
    weights[bias] = weights[bias] / factors
    weights[read] = _by_input(columns * _column(factors, columns), group)
    return total


def _column(factors: Array, array: Array) -> Array:
    return factors.reshape(-1, *(1,) * (array.ndim - 1))


def _by_input(weight: Array, group: int) -> Array:
    """(O, C/group, ...) -> (C, O/group, ...); its own inverse."""
    outputs, depth, *kernel = weight.shape
    split = weight.reshape(group, outputs // group, depth, *kernel).swapaxes(1, 2)
    return split.reshape(group * depth, outputs // group, *kernel)
