"""The dataflow graph: immutable, always in topological order, always typed.

`Graph.build` is the only way to make one: it sorts, infers every type with the operators' own
rules and drops unused constants, so that a graph that exists is a graph that is valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from ..errors import ModelError
from ..ops import operator
from ..ops.types import Array, TensorType, type_of


@dataclass(frozen=True)
class Node:
    """One operator application.

    `origin` names the ONNX nodes it came from; `device` is "", "vta" or "host" and `reason`
    says why it was placed there.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    device: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order over named values.

    `types` holds the type of every value, constants included; `inputs` and `outputs` are names
    in the model's order. An absent optional input is the name "".
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, TensorType]

    @classmethod
    def build(
        cls,
        name: str,
        inputs: Mapping[str, TensorType],
        outputs: Iterable[str],
        nodes: Iterable[Node],
        constants: Mapping[str, Array],
    ) -> Graph:
        """Sort, type and prune; raises ModelError that lists every problem found."""
        outputs = tuple(outputs)
        ordered = _topological(name, tuple(nodes))
        used = {value for node in ordered for value in node.inputs} | set(outputs)
        kept = {key: array for key, array in constants.items() if key in used}
        types = dict(inputs)
        types.update({key: type_of(array) for key, array in kept.items()})
        made = (value for node in ordered for value in node.outputs)
        problems = [
            f"value {value!r} is given and also produced by a node"
            for value in made
            if value in types
        ]
        broken: set[str] = set()
        for node in ordered:
            if broken.intersection(node.inputs):
                broken.update(node.outputs)
                continue
            try:
                infer_node(node, types)
            except ValueError as error:
                problems.append(f"node {node.name!r} ({node.op}): {error}")
                broken.update(node.outputs)
        problems += [
            f"output {value!r} is produced by no node"
            for value in outputs
            if value not in types and value not in broken
        ]
        if problems:
            raise ModelError(name, problems)
        return cls(name, tuple(inputs), outputs, ordered, kept, types)

    def rebuild(
        self,
        nodes: Iterable[Node] | None = None,
        constants: Mapping[str, Array] | None = None,
        outputs: Iterable[str] | None = None,
        inputs: Mapping[str, TensorType] | None = None,
    ) -> Graph:
        """This graph with some parts replaced, sorted and typed anew."""
        return Graph.build(
            self.name,
            inputs if inputs is not None else {key: self.types[key] for key in self.inputs},
            outputs if outputs is not None else self.outputs,
            nodes if nodes is not None else self.nodes,
            constants if constants is not None else self.constants,
        )

    def rebatch(self, batch: int) -> Graph:
        """This graph for another batch size (axis 0 of every input)."""
        inputs = {
            key: replace(self.types[key], shape=(batch, *self.types[key].shape[1:]))
            for key in self.inputs
        }
        return self.rebuild(inputs=inputs)

    @property
    def batch(self) -> int:
        """Axis 0 of the first input."""
        return self.types[self.inputs[0]].shape[0]

    def producers(self) -> dict[str, Node]:
        """Value name -> the node that makes it (constants and inputs have none)."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """Value name -> the nodes that read it, in order; a graph output counts for none."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in readers.items()}

    def digraph(self) -> nx.DiGraph[str]:
        """Node names as a NetworkX graph, for questions about order and reachability."""
        result: nx.DiGraph[str] = nx.DiGraph()
        result.add_nodes_from(node.name for node in self.nodes)
        producers = self.producers()
        for node in self.nodes:
            for value in node.inputs:
                if value in producers:
                    result.add_edge(producers[value].name, node.name)
        return result


def infer_node(node: Node, types: dict[str, TensorType]) -> None:
    """Add the types of `node`'s outputs to `types`; ValueError says why that cannot be."""
    missing = [value for value in node.inputs if value and value not in types]
    if missing:
        raise ValueError(f"no such value {', '.join(map(repr, missing))}")
    absent = TensorType((), "absent")
    kinds = [types[value] if value else absent for value in node.inputs]
    meaning = operator(node.op)
    least, most = meaning.inputs
    if not least <= len(kinds) <= most:
        raise ValueError(f"{len(kinds)} inputs, takes {least} to {most}")
    types.update(zip(node.outputs, meaning.infer(kinds, node.attrs), strict=False))


def _topological(name: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Stable topological order; raises ModelError on double definitions and cycles."""
    problems: list[str] = []
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for value in node.outputs:
            if value in producer:
                problems.append(f"value {value!r} is produced twice")
            producer[value] = index
    names = Counter(node.name for node in nodes)
    problems += [f"two nodes are named {one!r}" for one, count in names.items() if count > 1]
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(nodes)))
    order.add_edges_from(
        (producer[value], index)
        for index, node in enumerate(nodes)
        for value in node.inputs
        if value in producer
    )
    if problems:
        raise ModelError(name, sorted(problems))
    try:
        ranks = list(nx.lexicographical_topological_sort(order))
    except nx.NetworkXUnfeasible:
        cycle = ", ".join(nodes[edge[0]].name for edge in nx.find_cycle(order))
        raise ModelError(name, [f"nodes form a cycle: {cycle}"]) from None
    return tuple(nodes[index] for index in ranks)
