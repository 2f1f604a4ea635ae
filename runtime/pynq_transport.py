"""Reaching a board through PYNQ's own library: Bitstream, allocate, MMIO (PYNQ 3.0 and 3.1).

`pynq` is imported when a transport is made, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeviceError
from .bitstream import Bitstream
from .device import Bytes
from .transport import PAGE_BYTES, HostClock, require_root

FCLK0_MHZ = 100.0
"""The clock from which the public bitstreams derive theirs, on every board."""

MEMINFO = Path("/proc/meminfo")


class PynqBuffer:
    """A buffer of `pynq.allocate`; its slices flush and invalidate their own part."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._address = int(array.physical_address)

    @property
    def address(self) -> int:
        """Physical address of the first byte."""
        return self._address

    @property
    def data(self) -> Bytes:
        """All bytes, uint8[size]."""
        view: Bytes = self._array.view(np.ndarray)
        return view

    def flush(self, start: int, size: int) -> None:
        """Write the CPU's cache lines back."""
        self._array[start : start + size].flush()

    def invalidate(self, start: int, size: int) -> None:
        """Forget the CPU's cache lines."""
        self._array[start : start + size].invalidate()

    def free(self) -> None:
        """Give the memory back. PYNQ 3 does so when the last reference to the array is gone."""
        if self._array is not None:
            self._array.freebuffer()
            self._array = None


class PynqTransport:
    """The board that this process runs on, by PYNQ's library. Raises DeviceError if it cannot."""

    needs_bitstream = True

    def __init__(self) -> None:
        require_root("PYNQ")
        try:
            import pynq
        except ImportError as error:
            raise DeviceError(
                f"PYNQ's library cannot be imported ({error}); run on a board with the PYNQ image "
                "3.0 or 3.1, in its environment: sudo -i, then . /etc/profile.d/pynq_venv.sh"
            ) from None
        self._pynq: Any = pynq
        self._blocks: dict[int, Any] = {}
        self.clock = HostClock()

    def program(self, bitstream: Bitstream | None) -> None:
        """Download the bitstream; PYNQ must do so once before it allocates anything."""
        self._blocks.clear()
        if bitstream is None:
            return
        try:
            self._pynq.Bitstream(str(bitstream.path)).download()
            clocks = self._pynq.Clocks
            if abs(clocks.fclk0_mhz - FCLK0_MHZ) > 0.5:
                clocks.fclk0_mhz = FCLK0_MHZ
        except (OSError, RuntimeError, ValueError) as error:
            raise DeviceError(f"PYNQ cannot load {bitstream.path}: {_line(error)}") from None

    def read(self, address: int) -> int:
        """The 32-bit register at a physical address."""
        return int(self._block(address).read(address % PAGE_BYTES))

    def write(self, address: int, value: int) -> None:
        """Set the 32-bit register at a physical address."""
        self._block(address).write(address % PAGE_BYTES, value)

    def allocate(self, size: int) -> PynqBuffer:
        """Contiguous cached memory from the kernel's pool (CMA)."""
        try:
            return PynqBuffer(self._pynq.allocate(shape=(size,), dtype="u1"))
        except (MemoryError, OSError, RuntimeError) as error:
            raise DeviceError(
                f"PYNQ cannot allocate {size:,} bytes of contiguous memory ({_line(error)}; "
                f"{contiguous_memory()}); unload models, or raise the kernel's cma= option"
            ) from None

    def close(self) -> None:
        """Forget the mapped registers."""
        self._blocks.clear()

    def _block(self, address: int) -> Any:
        page = address - address % PAGE_BYTES
        if page not in self._blocks:
            try:
                self._blocks[page] = self._pynq.MMIO(page, PAGE_BYTES)
            except (OSError, RuntimeError, ValueError) as error:
                raise DeviceError(
                    f"PYNQ cannot map the registers at {page:#x}: {_line(error)}"
                ) from None
        return self._blocks[page]


def contiguous_memory() -> str:
    """What the kernel says of its pool of contiguous memory, for a message."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return "the pool's size is unknown"
    found = [" ".join(line.split()) for line in lines if line.startswith("Cma")]
    return ", ".join(found) or "the kernel has no such pool"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
