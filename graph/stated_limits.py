"""Limits that follow from those which a quantised model states, for values that it does not have.

A device form makes values on the way to a node's result. Where there is no data to calibrate them,
the limits of what they are made of bound them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .graph import Graph, Node


def follow(graph: Graph, stated: Mapping[str, float]) -> dict[str, float]:
    """`stated` limits by value, and what follows from them for depthwise layers, pools, constants.

    Layers that sum over channels are left out: their bound says little.
    """
    limits = dict(stated)
    for node in graph.nodes if stated else ():
        limit = _limit(graph, node, limits)
        if limit is not None:
            limits.setdefault(node.outputs[0], limit)
    return limits


def _limit(graph: Graph, node: Node, limits: Mapping[str, float]) -> float | None:
    """The largest magnitude of the node's result, or None if nothing is known of it."""
    if node.op == "PerSample":
        return float(np.abs(graph.constants[node.inputs[1]]).max())
    if node.op == "MaxPool":
        return limits.get(node.inputs[0])
    if node.op != "FusedConv":
        return None
    weight, bias = (graph.constants.get(name) for name in node.inputs[1:3])
    operands = [limits.get(name) for name in (node.inputs[0], *node.inputs[3:])]
    if weight is None or bias is None or weight.shape[1] != 1 or None in operands:
        return None
    x, *added = (limit for limit in operands if limit is not None)
    most = float((np.abs(weight).sum(axis=(1, 2, 3)) * x + np.abs(bias)).max()) + sum(added)
    ends = [abs(node.attrs[key]) for key in ("min", "max") if node.attrs.get(key) is not None]
    return min(most, max(ends)) if len(ends) == 2 else most
