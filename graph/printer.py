"""A graph as stable text, one node a line, for people, golden files and stage dumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ops.types import bytes_of
from .graph import Graph, Node


def to_text(graph: Graph) -> str:
    """Inputs, constants, nodes in order and outputs, each with its type.

    A node line reads: name, operator, operands, attributes, results with types, then where it
    was placed and why, and the ONNX nodes it came from unless that is itself alone.
    """
    lines = [f"graph {_name(graph.name)}"]
    lines += [f"  input {_name(value)}: {graph.types[value]}" for value in graph.inputs]
    read = [value for node in graph.nodes for value in node.inputs]
    for value in dict.fromkeys((*read, *graph.outputs)):
        if value not in graph.constants:
            continue
        kind = graph.types[value]
        lines.append(f"  constant {_name(value)}: {kind} ({bytes_of(kind)} bytes)")
    lines += [f"  {_node(graph, node)}" for node in graph.nodes]
    lines += [f"  output {_name(value)}: {graph.types[value]}" for value in graph.outputs]
    return "\n".join(lines) + "\n"


def _node(graph: Graph, node: Node) -> str:
    operands = ", ".join(_name(value) for value in node.inputs)
    results = ", ".join(f"{_name(value)}: {graph.types[value]}" for value in node.outputs)
    line = f"{_name(node.name)} = {node.op}({operands}){_attributes(node.attrs)} -> {results}"
    if node.device or node.reason:
        line += f" @{node.device or 'nowhere'}"
    if node.reason:
        line += f" ({' '.join(node.reason.split())})"
    if node.origin not in ((), (node.name,)):
        line += f" from {', '.join(map(_name, node.origin))}"
    return line


def _attributes(attrs: Mapping[str, Any]) -> str:
    pairs = [f"{key}={_value(attrs[key])}" for key in sorted(attrs)]
    return f" {{{', '.join(pairs)}}}" if pairs else ""


def _value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_value, value)) + ")"
    if isinstance(value, np.generic):  # NumPy 2 would print np.float32(1.0), NumPy 1 prints 1.0
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"  # the last digits depend on the machine's arithmetic library
    return str(value) if not isinstance(value, str) else repr(value)


def _name(name: str) -> str:
    """A name as it is if that is unmistakable, quoted otherwise; absent values are a dash."""
    if not name:
        return "-"
    plain = name.isascii() and name.isprintable() and not set(name) & set(" ,:=(){}'\"@")
    return name if plain else repr(name)
