"""What a schedule template is: rules of legality, a space of choices, a cost, a lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..backend.target import Target
from ..graph.graph import Graph, Node
from ..ops.types import Array, TensorType
from .emitter import Emitter
from .places import Place


@dataclass(frozen=True)
class Layer:
    """One device node with everything a template may look at.

    `constants` holds the arrays of constant inputs in storage layout; `types` the types of all
    inputs and outputs; `places` says where activations lie.
    """

    node: Node
    types: Mapping[str, TensorType]
    constants: Mapping[str, Array]
    places: Mapping[str, Place]

    @classmethod
    def of(cls, graph: Graph, node: Node, places: Mapping[str, Place]) -> Layer:
        names = (*node.inputs, *node.outputs)
        return cls(
            node,
            {name: graph.types[name] for name in names if name},
            {name: graph.constants[name] for name in names if name in graph.constants},
            {name: places[name] for name in names if name in places},
        )


@dataclass(frozen=True)
class Cost:
    """Busy cycles of each module, and of all with what cannot overlap."""

    load: int
    compute: int
    store: int
    total: int


class Schedule(Protocol):
    """One point of a template's space: a frozen dataclass of plain numbers and words."""

    def to_json(self) -> dict[str, Any]: ...


class Template(Protocol):
    """A way to run one family of nodes on VTA."""

    name: str
    float_op: str
    """The float operator that placement asks about."""
    device_op: str
    """The integer operator that it lowers."""
    onnx_operators: tuple[str, ...]
    """The ONNX operators that end up in it, for the supported-operator page."""

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """None if the float node can run on `target`, else the reason why not."""

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, Any]]:
        """Every feasible schedule with its cost, best first."""

    def override(self, layer: Layer, target: Target, values: Mapping[str, Any]) -> Any:
        """The schedule that `values` name; raises ScheduleError if it is infeasible."""

    def emit(self, layer: Layer, schedule: Any, out: Emitter) -> None:
        """Write the layer's commands."""

    def describe(self, layer: Layer, schedule: Any, target: Target) -> str:
        """The blocked loop nest as pseudo-code."""
