"""Sequences become images of height 1, so that only two-dimensional layers are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...ops.types import Array
from ..edit import free_name
from ..graph import Graph, Node

_NEUTRAL: Mapping[str, int] = {
    "kernel_shape": 1,
    "strides": 1,
    "dilations": 1,
    "output_padding": 0,
}
_WINDOWS = ("AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_FOLLOWERS = (
    "Add",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Div",
    "Dropout",
    "Elu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mul",
    "PRelu",
    "Relu",
    "Sigmoid",
    "Sub",
    "Tanh",
)
"""Operators that work on an image as on a sequence; they are lifted behind windows alone."""


def lift_sequences(graph: Graph) -> Graph:
    """Give [N,C,L] convolutions and pools, and what follows them, an axis of height 1.

    Unsqueeze and Squeeze nodes stand where a lifted value meets one that is not.
    """
    work = _Lifter(graph)
    for node in graph.nodes:
        work.visit(node)
    for value in graph.outputs:
        work.as_sequence(value)
    return graph.rebuild(nodes=work.nodes, constants=work.constants)


@dataclass
class _Lifter:
    """The new graph while it grows, node by node in topological order."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(init=False)
    images: dict[str, str] = field(default_factory=dict)  # sequence -> its image
    lifted: set[str] = field(default_factory=set)  # sequences that lifted nodes make
    lowered: set[str] = field(default_factory=set)  # those among them that exist as they were
    taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self.taken = {*self.graph.types, *(node.name for node in self.graph.nodes)}

    def visit(self, node: Node) -> None:
        if self._lifts(node):
            inputs = tuple(self._operand(node, place) for place in range(len(node.inputs)))
            image = self._fresh(f"{node.outputs[0]}.image")
            self.images[node.outputs[0]] = image
            self.lifted.add(node.outputs[0])
            self.nodes.append(replace(node, inputs=inputs, outputs=(image,), attrs=_wide(node)))
            return
        for value in node.inputs:
            self.as_sequence(value)
        self.nodes.append(node)

    def as_sequence(self, value: str) -> None:
        """Make sure that `value` exists as a sequence."""
        if value in self.lifted - self.lowered:
            self._convert("Squeeze", self.images[value], value)
            self.lowered.add(value)

    def _lifts(self, node: Node) -> bool:
        kinds = self.graph.types
        data = [name for name in node.inputs if name not in self.graph.constants]
        if not data or not all(len(kinds[name].shape) == 3 for name in (*data, *node.outputs)):
            return False
        if node.op in _WINDOWS:
            return data == [node.inputs[0]]
        return node.op in _FOLLOWERS and any(name in self.lifted for name in data)

    def _operand(self, node: Node, place: int) -> str:
        """An operand as it stands beside images."""
        name = node.inputs[place]
        if name not in self.constants:
            return self._image(name)
        array = self.constants[name]
        if array.ndim < 2:  # along the channels, or the last axis
            return name
        wide = self._fresh(f"{name}.image")
        self.constants[wide] = array.reshape(*array.shape[:-1], 1, array.shape[-1])
        return wide

    def _image(self, value: str) -> str:
        if value not in self.images:
            self.images[value] = self._fresh(f"{value}.image")
            self._convert("Unsqueeze", value, self.images[value])
        return self.images[value]

    def _convert(self, op: str, source: str, result: str) -> None:
        name = self._fresh(f"{result}.{op.lower()}")
        self.nodes.append(Node(name, op, (source,), (result,), {"axes": (2,)}))

    def _fresh(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name


def _wide(node: Node) -> dict[str, Any]:
    """Attributes for an image: a neutral entry for the height in front."""
    attrs = dict(node.attrs)
    for name, neutral in _NEUTRAL.items():
        if name in attrs:
            attrs[name] = (neutral, *attrs[name])
    if "pads" in attrs:
        begin, end = attrs["pads"]
        attrs["pads"] = (0, begin, 0, end)
    if node.op == "Concat" and attrs["axis"] == 2:
        attrs["axis"] = 3
    return attrs
