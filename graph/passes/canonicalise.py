"""Operators that say the same in different words get one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..edit import free_name
from ..graph import Graph, Node

_BOUNDS: Mapping[str, str] = {"Max": "min", "Min": "max"}


def canonicalise(graph: Graph) -> Graph:
    """Rewrite what later passes and templates know by another name.

    ReduceMean and ReduceMax over all spatial axes become global pools, and a Flatten where they
    drop the axes; Max and Min with a number become Clip.
    """
    nodes: list[Node] = []
    taken = {*graph.types, *(node.name for node in graph.nodes)}
    for node in graph.nodes:
        if node.op in ("ReduceMean", "ReduceMax") and _is_global(graph, node):
            nodes += _global_pool(node, taken)
        elif node.op in _BOUNDS:
            nodes.append(_bounded(graph, node))
        else:
            nodes.append(node)
    return graph.rebuild(nodes=nodes)


def _is_global(graph: Graph, node: Node) -> bool:
    """Whether a reduction is over all spatial axes of an image or a sequence of features."""
    rank = len(graph.types[node.inputs[0]].shape)
    return rank in (3, 4) and sorted(node.attrs["axes"]) == list(range(2, rank))


def _global_pool(node: Node, taken: set[str]) -> list[Node]:
    op = "GlobalAveragePool" if node.op == "ReduceMean" else "GlobalMaxPool"
    if node.attrs["keepdims"]:
        return [replace(node, op=op, attrs={})]
    value, name = (free_name(f"{one}.pooled", taken) for one in (node.outputs[0], node.name))
    taken.update((value, name))
    pool = replace(node, name=name, op=op, outputs=(value,), attrs={})
    return [pool, replace(node, op="Flatten", inputs=(value,), attrs={"axis": 1})]


def _bounded(graph: Graph, node: Node) -> Node:
    """Max or Min of one activation and one number as a Clip, otherwise `node` itself."""
    numbers = [name for name in node.inputs if name in graph.constants]
    others = [name for name in node.inputs if name not in graph.constants]
    kind = graph.types[node.outputs[0]]
    if len(numbers) != 1 or len(others) != 1 or graph.types[others[0]] != kind:
        return node
    array = graph.constants[numbers[0]]
    if array.size != 1 or kind.dtype != "float32":
        return node
    attrs: dict[str, Any] = {"min": None, "max": None}
    attrs[_BOUNDS[node.op]] = float(array.reshape(())[()])
    return replace(node, op="Clip", inputs=(others[0],), attrs=attrs)
