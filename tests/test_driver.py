"""The drivers: register by register, and what happens when a run does not end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError
from vtaflow.runtime import registers as reg
from vtaflow.runtime.chisel_driver import ChiselDriver
from vtaflow.runtime.driver import Bases, Driver, HlsDriver, Job, Patience, RunTimeout, State
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.faults import Faults
from vtaflow.runtime.interrupts import deferred_signals

from .boards import DE10, PYNQ, waiting_job

CYCLES = 100_000
SECONDS = CYCLES / 100e6
START_READS = 1  # of fetch, before a run is started


def rig(
    target: Target = PYNQ, faults: Faults | None = None, patience: Patience | None = None
) -> tuple[EmulatedBoard, Driver, Job]:
    """A configured board in virtual time, its driver, and a run of a millisecond."""
    board = EmulatedBoard(target, faults=faults, virtual_time=True)
    kind = ChiselDriver if target.design == "chisel" else HlsDriver
    driver = kind(target, board, patience)
    driver.program(None)
    return board, driver, waiting_job(board, target, CYCLES)


def accesses(board: EmulatedBoard) -> list[tuple[str, str, int, int]]:
    return [(one.kind, one.block, one.offset, one.value) for one in board.log]


def test_the_protocol_register_by_register() -> None:
    board, driver, job = rig()
    seconds = driver.run(job)
    assert accesses(board)[:13] == [
        ("read", "fetch", 0x00, reg.IDLE),
        ("read", "compute", 0x18, 0),
        ("write", "fetch", 0x10, 3),
        ("write", "fetch", 0x18, job.address),
        ("write", "load", 0x10, 0),
        ("write", "load", 0x18, 0),
        ("write", "compute", 0x20, 0),
        ("write", "compute", 0x28, 0),
        ("write", "store", 0x10, 0),
        ("write", "fetch", 0x00, 0x01),
        ("write", "load", 0x00, 0x81),
        ("write", "compute", 0x00, 0x81),
        ("write", "store", 0x00, 0x81),
    ]
    polls = accesses(board)[13:]
    assert polls[0] == ("read", "fetch", 0x00, reg.IDLE | reg.DONE)
    assert {poll[:3] for poll in polls[1:]} == {("read", "compute", 0x18)}
    assert [poll[3] for poll in polls[1:]] == [0] * (len(polls) - 2) + [1]
    assert SECONDS <= seconds < 1.2 * SECONDS
    assert driver.state is State.READY


def test_base_registers_are_written_when_a_job_has_them() -> None:
    board, driver, job = rig()
    driver.run(replace(job, bases=Bases(1 << 12, 2 << 12, 3 << 12, 4 << 12, 5 << 12)))
    written = [one[1:] for one in accesses(board)[4:9]]
    assert written == [
        ("load", 0x10, 2 << 12),
        ("load", 0x18, 3 << 12),
        ("compute", 0x20, 1 << 12),
        ("compute", 0x28, 4 << 12),
        ("store", 0x10, 5 << 12),
    ]


def test_many_runs_without_programming_again() -> None:
    board, driver, job = rig()
    assert all(SECONDS <= driver.run(job) < 1.2 * SECONDS for _ in range(5))
    assert board.programmed == 1 and board.violations == []


def test_polling_backs_off() -> None:
    board, driver, job = rig(faults=Faults(slow=500))
    driver.run(job)
    assert len(board.log) < 250


def test_spinning_is_exact() -> None:
    board, driver, job = rig()
    took = driver.run(job, spin=True)
    assert driver.run(job, spin=True) == pytest.approx(took, abs=4e-6)


class Hasty(HlsDriver):
    """A driver without remedies against a leftover done."""

    def _await_fall(self, deadline: float) -> None:
        pass

    def _finished(self) -> bool:
        return self._done()


def test_a_leftover_done_is_not_believed() -> None:
    """Here done falls long after the first look, as if the first instruction came late."""
    board, driver, job = rig(faults=Faults(stale_done=SECONDS / 3))
    assert driver.run(job) >= SECONDS
    assert board.log[-1].value == 1
    assert driver.run(job) >= SECONDS


def test_that_test_can_fail() -> None:
    board, _, job = rig(faults=Faults(stale_done=SECONDS / 3))
    hasty = Hasty(PYNQ, board)
    hasty.program(None)
    hasty.run(job)
    assert hasty.run(job) < SECONDS / 3


def test_done_counts_only_after_fetch_is_through() -> None:
    """A leftover done that outlasts every wait, while fetch is still busy, is no end either."""
    board, driver, job = rig()
    driver.run(job)
    read, busy = board.read, [START_READS + 50]

    def late(address: int) -> int:
        value = read(address)
        if address == PYNQ.registers["fetch"]:
            busy[0] -= 1
            return reg.START if busy[0] > 0 else value
        leftover = address == PYNQ.registers["compute"] + reg.COMPUTE_DONE and busy[0] > 0
        return 1 if leftover else value

    board.read = late  # type: ignore[method-assign]
    assert driver.run(job) >= SECONDS
    assert busy == [0]


def test_a_short_run_is_over_before_the_first_look() -> None:
    board, driver, _ = rig()
    job = waiting_job(board, PYNQ, 1)
    for _ in range(3):
        assert driver.run(job) < 200e-6


def test_a_run_that_never_ends() -> None:
    board, driver, job = rig(faults=Faults(never_done=True))
    with pytest.raises(RunTimeout) as caught:
        driver.run(job)
    message = str(caught.value)
    assert "did not finish within 1 s" in message and "\n" not in message
    assert "only loading the bitstream again recovers" in message
    assert f"fetch.insn_address={job.address:#x}" in message
    every = {f"{block}.{name}" for block, table in reg.HLS_REGISTERS.items() for _, name in table}
    assert caught.value.registers.keys() == every
    assert caught.value.registers["load.control"] == 0x81
    assert board.clock.now() < 1.1
    assert driver.state is State.STUCK
    with pytest.raises(DeviceError, match="only loading the bitstream again"):
        driver.run(job)
    board.faults = Faults()
    driver.program(None)
    assert driver.run(job) >= SECONDS


def test_the_limit_follows_from_the_estimate() -> None:
    _, driver, job = rig(faults=Faults(slow=9), patience=Patience(factor=10, least=0))
    assert driver.run(job) >= 9 * SECONDS
    board, driver, job = rig(faults=Faults(slow=12), patience=Patience(factor=10, least=0))
    with pytest.raises(RunTimeout, match="within 0.01 s"):
        driver.run(job)
    assert board.clock.now() < 12 * SECONDS


def test_nothing_runs_before_programming() -> None:
    board, _, job = rig()
    with pytest.raises(DeviceError, match="not programmed"):
        HlsDriver(PYNQ, board).run(job)


def test_an_exception_while_waiting_leaves_the_driver_stuck() -> None:
    board, driver, job = rig()

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    board.clock.sleep = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        driver.run(job)
    assert driver.state is State.STUCK


@pytest.mark.parametrize("block", ["fetch", "store"])
def test_a_target_without_registers(block: str) -> None:
    rest = tuple(one for one in PYNQ.register_map if one[0] != block)
    with pytest.raises(DeviceError, match=f"names no registers of {block}"):
        HlsDriver(replace(PYNQ, register_map=rest), EmulatedBoard(PYNQ))
    with pytest.raises(DeviceError, match="names no registers of vcr"):
        ChiselDriver(replace(DE10, register_map=()), EmulatedBoard(DE10))


def test_chisel_register_by_register() -> None:
    board, driver, job = rig(DE10)
    seconds = driver.run(job)
    assert accesses(board)[:9] == [
        ("write", "vcr", 0x04, 0),
        ("write", "vcr", 0x08, 3),
        ("write", "vcr", 0x0C, job.address),
        ("write", "vcr", 0x10, 0),
        ("write", "vcr", 0x14, 0),
        ("write", "vcr", 0x18, 0),
        ("write", "vcr", 0x1C, 0),
        ("write", "vcr", 0x20, 0),
        ("write", "vcr", 0x00, 1),
    ]
    assert accesses(board)[-2][:3] == ("read", "vcr", 0x00)
    assert accesses(board)[-2][3] == reg.VCR_FINISH
    assert board.log[-1].offset == reg.VCR_CYCLES
    assert seconds == board.log[-1].value / 100e6 > 0.9 * SECONDS
    assert driver.run(job) == seconds


def test_chisel_never_ends() -> None:
    board, driver, job = rig(DE10, faults=Faults(never_done=True))
    with pytest.raises(RunTimeout) as caught:
        driver.run(job)
    assert caught.value.registers["vcr.insn_count"] == 3
    assert driver.state is State.STUCK


def test_chisel_wants_aligned_streams() -> None:
    _, driver, job = rig(DE10)
    with pytest.raises(DeviceError, match="not aligned to 2048 bytes"):
        driver.run(replace(job, address=job.address + 1024))
    assert driver.state is State.READY


@pytest.fixture
def terminated() -> Iterator[list[int]]:
    """SIGTERM noted instead of obeyed."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def test_signals_wait_for_the_end(terminated: list[int]) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            reached.append("after SIGINT")
    assert reached == ["after SIGINT"]
    with deferred_signals():
        signal.raise_signal(signal.SIGTERM)
        assert terminated == []
    assert terminated == [signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_signals_wait_for_the_end_of_a_failure() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            raise DeviceError("hung")
    assert isinstance(caught.value.__context__, DeviceError)


def test_other_threads_have_no_signals_to_defer() -> None:
    inside = []

    def work() -> None:
        with deferred_signals():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.getsignal(signal.SIGINT)]
