"""Profiles: rows, where their cycles go, bounds, what limits, host time, the command."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vtaflow import cli
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.target import Target
from vtaflow.errors import ArtifactError, StreamError
from vtaflow.models.resnet import resnet18
from vtaflow.profiling import bounds, host_time
from vtaflow.profiling.activity import Activity
from vtaflow.profiling.profile import Profile, profile
from vtaflow.profiling.rows import PARTS, assign
from vtaflow.profiling.subject import Key, LaunchCode, Subject
from vtaflow.profiling.text import profile_text
from vtaflow.runtime.comparison import Accuracy, Comparison, TensorComparison
from vtaflow.runtime.cycles import simulate
from vtaflow.runtime.recording import Recording
from vtaflow.runtime.replay import record

from . import profiles
from .streams import ACC, FINISH, INP, UOP, WGT, alu, gemm, load, nop, store, stream_of

PYNQ = Target.load("pynq")
ROOT = Path(__file__).parent.parent
READ, WRITE = PYNQ.timing.read_latency, PYNQ.timing.write_latency
FIRST, SECOND, LAST = ("conv_a",), ("conv_b", "add"), ("fc",)


def subject_of(*parts: tuple[Key, Any], target: Target = PYNQ) -> Subject:
    """One launch of (key, instruction) pairs and a FINISH."""
    keys = [key for key, _ in parts] + [((), "")]
    stream = stream_of(target, *[instruction for _, instruction in parts], FINISH)
    return Subject("hand-made", target, (LaunchCode(stream, keys),))


def layer_parts(origin: tuple[str, ...]) -> list[tuple[Key, Any]]:
    """Load, multiply, clip and store a tile."""
    key = origin, ""
    return [
        (key, load(INP, 200)),
        (key, load(WGT, 9, push_next_dep=1)),
        (key, load(UOP, 30)),
        (key, gemm(700, reset_reg=1)),
        (key, gemm(700, pop_prev_dep=1)),
        (key, alu(100, push_next_dep=1)),
        (key, store(100, pop_prev_dep=1)),
    ]


@cache
def real() -> Profile:
    """The profile of the compiled model."""
    return profile(Subject.of_artifact(profiles.compiled().artifact))


# --- rows ---------------------------------------------------------------------------------------


def test_a_layer_lasts_from_its_predecessors_end_to_its_own() -> None:
    subject = subject_of(*layer_parts(FIRST), *layer_parts(SECOND))
    found = profile(subject)
    run = found.launches[0].run
    one, other = found.report["layers"]
    assert (one["name"], other["name"]) == ("conv_a", "conv_b, add")
    assert one["cycles"] == run.end[5] + 1
    assert other["cycles"] == run.cycles - one["cycles"]
    assert one["instructions"] == 7
    assert found.report["cycles"] == run.cycles


def test_a_role_has_a_row_of_its_own() -> None:
    residual = (SECOND, "residual")
    second = layer_parts(SECOND)
    second[5:5] = [
        (residual, load(INP, 50, push_next_dep=1)),
        (residual, gemm(300, pop_prev_dep=1)),
    ]
    found = profile(subject_of(*layer_parts(FIRST), *second))
    _, main, part = found.report["layers"]
    assert (part["name"], part["layer"], part["role"]) == (
        "conv_b, add [residual]", "conv_b, add", "residual"
    )
    run = found.launches[0].run
    at = 7 + 6
    assert part["cycles"] == run.end[at] - run.end[at - 2]
    assert main["cycles"] + part["cycles"] == run.cycles - found.report["layers"][0]["cycles"]
    assert part["bounds"] == {"compute": 319, "weight load": 0, "input load": 0, "store": 0}
    assert part["limit"] == "compute"


def test_interleaved_layers_end_at_their_last_compute_instruction() -> None:
    one, other = (FIRST, ""), (SECOND, "")
    subject = subject_of((one, gemm(100)), (other, gemm(200)), (one, gemm(300)), (other, gemm(50)))
    rows = profile(subject).report["layers"]
    start = 8 + READ + 7 + 3
    assert rows[0]["cycles"] == start + 119 + 219 + 319
    assert rows[1]["cycles"] == 69 + 5


def test_a_layer_without_compute_instructions_takes_no_time() -> None:
    copy = (("copy",), "")
    found = profile(subject_of((copy, load(INP, 4)), ((FIRST, ""), gemm(10))))
    rows = {row["name"]: row for row in found.report["layers"]}
    assert rows["copy"]["cycles"] == 0
    assert rows["copy"]["array_use"] == 0
    assert rows["copy"]["bytes"]["inp"] == 64
    assert rows["conv_a"]["cycles"] == found.report["cycles"]
    assert profile_text(found.report)


def test_streams_without_origins_are_one_row() -> None:
    found = profile(subject_of((((), ""), gemm(10))))
    assert [row["name"] for row in found.report["layers"]] == ["launch"]


def test_rows_of_instructions_that_serve_nothing() -> None:
    stream = stream_of(PYNQ, gemm(1), gemm(1), FINISH)
    rows = assign([(FIRST, ""), (LAST, ""), ((), "")], simulate(PYNQ, stream))
    assert rows.keys == ((FIRST, ""), (LAST, ""))
    assert rows.booked.tolist() == rows.served.tolist() == [0, 1, 1]


# --- where the cycles go ------------------------------------------------------------------------


def test_parts_add_up() -> None:
    for shared_port in (False, True):
        found = profile(real().subject, shared_port).report
        for row in found["layers"]:
            assert sum(row["time"].values()) == pytest.approx(row["cycles"], abs=1)
            assert row["time"].keys() == set(PARTS)
        assert sum(row["cycles"] for row in found["layers"]) == found["cycles"]
        for split in found["modules"].values():
            total = sum(amount for kind, amount in split.items() if kind != "busy")
            assert total == pytest.approx(found["cycles"], abs=1)


def test_a_wait_is_split_by_what_load_does_meanwhile() -> None:
    key = FIRST, ""
    found = profile(subject_of((key, load(WGT, 10)), (key, load(INP, 300, push_next_dep=1)),
                               (key, gemm(100, pop_prev_dep=1))))
    time = found.report["layers"][0]["time"]
    assert time["GEMM"] == 119
    assert time["waits for weights"] == pytest.approx(640 + 19, abs=8)
    assert time["waits for inputs"] == pytest.approx(600 + 27, abs=1)
    assert time["waits for memory latency"] == pytest.approx(2 * READ, abs=6)
    assert time["waits for instructions"] == 8 + READ + 7 + 3 + 2 * 2
    modules = found.report["layers"][0]["modules"]
    assert modules["compute"]["tokens from load"] > 1300
    assert modules["load"]["weights"] == 5 + 14 + 640
    assert modules["load"]["memory latency"] == 2 * READ


def test_waiting_for_store_and_for_the_last_store() -> None:
    key = FIRST, ""
    found = profile(subject_of(
        (key, alu(10, push_next_dep=1)),
        (key, store(400, pop_prev_dep=1, push_prev_dep=1)),
        (key, nop("compute", pop_next_dep=1)),
        (key, alu(10, push_next_dep=1)),
        (key, store(300, pop_prev_dep=1)),
    ))
    time = found.report["layers"][0]["time"]
    waiting = 3 + 800 + 13 + WRITE + 2 * 2  # the store, and its two tokens beyond the next cycle
    after = 3 + 600 + 13 + WRITE + 2 - 5  # store runs on when FINISH is through
    assert time["waits for store"] == pytest.approx(waiting + after, abs=1)
    assert found.report["modules"]["compute"]["idle"] == pytest.approx(after, abs=1)


def test_activity_between_two_moments() -> None:
    stream = stream_of(PYNQ, load(INP, 100), load(WGT, 2), FINISH)
    run = simulate(PYNQ, stream)
    activity = Activity.of(stream, run, 0)
    begin, end = run.start[:2], run.end[:2] + 1
    assert activity.between("inputs", begin, end).tolist() == [200 + 27, 0]
    assert activity.between("weights", begin, end).tolist() == [0, 128 + 19]
    middle = (begin + end) // 2
    half = activity.between("inputs", begin, middle)[0]
    assert half == pytest.approx(227 / 2, abs=1)
    assert Activity.of(stream, run, 2).until("stores", begin).tolist() == [0, 0]


# --- bounds -------------------------------------------------------------------------------------


def test_bounds_count_each_byte_once() -> None:
    key = FIRST, ""
    instructions = [
        load(INP, 10, 4, x_stride=5),  # rows overlap: 10 + 3 * 5 elements
        load(INP, 10, dram_base=4096),
        load(WGT, 3),
        load(WGT, 3),
        load(WGT, 3, dram_base=5000),
        gemm(100),
        gemm(50, reset_reg=1),
        alu(30, use_imm=0, alu_opcode=2),
        alu(20, alu_opcode=2),
        alu(40, use_imm=0, alu_opcode=3),
        store(8, 2),
    ]
    row = profile(subject_of(*[(key, one) for one in instructions])).report["layers"][0]
    assert row["bounds"] == {
        "compute": 130 + 19,
        "weight load": 5 + 6 * 64 + 14 + READ,
        "input load": 9 + 2 * 25 + 18 + READ,
        "store": 3 + 2 * 16 + 13 + WRITE,
    }
    assert row["lower_bound_cycles"] == 5 + 6 * 64 + 14 + READ
    assert row["distance"] == pytest.approx(row["cycles"] / row["lower_bound_cycles"])
    assert row["compute_with_alu_cycles"] == 149 + (2 * 20 + 19) + (2 * 40 + 19)
    assert row["bytes"] == {"uop": 0, "wgt": 9 * 256, "inp": 50 * 16, "acc": 0, "out": 16 * 16}
    assert (row["micro_ops"], row["macs"]) == (100, 100 * 256)


def test_nothing_done_has_no_bound() -> None:
    row = profile(subject_of(((FIRST, ""), nop("compute")))).report["layers"][0]
    assert (row["lower_bound_cycles"], row["distance"]) == (0, None)


LIMITED = {
    "compute": [load(INP, 4), gemm(900)],
    "ALU": [load(INP, 4), gemm(100), alu(900)],
    "weight load": [load(WGT, 50), load(INP, 4), gemm(100)],
    "input load": [load(WGT, 2), load(INP, 900), gemm(100)],
    "store": [gemm(100), alu(50), store(2000)],
    "latency": [load(INP, 1, 60), gemm(100)],
}


@pytest.mark.parametrize("limit", LIMITED)
def test_what_limits(limit: str) -> None:
    parts = [((FIRST, ""), instruction) for instruction in LIMITED[limit]]
    assert profile(subject_of(*parts)).report["layers"][0]["limit"] == limit


def test_modules_that_take_turns_are_limited_by_latency() -> None:
    key = FIRST, ""
    turn = [
        (key, load(INP, 100, pop_next_dep=1, push_next_dep=1)),
        (key, gemm(100, pop_prev_dep=1, push_next_dep=1)),
        (key, store(100, pop_prev_dep=1, push_prev_dep=1)),
        (key, nop("compute", pop_next_dep=1, push_prev_dep=1)),
    ]
    found = profile(subject_of((key, nop("compute", push_prev_dep=1)), *turn * 9))
    assert found.report["layers"][0]["limit"] == "latency"


def test_limits_are_those_that_the_page_knows() -> None:
    from vtaflow.profiling.palette import KINDS, LIMITS

    assert set(LIMITED) == set(LIMITS)
    assert set(PARTS) <= KINDS.keys()


def test_a_residuals_loads_count_for_its_layer() -> None:
    """A layer of nothing but an addition cannot be faster than the loads of both operands."""
    main, part = (SECOND, ""), (SECOND, "residual")
    found = profile(subject_of(
        (main, load(INP, 400)), (part, load(INP, 500, dram_base=9000, push_next_dep=1)),
        (main, gemm(100, pop_prev_dep=1)), (part, gemm(60)), (main, store(100)),
    )).report["layers"]
    assert found[0]["bounds"]["input load"] == 9 + 2 * 900 + 18 + READ - found[1]["cycles"]
    assert found[1]["bounds"]["input load"] == 0


# --- a compiled model ---------------------------------------------------------------------------


def test_a_compiled_model() -> None:
    found = real().report
    names = [row["name"] for row in found["layers"]]
    assert names == ["first", "second", "second [residual]", "pool", "classify"]
    assert [row["op"] for row in found["layers"]][0] == "VtaConv"
    first, second, residual = found["layers"][:3]
    assert first["macs"] == 12 * 12 * 16 * 3 * 9
    assert second["array_use"] == second["macs"] / (256 * second["cycles"])
    assert residual["macs"] == 0
    assert residual["micro_ops"] == 144
    assert residual["bytes"]["inp"] == 144 * 16
    for row in found["layers"]:
        assert row["distance"] > 0.5
        assert row["ms"] == row["cycles"] / 100_000
    assert 0 < found["array_use"] < 1
    assert found["placement"][-1]["device"] == "host"
    json.dumps(found, allow_nan=False)


def test_layers_agree_with_the_manifest() -> None:
    """The compiler's own estimate books the residual with its layer."""
    manifest = profiles.compiled().artifact.manifest
    for row in manifest["layers"]:
        mine = [one["cycles"] for one in real().report["layers"] if one["layer"] == row["name"]]
        assert sum(mine) == row["estimated_cycles"]


