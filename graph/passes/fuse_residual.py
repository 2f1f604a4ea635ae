"""Fuse the Add of two images into the convolution that makes one of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..graph import Graph, Node


def fuse_residual(graph: Graph) -> Graph:
    """Make one operand of Add the residual of the FusedConv that makes the other one.

    Only where nobody else sees the convolution's own result. Of two such convolutions the one
    with the larger kernel or the smaller strides takes it: a projection then becomes a shortcut of
    the layer beside it. Of equals it is the later one, which leaves the other one free to run when
    it likes.
    """
    nodes = {node.name: node for node in graph.nodes}
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()
    for node in graph.nodes:
        if not _adds_images(graph, node):
            continue
        found = []
        for value, residual in (node.inputs, node.inputs[::-1]):
            layer = nodes.get(producer.get(value, ""))
            seen = len(readers[value]) > 1 or value in graph.outputs
            if layer is not None and _is_open(layer) and not seen:
                rank = *_size(graph, layer), place[layer.name]
                found.append((rank, layer, residual))
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


def _adds_images(graph: Graph, node: Node) -> bool:
    """Whether `node` adds two different activations of one shape."""
    if node.op != "Add" or node.inputs[0] == node.inputs[1]:
        return False
    left, right = (graph.types[value] for value in node.inputs)
    return left == right and not any(value in graph.constants for value in node.inputs)


def _size(graph: Graph, layer: Node) -> tuple[int, int]:
    """Elements of a layer's kernel, and how near to one another its outputs are."""
    kernel = graph.constants[layer.inputs[1]].shape[2:]
    return prod(kernel), -prod(layer.attrs["strides"])


def _is_open(layer: Node) -> bool:
    """Whether a layer can still take a residual: one is added before the bounds apply."""
    bounded = layer.attrs.get("min") is not None or layer.attrs.get("max") is not None
    return layer.op == "FusedConv" and len(layer.inputs) == 3 and not bounded
