"""Places: in which DRAM buffer each device value lies, and where in it.

Most values have a buffer of their own. A Concat costs nothing where its inputs can be written
into its result at once: then they are channel ranges of the result's buffer. A Flatten is another
name for the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..graph.graph import Graph, Node
from ..ops.layout import Layout

WRITERS = ("VtaConv", "VtaMaxPool", "VtaConcat")
"""Operators whose templates can write a channel range of a larger tensor."""


@dataclass(frozen=True)
class Place:
    """A value as a channel range of the tensor of `shape` that `buffer` holds.

    `channel` is the first channel block.
    """

    buffer: str
    layout: Layout
    shape: tuple[int, ...]
    channel: int = 0

    @property
    def row_stride(self) -> int:
        """Elements from one batch tile to the next."""
        return self.layout.elements((1, *self.shape[1:]))

    @property
    def row_start(self) -> int:
        """First element of a value that is read as flat rows (channel blocks outermost)."""
        return self.channel * prod(self.shape[2:])


def find_places(graph: Graph, stages: Mapping[str, int], apart: bool) -> dict[str, Place]:
    """The place of every value that a device node reads or writes.

    `stages` gives the launch of each node. `apart` gives every value its own buffer.
    """
    device = [node for node in graph.nodes if node.device == "vta"]
    places: dict[str, Place] = {}
    # Results come before what they are made of, so that a nested Concat finds its place.
    for node in reversed(device):
        if node.op == "VtaConcat" and not apart:
            _place_inputs(graph, stages, node, places)
    for node in device:
        for value in (*node.inputs, *node.outputs):
            if value and value not in graph.constants and value not in places:
                kind = graph.types[value]
                places[value] = Place(value, kind.layout, kind.shape)
        if node.op == "VtaFlatten":
            places[node.outputs[0]] = places[node.inputs[0]]
    return places


def _place_inputs(
    graph: Graph, stages: Mapping[str, int], node: Node, places: dict[str, Place]
) -> None:
    """Put the inputs of a Concat into its result where they can be written at once."""
    result = node.outputs[0]
    whole = places.setdefault(
        result, Place(result, graph.types[result].layout, graph.types[result].shape)
    )
    channel = 0
    for value in node.inputs:
        kind = graph.types[value]
        if channel % kind.layout.block == 0 and _can_move(graph, stages, node, value, places):
            start = whole.channel + channel // kind.layout.block
            places[value] = Place(whole.buffer, whole.layout, whole.shape, start)
        channel += kind.shape[1]


def _can_move(
    graph: Graph, stages: Mapping[str, int], node: Node, value: str, places: Mapping[str, Place]
) -> bool:
    """Whether `value` may be a channel range of the result of the Concat `node`."""
    kind = graph.types[value]
    producer = graph.producers().get(value)
    # A ragged last block would be shared with the next input, and would be written twice.
    ragged = kind.shape[1] % kind.layout.block != 0 and value != node.inputs[-1]
    return (
        not ragged
        and value not in places
        and value not in graph.outputs
        and node.inputs.count(value) == 1
        and kind.layout == graph.types[node.outputs[0]].layout
        and producer is not None
        and producer.op in WRITERS
        and stages[producer.name] == stages[node.name]
        and all(
            reader.device == "vta" and reader.op != "VtaFlatten"
            for reader in graph.consumers()[value]
        )
    )
