"""Packing: values on VTA get its tiled layout, weights too; the host keeps plain ones.

Pack and Unpack nodes stand where a value crosses between host and device. A plain integer value
keeps its name; its packed form is `<name>.packed`. The result is made for one batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...ops.layout import Layout
from ...ops.types import Array
from ...ops.vta_dense import weight_layout
from ...ops.vta_flatten import storage_order
from ..edit import free_name
from ..graph import Graph, Node

ORDERS = ("NCHW", "NHCW", "NHWC")
"""Orders of the outer axes that a packed image may have, slowest first."""


def pack(
    graph: Graph, batch: int, block: int, orders: Mapping[str, str] | None = None
) -> Graph:
    """The quantised graph with every device value in tiles of `batch` x `block`.

    `orders` gives images one of ORDERS, the first where it does not name them. The inputs and the
    output of a Concat need the same, and so do a residual and the result it is added to.
    """
    work = _Packer(graph, batch, block, orders or {})
    for node in graph.nodes:
        if node.device == "vta":
            work.device(node)
        else:
            work.host(node)
    for value in graph.outputs:
        work.as_plain(value)
    return graph.rebuild(nodes=work.nodes, constants=work.constants)


@dataclass
class _Packer:
    """The new graph while it grows, node by node in topological order."""

    graph: Graph
    batch: int
    block: int
    orders: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(init=False)
    packed: dict[str, str] = field(default_factory=dict)  # plain value -> its packed form
    images: dict[str, str] = field(default_factory=dict)  # flattened value -> the image it was
    plain: set[str] = field(init=False)  # values that exist unpacked
    taken: set[str] = field(init=False)  # names of values and nodes

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self.plain = {*self.graph.inputs, *self.graph.constants, ""}
        self.taken = {*self.graph.types, *(node.name for node in self.graph.nodes)}

    def host(self, node: Node) -> None:
        for value in node.inputs:
            self.as_plain(value)
        self.nodes.append(node)
        self.plain.update(node.outputs)

    def device(self, node: Node) -> None:
        """Emit a device node on packed values."""
        source, result = node.inputs[0], node.outputs[0]
        attrs = {**node.attrs, "layout": self.layout(result)}
        if "in_layout" in attrs:
            attrs["in_layout"] = self.layout(source)
        node = replace(node, attrs=attrs)
        if node.op in PACK:
            node = PACK[node.op](self, node)
        inputs = [
            value if value in self.constants else self.as_packed(value) for value in node.inputs
        ]
        outputs = [self._fresh(f"{value}.packed") for value in node.outputs]
        self.packed.update(zip(node.outputs, outputs, strict=True))
        self.nodes.append(replace(node, inputs=tuple(inputs), outputs=tuple(outputs)))

    def layout(self, value: str) -> Layout:
        """The layout of `value` on the device."""
        if len(self.graph.types[value].shape) == 2:
            return Layout("NC", self.batch, self.block)
        return Layout(self.orders.get(value, ORDERS[0]), self.batch, self.block)

    def as_packed(self, value: str) -> str:
        """The name of `value`'s packed form, which is made where it is missing."""
        if value not in self.packed:
            self.packed[value] = self._fresh(f"{value}.packed")
            self._cross("Pack", value, value, self.packed[value])
        return self.packed[value]

    def as_plain(self, value: str) -> None:
        """Make sure that `value` exists unpacked."""
        if value not in self.plain:
            self._cross("Unpack", value, self.packed[value], value)
            self.plain.add(value)

    def constant(self, name: str, array: Array) -> str:
        """A new constant, named like `name` if that is free."""
        name = self._fresh(name)
        self.constants[name] = array
        return name

    def _cross(self, op: str, value: str, source: str, result: str) -> None:
        attrs = {"layout": self.layout(value), "shape": self.graph.types[value].shape}
        name = self._fresh(f"{value}.{op.lower()}")
        reason = "converts between host and VTA"
        self.nodes.append(Node(name, op, (source,), (result,), attrs, (), "host", reason))

    def _fresh(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name


def _flatten(work: _Packer, node: Node) -> Node:
    """Nothing moves; the layer that reads the features has to know in which order they lie."""
    work.images[node.outputs[0]] = node.inputs[0]
    return node


def _dense(work: _Packer, node: Node) -> Node:
    """(O, I) -> (O/BLOCK, I/BLOCK, BLOCK, BLOCK); `features` keeps what the padding hides."""
    weight = work.graph.constants[node.inputs[1]]
    image = work.images.get(node.inputs[0])
    if image is not None:
        weight = _in_storage_order(weight, work.graph.types[image].shape, work.layout(image))
    layout = weight_layout(node.attrs["layout"])
    tiles = work.constant(f"{node.inputs[1]}.packed", layout.pack(weight))
    attrs = {**node.attrs, "features": weight.shape}
    return replace(node, inputs=(node.inputs[0], tiles, *node.inputs[2:]), attrs=attrs)


def _in_storage_order(weight: Array, image: tuple[int, ...], layout: Layout) -> Array:
    """Columns (O, C*H*W) in the order in which a packed image stores them, 0 for its padding."""
    if image[2:] == (1, 1):
        return weight
    places = storage_order(image, layout)
    columns = weight[:, np.maximum(places, 0)]
    return np.where(places >= 0, columns, columns.dtype.type(0))


PACK: dict[str, Callable[[_Packer, Node], Node]] = {"VtaDense": _dense, "VtaFlatten": _flatten}
"""What packing changes of a device node beside its layouts."""
