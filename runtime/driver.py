"""Drivers: how the host starts an instruction stream on real registers and waits for its end.

`Driver` owns what every VTA has in common: one run at a time, waiting with a limit, and what
happens when a run does not end. `HlsDriver` is the protocol of the Xilinx design; the Chisel
design's is in `chisel_driver.py`. Facts: docs/hardware.md, "Memory and registers".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..backend.target import Target
from ..errors import DeviceError
from . import registers as reg
from .bitstream import Bitstream
from .transport import Transport

SETTLE_SECONDS = 10e-6
"""Sleep after a start before the first look at done, which keeps its old value for up to 1 us."""

SHORTEST_STALE_SECONDS = 50e-6
SHORTEST_PAUSE_SECONDS = 20e-6
LONGEST_PAUSE_SECONDS = 5e-3
LONGEST_SPIN_SECONDS = 1e-3  # beyond twice the estimate


@dataclass(frozen=True)
class Bases:
    """Values for the data base registers, in bytes; all 0 where streams hold whole addresses."""

    uop: int = 0
    inp: int = 0
    wgt: int = 0
    acc: int = 0
    out: int = 0

    @classmethod
    def all(cls, base: int) -> Bases:
        """The same base for every memory."""
        return cls(base, base, base, base, base)


@dataclass(frozen=True)
class Job:
    """`count` instructions at byte `address` as VTA sees it, estimated to take `cycles`."""

    address: int
    count: int
    cycles: int
    bases: Bases = Bases()


@dataclass(frozen=True)
class Patience:
    """How long a run may take: `factor` times its estimate, but no less than `least` seconds."""

    factor: float = 10.0
    least: float = 1.0

    def limit(self, estimate: float) -> float:
        """Seconds that a run estimated at `estimate` seconds may take."""
        return max(self.least, self.factor * estimate)


class State(Enum):
    """What a driver knows of its hardware."""

    UNPROGRAMMED = "not programmed"
    READY = "ready"
    RUNNING = "running"
    STUCK = "stuck: a run did not end, and only loading the bitstream again recovers VTA"


class RunTimeout(DeviceError):
    """A run did not end in time; `registers` are all registers as they were found then."""

    def __init__(self, message: str, registers: Mapping[str, int]) -> None:
        super().__init__(message)
        self.registers = dict(registers)


class Driver(ABC):
    """Runs streams on the VTA behind `transport`; one at a time, not for several threads."""

    def __init__(
        self, target: Target, transport: Transport, patience: Patience | None = None
    ) -> None:
        self.state = State.UNPROGRAMMED
        self._target, self._transport = target, transport
        self._patience = patience or Patience()

    def program(self, bitstream: Bitstream | None) -> None:
        """Configure the hardware, which ends whatever ran and empties its queues."""
        self.state = State.UNPROGRAMMED
        self._transport.program(bitstream)
        self.state = State.READY

    def run(self, job: Job, spin: bool = False) -> float:
        """Run a stream to its end; the seconds it took.

        With `spin` the register is read without pauses, for exact times, until the run is far
        beyond its estimate. Raises RunTimeout when
        the stream does not end, and DeviceError for every later run until `program`.
        """
        if self.state is not State.READY:
            raise DeviceError(f"VTA cannot run: it is {self.state.value}")
        self.state = State.RUNNING
        try:
            seconds = self._run(job, spin)
        except BaseException:
            self.state = State.STUCK  # nobody knows what the hardware still does
            raise
        self.state = State.READY
        return seconds

    def estimate(self, job: Job) -> float:
        """Seconds that the run should take by its cycle count."""
        return job.cycles / (self._target.clock_mhz * 1e6)

    @abstractmethod
    def dump(self) -> dict[str, int]:
        """Every register by `block.name`. Reading some of them clears them."""

    @abstractmethod
    def _start(self, job: Job) -> bool:
        """Write all registers and start; whether done may be a leftover of the last run."""

    @abstractmethod
    def _done(self) -> bool:
        """Whether the hardware says that the stream has ended."""

    @abstractmethod
    def _finished(self) -> bool:
        """Whether the stream has surely ended."""

    def _run(self, job: Job, spin: bool) -> float:
        clock, estimate = self._transport.clock, self.estimate(job)
        stale = self._start(job)
        began = clock.now()
        clock.sleep(SETTLE_SECONDS)
        if stale:
            self._await_fall(began + max(SHORTEST_STALE_SECONDS, estimate / 2))
        limit = self._patience.limit(estimate)
        while True:
            elapsed = clock.now() - began  # before looking: a late look at a finished run is fine
            if self._finished():
                return clock.now() - began
            if elapsed > limit:
                raise self._timeout(job, estimate, limit)
            if not spin or elapsed > 2 * estimate + LONGEST_SPIN_SECONDS:
                clock.sleep(_pause(elapsed, estimate))

    def _await_fall(self, deadline: float) -> None:
        """Wait until a leftover done falls; not for ever, as a short run has set it again."""
        while self._done() and self._transport.clock.now() < deadline:
            pass

    def _timeout(self, job: Job, estimate: float, limit: float) -> RunTimeout:
        found = self.dump()
        shown = ", ".join(f"{name}={value:#x}" for name, value in found.items() if value)
        return RunTimeout(
            f"VTA did not finish within {limit:.3g} s ({job.count} instructions at "
            f"{job.address:#x}, estimated {estimate:.3g} s); there is no reset, only loading the "
            f"bitstream again recovers it; registers that are not 0: {shown}",
            found,
        )


class HlsDriver(Driver):
    """The Xilinx design: four blocks, of which all but fetch restart by themselves."""

    def __init__(
        self, target: Target, transport: Transport, patience: Patience | None = None
    ) -> None:
        super().__init__(target, transport, patience)
        self._fetched = False
        self._blocks = target.registers
        missing = [block for block in reg.HLS_REGISTERS if block not in self._blocks]
        if missing:
            raise DeviceError(
                f"target {target.name!r} names no registers of {', '.join(missing)}; add them to "
                "its description"
            )

    def dump(self) -> dict[str, int]:
        """Every register by `block.name`."""
        return {
            f"{block}.{name}": self._read(block, offset)
            for block, table in reg.HLS_REGISTERS.items()
            for offset, name in table
        }

    def _start(self, job: Job) -> bool:
        self._fetched = False
        self._read("fetch", reg.CONTROL)  # clears the done bit of a run that nobody waited for
        stale = self._done()
        bases = job.bases
        self._write("fetch", reg.FETCH_COUNT, job.count)
        self._write("fetch", reg.FETCH_ADDRESS, job.address)
        self._write("load", reg.LOAD_INP_BASE, bases.inp)
        self._write("load", reg.LOAD_WGT_BASE, bases.wgt)
        self._write("compute", reg.COMPUTE_UOP_BASE, bases.uop)
        self._write("compute", reg.COMPUTE_ACC_BASE, bases.acc)
        self._write("store", reg.STORE_OUT_BASE, bases.out)
        self._write("fetch", reg.CONTROL, reg.START)
        for block in ("load", "compute", "store"):
            self._write(block, reg.CONTROL, reg.START | reg.AUTO_RESTART)
        return stale

    def _done(self) -> bool:
        return bool(self._read("compute", reg.COMPUTE_DONE) & 1)

    def _finished(self) -> bool:
        """Done, and fetch has handed out the whole stream: before that FINISH cannot have run.

        Fetch is looked at first: once it is idle, the first compute instruction, which the
        checker knows to wait for nothing, has lowered a leftover done.
        """
        if not self._fetched:
            self._fetched = bool(self._read("fetch", reg.CONTROL) & (reg.DONE | reg.IDLE))
        return self._fetched and self._done()

    def _read(self, block: str, offset: int) -> int:
        return self._transport.read(self._blocks[block] + offset)

    def _write(self, block: str, offset: int, value: int) -> None:
        self._transport.write(self._blocks[block] + offset, value)


def _pause(elapsed: float, estimate: float) -> float:
    """Time to the next look: half of what should be left, then longer and longer."""
    pause = (estimate - elapsed) / 2 if elapsed < estimate else elapsed / 16
    return min(max(pause, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
