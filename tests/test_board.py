"""A board and its devices: the same bytes as the simulator, several artifacts, and safety."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vtaflow import InferenceSession
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.isa import Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.errors import ArtifactError, DeviceError, StreamError
from vtaflow.runtime import board_device, emulated_vta
from vtaflow.runtime.board import (
    LOADED,
    Board,
    emulator_device,
    open_board,
    open_emulator,
)
from vtaflow.runtime.driver import RunTimeout, State
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.faults import Faults
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.silicon import Silicon
from vtaflow.runtime.simdevice import SimDevice

from .boards import DE10, PYNQ, bit_file, compiled, samples, simulated, waiting_job


def emulated(target: Target = PYNQ, **options: Any) -> tuple[EmulatedBoard, Board]:
    hardware = EmulatedBoard(target, virtual_time=True, **options)
    return hardware, Board(target, hardware)


def launches(hardware: EmulatedBoard) -> int:
    """How often fetch (or VCR) was started, as far as the log goes."""
    return sum(one.kind == "write" and one.offset == 0 and one.value == 1 for one in hardware.log)


@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_mlp_odd"])
def test_a_model_gives_the_bytes_of_the_simulator(name: str) -> None:
    artifact = compiled(name)
    feeds = samples(artifact, 5)
    hardware, board = emulated()
    session = InferenceSession(artifact, board.device(), PYNQ)
    found = session.run(None, feeds)
    for one, right in zip(found, simulated(artifact, feeds), strict=True):
        assert np.array_equal(one, right)
    assert session.last_run is not None
    estimated = artifact.manifest["launches"][0]["estimated_cycles"] / 100e6
    assert 5 * estimated <= session.last_run.device_seconds < 5 * 1.3 * estimated
    assert session.last_run.counters["gemm_counter"] > 0
    assert hardware.violations == [] and launches(hardware) == 5


def test_every_tensor_in_memory_has_the_bytes_of_the_simulator() -> None:
    """Padding lanes included, layer by layer."""
    artifact = compiled(keep_intermediates=True)
    _, board = emulated()
    device, simulator = board.device(), SimDevice(PYNQ)
    rng = np.random.default_rng(1)
    inputs = {
        one.name: rng.integers(0, 256, (1, one.bytes), np.uint8)
        for one in artifact.regions.values()
        if one.kind == "input"
    }
    for each in (device, simulator):
        each.load(artifact)
        for name, data in inputs.items():
            each.write(name, data)
    results = [device.launch(0), simulator.launch(0)]
    assert results[0].counters == results[1].counters
    changing = [one.name for one in artifact.regions.values() if one.kind != "constant"]
    assert len(changing) > 3
    for name in changing:
        assert np.array_equal(device.read(name), simulator.read(name)), name
        assert device.read(name).any(), name


@pytest.mark.parametrize("base", [0x1000_0000, 0x1FF0_1000, 0x0000_1000, 0xF000_0000])
def test_an_arena_can_lie_anywhere(base: int) -> None:
    artifact = compiled()
    feeds = samples(artifact, 1)
    hardware, board = emulated(base=base, memory_bytes=1 << 20)
    found = InferenceSession(artifact, board.device(), PYNQ).run(None, feeds)
    assert np.array_equal(found[0], simulated(artifact, feeds)[0])


def test_base_registers_where_the_target_says_that_they_work() -> None:
    artifact = compiled()
    feeds = samples(artifact, 1)
    target = replace(PYNQ, base_registers=True)
    hardware, board = emulated(target)
    device = board.device()
    found = InferenceSession(artifact, device, target).run(None, feeds)
    assert np.array_equal(found[0], simulated(artifact, feeds)[0])
    bases = {one.value for one in hardware.log if one.block == "load" and one.offset == 0x10}
    assert bases == {0x1600_0000}
    hardware, board = emulated(target, silicon=Silicon(base_registers="ignored"))
    with pytest.raises(RunTimeout):
        InferenceSession(artifact, board.device(), target).run(None, feeds)


def test_the_chisel_design_runs_models_too() -> None:
    artifact = compiled(target=DE10)
    feeds = samples(artifact, 2)
    hardware, board = emulated(DE10)
    found = InferenceSession(artifact, board.device(), DE10).run(None, feeds)
    assert np.array_equal(found[0], simulated(artifact, feeds)[0])
    assert hardware.violations == [] and launches(hardware) == 2


def test_several_artifacts_are_resident_at_once() -> None:
    hardware, board = emulated()
    names = ("fashion_mlp", "fashion_mlp_odd")
    devices = {name: board.device() for name in names}
    sessions = {name: InferenceSession(compiled(name), devices[name], PYNQ) for name in names}
    right = {name: simulated(compiled(name), samples(compiled(name), 3)) for name in names}
    for name in (*names, *names, *reversed(names)):
        found = sessions[name].run(None, samples(compiled(name), 3))
        assert np.array_equal(found[0], right[name][0])
    resident = sum(device.resident_bytes for device in devices.values())
    assert hardware.free_bytes == (128 << 20) - resident
    sessions["fashion_mlp"].close()
    found = sessions["fashion_mlp_odd"].run(None, samples(compiled("fashion_mlp_odd"), 3))
    assert np.array_equal(found[0], right["fashion_mlp_odd"][0])
    sessions["fashion_mlp_odd"].close()
    sessions["fashion_mlp_odd"].close()
    assert hardware.free_bytes == 128 << 20 and hardware.programmed == 1


def test_threads_take_turns() -> None:
    _, board = emulated()
    artifact = compiled()
    feeds = samples(artifact, 4)
    right = simulated(artifact, feeds)[0]
    wrong: list[int] = []

    def work(number: int) -> None:
        session = InferenceSession(artifact, board.device(), PYNQ)
        for _ in range(3):
            if not np.array_equal(session.run(None, feeds)[0], right):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_loading_again_replaces() -> None:
    hardware, board = emulated()
    device = board.device()
    for name in ("fashion_mlp", "fashion_mlp_odd", "fashion_mlp"):
        device.load(compiled(name))
        assert hardware.free_bytes == (128 << 20) - device.resident_bytes


def test_an_arena_begins_as_zeros() -> None:
    """What another model left in the memory is nobody's business."""
    _, board = emulated()
    device = board.device()
    device.load(compiled())
    output = next(one for one in compiled().regions.values() if one.kind == "output")
    assert not device.read(output.name).any()


