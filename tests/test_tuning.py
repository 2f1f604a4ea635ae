"""Tuning: the search finds the fastest, whoever does the work, and remembers what it found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from vtaflow import compiler
from vtaflow.backend.isa import Isa
from vtaflow.backend.target import Target
from vtaflow.backend.timing import schedule as schedule_stream
from vtaflow.cli.outcome import INTERRUPTED
from vtaflow.compiler import CompileOptions, compile
from vtaflow.errors import NoTileError, ScheduleError, WorkerError
from vtaflow.graph.graph import Graph
from vtaflow.schedules import log_file, search, trials
from vtaflow.schedules.model import distinct_layers
from vtaflow.schedules.search import (
    SHORTLIST,
    Entry,
    ScheduleLog,
    layer_key,
    lines,
    measure,
    measure_twice,
)
from vtaflow.schedules.template import Layer
from vtaflow.schedules.trials import Outline, rank, settle, templates_of
from vtaflow.tuning import FINALISTS, Tuning
from vtaflow.workers import Workers, workers

from .image_layers import ConvCase
from .onnx_models import build
from .test_cli import Deploy, deploy, refused
from .test_schedule_model import chain

__all__ = ["deploy"]

PYNQ = Target.load("pynq")
TRIALS = 10


def conv_layer(case: ConvCase) -> Layer:
    ((layer,),) = distinct_layers(case.graph(PYNQ)).values()
    return layer


def write_net(path: Path) -> Path:
    """Three convolutions, two of them alike; shifts differ between the channels of each."""
    random = np.random.default_rng(0)
    shapes = {"a": (24, 3, 3, 3), "b": (24, 24, 3, 3), "c": (24, 24, 3, 3)}
    weights = {key: random.standard_normal(shape) for key, shape in shapes.items()}
    nodes = []
    for value, name, result in (("x", "a", "p"), ("p", "b", "q"), ("q", "c", "r")):
        nodes.append(helper.make_node("Conv", [value, name], [f"{result}0"], name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{result}0"], [result], f"relu_{name}"))
    sizes = np.resize([1 / 9, 4 / 9], (24, 1, 1, 1))
    constants = {key: (array * sizes).astype(np.float32) for key, array in weights.items()}
    model = build(nodes, constants, {"x": ("N", 3, 9, 10)}, {"r": None})
    path.write_bytes(model.SerializeToString())
    return path


def write_wide_net(path: Path) -> Path:
    """Two convolutions; `wide` looks at 25 x 25 pixels, too many for small memories."""
    random = np.random.default_rng(0)
    constants = {"v": (20, 3, 1, 1), "w": (20, 20, 9, 9)}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["p"], "narrow"),
        helper.make_node("Conv", ["p", "w"], ["y"], "wide", dilations=[3, 3]),
    ]
    weights = {key: random.standard_normal(shape) for key, shape in constants.items()}
    kernels = {key: array.astype(np.float32) / 9 for key, array in weights.items()}
    model = build(nodes, kernels, {"x": ("N", 3, 40, 40)}, {"y": None})
    path.write_bytes(model.SerializeToString())
    return path


def net_graph(tmp_path: Path) -> Graph:
    path = write_net(tmp_path / "net.onnx")
    return compiler.prepare(path, PYNQ, None, CompileOptions(random_samples=2)).integer


def tuned(graph: Graph, crew: Workers | None = None, count: int = TRIALS) -> Tuning:
    work = Tuning.of(graph, PYNQ, ScheduleLog(), count)
    with workers(1) as here:
        work.run(crew or here)
    return work


# --- what travels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        conv_layer(ConvCase(channels=40, outputs=33)),
        conv_layer(ConvCase(channels=48, outputs=48, group=48, bias=1 << 30)),
        conv_layer(ConvCase(channels=40, outputs=33, kernel=(1, 1), pads=(0,) * 4)),
        next(iter(distinct_layers(chain()).values()))[0],
    ],
    ids=["conv", "depthwise", "pointwise", "dense"],
)
def test_an_outline_takes_as_long_as_its_layer(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "MOST_BYTES", 300)
    outline = Outline.of(layer)
    assert list(outline.stand_ins) == [layer.node.inputs[1]]
    whole = outline.whole()
    assert layer_key(whole) == layer_key(layer)
    (template,) = templates_of(layer)
    for schedule in rank(outline, PYNQ, 3).schedules:
        real, stand_in = (measure(template, one, schedule, PYNQ) for one in (layer, whole))
        assert real == stand_in


def test_a_uniform_kernel_stays_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST_BYTES", 0)
    layer = conv_layer(ConvCase())
    same = {**layer.constants, "w": np.full_like(layer.constants["w"], 3)}
    layer = replace(layer, constants=same)
    assert "uniform" in layer_key(layer)
    stand_in = Outline.of(layer).stand_ins["w"]
    assert stand_in.uniform and stand_in.array().shape == layer.constants["w"].shape


# --- the search -------------------------------------------------------------------------------


def test_the_best_of_the_fastest_wins(tmp_path: Path) -> None:
    work = tuned(net_graph(tmp_path))
    assert [len(group) for group in work.groups] == [1, 2]
    for index, group in enumerate(work.groups):
        (template,) = templates_of(group[0])
        ranked = [one for _, one in template.choices(group[0], PYNQ)[:TRIALS]]
        cycles = [measure(template, group[0], one, PYNQ) for one in ranked]
        entry = work.decided[index]
        default = min(cycles[:SHORTLIST])
        assert (entry.trials, entry.first) == (TRIALS, default)
        better = sorted(one for one in range(TRIALS) if cycles[one] < default)
        fastest = sorted(better, key=lambda one: cycles[one])[: FINALISTS - 1]
        finalists = [*fastest, cycles.index(default)]
        twice = {
            one: measure_twice(template, group[0], ranked[one], PYNQ) for one in finalists
        }
        chosen = min(finalists, key=lambda one: twice[one])
        assert entry.schedule == ranked[chosen].to_json()
        assert entry.cycles == cycles[chosen] <= default


def test_processes_find_the_same(tmp_path: Path) -> None:
    graph = net_graph(tmp_path)
    with workers(2) as crew:
        found = tuned(graph, crew)
    assert found.log.entries == tuned(graph).log.entries


def test_a_schedule_that_the_checker_refuses_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = conv_layer(ConvCase())
    (template,), outline = templates_of(layer), Outline.of(layer)
    ranked = rank(outline, PYNQ, 5).schedules
    verdicts = iter((False, True, False, True))
    monkeypatch.setattr(trials, "clean", lambda *_: next(verdicts))
    twice = {one: measure_twice(template, layer, ranked[one], PYNQ) for one in (1, 3)}
    found = settle(outline, PYNQ, template.name, ranked, 2)
    assert found == min(twice, key=lambda one: (twice[one], one))
    assert next(verdicts, None) is None


def test_a_layer_that_the_checker_always_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "clean", lambda *_: False)
    with pytest.raises(ScheduleError, match="layer '[ab]' .* the checker refuses every schedule"):
        tuned(net_graph(tmp_path), count=2)


def test_a_layer_that_no_tile_fits_is_found_before_any_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(PYNQ, log_inp_buff_size=11, log_acc_buff_size=13)
    path = write_wide_net(tmp_path / "net.onnx")
    graph = compiler.prepare(path, small, None, CompileOptions(random_samples=2)).integer
    monkeypatch.setattr(trials, "measure", None)
    work = Tuning.of(graph, small, ScheduleLog(), TRIALS)
    with (
        workers(1) as crew,
        pytest.raises(NoTileError, match="'wide' .* finds no tile that fits") as caught,
    ):
        work.run(crew)
    assert caught.value.origin == ("wide",)
    assert work.decided == {}


def test_two_in_a_row_take_longer_than_one_but_not_twice() -> None:
    layer = conv_layer(ConvCase(channels=64, outputs=64))
    (template,) = templates_of(layer)
    (schedule,) = rank(Outline.of(layer), PYNQ, 1).schedules
    one, two = (call(template, layer, schedule, PYNQ) for call in (measure, measure_twice))
    (alone,) = search.assemble_alone(template, layer, schedule, PYNQ).launches
    cold = schedule_stream(PYNQ, Isa.of(PYNQ).decode_stream(alone.insns)).cycles
    assert one < cold < two < 2 * cold


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    graph, path = net_graph(tmp_path), tmp_path / "s.log"

    def interrupted() -> None:
        log_file.append(first.log, path)
        raise KeyboardInterrupt

    with workers(1) as crew:
        first = Tuning.of(graph, PYNQ, log_file.load(path), TRIALS)
        with pytest.raises(KeyboardInterrupt):
            first.run(crew, interrupted)
        assert len(path.read_text().splitlines()) == 1
        second = Tuning.of(graph, PYNQ, log_file.load(path), TRIALS)
        done: list[int] = []
        assert second.left == TRIALS
        found = second.run(crew, progress=done.append)
    assert sorted(one.searched for one in found) == [False, True]
    assert sum(done) == TRIALS
    assert Tuning.of(graph, PYNQ, second.log, TRIALS + 1).left == 2 * (TRIALS + 1)
    assert Tuning.of(graph, PYNQ, second.log, 2).left == 0


def test_a_decision_that_is_illegal_is_searched_again(tmp_path: Path) -> None:
    graph = net_graph(tmp_path)
    log = tuned(graph).log
    for key, entry in log.entries.items():
        log.entries[key] = replace(entry, schedule={**entry.schedule, "tile_h": 4000})
    assert Tuning.of(graph, PYNQ, log, TRIALS).left == 2 * TRIALS


def test_a_compilation_uses_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.log"
    work = tuned(net_graph(tmp_path))
    path.write_text("\n".join(lines(work.log.entries)))
    monkeypatch.setattr(search, "measure", None)
    compiled = compile(tmp_path / "net.onnx", "pynq", options=CompileOptions(log=path))
    decided = [dict(work.decided[index].schedule) for index in (0, 1, 1)]
    assert [dict(layer.schedule) for layer in compiled.lowered.layers] == decided


def test_what_goes_wrong_in_a_process_is_raised_here() -> None:
    for count in (1, 2):
        with workers(count) as crew, pytest.raises(ZeroDivisionError):
            crew.executor.submit(divmod, 1, 0).result()


def test_a_process_that_dies_is_one_line(tmp_path: Path) -> None:
    from os import _exit

    with pytest.raises(WorkerError, match="a worker process ended"):
        with workers(2) as crew:
            crew.executor.submit(_exit, 1).result()


# --- the command ------------------------------------------------------------------------------


def test_the_command_prints_a_table(deploy: Deploy) -> None:
    arguments = ("tune", "net.onnx", "--trials", "6", "--processes", "1", "--log", "s.log")
    found = deploy(*arguments)
    assert (found.code, found.err) == (0, "")
    for words in ("default cycles", "tuned cycles", "ratio", "tile_o=", "Searched 2 of 2 layers"):
        assert words in found.out
    assert len(Path("s.log").read_text().splitlines()) == 2
    assert "Searched 0 of 2 layers" in deploy(*arguments).out
    assert len(Path("s.log").read_text().splitlines()) == 2


def test_the_command_as_json(deploy: Deploy) -> None:
    found = deploy("tune", "net.onnx", "--trials", "6", "--processes", "1", "--log", "s.log",
                   "--json", "--target", "pynq")
    assert (found.code, found.err) == (0, "")
    result = found.json
    assert (result["model"], result["target"], result["trials"]) == ("net", "pynq", 6)
    assert [row["layer"] for row in result["layers"]] == ["first", "second"]
    for row in result["layers"]:
        assert row["ratio"] == row["tuned_cycles"] / row["default_cycles"] <= 1
    assert result["tuned_cycles"] == sum(row["tuned_cycles"] for row in result["layers"])


def test_no_calibration_is_no_reason_to_warn(deploy: Deploy) -> None:
    Path("net.json").unlink()
    found = deploy("tune", "net.onnx", "--trials", "1", "--processes", "1")
    assert (found.code, found.err) == (0, "")


def test_the_next_compilation_takes_the_log(deploy: Deploy) -> None:
    tuned = deploy("tune", "net.onnx", "--trials", "6", "--processes", "1", "--log", "s.log",
                   "--json").json
    compiled = deploy("compile", "net.onnx", "--log", "s.log", "--json").json
    assert [row["tiles"] for row in compiled["layers"]] == [
        " ".join(f"{key}={value}" for key, value in row["schedule"].items())
        for row in tuned["layers"]
    ]


def test_the_command_tunes_what_a_compilation_has_on_vta(deploy: Deploy) -> None:
    write_wide_net(Path("wide.onnx"))
    small = replace(PYNQ, name="small", log_inp_buff_size=11, log_acc_buff_size=13)
    Path("small.json").write_text(json.dumps(small.to_json()))
    shared = ("wide.onnx", "--target", "small.json", "--log", "s.log", "--json")
    tuned = deploy("tune", *shared, "--trials", "2", "--processes", "1")
    assert (tuned.code, tuned.err) == (0, "")
    compiled = deploy("compile", *shared).json
    assert [row["device"] for row in compiled["placement"]] == ["vta", "host"]
    assert [row["layer"] for row in tuned.json["layers"]] == ["narrow"]
    assert [row["name"] for row in compiled["layers"]] == ["narrow"]
    assert tuned.json["searched"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.onnx",), ("missing.onnx",)),
        (("net.onnx", "--trials", "0"), ("--trials", "from 1 on")),
        (("net.onnx", "--processes", "x"), ("--processes",)),
        (("net.onnx", "--log", "."), ("Is a directory",)),
        (("net.onnx", "--log", "net.onnx/s.log"), ("Not a directory",)),
        (("net.onnx", "--target", "vax"), ("vax",)),
        (("net.onnx", "--calib", "d.npz#none"), ("none",)),
        (("net.onnx", "--scheduler", "tcp://h:1", "--processes", "2"), ("leave --processes out",)),
    ],
)
def test_mistakes_are_one_line(
    deploy: Deploy, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(deploy("tune", *arguments), *words)


def test_ctrl_c_keeps_what_was_found(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Entry:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return search.entry_of(*arguments)

    monkeypatch.setattr("vtaflow.tuning.entry_of", interrupted)
    found = deploy("tune", "net.onnx", "--trials", "2", "--processes", "1", "--log", "s.log")
    assert found.code == INTERRUPTED
    assert len(Path("s.log").read_text().splitlines()) == 1
