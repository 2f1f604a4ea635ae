"""Dependence tokens: orders the three modules so that no command overtakes what it depends on.

One pass over the commands in program order. For every command it asks which earlier command of
each other module it must wait for (SRAM and DRAM hazards, by last access), drops what is already
implied (vector clocks), and turns the rest into one push and one pop. Pushes and pops of a queue
are made in the same order on both sides, which is what a FIFO needs. Load and store share no
queue: a wait between them goes through a compute instruction, an existing one if possible.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .access import Access, Module, Rows
from .commands import Memory

Clock = list[int]
"""Per module, the position of its latest instruction known to be complete (-1: none)."""


@dataclass
class Slot:
    """One instruction to be: a command (its index) or a NOP of `module` (`command` None)."""

    module: Module
    command: int | None
    pops: set[Module] = field(default_factory=set)
    pushes: set[Module] = field(default_factory=set)
    clock: Clock = field(default_factory=lambda: [-1, -1, -1])


WRITERS = {Memory.INP: Module.LOAD, Memory.WGT: Module.LOAD, Memory.ACC: Module.COMPUTE}
"""The only module that writes each SRAM. Its own reads are in order with that anyway, so that one
other module is left whose reads count; DRAM is read by two, and written by STORE alone."""


class _LastAccess:
    """Position of the last reader and writer of every SRAM element and DRAM unit."""

    def __init__(self, depths: dict[Memory, int], dram_units: int) -> None:
        self.sram_reader = {one: np.full(depth, -1, np.int32) for one, depth in depths.items()}
        self.sram_writer = {one: np.full(depth, -1, np.int32) for one, depth in depths.items()}
        self.dram_readers = {
            one: np.full(dram_units, -1, np.int32) for one in (Module.LOAD, Module.COMPUTE)
        }
        self.dram_writer = np.full(dram_units, -1, np.int32)

    def needs(self, access: Access) -> list[int]:
        """Positions that `access` must follow, one per set that it touches."""
        found = [self.sram_writer[one.memory][one.low : one.high].max() for one in access.reads]
        for one in access.writes:
            found.append(self.sram_reader[one.memory][one.low : one.high].max())
            found.append(self.sram_writer[one.memory][one.low : one.high].max())
        if access.dram_read:
            found.append(_rows_of(self.dram_writer, access.dram_read).max())
        if access.dram_write:
            for table in self.dram_readers.values():
                found.append(_rows_of(table, access.dram_write).max())
            found.append(_rows_of(self.dram_writer, access.dram_write).max())
        return [int(one) for one in found if one >= 0]

    def record(self, access: Access, position: int) -> None:
        for one in access.reads:
            if access.module is not WRITERS[one.memory]:
                self.sram_reader[one.memory][one.low : one.high] = position
        for one in access.writes:
            self.sram_writer[one.memory][one.low : one.high] = position
        if access.dram_read:
            _rows_of(self.dram_readers[access.module], access.dram_read)[...] = position
        if access.dram_write:
            _rows_of(self.dram_writer, access.dram_write)[...] = position


def _rows_of(table: NDArray[np.int32], rows: Rows) -> NDArray[np.int32]:
    """A view of `table` with one row per DRAM row."""
    window = table[rows.start : rows.start + (rows.rows - 1) * rows.stride + rows.size]
    step = window.strides[0]
    return as_strided(window, (rows.rows, rows.size), (rows.stride * step, step))


class TokenPass:
    """The state of one pass; `slots` grows to the launch's instructions in program order."""

    def __init__(self, depths: dict[Memory, int], dram_units: int) -> None:
        self.slots: list[Slot] = []
        self._last = _LastAccess(depths, dram_units)
        self._known: dict[Module, Clock] = {one: [-1, -1, -1] for one in Module}
        self._compute: list[int] = []
        # The first compute instruction must be free of tokens: it clears the `done` flag that a
        # previous run left (docs/hardware.md).
        self._append(Slot(Module.COMPUTE, None), {})

    def add(self, command: int, access: Access) -> None:
        """Append a command."""
        pops = self._waits(access.module, self._last.needs(access))
        position = self._append(Slot(access.module, command), pops)
        self._last.record(access, position)

    def finish(self) -> None:
        """Append the NOP that waits for the last STORE and LOAD, if anything is left to await."""
        last = {
            slot.module: position
            for position, slot in enumerate(self.slots)
            if slot.module is not Module.COMPUTE
        }
        pops = self._waits(Module.COMPUTE, list(last.values()))
        if pops:
            self._append(Slot(Module.COMPUTE, None), pops)

    def _waits(self, module: Module, needs: Sequence[int]) -> dict[Module, int]:
        """Queue -> position to wait for, after dropping what is implied.

        Load and store wait for each other through compute: the wait becomes one for a compute
        instruction that itself has waited.
        """
        latest: dict[Module, int] = {}
        for position in needs:
            source = self.slots[position].module
            if source is not module and position > self._known[module][source]:
                latest[source] = max(latest.get(source, -1), position)
        far = {Module.LOAD: Module.STORE, Module.STORE: Module.LOAD}.get(module)
        if far in latest:
            relay = self._relay(far, latest.pop(far))
            latest[Module.COMPUTE] = max(latest.get(Module.COMPUTE, -1), relay)
        return latest

    def _relay(self, far: Module, position: int) -> int:
        """The first compute instruction that has waited for `position` of module `far`."""
        index = bisect_left(
            self._compute, position, key=lambda compute: self.slots[compute].clock[far]
        )
        if index < len(self._compute):
            return self._compute[index]
        return self._append(Slot(Module.COMPUTE, None), {far: position})

    def _append(self, slot: Slot, pops: dict[Module, int]) -> int:
        """Add an instruction that waits for `pops`; returns its position."""
        position = len(self.slots)
        known = self._known[slot.module]
        for source, producer in pops.items():
            slot.pops.add(source)
            self.slots[producer].pushes.add(slot.module)
            for module in Module:
                known[module] = max(known[module], self.slots[producer].clock[module])
        known[slot.module] = position
        slot.clock = list(known)
        self.slots.append(slot)
        if slot.module is Module.COMPUTE:
            self._compute.append(position)
        return position
