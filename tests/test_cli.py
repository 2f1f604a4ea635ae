"""The `deploy` command: what it prints where, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vtaflow import __version__, cli
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.target import Target
from vtaflow.cli import samples
from vtaflow.cli.outcome import BROKEN_PIPE, INTERRUPTED, UsageError
from vtaflow.cli.output import banner
from vtaflow.cli.verbs import VERBS
from vtaflow.report.inspect import inspect_text
from vtaflow.report.model import broken_limits, model_report, model_text
from vtaflow.report.tables import table
from vtaflow.runtime import selftest
from vtaflow.runtime.comparison import Accuracy, Comparison, compare_tensors
from vtaflow.runtime.counters import COUNTERS
from vtaflow.runtime.selftest import ProgramResult
from vtaflow.runtime.selftest_cases import CASES

from .artifacts import Manifest, example

Deploy = Callable[..., "Outcome"]


class Outcome:
    """What one command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def write_model(path: Path, op: str = "Relu", features: int | str = 12) -> Path:
    """x[N,12] -> Gemm -> op -> Gemm -> y[N,5], with trained-looking weights."""
    random = np.random.default_rng(0)
    tensors = {
        "w0": random.standard_normal((20, 12)) / 3,
        "b0": random.standard_normal(20) / 9,
        "w1": random.standard_normal((5, 20)) / 4,
        "b1": random.standard_normal(5) / 9,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
            helper.make_node(op, ["h"], ["r"], "middle"),
            helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], "second", transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array.astype("f4"), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def forward(x: Any) -> Any:
    """The classes that the model of `write_model` finds, computed from its file's weights."""
    random = np.random.default_rng(0)
    w0, b0 = random.standard_normal((20, 12)) / 3, random.standard_normal(20) / 9
    w1, b1 = random.standard_normal((5, 20)) / 4, random.standard_normal(5) / 9
    return (np.maximum(x @ w0.T + b0, 0) @ w1.T + b1).argmax(axis=1)


