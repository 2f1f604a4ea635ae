"""Rewrite what is placed on VTA into the few layers that it has.

Afterwards the nodes on VTA are FusedConv, Dense, MaxPool, Concat and Flatten.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..device_forms import FORMS, PLAIN_CONV, device_form
from ..graph import Graph, Node
from .place import RELABELS


def to_device_forms(graph: Graph) -> Graph:
    """Put the device forms of operators in their place, and join those that need no own layer."""
    nodes: list[Node] = []
    constants = dict(graph.constants)
    taken = {*graph.types, *(node.name for node in graph.nodes)}
    for node in graph.nodes:
        if node.device == "vta" and node.op in FORMS:
            form = device_form(graph, node, taken)
            nodes += form.nodes
            constants.update(form.constants)
        elif node.device == "vta" and node.op in RELABELS:
            nodes.append(replace(node, op="Flatten", attrs={"axis": 1}, inputs=node.inputs[:1]))
        else:
            nodes.append(node)
    return _join(graph.rebuild(nodes=nodes, constants=constants))


def _join(graph: Graph) -> Graph:
    """Give residual and bounds of an identity to a layer before it that has none of them.

    The layer makes what the identity reads, or its residual: a sum has no order.
    """
    nodes = {node.name: node for node in graph.nodes}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()
    for node in graph.nodes:
        if not _is_identity(graph, node):
            continue
        operands = (node.inputs[0], *node.inputs[3:])
        for value, added in zip(operands, (operands[1:], operands[:1]), strict=False):
            layer = nodes.get(producer.get(value, ""))
            alone = readers[value] == (node,) and operands.count(value) == 1
            if layer is None or not alone or value in graph.outputs:
                continue
            if not _takes(layer, len(added)):
                continue
            bounds = {key: node.attrs[key] for key in ("min", "max")}
            nodes[layer.name] = replace(
                layer,
                inputs=(*layer.inputs, *added),
                outputs=node.outputs,
                attrs={**layer.attrs, **bounds},
                origin=(*layer.origin, *node.origin),
            )
            producer[node.outputs[0]] = layer.name
            del nodes[node.name]
            break
    return graph.rebuild(nodes=nodes.values())


def _is_identity(graph: Graph, node: Node) -> bool:
    """Whether `node` only adds a residual to its operand and limits it."""
    if node.op != "FusedConv" or node.device != "vta":
        return False
    weight, bias = (graph.constants[name] for name in node.inputs[1:3])
    plain = {**PLAIN_CONV, "group": len(weight)}
    attrs = {**node.attrs, "min": None, "max": None}
    ones = weight.shape == (len(weight), 1, 1, 1) and bool((weight == 1).all())
    return ones and not np.any(bias) and attrs == plain


def _takes(layer: Node, residuals: int) -> bool:
    """Whether a layer has no bounds yet, and room for that many residuals."""
    bounded = layer.attrs.get("min") is not None or layer.attrs.get("max") is not None
    on_device = layer.op == "FusedConv" and layer.device == "vta"
    return on_device and len(layer.inputs) + residuals <= 4 and not bounded
