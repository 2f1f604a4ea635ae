"""Fold constants: what can be computed now is computed now."""

from __future__ import annotations

from ...errors import ModelError
from ..edit import live_nodes
from ..graph import Graph, Node
from ..known import constants_known, derive


def fold_constants(graph: Graph, limit: int = 2**28) -> Graph:
    """Replace nodes whose result is known by constants and drop nodes that nobody needs.

    Shape arithmetic is known too. A result that depends on the batch stays a node, so that the
    graph can still be rebatched; one larger than `limit` bytes stays as well.
    """
    constants = dict(graph.constants)
    known = constants_known(constants)
    kept: list[Node] = []
    for node in graph.nodes:
        try:
            found = derive(node, graph.types, known, limit)
        except ValueError as error:
            problem = f"node {node.name!r} ({node.op}): {error}"
            raise ModelError(graph.name, [problem]) from None
        known.update(found)
        if found and all(each.fixed for each in found.values()):
            constants.update({name: each.value for name, each in found.items()})
        else:
            kept.append(node)
    return graph.rebuild(nodes=live_nodes(kept, graph.outputs), constants=constants)
