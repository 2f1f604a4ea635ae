"""Commands: what a schedule says to the accelerator, before any bit is chosen.

A template emits Load, Gemm, Alu and Store in the order in which they are to be fetched, over
named DRAM buffers and SRAM element indices, with affine loops. The program (`program.py`) turns
them into micro-op kernels, tokens and instructions. Units are elements of the memory concerned
(`Target.element_bytes`); loops are listed outermost first. `origin` names the ONNX nodes that a
command serves, `role` a part of them that has a row of its own in profiles ("" for the main one).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Memory(IntEnum):
    """Memory types, coded as the instruction set codes them (docs/hardware.md)."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4


class AluOp(IntEnum):
    """ALU operations of the portable subset, coded as the instruction set codes them."""

    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3


@dataclass(frozen=True)
class Buffer:
    """A named region of DRAM.

    `memory` fixes the element size and so the alignment (an activation that is stored as OUT and
    loaded as INP is declared OUT). `kind` is "constant" (with `data`, exactly its bytes),
    "input" (written by the host), "output" (read by the host) or "activation".
    """

    name: str
    memory: Memory
    elements: int
    kind: str
    data: NDArray[np.int8] | NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Loop:
    """One affine loop: its trip count and the step of each index."""

    extent: int
    dst: int = 0
    src: int = 0
    wgt: int = 0


@dataclass(frozen=True)
class Load:
    """Copy `rows` rows of `size` elements from `buffer` to dense SRAM, zeros around them.

    `pads` is (y_pad_0, y_pad_1, x_pad_0, x_pad_1). Only INP may pad.
    """

    memory: Memory
    sram: int
    buffer: str
    offset: int
    size: int
    rows: int = 1
    stride: int = 0
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    origin: tuple[str, ...] = ()
    role: str = ""
    layer: str = ""

    def __str__(self) -> str:
        pads = f" pads {self.pads}" if any(self.pads) else ""
        rows = _rows(self.rows, self.size, self.stride)
        return f"LOAD {self.memory.name}[{self.sram}] <- {self.buffer}[{self.offset}] {rows}{pads}"


@dataclass(frozen=True)
class Store:
    """Copy `rows` rows of `size` elements from dense OUT SRAM to `buffer`."""

    sram: int
    buffer: str
    offset: int
    size: int
    rows: int = 1
    stride: int = 0
    origin: tuple[str, ...] = ()
    role: str = ""
    layer: str = ""

    def __str__(self) -> str:
        rows = _rows(self.rows, self.size, self.stride)
        return f"STORE OUT[{self.sram}] -> {self.buffer}[{self.offset}] {rows}"


@dataclass(frozen=True)
class Gemm:
    """ACC[dst] += INP[src] . WGT[wgt] over `loops` (or ACC[dst] = 0 with `reset`).

    The first two loops become the instruction's own loops, the others are unrolled into its
    micro-ops in the order given.
    """

    dst: int
    src: int
    wgt: int
    loops: tuple[Loop, ...]
    reset: bool = False
    origin: tuple[str, ...] = ()
    role: str = ""
    layer: str = ""

    def __str__(self) -> str:
        if self.reset:
            return f"GEMM ACC[{self.dst}] = 0{_loops(self.loops)}"
        return (
            f"GEMM ACC[{self.dst}] += INP[{self.src}] . WGT[{self.wgt}]{_loops(self.loops)}"
        )


@dataclass(frozen=True)
class Alu:
    """ACC[dst] = ACC[dst] op (imm or ACC[src]) over `loops`; `imm` None means ACC[src].

    With an immediate `src` is ignored here and encoded equal to `dst`, as every design needs.
    """

    op: AluOp
    dst: int
    loops: tuple[Loop, ...]
    imm: int | None = None
    src: int = 0
    origin: tuple[str, ...] = ()
    role: str = ""
    layer: str = ""

    def __str__(self) -> str:
        operand = f"ACC[{self.src}]" if self.imm is None else str(self.imm)
        return f"ALU {self.op.name} ACC[{self.dst}], {operand}{_loops(self.loops)}"


Command = Load | Store | Gemm | Alu


def _rows(rows: int, size: int, stride: int) -> str:
    return f"{size} elements" if rows == 1 else f"{rows} rows of {size}, {stride} apart"


def _loops(loops: tuple[Loop, ...]) -> str:
    """Loops with more than one trip, and the steps that they take."""
    texts = []
    for loop in loops:
        steps = (("dst", loop.dst), ("src", loop.src), ("wgt", loop.wgt))
        if loop.extent > 1:
            moved = " ".join(f"{name}+{step}" for name, step in steps if step)
            texts.append(f" x{loop.extent}({moved})")
    return "".join(texts)
