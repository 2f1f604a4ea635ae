"""Conv and ConvTranspose with constant weights become FusedConv, the one form of an image layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...ops.conv_transpose import outputs_first
from ...ops.types import Array
from ..edit import free_name
from ..graph import Graph, Node


def make_conv(graph: Graph) -> Graph:
    """Rewrite two-dimensional float32 Conv and ConvTranspose with constant weight and bias.

    Weights of ConvTranspose are stored with the output channels first, a missing bias is 0.
    """
    nodes: list[Node] = []
    constants = dict(graph.constants)
    taken = set(graph.types)
    for node in graph.nodes:
        if not _is_layer(graph, node):
            nodes.append(node)
            continue
        names = []
        for place, (what, array) in enumerate(_parameters(node, graph.constants).items(), start=1):
            same = place < len(node.inputs) and array is graph.constants[node.inputs[place]]
            name = node.inputs[place] if same else free_name(f"{node.name}.{what}", taken)
            taken.add(name)
            constants[name] = array
            names.append(name)
        transposed = node.op == "ConvTranspose"
        attrs = {"output_padding": (0, 0), **node.attrs}
        attrs.update(transposed=transposed, min=None, max=None)
        inputs = (node.inputs[0], *names)
        nodes.append(replace(node, op="FusedConv", inputs=inputs, attrs=attrs))
    return graph.rebuild(nodes=nodes, constants=constants)


def _is_layer(graph: Graph, node: Node) -> bool:
    kind = graph.types[node.outputs[0]]
    return (
        node.op in ("Conv", "ConvTranspose")
        and (len(kind.shape), kind.dtype) == (4, "float32")
        and node.inputs[0] not in graph.constants
        and all(name in graph.constants for name in node.inputs[1:])
    )


def _parameters(node: Node, constants: Mapping[str, Array]) -> dict[str, Array]:
    """Weight and bias as FusedConv takes them."""
    weight, *bias = (constants[name] for name in node.inputs[1:])
    if node.op == "ConvTranspose":
        weight = outputs_first(weight, node.attrs["group"])
    return {"weight": weight, "bias": bias[0] if bias else np.zeros(len(weight), np.float32)}
