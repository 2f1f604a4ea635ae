"""Drop nodes that hand their operand on unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ops.types import TensorType
from ..graph import Graph, Node

_ALWAYS = ("Identity", "Dropout")
_IF_TYPE_STAYS = (
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Max",
    "Min",
    "Reshape",
    "Squeeze",
    "Tile",
    "Unsqueeze",
)


def drop_identities(graph: Graph) -> Graph:
    """Remove Identity, Dropout, and conversions to the shape and dtype that a value has anyway.

    Names of graph inputs and outputs stay: where both ends of such a node are outputs of the
    graph, or its operand is an input or a constant, the node stays as well.
    """
    producers = graph.producers()
    stands_for: dict[str, str] = {}  # dropped result -> operand
    renamed: dict[str, str] = {}  # operand -> graph output that takes its place
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(stands_for.get(value, value) for value in node.inputs)
        node = replace(node, inputs=inputs)
        source = inputs[0] if inputs else ""
        result = node.outputs[0]
        if not _does_nothing(node, graph.types):
            kept.append(node)
        elif result not in graph.outputs:
            stands_for[result] = source
        elif source in producers and source not in renamed and source not in graph.outputs:
            renamed[source] = result
        else:
            kept.append(node)
    return graph.rebuild(nodes=[_rename(node, renamed) for node in kept])


def _does_nothing(node: Node, types: Mapping[str, TensorType]) -> bool:
    if node.op in _ALWAYS:
        return True
    if node.op == "Transpose":
        return list(node.attrs["perm"]) == sorted(node.attrs["perm"])
    if node.op == "Pad":
        return not any(node.attrs["pads"])
    if node.op == "Resize":
        return not node.attrs["axes"]
    if node.op == "Clip":
        return node.attrs["min"] is None and node.attrs["max"] is None
    same = types[node.outputs[0]] == types[node.inputs[0]]
    return node.op in _IF_TYPE_STAYS and len(node.inputs) == 1 and same


def _rename(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(value, value) for value in node.inputs),
        outputs=tuple(names.get(value, value) for value in node.outputs),
    )
