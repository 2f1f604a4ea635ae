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

from ..backend.artifact import write_whole
from ..backend.isa import MemoryType, Opcode, Stream
from ..errors import DataError
from ..runtime.interleave import MODULE_NAMES, QUEUES
from .profile import Measured, Profile
from .rows import intervals

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
        track = _Track(number, one, found)
        yield from track.names(len(found.launches))
        yield from track.layers()
        yield from track.instructions()
        yield from track.arrows(flows)
        flows += len(one.run.arrows)


class _Track:
    """The events of one launch."""

    def __init__(self, number: int, one: Measured, found: Profile) -> None:
        self._process = number + 1
        self._one, self._run, self._stream = one, one.run, one.code.stream
        self._labels = [found.subject.label(key) for key in one.rows.keys]
        self._clock_mhz = found.subject.target.clock_mhz

    def names(self, launches: int) -> Iterator[Event]:
        """What the tracks are called and how they are sorted."""
        process = f"VTA, launch {self._process - 1}" if launches > 1 else "VTA"
        yield self._meta("process_name", LAYERS, name=process)
        yield self._meta("process_sort_index", LAYERS, sort_index=self._process)
        for track, name in enumerate(("layers", *MODULE_NAMES)):
            yield self._meta("thread_name", track, name=name)
            yield self._meta("thread_sort_index", track, sort_index=track)

    def layers(self) -> Iterator[Event]:
        """The interval of each layer; parts with a role of their own lie inside one."""
        for begin, end, row in intervals(self._one.rows, self._run):
            yield self._slice(LAYERS, self._labels[row], "layer", begin, end)

    def instructions(self) -> Iterator[Event]:
        """Every instruction, and every wait before one."""
        run = self._run
        columns = (run.module, run.start, run.end, run.wait_fetch, run.wait_token, run.token_from)
        lists = (column.tolist() for column in (*columns, self._one.rows.served))
        for index, row in enumerate(zip(*lists, strict=True)):
            module, start, end, for_fetch, for_token, source, served = row
            came = start - for_token
            if for_fetch:
                yield self._wait(module, "instructions", came - for_fetch, came)
            if for_token:
                yield self._wait(module, MODULE_NAMES[source], came, start)
            name = f"{self._labels[served]} {short_name(self._stream, index)}"
            event = self._slice(module + 1, name, "instruction", start, end + 1)
            event["args"] = {
                "instruction": index,
                "cycles": end + 1 - start,
                **_details(self._stream, index),
            }
            yield event

    def arrows(self, first: int) -> Iterator[Event]:
        """A flow from the last cycle of every token's producer to the first of its consumer."""
        run = self._run
        for number, (producer, consumer, queue) in enumerate(run.arrows.tolist(), first):
            event = {"name": QUEUES[queue], "cat": "token", "id": number, "pid": self._process}
            yield {
                **event,
                "ph": "s",
                "tid": int(run.module[producer]) + 1,
                "ts": self._time(int(run.end[producer])),
            }
            yield {
                **event,
                "ph": "f",
                "bp": "e",
                "tid": int(run.module[consumer]) + 1,
                "ts": self._time(int(run.start[consumer])),
            }

    def _wait(self, module: int, reason: str, begin: int, end: int) -> Event:
        return self._slice(module + 1, f"waits for {reason}", "wait", begin, end)

    def _slice(self, track: int, name: str, kind: str, begin: int, end: int) -> Event:
        """[begin, end) in cycles. Both ends are rounded alike, so that neighbours meet exactly."""
        time = self._time(begin)
        return {
            "ph": "X",
            "name": name,
            "cat": kind,
            "pid": self._process,
            "tid": track,
            "ts": time,
            "dur": round(self._time(end) - time, 3),
        }

    def _meta(self, kind: str, track: int, **arguments: object) -> Event:
        return {"ph": "M", "name": kind, "pid": self._process, "tid": track, "args": arguments}

    def _time(self, cycles: int) -> float:
        """Microseconds from the first launch."""
        return round((self._one.offset + cycles) / self._clock_mhz, 3)


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
