"""Reaching a board without PYNQ: registers through /dev/mem, memory through u-dma-buf.

u-dma-buf (https://github.com/ikwzm/udmabuf) is a kernel module that reserves one contiguous piece
of memory at boot; this transport cuts it into buffers. Bitstreams go through the fpga_manager of
the Xilinx kernels.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from .bitstream import Bitstream
from .device import Bytes
from .pool import Pool
from .transport import PAGE_BYTES, HostClock, require_root

TO_DEVICE, FROM_DEVICE = 1, 2
"""u-dma-buf's sync_direction."""


@dataclass(frozen=True)
class Paths:
    """Where the kernel offers what is needed."""

    memory: Path = Path("/dev/mem")
    dma: Path = Path("/dev/udmabuf0")
    dma_attributes: Path = Path("/sys/class/u-dma-buf/udmabuf0")
    fpga: Path = Path("/sys/class/fpga_manager/fpga0")
    firmware: Path = Path("/lib/firmware")


class DevmemBuffer:
    """A piece of the u-dma-buf memory."""

    def __init__(self, transport: DevmemTransport, start: int, data: Bytes) -> None:
        self._transport, self._start, self._data = transport, start, data

    @property
    def address(self) -> int:
        """Address of the first byte as VTA sees it."""
        return self._transport.dma_address + self._start

    @property
    def data(self) -> Bytes:
        """All bytes, uint8[size]."""
        return self._data

    def flush(self, start: int, size: int) -> None:
        """Write the CPU's cache lines back."""
        self._transport.sync(self._start + start, size, TO_DEVICE)

    def invalidate(self, start: int, size: int) -> None:
        """Forget the CPU's cache lines."""
        self._transport.sync(self._start + start, size, FROM_DEVICE)

    def free(self) -> None:
        """Give the piece back to the pool."""
        if len(self._data):
            self._transport.give_back(self._start, len(self._data))
            self._data = self._data[:0]


class DevmemTransport:
    """The board that this process runs on, by kernel files alone.

    `address_offset` is added to physical addresses for VTA's use: 0x80000000 on the DE10-Nano,
    whose FPGA sees memory through a window. Raises DeviceError if something is missing.
    """

    needs_bitstream = True

    def __init__(self, paths: Paths | None = None, address_offset: int = 0) -> None:
        require_root("/dev/mem")
        self._paths = paths or Paths()
        self.clock = HostClock()
        self._blocks: dict[int, NDArray[np.uint32]] = {}
        attributes = self._paths.dma_attributes
        size = int(self._attribute("size"), 0)
        self.dma_address = int(self._attribute("phys_addr"), 0) + address_offset
        if size < PAGE_BYTES or self.dma_address % PAGE_BYTES:
            raise DeviceError(
                f"{attributes}: {size} bytes at {self.dma_address:#x}, not pages; load u-dma-buf "
                "with a size that is a multiple of 4096"
            )
        self._dma = np.frombuffer(self._map(self._paths.dma, size, 0, 0), np.uint8)
        self._pool = Pool(size - size % PAGE_BYTES)

    def program(self, bitstream: Bitstream | None) -> None:
        """Hand the bitstream to the kernel's fpga_manager, a .bit file as raw words."""
        if bitstream is None:
            return
        name = f"vtaflow-{bitstream.sha256[:16]}.bin"
        trigger = self._paths.fpga / "firmware"
        if not trigger.exists():
            raise DeviceError(
                f"{trigger}: this kernel takes no bitstream from here; load {bitstream.path} by "
                "the board's own means and use --bitstream loaded"
            )
        try:
            data = bitstream.payload()
            firmware = raw_words(data) if bitstream.offset else data
            (self._paths.firmware / name).write_bytes(firmware)
            (self._paths.fpga / "flags").write_text("0")
            trigger.write_text(name)
        except OSError as error:
            raise DeviceError(
                f"{error.filename or trigger}: cannot load {bitstream.path}: {error.strerror}"
            ) from None

    def read(self, address: int) -> int:
        """The 32-bit register at a physical address."""
        return int(self._block(address)[address % PAGE_BYTES // 4])

    def write(self, address: int, value: int) -> None:
        """Set the 32-bit register at a physical address."""
        self._block(address)[address % PAGE_BYTES // 4] = value

    def allocate(self, size: int) -> DevmemBuffer:
        """A piece of the u-dma-buf memory."""
        start = self._pool.take(size)
        if start is None:
            raise DeviceError(
                f"{self._paths.dma} has no {size:,} contiguous bytes left ({self._pool.largest:,} "
                f"in one piece, {self._pool.free_bytes:,} of {self._pool.size:,} in all); unload "
                "models, or load u-dma-buf with a larger size"
            )
        return DevmemBuffer(self, start, self._dma[start : start + size])

    def give_back(self, start: int, size: int) -> None:
        """Take a buffer's piece back."""
        self._pool.give_back(start, size)

    def sync(self, start: int, size: int, direction: int) -> None:
        """Let the kernel write back (TO_DEVICE) or forget (FROM_DEVICE) cache lines."""
        owner = "sync_for_device" if direction == TO_DEVICE else "sync_for_cpu"
        values = (("sync_offset", start), ("sync_size", size), ("sync_direction", direction))
        try:
            for name, value in (*values, (owner, 1)):
                (self._paths.dma_attributes / name).write_text(str(value))
        except OSError as error:
            raise DeviceError(f"{error.filename}: {error.strerror}") from None

    def close(self) -> None:
        """Forget the mapped registers and memory."""
        self._blocks.clear()
        self._dma = self._dma[:0]

    def _attribute(self, name: str) -> str:
        path = self._paths.dma_attributes / name
        try:
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise DeviceError(
                f"{path}: {error.strerror}; load the u-dma-buf kernel module with a device "
                "udmabuf0: insmod u-dma-buf.ko udmabuf0=134217728"
            ) from None

    def _block(self, address: int) -> NDArray[np.uint32]:
        page = address - address % PAGE_BYTES
        if page not in self._blocks:
            mapped = self._map(self._paths.memory, PAGE_BYTES, page, os.O_SYNC)
            self._blocks[page] = np.frombuffer(mapped, np.uint32)
        return self._blocks[page]

    def _map(self, path: Path, size: int, offset: int, flags: int) -> mmap.mmap:
        try:
            handle = os.open(path, os.O_RDWR | flags)
            try:
                return mmap.mmap(handle, size, offset=offset)
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DeviceError(f"{path}: cannot be mapped at {offset:#x}: {reason}") from None


def raw_words(payload: bytes) -> bytes:
    """A .bit file's data as fpga_manager takes them: every 32-bit word's bytes reversed."""
    padded = payload + bytes(-len(payload) % 4)
    return np.frombuffer(padded, "<u4").byteswap().tobytes()