@pytest.fixture
def deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Deploy:
    """Runs a command in an empty folder with net.onnx, its recipe and its data."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "net.onnx")
    x = np.random.default_rng(1).standard_normal((120, 12)).astype("f4")
    np.savez(tmp_path / "d.npz", calib=x[:40], test=x[40:], labels=forward(x[40:]))
    (tmp_path / "net.json").write_text(
        json.dumps({"calibration": "d.npz#calib", "test": "d.npz#test", "labels": "d.npz#labels"})
    )

    def run(*arguments: str) -> Outcome:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one line on stderr that holds the words, nothing on stdout."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("deploy: error: ")
    for word in words:
        assert word in outcome.err, outcome.err


# --- the one-shot command ----------------------------------------------------------------------


def test_one_shot_prints_everything(deploy: Deploy) -> None:
    found = deploy("net.onnx", "--target", "pynq", "-o", "net.vta")
    assert (found.code, found.err) == (0, "")
    for heading in ("Placement", "Layers on VTA", "Outputs against float32", "Accuracy"):
        assert heading in found.out
    for words in ("fused into first", "est. cycles", "least SQNR: ", "tile_o=", "top-1 agreement"):
        assert words in found.out
    assert all(counter in found.out for counter in COUNTERS)
    assert "Arena: " in found.out and "Compile time: " in found.out
    assert "pynq ran on the simulator, with the semantics of that design (hls)" in found.out
    assert Artifact.load("net.vta").target.name == "pynq"


def test_one_shot_json(deploy: Deploy) -> None:
    found = deploy("net.onnx", "--json")
    assert found.code == 0
    result = found.json
    assert result["schema_version"] == 1
    assert (result["model"], result["target"]) == ("net", "sim")
    assert [row["node"] for row in result["placement"]] == ["first", "middle", "second"]
    assert result["placement"][0].keys() == {"node", "op", "device", "reason"}
    assert [layer["macs"] for layer in result["layers"]] == [240, 100]
    qualities = {layer["name"]: layer["sqnr_db"] for layer in result["layers"]}
    assert result["worst_layers"] == sorted(qualities, key=lambda name: qualities[name])
    for layer in result["layers"]:
        assert layer["sqnr_db"] > 20
        assert layer["estimated_cycles"] > 0
    assert result["outputs"].keys() == {"y"}
    assert result["outputs"]["y"]["cosine"] > 0.99
    assert 0.8 < result["outputs"]["y"]["top1_agreement"] <= 1
    assert result["outputs"]["y"]["max_abs_error"] > 0
    assert result["accuracy"]["cpu"] == 1.0
    assert result["accuracy"]["target"] == result["outputs"]["y"]["top1_agreement"]
    assert result["counters"].keys() == set(COUNTERS)
    assert type(result["launches"]) is int
    assert result["launches"] == 1
    assert result["samples"] == 80
    assert min(result["arena_bytes"], result["compile_seconds"], result["run_seconds"]) > 0
    assert result["warnings"] == []


def test_the_note_about_the_board_is_beside_the_json(deploy: Deploy) -> None:
    found = deploy("net.onnx", "--target", "pynq", "--json")
    assert found.json["notes"] and found.json["notes"][0] in found.err
    assert deploy("net.onnx", "--target", "pynq", "--json", "-q").err == ""


def test_quiet_says_nothing(deploy: Deploy) -> None:
    found = deploy("net.onnx", "-q")
    assert (found.code, found.out, found.err) == (0, "", "")


def test_verbose_names_the_stages(deploy: Deploy) -> None:
    found = deploy("net.onnx", "-v", "--json")
    assert found.json["model"] == "net"
    for stage in ("import", "place", "quantise", "pack", "lower", "assemble"):
        assert f" s  {stage}\n" in found.err


def test_random_calibration_is_warned_of_before_and_after(deploy: Deploy) -> None:
    Path("net.json").unlink()
    for options in ([], ["--json"], ["-q"]):
        found = deploy("net.onnx", *options)
        assert found.code == 0
        assert found.err.count("* WARNING: NO CALIBRATION DATA") == 2
    assert "NO CALIBRATION DATA" in deploy("net.onnx", "--json").json["warnings"][0]
    assert deploy("net.onnx", "--calib", "d.npz#calib").err == ""


def test_options_override_the_recipe(deploy: Deploy) -> None:
    assert deploy("net.onnx", "--json").json["samples"] == 80
    found = deploy("net.onnx", "--input", "d.npz#calib", "--json").json
    assert (found["samples"], found["accuracy"]) == (40, None)
    Path("other.json").write_text('{"calibration": "d.npz#calib"}')
    found = deploy("net.onnx", "--recipe", "other.json", "--json").json
    assert (found["samples"], found["accuracy"]) == (64, None)


def test_the_seed_makes_random_data(deploy: Deploy) -> None:
    Path("net.json").unlink()
    errors = [
        deploy("net.onnx", "--json", "--seed", seed).json["outputs"]["y"]["max_abs_error"]
        for seed in ("1", "1", "2")
    ]
    assert errors[0] == errors[1] != errors[2]


def test_preprocessing_ends_up_in_the_artifact(deploy: Deploy) -> None:
    recipe = json.loads(Path("net.json").read_text())
    recipe["inputs"] = {"x": {"preprocessing": {"scale": 0.5}}}
    Path("net.json").write_text(json.dumps(recipe))
    deploy("compile", "net.onnx")
    assert Artifact.load("net.vta").manifest["preprocessing"]["x"]["scale"] == 0.5
    raw = deploy("run", "net.vta", "--input", "d.npz#test", "-o", "raw.npz")
    done = deploy("run", "net.vta", "--input", "d.npz#test", "--preprocessed", "-o", "done.npz")
    assert raw.code == done.code == 0
    with np.load("raw.npz") as one, np.load("done.npz") as other:
        assert not np.array_equal(one["y"], other["y"])


def test_stages_are_dumped(deploy: Deploy) -> None:
    assert deploy("net.onnx", "--dump-stages", "deep/stages", "-q").code == 0
    names = sorted(os.listdir("deep/stages"))
    assert names[0] == "00-import.txt"
    assert names[-1].endswith("-assemble.txt")
    assert "Gemm" in Path("deep/stages/00-import.txt").read_text()


def test_stopping_after_a_stage(deploy: Deploy) -> None:
    for verb in ([], ["compile"], ["compare"]):
        found = deploy(*verb, "net.onnx", "--stop-after", "place")
        assert (found.code, found.err) == (0, "")
        assert "@vta" in found.out
    assert not Path("net.vta").exists()


def test_overrides_reach_the_compiler(deploy: Deploy) -> None:
    found = deploy("net.onnx", "--place", "second=host", "--batch", "3", "--json").json
    assert [row["device"] for row in found["placement"]] == ["vta", "vta", "host"]
    assert found["batch"] == 3
    found = deploy("net.onnx", "--tiles", "first:tile_o=1", "--json").json
    assert "tile_o=1" in found["layers"][0]["tiles"]


# --- limits ------------------------------------------------------------------------------------


def test_limits_that_are_kept(deploy: Deploy) -> None:
    assert deploy("net.onnx", "--min-sqnr", "10", "--max-drop", "50").code == 0


def test_a_broken_limit_exits_with_1(deploy: Deploy) -> None:
    found = deploy("net.onnx", "--min-sqnr", "90")
    assert found.code == 1
    assert "deploy: failed: output 'y': SQNR" in found.err
    assert "Outputs against" in found.out
    found = deploy("compare", "net.onnx", "--max-drop", "-100")
    assert found.code == 1
    assert "deploy: failed: accuracy dropped by" in found.err
    found = deploy("net.onnx", "--input", "d.npz#calib", "--max-drop", "5")
    assert found.code == 1
    assert "needs labels" in found.err


def test_bytes_that_differ_exit_with_1(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtaflow import evaluate

    monkeypatch.setattr(evaluate, "_mismatch", lambda *_: "'y' of sample 3 [3, 0]: expected 1")
    found = deploy("net.onnx")
    assert found.code == 1
    assert "deploy: failed: 'y' of sample 3 [3, 0]: expected 1" in found.err


# --- verbs -------------------------------------------------------------------------------------


def test_compile_writes_the_artifact(deploy: Deploy) -> None:
    found = deploy("compile", "net.onnx", "--target", "ultra96")
    assert (found.code, found.err) == (0, "")
    assert "Written: net.vta" in found.out
    assert Artifact.load("net.vta").target.name == "ultra96"
    first = Path("net.vta").read_bytes()
    result = deploy("compile", "net.onnx", "--target", "ultra96", "--json").json
    assert Path("net.vta").read_bytes() == first
    assert (result["outputs"], result["accuracy"], result["run_seconds"]) == ({}, None, None)
    assert sorted(os.listdir()) == ["d.npz", "net.json", "net.onnx", "net.vta"]


def test_run_writes_the_outputs(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    found = deploy(
        "run", "net.vta", "--input", "d.npz#test", "--labels", "d.npz#labels", "-o", "out.npz"
    )
    assert (found.code, found.err) == (0, "")
    assert "Accuracy: " in found.out
    assert "80x5" in found.out
    with np.load("out.npz") as outputs:
        assert outputs["y"].shape == (80, 5)
    result = deploy("run", "net.vta", "--json").json
    assert (result["samples"], result["accuracy"]) == (64, None)
    assert result["outputs"]["y"] == {"shape": [64, 5], "dtype": "float32"}
    assert result["counters"].keys() == set(COUNTERS)


def test_run_on_another_target_of_the_same_geometry(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    found = deploy("run", "net.vta", "--target", "pynq")
    assert found.code == 0
    assert "on target pynq" in found.out
    assert "No board was used" in found.out


def test_compare_with_an_artifact(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    found = deploy("compare", "net.onnx", "net.vta", "--json")
    assert found.code == 0
    assert found.json["outputs"]["y"]["cosine"] > 0.99
    assert found.json["accuracy"]["cpu"] == 1.0
    assert deploy("compare", "net.onnx").code == 0


def test_compare_with_an_artifact_of_another_model(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    write_model(Path("other.onnx"), "Sigmoid")
    refused(deploy("compare", "other.onnx", "net.vta"), "net.vta: was not compiled from other.onnx")
    refused(deploy("compare", "none.onnx", "net.vta"), "none.onnx: cannot be read: No such file")


def test_inspect(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    found = deploy("inspect", "net.vta")
    assert (found.code, found.err) == (0, "")
    for words in ("Fingerprint: HW_VER=0.0.2", "launch 0: ", "Memory map", "first.weight"):
        assert words in found.out
    schedule = deploy("inspect", "net.vta", "--schedule").out
    assert "GEMM" in schedule and "layer first" in schedule
    listing = deploy("inspect", "net.vta", "--asm").out.splitlines()
    assert listing[-1].split()[1] == "FINISH"
    assert any("; first, middle" in line for line in listing)
    assert deploy("inspect", "net.vta", "--json").json["format"] == "vtaflow-artifact"


def test_launches_are_recorded_and_replayed(deploy: Deploy) -> None:
    found = deploy("compile", "net.onnx", "--record-launches", "deep/rec")
    assert (found.code, found.err) == (0, "")
    path = "deep/rec/net_run00.npz"
    assert f"Recorded: {path}" in found.out
    result = deploy("replay", path, path, "--json")
    assert result.code == 0
    assert [one["passed"] for one in result.json["launches"]] == [True, True]
    assert result.json["launches"][0]["counters"].keys() == set(COUNTERS)
    with np.load(path) as record:
        changed = dict(record)
    changed["post_data"][3] ^= 1
    np.savez("wrong.npz", **changed)
    result = deploy("replay", path, "wrong.npz")
    assert result.code == 1
    assert "FAILED: DRAM differs at address 0x" in result.out
    refused(deploy("replay", "none.npz"), "none.npz")
    refused(deploy("replay", "d.npz"), "d.npz", "recorded launch")


def test_the_self_test(deploy: Deploy) -> None:
    found = deploy("selftest", "--target", "pynq", "--json")
    assert (found.code, found.json["target"]) == (0, "pynq")
    first = found.json["tests"][0]
    assert first.keys() >= {"name", "passed", "counters", "estimated_cycles"}
    assert (first["name"], first["passed"]) == ("blocked_matmul", True)
    assert first["counters"]["gemm_counter"] == 4096


def test_the_self_test_fails(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        ProgramResult("good", True, {"gemm_counter": 4096}, 262144),
        ProgramResult("shift", False, {"gemm_counter": 1}, 5, "y[0]: expected 1, found 2"),
        ProgramResult("large", None, {}, 0, "not for this target"),
    ]
    monkeypatch.setattr(selftest, "run_selftest", lambda *arguments: results)
    found = deploy("selftest")
    assert found.code == 1
    assert [line.split()[:3] for line in found.out.splitlines() if line][1:] == [
        ["good", "ok", "262144"],
        ["shift", "FAILED", "5"],
        ["large", "not", "run"],
        ["shift:", "y[0]:", "expected"],
        ["large:", "not", "for"],
        ["1", "of", "3"],
    ]


def test_the_self_test_of_another_geometry(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The programs are compiled where the compiler is, else each says why it did not run."""
    target = {**Target.load("sim").to_json(), "TARGET": "mine", "LOG_ACC_BUFF_SIZE": 16}
    (tmp_path / "mine.json").write_text(json.dumps(target))
    found = deploy("selftest", "--target", str(tmp_path / "mine.json"))
    assert (found.code, found.out.count(" ok ")) == (0, len(CASES))
    monkeypatch.setitem(sys.modules, "vtaflow.selftest_programs", None)
    found = deploy("selftest", "--target", str(tmp_path / "mine.json"))
    assert found.code == 1
    assert found.out.count("the compiler needs vtaflow.selftest_programs") == len(CASES)