def test_the_emulator_plans_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New inputs are no reason to plan again."""
    planned: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Launch:
        planned.append(1)
        return Launch(*arguments, **options)

    monkeypatch.setattr(emulated_vta, "Launch", counted)
    _, board = emulated()
    session = InferenceSession(compiled(), board.device(), PYNQ)
    for count in (1, 2, 3):
        session.run(None, samples(compiled(), count))
    assert len(planned) == 1
    InferenceSession(compiled("fashion_mlp_odd"), board.device(), PYNQ)
    session.run(None, samples(compiled(), 1))
    assert len(planned) == 2


# Faults


def test_after_a_hang_the_next_good_run_succeeds() -> None:
    artifact = compiled()
    feeds = samples(artifact, 2)
    hardware, board = emulated(faults=Faults(never_done=True, runs=1))
    session = InferenceSession(artifact, board.device(), PYNQ)
    with pytest.raises(RunTimeout, match="only loading the bitstream again"):
        session.run(None, feeds)
    assert board.state is State.STUCK
    with pytest.raises(DeviceError, match="VTA cannot run"):
        session.run(None, feeds)
    board.reprogram()
    assert np.array_equal(session.run(None, feeds)[0], simulated(artifact, feeds)[0])
    assert hardware.programmed == 2


@pytest.mark.parametrize("faults", [Faults(stale_done=100e-6), Faults(slow=8)])
def test_faults_that_the_driver_bears(faults: Faults) -> None:
    artifact = compiled()
    feeds = samples(artifact, 3)
    _, board = emulated(faults=faults)
    session = InferenceSession(artifact, board.device(), PYNQ)
    assert np.array_equal(session.run(None, feeds)[0], simulated(artifact, feeds)[0])


def test_a_hopelessly_slow_device_is_given_up() -> None:
    hardware, board = emulated(faults=Faults(slow=1e5))
    session = InferenceSession(compiled(), board.device(), PYNQ)
    with pytest.raises(RunTimeout, match="within 1 s"):
        session.run(None, samples(compiled(), 1))
    assert hardware.clock.now() < 1.1


def test_a_flipped_word_shows_in_the_output() -> None:
    artifact = compiled()
    feeds = samples(artifact, 1)
    stores = Isa.of(PYNQ).decode_stream(artifact.instructions(0))
    moves = (stores.opcode == Opcode.STORE) & (stores.fields["x_size"] > 0)
    last = int(moves.sum()) - 1
    hardware, board = emulated(faults=Faults(flip_store=last))
    found = InferenceSession(artifact, board.device(), PYNQ).run(None, feeds)[0]
    assert np.count_nonzero(found != simulated(artifact, feeds)[0]) == 1


def test_refused_memory_says_how_much() -> None:
    _, board = emulated(faults=Faults(refuse_allocation=True))
    with pytest.raises(DeviceError, match=r"refuses [\d,]+ bytes"):
        InferenceSession(compiled(), board.device(), PYNQ)


def test_an_arena_larger_than_the_memory() -> None:
    hardware, board = emulated(memory_bytes=1 << 16)
    with pytest.raises(DeviceError, match="has no|no [0-9,]+ contiguous bytes left"):
        InferenceSession(compiled(), board.device(), PYNQ)
    small = replace(PYNQ, dram_bytes=1 << 16)
    _, board = emulated(small)
    with pytest.raises(DeviceError, match="needs [0-9,]+ bytes of contiguous memory, .* 65,536"):
        InferenceSession(compiled(), board.device(), small)
    assert hardware.free_bytes == 1 << 16


def test_memory_that_is_of_no_use() -> None:
    hardware, board = emulated(base=0xFFFF_0000, memory_bytes=1 << 20)
    with pytest.raises(DeviceError, match="pages of 4096 bytes below 4 GiB"):
        board.allocate(1 << 17)
    assert hardware.free_bytes == 1 << 20


def test_a_runaway_run_keeps_its_memory() -> None:
    hardware, board = emulated(faults=Faults(never_done=True, runs=1))
    session = InferenceSession(compiled(), board.device(), PYNQ)
    with pytest.raises(RunTimeout):
        session.run(None, samples(compiled(), 1))
    taken = hardware.free_bytes
    session.close()
    assert hardware.free_bytes == taken < 128 << 20
    board.reprogram()
    assert hardware.free_bytes == 128 << 20


def test_closing_a_stuck_board_reprograms_it() -> None:
    hardware, board = emulated(faults=Faults(never_done=True))
    session = InferenceSession(compiled(), board.device(), PYNQ)
    with pytest.raises(RunTimeout):
        session.run(None, samples(compiled(), 1))
    board.close()
    board.close()
    assert hardware.programmed == 2
    with pytest.raises(DeviceError, match="the board is closed"):
        session.run(None, samples(compiled(), 1))


def test_closing_an_idle_board_does_not() -> None:
    hardware, board = emulated()
    board.close()
    assert hardware.programmed == 1


def test_what_was_found_cannot_be_loaded_again() -> None:
    hardware, board = emulated(faults=Faults(never_done=True))
    hardware.needs_bitstream = True
    device = board.device()
    device.load(compiled())
    with pytest.raises(RunTimeout):
        device.launch(0)
    with pytest.raises(DeviceError, match="used as it was found, .* switch the board off and on"):
        board.reprogram()
    with pytest.raises(DeviceError, match="used as it was found"):
        board.close()


# Signals


@pytest.fixture
def pressing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ctrl-C arrives when the driver first looks whether a run has ended."""
    events: list[str] = []
    read = EmulatedBoard.read

    def interrupted(self: EmulatedBoard, address: int) -> int:
        if self.log and self.log[-1].block == "store" and not events:
            events.append("pressed")
            signal.raise_signal(signal.SIGINT)
        value = read(self, address)
        if address == PYNQ.registers["compute"] + 0x18 and value == 1:
            events.append("done")
        return value

    monkeypatch.setattr(EmulatedBoard, "read", interrupted)
    yield events


