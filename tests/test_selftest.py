"""The self-test: its programs are what the compiler makes, they pass, and they can fail."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow import selftest_programs
from vtaflow.backend import program
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.checker import check
from vtaflow.backend.commands import Memory
from vtaflow.backend.isa import Isa, Opcode
from vtaflow.backend.profile import PROFILES
from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError, StreamError
from vtaflow.runtime import selftest
from vtaflow.runtime.device import Bytes, LaunchResult
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.selftest import ProgramResult, difference, run_selftest, shipped
from vtaflow.runtime.selftest_cases import CASES, numbers
from vtaflow.runtime.simdevice import SimDevice

SIM = Target.load("sim")
NAMES = [case.__name__ for case in CASES]
FOLDER = Path(selftest.__file__).parent / selftest.FOLDER
LOAD_BOUND = 4096 * 64
"""Cycles that the weights of the matrix multiply take on their way into the chip."""


def problems(results: list[ProgramResult]) -> list[str]:
    return [f"{one.name}: {one.passed} {one.detail}" for one in results if not one.passed]


# --- what is shipped ----------------------------------------------------------------------------


def test_programs_are_the_files() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)
    assert {"blocked_matmul", *selftest_programs.PROGRAMS} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    assert all(case.__doc__ for case in CASES)


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_program_is_what_the_compiler_makes(name: str) -> None:
    """After a change that alters them: python -m vtaflow.selftest_programs."""
    built = selftest_programs.build(SIM, name).to_bytes()
    assert built == (FOLDER / f"{name}.vta").read_bytes()


def test_all_programs_can_be_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest_programs, "CASES", [c for c in CASES if c.__name__ == "copy"])
    selftest_programs.write_all(tmp_path / "programs")
    (written,) = (tmp_path / "programs").iterdir()
    assert written.read_bytes() == (FOLDER / "copy.vta").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_program_is_clean_and_its_memory_apart(name: str) -> None:
    artifact = shipped(name)
    base = 0x0300_0000
    findings = check(
        SIM,
        program.bind(artifact.instructions(0), SIM, base),
        base=base,
        regions=artifact.regions.values(),
        constants=artifact.constants,
        initialised=[tensor["name"] for tensor in artifact.manifest["inputs"]],
    )
    assert findings == []
    spans = sorted((one.start, one.start + one.bytes) for one in artifact.regions.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_the_data_does_not_depend_on_the_version_of_numpy() -> None:
    assert numbers((2, 3), 7).tolist() == [[-51, 59, -18], [-67, -108, 82]]
    assert numbers((4,), 9, -3, 3).tolist() == [1, -2, -1, 2]


# --- it passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["sim", "pynq", "tsim"])
def test_every_program_passes(name: str, order: str) -> None:
    target = Target.load(name)
    results = run_selftest(target, SimDevice(target, order))
    assert problems(results) == []
    assert [one.name for one in results] == NAMES


def test_the_designs_of_the_targets_are_all_of_them() -> None:
    designs = {Target.load(name).design for name in ("sim", "pynq", "tsim")}
    assert designs == PROFILES.keys() - {"portable"}


def test_the_matrix_multiply_is_no_worse_than_the_reference() -> None:
    result = run_selftest(SIM)[0]
    assert result.name == "blocked_matmul" and result.passed
    counters = dict(result.counters)
    assert counters.pop("uop_load_nbytes") <= 20
    assert counters.pop("alu_counter") <= 192
    assert counters.pop("insn_count") < 200
    assert counters == {
        "gemm_counter": 4096,
        "wgt_load_nbytes": 1048576,
        "inp_load_nbytes": 1024,
        "acc_load_nbytes": 0,
        "out_store_nbytes": 1024,
    }
    assert LOAD_BOUND <= result.estimated_cycles <= 1.05 * LOAD_BOUND


def test_the_estimate_is_that_of_the_target_at_hand() -> None:
    slow = replace(SIM, timing=replace(SIM.timing, read_latency=500))
    usual, later = run_selftest(SIM), run_selftest(slow)
    assert usual[0].estimated_cycles == (
        shipped("blocked_matmul").manifest["launches"][0]["estimated_cycles"]
    )
    assert all(a.estimated_cycles < b.estimated_cycles for a, b in zip(usual, later, strict=True))


ALONE = """
import sys
for name in ("onnx", "networkx", "onnxruntime"):
    sys.modules[name] = None
