"""The cycle-level simulator: closed forms, queues, tokens, deadlocks, the shared port."""

from __future__ import annotations

import os
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from vtaflow.backend import timing
from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.errors import StreamError
from vtaflow.runtime.cycles import COMPUTE, LOAD, NOBODY, STORE, Run, simulate
from vtaflow.runtime.recording import Recording

from .streams import (
    ACC,
    FINISH,
    INP,
    UOP,
    WGT,
    alu,
    gemm,
    load,
    nop,
    random_streams,
    store,
    stream_of,
)

PYNQ, SIM, TSIM = (Target.load(name) for name in ("pynq", "sim", "tsim"))
DE10 = Target.load("de10nano")
QUICK = replace(PYNQ, timing=replace(PYNQ.timing, read_latency=20, write_latency=10))
ROOT = Path(__file__).parent.parent


def run(target: Target, *instructions: Instruction, **options: Any) -> Run:
    return simulate(target, stream_of(target, *instructions), **options)


def spans(found: Run) -> list[int]:
    """Cycles of each instruction, from its start to its end."""
    return [int(cycles) for cycles in found.end - found.start + 1]


# --- durations ----------------------------------------------------------------------------------

HLS_SPANS = [
    (load(UOP, 64), 101),
    (load(ACC, 16), 177),
    (load(INP, 256), 559),
    (load(INP, 4, 8), 377),
    (load(INP, 4, 4, x_pad_0=1, x_pad_1=1, y_pad_0=1, y_pad_1=1), 213),
    (load(WGT, 4), 295),
    (load(WGT, 4, 4), 1165),
    (store(4, 8), 251),
    (gemm(64), 83),
    (alu(64), 147),
    (alu(64, use_imm=0), 147),
    (nop("load"), 9),
    (nop("compute"), 13),
    (nop("store"), 3),
    (FINISH, 5),
]
"""Measured on the RTL of the HLS design with latencies 20 and 10."""


@pytest.mark.parametrize(("instruction", "cycles"), HLS_SPANS)
@pytest.mark.parametrize("shared_port", [False, True])
def test_hls_check_values(instruction: Instruction, cycles: int, shared_port: bool) -> None:
    found = run(QUICK, instruction, FINISH, shared_port=shared_port)
    assert spans(found)[0] == cycles


CHISEL_SPANS = [
    (gemm(64), 64 + 7),
    (gemm(64, reset_reg=1), 64 + 7),
    (alu(64), 64 + 7),
    (alu(64, use_imm=0), 2 * 64 + 7),
    (nop("load"), 2),
    (nop("compute"), 2),
    (nop("store"), 2),
    (FINISH, 2),
    (load(UOP, 64), 7 + 55 + 32),
    (load(UOP, 5), 7 + 55 + 3),
    (load(INP, 256), 7 + 55 + 512),
    (load(INP, 4, 8), 7 + 55 + 64),
    (load(WGT, 4, 4), 7 + 55 + 16 * 32),
    (load(ACC, 16), 7 + 55 + 128),
    # 24 zeros fit into the latency; a leading row of them delays the first request by a cycle.
    (load(INP, 4, 4, x_pad_0=1, x_pad_1=1, y_pad_0=1, y_pad_1=1), 7 + 1 + 55 + 32),
    # 20 rows of 2 zeros and 2 rows of 6: 52 + 12 - 55 are left after the latency.
    (load(INP, 4, 26, x_pad_0=1, x_pad_1=1, y_pad_0=2), 7 + 2 + 55 + 208 + 64 - 55),
    (store(8), 6 + 3 * 8 + 25),
    (store(9), 2 * (6 + 25) + 3 * 9),
    (store(4, 8), 8 * (6 + 25) + 3 * 32),
]
"""Bursts of 16 words, latencies 55 and 25."""


@pytest.mark.parametrize(("instruction", "cycles"), CHISEL_SPANS)
@pytest.mark.parametrize("shared_port", [False, True])
def test_chisel_spans(instruction: Instruction, cycles: int, shared_port: bool) -> None:
    found = run(DE10, instruction, FINISH, shared_port=shared_port)
    assert spans(found)[0] == cycles


def test_chisel_fetches_in_batches() -> None:
    """A batch of 8: latency, 4 cycles, 2 words an instruction, then one a cycle."""
    found = run(DE10, *[nop("load")] * 10, FINISH)
    first = 8 + 55 + 4 + 16 + 1
    assert found.start[0] == first
    assert found.start[7] - first == 14  # the module, at 2 cycles each, is slower than fetch
    left = first - 1 + 7
    assert found.start[8] == left + 55 + 4 + 2 * 3 + 1
    shared = run(DE10, *[nop("load")] * 10, FINISH, shared_port=True)
    assert np.array_equal(shared.start, found.start)


