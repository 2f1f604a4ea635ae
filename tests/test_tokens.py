"""The token pass: what it makes is enough, and nothing in it is too much.

Random command sequences go through the pass; the independent checker must accept the result,
every interleaving must give the same bytes, and taking away any one token must be noticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend import program
from vtaflow.backend.commands import Alu, AluOp, Buffer, Command, Gemm, Load, Loop, Memory, Store
from vtaflow.backend.isa import Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.runtime.interleave import ORDERS

from . import execution

TARGET = Target.load("pynq")
SIZE = 8
"""Elements of every buffer, and of the part of INP and ACC in use."""

TILES = 4
"""Weight tiles."""

X = np.random.default_rng(0).integers(-128, 128, (SIZE, 16), np.int8)


def buffers() -> list[Buffer]:
    random = np.random.default_rng(1)
    weights = random.integers(-8, 8, (TILES, 16, 16), np.int8)
    bias = random.integers(-1000, 1000, (SIZE, 16), np.int32)
    return [
        Buffer("w", Memory.WGT, TILES, "constant", weights),
        Buffer("bias", Memory.ACC, SIZE, "constant", bias),
        Buffer("x", Memory.INP, SIZE, "input"),
        Buffer("a", Memory.OUT, SIZE, "activation"),
        Buffer("b", Memory.OUT, SIZE, "activation"),
        Buffer("y", Memory.OUT, SIZE, "output"),
    ]


def each(count: int, src: int = 0) -> tuple[Loop, ...]:
    """One loop over neighbouring accumulators (and, with `src`, over what they read)."""
    return (Loop(count, dst=1, src=src),)


BEGIN: list[Command] = [
    Load(Memory.INP, 0, "x", 0, SIZE),
    Load(Memory.WGT, 0, "w", 0, TILES),
    Gemm(0, 0, 0, each(SIZE), reset=True),
    Gemm(0, 0, 0, each(SIZE, src=1)),
    Store(0, "a", 0, SIZE),
    Store(0, "b", 0, SIZE),
]
"""Everything that a random command may read holds something after these."""

END: list[Command] = [Alu(AluOp.MAX, 0, each(SIZE), imm=-128), Store(0, "y", 0, SIZE)]

STARTS = st.integers(0, SIZE - 4)
BOXES = st.sampled_from([(1, 4, 0), (2, 2, 2), (2, 1, 3), (1, 1, 0), (2, 2, 1)])
"""Rows, size and stride of a transfer."""


def load(start: int, offset: int, box: tuple[int, int, int], source: str) -> Command:
    rows, size, stride = box
    return Load(Memory.INP, start, source, offset, size, rows, stride)


def store(start: int, offset: int, box: tuple[int, int, int], result: str) -> Command:
    rows, size, stride = box
    return Store(start, result, offset, size, rows, max(stride, size))


COMMANDS = st.one_of(
    st.builds(load, STARTS, STARTS, BOXES, st.sampled_from("xab")),
    st.builds(
        lambda sram, offset: Load(Memory.WGT, sram, "w", offset, 1),
        st.integers(0, TILES - 1),
        st.integers(0, TILES - 1),
    ),
    st.builds(lambda sram, offset: Load(Memory.ACC, sram, "bias", offset, 3), STARTS, STARTS),
    st.builds(lambda dst: Gemm(dst, 0, 0, each(4), reset=True), STARTS),
    st.builds(
        lambda dst, src, wgt: Gemm(dst, src, wgt, each(4, src=1)),
        STARTS,
        STARTS,
        st.integers(0, TILES - 1),
    ),
    st.builds(lambda dst: Alu(AluOp.SHR, dst, each(3), imm=1), STARTS),
    st.builds(
        lambda low, up: Alu(AluOp.ADD, (0, 4)[up], each(low, src=1), src=(4, 0)[up]),
        st.integers(1, 4),
        st.integers(0, 1),
    ),
    st.builds(store, STARTS, STARTS, BOXES, st.sampled_from("ab")),
)


def legal(commands: Sequence[Command]) -> list[Command]:
    """The commands without the STOREs of elements that no GEMM or ALU operation made."""
    made = np.ones(SIZE, bool)
    kept = []
    for command in commands:
        if isinstance(command, Store):
            if not made[command.sram : command.sram + command.rows * command.size].all():
                continue
        elif isinstance(command, Load) and command.memory is Memory.ACC:
            made[command.sram : command.sram + command.size] = False
        elif isinstance(command, Gemm | Alu):
            reset = isinstance(command, Gemm) and command.reset
            made[command.dst : command.dst + command.loops[0].extent] = not reset
        kept.append(command)
    return kept


SEQUENCES = st.lists(COMMANDS, max_size=14).map(lambda middle: legal([*BEGIN, *middle, *END]))


def assemble(commands: Sequence[Command], apart: bool = False) -> program.Program:
    return program.assemble(TARGET, [commands], buffers(), keep_intermediates=apart)


def tokens(insns: np.ndarray) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Every token as (instruction, field) of its push and of its pop, by replay."""
    stream = Isa.of(TARGET).decode_stream(insns)
    places = {"load": ("", "compute"), "compute": ("load", "store"), "store": ("compute", "")}
    queues: dict[tuple[str, str], deque[tuple[int, str]]] = {}
    found = []
    for index in range(len(stream)):
        memory = stream.fields["memory_type"][index]
        module = "compute"
        if stream.opcode[index] == Opcode.STORE:
            module = "store"
        elif stream.opcode[index] == Opcode.LOAD and memory in (Memory.INP, Memory.WGT):
            module = "load"
        for act in ("pop", "push"):
            for side, other in zip(("prev", "next"), places[module], strict=True):
                field = f"{act}_{side}_dep"
                if not stream.fields[field][index]:
                    continue
                if act == "push":
                    queues.setdefault((module, other), deque()).append((index, field))
                else:
                    found.append((queues[other, module].popleft(), (index, field)))
    assert not any(queues.values())
    return found


