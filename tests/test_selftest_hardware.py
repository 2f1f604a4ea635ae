"""`deploy selftest` on hardware: probes, then programs, and a description that other verbs take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vtaflow import cli
from vtaflow.backend.target import Target
from vtaflow.runtime import board as board_module
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.selftest_cases import CASES
from vtaflow.runtime.silicon import Silicon

from .boards import MODELS, PYNQ, bit_file

Deploy = Callable[..., tuple[int, str, str]]
MODEL = str(MODELS / "fashion_mlp.onnx")


@pytest.fixture
def deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Deploy:
    """Runs a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def emulate(monkeypatch: pytest.MonkeyPatch, silicon: Silicon) -> None:
    """Emulated boards have this silicon."""

    def make(target: Target, **options: Any) -> EmulatedBoard:
        return EmulatedBoard(target, silicon=silicon, **options)

    monkeypatch.setattr(board_module, "EmulatedBoard", make)


def test_a_board_is_measured_and_then_compiled_for(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(PYNQ.timing, read_latency=90)
    emulate(monkeypatch, Silicon(timing=slow, gemm_distance=5))
    code, out, err = deploy("selftest", "--target", "emulator", "-o", "my_board.json")
    assert (code, err) == (0, "")
    assert "accumulator distance  ok      exact from 5 (GEMM) and 3 (ALU)" in out
    assert "Measured: timing.read_latency 90 (described: 55)" in out
    assert "Measured: acc_dep_distance 6 (described: 4)" in out
    assert f"{len(CASES)} of {len(CASES)} programs passed on target pynq" in out
    assert out.endswith("Written: my_board.json, for --target\n")
    mine = Target.load("my_board.json")
    assert (mine.timing, mine.acc_dep_distance, mine.base_registers) == (slow, 6, True)

    code, out, _ = deploy(MODEL, "--target", "my_board.json", "--device", "emulator", "--json")
    found = json.loads(out)
    assert code == 0 and found["compared_bytes"] == 40
    usual = json.loads(deploy("compile", MODEL, "--target", "pynq", "--json", "-o", "p.vta")[1])
    assert found["estimated_cycles"] > usual["estimated_cycles"]


def test_a_board_that_cannot_be_trusted_runs_nothing_more(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    emulate(monkeypatch, Silicon(stale_loads=True))
    arguments = ("selftest", "--target", "pynq", "--device", "emulator", "-o", "b.json")
    code, out, _ = deploy(*arguments)
    assert code == 1 and "store then load       FAILED  a LOAD of what the same launch" in out
    assert "0 of 0 programs passed" in out and "No program was run, nothing written" in out
    assert not (tmp_path / "b.json").exists()
    found = json.loads(deploy(*arguments, "--json")[1])
    assert found["tests"] == [] and found["capabilities"]["passed"] is False


def test_the_bitstream_is_named(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "vta.bit").write_bytes(bit_file())
    code, out, _ = deploy("selftest", "--target", "emulator", "--bitstream", "vta.bit")
    assert code == 0 and "Bitstream sha256: " in out and "To keep what was measured: -o" in out


def test_on_a_board_it_is_the_board_that_is_tested(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "No board was used" in deploy("selftest", "--target", "pynq")[1]
    tree = tmp_path / "compatible"
    tree.write_bytes(b"digilent,zynq-pynqz1\0xlnx,zynq-7000\0")
    monkeypatch.setattr(board_module, "DEVICE_TREE", tree)
    monkeypatch.setenv("VTA_CACHE_PATH", str(tmp_path))
    code, _, err = deploy("selftest", "--target", "pynq")
    assert code == 2 and "no bitstream for target 'pynq'" in err
    assert deploy("selftest", "--target", "sim")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "pynq", "-o", "x.json"), "are for hardware: --device board or emulator"),
        (("--bitstream", "x.bit"), "are for hardware: --device board or emulator"),
        (("--target", "pynq", "--device", "toaster"), "there is no device 'toaster'"),
        (("--target", "emulator", "-o", "none/x.json"), "there is no folder 'none'"),
        (("--target", "emulator", "--bitstream", "x.bit"), "x.bit"),
        (("--target", "sim", "--device", "emulator"), "design fsim"),
    ],
)
def test_mistakes(deploy: Deploy, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = deploy("selftest", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