from vtaflow.backend.target import Target
from vtaflow.runtime.selftest import run_selftest
results = run_selftest(Target.load("pynq"))
assert not [name for name in sys.modules if name.startswith(("vtaflow.graph", "vtaflow.schedules"))]
print(sum(one.passed for one in results))
"""


def test_it_runs_without_the_compiler() -> None:
    command = [sys.executable, "-W", "error", "-c", ALONE]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (f"{len(CASES)}\n", "")


# --- it can fail --------------------------------------------------------------------------------


def idle(artifact: Artifact, index: int) -> Artifact:
    """The artifact with instruction `index` doing nothing but pass tokens on."""
    columns = dict(Isa.of(SIM).decode_stream(artifact.instructions(0)).fields)
    for name in ("x_size", "y_size", "y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1", "uop_end"):
        columns[name] = columns[name].copy()
        columns[name][index] = 0
    insns = Isa.of(SIM).encode_stream(columns)
    members = {**artifact.members, "launch0.insns": insns.tobytes()}
    return Artifact.create(dict(artifact.manifest), members)


def working(artifact: Artifact) -> list[int]:
    """Instructions that do something, but for resets and LOAD UOP: what they bring may be zeros,
    which is what SRAM holds when a simulation begins."""
    stream = Isa.of(SIM).decode_stream(artifact.instructions(0))
    moves = (stream.fields["x_size"] > 0) & (
        (stream.opcode == Opcode.STORE) | (stream.fields["memory_type"] != Memory.UOP)
    )
    computes = (stream.fields["uop_end"] > 0) & (stream.fields["reset_reg"] == 0)
    return [int(index) for index in np.flatnonzero(moves | computes)]


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_instruction_matters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.__name__ == name)
    monkeypatch.setattr(selftest, "CASES", [case])
    artifact = shipped(name)
    for index in working(artifact):
        broken = idle(artifact, index)
        monkeypatch.setattr(selftest, "shipped", lambda name, broken=broken: broken)
        (result,) = run_selftest(SIM)
        assert result.passed is False and result.detail, f"instruction {index}"


class Faulty(SimDevice):
    """A device whose outputs have one wrong byte, or that refuses to launch."""

    error: Exception | None = None

    def launch(self, index: int) -> LaunchResult:
        if self.error is not None:
            raise self.error
        return super().launch(index)

    def read(self, region: str) -> Bytes:
        data = super().read(region)
        data[:, 5] ^= 0x80
        return data


def test_a_wrong_byte_fails_every_program() -> None:
    results = run_selftest(SIM, Faulty(SIM))
    for result in results:
        assert result.passed is False
        assert result.detail.startswith("y[0, 0, 5]: expected ")
        assert "(1 of " in result.detail
        assert result.counters["insn_count"] > 0


@pytest.mark.parametrize("error", [StreamError("instruction 3 hangs"), DeviceError("timeout")])
def test_a_device_that_fails_fails_the_program(error: Exception) -> None:
    device = Faulty(SIM)
    device.error = error
    for result in run_selftest(SIM, device):
        assert (result.passed, result.detail, result.counters) == (False, str(error), {})


def test_a_device_that_was_handed_over_stays_open() -> None:
    class Watched(SimDevice):
        closed = 0

        def close(self) -> None:
            Watched.closed += 1
            super().close()

    device = Watched(SIM)
    run_selftest(SIM, device)
    before = Watched.closed
    device.load(shipped("copy"))
    assert Watched.closed == before + 1, "load alone closes what was loaded before"


def test_an_unknown_device_is_the_users_mistake() -> None:
    with pytest.raises(DeviceError, match="no device 'toaster'"):
        run_selftest(SIM, "toaster")


def test_differences_are_told_by_the_first() -> None:
    right = np.arange(12, dtype=np.int8).reshape(3, 1, 4)
    found = right.copy()
    assert difference("y", right, found) == ""
    found[1, 0, 2] = -1
    found[2] = 0
    assert difference("y", right, found) == (
        "y[1, 0, 2]: expected 6, found -1 (5 of 12 values differ)"
    )


# --- other hardware -----------------------------------------------------------------------------

GEOMETRIES: dict[str, dict[str, Any]] = {
    "block 32": {"log_block": 5},
    "batch 2": {"log_batch": 1},
    "batch 4, block 8": {"log_batch": 2, "log_block": 3, "log_wgt_buff_size": 16},
    "distance 7": {"acc_dep_distance": 7},
    "smaller memories": {"log_inp_buff_size": 13, "log_acc_buff_size": 15},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_other_geometries_are_compiled_where_that_is_possible(name: str) -> None:
    target = replace(Target.load("pynq"), **GEOMETRIES[name])
    for order in ("load-first", "store-first"):
        results = run_selftest(target, SimDevice(target, order), selftest_programs.build)
        assert problems(results) == []


def test_without_the_compiler_other_geometries_are_not_run() -> None:
    target = replace(SIM, log_block=5)
    for result in run_selftest(target):
        assert (result.passed, result.counters, result.estimated_cycles) == (None, {}, 0)
        assert "the target has LOG_BLOCK 5 (it: 4); run it where" in result.detail


def test_hardware_that_is_too_small_for_a_program_is_told() -> None:
    target = replace(
        Target.load("pynq"), log_inp_buff_size=9, log_wgt_buff_size=12, log_acc_buff_size=10
    )
    results = {one.name: one for one in run_selftest(target, "sim", selftest_programs.build)}
    assert results["blocked_matmul"].passed and results["copy"].passed
    large = results["padded_load"]
    assert large.passed is None
    assert large.detail.startswith("not for this target: instruction ")
    assert "depth 16" in large.detail