def test_roles_survive_the_file(tmp_path: Path) -> None:
    artifact = profiles.compiled().artifact
    artifact.save(tmp_path / "net.vta")
    again = Artifact.load(tmp_path / "net.vta")
    assert again.roles(0) == artifact.roles(0)
    assert set(again.roles(0)) == {"", "residual"}
    old = {key: value for key, value in artifact.manifest.items() if key != "roles"}
    assert set(Artifact.create(old, artifact.members).roles(0)) == {""}


def test_another_target_that_fits_has_its_own_constants() -> None:
    artifact = profiles.compiled().artifact
    slow = replace(PYNQ, timing=replace(PYNQ.timing, read_latency=200))
    found = profile(Subject.of_artifact(artifact, slow)).report
    assert found["read_latency"] == 200
    assert found["cycles"] > real().report["cycles"]
    chisel = profile(Subject.of_artifact(artifact, Target.load("de10nano"))).report
    assert chisel["design"] == "chisel"
    wide = replace(PYNQ, log_block=5, log_inp_buff_size=16, log_wgt_buff_size=19)
    with pytest.raises(ArtifactError, match="LOG_BLOCK"):
        Subject.of_artifact(artifact, wide)


def test_layers_without_origins_are_no_trouble() -> None:
    artifact = profiles.compiled().artifact
    rows = [{**row, "origin": 5} for row in artifact.manifest["layers"]]
    odd = Artifact.create({**artifact.manifest, "layers": rows}, artifact.members)
    assert profile(Subject.of_artifact(odd)).report["cycles"] == real().report["cycles"]


