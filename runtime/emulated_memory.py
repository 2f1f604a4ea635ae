"""The emulated board's contiguous memory, with a CPU cache that is not coherent.

Every buffer exists twice: as the CPU sees it and as VTA does. Flushing and invalidating copy
between the two, in whole cache lines, so that a driver that forgets one of them fails.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import DeviceError
from .device import Bytes
from .memory import Dram, Segment
from .pool import Pool
from .transport import CACHE_LINE_BYTES, PAGE_BYTES

UNTOUCHED = 0xCD
"""What fresh memory holds: nobody may rely on it being zero."""


class EmulatedBuffer:
    """One allocation at a physical address; `dram` is VTA's view, `data` the CPU's."""

    def __init__(self, memory: EmulatedMemory, address: int, size: int) -> None:
        self._memory, self._address = memory, address
        self.dram: Bytes = np.full(size, UNTOUCHED, np.uint8)
        self._data = self.dram.copy()

    @property
    def address(self) -> int:
        """Physical address of the first byte."""
        return self._address

    @property
    def data(self) -> Bytes:
        """All bytes as the CPU sees them, uint8[size]."""
        return self._data

    def flush(self, start: int, size: int) -> None:
        """Copy the CPU's lines to memory."""
        self._check(start, size)
        old, new = self.dram[start : start + size], self._data[start : start + size]
        different = np.flatnonzero(old != new)
        if len(different):
            old[:] = new
            first = self._address + start
            self._memory.changed(first + int(different[0]), first + int(different[-1]) + 1)

    def invalidate(self, start: int, size: int) -> None:
        """Let the CPU see the lines as they are in memory."""
        self._check(start, size)
        self._data[start : start + size] = self.dram[start : start + size]

    def free(self) -> None:
        """Give the memory back."""
        self._memory.release(self)

    def _check(self, start: int, size: int) -> None:
        if start % CACHE_LINE_BYTES or size % CACHE_LINE_BYTES or start + size > len(self.dram):
            raise DeviceError(f"bytes {start}..{start + size} are no cache lines of the buffer")


class EmulatedMemory:
    """`size` bytes of contiguous memory from physical address `base` on.

    `changed(start, end)` is called when bytes at these addresses may have changed, with the whole
    address space when buffers come or go.
    """

    def __init__(self, base: int, size: int, changed: Callable[[int, int], None]) -> None:
        if base % PAGE_BYTES or size % PAGE_BYTES:
            raise DeviceError(f"emulated memory of {size} bytes at {base:#x} is not made of pages")
        self._base = base
        self._pool = Pool(size)
        self._buffers: list[EmulatedBuffer] = []
        self.changed = changed

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody has allocated."""
        return self._pool.free_bytes

    def allocate(self, size: int) -> EmulatedBuffer:
        """A new buffer. Raises DeviceError when there is no such piece left."""
        start = self._pool.take(size)
        if start is None:
            raise DeviceError(
                f"the emulated board has no {size:,} contiguous bytes left "
                f"({self._pool.largest:,} in one piece, {self._pool.free_bytes:,} of "
                f"{self._pool.size:,} in all); unload models"
            )
        buffer = EmulatedBuffer(self, self._base + start, size)
        self._buffers.append(buffer)
        self.changed(0, 1 << 32)
        return buffer

    def release(self, buffer: EmulatedBuffer) -> None:
        """Take a buffer back; again is harmless."""
        if buffer in self._buffers:
            self._buffers.remove(buffer)
            self._pool.give_back(buffer.address - self._base, len(buffer.dram))
            self.changed(0, 1 << 32)

    def dram(self) -> Dram:
        """Everything that is allocated, as VTA sees it; one image, shared."""
        return Dram(Segment(one.address, one.dram) for one in self._buffers)