def test_ctrl_c_waits_for_the_run_in_flight(pressing: list[str]) -> None:
    hardware, board = emulated()
    session = InferenceSession(compiled(), board.device(), PYNQ)
    with pytest.raises(KeyboardInterrupt):
        session.run(None, samples(compiled(), 3))
    assert pressing == ["pressed", "done"]
    assert board.state is State.READY and launches(hardware) == 1
    feeds = samples(compiled(), 3)
    assert np.array_equal(session.run(None, feeds)[0], simulated(compiled(), feeds)[0])


def test_ctrl_c_does_not_wait_for_ever(pressing: list[str]) -> None:
    hardware, board = emulated(faults=Faults(never_done=True, runs=1))
    device = board.device()
    device.load(compiled())
    with pytest.raises(KeyboardInterrupt):
        device.launch(0)
    assert board.state is State.STUCK
    board.close()
    assert hardware.programmed == 2


# Safety


def altered(change: Any) -> Artifact:
    """The model with another first stream: `change` gets and may alter the columns."""
    artifact = compiled()
    isa = Isa.of(PYNQ)
    columns = dict(isa.decode_stream(artifact.instructions(0)).fields)
    change(columns)
    insns: NDArray[np.uint8] = isa.encode_stream(columns)
    manifest = deepcopy(dict(artifact.manifest))
    for key in ("format", "format_version", "members"):
        del manifest[key]
    return Artifact.create(manifest, {**artifact.members, "launch0.insns": insns.tobytes()}, "evil")


