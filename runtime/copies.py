"""Steps that copy: DRAM rows to SRAM and back, zeros, OUT from ACC."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from .lift import Indices
from .machine import Action, Machine, Plain


@dataclass(frozen=True, eq=False)
class Rows:
    """DRAM rows within one segment: `rows` of `size` elements, `stride` bytes apart."""

    segment: int
    offset: int
    rows: int
    size: int
    stride: int


@dataclass(frozen=True, eq=False)
class CopyIn(Plain):
    """SRAM elements start + r*pitch + x <- DRAM rows; `narrow` widens int8 to int32."""

    memory: Memory
    start: int
    pitch: int
    source: Rows
    narrow: bool = False

    def bind(self, machine: Machine) -> Action:
        """A strided copy."""
        array, source = machine.sram[self.memory], self.source
        items = source.size * array.shape[2]
        dtype = np.dtype("<i4" if array.dtype == np.int32 and not self.narrow else np.int8)
        data = machine.dram_rows(
            source.segment, source.offset, (source.rows, items), source.stride, dtype
        )
        view = machine.strided(
            self.memory, self.start, (source.rows, source.size), (self.pitch, 1)
        )
        return partial(np.copyto, view.reshape(view.shape[0], source.rows, items), data)


@dataclass(frozen=True, eq=False)
class CopyOut(Plain):
    """DRAM rows <- low 8 bits of the SRAM elements start... (dense) of ACC or OUT."""

    memory: Memory
    start: int
    target: Rows

    def bind(self, machine: Machine) -> Action:
        """A strided copy; int32 to int8 keeps the low bits."""
        target = self.target
        lanes = machine.sram[self.memory].shape[2]
        data = machine.dram_rows(
            target.segment, target.offset, (target.rows, target.size * lanes), target.stride,
            np.dtype(np.int8),
        )
        view = machine.strided(self.memory, self.start, (target.rows * target.size,), (1,))
        shaped = view.reshape(view.shape[0], target.rows, target.size * lanes)
        return partial(np.copyto, data, shaped, casting="unsafe")


@dataclass(frozen=True, eq=False)
class Zero(Plain):
    """SRAM elements <- 0; `elements` is a slice or int64[n]."""

    memory: Memory
    elements: slice | Indices

    def bind(self, machine: Machine) -> Action:
        """A fill."""
        array = machine.sram[self.memory]
        if isinstance(self.elements, slice):
            return partial(array[:, self.elements].fill, 0)
        return partial(array.__setitem__, (slice(None), self.elements), 0)


@dataclass(frozen=True, eq=False)
class SyncOut(Plain):
    """OUT elements <- low 8 bits of ACC."""

    elements: Indices

    def part(self, chosen: NDArray[np.bool_]) -> SyncOut:
        """The same for some of the elements."""
        return SyncOut(self.elements[chosen])

    def bind(self, machine: Machine) -> Action:
        """A gather and a fancy assignment."""
        acc, out = machine.sram[Memory.ACC], machine.sram[Memory.OUT]

        def run() -> None:
            out[:, self.elements] = acc[:, self.elements].astype(np.int8)

        return run
