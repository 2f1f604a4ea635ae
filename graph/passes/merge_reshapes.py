"""Merge runs of Reshape, Flatten, Squeeze and Unsqueeze, so that there and back is nothing."""

from __future__ import annotations

from dataclasses import replace

from ..edit import live_nodes
from ..graph import Graph, Node

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def merge_reshapes(graph: Graph) -> Graph:
    """Let each of a run of reshaping nodes start from the run's first operand, by one Reshape.

    What nobody reads any more is dropped. A run that loses the batch on axis 0 stays as it is.
    """
    first: dict[str, tuple[str, tuple[str, ...]]] = {}  # result -> operand of its run, origin
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op in _RESHAPES:
            value, result = node.inputs[0], node.outputs[0]
            start, origin = first.get(value, (value, ()))
            origin = (*origin, *node.origin)
            before, after = graph.types[start].shape, graph.types[result].shape
            if start != value and before[:1] == after[:1] != ():
                attrs = {"shape": (0, *after[1:])}
                node = replace(node, op="Reshape", inputs=(start,), attrs=attrs, origin=origin)
            if node.inputs[0] == start:
                first[result] = (start, origin)
        nodes.append(node)
    return graph.rebuild(nodes=live_nodes(nodes, graph.outputs))
