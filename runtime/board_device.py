"""One artifact in a board's memory, as a device: its arena, then its streams, checked as bound.

The streams lie behind the arena, where no STORE of theirs can reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..backend import timing
from ..backend.artifact import Artifact, StoredRegion
from ..backend.checker import require_clean
from ..backend.dram import CONSTANTS_START, align
from ..backend.isa import Isa
from ..backend.program import bind
from ..backend.target import Target
from ..errors import DeviceError, EncodingError, StreamError
from .counters import count
from .device import Bytes, LaunchResult
from .driver import Bases, Job
from .transport import CACHE_LINE_BYTES, PAGE_BYTES, Buffer

if TYPE_CHECKING:
    from .board import Board

LONGEST_RUN_SECONDS = 60.0
"""Estimated duration beyond which a launch is refused: nothing else could use the board."""


@dataclass(frozen=True)
class _Stream:
    """A stream in the board's memory, checked."""

    job: Job
    counters: dict[str, int]


class BoardDevice:
    """One artifact on a board (see `Device`); with `owns_board`, closing it closes the board."""

    def __init__(self, board: Board, owns_board: bool = False) -> None:
        self.max_batch = 1
        self.board = board
        self._owns_board = owns_board
        self._buffer: Buffer | None = None
        self._regions: dict[str, StoredRegion] = {}
        self._streams: list[_Stream] = []

    @property
    def resident_bytes(self) -> int:
        """Contiguous memory that this device holds."""
        return len(self._buffer.data) if self._buffer else 0

    def load(self, artifact: Artifact) -> None:
        """Put the artifact into the board's memory and check its streams where they lie.

        Raises ArtifactError for another target, DeviceError without enough memory or if a launch
        takes too long, StreamError if a stream breaks a rule of the hardware.
        """
        artifact.require_target(self.board.target)
        self._release()
        arena = align(max(artifact.manifest["arena"]["bytes"], CONSTANTS_START), PAGE_BYTES)
        starts, end = [], arena
        for index in range(artifact.launches):
            starts.append(end)
            end = align(end + artifact.instructions(index).size, PAGE_BYTES)
        if end > self.board.target.dram_bytes:
            raise DeviceError(
                f"{artifact.source}: needs {end:,} bytes of contiguous memory, target "
                f"{self.board.target.name!r} has {self.board.target.dram_bytes:,} (dram_bytes)"
            )
        buffer = self.board.allocate(end)
        try:
            _fill(artifact, buffer, arena)  # first: nothing may touch streams once checked
            streams = [
                _checked(self.board.target, artifact, index, buffer, start, arena, held)
                for index, start, held in zip(
                    range(artifact.launches), starts, initialised(artifact), strict=True
                )
            ]
            buffer.flush(0, len(buffer.data))
        except BaseException:
            self.board.release(buffer)
            raise
        self._buffer, self._streams, self._regions = buffer, streams, artifact.regions

    def write(self, region: str, data: Bytes) -> None:
        """Fill the beginning of a region with uint8[1, n]."""
        place, buffer = self._place(region)
        if place.kind == "constant" or len(data) != 1 or data.shape[1] > place.bytes:
            raise DeviceError(
                f"{len(data)} batches of {data.shape[1]} bytes cannot be written to the region "
                f"{region!r} ({place.kind}): a board takes one batch of up to {place.bytes} bytes"
            )
        lines = _lines(place.start, data.shape[1])
        buffer.invalidate(*lines)  # neighbours in the same cache lines keep what VTA wrote
        buffer.data[place.start : place.start + data.shape[1]] = data[0]
        buffer.flush(*lines)

    def launch(self, index: int) -> LaunchResult:
        """Run stream `index`; raises RunTimeout if it does not end."""
        if not self._buffer:
            raise DeviceError("no artifact is loaded")
        stream = self._streams[index]
        return LaunchResult(stream.counters, self.board.run(stream.job))

    def read(self, region: str) -> Bytes:
        """The whole region, uint8[1, bytes]."""
        place, buffer = self._place(region)
        buffer.invalidate(*_lines(place.start, place.bytes))
        return buffer.data[None, place.start : place.start + place.bytes].copy()

    def close(self) -> None:
        """Give the memory back."""
        self._release()
        if self._owns_board:
            self.board.close()

    def _place(self, region: str) -> tuple[StoredRegion, Buffer]:
        if not self._buffer or region not in self._regions:
            raise DeviceError(f"no artifact with a region {region!r} is loaded")
        return self._regions[region], self._buffer

    def _release(self) -> None:
        if self._buffer is not None:
            self.board.release(self._buffer)
        self._buffer, self._streams, self._regions = None, [], {}


def initialised(artifact: Artifact) -> Iterator[set[str]]:
    """For each launch, the regions that hold data before it: inputs, and what earlier ones left."""
    held: set[str] = set()
    changing = {name for name, region in artifact.regions.items() if region.kind != "constant"}
    for step in artifact.manifest["steps"]:
        if step["kind"] == "launch":
            yield held | set(step["inputs"])
            held = changing


def _checked(
    target: Target,
    artifact: Artifact,
    index: int,
    buffer: Buffer,
    start: int,
    arena: int,
    initialised: set[str],
) -> _Stream:
    """Bind stream `index` to the buffer, check it as bound, and write it behind the arena.

    Raises StreamError if it breaks a rule, DeviceError if it takes too long.
    """
    base = 0 if target.base_registers else buffer.address
    try:
        insns = artifact.instructions(index)
        bound = insns if target.base_registers else bind(insns, target, base)
    except EncodingError as error:
        raise StreamError(f"{artifact.source}: launch {index} at {base:#x}: {error}") from None
    require_clean(
        target,
        bound,
        base=base,
        regions=artifact.regions.values(),
        constants=artifact.constants,
        origins=artifact.origins(index),
        initialised=initialised,
        arena_bytes=arena,
    )
    stream = Isa.of(target).decode_stream(bound)
    cycles = timing.schedule(target, stream).cycles
    seconds = cycles / (target.clock_mhz * 1e6)
    if seconds > LONGEST_RUN_SECONDS:
        raise DeviceError(
            f"{artifact.source}: launch {index} is estimated at {seconds:.0f} s, the limit is "
            f"{LONGEST_RUN_SECONDS:.0f} s"
        )
    buffer.data[start : start + bound.size] = bound.reshape(-1)
    bases = Bases.all(buffer.address) if target.base_registers else Bases()
    job = Job(buffer.address + start, len(bound), cycles, bases)
    return _Stream(job, count(target, stream))


def _fill(artifact: Artifact, buffer: Buffer, arena: int) -> None:
    """Zeros and constants in the arena: what another model left there is nobody's business."""
    constants: NDArray[np.uint8] = artifact.constants
    end = CONSTANTS_START + len(constants)
    buffer.data[:CONSTANTS_START] = 0
    buffer.data[CONSTANTS_START:end] = constants
    buffer.data[end:arena] = 0


def _lines(start: int, size: int) -> tuple[int, int]:
    """The cache lines that hold `size` bytes from `start` on: first byte and length."""
    first = start // CACHE_LINE_BYTES * CACHE_LINE_BYTES
    return first, align(start + size, CACHE_LINE_BYTES) - first
