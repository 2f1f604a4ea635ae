"""The trace: valid in its format, one track a module, nothing overlaps, arrows meet slices."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vtaflow import cli
from vtaflow.backend.isa import Instruction, Opcode
from vtaflow.backend.target import Target
from vtaflow.errors import DataError
from vtaflow.profiling.profile import Profile, profile
from vtaflow.profiling.subject import LaunchCode, Subject
from vtaflow.profiling.trace import short_name, trace_events, write_trace

from . import profiles
from .streams import FINISH, INP, alu, gemm, load, nop, store, stream_of

SCHEMA = json.loads((Path(__file__).parent / "trace_event_schema.json").read_text("utf-8"))
PYNQ = Target.load("pynq")
TRACKS = {0: "layers", 1: "load", 2: "compute", 3: "store"}

Event = dict[str, Any]


@cache
def real() -> Profile:
    return profile(Subject.of_artifact(profiles.compiled().artifact))


def validate(trace: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(trace)


def by_track(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    """Slices by process and thread, in order of time."""
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return {track: sorted(slices, key=lambda one: one["ts"]) for track, slices in tracks.items()}


def nanoseconds(microseconds: float) -> int:
    """Times have three decimals."""
    return round(1000 * microseconds)


def test_the_schema_itself_is_one_and_can_fail() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = {"ph": "X", "name": "a", "cat": "c", "pid": 1, "tid": 1, "ts": 0, "dur": 1}
    validate({"traceEvents": [good]})
    for change in ({"ph": "Q"}, {"ts": -1}, {"dur": "1"}, {"id": 3}, {"pid": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            validate({"traceEvents": [{**good, **change}]})
    with pytest.raises(jsonschema.ValidationError):
        validate({"traceEvents": [{key: good[key] for key in good if key != "ts"}]})
    with pytest.raises(jsonschema.ValidationError):
        validate([good])


def test_the_file_is_a_valid_trace(tmp_path: Path) -> None:
    write_trace(real(), tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    validate(trace)
    assert trace["traceEvents"] == list(trace_events(real()))
    assert trace["otherData"]["model"] == "net"
    assert trace["otherData"]["cycles"] == real().report["cycles"]


def test_tracks_have_the_modules_names() -> None:
    names = {
        event["tid"]: event["args"]["name"]
        for event in trace_events(real())
        if event["name"] == "thread_name"
    }
    assert names == TRACKS


def test_slices_are_named_by_layer_and_instruction() -> None:
    events = list(trace_events(real()))
    names = {event["name"] for event in events if event.get("cat") == "instruction"}
    assert {"first GEMM", "first GEMM reset", "second LOAD WGT", "second STORE"} <= names
    assert {"second [residual] LOAD INP", "second [residual] GEMM", "classify FINISH"} <= names
    layers = [event["name"] for event in events if event.get("cat") == "layer"]
    assert layers == ["first", "second", "pool", "classify"]
    waits = {event["name"] for event in events if event.get("cat") == "wait"}
    assert {"waits for load", "waits for compute", "waits for instructions"} <= waits


@pytest.mark.parametrize("clock", [100, 333])
def test_slices_fill_every_track_without_overlap(clock: int) -> None:
    artifact = profiles.compiled().artifact
    target = replace(PYNQ, clock_mhz=clock)
    found = profile(Subject.of_artifact(artifact, target))
    tracks = by_track(list(trace_events(found)))
    assert {tid for _, tid in tracks} == set(TRACKS)
    for slices in tracks.values():
        assert slices[0]["ts"] == 0
        for one, following in zip(slices, slices[1:], strict=False):
            assert one["ts"] + one["dur"] == pytest.approx(following["ts"], abs=1e-6)
    last = max(slices[-1]["ts"] + slices[-1]["dur"] for slices in tracks.values())
    assert last == pytest.approx(found.report["ms"] * 1000, abs=0.01)


def test_every_instruction_has_one_slice() -> None:
    instructions = [
        event["args"]["instruction"]
        for event in trace_events(real())
        if event.get("cat") == "instruction"
    ]
    assert sorted(instructions) == list(range(len(real().launches[0].code.stream)))


def test_arrows_go_from_a_producer_to_its_consumer() -> None:
    events = list(trace_events(real()))
    tracks = by_track(events)
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(starts) == len(ends) == len(real().launches[0].run.arrows) > 5
    for number, start in starts.items():
        end = ends[number]
        assert (start["name"], start["cat"]) == (end["name"], end["cat"])
        producer, consumer = start["name"].split("->")
        assert (TRACKS[start["tid"]], TRACKS[end["tid"]]) == (producer, consumer)
        assert start["ts"] < end["ts"]
        for event in (start, end):
            inside = [
                one
                for one in tracks[event["pid"], event["tid"]]
                if one["cat"] == "instruction"
                and nanoseconds(one["ts"])
                <= nanoseconds(event["ts"])
                < nanoseconds(one["ts"] + one["dur"])
            ]
            assert len(inside) == 1
        assert end["ts"] == inside[0]["ts"]


def test_launches_are_processes_in_a_row() -> None:
    code = LaunchCode(
        stream_of(PYNQ, load(INP, 9, push_next_dep=1), gemm(9, pop_prev_dep=1), FINISH),
        [(("a",), "")] * 3,
    )
    found = profile(Subject("two", PYNQ, (code, code)))
    events = list(trace_events(found))
    validate({"traceEvents": events})
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["VTA, launch 0", "VTA, launch 1"]
    first = [event["ts"] for event in events if event["ph"] == "X" and event["pid"] == 2]
    assert min(first) == found.launches[0].run.cycles / 100
    flows = [event["id"] for event in events if event["ph"] == "s"]
    assert flows == [0, 1]


NAMED = [
    (load(INP, 4), "LOAD INP"),
    (Instruction(Opcode.LOAD, {"memory_type": 7}), "LOAD"),
    (gemm(4), "GEMM"),
    (gemm(4, reset_reg=1), "GEMM reset"),
    (alu(4, alu_opcode=3), "ALU SHR"),
    (alu(4, alu_opcode=4), "ALU 4"),
    (store(4), "STORE"),
    (nop("compute"), "LOAD UOP"),
    (FINISH, "FINISH"),
]


def test_short_names() -> None:
    stream = stream_of(PYNQ, *[instruction for instruction, _ in NAMED])
    assert [short_name(stream, n) for n in range(len(stream))] == [name for _, name in NAMED]


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trace\.json: cannot write"):
        write_trace(real(), tmp_path / "nowhere" / "trace.json")


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiles.compiled().artifact.save("net.vta")
    assert cli.main(["profile", "net.vta", "--trace", "t.json", "-q"]) == 0
    validate(json.loads(Path("t.json").read_text("utf-8")))
