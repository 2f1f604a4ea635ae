"""What a command touches: the SRAM intervals and DRAM rows that dependences are made of.

SRAM sets are bounding intervals in elements, DRAM sets are strided rows in units of the smallest
element that data is moved in (`grain`); constants, which nobody writes, are not in them. OUT
shares ACC's indices and is treated as the same memory: the functional simulator has no other, and
on hardware a reload of ACC must not overtake a STORE either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from .commands import Alu, Command, Gemm, Load, Memory, Store
from .dram import Region
from .microops import Nest
from .target import Target


class Module(IntEnum):
    """The three modules that execute instructions, each in order."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


@dataclass(frozen=True)
class Span:
    """SRAM elements [low, high) of one memory."""

    memory: Memory
    low: int
    high: int


@dataclass(frozen=True)
class Rows:
    """DRAM rows in units of `grain`: `rows` times [start + r*stride, + size)."""

    start: int
    size: int
    rows: int
    stride: int


@dataclass(frozen=True)
class Access:
    """Everything one command reads and writes, and the module that executes it."""

    module: Module
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    dram_read: Rows | None = None
    dram_write: Rows | None = None


def grain(target: Target) -> int:
    """Bytes of the smallest element that loads and stores of data move; it divides all others."""
    return min(target.element_bytes(memory) for memory in (Memory.WGT, Memory.INP, Memory.OUT))


def access_of(
    target: Target, command: Command, split: Nest | None, regions: Mapping[str, Region]
) -> Access:
    """The access sets of one command."""
    if isinstance(command, Load) and command.memory is Memory.UOP:
        return Access(Module.COMPUTE)
    if isinstance(command, Load):
        y_pad_0, y_pad_1, x_pad_0, x_pad_1 = command.pads
        width = x_pad_0 + command.size + x_pad_1
        length = width * (y_pad_0 + command.rows + y_pad_1)
        span = Span(command.memory, command.sram, command.sram + length)
        module = Module.COMPUTE if command.memory is Memory.ACC else Module.LOAD
        return Access(module, writes=(span,), dram_read=_rows(target, command, regions))
    if isinstance(command, Store):
        span = Span(Memory.ACC, command.sram, command.sram + command.rows * command.size)
        return Access(Module.STORE, reads=(span,), dram_write=_rows(target, command, regions))
    assert split is not None
    return _compute_access(command, split)


def _rows(
    target: Target, command: Load | Store, regions: Mapping[str, Region]
) -> Rows | None:
    region = regions[command.buffer]
    if region.kind == "constant":
        return None
    memory = command.memory if isinstance(command, Load) else Memory.OUT
    unit = target.element_bytes(memory) // grain(target)
    start = region.start // grain(target) + command.offset * unit
    return Rows(start, command.size * unit, command.rows, command.stride * unit)


def _compute_access(command: Gemm | Alu, split: Nest) -> Access:
    spans = []
    for position, memory in enumerate(
        (Memory.ACC, Memory.INP, Memory.WGT)
        if isinstance(command, Gemm)
        else (Memory.ACC, Memory.ACC)
    ):
        indices = [micro[position] for micro in split.kernel]
        reach = sum(
            (loop.extent - 1) * (loop.dst, loop.src, loop.wgt)[position]
            for loop in (split.outer, split.inner)
        )
        spans.append(Span(memory, min(indices), max(indices) + reach + 1))
    if isinstance(command, Gemm) and command.reset:
        # A reset reads nothing for the result, but the Pynq design reads INP and WGT anyway
        # and writes the rubbish to OUT, which the template overwrites before any STORE.
        return Access(Module.COMPUTE, writes=(spans[0],))
    return Access(Module.COMPUTE, reads=tuple(spans), writes=(spans[0],))
