"""Fuse the Add of two images into the convolution that makes one of them."""

from __future__ import annotations

from dataclasses import replace

from ..graph import Graph, Node


def fuse_residual(graph: Graph) -> Graph:
    """Make one operand of Add the residual of the FusedConv that makes the other one.

    Only where nobody else sees the convolution's own result. Of two such convolutions the later
    one takes it, which leaves the other one free to run when it likes.
    """
    nodes = {node.name: node for node in graph.nodes}
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()

    def layer_of(node: Node, value: str) -> Node | None:
        layer = nodes.get(producer.get(value, ""))
        if layer is None or layer.op != "FusedConv" or len(layer.inputs) > 3:
            return None
        bounded = layer.attrs["min"] is not None or layer.attrs["max"] is not None
        seen = len(readers[value]) > 1 or value in graph.outputs
        same = graph.types[value] == graph.types[node.outputs[0]]
        return layer if same and not (bounded or seen) else None

    for node in graph.nodes:
        left, right = node.inputs[:2] if node.op == "Add" else ("", "")
        if left == right or {left, right} & set(graph.constants):
            continue
        if graph.types[left] != graph.types[right]:
            continue
        found = [
            (place[layer.name], layer, residual)
            for value, residual in ((left, right), (right, left))
            if (layer := layer_of(node, value)) is not None
        ]
        if not found:
            continue
        _, layer, residual = max(found, key=lambda each: each[0])
        nodes[layer.name] = replace(
            layer,
            inputs=(*layer.inputs, residual),
            outputs=node.outputs,
            origin=(*layer.origin, *node.origin),
        )
        producer[node.outputs[0]] = layer.name
        place[layer.name] = place[node.name]
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values())
