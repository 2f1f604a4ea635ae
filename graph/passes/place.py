"""Placement: which nodes run on VTA and which on the host, each with its reason.

Legality decides: a node runs on VTA when the caller's `accepts` has no objection. The user may
send a node to the host by name; VTA never runs what it was refused. Between layers on VTA an image
becomes rows of features there too, since that only relabels the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from ...errors import ModelError
from ..device_forms import FORMS
from ..graph import Graph, Node

Accepts = Callable[[Node, Graph], str | None]

DEVICES = ("vta", "host")

LIGHT = (
    "Add",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Div",
    "LeakyRelu",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Relu",
    "Resize",
    "Sub",
)
"""Operators that run on VTA only beside others: alone they would cost more than they save."""

RELABELS = ("Flatten", "Reshape", "Squeeze")
"""Operators that may do nothing but read an image as rows of features."""


def place(graph: Graph, accepts: Accepts, overrides: Mapping[str, str] | None = None) -> Graph:
    """Set `device` and `reason` of every node.

    `accepts(node, graph)` is None when VTA can run the node, otherwise the reason why not.
    `overrides` maps names of nodes, or of the ONNX nodes they came from, to "vta" or "host".
    Raises ModelError that lists every override that names no node or no device, or that asks
    VTA for a node it cannot run.
    """
    wishes = dict(overrides or {})
    problems = _unusable(graph, wishes)
    placed = []
    on_device: set[str] = set()  # values that VTA makes
    for node in graph.nodes:
        refusal = accepts(node, graph)
        wish = next((wishes[name] for name in (node.name, *node.origin) if name in wishes), None)
        if wish == "vta" and refusal:
            problems.append(f"node {node.name!r} cannot be placed on VTA: {refusal}")
        device, reason = "vta", _reason(node)
        if refusal:
            device, reason = "host", refusal
        elif wish == "host":
            device, reason = "host", "placed by an override"
        elif wish is None and node.op in LIGHT and not on_device.intersection(node.inputs):
            device, reason = "host", "too light to cross to VTA for: no operand is there"
        if device == "vta":
            on_device.update(node.outputs)
        placed.append(replace(node, device=device, reason=reason))
    if problems:
        raise ModelError(graph.name, problems)
    return _place_relabels(graph.rebuild(nodes=placed), wishes)


_TEMPLATES = {"FusedConv": "conv"}  # -> the name in schedules/ where it is another


def _reason(node: Node) -> str:
    """Why VTA can run a node."""
    if node.op == "GlobalMaxPool":
        return "as a max-pool"
    if node.op in FORMS:
        return "as a convolution"
    return f"{_TEMPLATES.get(node.op, node.op.lower())} template"


def _place_relabels(graph: Graph, wishes: Mapping[str, str]) -> Graph:
    """Put what flattens an image between layers on VTA there, unless an override says host."""
    producers, readers = graph.producers(), graph.consumers()
    placed = []
    for node in graph.nodes:
        if node.op in RELABELS and not any(one in wishes for one in (node.name, *node.origin)):
            before = producers.get(node.inputs[0])
            after = readers.get(node.outputs[0], ())
            on_device = [one for one in after if one.device == "vta" and one.op == "Dense"]
            between = before is not None and before.device == "vta" and len(on_device) == len(after)
            if between and after and _flattens(graph, node):
                node = replace(node, device="vta", reason="relabels memory")
        placed.append(node)
    return graph.rebuild(nodes=placed)


def _flattens(graph: Graph, node: Node) -> bool:
    """Whether `node` makes (N, C*H*W) of an image (N, C, H, W), and no output of the graph."""
    image, result = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    rows = (image[0], prod(image[1:]))
    return len(image) == 4 and result == rows and node.outputs[0] not in graph.outputs


def _unusable(graph: Graph, wishes: Mapping[str, str]) -> list[str]:
    """Problems with names and devices of overrides."""
    known = {name for node in graph.nodes for name in (node.name, *node.origin)}
    problems = [
        f"placement override names no node: {name!r} (nodes: {', '.join(sorted(known))})"
        for name in wishes
        if name not in known
    ]
    problems += [
        f"placement override of {name!r} asks for {device!r}, known are {', '.join(DEVICES)}"
        for name, device in wishes.items()
        if device not in DEVICES
    ]
    return problems