@pytest.mark.parametrize(("missing", "model"), [("onnx", "net.onnx"), ("tqdm", "net.vta")])
def test_what_a_board_lacks_is_named(deploy: Deploy, missing: str, model: str) -> None:
    assert deploy("compile", "net.onnx").code == 0
    verb = [] if model.endswith(".onnx") else ["run"]
    source = f"""
import sys
sys.modules[{missing!r}] = None
from vtaflow.cli import main
sys.exit(main({[*verb, model]!r}))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    found = Outcome(done.returncode, done.stdout, done.stderr)
    refused(found, f"this needs {missing}, which is not installed", "on a board")


def test_help_and_version(deploy: Deploy) -> None:
    found = deploy("--help")
    assert found.code == 0
    for verb in VERBS:
        assert verb.name in found.out
        assert deploy(verb.name, "--help").code == 0
    assert deploy("--version").out == f"vtaflow {__version__}\n"


# --- mistakes ----------------------------------------------------------------------------------


def an_artifact(path: str, change: Any = None) -> None:
    manifest, members = example()
    if change:
        change(manifest)
    Artifact.create(manifest, members).save(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["required: MODEL.onnx", "deploy --help"]),
        (["frobnicate", "net.onnx"], ["no verb 'frobnicate'", "compile, run"]),
        (["net.onnx", "--frobnicate"], ["unrecognized arguments: --frobnicate"]),
        (["net.vta"], ["compiled already: deploy run net.vta"]),
        (["net.onnx", "--batch", "0"], ["argument --batch", "from 1 on, found '0'"]),
        (["net.onnx", "--batch", "x"], ["argument --batch"]),
        (["net.onnx", "--place", "first=moon"], ["NODE=vta or NODE=host, found 'first=moon'"]),
        (["net.onnx", "--place", "none=vta"], ["'none'"]),
        (["net.onnx", "--tiles", "first"], ["LAYER:KEY=VALUE"]),
        (["net.onnx", "--tiles", "none:tile_o=1"], ["'none'"]),
        (["net.onnx", "--tiles", "first:tile_o=9999"], ["tile_o"]),
        (["net.onnx", "--calib-method", "magic"], ["argument --calib-method: invalid choice"]),
        (["net.onnx", "--stop-after", "never"], ["no stage 'never'; stages: import"]),
        (["none.onnx"], ["none.onnx", "No such file"]),
        (["text.onnx"], ["text.onnx", "no ONNX model"]),
        (["cut.onnx"], ["cut.onnx", "no ONNX model"]),
        (["empty.onnx"], ["empty.onnx", "empty"]),
        (["."], [".: is not a file"]),
        (["odd.onnx"], ["odd.onnx", "'middle'", "Det"]),
        (["dynamic.onnx"], ["dynamic.onnx", "axis 1 (F)"]),
        (["net.onnx", "--target", "none"], ["no such target", "bundled targets are sim"]),
        (["net.onnx", "--target", "bad.json"], ["bad.json: key TARGET is missing"]),
        (["net.onnx", "--target", "text.onnx"], ["text.onnx: not legal JSON"]),
        (["net.onnx", "--target", "big.json"], ["big.json", "LOG_BLOCK"]),
        (["net.onnx", "--calib", "none.npz"], ["none.npz: cannot read arrays: No such file"]),
        (["net.onnx", "--calib", "text.onnx"], ["text.onnx: cannot read arrays: is no .npy"]),
        (["net.onnx", "--calib", "d.npz#none"], ["no array 'none', only calib, test, labels"]),
        (["net.onnx", "--calib", "d.npz"], ["say which array to use: d.npz#calib"]),
        (["net.onnx", "--calib", "wrong.npy"], ["input 'x': samples have shape (7,), expected"]),
        (["net.onnx", "--calib", "nan.npy"], ["nan.npy: input 'x': nan at index (1, 2)"]),
        (["net.onnx", "--input", "nan.npy"], ["nan.npy: input 'x': nan at index (1, 2)"]),
        (["net.onnx", "--labels", "d.npz#calib"], ["labels are integers"]),
        (["net.onnx", "--labels", "few.npy"], ["few.npy: 3 labels for 80 samples"]),
        (["net.onnx", "--labels", "large.npy", "-o", "net.vta"],
         ["labels range from 7 to 7", "5 classes"]),
        (["net.onnx", "--recipe", "none.json"], ["none.json: cannot read: No such file"]),
        (["net.onnx", "--recipe", "bad.json"], ["bad.json: unknown field 'LOG_BLOCK'"]),
        (["net.onnx", "--recipe", "input.json"], ["the model has no input 'image', it has x"]),
        (["net.onnx", "--recipe", "labels.json"], ["labels need samples, give them with --input"]),
        (["net.onnx", "-o", "none/net.vta"], ["cannot write: there is no folder 'none'"]),
        (["net.onnx", "-o", "folder"], ["cannot write: it is a folder"]),
        (["net.onnx", "-o", "net.onnx"], ["net.onnx: cannot write: it is the input"]),
        (["net.onnx", "--dump-stages", "bad.json"], ["bad.json: File exists"]),
        (["compile", "net.onnx", "-o", "none/net.vta"], ["cannot write: there is no folder"]),
        (["run", "none.vta"], ["none.vta: cannot read: No such file"]),
        (["run", "text.onnx"], ["text.onnx: not a vtaflow artifact"]),
        (["run", "cut.vta"], ["cut.vta: truncated"]),
        (["run", "flipped.vta"], ["flipped.vta: ", "damaged"]),
        (["run", "future.vta"], ["future.vta: ", "format version is 2"]),
        (["run", "tiny.vta", "--target", "big.json"], ["big.json", "LOG_BLOCK"]),
        (["run", "tiny.vta", "--target", "wide.json"],
         ["LOG_BLOCK 4 (target: 5)", "deploy compile tiny.onnx --target wide -o tiny.vta"]),
        (["run", "tiny.vta", "--device", "toaster"], ["no device 'toaster'; known: sim"]),
        (["run", "tiny.vta", "--labels", "few.npy"], ["labels need samples"]),
        (["run", "tiny.vta", "-o", "tiny.vta"], ["tiny.vta: cannot write: it is the input"]),
        (["run", "tiny.vta", "--input", "d.npz#test"], ["samples have shape (12,)"]),
        (["inspect", "cut.vta"], ["cut.vta: truncated"]),
        (["inspect", "folder"], ["folder: not a regular file"]),
    ],
)
def test_a_mistake(deploy: Deploy, arguments: list[str], words: list[str]) -> None:
    Path("text.onnx").write_text("certainly not a model")
    Path("cut.onnx").write_bytes(Path("net.onnx").read_bytes()[:700])
    Path("empty.onnx").write_bytes(b"")
    write_model(Path("odd.onnx"), op="Det")
    write_model(Path("dynamic.onnx"), features="F")
    Path("folder").mkdir()
    sim = Target.load("sim").to_json()
    Path("bad.json").write_text('{"LOG_BLOCK": 4}')
    Path("big.json").write_text(json.dumps({**sim, "LOG_BLOCK": 9}))
    Path("wide.json").write_text(json.dumps({**sim, "TARGET": "wide", "LOG_BLOCK": 5}))
    Path("input.json").write_text('{"inputs": {"image": {"preprocessing": {}}}}')
    Path("labels.json").write_text('{"labels": "few.npy"}')
    np.save("wrong.npy", np.zeros((4, 7)))
    nan = np.zeros((4, 12))
    nan[1, 2] = np.nan
    np.save("nan.npy", nan)
    np.save("few.npy", np.arange(3))
    np.save("large.npy", np.full(80, 7))
    an_artifact("tiny.vta")
    good = Path("tiny.vta").read_bytes()
    Path("cut.vta").write_bytes(good[:1000])
    middle = good.index(bytes.fromhex("03") + bytes(15))
    Path("flipped.vta").write_bytes(good[:middle] + b"\1" + good[middle + 1 :])
    with zipfile.ZipFile("tiny.vta") as old, zipfile.ZipFile("future.vta", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b'"format_version": 1', b'"format_version": 2'))
    before = sorted(os.listdir())
    refused(deploy(*arguments), *words)
    assert sorted(os.listdir()) == before


def test_every_unsupported_node_is_named_at_once(deploy: Deploy) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Det", ["x"], ["h"], "one"),
            helper.make_node("Det", ["h"], ["y"], "two"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, "odd.onnx")
    refused(deploy("odd.onnx"), "'one'", "'two'", "Det")


def test_a_full_disk(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(deploy("compile", "net.onnx"), "net.vta: cannot write: No space left on device")
    assert sorted(os.listdir()) == ["d.npz", "net.json", "net.onnx"]


def test_a_folder_without_permission(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(deploy("net.onnx", "-o", "net.vta"), "net.vta: cannot write: no permission in '.'")


def test_not_enough_memory(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(samples, "find_recipe", give_up)
    refused(deploy("net.onnx"), "not enough memory")


def test_an_error_of_several_lines_becomes_one(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> Any:
        raise UsageError("first\nsecond")

    monkeypatch.setattr(samples, "find_recipe", fail)
    refused(deploy("net.onnx"), "first second")


def test_a_bug_keeps_its_traceback(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(samples, "find_recipe", fail)
    with pytest.raises(ZeroDivisionError):
        deploy("net.onnx")


# --- processes ---------------------------------------------------------------------------------


def start(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vtaflow", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def test_a_reader_that_goes_away(deploy: Deploy) -> None:
    deploy("compile", "net.onnx", "-q")
    process = start("inspect", "net.vta", "--asm")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == BROKEN_PIPE
    process.stderr.close()


def test_control_c(deploy: Deploy) -> None:
    process = start("net.onnx", "--dump-stages", "stages")
    while not Path("stages/00-import.txt").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (INTERRUPTED, "", "deploy: interrupted\n")


def test_no_bars_where_nobody_watches(deploy: Deploy) -> None:
    process = start("net.onnx")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "\r" not in out and "\x1b" not in out
    assert all(line == line.rstrip() and line.isascii() for line in out.splitlines())


# --- reports -----------------------------------------------------------------------------------


def test_tables_are_aligned() -> None:
    lines = table(("name", "n"), [("a", 5), ("longer", 1234), ("b", "-")])
    assert lines == ["  name       n", "  a          5", "  longer  1234", "  b          -"]
    assert table(("name",), []) == ["  (none)"]


def test_perfect_and_missing_values_have_no_number() -> None:
    one = np.ones((2, 3))
    same = compare_tensors("y", one, one)
    comparison = Comparison((same,), (), Accuracy(0.5, 0.25), {}, 1, 2, 0.1, 0.1, "ort")
    found = model_report(example()[0], "sim", comparison, 0.5)
    assert json.loads(json.dumps(found, allow_nan=False))["outputs"]["y"]["sqnr_db"] is None
    assert found["layers"][0]["sqnr_db"] is None
    assert broken_limits(found, 10, 30) == []
    assert broken_limits(found, None, 20) == ["accuracy dropped by 25.00 points, limit 20"]
    text = "\n".join(model_text(found))
    assert "difference in points   -25.00" in text


def test_the_banner_cannot_be_overlooked() -> None:
    lines = banner("no data")
    assert lines[1] == "* WARNING: no data"
    assert set(lines[0]) == {"*"} and len(lines[0]) >= 40


def test_inspection_shows_notes_and_quantisation() -> None:
    manifest: Manifest = {**example()[0], "preprocessing": {"x": {"scale": 2}}}
    text = "\n".join(inspect_text(manifest))
    assert "Preprocessing of x: {'scale': 2}" in text
    assert "launch 0: 2 instructions" in text
