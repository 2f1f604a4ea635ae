"""Bundling: everything that the compiler knows about a model becomes one artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .backend import timing
from .backend.artifact import Artifact
from .backend.dram import CONSTANTS_START, Region
from .backend.isa import Isa
from .backend.program import LaunchCode, Program
from .backend.target import Target
from .graph.graph import Graph, Node
from .ops import fused_pool, shortcut
from .ops.types import TensorType
from .runtime.attributes import encode_attrs, layout_to_json
from .schedules.model import LaunchStep, LayerPlan, Lowered

Json = dict[str, Any]

_CONVERSIONS = ("DequantizeLinear", "QuantizeLinear")


def bundle(
    source: Path,
    target: Target,
    preprocessing: Mapping[str, Any] | None,
    keep_intermediates: bool,
    imported: Graph,
    placed: Graph,
    integer: Graph,
    lowered: Lowered,
    assembled: Program,
) -> Artifact:
    """The artifact of a compiled model.

    `imported` has a node for every ONNX node, `placed` is the float graph that was quantised,
    `integer` what the artifact computes.
    """
    members: dict[str, bytes] = {"constants.bin": assembled.constants.tobytes()}
    names = _origin_table(assembled.launches)
    cycles = [layer_cycles(target, code) for code in assembled.launches]
    launches = []
    for index, code in enumerate(assembled.launches):
        members[f"launch{index}.insns"] = code.insns.tobytes()
        members[f"launch{index}.origins"] = np.array(
            [names[one] for one in zip(code.origins, code.roles, strict=True)], "<i4"
        ).tobytes()
        launches.append(
            {
                "member": f"launch{index}.insns",
                "origins_member": f"launch{index}.origins",
                "instructions": len(code.insns),
                "estimated_cycles": sum(cycles[index].values()),
            }
        )
    host_constants = _host_constants(integer, members)
    manifest = {
        "producer": f"vtaflow {__version__}",
        "model": {"name": source.stem, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        "target": target.to_json(),
        "fingerprint": target.fingerprint(),
        "profile": "portable",
        "batch": integer.batch,
        "inputs": [_tensor(integer, name) for name in integer.inputs],
        "outputs": [_tensor(integer, name) for name in integer.outputs],
        "preprocessing": preprocessing,
        "steps": [_step(step) for step in lowered.steps],
        "host_constants": host_constants,
        "launches": launches,
        "origins": [list(origin) for origin, _ in names],
        "roles": [role for _, role in names],
        "arena": {
            "bytes": assembled.arena.bytes,
            "keep_intermediates": keep_intermediates,
            "regions": [_region(one, integer) for one in assembled.arena.regions],
        },
        "constants": {"member": "constants.bin", "start": CONSTANTS_START},
        "layers": [_layer(plan, cycles[plan.launch]) for plan in lowered.layers],
        "placement": _placement(imported, placed, integer),
    }
    return Artifact.create(manifest, members, source.stem)


def layer_cycles(target: Target, code: LaunchCode) -> dict[tuple[str, ...], int]:
    """Estimated cycles of a launch by layer, (its name,), and by the origin of guests.

    A layer's time runs from the end of the last compute instruction of its predecessor to the
    end of its own, so that the times add up to the whole launch. Origins whose instructions all
    have a role are guests inside a layer: theirs is the time of their own instructions.
    """
    stream = Isa.of(target).decode_stream(code.insns)
    timeline = timing.schedule(target, stream)
    hosts = {origin for origin, role in zip(code.origins, code.roles, strict=True) if not role}
    ends: dict[tuple[str, ...], int] = {}
    guests: dict[tuple[str, ...], int] = {}
    before = hosted = 0
    for origin, layer, module, end in zip(
        code.origins, code.layers, timeline.module.tolist(), timeline.end.tolist(), strict=True
    ):
        if module != timing.COMPUTE or not origin:
            continue
        if origin in hosts:
            ends[layer,] = end + 1 - hosted  # on a clock that stops for guests
        else:
            guests[origin] = guests.get(origin, 0) + end + 1 - before
            hosted += end + 1 - before
        before = end + 1
    if not ends:
        return guests
    ends[list(ends)[-1]] = timeline.cycles - hosted
    cycles, previous = guests, 0
    for key, end in ends.items():
        cycles[key] = end - previous
        previous = end
    return cycles


def _origin_table(launches: Sequence[LaunchCode]) -> dict[tuple[tuple[str, ...], str], int]:
    """Every (origin, role) with its index."""
    pairs = dict.fromkeys(
        pair for code in launches for pair in zip(code.origins, code.roles, strict=True)
    )
    return {pair: index for index, pair in enumerate(pairs)}


def _host_constants(graph: Graph, members: dict[str, bytes]) -> Json:
    """Constants that host nodes read or the model returns; their bytes go to `members`."""
    used = dict.fromkeys(
        value
        for node in graph.nodes
        if node.device != "vta"
        for value in node.inputs
        if value in graph.constants
    )
    used |= dict.fromkeys(value for value in graph.outputs if value in graph.constants)
    result = {}
    for index, name in enumerate(used):
        array = graph.constants[name]
        member = f"host{index}.bin"
        members[member] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        result[name] = {"member": member, "shape": list(array.shape), "dtype": str(array.dtype)}
    return result


def _tensor(graph: Graph, name: str) -> Json:
    """An input or output of the model, with the scale at which the device sees it, if it does."""
    kind = graph.types[name]
    scales = [
        node.attrs["scale"]
        for node in graph.nodes
        if (node.op == "Quantize" and node.inputs[0] == name)
        or (node.op == "Dequantize" and node.outputs[0] == name)
    ]
    return {
        "name": name,
        "shape": list(kind.shape),
        "dtype": kind.dtype,
        "quantisation": {"scale": scales[0]} if scales else None,
    }


def _step(step: Node | LaunchStep) -> Json:
    if isinstance(step, LaunchStep):
        return {
            "kind": "launch",
            "index": step.index,
            "inputs": list(step.inputs),
            "outputs": list(step.outputs),
        }
    return {
        "kind": "host",
        "name": step.name,
        "op": step.op,
        "inputs": list(step.inputs),
        "outputs": list(step.outputs),
        "attrs": encode_attrs(step.attrs),
    }


def _region(region: Region, graph: Graph) -> Json:
    tensor: TensorType | None = graph.types.get(region.name)
    known = tensor is not None and region.kind != "constant"
    return {
        "name": region.name,
        "kind": region.kind,
        "memory": region.memory.name,
        "start": region.start,
        "bytes": region.bytes,
        "shape": list(tensor.storage_shape) if tensor and known else None,
        "logical_shape": list(tensor.shape) if tensor and known else None,
        "dtype": tensor.dtype if tensor and known else None,
        "layout": layout_to_json(tensor.layout) if tensor and known else None,
        "scale": tensor.scale if tensor and known else None,
    }


def _layer(plan: LayerPlan, cycles: Mapping[tuple[str, ...], int]) -> Json:
    return {
        "name": plan.name,
        "origin": list(plan.origin),
        "op": plan.op,
        "output": plan.output,
        "macs": plan.macs,
        "tiles": " ".join(f"{key}={value}" for key, value in plan.schedule.items()),
        "bytes": plan.bytes_loaded + plan.bytes_stored,
        "bytes_loaded": plan.bytes_loaded,
        "bytes_stored": plan.bytes_stored,
        "estimated_cycles": cycles.get((plan.name,), cycles.get(plan.origin, 0)),
        "launch": plan.launch,
        "template": plan.template,
        "schedule": dict(plan.schedule),
        "loop_nest": plan.text.splitlines(),
    }


def _placement(imported: Graph, placed: Graph, integer: Graph) -> list[Json]:
    """One row for every ONNX node: where it runs and why."""
    pieces: dict[str, list[Node]] = {}
    for node in placed.nodes:
        for name in node.origin or (node.name,):
            pieces.setdefault(name, []).append(node)
    guests = dict(_guests(integer))
    rows: dict[str, Json] = {}
    for node in imported.nodes:
        for name in node.origin or (node.name,):
            if name in rows and node.op in _CONVERSIONS:  # not what the ONNX node is about
                continue
            here = pieces.get(name, [])
            home = next((one for one in here if one.device == "vta"), here[-1] if here else None)
            if name in guests:
                device, reason = "vta", guests[name]
            elif home is None:
                device, reason = "none", "folded away at compile time"
            else:
                fused = home.origin and name != home.origin[0]
                device = home.device
                reason = f"fused into {home.origin[0]}" if fused else home.reason
                apart = [one.op for one in here if one.device != device]
                reason += f"; {', '.join(apart)} on the host" if apart else ""
            rows[name] = {"node": name, "op": node.op, "device": device, "reason": reason}
    return list(rows.values())


def _guests(integer: Graph) -> Iterator[tuple[str, str]]:
    """ONNX nodes that a convolution took in, each with what became of it."""
    kinds = ((shortcut.ORIGIN, "accumulated into"), (fused_pool.ORIGIN, "fused into"))
    for node in integer.nodes:
        for key, what in kinds:
            for name in node.attrs.get(key, ()):
                first = node.attrs[key][0]
                host = (node.origin or (node.name,))[0]
                yield name, f"{what} {host}" if name == first else f"fused into {first}"