def outside(columns: dict[str, NDArray[np.int64]]) -> None:
    first = np.flatnonzero((columns["opcode"] == Opcode.STORE) & (columns["x_size"] > 0))[0]
    columns["dram_base"][first] += 1 << 20


def into_the_streams(columns: dict[str, NDArray[np.int64]]) -> None:
    first = np.flatnonzero((columns["opcode"] == Opcode.STORE) & (columns["x_size"] > 0))[0]
    columns["dram_base"][first] = compiled().manifest["arena"]["bytes"] // 16


def wrapping(columns: dict[str, NDArray[np.int64]]) -> None:
    first = np.flatnonzero((columns["opcode"] == Opcode.LOAD) & (columns["x_size"] > 0))[0]
    columns["dram_base"][first] += (1 << 32) - (1 << 28)


def beyond_32_bits(columns: dict[str, NDArray[np.int64]]) -> None:
    first = np.flatnonzero((columns["opcode"] == Opcode.LOAD) & (columns["x_size"] > 0))[0]
    columns["dram_base"][first] = (1 << 32) - 1


def stuck(columns: dict[str, NDArray[np.int64]]) -> None:
    columns["pop_prev_dep"][0] = 1


@pytest.mark.parametrize("change", [outside, into_the_streams, wrapping, beyond_32_bits, stuck])
@pytest.mark.parametrize("base_registers", [False, True])
def test_what_breaks_a_rule_is_refused_before_anything_runs(
    change: Any, base_registers: bool
) -> None:
    target = replace(PYNQ, base_registers=base_registers)
    hardware, board = emulated(target)
    evil = altered(change)
    with pytest.raises(StreamError):
        board.device().load(evil)
    assert launches(hardware) == 0 and hardware.free_bytes == 128 << 20


def test_a_board_with_a_deeper_pipeline_wants_its_own_artifact() -> None:
    careful = replace(PYNQ, acc_dep_distance=64)
    _, board = emulated(careful)
    with pytest.raises(ArtifactError, match="acc_dep_distance 4 .target: 64."):
        board.device().load(compiled())