# --- agreement with the recurrence --------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(random_streams())
@pytest.mark.parametrize("target", [QUICK, SIM, DE10], ids=lambda one: one.name)
def test_agrees_with_the_recurrence(target: Target, instructions: list[Instruction]) -> None:
    stream = stream_of(target, *instructions, FINISH)
    found, expected = simulate(target, stream), timing.schedule(target, stream)
    assert np.array_equal(found.module, expected.module)
    assert np.array_equal(found.start, expected.start)
    assert np.array_equal(found.end, expected.end)
    assert found.cycles == expected.cycles


@settings(max_examples=20, deadline=None)
@given(random_streams())
def test_every_cycle_of_a_module_is_accounted_for(instructions: list[Instruction]) -> None:
    for shared_port in (False, True):
        found = run(PYNQ, *instructions, FINISH, shared_port=shared_port)
        for module in (LOAD, COMPUTE, STORE):
            mine = found.module == module
            waits = (found.wait_fetch + found.wait_token)[mine]
            total = int((found.end - found.start + 1)[mine].sum() + waits.sum())
            assert total == (found.end[mine][-1] + 1 if mine.any() else 0)
        assert np.all((found.wait_token == 0) == (found.token_from == NOBODY))
        assert np.all(found.contention >= 0)


def test_arrows_join_producers_and_consumers() -> None:
    found = run(
        PYNQ,
        load(INP, 8, push_next_dep=1),
        load(INP, 8, push_next_dep=1),
        gemm(9, pop_prev_dep=1, push_next_dep=1),
        gemm(9, pop_prev_dep=1),
        store(400, pop_prev_dep=1, push_prev_dep=1),
        nop("compute", pop_next_dep=1),
        FINISH,
    )
    assert found.arrows.tolist() == [[0, 2, 0], [1, 3, 0], [2, 4, 2], [4, 5, 3]]
    assert found.token_from[[2, 4, 5]].tolist() == [LOAD, COMPUTE, STORE]


def test_tokens_that_lie_there_are_used_first() -> None:
    pop = nop("compute", pop_next_dep=1)
    with pytest.raises(StreamError, match="store->compute"):
        run(PYNQ, pop, FINISH)
    found = run(PYNQ, pop, FINISH, tokens=(0, 0, 0, 1))
    assert len(found.arrows) == 0
    assert found.wait_token.tolist() == [0, 0]


# --- queues that are full -----------------------------------------------------------------------


def test_a_full_queue_stops_fetch() -> None:
    """513 loads behind one another keep a GEMM from being dealt until the first has started."""
    first = PYNQ.timing.fetch_start + 55 + 7 + 3
    loads = [load(INP, 1000), *[nop("load")] * 600]
    found = run(PYNQ, *loads, gemm(5), FINISH)
    long = spans(found)[0]
    # Load 512 + k is dealt when load k has started; the GEMM follows load 600.
    started = first + long + 9 * 87
    assert found.start[88] == started
    dealt = started + 1 + 3
    assert found.start[601] == dealt + 2  # one fetch interval later
    assert found.wait_fetch[601] == found.start[601]
    assert timing.schedule(PYNQ, stream_of(PYNQ, *loads, gemm(5), FINISH)).start[601] < dealt


def test_the_functional_design_has_no_bound() -> None:
    instructions = [load(INP, 1000), *[nop("load")] * 600, gemm(5), FINISH]
    expected = timing.schedule(SIM, stream_of(SIM, *instructions))
    assert np.array_equal(run(SIM, *instructions).start, expected.start)


def token_flood() -> list[Instruction]:
    """1024 tokens and more from load while compute is busy, then as many pops."""
    push = nop("load", push_next_dep=1)
    pop = nop("compute", pop_prev_dep=1)
    return [gemm(8000), gemm(8000), *[push] * 1100, *[pop] * 1100, FINISH]


def test_a_full_token_queue_stops_its_producer() -> None:
    found = run(PYNQ, *token_flood())
    pushes, pops = np.arange(2, 1102), np.arange(1102, 2202)
    assert np.all(found.wait_room[pushes[:1023]] == 0)
    freed = int(found.start[pops[0]]) + 1
    assert found.end[pushes[1023]] == freed
    assert found.wait_room[pushes[1023]] > 3000
    assert found.end[pushes[1024]] == max(freed + 9, int(found.start[pops[1]]) + 1)


def test_the_chisel_design_drops_what_its_counter_cannot_hold() -> None:
    with pytest.raises(StreamError, match="pushes token 256 into load->compute.*drops it"):
        run(TSIM, *token_flood())


# --- deadlocks ----------------------------------------------------------------------------------


def test_a_deadlock_names_what_everybody_waits_for() -> None:
    with pytest.raises(StreamError) as caught:
        run(
            PYNQ,
            load(INP, 4, pop_next_dep=1, push_next_dep=1),
            gemm(4, pop_prev_dep=1, push_prev_dep=1),
            FINISH,
        )
    assert str(caught.value) == (
        "deadlock after cycle 0: load waits at instruction 0 (LOAD) for a token from "
        "compute->load; compute waits at instruction 1 (GEMM) for a token from load->compute"
    )


