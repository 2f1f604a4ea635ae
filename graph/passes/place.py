"""Placement: which nodes run on VTA and which on the host, each with its reason.

Legality decides: a node runs on VTA when the caller's `accepts` has no objection. The user may
send a node to the host by name; VTA never runs what it was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...errors import ModelError
from ..graph import Graph, Node

Accepts = Callable[[Node, Graph], str | None]

DEVICES = ("vta", "host")


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
    for node in graph.nodes:
        refusal = accepts(node, graph)
        wish = next((wishes[name] for name in (node.name, *node.origin) if name in wishes), None)
        if wish == "vta" and refusal:
            problems.append(f"node {node.name!r} cannot be placed on VTA: {refusal}")
        if refusal:
            placed.append(replace(node, device="host", reason=refusal))
        elif wish == "host":
            placed.append(replace(node, device="host", reason="placed by an override"))
        else:
            placed.append(replace(node, device="vta", reason=f"{node.op.lower()} template"))
    if problems:
        raise ModelError(graph.name, problems)
    return graph.rebuild(nodes=placed)


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
