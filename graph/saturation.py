"""Saturation: values whose size does not matter beyond some bound, for what reads them."""

from __future__ import annotations

from .graph import Graph, Node
from .layers import MOVES

BOUNDS = {"Sigmoid": 8.0, "Tanh": 4.5}
"""Operators that squash -> where they are within 0.0004 of their limits."""


def saturating(graph: Graph) -> dict[str, float]:
    """Values that only operators of BOUNDS read, perhaps moved first -> the widest bound."""
    after = graph.consumers()
    found: dict[str, float] = {}
    for node in reversed(graph.nodes):
        for value in node.outputs:
            bounds = [_bound(reader, found) for reader in after.get(value, ())]
            if bounds and value not in graph.outputs and None not in bounds:
                found[value] = max(bound for bound in bounds if bound is not None)
    return found


def _bound(reader: Node, found: dict[str, float]) -> float | None:
    if reader.op in MOVES:
        return found.get(reader.outputs[0])
    return BOUNDS.get(reader.op)
