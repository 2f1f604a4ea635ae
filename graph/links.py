"""Links: layers whose result nothing but other layers read, so that its channels may be rewritten.

A channel of such a value may be scaled, or spread over several channels, when the weights of its
maker and of its readers are rewritten to match.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..ops.types import Array
from .edit import free_name
from .graph import Graph, Node
from .layers import LAYERS, device_layers, residual_of


@dataclass(frozen=True)
class Link:
    """A layer, the layers on VTA that alone read its result, and the values between them.

    The values are the layer's result and what max-pools make of it.
    """

    maker: Node
    readers: tuple[Node, ...]
    values: tuple[str, ...]


def links(graph: Graph) -> Iterator[Link]:
    """The links of a placed float graph, in order."""
    after = graph.consumers()
    for node in device_layers(graph):
        if residual_of(node):
            continue
        values, readers = [node.outputs[0]], []
        for value in values:  # grows on the way
            for one in after.get(value, ()):
                if one.op == "MaxPool" and one.device == "vta":
                    values.append(one.outputs[0])
                else:
                    readers.append((one, value))
        plain = all(
            one.op in LAYERS
            and one.device == "vta"
            and one.inputs[0] == value
            and one.inputs.count(value) == 1
            for one, value in readers
        )
        if readers and plain and not set(values) & set(graph.outputs):
            yield Link(node, tuple(one for one, _ in readers), tuple(values))


def groups(node: Node) -> int:
    """In how many groups of channels a layer works."""
    return int(node.attrs.get("group", 1))


@dataclass
class Rewrite:
    """A graph whose layers get weights of their own and perhaps other attributes."""

    graph: Graph
    constants: dict[str, Array] = field(init=False)
    attrs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node -> what changes
    _names: dict[tuple[str, int], str] = field(default_factory=dict)
    _taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self._taken = set(self.graph.types)

    def own(self, node: Node, position: int) -> str:
        """The name of the copy that `node` alone has of a constant input."""
        key = node.name, position
        if key not in self._names:
            name = free_name(f"{node.inputs[position]}.own", self._taken)
            self._taken.add(name)
            self._names[key] = name
            self.constants[name] = self.graph.constants[node.inputs[position]]
        return self._names[key]

    def result(self) -> Graph:
        """The graph with the copies and attributes in place."""
        nodes = [
            replace(
                node,
                inputs=tuple(
                    self._names.get((node.name, position), value)
                    for position, value in enumerate(node.inputs)
                ),
                attrs={**node.attrs, **self.attrs.get(node.name, {})},
            )
            for node in self.graph.nodes
        ]
        return self.graph.rebuild(nodes=nodes, constants=self.constants)
