"""A decoded piece of a stream with what the checker derives from single instructions.

Owns the routing of instructions to modules and the legal forms of a NOP (docs/hardware.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..commands import Memory
from ..isa import Isa, Opcode
from ..target import Target

LOAD, COMPUTE, STORE = range(3)
"""The three modules."""

CHUNK = 8192
"""Instructions decoded at a time, so that memory does not grow with the stream."""

Column = NDArray[np.int64]
Mask = NDArray[np.bool_]

_DEP_BITS = ("pop_prev_dep", "pop_next_dep", "push_prev_dep", "push_next_dep")
_NOP_FIELDS = (
    "sram_base",
    "dram_base",
    "y_size",
    "x_size",
    "x_stride",
    "y_pad_0",
    "y_pad_1",
    "x_pad_0",
    "x_pad_1",
)


@dataclass(frozen=True)
class Columns:
    """Instructions `first`, `first + 1`, ... of a stream as columns.

    `fields` are the instruction's own fields (int64[n]). `deps` packs the dependence bits: 1
    pop_prev, 2 pop_next, 4 push_prev, 8 push_next. `nop` marks the three legal NOPs, `transfer`
    every other LOAD and STORE.
    """

    first: int
    fields: dict[str, Column]
    stray: Mask
    module: Column
    deps: Column
    nop: Mask
    transfer: Mask

    def __len__(self) -> int:
        return len(self.stray)

    def __getitem__(self, name: str) -> Column:
        return self.fields[name]

    def is_opcode(self, opcode: Opcode) -> Mask:
        """Where the opcode is `opcode`, NOPs included."""
        return np.asarray(self.fields["opcode"] == opcode)

    def moves(self, opcode: Opcode, memory: Memory) -> Mask:
        """Where a LOAD or STORE of `memory` stands that is no NOP."""
        of_memory = self.fields["memory_type"] == memory
        return np.asarray(self.transfer & self.is_opcode(opcode) & of_memory)


def decoded(target: Target, insns: NDArray[np.uint8]) -> Iterator[Columns]:
    """The stream uint8[n, 16] in pieces of CHUNK instructions."""
    isa = Isa.of(target)
    for first in range(0, len(insns), CHUNK):
        stream = isa.decode_stream(insns[first : first + CHUNK])
        yield _columns(first, dict(stream.fields), stream.stray)


def _columns(first: int, fields: dict[str, Column], stray: Mask) -> Columns:
    opcode, memory = fields["opcode"], fields["memory_type"]
    load, store = opcode == Opcode.LOAD, opcode == Opcode.STORE
    to_load = load & ((memory == Memory.INP) | (memory == Memory.WGT))
    module = np.where(store, STORE, np.where(to_load, LOAD, COMPUTE))
    deps = sum(fields[name] << bit for bit, name in enumerate(_DEP_BITS))
    empty = np.logical_and.reduce([fields[name] == 0 for name in _NOP_FIELDS])
    load_nop = load & ((memory == Memory.INP) | (memory == Memory.UOP))
    store_nop = store & ((memory == Memory.OUT) | (memory == 0))
    nop = empty & (load_nop | store_nop)
    return Columns(first, fields, stray, module, np.asarray(deps), nop, (load | store) & ~nop)
