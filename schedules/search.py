"""Choosing schedules: closed forms propose, the timeline of the real instructions decides.

A template's cost ranks its whole space in milliseconds but takes every tile as one from the
middle; the first few are assembled alone and timed exactly. What was decided is kept in a
`ScheduleLog`, plain text with one line a layer, so that a layer that was seen before costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import program, timing
from ..backend.commands import Buffer, Memory
from ..backend.isa import Isa
from ..backend.target import Target
from ..errors import ScheduleError
from ..ops import shortcut
from .conv_shape import is_uniform
from .emitter import Emitter
from .template import Layer, Template

SHORTLIST = 4
"""Schedules of a layer that are timed exactly by default, and twice as many with a shortcut."""


@dataclass(frozen=True)
class Entry:
    """A decision: the schedule's fields and its exact cycles."""

    schedule: Mapping[str, Any]
    cycles: int


@dataclass
class ScheduleLog:
    """Decisions by (target, layer). `fresh` are those made since it was loaded."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    fresh: dict[tuple[str, str], Entry] = field(default_factory=dict)

    def find(self, target: Target, layer: Layer) -> Entry | None:
        """The decision for a layer, or None."""
        return self.entries.get((target_key(target), layer_key(layer)))

    def add(self, target: Target, layer: Layer, entry: Entry) -> None:
        """Remember a decision."""
        key = (target_key(target), layer_key(layer))
        self.entries[key] = self.fresh[key] = entry

    def read(self, text: str) -> None:
        """Add the decisions of a log's text; lines that make no sense are passed over."""
        for line in text.splitlines():
            parts = line.split("\t")
            if len(parts) != 4 or line.startswith("#"):
                continue
            target, layer, cycles, schedule = parts
            try:
                fields = json.loads(schedule)
                entry = Entry(fields, int(cycles))
            except (ValueError, RecursionError):
                continue
            if isinstance(fields, dict):
                self.entries[target, layer] = entry


def lines(entries: Mapping[tuple[str, str], Entry]) -> Iterator[str]:
    """The log's text, one line a decision, in order."""
    for (target, layer), entry in sorted(entries.items()):
        fields = json.dumps(dict(entry.schedule), separators=(",", ":"))
        yield f"{target}\t{layer}\t{entry.cycles}\t{fields}"


def target_key(target: Target) -> str:
    """Ten digits that change with whatever of the target a schedule depends on."""
    relevant = {key: value for key, value in target.to_json().items() if key not in _IRRELEVANT}
    text = json.dumps(relevant, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


_IRRELEVANT = ("TARGET", "part", "registers", "clock_mhz", "dram_bytes")


_NO_MATTER = {
    *("scale", "layout", "in_layout", "epilogue"),
    *(shortcut.NAME, shortcut.ORIGIN, shortcut.SHIFT),
}


def layer_key(layer: Layer) -> str:
    """One line that says all of a layer that its schedule depends on: not its numbers."""
    node = layer.node
    parts = [node.op]
    for value in (*node.inputs, *node.outputs):
        kind = layer.types.get(value)
        if kind is not None:
            place = layer.places.get(value)
            whole = f"/{','.join(map(str, place.shape[1:]))}" if place else ""
            parts.append(f"{','.join(map(str, kind.shape))}{whole}:{kind.layout.order}")
    for key in sorted(set(node.attrs) - _NO_MATTER):
        parts.append(f"{key}={_plain(node.attrs[key])}")
    if node.attrs.get(shortcut.SHIFT):
        parts.append("shifted")
    if node.op == "VtaConv" and is_uniform(layer.constants[node.inputs[1]]):
        parts.append("uniform")
    steps = [step[0] for step in node.attrs.get("epilogue", ())]
    parts.append("+".join(steps))
    if steps[:1] == ["add"]:
        bias = layer.constants[node.inputs[node.attrs["epilogue"][0][1]]]
        # Whether a bias can be added by a GEMM depends on its size.
        parts.append(f"bias<2^{int(np.abs(bias.astype(np.int64)).max()).bit_length()}")
    return " ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


def choose(
    template: Template, layer: Layer, target: Target, log: ScheduleLog, shortlist: int = SHORTLIST
) -> Any | None:
    """The layer's schedule from the log, or the best of the first few when timed exactly.

    None if the template has no schedule that fits.
    """
    known = log.find(target, layer)
    if known is not None:
        try:
            return template.override(layer, target, known.schedule)
        except ScheduleError:
            pass  # written by another version of the template: decide anew
    most = shortlist * (2 if shortcut.inputs(layer.node.attrs) else 1)
    ranked = template.choices(layer, target)[:most]
    if not ranked:
        return None
    timed = [
        (measure(template, layer, schedule, target), index)
        for index, (_, schedule) in enumerate(ranked)
    ]
    cycles, best = min(timed)
    schedule = ranked[best][1]
    log.add(target, layer, Entry(schedule.to_json(), cycles))
    return schedule


def measure(template: Template, layer: Layer, schedule: Any, target: Target) -> int:
    """Cycles of a layer between neighbours that keep every module busy.

    Its first loads run under the layer before it and its last store under the one behind: what
    counts is the time from its first product to its last compute instruction, or the busiest
    module if that is more.
    """
    buffers: list[Buffer] = []
    for place in {one.buffer: one for one in layer.places.values()}.values():
        elements = place.layout.elements(place.shape)
        buffers.append(Buffer(place.buffer, Memory.OUT, elements, "activation"))
    out = Emitter(target, buffers.append)
    out.begin(layer.node.name, ("layer",))
    template.emit(layer, schedule, out)
    code = program.assemble(target, [out.commands], buffers, keep_intermediates=True)
    stream = Isa.of(target).decode_stream(code.launches[0].insns)
    timeline = timing.schedule(target, stream)
    busy = [
        int((timeline.end - timeline.start + 1)[timeline.module == module].sum())
        for module in (timing.LOAD, timing.COMPUTE, timing.STORE)
    ]
    compute = timeline.module == timing.COMPUTE
    waited = compute & ((stream.fields["pop_prev_dep"] == 1) | (stream.fields["pop_next_dep"] == 1))
    if not waited.any():
        return max(busy)
    return max(*busy, int(timeline.end[compute].max() - timeline.start[waited].min()))