def test_several_launches_follow_one_another() -> None:
    one = subject_of(*layer_parts(FIRST)).launches[0]
    other = subject_of(*layer_parts(LAST)).launches[0]
    found = profile(Subject("two", PYNQ, (one, other)))
    assert [row["launch"] for row in found.report["layers"]] == [0, 1]
    assert found.launches[1].offset == found.launches[0].run.cycles
    assert found.report["cycles"] == sum(one["cycles"] for one in found.report["launches"])


def test_a_stream_that_stops_is_an_error() -> None:
    with pytest.raises(StreamError, match="deadlock"):
        profile(subject_of(((FIRST, ""), gemm(4, pop_prev_dep=1))))


def test_quality_stands_beside_the_layers() -> None:
    layers = tuple(
        TensorComparison(name, 0.1, 0.99, decibels, None, None)
        for name, decibels in (("first", 31.5), ("second", float("inf")))
    )
    comparison = Comparison((), layers, Accuracy(0.9, 0.875), {}, 1, 8, 1.0, 1.0, "test")
    found = profile(real().subject, comparison=comparison).report
    cells = [(row["sqnr_db"], row["exact"]) for row in found["layers"]]
    assert cells[:4] == [(31.5, False), (None, True), (None, False), (None, False)]
    assert found["comparison"] == {
        "samples": 8, "accuracy": {"cpu": 0.9, "target": 0.875}, "mismatch": None
    }
    lines = profile_text(found)
    assert any("31.5" in line for line in lines) and any("exact" in line for line in lines)


