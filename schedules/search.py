"""Choosing schedules: closed forms propose, the timeline of the real instructions decides.

A template's cost ranks its whole space in milliseconds but takes every tile as one from the
middle; the first few are assembled alone and timed exactly. What was decided is kept in a
`ScheduleLog`, plain text with one line a layer, so that a layer that was seen before costs nothing.
A decision is used only if the template finds it legal for the layer at hand, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..backend import program, timing
from ..backend.commands import Buffer, Memory
from ..backend.isa import Isa
from ..backend.target import Target
from ..errors import ScheduleError
from ..ops import fused_pool, shortcut
from .bias import fits_gemm
from .conv_shape import is_uniform
from .emitter import Emitter
from .template import Layer, Template

SHORTLIST = 4
"""Schedules that are timed exactly by default, and twice as many of a layer with a shortcut."""

VERSION = 3
"""Of what the decisions rest on. Raise it when a template emits other instructions for a schedule
or the timeline counts otherwise: older decisions are then made anew (tests/test_shipped_log.py
notices when it was forgotten). Fields of a schedule may come and go without."""


@dataclass(frozen=True)
class Entry:
    """A decision: the schedule's fields, its exact cycles, and what it was chosen from.

    `trials` schedules were to be timed; the best of those of the default takes `first` cycles.
    """

    schedule: Mapping[str, Any]
    cycles: int
    trials: int = SHORTLIST
    first: int = 0


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
        """Add the decisions of a log's text; lines that make no sense are passed over.

        Of two decisions about a layer the one from more trials counts, else the later one.
        """
        for line in text.splitlines():
            parts = line.split("\t")
            entry = _entry(*parts) if len(parts) == FIELDS else None
            if entry is None:
                continue
            key = parts[1], parts[2]
            if key not in self.entries or self.entries[key].trials <= entry.trials:
                self.entries[key] = entry


FIELDS = 7
"""Of a line, between tabs: version, target, layer, trials, first, cycles, schedule."""


def _entry(
    version: str, target: str, layer: str, trials: str, first: str, cycles: str, schedule: str
) -> Entry | None:
    """The decision of a line of this version, or None."""
    if version != str(VERSION):
        return None
    try:
        entry = Entry(json.loads(schedule), int(cycles), int(trials), int(first))
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry.schedule, dict) else None


def lines(entries: Mapping[tuple[str, str], Entry]) -> Iterator[str]:
    """The log's text, one line a decision, in order."""
    for (target, layer), entry in sorted(entries.items()):
        fields = json.dumps(dict(entry.schedule), separators=(",", ":"))
        numbers = f"{entry.trials}\t{entry.first}\t{entry.cycles}"
        yield f"{VERSION}\t{target}\t{layer}\t{numbers}\t{fields}"


def target_key(target: Target) -> str:
    """Ten digits that change with whatever of the target a schedule depends on.

    Simulator and board share decisions: the simulator has the pace of the HLS design, and how
    fast that fetches shifts all schedules of a layer alike.
    """
    relevant = {key: value for key, value in target.to_json().items() if key not in _IRRELEVANT}
    relevant["design"] = "hls" if target.design == "fsim" else target.design
    relevant["timing"] = {
        key: value for key, value in relevant["timing"].items() if key != "fetch_interval"
    }
    text = json.dumps(relevant, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


_IRRELEVANT = ("TARGET", "part", "registers", "clock_mhz", "dram_bytes")


_NO_MATTER = {
    *("scale", "layout", "in_layout", "epilogue"),
    *(shortcut.NAME, shortcut.ORIGIN, shortcut.SHIFT),
    *(fused_pool.NAME, fused_pool.ORIGIN),
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
    if node.op == "VtaConv" and steps[:1] == ["add"]:
        bias = layer.constants[node.inputs[node.attrs["epilogue"][0][1]]]
        if fits_gemm(bias, node.attrs["layout"].block):
            parts.append("small-bias")
    return " ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


def shortlist(layer: Layer) -> int:
    """Schedules of a layer that are timed exactly by default."""
    return SHORTLIST * (2 if shortcut.inputs(layer.node.attrs) else 1)


def choose(template: Template, layer: Layer, target: Target, log: ScheduleLog) -> Any | None:
    """The layer's schedule from the log, or the best of the first few when timed exactly.

    None if the template has no schedule that fits.
    """
    found = known(template, layer, target, log)
    if found is not None:
        return found[0]
    ranked = [schedule for _, schedule in template.choices(layer, target)[: shortlist(layer)]]
    if not ranked:
        return None
    cycles = [measure(template, layer, one, target) for one in ranked]
    chosen = fastest_first(cycles)[0]
    log.add(target, layer, entry_of(layer, ranked, cycles, chosen))
    return ranked[chosen]


def known(
    template: Template, layer: Layer, target: Target, log: ScheduleLog
) -> tuple[Any, Entry] | None:
    """The schedule that the log holds for a layer, if it is legal there."""
    entry = log.find(target, layer)
    if entry is None:
        return None
    try:
        return template.override(layer, target, entry.schedule), entry
    except ScheduleError:
        return None  # written by another version of the template, or by hand: decide anew


def fastest_first(cycles: Sequence[int]) -> list[int]:
    """Positions of ranked schedules by their cycles; among equals the rank decides."""
    return sorted(range(len(cycles)), key=lambda one: (cycles[one], one))


def entry_of(
    layer: Layer,
    ranked: Sequence[Any],
    cycles: Sequence[int],
    chosen: int,
    trials: int = SHORTLIST,
) -> Entry:
    """The decision for the schedule at position `chosen`."""
    return Entry(ranked[chosen].to_json(), cycles[chosen], trials, min(cycles[: shortlist(layer)]))


def measure(template: Template, layer: Layer, schedule: Any, target: Target) -> int:
    """Cycles of a layer between neighbours that keep every module busy.

    Its first loads run under the layer before it and its last store under the one behind: what
    counts is the time from its first product to its last compute instruction, or the busiest
    module if that is more.
    """
    (code,) = assemble_alone(template, layer, schedule, target).launches
    stream = Isa.of(target).decode_stream(code.insns)
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


def measure_twice(template: Template, layer: Layer, schedule: Any, target: Target) -> int:
    """Cycles of the layer and the same behind it, from the first instruction on.

    Twice the work of `measure`, and it sees what that leaves out: first loads that wait, because
    the input is not there yet or because a tile takes more than half of a scratchpad.
    """
    (code,) = assemble_alone(template, layer, schedule, target, copies=2).launches
    return timing.schedule(target, Isa.of(target).decode_stream(code.insns)).cycles


def assemble_alone(
    template: Template, layer: Layer, schedule: Any, target: Target, copies: int = 1
) -> program.Program:
    """A program of this layer and nothing else, `copies` times in a row."""
    buffers: list[Buffer] = []
    for place in {one.buffer: one for one in layer.places.values()}.values():
        elements = place.layout.elements(place.shape)
        buffers.append(Buffer(place.buffer, Memory.OUT, elements, "activation"))
    out = Emitter(target, buffers.append)
    for copy in range(copies):
        node = replace(layer.node, name=f"{layer.node.name}.{copy}")
        out.begin(node.name, (node.name,))
        template.emit(replace(layer, node=node), schedule, out)
    return program.assemble(target, [out.commands], buffers, keep_intermediates=True)
