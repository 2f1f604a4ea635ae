"""A board with VTA: what all artifacts on it share, and how to open one.

That is the hardware, which runs one stream at a time, and memory that a runaway run may still
write to. What belongs to one artifact is in `board_device.py`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import IO

from ..backend.dram import align
from ..backend.target import Target
from ..errors import DeviceError
from .bitstream import Bitstream, find_bitstream
from .board_device import BoardDevice
from .chisel_driver import ChiselDriver
from .devmem_transport import DevmemTransport, Paths
from .driver import Driver, HlsDriver, Job, Patience, State
from .emulator import EmulatedBoard
from .faults import Faults
from .interrupts import deferred_signals
from .pynq_transport import PynqTransport
from .transport import PAGE_BYTES, Buffer, Transport

LOADED = "loaded"
"""Given in place of a bitstream's path: use what the FPGA holds already."""

ADDRESS_SPACE = 1 << 32
LOCK = Path("/run/vtaflow.lock")
"""Held by the one process that uses the board."""

DEVICE_TREE = Path("/proc/device-tree/compatible")
_CHIPS = (b"xlnx,zynq", b"altr,socfpga")
_DE10_WINDOW = 0x8000_0000  # where the FPGA of the DE10-Nano sees the CPU's memory, coherently


class Board:
    """VTA on `transport`, configured with `bitstream`; safe to use from several threads.

    Closing it closes `lock` too. Raises DeviceError if the hardware cannot be configured.
    """

    def __init__(
        self,
        target: Target,
        transport: Transport,
        bitstream: Bitstream | None = None,
        patience: Patience | None = None,
        lock: IO[str] | None = None,
    ) -> None:
        self.target, self.bitstream = target, bitstream
        self._transport, self._file_lock = transport, lock
        self._lock = threading.RLock()
        self._abandoned: list[Buffer] = []
        self._closed = False
        self._driver = _driver(target, transport, patience)
        self._driver.program(bitstream)

    @property
    def state(self) -> State:
        """What is known of the hardware."""
        return self._driver.state

    def device(self) -> BoardDevice:
        """A new device without an artifact."""
        return BoardDevice(self)

    def reprogram(self) -> None:
        """Load the bitstream again, which is the only way out of a run that did not end.

        Loaded artifacts stay: streams that were checked write to their own results alone. Raises
        DeviceError if the board was opened without a bitstream.
        """
        if self.bitstream is None and self._transport.needs_bitstream:
            raise DeviceError(
                "the FPGA was used as it was found, so it cannot be loaded again: switch the board "
                "off and on, then start with a bitstream"
            )
        with self._lock, deferred_signals():
            self._driver.program(self.bitstream)
            for buffer in self._abandoned:
                buffer.free()
            self._abandoned.clear()

    def run(self, job: Job, spin: bool = False) -> float:
        """Run a stream to its end; the seconds it took.

        Signals wait until it has ended or failed. Raises RunTimeout if it does not end, and
        DeviceError if an earlier one did not.
        """
        with self._lock, deferred_signals():
            if self._closed:
                raise DeviceError("the board is closed")
            return self._driver.run(job, spin)

    def allocate(self, size: int) -> Buffer:
        """Contiguous memory for at least `size` bytes, at a page's start. Raises DeviceError."""
        with self._lock:
            buffer = self._transport.allocate(align(size, PAGE_BYTES))
        end = buffer.address + len(buffer.data)
        if buffer.address % PAGE_BYTES or end > ADDRESS_SPACE:
            buffer.free()
            raise DeviceError(
                f"the board's memory at {buffer.address:#x}..{end:#x} (exclusive) is of no use: "
                f"VTA needs pages of {PAGE_BYTES} bytes below 4 GiB"
            )
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Free memory, once no runaway run can write to it."""
        with self._lock:
            if self.state in (State.STUCK, State.RUNNING):
                self._abandoned.append(buffer)
            else:
                buffer.free()

    def close(self) -> None:
        """Wait for the run under way, end a runaway one by reprogramming, let go of the board."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self.state is State.STUCK:
                    self.reprogram()
            finally:
                self._transport.close()
                if self._file_lock is not None:
                    self._file_lock.close()


def on_board() -> bool:
    """Whether this process runs on a chip that has an FPGA for VTA beside it."""
    try:
        return any(chip in DEVICE_TREE.read_bytes() for chip in _CHIPS)
    except OSError:
        return False


def open_board(
    target: Target,
    bitstream: str | os.PathLike[str] | None = None,
    patience: Patience | None = None,
) -> Board:
    """The board that this process runs on: through PYNQ if it is there, else /dev/mem.

    `bitstream` is a path, LOADED, or None for the target's file in the cache. Raises DeviceError
    saying what is missing, or that another process uses the board.
    """
    file = None if bitstream == LOADED else find_bitstream(target, bitstream)
    transport = _transport(target)
    lock = None
    try:
        lock = _sole_use()
        return Board(target, transport, file, patience, lock)
    except BaseException:
        transport.close()
        if lock is not None:
            lock.close()
        raise


def open_emulator(
    target: Target,
    bitstream: str | os.PathLike[str] | None = None,
    faults: Faults | None = None,
    virtual_time: bool = False,
    patience: Patience | None = None,
) -> Board:
    """An emulated board for `target`; a bitstream, if any is given, is checked but not needed."""
    file = None if bitstream in (None, LOADED) else find_bitstream(target, bitstream)
    transport = EmulatedBoard(target, faults=faults, virtual_time=virtual_time)
    return Board(target, transport, file, patience)


def open_hardware(
    name: str, target: Target, bitstream: str | os.PathLike[str] | None = None
) -> Board:
    """The board called `name`, board or emulator; the emulator's time does not depend on the host.

    Raises DeviceError.
    """
    if name == "emulator":
        return open_emulator(target, bitstream, virtual_time=True)
    if name == "board":
        return open_board(target, bitstream)
    raise DeviceError(f"there is no device {name!r}; known: sim, emulator, board")


def board_device(target: Target) -> BoardDevice:
    """The board of this process as one device."""
    return BoardDevice(open_board(target), owns_board=True)


def emulator_device(target: Target) -> BoardDevice:
    """An emulated board as one device."""
    return BoardDevice(open_emulator(target), owns_board=True)


def _transport(target: Target) -> Transport:
    if target.design == "chisel":
        return DevmemTransport(address_offset=_DE10_WINDOW)
    return DevmemTransport() if Paths().dma.exists() else PynqTransport()


def _sole_use() -> IO[str]:
    """A lock that no other process gets: programming the FPGA would break another's run."""
    try:
        lock = open(LOCK, "a", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            lock.close()
            raise
    except BlockingIOError:
        raise DeviceError(
            f"another process uses the board ({LOCK} is locked), such as deploy serve: end it first"
        ) from None
    except OSError as error:
        raise DeviceError(f"{LOCK}: cannot be locked: {error.strerror}") from None
    return lock


def _driver(target: Target, transport: Transport, patience: Patience | None) -> Driver:
    kinds = {"hls": HlsDriver, "chisel": ChiselDriver}
    if target.design not in kinds:
        raise DeviceError(
            f"target {target.name!r} has design {target.design}, which is no hardware; take the "
            "target of your board, such as pynq"
        )
    return kinds[target.design](target, transport, patience)