def test_a_producer_behind_a_full_queue_is_a_deadlock() -> None:
    """Load 600 would give the token, but fetch cannot deal it."""
    waiting = [nop("compute", pop_prev_dep=1), *[nop("compute")] * 600]
    with pytest.raises(StreamError) as caught:
        run(PYNQ, *waiting, load(INP, 4, push_next_dep=1), FINISH)
    assert "compute waits at instruction 0 (LOAD) for a token from load->compute" in str(
        caught.value
    )
    assert "fetch waits at instruction 512 (LOAD) for room in the queue of compute" in str(
        caught.value
    )
    assert run(SIM, *waiting, load(INP, 4, push_next_dep=1), FINISH).cycles > 600 * 13


def test_a_deadlock_over_token_room_names_the_queue() -> None:
    instructions = token_flood()[:1102]
    with pytest.raises(StreamError, match=r"for room in load->compute, which holds 1023 tokens"):
        run(PYNQ, *instructions, FINISH)


def test_an_instruction_that_fetch_does_not_know() -> None:
    unknown = Instruction(Opcode.LOAD, {"memory_type": 5, "x_size": 1, "y_size": 1})
    assert spans(run(PYNQ, unknown, FINISH))[0] == 6
    with pytest.raises(StreamError, match="fetch waits at instruction 0.*does not know"):
        run(TSIM, unknown, FINISH)


# --- the shared port ----------------------------------------------------------------------------


def test_two_readers_share_the_port_fairly() -> None:
    """2048 words for load and 2048 for compute at once: each gets half until the first is done."""
    alone = spans(run(PYNQ, load(INP, 1024), FINISH))[0]
    both = run(PYNQ, load(INP, 1024), load(ACC, 256), FINISH, shared_port=True)
    assert both.contention[:2].min() > 1900
    assert both.end[:2].max() - both.start[0] == pytest.approx(4096 + 90, abs=20)
    assert spans(both)[0] == alone + both.contention[0]
    # Weights take a word every other cycle anyway: beside them there is room.
    mixed = run(PYNQ, load(WGT, 32), load(ACC, 16), FINISH, shared_port=True)
    assert mixed.contention[0] < 20
    assert mixed.contention[1] < 130


def test_writes_have_a_channel_of_their_own() -> None:
    instructions = (load(INP, 1024), store(1000), FINISH)
    found = run(PYNQ, *instructions, shared_port=True)
    assert found.contention[1] == 0
    assert found.end[1] == run(PYNQ, *instructions).end[1]


def test_instructions_compete_with_data() -> None:
    """While a long load has the port, fetch gets every other burst."""
    instructions = [load(INP, 2000), *[nop("store")] * 400, FINISH]
    private, shared = run(PYNQ, *instructions), run(PYNQ, *instructions, shared_port=True)
    assert shared.contention[0] > 0
    assert shared.start[400] > private.start[400]


def test_fetch_reads_ahead_no_more_than_its_buffer() -> None:
    """It asks for a burst when what has not left yet fits: the queue of 512 and 256 more."""
    instructions = [load(WGT, 1000), *[nop("load")] * 2000, gemm(5), FINISH]
    private, shared = run(PYNQ, *instructions), run(PYNQ, *instructions, shared_port=True)
    assert shared.cycles == pytest.approx(private.cycles, rel=0.01)
    assert shared.contention[0] < 2 * 768 * 2


@settings(max_examples=20, deadline=None)
@given(random_streams())
def test_nothing_gets_faster_at_a_shared_port(instructions: list[Instruction]) -> None:
    stream = stream_of(PYNQ, *instructions, FINISH)
    private, shared = simulate(PYNQ, stream), simulate(PYNQ, stream, shared_port=True)
    assert np.all(shared.start >= private.start)
    assert np.all(shared.end >= private.end)


# --- recorded streams ---------------------------------------------------------------------------


def recordings() -> Path:
    folder = os.environ.get("VTAFLOW_STREAMS")
    if not folder:
        pytest.skip("VTAFLOW_STREAMS is not set: no recorded streams")
    return Path(folder)


def test_recorded_streams_agree_with_the_recurrence() -> None:
    paths = sorted(recordings().glob("*conv*.npz")) + sorted(recordings().glob("unit/*.npz"))
    assert len(paths) > 6
    for path in paths:
        stream = Isa.of(PYNQ).decode_stream(Recording.load(path).insns)
        if len(stream) < 600:
            expected = timing.schedule(PYNQ, stream)
            assert np.array_equal(simulate(PYNQ, stream).end, expected.end), path


def test_within_six_per_cent_of_the_board() -> None:
    """With one setting of the two latencies, which is the target's default."""
    assert (PYNQ.timing.read_latency, PYNQ.timing.write_latency) == (55, 25)
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "board_agreement.py"))
    rows = benchmark["agreement"](recordings(), PYNQ)
    assert len(rows) == 5
    for row in rows:
        assert abs(row["ratio"] - 1) <= 0.06, row