# --- host ---------------------------------------------------------------------------------------


def test_host_steps_are_measured_without_a_device() -> None:
    steps = host_time.measure(profiles.compiled().artifact)
    assert [step.op for step in steps][-1] == "Softmax"
    assert {step.op for step in steps} > {"Quantize", "Dequantize"}
    assert all(0 < step.seconds < 1 for step in steps)
    found = profile(real().subject, host_steps=steps).report["host"]
    assert found["ms"] == pytest.approx(sum(step["ms"] for step in found["steps"]))
    assert "this machine" in found["measured_on"]


# --- text ---------------------------------------------------------------------------------------


def test_text() -> None:
    steps = [host_time.StepTime("s", "Softmax", 0.002)]
    lines = profile_text(profile(real().subject, host_steps=steps).report)
    text = "\n".join(lines)
    assert lines[0].startswith("Profile of net on target pynq (design hls, 100 MHz, latencies 55")
    for words in ("second [residual]", "with ALU", "x bound", "Modules, in percent", "2.000"):
        assert words in text
    assert len({len(line) for line in lines if line.startswith("  all ")}) == 1
    assert "Host steps: none" in "\n".join(profile_text(real().report))


# --- bytes of the bounds' helper ----------------------------------------------------------------


def test_distinct_of_nothing_is_nothing() -> None:
    stream = stream_of(PYNQ, gemm(4), FINISH)
    assert bounds.distinct(stream, np.zeros(2, np.bool_)) == 0


