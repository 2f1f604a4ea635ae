"""The emulated board: registers, memory behind a cache, time, faults, and odd hardware."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vtaflow.backend.commands import Memory
from vtaflow.backend.isa import AluOpcode, Instruction, Isa, Opcode
from vtaflow.backend.profile import ShiftRule
from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError
from vtaflow.runtime import registers as reg
from vtaflow.runtime.board import Board
from vtaflow.runtime.driver import Bases, HlsDriver, RunTimeout
from vtaflow.runtime.emulated_clock import EmulatedClock
from vtaflow.runtime.emulator import ARENA_BASE, EmulatedBoard
from vtaflow.runtime.faults import Faults
from vtaflow.runtime.pool import Pool
from vtaflow.runtime.probe_streams import Bench, Script
from vtaflow.runtime.silicon import Silicon

from .boards import DE10, PYNQ, element, place, waiting_job

COMPUTE, FETCH = PYNQ.registers["compute"], PYNQ.registers["fetch"]
CYCLES = 10_000


def board_of(target: Target = PYNQ, **options: Any) -> EmulatedBoard:
    board = EmulatedBoard(target, virtual_time=True, **options)
    board.program(None)
    return board


def start(board: EmulatedBoard, address: int, count: int) -> None:
    board.write(FETCH + reg.FETCH_COUNT, count)
    board.write(FETCH + reg.FETCH_ADDRESS, address)
    for block in ("fetch", "load", "compute", "store"):
        board.write(PYNQ.registers[block], 1 if block == "fetch" else 0x81)


# Registers


def test_done_keeps_its_value_until_the_first_compute_instruction_starts() -> None:
    board = board_of()
    job = waiting_job(board, PYNQ, CYCLES)
    done = COMPUTE + reg.COMPUTE_DONE
    assert board.read(done) == 0
    start(board, job.address, job.count)
    board.clock.sleep(200e-6)
    assert [board.read(done) for _ in range(3)] == [1, 1, 1]  # reading does not clear it
    board.clock.access = lambda: None  # type: ignore[method-assign]
    board.write(FETCH, 1)
    assert board.read(done) == 1  # the trap: the last run's
    board.clock.sleep(1e-6)  # about L + 20 cycles
    assert board.read(done) == 0
    board.clock.sleep(200e-6)
    assert board.read(done) == 1


def test_flags_that_reading_clears() -> None:
    board = board_of()
    job = waiting_job(board, PYNQ, CYCLES)
    written = COMPUTE + reg.COMPUTE_DONE_WRITTEN
    assert board.read(FETCH) == reg.IDLE and board.read(written) == 0
    start(board, job.address, job.count)
    board.clock.sleep(10e-6)
    assert [board.read(FETCH) for _ in range(2)] == [reg.IDLE | reg.DONE, reg.IDLE]
    assert [board.read(written) for _ in range(2)] == [1, 0]
    board.clock.sleep(200e-6)
    assert [board.read(written) for _ in range(2)] == [1, 0]


def test_fetch_is_busy_while_it_hands_out() -> None:
    board = board_of()
    job = waiting_job(board, PYNQ, CYCLES)
    board.clock.access = lambda: None  # type: ignore[method-assign]
    start(board, job.address, job.count)
    assert board.read(FETCH) == reg.START
    board.clock.sleep(1e-6)
    assert board.read(FETCH) == reg.IDLE | reg.DONE


def test_nothing_runs_before_every_block_is_started() -> None:
    board = board_of()
    job = waiting_job(board, PYNQ, CYCLES)
    board.write(FETCH + reg.FETCH_COUNT, job.count)
    board.write(FETCH + reg.FETCH_ADDRESS, job.address)
    board.write(FETCH, 1)
    board.write(PYNQ.registers["load"], 0x81)
    board.write(PYNQ.registers["compute"], 0x01)  # without restarting by itself
    board.write(PYNQ.registers["store"], 0x81)
    board.clock.sleep(1.0)
    assert board.read(COMPUTE + reg.COMPUTE_DONE) == 0
    assert board.read(FETCH) == reg.START
    assert board.read(COMPUTE) == reg.IDLE
    board.write(COMPUTE, 0x81)
    board.clock.sleep(200e-6)
    assert board.read(COMPUTE + reg.COMPUTE_DONE) == 1
    assert board.read(COMPUTE) == 0x81


def test_starting_fetch_twice_is_noted() -> None:
    board = board_of()
    job = waiting_job(board, PYNQ, CYCLES)
    start(board, job.address, job.count)
    board.write(FETCH, 1)
    assert board.violations == ["fetch was started while it ran"]


def test_plain_registers_remember_and_programming_forgets() -> None:
    board = board_of()
    board.write(PYNQ.registers["store"] + reg.STORE_OUT_BASE, 0x123000)
    assert board.read(PYNQ.registers["store"] + reg.STORE_OUT_BASE) == 0x123000
    board.program(None)
    assert board.read(PYNQ.registers["store"] + reg.STORE_OUT_BASE) == 0
    assert board.programmed == 2


def test_addresses_without_a_register() -> None:
    board = board_of()
    for address in (FETCH + 0x20, 0x43C0_4000, 0):
        with pytest.raises(DeviceError, match="no register|nothing at"):
            board.read(address)
        with pytest.raises(DeviceError, match="no register|nothing at"):
            board.write(address, 0)
    chisel = board_of(DE10)
    with pytest.raises(DeviceError, match="VCR has no register 0x100"):
        chisel.read(DE10.registers["vcr"] + 0x100)
    with pytest.raises(DeviceError, match="VCR has no register 0x100"):
        chisel.write(DE10.registers["vcr"] + 0x100, 0)


def test_an_fpga_without_bitstream_has_no_registers() -> None:
    with pytest.raises(DeviceError, match="holds no bitstream"):
        EmulatedBoard(PYNQ).read(FETCH)


def test_simulators_are_no_boards() -> None:
    with pytest.raises(DeviceError, match="design fsim, which has no registers"):
        EmulatedBoard(Target.load("sim"))


# Memory


def test_cpu_and_vta_see_each_other_after_flush_and_invalidate_only() -> None:
    board = board_of()
    buffer = board.allocate(4096)
    assert buffer.address == ARENA_BASE
    assert not (buffer.data == 0).any()  # nobody may rely on zeros
    buffer.data[:] = 1
    assert (buffer.dram == 0xCD).all()
    buffer.flush(64, 64)
    assert np.flatnonzero(buffer.dram == 1).tolist() == list(range(64, 128))
    buffer.dram[:] = 2
    assert (buffer.data == 1).all()
    buffer.invalidate(0, 128)
    assert (buffer.data[:128] == 2).all() and (buffer.data[128:] == 1).all()


@pytest.mark.parametrize(("start", "size"), [(1, 64), (0, 65), (4096, 64)])
def test_caches_work_in_lines(start: int, size: int) -> None:
    buffer = board_of().allocate(4096)
    for move in (buffer.flush, buffer.invalidate):
        with pytest.raises(DeviceError, match="no cache lines of the buffer"):
            move(start, size)


def test_memory_runs_out_and_comes_back() -> None:
    board = board_of(memory_bytes=1 << 16)
    buffers = [board.allocate(1 << 14) for _ in range(4)]
    with pytest.raises(DeviceError, match="no 4,096 contiguous bytes left .0 in one"):
        board.allocate(4096)
    buffers[0].free()
    buffers[2].free()
    buffers[2].free()
    with pytest.raises(DeviceError, match="16,384 in one piece, 32,768 of 65,536 in all"):
        board.allocate(1 << 15)
    buffers[1].free()
    assert board.allocate(3 << 14).address == ARENA_BASE


def test_a_pool_hands_out_lowest_first_and_merges() -> None:
    pool = Pool(12)
    assert [pool.take(4), pool.take(4), pool.take(4), pool.take(1)] == [0, 4, 8, None]
    pool.give_back(8, 4)
    pool.give_back(0, 4)
    assert (pool.largest, pool.free_bytes) == (4, 8)
    pool.give_back(4, 4)
    assert (pool.largest, pool.take(12), Pool(0).take(1)) == (12, 0, None)


def test_memory_is_made_of_pages() -> None:
    with pytest.raises(DeviceError, match="not made of pages"):
        EmulatedBoard(PYNQ, base=100)


# Time


def test_a_run_takes_its_estimated_time_in_real_time_too() -> None:
    board = EmulatedBoard(PYNQ)
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    job = waiting_job(board, PYNQ, 2_000_000)
    began = time.perf_counter()
    assert driver.run(job) >= 0.02
    assert time.perf_counter() - began >= 0.02


def test_time_stands_still_while_the_simulator_works() -> None:
    clock = EmulatedClock()
    before = clock.now()
    with clock.stopped():
        time.sleep(0.05)
    assert clock.now() - before < 0.05
    virtual = EmulatedClock(virtual=True)
    virtual.sleep(3600)
    assert virtual.now() == 3600


# Faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", Faults()),
        ("never-done", Faults(never_done=True)),
        ("slow=50,runs=2", Faults(slow=50, runs=2)),
        ("stale-done=1e-4", Faults(stale_done=1e-4)),
        ("flip_store=3", Faults(flip_store=3)),
        ("refuse-allocation", Faults(refuse_allocation=True)),
    ],
)
def test_faults_can_be_written(text: str, faults: Faults) -> None:
    assert Faults.parse(text) == faults


@pytest.mark.parametrize("text", ["fire", "slow", "slow=x", "never-done=1", "flip-store=1.5"])
def test_unknown_faults(text: str) -> None:
    with pytest.raises(DeviceError, match="is no fault; write NAME or NAME=NUMBER of never-done"):
        Faults.parse(text)


def test_faults_that_pass() -> None:
    board = board_of(faults=Faults(never_done=True, runs=1))
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    job = waiting_job(board, PYNQ, CYCLES)
    with pytest.raises(RunTimeout):
        driver.run(job)
    driver.program(None)
    driver.run(job)
    assert Faults(slow=2, runs=3).after_run() == Faults(slow=2, runs=2)
    assert Faults(slow=2).after_run() == Faults(slow=2)


def test_refused_memory() -> None:
    board = board_of(faults=Faults(refuse_allocation=True))
    with pytest.raises(DeviceError, match="refuses 8,192 bytes .injected fault., 134,217,728 are"):
        board.allocate(8192)


# What hangs the hardware


@pytest.mark.parametrize(
    ("insns", "why"),
    [
        ([Instruction(Opcode.LOAD, {})], "no FINISH"),
        ([Instruction(Opcode.LOAD, {"pop_prev_dep": 1}), Instruction(Opcode.FINISH)], "deadlock"),
        (
            [
                Instruction(Opcode.LOAD, {"memory_type": 3, "dram_base": 1, "x_size": 1,
                                          "y_size": 1, "x_stride": 1}),
                Instruction(Opcode.FINISH),
            ],
            "lies in no memory",
        ),
    ],
)
def test_bad_streams_hang_until_the_bitstream_is_loaded(
    insns: list[Instruction], why: str
) -> None:
    board = EmulatedBoard(PYNQ, virtual_time=True)
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    raw = b"".join(map(Isa.of(PYNQ).encode, insns))
    job = place(board, np.frombuffer(raw, np.uint8).reshape(-1, 16), 10)
    with pytest.raises(RunTimeout):
        driver.run(job)
    assert why in board.violations[0]
    driver.program(None)
    driver.run(waiting_job(board, PYNQ, CYCLES))


def test_a_stream_outside_memory_hangs() -> None:
    board = EmulatedBoard(PYNQ, virtual_time=True)
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    job = waiting_job(board, PYNQ, CYCLES)
    with pytest.raises(RunTimeout):
        driver.run(replace(job, address=job.address + (1 << 24)))
    assert "lie in no memory of the board" in board.violations[0]


def test_leftover_tokens_stay_until_the_bitstream_is_loaded() -> None:
    """A token too many lets a later stream pass that lacks one."""
    isa = Isa.of(PYNQ)
    pushing = [Instruction(Opcode.LOAD, {"memory_type": 2, "push_next_dep": 1}),
               Instruction(Opcode.FINISH)]
    popping = [Instruction(Opcode.LOAD, {"pop_prev_dep": 1}), Instruction(Opcode.FINISH)]
    board = EmulatedBoard(PYNQ, virtual_time=True)
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    push, pop = (
        place(board, np.frombuffer(b"".join(map(isa.encode, insns)), np.uint8).reshape(-1, 16), 10)
        for insns in (pushing, popping)
    )
    driver.run(push)
    driver.run(pop)
    driver.run(push)
    driver.program(None)
    with pytest.raises(RunTimeout):
        driver.run(pop)


# Odd hardware, and what was measured on the usual one


def bench_of(silicon: Silicon | None = None, target: Target = PYNQ) -> Bench:
    return Bench(Board(target, EmulatedBoard(target, silicon=silicon, virtual_time=True)))


def accumulated(bench: Bench, count: int, alu: bool = False) -> list[int]:
    """What 12 micro-ops on `count` accumulators in turn leave, by GEMM of 16 or ALU of 1."""
    bench.put_uops(0x1000, [[index, index, 0] for index in range(count)])
    bench.put(0x2000, np.ones((count, 16)), "i1")
    bench.put(0x3000, np.ones((16, 16)), "i1")
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, count)
    script.load(Memory.INP, 0, 0x2000, count)
    script.load(Memory.WGT, 0, 0x3000, 1)
    script.gemm(count, reset=True)
    if alu:
        script.alu(AluOpcode.ADD, 1, 0, count, 12 // count)
    else:
        script.gemm(count, 12 // count)
    script.store(0, 0x4000, count)
    bench.run(script)
    return [int(value) for value in bench.get(0x4000, count).view(np.uint8)[:, 0]]


def test_accumulator_races_are_those_measured_in_rtl() -> None:
    """12 products of 16: 64 on one accumulator instead of 192, 48 on each of two, then right."""
    bench = bench_of()
    assert accumulated(bench, 1) == [64]
    assert accumulated(bench, 2) == [48, 48]
    assert accumulated(bench, 3) == [64, 64, 64]
    assert accumulated(bench, 4) == [48] * 4
    assert accumulated(bench, 1, alu=True) == [4]
    assert accumulated(bench, 3, alu=True) == [4, 4, 4]
    deep = bench_of(Silicon(gemm_distance=5, alu_distance=1))
    assert accumulated(deep, 1) == [16 * 3]
    assert accumulated(deep, 4) == [32] * 4
    assert accumulated(deep, 1, alu=True) == [12]


def test_micro_ops_in_sram_outlive_a_launch_in_the_pipeline() -> None:
    bench = bench_of()
    assert accumulated(bench, 1) == [64]
    script = bench.script()
    script.gemm(1, reset=True)
    script.gemm(1, 12)
    script.store(0, 0x5000, 1)
    bench.run(script)
    assert bench.get(0x5000, 1).view(np.uint8)[0].tolist() == [64] * 16


def test_too_many_races_are_not_emulated() -> None:
    bench = bench_of()
    bench.put_uops(0x1000, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, 1)
    for _ in range(20):
        script.gemm(1, (1 << 14) - 1)
    with pytest.raises(RunTimeout):
        bench.run(script)


def run_alu(
    silicon: Silicon, *steps: tuple[AluOpcode, int | None], target: Target = PYNQ
) -> int:
    """The low byte of 0x12345678 after ALU steps (register operand 3), executed both ways."""
    bench = bench_of(silicon, target)
    bench.put_uops(0x1000, [[0, 0, 0], [0, 1, 0]])
    values = [np.full(16, 0x12345678, "<i4"), np.full(16, 3, "<i4")]
    bench.put(0x2000, values, "<i4")
    results = []
    for race in (False, True):
        script = bench.script()
        script.load(Memory.UOP, 0, 0x1000, 2)
        if race:
            script.alu(AluOpcode.MAX, 0, 0, 1, 2)
        script.load(Memory.ACC, 0, 0x2000, 2)
        for op, imm in steps:
            script.alu(op, imm, 1 if imm is None else 0, 1)
        script.store(0, 0x3000, 1)
        bench.run(script)
        results.append(bench.get(0x3000, 1).view(np.uint8)[0])
    assert np.array_equal(results[0], results[1])
    assert (results[0] == results[0][0]).all()
    return int(results[0][0])


@pytest.mark.parametrize(
    ("silicon", "steps", "low"),
    [
        (Silicon(), [(AluOpcode.ADD, 1)], 0x79),
        (Silicon(), [(AluOpcode.ADD, None)], 0x7B),
        (Silicon(), [(AluOpcode.MIN, -5)], 0xFB),
        (Silicon(), [(AluOpcode.MIN, None)], 3),
        (Silicon(), [(AluOpcode.MAX, None)], 0x78),
        (Silicon(), [(AluOpcode.SHR, 15)], 0x68),
        (Silicon(), [(AluOpcode.SHR, None)], 0xCF),
        (Silicon(), [(AluOpcode.SHR, 16)], 0),
        (Silicon(shr_imm=ShiftRule.MAGNITUDE5), [(AluOpcode.SHR, 16)], 0x34),
    ],
)
def test_both_ways_of_executing_agree(
    silicon: Silicon, steps: list[tuple[AluOpcode, int | None]], low: int
) -> None:
    assert run_alu(silicon, *steps) == low


def test_operations_that_nobody_has_hang_the_pipeline() -> None:
    bench = bench_of()
    bench.put_uops(0x1000, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, 1)
    script.alu(AluOpcode.ADD, 1, 0, 1, 2)
    script.alu(AluOpcode.MUL, 1, 0, 1)
    with pytest.raises(RunTimeout):
        bench.run(script)


@pytest.mark.parametrize("pads", [None, False])
def test_pads_of_both_ways_agree(pads: bool | None) -> None:
    bench = bench_of(Silicon(acc_pads=pads))
    bench.put_uops(0x1000, [[index, index, 0] for index in range(4)])
    bench.put(0x2000, np.arange(64), "<i4")
    bench.put(0x3000, np.arange(32), "i1")
    results = []
    for race in (False, True):
        script = bench.script()
        script.load(Memory.UOP, 0, 0x1000, 4)
        if race:
            script.alu(AluOpcode.MAX, 0, 0, 1, 2)
        script.gemm(4, reset=True)
        script.load(Memory.ACC, 0, 0x2000, 1, rows=2, pads=(1, 0))
        script.load(Memory.INP, 0, 0x3000, 1, rows=2, pads=(0, 1))
        script.alu(AluOpcode.ADD, 0, 0, 4)
        script.store(0, 0x4000, 2, rows=2)
        bench.run(script)
        results.append(bench.get(0x4000, 4))
    assert np.array_equal(results[0], results[1])
    assert results[0][0, 1] == (0 if pads is None else 1)


def old_store(script: Script) -> NDArray[np.uint8]:
    """The stream as software for version 0.0.1 would have encoded it."""
    insns = script.finished()
    words = insns.view("<u8").astype(np.uint64)
    result = words.copy()
    for row, (low, high) in enumerate(words.tolist()):
        opcode = low & 7
        if opcode in (Opcode.LOAD, Opcode.STORE):
            kind, sram, dram = low >> 7 & 7, low >> 10 & 0xFFFF, low >> 26 & 0xFFFFFFFF
            result[row, 0] = (low & 0x7F) | (kind & 3) << 7 | sram << 9 | dram << 25
        if opcode == Opcode.ALU:
            op, use_imm, imm = high >> 44 & 7, high >> 47 & 1, high >> 48
            old = (high & (1 << 44) - 1) | op << 44 | use_imm << 46 | imm << 47
            result[row, 1] = old
    return result.astype("<u8").view(np.uint8).reshape(-1, 16)


def test_old_hardware_reads_the_old_encoding() -> None:
    board = EmulatedBoard(PYNQ, silicon=Silicon(hw_ver="0.0.1"), virtual_time=True)
    driver = HlsDriver(PYNQ, board)
    driver.program(None)
    data = board.allocate(4096 * 4)
    data.data[4096 : 4096 + 4] = 0
    data.data[0x2000 : 0x2000 + 64] = np.full(16, -7, "<i4").view(np.uint8)
    data.flush(0, 4096 * 4)
    script = Script(PYNQ, data.address)
    script.load(Memory.UOP, 0, 0x1000, 1)
    script.load(Memory.ACC, 0, 0x2000, 1)
    script.alu(AluOpcode.ADD, 3, 0, 1)
    script.store(0, 0x3000, 1)
    driver.run(place(board, old_store(script), 1000))
    data.invalidate(0x3000, 64)
    assert data.data[0x3000:0x3010].view(np.int8).tolist() == [-4] * 16
    assert board.violations == []


@pytest.mark.parametrize(
    ("kind", "bases", "seen"),
    [
        ("add", Bases(inp=0x8000), 2),
        ("or", Bases(inp=0x8000), 2),
        ("ignored", Bases(inp=0x8000), 1),
        ("add", Bases(wgt=0x8000), 1),
    ],
)
def test_base_registers(kind: str, bases: Bases, seen: int) -> None:
    bench = bench_of(Silicon(base_registers=kind))
    assert bench.address & 0x8000 == 0
    bench.put_uops(0x1000, [[0, 0, 0]])
    bench.put(0x2000, element(PYNQ, Memory.INP, 1), "u1")
    bench.put(0xA000, element(PYNQ, Memory.INP, 2), "u1")
    bench.put(0x3000, np.eye(16), "i1")
    bench.put(0xB000, np.eye(16), "i1")
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, 1)
    script.load(Memory.INP, 0, 0x2000, 1)
    script.load(Memory.WGT, 0, 0x3000, 1)
    script.gemm(1, reset=True)
    script.gemm(1)
    script.store(0, 0x5000, 1)
    bench.run(script, inp=bases.inp, wgt=bases.wgt)
    assert bench.get(0x5000, 1)[0].tolist() == [seen] * 16


def test_changed_constants_are_seen() -> None:
    """Plans keep weights and micro-ops; a flush over them makes the next run plan anew."""
    bench = bench_of()
    results = []
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, 1)
    script.load(Memory.INP, 0, 0x2000, 1)
    script.load(Memory.WGT, 0, 0x3000, 1)
    script.gemm(1, reset=True)
    script.gemm(1)
    script.store(0, 0x4000, 1)
    bench.put_uops(0x1000, [[0, 0, 0]])
    bench.put(0x2000, element(PYNQ, Memory.INP, 1), "u1")
    job = bench.place(script)
    for value in (1, 2):
        bench.put(0x3000, np.eye(16) * value, "i1")
        bench.repeat(job)
        results.append(int(bench.get(0x4000, 1)[0, 0]))
    assert results == [1, 2]


def test_a_flipped_word_arrives() -> None:
    board = EmulatedBoard(PYNQ, faults=Faults(flip_store=1, runs=1), virtual_time=True)
    bench = Bench(Board(PYNQ, board))
    bench.put_uops(0x1000, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, 0x1000, 1)
    script.gemm(1, reset=True)
    script.alu(AluOpcode.ADD, 4, 0, 1)
    script.store(0, 0x2000, 1)
    script.store(0, 0x3000, 1)
    bench.run(script)
    assert bench.get(0x2000, 1)[0].tolist() == [4] * 16
    assert bench.get(0x3000, 1)[0].tolist() == [5] + [4] * 15
    bench.run(script)
    assert bench.get(0x3000, 1)[0].tolist() == [4] * 16
    board.faults = Faults(flip_store=7)
    bench.run(script)
    assert bench.get(0x3000, 1)[0].tolist() == [4] * 16
