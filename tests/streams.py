"""Hand-made instruction streams, and random ones that keep the token rules."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtaflow.backend.isa import Instruction, Isa, Opcode, Stream
from vtaflow.backend.target import Target

UOP, WGT, INP, ACC, OUT = range(5)
FINISH = Instruction(Opcode.FINISH)


def load(memory: int, size: int = 1, rows: int = 1, **more: int) -> Instruction:
    """A LOAD of `rows` rows of `size` elements."""
    shape = {"memory_type": memory, "x_size": size, "y_size": rows, "x_stride": size}
    return Instruction(Opcode.LOAD, {**shape, "dram_base": 4096, **more})


def store(size: int = 1, rows: int = 1, **more: int) -> Instruction:
    """A STORE of `rows` rows of `size` elements."""
    shape = {"memory_type": OUT, "x_size": size, "y_size": rows, "x_stride": size}
    return Instruction(Opcode.STORE, {**shape, "dram_base": 4096, **more})


def gemm(count: int, **more: int) -> Instruction:
    """A GEMM of `count` <= 8191 micro-ops."""
    return Instruction(Opcode.GEMM, {"uop_end": 1, "iter_out": count, "iter_in": 1, **more})


def alu(count: int, use_imm: int = 1, **more: int) -> Instruction:
    """An ALU operation of `count` micro-ops."""
    loops = {"uop_end": 1, "iter_out": count, "iter_in": 1}
    return Instruction(Opcode.ALU, {**loops, "use_imm": use_imm, **more})


def nop(module: str, **tokens: int) -> Instruction:
    """An instruction that carries tokens only."""
    if module == "store":
        return Instruction(Opcode.STORE, tokens)
    memory = INP if module == "load" else UOP
    return Instruction(Opcode.LOAD, {"memory_type": memory, **tokens})


def encoded(target: Target, *instructions: Instruction) -> NDArray[np.uint8]:
    """The bytes of a stream, uint8[n, 16]."""
    raw = b"".join(Isa.of(target).encode(one) for one in instructions)
    return np.frombuffer(raw, np.uint8).reshape(-1, 16)


def stream_of(target: Target, *instructions: Instruction) -> Stream:
    """The decoded stream."""
    return Isa.of(target).decode_stream(encoded(target, *instructions))


@st.composite
def random_streams(draw: st.DrawFn, most: int = 30) -> list[Instruction]:
    """Instructions of all modules; in program order every pop finds its token, none is left."""
    held = {"l2g": 0, "g2l": 0, "g2s": 0, "s2g": 0}
    bits = {
        "load": (("pop_next_dep", "g2l"), ("push_next_dep", "l2g")),
        "compute": (
            ("pop_prev_dep", "l2g"),
            ("pop_next_dep", "s2g"),
            ("push_prev_dep", "g2l"),
            ("push_next_dep", "g2s"),
        ),
        "store": (("pop_prev_dep", "g2s"), ("push_prev_dep", "s2g")),
    }
    found = []
    for _ in range(draw(st.integers(1, most))):
        module = draw(st.sampled_from(sorted(bits)))
        tokens = {}
        for bit, queue in bits[module]:
            step = -1 if bit.startswith("pop") else 1
            if held[queue] + step >= 0 and draw(st.booleans()):
                held[queue] += step
                tokens[bit] = 1
        found.append(draw(_instructions(module, tokens)))
    return found


def _instructions(module: str, tokens: dict[str, int]) -> st.SearchStrategy[Instruction]:
    """Instructions of a module with the tokens given."""
    count = st.integers(1, 40)
    pads = st.fixed_dictionaries(
        {name: st.integers(0, 2) for name in ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")}
    )
    none = st.just(nop(module, **tokens))
    if module == "store":
        return none | st.builds(lambda x, y: store(x, y, **tokens), count, count)
    if module == "load":
        return (
            none
            | st.builds(lambda x, y, p: load(INP, x, y, **p, **tokens), count, count, pads)
            | st.builds(lambda x, y: load(WGT, x, y, **tokens), count, count)
        )
    return (
        none
        | st.builds(lambda n: gemm(n, **tokens), st.integers(1, 3000))
        | st.builds(lambda n, i: alu(n, i, **tokens), st.integers(1, 2000), st.integers(0, 1))
        | st.builds(lambda x: load(UOP, x, **tokens), count)
        | st.builds(lambda x, y: load(ACC, x, y, **tokens), count, count)
    )
