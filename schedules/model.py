"""The whole model: turns a placed, packed graph into ONE command list per launch.

Device nodes that no host node separates share a launch. The module owns the order of layers, the
named DRAM buffers between them and the host's steps around the launches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from ..backend.commands import Buffer, Command, Load, Memory, Store
from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops import fused_pool, shortcut
from ..ops.convolution import output_shape
from ..ops.taps import windows
from . import conv_pool, conv_shortcut
from .emitter import Emitter
from .places import Place, find_places
from .search import ScheduleLog, choose, layer_key
from .template import Layer, Template
from .trials import no_tile, templates_of


@dataclass(frozen=True)
class LayerPlan:
    """What was decided for one device node, or for what one took in.

    `output` is the value that it makes, or helps to make.
    """

    name: str
    origin: tuple[str, ...]
    op: str
    output: str
    template: str
    launch: int
    schedule: Mapping[str, Any]
    text: str
    macs: int
    bytes_loaded: int
    bytes_stored: int
    """None for a schedule that was forced and that the template would not consider."""


@dataclass(frozen=True)
class LaunchStep:
    """A launch among the steps: the values that the host writes before and reads after it."""

    index: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Lowered:
    """The model as commands: `steps` are host nodes and launches in order of execution."""

    launches: tuple[tuple[Command, ...], ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Node | LaunchStep, ...]
    layers: tuple[LayerPlan, ...]


@dataclass
class _Parts:
    """What grows while the layers are emitted."""

    emitters: list[Emitter]
    places: Mapping[str, Place]
    log: ScheduleLog
    buffers: list[Buffer] = field(default_factory=list)
    layers: list[LayerPlan] = field(default_factory=list)

    def add_buffer(self, buffer: Buffer) -> None:
        """Add a constant buffer; one that launches share comes once."""
        if all(one.name != buffer.name for one in self.buffers):
            self.buffers.append(buffer)


def lower(
    graph: Graph,
    target: Target,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    apart: bool = False,
    log: ScheduleLog | None = None,
) -> Lowered:
    """Choose a schedule for every device node and emit its commands.

    `overrides` maps a node's name (or that of an ONNX node it came from) to schedule fields;
    `apart` gives every value a buffer of its own, so that each can be read back; `log` holds
    earlier decisions and takes new ones.
    Raises ScheduleError for an unknown name or an infeasible choice.
    """
    overrides = dict(overrides or {})
    stages = launch_stages(graph)
    device = [node for node in graph.nodes if node.device == "vta"]
    places = find_places(graph, stages, apart)
    parts = _Parts([], places, log if log is not None else ScheduleLog())
    for _ in range(1 + max((stages[node.name] for node in device), default=-1)):
        parts.emitters.append(Emitter(target, parts.add_buffer))
    parts.buffers += _value_buffers(graph, device, places)
    known = {alias for node in device for alias in (node.name, *node.origin)}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ScheduleError(
            f"no VTA layer is named {', '.join(map(repr, unknown))}; "
            f"layers: {', '.join(node.name for node in device)}"
        )
    for node in device:
        if node.op == "VtaFlatten":
            continue  # another name for the same memory
        wanted = {
            key: value
            for alias in (*node.origin, node.name)
            for key, value in overrides.get(alias, {}).items()
        }
        _emit_layer(graph, node, target, wanted, parts, stages[node.name])
    return Lowered(
        tuple(tuple(one.commands) for one in parts.emitters),
        tuple(parts.buffers),
        _steps(graph, stages, len(parts.emitters)),
        tuple(parts.layers),
    )


def distinct_layers(graph: Graph, apart: bool = False) -> dict[str, list[Layer]]:
    """The device layers of a packed graph by layer_key: those of a list have one schedule.

    `apart` as for `lower`.
    """
    places = find_places(graph, launch_stages(graph), apart)
    found: dict[str, list[Layer]] = {}
    for node in graph.nodes:
        if node.device == "vta" and node.op != "VtaFlatten":
            layer = Layer.of(graph, node, places)
            found.setdefault(layer_key(layer), []).append(layer)
    return found


def launch_stages(graph: Graph) -> dict[str, int]:
    """Node name -> launch of a device node, or the launch that a host node must precede."""
    producers = graph.producers()
    stages: dict[str, int] = {}
    for node in graph.nodes:
        stage = 0
        for value in node.inputs:
            if value in producers:
                before = producers[value]
                crosses = before.device == "vta" and node.device != "vta"
                stage = max(stage, stages[before.name] + crosses)
        stages[node.name] = stage
    return stages


def _value_buffers(
    graph: Graph, device: list[Node], places: Mapping[str, Place]
) -> list[Buffer]:
    """A buffer for every value with a place of its own.

    The host reads and writes whole buffers: a value that it shares has one.
    """
    producers, consumers = graph.producers(), graph.consumers()
    buffers = []
    for value, place in places.items():
        if place.buffer != value:
            continue
        made_here = value in producers and producers[value].device == "vta"
        read_by_host = any(node.device != "vta" for node in consumers.get(value, ()))
        kind = "activation"
        if not made_here:
            kind = "input"
        elif read_by_host or value in graph.outputs:
            kind = "output"
        of_value = graph.types[value]
        memory = Memory.INP if kind == "input" else Memory.OUT
        buffers.append(Buffer(value, memory, of_value.layout.elements(of_value.shape), kind))
    return buffers


def _emit_layer(
    graph: Graph,
    node: Node,
    target: Target,
    wanted: Mapping[str, Any],
    parts: _Parts,
    launch: int,
) -> None:
    layer = Layer.of(graph, node, parts.places)
    template, schedule = _choose(layer, target, wanted, parts.log)
    out = parts.emitters[launch]
    before = len(out.commands)
    out.begin(node.name, node.origin)
    template.emit(layer, schedule, out)
    mine = out.commands[before:]
    plan = LayerPlan(
        name=node.name,
        origin=node.origin,
        op=node.op,
        output=node.outputs[0],
        template=template.name,
        launch=launch,
        schedule=schedule.to_json(),
        text=template.describe(layer, schedule, target),
        macs=_macs(layer),
        bytes_loaded=0,
        bytes_stored=0,
    )
    guests = _guests(layer, plan)
    own = [one for one in mine if one.role not in guests]
    parts.layers.append(_with_bytes(plan, own, target))
    for role, guest in guests.items():
        theirs = [one for one in mine if one.role == role]
        parts.layers.append(_with_bytes(guest, theirs, target))


def _guests(layer: Layer, plan: LayerPlan) -> dict[str, LayerPlan]:
    """What a layer took in, as plans that are parts of `plan`, by the role of their commands."""
    attrs = layer.node.attrs
    found = {}
    if shortcut.inputs(attrs):
        depth = layer.constants[layer.node.inputs[-1]].shape[1]
        found[conv_shortcut.ROLE] = replace(
            plan,
            name=attrs[shortcut.NAME],
            origin=tuple(attrs[shortcut.ORIGIN]),
            schedule={},
            text=f"accumulated into {layer.node.name}",
            macs=prod(layer.types[layer.node.outputs[0]].shape) * depth,
        )
    if fused_pool.windows(attrs) is not None:
        found[conv_pool.ROLE] = replace(
            plan,
            name=attrs[fused_pool.NAME],
            origin=tuple(attrs[fused_pool.ORIGIN]),
            schedule={},
            text=f"fused into {layer.node.name}",
            macs=0,
        )
    return found


def _with_bytes(plan: LayerPlan, commands: Sequence[Command], target: Target) -> LayerPlan:
    """A plan with what its commands move."""
    moved = {
        kind: sum(
            one.rows * one.size * target.element_bytes(getattr(one, "memory", Memory.OUT))
            for one in commands
            if isinstance(one, kind)
        )
        for kind in (Load, Store)
    }
    return replace(plan, bytes_loaded=moved[Load], bytes_stored=moved[Store])


def _choose(
    layer: Layer, target: Target, wanted: Mapping[str, Any], log: ScheduleLog
) -> tuple[Template, Any]:
    """The template and the fastest schedule, or the one that `wanted` describes."""
    for template in templates_of(layer):
        if wanted:
            return template, template.override(layer, target, wanted)
        chosen = choose(template, layer, target, log)
        if chosen is not None:
            return template, chosen
    raise no_tile(layer)


def _macs(layer: Layer) -> int:
    """Multiply-accumulates of the layer as the model states it, lanes of padding not counted."""
    result = layer.types[layer.node.outputs[0]].shape
    if layer.node.op == "VtaDense":
        return prod(result) * int(layer.node.attrs["features"][1])
    if layer.node.op == "VtaConv":
        x, weight = (layer.types[name].shape for name in layer.node.inputs[:2])
        along = windows(layer.node.attrs, weight[2:])
        sums = output_shape(x, weight[0], along)
        return prod(sums) * weight[1] * prod(window.kernel for window in along)
    return 0


def _steps(
    graph: Graph, stages: Mapping[str, int], launches: int
) -> tuple[Node | LaunchStep, ...]:
    """Host nodes and launches in an order that respects every dependence."""
    steps: list[Node | LaunchStep] = []
    producers, consumers = graph.producers(), graph.consumers()
    for index in range(launches + 1):
        steps += [
            node for node in graph.nodes if node.device != "vta" and stages[node.name] == index
        ]
        if index == launches:
            break
        mine = [
            node for node in graph.nodes if node.device == "vta" and stages[node.name] == index
        ]
        reads = dict.fromkeys(
            value
            for node in mine
            for value in node.inputs
            if value and value not in graph.constants
            and (value not in producers or producers[value].device != "vta")
        )
        writes = [
            value
            for node in mine
            for value in node.outputs
            if value in graph.outputs
            or any(reader.device != "vta" for reader in consumers.get(value, ()))
        ]
        steps.append(LaunchStep(index, tuple(reads), tuple(writes)))
    return tuple(steps)
