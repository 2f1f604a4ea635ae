"""The seven probes: each outcome on hardware that has it, and the description made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from vtaflow import InferenceSession
from vtaflow.backend.commands import Memory
from vtaflow.backend.profile import ShiftRule
from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError, StreamError, TargetError
from vtaflow.runtime.board import Board, open_emulator
from vtaflow.runtime.driver import State
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.faults import Faults
from vtaflow.runtime.probe_streams import DATA_BYTES, GUARD_BYTES, Bench
from vtaflow.runtime.probes import PROBES, Capabilities, Finding, probe_board
from vtaflow.runtime.silicon import Silicon

from .boards import DE10, PYNQ, bit_file, compiled, samples, simulated

NAMES = [name for name, _ in PROBES]
QUICK = [name for name in NAMES if name != "timing"]


def probe(name: str, silicon: Silicon | None = None, target: Target = PYNQ) -> Finding:
    """The finding of one probe alone."""
    hardware = EmulatedBoard(target, silicon=silicon, virtual_time=True)
    board = Board(target, hardware)
    (chosen,) = [each for each in PROBES if each[0] == name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", (chosen,))
        (finding,) = probe_board(board).findings
    assert hardware.free_bytes == 128 << 20
    return finding


@lru_cache
def usual() -> Capabilities:
    """All probes on hardware as it was measured."""
    return probe_board(Board(PYNQ, EmulatedBoard(PYNQ, virtual_time=True)))


def test_usual_hardware_passes_and_is_as_described() -> None:
    found = usual()
    assert found.passed and [finding.name for finding in found.findings] == NAMES
    assert found.calibrated() == replace(PYNQ, base_registers=True)
    assert found.findings[1].measured == {"gemm": 3, "alu": 3}
    assert found.findings[4].measured["gemm_fixed"] == pytest.approx(19, abs=0.4)


def test_the_report() -> None:
    report = json.loads(json.dumps(usual().to_json()))
    assert report["differences"] == {"base_registers": {"described": False, "measured": True}}
    assert report["passed"] is True and report["target"] == "pynq" and report["bitstream"] == {}
    assert [one["name"] for one in report["probes"]] == NAMES
    assert report["probes"][5]["text"] == "a LOAD sees the STOREs before it"


def test_what_was_measured_becomes_a_target_file(tmp_path: Path) -> None:
    odd = replace(
        PYNQ.timing, read_latency=40, write_latency=33, gemm_fixed=21, alu_imm_interval=1,
        wgt_cycles_per_beat=1, wgt_fixed=6, acc_row=20, store_fixed=4,
    )
    silicon = Silicon(gemm_distance=4, base_registers="or", timing=odd)
    board = Board(PYNQ, EmulatedBoard(PYNQ, silicon=silicon, virtual_time=True))
    found = probe_board(board)
    mine = found.calibrated()
    # Of a transfer's row, latency and own part cannot be told apart: INP's own part is assumed.
    assert mine.timing == replace(odd, alu_fixed=mine.timing.alu_fixed)
    assert mine.acc_dep_distance == 5 and not mine.base_registers
    path = tmp_path / "my_board.json"
    found.save(path)
    assert Target.load(path) == mine
    with pytest.raises(DeviceError, match="cannot write: No such file"):
        found.save(tmp_path / "absent" / "my_board.json")
    assert mine.fingerprint() == PYNQ.fingerprint()


def test_models_run_by_a_calibrated_target() -> None:
    mine = usual().calibrated()
    artifact = compiled(target=mine)
    feeds = samples(artifact, 2)
    board = open_emulator(mine, virtual_time=True)
    found = InferenceSession(artifact, board.device(), mine).run(None, feeds)
    assert np.array_equal(found[0], simulated(artifact, feeds)[0])


def test_the_capability_key_of_a_description() -> None:
    described = {**PYNQ.to_json(), "base_registers": True}
    assert Target.from_json(described, "x").base_registers is True
    del described["base_registers"]
    assert Target.from_json(described, "x").base_registers is False
    with pytest.raises(TargetError, match="base_registers is 1; it must be true or false"):
        Target.from_json({**described, "base_registers": 1}, "x")


def test_old_hardware_is_recognised_before_it_stores_anything() -> None:
    hardware = EmulatedBoard(PYNQ, silicon=Silicon(hw_ver="0.0.1"), virtual_time=True)
    seen: list[str] = []
    found = probe_board(Board(PYNQ, hardware), seen.append)
    assert seen == ["isa version"] and hardware.violations == []
    assert not found.passed
    assert "reads the encoding of HW_VER 0.0.1" in found.findings[0].text
    assert {finding.text for finding in found.findings[1:]} == {
        "not run: the probe isa version failed"
    }
    with pytest.raises(DeviceError, match="failed the probe 'isa version'"):
        found.calibrated()


def test_that_test_could_fail() -> None:
    """A STORE that old hardware misreads does leave the bench."""
    hardware = EmulatedBoard(PYNQ, silicon=Silicon(hw_ver="0.0.1"), virtual_time=True)
    bench = Bench(Board(PYNQ, hardware))
    script = bench.script()
    script.store(0, GUARD_BYTES, 1)
    with pytest.raises(DeviceError):
        bench.run(script)
    assert "lies in no memory" in hardware.violations[0]


def test_progress_names_every_probe() -> None:
    assert NAMES == [
        "isa version", "accumulator distance", "acc padding", "shift range", "timing",
        "store then load", "base registers",
    ]
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", tuple(p for p in PROBES if p[0] in QUICK))
        probe_board(Board(PYNQ, EmulatedBoard(PYNQ, virtual_time=True)), seen.append)
    assert seen == QUICK


@pytest.mark.parametrize("gemm", range(1, 7))
@pytest.mark.parametrize("alu", [1, 6])
def test_accumulator_distances(gemm: int, alu: int) -> None:
    found = probe("accumulator distance", Silicon(gemm_distance=gemm, alu_distance=alu))
    assert found.passed and found.measured == {"gemm": gemm, "alu": alu}
    assert found.changes == {"acc_dep_distance": max(gemm, alu) + 1}


def test_an_accumulator_that_is_never_right() -> None:
    found = probe("accumulator distance", Silicon(gemm_distance=9))
    assert not found.passed and "wrong even 6 micro-ops apart" in found.text


@pytest.mark.parametrize(
    ("pads", "text"), [(True, "inserts zeros"), (False, "ignores its pads")]
)
def test_pads_of_accumulators(pads: bool, text: str) -> None:
    found = probe("acc padding", Silicon(acc_pads=pads))
    assert found.passed and found.text == f"LOAD ACC {text} (not relied upon)"
    assert found.measured == {"acc_pads": pads}


@pytest.mark.parametrize(
    ("rule", "where"), [(ShiftRule.SIGNED5, "left"), (ShiftRule.MAGNITUDE5, "right")]
)
def test_shifts(rule: ShiftRule, where: str) -> None:
    found = probe("shift range", Silicon(shr_imm=rule))
    assert found.passed and found.measured == {"shr_16": where}


def test_shifts_that_compiled_code_cannot_use() -> None:
    found = probe("shift range", Silicon(shr_imm=ShiftRule.UNSIGNED5))
    assert not found.passed and "SHR by 15 and by -16 left 0x68" in found.text


@pytest.mark.parametrize("stale", [False, True])
def test_loads_of_what_was_stored(stale: bool) -> None:
    found = probe("store then load", Silicon(stale_loads=stale))
    assert found.passed is not stale
    if stale:
        assert "saw [17, 17," in found.text and "cannot run in one launch" in found.text


@pytest.mark.parametrize("kind", ["add", "or", "ignored"])
@pytest.mark.parametrize("base", [0x1600_0000, 0x1600_8000, 0x1600_F000])
def test_base_registers(kind: str, base: int) -> None:
    hardware = EmulatedBoard(
        PYNQ, silicon=Silicon(base_registers=kind), base=base, virtual_time=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", (PROBES[-1],))
        (found,) = probe_board(Board(PYNQ, hardware)).findings
    effect = {"add": "added", "or": "OR-ed", "ignored": "ignored"}[kind]
    assert found.passed and set(found.measured.values()) == {effect}
    assert found.changes == {"base_registers": kind == "add"}
    assert hardware.violations == []


def test_a_wrong_clock_is_noticed() -> None:
    slow = replace(PYNQ, clock_mhz=150)
    hardware = EmulatedBoard(PYNQ, virtual_time=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", (PROBES[4],))
        (found,) = probe_board(Board(slow, hardware)).findings
    assert not found.passed and "is the clock 150 MHz?" in found.text


def test_hardware_that_hangs_is_reprogrammed() -> None:
    hardware = EmulatedBoard(PYNQ, faults=Faults(never_done=True, runs=1), virtual_time=True)
    board = Board(PYNQ, hardware)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", PROBES[2:4])
        found = probe_board(board)
    assert not found.passed and "the hardware hung: VTA did not finish" in found.findings[0].text
    assert board.state is State.READY and hardware.programmed == 2


def test_hardware_that_cannot_add() -> None:
    """As if a bitstream of something else answered: every ADD gives its operand."""
    hardware = EmulatedBoard(PYNQ, faults=Faults(flip_store=0), virtual_time=True)
    found = probe_board(Board(PYNQ, hardware)).findings[0]
    assert not found.passed and "0 + 3 gave [2, 3, 3," in found.text


@pytest.mark.parametrize("name", ["acc padding", "shift range"])
def test_results_that_make_no_sense(name: str) -> None:
    hardware = EmulatedBoard(PYNQ, faults=Faults(flip_store=0), virtual_time=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", tuple(p for p in PROBES if p[0] == name))
        assert not probe_board(Board(PYNQ, hardware)).passed


def test_chisel_is_probed_too() -> None:
    found = {name: probe(name, target=DE10) for name in NAMES}
    assert all(finding.passed for finding in found.values())
    assert found["accumulator distance"].measured == {"gemm": 1, "alu": 3}
    assert found["base registers"].changes == {"base_registers": False}
    assert set(found["base registers"].measured.values()) == {"OR-ed"}
    timing = found["timing"].changes["timing"]
    assert timing == DE10.timing


def test_the_bitstream_is_part_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "vta.bit"
    path.write_bytes(bit_file())
    board = open_emulator(PYNQ, path, virtual_time=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtaflow.runtime.probes.PROBES", PROBES[:1])
        report = probe_board(board).to_json()
    assert report["bitstream"]["path"] == str(path) and len(report["bitstream"]["sha256"]) == 64
    assert report["bitstream"]["date"] == "2020/06/30"


def test_the_bench_guards_its_borders() -> None:
    bench = Bench(Board(PYNQ, EmulatedBoard(PYNQ, virtual_time=True)))
    for start, size in ((0, 1), (DATA_BYTES, 1), (DATA_BYTES - 16, 2)):
        script = bench.script()
        script.load(Memory.INP, 0, start, size)
        with pytest.raises(StreamError, match="leaves the bench"):
            bench.run(script)
        with pytest.raises(StreamError, match="leave the bench"):
            bench.put(start, np.zeros(16 * size), "i1")
    script = bench.script()
    script.store(0, DATA_BYTES - 0x8000, 1)
    with pytest.raises(StreamError, match="leaves the bench"):
        bench.run(script, out=0x8000)
    long = bench.script()
    for _ in range(1 << 13):
        long.gemm(1)
    with pytest.raises(StreamError, match="does not fit the bench"):
        bench.run(long)
