"""Fuse Relu and Clip into the layer that they follow."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from ..graph import Graph, Node

_LAYERS = ("Dense", "FusedConv")


def fuse_activation(graph: Graph) -> Graph:
    """Make Relu and Clip the "min" and "max" of the layer before them.

    Only where nobody else sees the layer's own result. Several in a row become one range.
    """
    nodes = {node.name: node for node in graph.nodes}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()
    for node in graph.nodes:
        if node.op not in ("Relu", "Clip") or node.inputs[0] not in producer:
            continue
        value = node.inputs[0]
        layer = nodes[producer[value]]
        if layer.op not in _LAYERS or len(readers[value]) > 1 or value in graph.outputs:
            continue
        nodes[layer.name] = replace(
            layer,
            outputs=node.outputs,
            attrs={**layer.attrs, **_range(layer, node)},
            origin=(*layer.origin, *node.origin),
        )
        producer[node.outputs[0]] = layer.name
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values())


def _range(layer: Node, node: Node) -> dict[str, Any]:
    """The range of `node` applied to the range of `layer`."""
    inner = (layer.attrs["min"], layer.attrs["max"])
    outer = (0.0, None) if node.op == "Relu" else (node.attrs["min"], node.attrs["max"])
    low, high = _limits(outer)
    merged = [min(max(bound, low), high) for bound in _limits(inner)]
    lower, upper = (None if bound in (-inf, inf) else bound for bound in merged)
    return {"min": lower, "max": upper}


def _limits(bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    """Bounds as numbers; if they cross, Clip gives the upper one everywhere."""
    high = inf if bounds[1] is None else bounds[1]
    low = -inf if bounds[0] is None else min(bounds[0], high)
    return low, high