def test_another_fingerprint_is_refused() -> None:
    other = Target.from_json({**PYNQ.to_json(), "LOG_WGT_BUFF_SIZE": 17}, "x")
    _, board = emulated(other)
    with pytest.raises(ArtifactError, match="LOG_WGT_BUFF_SIZE"):
        board.device().load(compiled())


def test_a_launch_that_would_take_minutes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_device, "LONGEST_RUN_SECONDS", 1e-6)
    hardware, board = emulated()
    with pytest.raises(DeviceError, match="launch 0 is estimated at 0 s, the limit is 0 s"):
        board.device().load(compiled())
    assert hardware.free_bytes == 128 << 20


def test_regions_are_written_and_read_by_their_rules() -> None:
    _, board = emulated()
    device = board.device()
    for action in (
        lambda: device.launch(0),
        lambda: device.read("x"),
        lambda: device.write("x", np.zeros((1, 1), np.uint8)),
    ):
        with pytest.raises(DeviceError, match="is loaded"):
            action()
    device.load(compiled())
    regions = compiled().regions.values()
    given = next(one for one in regions if one.kind == "input")
    constant = next(one for one in regions if one.kind == "constant")
    for name, data in (
        (given.name, np.zeros((2, 16), np.uint8)),
        (given.name, np.zeros((1, given.bytes + 1), np.uint8)),
        (constant.name, np.zeros((1, 16), np.uint8)),
    ):
        with pytest.raises(DeviceError, match="cannot be written to the region"):
            device.write(name, data)
    data = np.arange(given.bytes, dtype=np.uint8)[None]
    device.write(given.name, data)
    assert np.array_equal(device.read(given.name), data)


def test_neighbours_in_a_cache_line_keep_what_vta_wrote() -> None:
    """Writing an input flushes whole lines; results beside it must not be undone by that."""
    _, board = emulated()
    device = board.device()
    device.load(compiled())
    buffer = device._buffer
    assert buffer is not None
    given = next(one for one in compiled().regions.values() if one.kind == "input")
    line = (given.start + given.bytes) // 64 * 64 - 64  # the last whole one
    assert line >= given.start
    buffer.dram[line : line + 64] = 9  # type: ignore[attr-defined]
    device.write(given.name, np.zeros((1, line + 56 - given.start), np.uint8))
    assert buffer.dram[line + 56 : line + 64].tolist() == [9] * 8  # type: ignore[attr-defined]


# Opening


def test_devices_by_name() -> None:
    artifact = compiled()
    feeds = samples(artifact, 1)
    with InferenceSession(artifact, "emulator") as session:
        assert np.array_equal(session.run(None, feeds)[0], simulated(artifact, feeds)[0])
    device = emulator_device(PYNQ)
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.board.run(waiting_job(device.board._transport, PYNQ, 10))  # type: ignore[arg-type]


def test_the_emulator_checks_a_bitstream_that_it_is_given(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.bit", tmp_path / "bad.bit"
    good.write_bytes(bit_file())
    bad.write_bytes(bit_file(part="7z010clg400"))
    board = open_emulator(PYNQ, good, virtual_time=True)
    assert board.bitstream is not None and board.bitstream.path == good
    assert open_emulator(PYNQ, LOADED).bitstream is None
    with pytest.raises(DeviceError, match="7z010"):
        open_emulator(PYNQ, bad)


def test_simulator_targets_are_no_boards() -> None:
    with pytest.raises(DeviceError, match="design fsim, which is no hardware"):
        Board(Target.load("sim"), EmulatedBoard(PYNQ))


def test_a_machine_that_is_no_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTA_CACHE_PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="no bitstream for target 'pynq'"):
        open_board(PYNQ)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(DeviceError, match="PYNQ needs root .* sudo -E"):
        open_board(PYNQ, LOADED)
    with pytest.raises(DeviceError, match="/dev/mem needs root"):
        open_board(DE10, LOADED)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DeviceError, match="PYNQ's library cannot be imported .* image 3.0 or 3.1"):
        open_board(PYNQ, LOADED)
    with pytest.raises(DeviceError, match="load the u-dma-buf kernel module"):
        open_board(DE10, LOADED)
