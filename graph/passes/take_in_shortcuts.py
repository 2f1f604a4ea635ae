"""Let a convolution accumulate the 1 x 1 convolution whose result it adds.

Apart, `conv(x) + projection(y)` costs the projection's epilogue, a store, a load and the addition.
As one layer both products go into the same accumulators, and one epilogue follows. The weights of
an output channel then share a shift, but for one of the whole shortcut, so that some may be left
with few steps: where that adds more noise than rounding the projection's result does, the two
stay apart.
"""

from __future__ import annotations

from dataclasses import replace

from ...ops import shortcut
from ...ops.epilogue import HIGHEST
from ..calibration import Calibration
from ..edit import free_name
from ..graph import Graph, Node
from ..layers import residual_of
from ..shortcuts import Branch, best_shift, mean_square

_MOST_NOISE = 1.12
"""Noise of the joined layer over that of the two apart, final rounding included: 0.5 dB."""


def take_in_shortcuts(graph: Graph, calibration: Calibration) -> Graph:
    """The placed graph with 1 x 1 convolutions as shortcuts of the layers that alone add them.

    `calibration` is that of the graph as it is.
    """
    nodes = {node.name: node for node in graph.nodes}
    makers = {node.outputs[0]: node.name for node in graph.nodes}
    readers = graph.consumers()
    constants = dict(graph.constants)
    taken = set(graph.types)
    for node in graph.nodes:
        value = residual_of(node) if _is_plain(node) else None
        other = nodes.get(makers.get(value, "")) if value is not None else None
        if value is None or other is None or readers[value] != (node,) or value in graph.outputs:
            continue
        if _is_projection(graph, other) and _is_worth_it(graph, node, other, calibration):
            bias = free_name(f"{node.inputs[2]}.joined", taken)
            taken.add(bias)
            constants[bias] = constants[node.inputs[2]] + constants[other.inputs[2]]
            nodes[node.name] = _joined(node, other, bias)
            del nodes[other.name]
    return graph.rebuild(nodes=nodes.values(), constants=constants)


def _is_plain(node: Node) -> bool:
    """Whether a node is a convolution on VTA, neither grouped nor transposed."""
    on_device = node.op == "FusedConv" and node.device == "vta"
    return on_device and node.attrs["group"] == 1 and not node.attrs["transposed"]


def _is_projection(graph: Graph, node: Node) -> bool:
    """Whether a node is a 1 x 1 convolution of which nothing but its products remains."""
    if not _is_plain(node) or len(node.inputs) != 3 or any(node.attrs["pads"]):
        return False
    bounded = node.attrs.get("min") is not None or node.attrs.get("max") is not None
    return not bounded and graph.constants[node.inputs[1]].shape[2:] == (1, 1)


def _joined(node: Node, other: Node, bias: str) -> Node:
    """`node` with the projection `other` as its shortcut."""
    attrs = {
        **node.attrs,
        shortcut.STRIDES: tuple(other.attrs["strides"]),
        shortcut.NAME: other.name,
        shortcut.ORIGIN: other.origin or (other.name,),
    }
    return replace(node, inputs=(*node.inputs[:2], bias, *other.inputs[:2]), attrs=attrs)


def _is_worth_it(graph: Graph, node: Node, other: Node, calibration: Calibration) -> bool:
    """Whether the joined layer has hardly more noise than the two apart.

    Counted is what rounding weights and results adds to the sum.
    """
    main, taken = (_branch(graph, one, calibration) for one in (node, other))
    _, together = best_shift(main, taken)
    apart = main.noise + taken.noise + taken.rounding
    return together + main.rounding <= _MOST_NOISE * (apart + main.rounding)


def _branch(graph: Graph, node: Node, calibration: Calibration) -> Branch:
    """A layer with the scales that its values would have on their own."""
    source, result = node.inputs[0], node.outputs[0]
    in_scale, out_scale = (calibration.limit(value) / HIGHEST for value in (source, result))
    power = mean_square(calibration, source) / in_scale**2
    return Branch(graph.constants[node.inputs[1]], in_scale, out_scale, power)
