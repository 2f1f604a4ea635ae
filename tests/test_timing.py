"""Durations against the published check values, and the recurrence on a hand-made stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vtaflow.backend import timing
from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target

PYNQ = Target.load("pynq")
TARGET = replace(PYNQ, timing=replace(PYNQ.timing, read_latency=20, write_latency=10))

UOP, WGT, INP, ACC, OUT = range(5)

CHECK_VALUES = [
    ("UOP x=64", Opcode.LOAD, {"memory_type": UOP, "y_size": 1, "x_size": 64}, 101),
    ("ACC x=16", Opcode.LOAD, {"memory_type": ACC, "y_size": 1, "x_size": 16}, 177),
    ("INP x=256", Opcode.LOAD, {"memory_type": INP, "y_size": 1, "x_size": 256}, 559),
    ("INP x=4 y=8", Opcode.LOAD, {"memory_type": INP, "y_size": 8, "x_size": 4}, 377),
    (
        "INP x=4 y=4 pads 1",
        Opcode.LOAD,
        {"memory_type": INP, "y_size": 4, "x_size": 4, "y_pad_0": 1, "y_pad_1": 1}
        | {"x_pad_0": 1, "x_pad_1": 1},
        213,
    ),
    ("WGT x=4", Opcode.LOAD, {"memory_type": WGT, "y_size": 1, "x_size": 4}, 295),
    ("WGT x=4 y=4", Opcode.LOAD, {"memory_type": WGT, "y_size": 4, "x_size": 4}, 1165),
    ("STORE x=4 y=8", Opcode.STORE, {"memory_type": OUT, "y_size": 8, "x_size": 4}, 251),
    ("GEMM n=64", Opcode.GEMM, {"uop_end": 1, "iter_out": 8, "iter_in": 8}, 83),
    ("ALU n=64", Opcode.ALU, {"uop_end": 2, "iter_out": 4, "iter_in": 8, "use_imm": 1}, 147),
    ("ALU register n=64", Opcode.ALU, {"uop_end": 2, "iter_out": 4, "iter_in": 8}, 147),
    ("GEMM n=0", Opcode.GEMM, {}, 13),
    ("NOP compute", Opcode.LOAD, {"memory_type": UOP}, 13),
    ("NOP load", Opcode.LOAD, {"memory_type": INP}, 9),
    ("NOP store", Opcode.STORE, {}, 3),
    ("FINISH", Opcode.FINISH, {}, 5),
    ("LOAD OUT", Opcode.LOAD, {"memory_type": OUT, "y_size": 1, "x_size": 1}, 6),
]


def encode(*instructions: Instruction) -> np.ndarray:
    raw = b"".join(Isa.of(TARGET).encode(one) for one in instructions)
    return np.frombuffer(raw, np.uint8).reshape(-1, 16)


@pytest.mark.parametrize(
    ("opcode", "fields", "cycles"),
    [case[1:] for case in CHECK_VALUES],
    ids=[case[0] for case in CHECK_VALUES],
)
def test_check_values(opcode: Opcode, fields: dict[str, int], cycles: int) -> None:
    stream = Isa.of(TARGET).decode_stream(encode(Instruction(opcode, fields)))
    assert timing.durations(TARGET, stream).tolist() == [cycles]


def test_a_consumer_waits_for_its_token() -> None:
    load = Instruction(
        Opcode.LOAD,
        {"memory_type": INP, "y_size": 1, "x_size": 256, "push_next_dep": 1},
    )
    gemm = Instruction(
        Opcode.GEMM, {"pop_prev_dep": 1, "uop_end": 1, "iter_out": 8, "iter_in": 8}
    )
    stream = Isa.of(TARGET).decode_stream(encode(load, gemm, Instruction(Opcode.FINISH)))
    timeline = timing.schedule(TARGET, stream)
    first = 8 + 20 + 7 + 3
    assert timeline.start.tolist() == [first, first + 558 + 3, first + 558 + 3 + 83]
    assert timeline.cycles == first + 558 + 3 + 83 + 5


def test_a_token_that_never_comes_is_an_error() -> None:
    gemm = Instruction(Opcode.GEMM, {"pop_prev_dep": 1, "uop_end": 1})
    stream = Isa.of(TARGET).decode_stream(encode(gemm))
    with pytest.raises(ValueError, match="instruction 0 waits for a token"):
        timing.schedule(TARGET, stream)
