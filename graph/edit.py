"""Small edits that several passes make: prune what nobody reads, find a name that is free."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .graph import Node


def live_nodes(nodes: Sequence[Node], outputs: Iterable[str]) -> tuple[Node, ...]:
    """Those of `nodes` (in topological order) that some output depends on."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return tuple(reversed(kept))


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, with a number behind it if it is `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name
