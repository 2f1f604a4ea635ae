"""Reshapes that leave a matrix of images by features become Flatten."""

from __future__ import annotations

from dataclasses import replace

from ..graph import Graph, Node

_RESHAPES = ("Reshape", "Squeeze")


def make_flatten(graph: Graph) -> Graph:
    """Rewrite Reshape and Squeeze from [N, ...] to [N, features], whatever N is, as Flatten."""
    return graph.rebuild(
        nodes=[
            replace(node, op="Flatten", attrs={"axis": 1}) if _flattens(graph, node) else node
            for node in graph.nodes
        ]
    )


def _flattens(graph: Graph, node: Node) -> bool:
    if node.op not in _RESHAPES or node.inputs[0] in graph.constants:
        return False
    before, after = graph.types[node.inputs[0]].shape, graph.types[node.outputs[0]].shape
    follows_batch = node.op == "Squeeze" or node.attrs["shape"][0] == 0
    return len(before) > 2 and len(after) == 2 and before[0] == after[0] and follows_batch
