"""One ONNX node as several of ours: the parts, named after the node they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..graph.edit import free_name
from ..graph.graph import Node
from ..ops.types import Array
from .call import Call


@dataclass
class Expansion:
    """The nodes and constants that stand for the ONNX node `name` with the value `result`.

    `taken` holds all names of the model, and grows.
    """

    name: str
    result: str
    taken: set[str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def constant(self, what: str, array: Array) -> str:
        """A new constant."""
        name = self._fresh(what)
        self.constants[name] = array
        return name

    def part(self, what: str, op: str, *inputs: str, **attrs: Any) -> str:
        """A node with a new value, which is returned."""
        name = self._fresh(what)
        self.nodes.append(Node(name, op, inputs, (name,), attrs, (self.name,)))
        return name

    def last(self, op: str, *inputs: str, **attrs: Any) -> None:
        """The node that makes the result."""
        self.nodes.append(Node(self.name, op, inputs, (self.result,), attrs, (self.name,)))

    def _fresh(self, what: str) -> str:
        name = free_name(f"{self.name}.{what}", self.taken)
        self.taken.add(name)
        return name


Expander = Callable[[Call, Expansion], None]
"""Adds what a call stands for; raises as a Converter does."""
