"""What a driver needs from a board: registers, memory that VTA reaches, time, and programming.

A `Transport` is one way to get at them: PYNQ's library, `/dev/mem`, or the emulated Zynq. The
drivers know nothing else of a board.
"""

from __future__ import annotations

import os
import time
from typing import Protocol

from ..errors import DeviceError
from .bitstream import Bitstream
from .device import Bytes

PAGE_BYTES = 4096
"""Alignment and granularity of memory that VTA reaches, and size of a block of registers."""

CACHE_LINE_BYTES = 64
"""At least the CPU's cache line: what flushing and invalidating is rounded to."""


class Clock(Protocol):
    """Time as the board sees it."""

    def now(self) -> float:
        """Seconds since some moment, never going back."""

    def sleep(self, seconds: float) -> None:
        """Let at least that much time pass."""


class HostClock:
    """The time of the machine that this runs on."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Let at least that much time pass."""
        time.sleep(seconds)


class Buffer(Protocol):
    """Physically contiguous memory that starts at a page; VTA may read and write all of it.

    CPU caches may stand between the two: what the CPU wrote must be flushed before VTA reads it,
    and what VTA wrote be invalidated before the CPU reads it. `start` and `size` of both are
    multiples of CACHE_LINE_BYTES.
    """

    @property
    def address(self) -> int:
        """The first byte's address as VTA must be told."""

    @property
    def data(self) -> Bytes:
        """All bytes as the CPU sees them, uint8[size]."""

    def flush(self, start: int, size: int) -> None:
        """Let VTA see what the CPU wrote there."""

    def invalidate(self, start: int, size: int) -> None:
        """Let the CPU see what VTA wrote there; what the CPU wrote unflushed is lost."""

    def free(self) -> None:
        """Give the memory back; nobody may use it any more. Freeing twice is harmless."""


class Transport(Protocol):
    """One way to reach a board. Failures raise DeviceError."""

    @property
    def needs_bitstream(self) -> bool:
        """Whether `program(None)` leaves the hardware as it is, instead of resetting it."""

    @property
    def clock(self) -> Clock:
        """The time by which runs are measured."""

    def program(self, bitstream: Bitstream | None) -> None:
        """Configure the FPGA, which ends whatever ran."""

    def read(self, address: int) -> int:
        """The 32-bit register at a physical address."""

    def write(self, address: int, value: int) -> None:
        """Set the 32-bit register at a physical address."""

    def allocate(self, size: int) -> Buffer:
        """`size` bytes, a multiple of PAGE_BYTES; their content is arbitrary."""

    def close(self) -> None:
        """Let go of the board; closing twice is harmless."""


def require_root(what: str) -> None:
    """Raise DeviceError unless this process is root's: hardware opens for nobody else."""
    if os.geteuid() != 0:
        raise DeviceError(f"{what} needs root to reach the FPGA; run the same command with sudo -E")
