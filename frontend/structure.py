"""The shape of an ONNX graph before any meaning: names, missing values, cycles, order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def is_text(message: Message) -> bool:
    """Whether all strings in a protobuf message are UTF-8; protobuf hands others out as bytes."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = [value] if isinstance(value, (str, bytes)) else value
            if any(isinstance(text, bytes) for text in texts):
                return False
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            parts = [value] if isinstance(value, Message) else value
            if not all(map(is_text, parts)):
                return False
    return True


def label(node: onnx.NodeProto, name: str) -> str:
    """A node as problems name it: name, operator and, unless it is ONNX's own, domain."""
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    kind = f"{domain}{node.op_type}"
    return f"node {name!r} ({kind if kind.isprintable() else repr(kind)})"


def node_names(nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    """A name for every node: its own, or Operator_index with underscores until it is free."""
    taken = {node.name for node in nodes}
    names = []
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        while not node.name and name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return tuple(names)


def naming_problems(graph: onnx.GraphProto) -> list[str]:
    """Values that are defined twice and nodes, inputs or outputs that share a name."""
    initialisers = [tensor.name for tensor in graph.initializer]
    initialisers += [sparse.values.name for sparse in graph.sparse_initializer]
    made = [value for node in graph.node for value in node.output if value]
    given = {*initialisers, *(info.name for info in graph.input)}
    problems = [
        f"value {value!r} is an input or initialiser and also made by a node"
        for value in dict.fromkeys(made)
        if value in given
    ]
    for what, names in (
        ("initialisers", initialisers),
        ("inputs", [info.name for info in graph.input]),
        ("outputs", [info.name for info in graph.output]),
        ("results of nodes", made),
        ("nodes", [node.name for node in graph.node if node.name]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        problems += [f"two {what} are named {name!r}" for name in twice]
    return problems


def order(
    nodes: Sequence[onnx.NodeProto], names: Sequence[str], given: Collection[str]
) -> tuple[list[int], list[str]]:
    """Indices of `nodes` in topological order, as near to the model's own as can be, and problems.

    `given` are inputs and initialisers. A value that nobody makes is a problem; so is a cycle,
    and its nodes and those behind them are left out of the order.
    """
    makers = {value: index for index, node in enumerate(nodes) for value in node.output if value}
    waits: list[set[int]] = []
    followers: dict[int, list[int]] = {}
    problems: list[str] = []
    for index, node in enumerate(nodes):
        waits.append({makers[value] for value in node.input if value in makers})
        for maker in waits[index]:
            followers.setdefault(maker, []).append(index)
        missing = [v for v in dict.fromkeys(node.input) if v and v not in makers and v not in given]
        problems += [
            f"{label(node, names[index])}: input {value!r} is made by no node and is no "
            "input or initialiser"
            for value in missing
        ]
    ready = [index for index, before in enumerate(waits) if not before]
    heapify(ready)
    ordered: list[int] = []
    while ready:
        index = heappop(ready)
        ordered.append(index)
        for after in followers.get(index, ()):
            waits[after].discard(index)
            if not waits[after]:
                heappush(ready, after)
    return ordered, problems + _cycle(waits, names)


def _cycle(waits: Sequence[set[int]], names: Sequence[str]) -> list[str]:
    """One cycle among the nodes that still wait for others."""
    stuck = next((index for index, before in enumerate(waits) if before), None)
    if stuck is None:
        return []
    path: dict[int, None] = {}
    while stuck not in path:
        path[stuck] = None
        stuck = min(waits[stuck])
    steps = list(path)
    cycle = [names[index] for index in reversed(steps[steps.index(stuck) :])]
    return ["nodes form a cycle: " + " -> ".join([cycle[-1], *cycle])]
