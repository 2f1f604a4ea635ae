"""A profile as a Chrome trace, which ui.perfetto.dev and chrome://tracing open.

The format is the JSON of the "Trace Event Format" document: one process a launch, one track a
module and one for the layers, a slice for every instruction and for every wait, an arrow for
every token. Times are in microseconds at the target's clock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ..backend.artifact import write_whole
from ..backend.isa import MemoryType, Opcode, Stream
from ..errors import DataError
from ..runtime.cycles import COMPUTE, NOBODY
from ..runtime.interleave import MODULE_NAMES, QUEUES
from .profile import Measured, Profile

Event = dict[str, Any]

LAYERS = 0
"""Track of the layers; module m has track m + 1."""


def write_trace(found: Profile, path: str | os.PathLike[str]) -> None:
    """Write the trace completely or not at all. Raises DataError."""

    def write(stream: IO[bytes]) -> None:
        stream.write(b'{"displayTimeUnit": "ns", "otherData": ')
        stream.write(json.dumps(_header(found)).encode())
        stream.write(b', "traceEvents": [\n')
        for index, event in enumerate(trace_events(found)):
            stream.write(b",\n" if index else b"")
            stream.write(json.dumps(event).encode())
        stream.write(b"\n]}\n")

    try:
        write_whole(path, write)
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot write: {error.strerror or error}") from None


def _header(found: Profile) -> dict[str, Any]:
    report = found.report
    return {key: report[key] for key in ("model", "target", "clock_mhz", "cycles", "shared_port")}


def trace_events(found: Profile) -> Iterator[Event]:
    """Every event, launch by launch."""
    flows = 0
    for number, one in enumerate(found.launches):
        yield from _names(number, len(found.launches))
        scale = 1 / found.subject.target.clock_mhz
        labels = [found.subject.label(key) for key in one.rows.keys]
        yield from _layers(number, one, labels, scale)
        yield from _slices(number, one, labels, scale)
        yield from _arrows(number, one, scale, flows)
        flows += len(one.run.arrows)


def _names(launch: int, launches: int) -> Iterator[Event]:
    process = f"VTA, launch {launch}" if launches > 1 else "VTA"
    yield _meta("process_name", launch, LAYERS, name=process)
    yield _meta("process_sort_index", launch, LAYERS, sort_index=launch)
    for track, name in enumerate(("layers", *MODULE_NAMES)):
        yield _meta("thread_name", launch, track, name=name)
        yield _meta("thread_sort_index", launch, track, sort_index=track)


def _meta(kind: str, launch: int, track: int, **arguments: object) -> Event:
    return {"ph": "M", "name": kind, "pid": launch + 1, "tid": track, "args": arguments}


def _slice(launch: int, track: int, name: str, kind: str, begin: float, length: float) -> Event:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "pid": launch + 1,
        "tid": track,
        "ts": round(begin, 3),
        "dur": round(length, 3),
    }


def _layers(launch: int, one: Measured, labels: list[str], scale: float) -> Iterator[Event]:
    """The interval of each layer; parts with a role of their own lie inside one."""
    mine = np.flatnonzero(one.run.module == COMPUTE)
    begin = 0
    for row, (key, label) in enumerate(zip(one.rows.keys, labels, strict=True)):
        booked = mine[one.rows.booked[mine] == row]
        if key[1] or not len(booked):
            continue
        end = int(one.run.end[booked[-1]]) + 1
        offset = one.offset + begin
        yield _slice(launch, LAYERS, label, "layer", offset * scale, (end - begin) * scale)
        begin = end


def _slices(launch: int, one: Measured, labels: list[str], scale: float) -> Iterator[Event]:
    run, stream = one.run, one.code.stream
    columns = (run.module, run.start, run.end, run.wait_fetch, run.wait_token, run.token_from)
    rows = zip(*(column.tolist() for column in (*columns, one.rows.served)), strict=True)
    for index, (module, start, end, fetch, token, source, row) in enumerate(rows):
        begin = one.offset + start
        for cycles, reason, at in (
            (fetch, "instructions", begin - token - fetch),
            (token, MODULE_NAMES[source] if source != NOBODY else "", begin - token),
        ):
            if cycles:
                name = f"waits for {reason}"
                yield _slice(launch, module + 1, name, "wait", at * scale, cycles * scale)
        name = f"{labels[row]} {short_name(stream, index)}"
        event = _slice(launch, module + 1, name, "instruction", begin * scale, 0)
        event["dur"] = round((end + 1 - start) * scale, 3)
        event["args"] = {"instruction": index, "cycles": end + 1 - start} | _details(stream, index)
        yield event


def short_name(stream: Stream, index: int) -> str:
    """An instruction in a few words."""
    opcode, fields = int(stream.opcode[index]), stream.fields
    if opcode == Opcode.LOAD and fields["memory_type"][index] in set(MemoryType):
        return f"LOAD {MemoryType(int(fields['memory_type'][index])).name}"
    if opcode == Opcode.GEMM and fields["reset_reg"][index]:
        return "GEMM reset"
    if opcode == Opcode.ALU:
        names = ("MIN", "MAX", "ADD", "SHR")
        code = int(fields["alu_opcode"][index])
        return f"ALU {names[code] if code < len(names) else code}"
    return Opcode(opcode).name if opcode in set(Opcode) else f"opcode {opcode}"


def _details(stream: Stream, index: int) -> dict[str, int]:
    """The fields that say how much an instruction does."""
    moves = stream.opcode[index] in (Opcode.LOAD, Opcode.STORE)
    names = ("y_size", "x_size") if moves else ("uop_bgn", "uop_end", "iter_out", "iter_in")
    return {name: int(stream.fields[name][index]) for name in names}


def _arrows(launch: int, one: Measured, scale: float, first: int) -> Iterator[Event]:
    """A flow from the last cycle of every token's producer to the first of its consumer."""
    run = one.run
    for number, (producer, consumer, queue) in enumerate(run.arrows.tolist(), first):
        event = {"name": QUEUES[queue], "cat": "token", "id": number, "pid": launch + 1}
        yield {
            **event,
            "ph": "s",
            "tid": int(run.module[producer]) + 1,
            "ts": round((one.offset + int(run.end[producer])) * scale, 3),
        }
        yield {
            **event,
            "ph": "f",
            "bp": "e",
            "tid": int(run.module[consumer]) + 1,
            "ts": round((one.offset + int(run.start[consumer])) * scale, 3),
        }
