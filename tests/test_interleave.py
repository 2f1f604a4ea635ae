"""Execution orders and dependence tokens: what they allow, what they refuse, what they reveal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtaflow.backend.isa import Instruction, Isa, Opcode, Stream
from vtaflow.backend.profile import PROFILES
from vtaflow.backend.target import Target
from vtaflow.errors import StreamError
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.interleave import (
    COMPUTE,
    LOAD,
    ORDERS,
    STORE,
    execution,
    modules,
    require_tokens,
)
from vtaflow.runtime.memory import Dram, Segment

SIM = Target.load("sim")
FSIM = PROFILES["fsim"]

FLAGS = {"<": "pop_prev_dep", ">": "pop_next_dep", "[": "push_prev_dep", "]": "push_next_dep"}


def insn(text: str, **fields: int) -> Instruction:
    """`load<]` is a LOAD of INP that pops from the previous and pushes to the next module."""
    name = text.rstrip("<>[]")
    opcode = Opcode["LOAD" if name == "uop" else name.upper()]
    kind = {"load": {"memory_type": 2}, "store": {"memory_type": 4}}.get(name, {})
    flags = {FLAGS[mark]: 1 for mark in text[len(name) :]}
    return Instruction(opcode, {**kind, **flags, **fields})


def encoded(*insns: Instruction) -> NDArray[np.uint8]:
    """uint8[n, 16] for the default target."""
    isa = Isa.of(SIM)
    return np.frombuffer(b"".join(isa.encode(one) for one in insns), np.uint8).reshape(-1, 16)


def stream(*texts: str) -> Stream:
    """Token-only instructions."""
    return Isa.of(SIM).decode_stream(encoded(*(insn(text) for text in texts)))


def test_instructions_are_routed_as_fetch_does() -> None:
    kinds = [insn("load", memory_type=kind) for kind in range(8)]
    others = [insn("store"), insn("gemm"), insn("alu"), insn("finish")]
    routed = modules(Isa.of(SIM).decode_stream(encoded(*kinds, *others)))
    loads = [COMPUTE, LOAD, LOAD, COMPUTE, COMPUTE, COMPUTE, COMPUTE, COMPUTE]
    assert routed.tolist() == [*loads, STORE, COMPUTE, COMPUTE, COMPUTE]


TILES = ("load]", "gemm<[]", "store<[") * 2 + ("load>", "load>]", "gemm<>", "uop>", "finish")


@pytest.mark.parametrize(
    ("order", "positions"),
    [
        ("program", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("load-first", [0, 3, 1, 6, 4, 7, 2, 8, 5, 9, 10]),
        ("compute-first", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("store-first", [0, 3, 1, 2, 6, 4, 5, 7, 8, 9, 10]),
        ("round-robin", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_each_order_follows_its_rule(order: str, positions: list[int]) -> None:
    found = execution(stream(*TILES), FSIM, order)
    assert found.order.tolist() == positions
    assert found.tokens_after == (0, 0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(TILES[:-1]), max_size=30), st.sampled_from(ORDERS))
def test_an_order_keeps_every_rule_of_tokens(texts: list[str], order: str) -> None:
    """A replay of the order, one instruction at a time, never lacks a token."""
    pops = {"load": {">": 1}, "gemm": {"<": 0, ">": 3}, "uop": {"<": 0, ">": 3}, "store": {"<": 2}}
    pushes = {"load": {"]": 0}, "gemm": {"[": 1, "]": 2}, "uop": {}, "store": {"[": 3}}
    module_of = {"load": LOAD, "store": STORE, "gemm": COMPUTE, "uop": COMPUTE}
    tokens, start = [2, 2, 2, 2], (2, 2, 2, 2)
    try:
        found = execution(stream(*texts, "finish"), FSIM, order, start)
    except StreamError as error:
        assert any(word in str(error) for word in ("underflow", "deadlock", "after FINISH"))
        return
    assert sorted(found.order.tolist()) == list(range(len(texts) + 1))
    last = {LOAD: -1, COMPUTE: -1, STORE: -1}
    for position in found.order.tolist()[:-1]:
        name = texts[position].rstrip("<>[]")
        marks = texts[position][len(name) :]
        assert position > last[module_of[name]]
        last[module_of[name]] = position
        for mark in marks:
            if mark in pops[name]:
                tokens[pops[name][mark]] -= 1
                assert tokens[pops[name][mark]] >= 0
        for mark in marks:
            if mark in pushes[name]:
                tokens[pushes[name][mark]] += 1
    assert found.tokens_after == tuple(tokens)


@pytest.mark.parametrize(
    ("texts", "order", "message"),
    [
        (["gemm<", "load]", "finish"], "program",
         r"instruction 0 \(GEMM\): pops a token from load->compute, .* underflow"),
        (["load]", "gemm<", "gemm<", "finish"], "load-first",
         r"deadlock: instruction 2 \(GEMM\) waits for load->compute$"),
        (["load>", "gemm<", "store<", "finish"], "round-robin",
         r"deadlock: instruction 0 \(LOAD\) waits for compute->load, "
         r"instruction 1 \(GEMM\) waits for load->compute, instruction 2 \(STORE\) waits"),
        (["finish", "load"], "program", r"instruction 1 \(LOAD\) can run after FINISH"),
        (["store", "finish"], "compute-first", r"instruction 0 \(STORE\) can run after FINISH"),
        (["finish", "uop", "finish"], "program", r"instruction 1 \(LOAD\) can run after FINISH"),
        (["load", "gemm"], "program", "the stream has no FINISH"),
        ([], "round-robin", "the stream has no FINISH"),
        (["finish"], "backwards", "unknown execution order 'backwards'; orders are program, load"),
        (["load<", "finish"], "program", r"instruction 0 \(LOAD\): pop_prev_dep is set, but the "
         "load module has no such neighbour"),
        (["store]", "finish"], "program", "push_next_dep is set, but the store module"),
    ],
)
def test_faults_are_named(texts: list[str], order: str, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        execution(stream(*texts), FSIM, order)


def test_bits_towards_nobody_are_ignored_by_hardware() -> None:
    found = execution(stream("load<[", "store>]", "finish"), PROFILES["hls"])
    assert found.tokens_after == (0, 0, 0, 0)


@pytest.mark.parametrize("order", ORDERS)
def test_queues_overflow_where_the_design_bounds_them(order: str) -> None:
    texts = ["load]"] * 256 + ["gemm<"] * 256 + ["finish"]
    execution(stream(*texts), PROFILES["hls"], order)
    if order in ("compute-first", "round-robin"):
        execution(stream(*texts), PROFILES["chisel"], order)
        return
    with pytest.raises(StreamError, match=r"instruction 255 \(LOAD\): pushes token 256 into load-"):
        execution(stream(*texts), PROFILES["chisel"], order)


def test_leftover_tokens_are_refused_unless_expected() -> None:
    dram = Dram([Segment(4096, np.zeros(64, np.uint8))])
    insns = encoded(insn("load]"), insn("finish"))
    with pytest.raises(StreamError, match="ends with 1 tokens in load->compute, not 0"):
        Launch(SIM, insns, dram)
    Launch(SIM, insns, dram, tokens_after=(1, 0, 0, 0))
    with pytest.raises(StreamError, match="ends with 0 tokens in store->compute, not 2"):
        require_tokens((0, 0, 0, 0), (0, 0, 0, 2))


def test_tokens_of_an_earlier_launch_can_be_popped() -> None:
    waiting = stream("gemm>", "finish")
    with pytest.raises(StreamError, match="underflow"):
        execution(waiting, FSIM)
    assert execution(waiting, FSIM, tokens=(0, 0, 0, 1)).tokens_after == (0, 0, 0, 0)


# A double-buffered program: tile t loads INP[t % 2], multiplies it into ACC[t % 2] and stores it.

INPUTS, RESULTS, CONSTANTS = 1 << 16, 1 << 17, 4096


def tiles(count: int, without: str = "") -> NDArray[np.uint8]:
    """The program; `without` names a dependence that is left out, pop and push."""
    uops = [
        Instruction(Opcode.LOAD, {"dram_base": CONSTANTS // 4, "x_size": 2, "y_size": 1}),
        insn("load", memory_type=1, dram_base=2 * CONSTANTS // 256, x_size=1, y_size=1),
    ]
    insns = list(uops)
    for tile in range(count):
        later, buffer = tile >= 2, tile % 2
        last = tile >= count - 2
        place = {"x_size": 1, "y_size": 1, "x_stride": 1, "sram_base": buffer}
        insns += [
            insn("load]" + ">" * later, dram_base=INPUTS // 16 + tile, **place),
            insn("gemm<" + ">" * later, uop_bgn=buffer, uop_end=buffer + 1, iter_out=1,
                 iter_in=1, reset_reg=1),
            insn("gemm]" + "[" * (not last), uop_bgn=buffer, uop_end=buffer + 1, iter_out=1,
                 iter_in=1),
            insn("store<[", dram_base=RESULTS // 16 + tile, **place),
        ]
    insns += [insn("uop>"), insn("uop>"), insn("finish")]
    return encoded(*(_strip(one, without) for one in insns))


def _strip(one: Instruction, without: str) -> Instruction:
    """The instruction without one dependence."""
    load, store = one.opcode is Opcode.LOAD and one["memory_type"] == 2, one.opcode is Opcode.STORE
    compute = not load and not store
    dropped = {
        "": [],
        "load->compute": ["push_next_dep"] * load + ["pop_prev_dep"] * compute,
        "compute->load": ["pop_next_dep"] * load + ["push_prev_dep"] * compute,
        "compute->store": ["pop_prev_dep"] * store + ["push_next_dep"] * compute,
        # The last two are still waited for, or FINISH would be too early.
        "store->compute": ["pop_next_dep"] * (compute and one.opcode is Opcode.GEMM),
    }[without]
    fields = {name: value for name, value in one.fields.items() if name not in dropped}
    return Instruction(one.opcode, fields)


def run(insns: NDArray[np.uint8], order: str, tokens_after: Sequence[int] = (0,) * 4
        ) -> NDArray[np.uint8]:
    """The results of the tiles on seeded data."""
    generator = np.random.default_rng(3)
    constants = generator.integers(0, 256, 4 * CONSTANTS).astype(np.uint8)
    uops = Isa.of(SIM).encode_uops(np.array([[0, 0, 0], [1, 1, 0]]))
    constants[:8] = uops.astype("<u4").view(np.uint8)
    inputs = generator.integers(0, 256, (2, 1024)).astype(np.uint8)
    results = np.zeros((2, 1024), np.uint8)
    dram = Dram([Segment(CONSTANTS, constants), Segment(INPUTS, inputs), Segment(RESULTS, results)])
    Launch(SIM, insns, dram, order=order, tokens_after=tokens_after).run()
    return results


@pytest.mark.parametrize("order", ORDERS)
def test_a_program_with_all_its_tokens_gives_one_result(order: str) -> None:
    assert run(tiles(8), "program").any()
    np.testing.assert_array_equal(run(tiles(8), order), run(tiles(8), "program"))


@pytest.mark.parametrize(
    ("without", "order"),
    [
        ("load->compute", "compute-first"),
        ("compute->load", "load-first"),
        ("compute->store", "store-first"),
        ("store->compute", "compute-first"),
    ],
)
def test_a_missing_dependence_shows_in_some_order(without: str, order: str) -> None:
    """Each of the four dependences, left out, changes the result of one order or blocks it."""
    left = (0, 0, 0, 6) if without == "store->compute" else (0, 0, 0, 0)
    insns, wanted = tiles(8, without), run(tiles(8), "program")
    np.testing.assert_array_equal(run(insns, "program", left), wanted)
    try:
        shown = not np.array_equal(run(insns, order, left), wanted)
    except StreamError as error:
        shown = "after FINISH" in str(error)
    assert shown