def without(insns: np.ndarray, *bits: tuple[int, str]) -> np.ndarray:
    """The stream with some bits cleared."""
    stream = Isa.of(TARGET).decode_stream(insns)
    columns = {name: column.copy() for name, column in stream.fields.items()}
    for index, field in bits:
        columns[field][index] = 0
    return Isa.of(TARGET).encode_stream(columns)


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.booleans())
def test_the_checker_accepts_and_all_orders_agree(commands: list[Command], apart: bool) -> None:
    code = assemble(commands, apart)
    assert execution.findings(TARGET, code, ("x",)) == []
    results = [execution.run(TARGET, code, {"x": X}, order)["y"] for order in ORDERS]
    for result in results:
        assert np.array_equal(result, results[0])


@settings(max_examples=40, deadline=None)
@given(SEQUENCES, st.booleans())
def test_no_token_is_superfluous(commands: list[Command], apart: bool) -> None:
    code = assemble(commands, apart)
    insns = code.launches[0].insns
    for push, pop in tokens(insns):
        broken = without(insns, push, pop)
        assert execution.findings(TARGET, code, ("x",), broken), f"{push} -> {pop} is not needed"


@given(SEQUENCES)
@settings(max_examples=20, deadline=None)
def test_the_first_compute_instruction_is_free(commands: list[Command]) -> None:
    stream = Isa.of(TARGET).decode_stream(assemble(commands).launches[0].insns)
    assert not any(stream.fields[name][0] for name in stream.fields if name.endswith("_dep"))
    assert stream.opcode[0] == Opcode.LOAD and stream.fields["memory_type"][0] == Memory.UOP


# Every case is a hazard that a table of "the last access", whoever made it, would forget.
FORGETFUL: dict[str, list[Command]] = {
    "a STORE reads, the ALU reads, a reset overwrites": [
        *BEGIN,
        Store(0, "a", 0, 4),
        Alu(AluOp.ADD, 4, each(4, src=1), src=0),
        Gemm(0, 0, 0, each(4), reset=True),
        *END,
    ],
    "two loads read, a STORE overwrites": [
        *BEGIN,
        Load(Memory.INP, 0, "a", 0, 4),
        Load(Memory.INP, 4, "a", 0, 4),
        Alu(AluOp.ADD, 0, each(4), imm=1),
        Store(0, "a", 0, 4),
        Load(Memory.INP, 0, "a", 0, 4),
        Gemm(0, 0, 0, each(4, src=1)),
        *END,
    ],
    "a row of a larger store is loaded": [
        *BEGIN,
        Store(0, "a", 0, 2, 2, 4),
        Load(Memory.INP, 0, "a", 4, 1),
        Gemm(0, 0, 0, each(4, src=1)),
        *END,
    ],
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_hazards_behind_a_later_access(name: str) -> None:
    code = assemble(FORGETFUL[name], apart=True)
    assert execution.findings(TARGET, code, ("x",)) == []
    insns = code.launches[0].insns
    for push, pop in tokens(insns):
        assert execution.findings(TARGET, code, ("x",), without(insns, push, pop))


def test_rows_that_do_not_meet_need_no_order() -> None:
    """A load waits for a STORE through a compute NOP, if both touch the same elements."""

    def nops(offset: int) -> int:
        commands = [
            *BEGIN,
            Alu(AluOp.MAX, 0, each(SIZE), imm=-128),
            Store(0, "a", 0, 1, 4, 2),
            Load(Memory.INP, 0, "a", offset, 1, 4, 2),
            Gemm(0, 0, 0, each(4, src=1)),
            *END,
        ]
        code = assemble(commands, apart=True)
        assert execution.findings(TARGET, code, ("x",)) == []
        stream = Isa.of(TARGET).decode_stream(code.launches[0].insns)
        loads = (stream.opcode == Opcode.LOAD) & (stream.fields["memory_type"] == Memory.UOP)
        return int((loads & (stream.fields["x_size"] == 0)).sum())

    assert nops(offset=0) == nops(offset=1) + 1