def test_distinct_against_a_set() -> None:
    random = np.random.default_rng(0)
    loads = [
        load(ACC, int(x), int(y), x_stride=int(s), dram_base=int(b))
        for x, y, s, b in random.integers(1, 12, (40, 4))
    ]
    stream = stream_of(PYNQ, *loads)
    elements = {
        one["dram_base"] + row * one["x_stride"] + column
        for one in loads
        for row in range(one["y_size"])
        for column in range(one["x_size"])
    }
    assert bounds.distinct(stream, np.ones(len(loads), np.bool_)) == len(elements)


# --- the benchmark's table ----------------------------------------------------------------------


def test_every_board_time_finds_its_layers(tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "profile_table.py"))
    onnx.save(resnet18(), tmp_path / "resnet18.onnx")
    found = list(benchmark["geometries"](tmp_path / "resnet18.onnx").values())
    published = json.loads((ROOT / "benchmarks" / "tvm_board_times.json").read_text("utf-8"))
    counts = {row["layer"]: row["count"] for row in published["layers"]}
    assert {name: found.count(name) for name in counts} == counts
    assert len(found) == 20
    total = sum(row["ms"] * row["count"] for row in published["layers"])
    assert total == pytest.approx(88.28, abs=0.01)


# --- the command --------------------------------------------------------------------------------

Deploy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Deploy:
    """Runs a command in a folder with net.onnx, its data, net.vta and a recorded launch."""
    monkeypatch.chdir(tmp_path)
    artifact = profiles.compiled().artifact
    artifact.save("net.vta")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_profile_of_an_artifact(deploy: Deploy) -> None:
    code, out, err = deploy("profile", "net.vta", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["cycles"] == real().report["cycles"]
    assert found["host"]["steps"]
    assert deploy("profile", "net.vta", "-q") == (0, "", "")
    shared = json.loads(deploy("profile", "net.vta", "--shared-port", "--json")[1])
    assert shared["shared_port"] and shared["cycles"] >= found["cycles"]
    assert "second [residual]" in deploy("profile", "net.vta")[1]


def test_profile_of_an_artifact_with_calibrated_constants(deploy: Deploy) -> None:
    description = PYNQ.to_json()
    description["timing"] = {**description["timing"], "read_latency": 90}
    Path("board.json").write_text(json.dumps(description))
    found = json.loads(deploy("profile", "net.vta", "--target", "board.json", "--json")[1])
    assert found["read_latency"] == 90


def test_profile_of_a_recording(deploy: Deploy) -> None:
    (path,) = record(profiles.compiled().artifact, {"x": profiles.samples(1)}, "launches")
    assert Recording.load(path).target == PYNQ
    found = json.loads(deploy("profile", path, "--json")[1])
    assert [row["name"] for row in found["layers"]] == ["net_run00"]
    assert found["cycles"] == real().report["cycles"]
    other = json.loads(deploy("profile", path, "--target", "tsim", "--json")[1])
    assert other["design"] == "chisel"


def test_profile_of_a_model_with_its_quality(deploy: Deploy) -> None:
    onnx.save(profiles.model(), "net.onnx")
    np.save("x.npy", profiles.samples(24))
    arguments = ("--target", "pynq", "--calib", "x.npy", "--input", "x.npy", "--json")
    code, out, err = deploy("profile", "net.onnx", "--compare", *arguments)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["comparison"]["samples"] == 24
    assert found["comparison"]["mismatch"] is None
    assert all(row["sqnr_db"] > 15 for row in found["layers"] if not row["role"])
    plain = json.loads(deploy("profile", "net.onnx", "--calib", "x.npy", "--json")[1])
    assert plain["target"] == "sim"
    assert plain["comparison"] is None
    code, out, _ = deploy("profile", "net.onnx", "--calib", "x.npy", "--stop-after", "place")
    assert code == 0 and "@vta" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.vta", "--compare"), "--compare needs the ONNX model"),
        (("none.vta",), "none.vta"),
        (("none.npz",), "none.npz"),
        (("none.onnx",), "none.onnx"),
        (("net.vta", "--trace", "no/where.json"), "there is no folder 'no'"),
        (("net.vta", "--html", "."), "it is a folder"),
        (("net.vta", "--target", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(deploy: Deploy, arguments: Any, words: str) -> None:
    code, out, err = deploy("profile", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
