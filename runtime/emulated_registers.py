"""The registers of the emulated board, as the two hardware designs show them to the host.

They behave as docs/hardware.md, "Memory and registers", says: done keeps its old value until the
first compute instruction starts, flags that are cleared by reading them, blocks that restart by
themselves. `Progress` says how far a run is; the two classes below turn that into bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import DeviceError
from . import registers as reg
from .driver import Bases
from .emulated_clock import EmulatedClock

_KNOWN = {block: {offset for offset, _ in table} for block, table in reg.HLS_REGISTERS.items()}


@dataclass(frozen=True)
class Progress:
    """When things happen in one run, in seconds of the board's clock; inf for never.

    `fallen` is when done loses its old value, `cycles` what the hardware counts.
    """

    fetched: float
    fallen: float
    ended: float
    cycles: int


class Runs(Protocol):
    """The accelerator as registers drive it."""

    def begin(self, address: int, count: int, bases: Bases) -> Progress:
        """Start a stream."""

    def complete(self) -> bool:
        """Everything has happened; False if it turns out that it never will."""


@dataclass
class Registers:
    """What both designs have: a clock, the accelerator, plain registers, the run under way."""

    clock: EmulatedClock
    runs: Runs
    values: dict[tuple[str, int], int] = field(default_factory=dict)
    progress: Progress | None = None
    running: bool = False

    def advance(self) -> float:
        """Let the run under way end if its time has come; the time now."""
        now = self.clock.now()
        if self.running and self.progress and now >= self.progress.ended:
            if self.runs.complete():
                self.running = False
                self.ended()
            else:
                self.progress = Progress(float("inf"), self.progress.fallen, float("inf"), 0)
        return now

    def ended(self) -> None:
        """A run has just ended."""

    def get(self, block: str, offset: int) -> int:
        """A register that remembers what was written."""
        return self.values.get((block, offset), 0)


@dataclass
class HlsRegisters(Registers):
    """Four blocks; a launch begins once fetch is started and the others run."""

    started: set[str] = field(default_factory=set)
    fetch_waits: bool = False
    done: int = 0
    fetch_idle: bool = True
    fetch_done: bool = False
    written: bool = False
    fell: bool = False
    misuse: Callable[[str], None] = lambda text: None

    def write(self, block: str, offset: int, value: int) -> None:
        """The host writes a register."""
        self.advance()
        if offset not in _KNOWN[block]:
            raise DeviceError(f"the {block} block has no register {offset:#x}")
        if offset != reg.CONTROL:
            self.values[block, offset] = value
            return
        if block == "fetch":
            if value & reg.START and (self.running or self.fetch_waits):
                self.misuse("fetch was started while it ran")
            self.fetch_waits |= bool(value & reg.START)
        elif value & reg.START and value & reg.AUTO_RESTART:
            self.started.add(block)
        if self.fetch_waits and not self.running and self.started >= {"load", "compute", "store"}:
            self._begin()

    def read(self, block: str, offset: int) -> int:
        """The host reads a register."""
        now = self.advance()
        if offset not in _KNOWN[block]:
            raise DeviceError(f"the {block} block has no register {offset:#x}")
        if offset == reg.CONTROL:
            return self._fetch_control(now) if block == "fetch" else self._control(block)
        if (block, offset) == ("compute", reg.COMPUTE_DONE):
            return self._done(now)
        if (block, offset) == ("compute", reg.COMPUTE_DONE_WRITTEN):
            return self._take_written(now)
        return self.get(block, offset)

    def ended(self) -> None:
        """FINISH has run."""
        self.done, self.written = 1, True
        self._fetch_ends()

    def _begin(self) -> None:
        self.fetch_waits = self.fetch_idle = self.fell = False
        self.running = True
        self.progress = self.runs.begin(
            self.get("fetch", reg.FETCH_ADDRESS),
            self.get("fetch", reg.FETCH_COUNT),
            Bases(
                uop=self.get("compute", reg.COMPUTE_UOP_BASE),
                inp=self.get("load", reg.LOAD_INP_BASE),
                wgt=self.get("load", reg.LOAD_WGT_BASE),
                acc=self.get("compute", reg.COMPUTE_ACC_BASE),
                out=self.get("store", reg.STORE_OUT_BASE),
            ),
        )

    def _control(self, block: str) -> int:
        return reg.START | reg.AUTO_RESTART if block in self.started else reg.IDLE

    def _fetch_control(self, now: float) -> int:
        if self.running and self.progress and now >= self.progress.fetched:
            self._fetch_ends()
        if self.fetch_waits or not self.fetch_idle:
            return reg.START
        flags = reg.IDLE | (reg.DONE if self.fetch_done else 0)
        self.fetch_done = False
        return flags

    def _fetch_ends(self) -> None:
        """Fetch has handed out the whole stream."""
        self.fetch_done |= not self.fetch_idle
        self.fetch_idle = True

    def _done(self, now: float) -> int:
        """The done register; a run lowers it when its first compute instruction starts."""
        if self.running and self.progress and now >= self.progress.fallen and not self.fell:
            self.done, self.written, self.fell = 0, True, True
        return self.done

    def _take_written(self, now: float) -> int:
        self._done(now)
        value, self.written = int(self.written), False
        return value


@dataclass
class VcrRegisters(Registers):
    """The Chisel design's one block: a rising launch bit starts, finish replaces it."""

    control: int = 0

    def write(self, block: str, offset: int, value: int) -> None:
        """The host writes a register."""
        self.advance()
        if offset not in dict(reg.VCR_REGISTERS):
            raise DeviceError(f"VCR has no register {offset:#x}")
        if offset != reg.VCR_CONTROL:
            self.values[block, offset] = value
            return
        rises = value & reg.VCR_LAUNCH and not self.control & reg.VCR_LAUNCH
        self.control = value
        if rises:
            bases = [self.get(block, one) for one in reg.VCR_BASES]
            self.running = True
            self.progress = self.runs.begin(
                self.get(block, reg.VCR_ADDRESS), self.get(block, reg.VCR_COUNT), Bases(*bases)
            )

    def read(self, block: str, offset: int) -> int:
        """The host reads a register."""
        self.advance()
        if offset not in dict(reg.VCR_REGISTERS):
            raise DeviceError(f"VCR has no register {offset:#x}")
        return self.control if offset == reg.VCR_CONTROL else self.get(block, offset)

    def ended(self) -> None:
        """FINISH has run: the hardware writes finish alone, and latches its cycle counter."""
        assert self.progress is not None
        self.control = reg.VCR_FINISH
        self.values["vcr", reg.VCR_CYCLES] = self.progress.cycles
