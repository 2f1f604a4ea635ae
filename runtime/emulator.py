"""The emulated Zynq: registers, contiguous memory and time of a board with VTA, as a transport.

The drivers run on it unchanged. A run takes the time that the timing model gives it; faults can
be injected at any moment (`faults`).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from ..backend.target import Target
from ..errors import DeviceError
from .bitstream import Bitstream
from .driver import Bases
from .emulated_clock import EmulatedClock
from .emulated_memory import EmulatedBuffer
from .emulated_registers import HlsRegisters, Progress, VcrRegisters
from .emulated_vta import EmulatedVta
from .faults import Faults
from .registers import BLOCK_BYTES
from .silicon import Silicon

ARENA_BASE = 0x1600_0000
"""Where the emulated kernel keeps its contiguous memory, as Pynq boards do."""

MEMORY_BYTES = 128 << 20
LOG_LENGTH = 4096


@dataclass(frozen=True)
class Access:
    """One register access: "read" or "write", `block`, `offset` in it, and the value."""

    kind: str
    block: str
    offset: int
    value: int


class EmulatedBoard:
    """A board with VTA for `target` (design hls or chisel) that exists in memory only.

    `base` and `memory_bytes` place its contiguous memory; `silicon` says how its hardware differs
    from the description; with `virtual_time` runs and sleeps take no real time. `log` holds the
    last register accesses, `programmed` counts bitstreams. Raises DeviceError for other designs.
    """

    needs_bitstream = False

    def __init__(
        self,
        target: Target,
        *,
        silicon: Silicon | None = None,
        faults: Faults | None = None,
        base: int = ARENA_BASE,
        memory_bytes: int = MEMORY_BYTES,
        virtual_time: bool = False,
    ) -> None:
        if target.design not in ("hls", "chisel"):
            raise DeviceError(
                f"target {target.name!r} has design {target.design}, which has no registers to "
                "emulate; take the target of a board, such as pynq"
            )
        self.clock = EmulatedClock(virtual_time)
        self.faults = faults or Faults()
        self.log: deque[Access] = deque(maxlen=LOG_LENGTH)
        self.programmed = 0
        self.bitstream: Bitstream | None = None
        self._target = target
        self._blocks = {base: block for block, base in target.register_map}
        self._vta = EmulatedVta(target, silicon or Silicon(), base, memory_bytes)
        self._flips: int | None = None
        self._registers: HlsRegisters | VcrRegisters | None = None

    @property
    def violations(self) -> list[str]:
        """Why streams hung the hardware, and what the host did that hardware does not forgive."""
        return self._vta.violations

    @property
    def free_bytes(self) -> int:
        """Contiguous memory that nobody has allocated."""
        return self._vta.memory.free_bytes

    def program(self, bitstream: Bitstream | None) -> None:
        """Configure: whatever ran is gone, registers and queues are as after power-up."""
        self.programmed += 1
        self.bitstream = bitstream
        self._vta.reset()
        if self._target.design == "chisel":
            self._registers = VcrRegisters(self.clock, self)
        else:
            self._registers = HlsRegisters(self.clock, self, misuse=self.violations.append)

    def read(self, address: int) -> int:
        """The 32-bit register at a physical address."""
        registers, block, offset = self._place(address)
        value = registers.read(block, offset)
        self.log.append(Access("read", block, offset, value))
        return value

    def write(self, address: int, value: int) -> None:
        """Set the 32-bit register at a physical address."""
        registers, block, offset = self._place(address)
        self.log.append(Access("write", block, offset, value))
        registers.write(block, offset, value)

    def allocate(self, size: int) -> EmulatedBuffer:
        """Contiguous memory with an incoherent cache before it."""
        if self.faults.refuse_allocation:
            raise DeviceError(
                f"the emulated board refuses {size:,} bytes (injected fault), "
                f"{self.free_bytes:,} are free"
            )
        return self._vta.memory.allocate(size)

    def close(self) -> None:
        """Nothing to let go of."""

    def begin(self, address: int, count: int, bases: Bases) -> Progress:
        """Registers start a stream; when its parts will have happened."""
        with self.clock.stopped():
            moments = self._vta.start(address, count, bases)
        now, faults = self.clock.now(), self.faults
        self._flips = faults.flip_store
        self.faults = faults.after_run()
        if moments is None:
            return Progress(math.inf, now, math.inf, 0)
        cycle = faults.slow / (self._target.clock_mhz * 1e6)
        ended = math.inf if faults.never_done else now + moments.ended * cycle
        return Progress(
            fetched=now + moments.fetched * cycle,
            fallen=now + moments.computing * cycle + faults.stale_done,
            ended=ended,
            cycles=moments.ended,
        )

    def complete(self) -> bool:
        """The run under way has ended: let it have happened."""
        with self.clock.stopped():
            executed = self._vta.execute()
            if executed and self._flips is not None:
                self._vta.flip(self._flips)
        return executed

    def _place(self, address: int) -> tuple[HlsRegisters | VcrRegisters, str, int]:
        if self._registers is None:
            raise DeviceError("the emulated FPGA holds no bitstream yet")
        self.clock.access()
        base = address - address % BLOCK_BYTES
        if base in self._blocks:
            return self._registers, self._blocks[base], address - base
        raise DeviceError(f"the emulated board has nothing at {address:#x}")
