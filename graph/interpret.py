"""Running a graph in NumPy: the definition that every later stage is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import FeedError
from ..ops import operator
from ..ops.types import Array
from .graph import Graph, Node

_ABSENT = np.empty(0)  # stands for an optional input that is not there


def interpret(
    graph: Graph, feeds: Mapping[str, Array], keep: Iterable[str] | None = None
) -> dict[str, Array]:
    """The graph's outputs, and the values named by `keep`, for the inputs in `feeds`.

    Arrays are in storage shape. Nodes run in order and a value is dropped after its last reader.
    Raises FeedError when `feeds` or `keep` do not fit the graph.
    """
    _check_feeds(graph, feeds)
    wanted = dict.fromkeys((*graph.outputs, *(keep or ())))
    unknown = [name for name in wanted if name not in graph.types]
    if unknown:
        raise FeedError(f"graph {graph.name!r} has no value {', '.join(map(repr, unknown))}")
    last_reader = {value: index for index, node in enumerate(graph.nodes) for value in node.inputs}
    values: dict[str, Array] = {**graph.constants, **feeds, "": _ABSENT}
    for index, node in enumerate(graph.nodes):
        values.update(_evaluate(graph, node, values))
        for value in (*node.inputs, *node.outputs):
            if value and last_reader.get(value, index) == index and value not in wanted:
                values.pop(value, None)
    return {name: values[name] for name in wanted}


def _evaluate(graph: Graph, node: Node, values: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of one node; an operator that breaks its own type rule is a bug."""
    results = operator(node.op).evaluate([values[name] for name in node.inputs], node.attrs)
    named = dict(zip(node.outputs, results, strict=True))
    for name, array in named.items():
        kind = graph.types[name]
        if array.shape != kind.storage_shape or str(array.dtype) != kind.dtype:
            raise RuntimeError(
                f"{node.op} {node.name!r} made {array.dtype}{array.shape} where {kind} is due"
            )
    return named


def _check_feeds(graph: Graph, feeds: Mapping[str, Array]) -> None:
    missing = [name for name in graph.inputs if name not in feeds]
    unknown = [name for name in feeds if name not in graph.inputs]
    if missing or unknown:
        raise FeedError(
            f"inputs {', '.join(map(repr, feeds)) or 'none'} given, "
            f"graph {graph.name!r} takes {', '.join(map(repr, graph.inputs))}"
        )
    for name, array in feeds.items():
        kind = graph.types[name]
        if array.shape != kind.storage_shape or str(array.dtype) != kind.dtype:
            given = f"{array.dtype}[{','.join(map(str, array.shape))}]"
            raise FeedError(f"input {name!r} is {given}, graph {graph.name!r} takes {kind}")
