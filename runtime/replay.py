"""Replaying recorded launches, and recording our own in the same format.

A replay executes a recorded stream with the semantics of VTA's functional simulator, from the
recorded memory and tokens, and compares what it leaves with the record, byte for byte.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..backend.artifact import Artifact, StoredRegion
from ..backend.checker import check as check_stream
from ..backend.commands import Memory
from ..backend.description import PAGE_BYTES
from ..backend.dram import CONSTANTS_START, Region
from ..backend.isa import Isa, MemoryType, Opcode, Stream
from ..backend.profile import FSIM
from ..backend.program import bind
from ..backend.target import Target
from ..errors import DataError, StreamError
from .counters import COUNTERS
from .device import LaunchResult
from .functional import Launch
from .memory import ADDRESS_SPACE, Bytes, Dram, Segment
from .recording import Block, Recording
from .session import InferenceSession

ARENA_BASE = 0x0100_0000
"""Physical address of the arena in our own recordings."""

_MAX_CHECKED_BYTES = 1 << 30

Intervals = list[tuple[int, int]]


@dataclass(frozen=True)
class Replay:
    """The outcome of one replay: the first difference (None if there is none), the counters."""

    path: str
    problem: str | None
    counters: Mapping[str, int]


def replay(path: str | os.PathLike[str], check: bool = False) -> Replay:
    """Execute the recorded launch at `path` and compare DRAM, SRAM (if recorded) and counters.

    With `check`, the rules of the portable subset are applied as well. Raises DataError if the
    file is malformed, StreamError if the stream cannot run.
    """
    recording = Recording.load(path)
    source = os.fspath(path)
    dram = _memory(recording)
    try:
        launch = Launch(
            recording.target,
            recording.insns,
            dram,
            profile=FSIM,
            tokens_before=recording.tokens_before,
            tokens_after=recording.tokens_after,
            sram=recording.sram_before,
        )
    except StreamError as error:
        raise StreamError(f"{source}: {error}") from None
    launch.run()
    problem = _difference(recording, launch, dram)
    if problem is None and check:
        problem = _finding(source, recording)
    return Replay(source, problem, launch.counters)


def _memory(recording: Recording) -> Dram:
    """All recorded DRAM as it was before the launch; zeros where nothing but a STORE went."""
    blocks = [*recording.pre, *recording.post]
    segments = [
        Segment(start, np.zeros(end - start, np.uint8))
        for start, end in merged((block.address, block.end) for block in blocks)
    ]
    dram = Dram(segments)
    for block in recording.pre:
        _bytes(dram, block.address, block.end)[:] = block.data
    return dram


def _bytes(dram: Dram, start: int, end: int) -> Bytes:
    """A view of [start, end), which lies in one shared segment."""
    number = dram.covering(start, end)
    assert number is not None
    segment = dram.segments[number]
    return segment.data[start - segment.address : end - segment.address]


def _difference(recording: Recording, launch: Launch, dram: Dram) -> str | None:
    """The first difference between what was recorded and what came out."""
    for block in recording.post:
        found = _bytes(dram, block.address, block.end)
        wrong = np.flatnonzero(found != block.data)
        if len(wrong):
            first = int(wrong[0])
            return (
                f"DRAM differs at address {block.address + first:#x}: {found[first]}, recorded "
                f"{block.data[first]} ({len(wrong)} of {len(found)} bytes in this region differ)"
            )
    for memory, recorded in recording.sram_after.items():
        wrong = np.flatnonzero(launch.sram(memory) != recorded)
        if len(wrong):
            return f"{memory.name} SRAM differs from byte {wrong[0]} on ({len(wrong)} bytes)"
    for name in COUNTERS:
        if launch.counters[name] != recording.counters[name]:
            return f"{name} is {launch.counters[name]}, recorded {recording.counters[name]}"
    return None


def _finding(source: str, recording: Recording) -> str | None:
    """The checker's first finding. What LOADs read is constant unless a STORE writes it."""
    stream = Isa.of(recording.target).decode_stream(recording.insns)
    lowest = min((block.address for block in [*recording.pre, *recording.post]), default=0)
    base = max(0, lowest // PAGE_BYTES * PAGE_BYTES - CONSTANTS_START)
    regions = list(_regions(recording, stream, base))
    constants_end = max((r.start + r.bytes for r in regions if r.kind == "constant"), default=0)
    if constants_end > _MAX_CHECKED_BYTES:
        raise DataError(f"{source}: memory is spread over {constants_end} bytes, too far to check")
    image = np.zeros(max(0, constants_end - CONSTANTS_START), np.uint8)
    for block in recording.pre:
        start = block.address - base - CONSTANTS_START
        part = image[start : start + len(block.data)]
        part[:] = block.data[: len(part)]
    before = [(block.address - base, block.end - base) for block in recording.pre]
    initialised = [
        r.name for r in regions
        if r.kind != "constant" and any(s < r.start + r.bytes and e > r.start for s, e in before)
    ]
    findings = check_stream(
        recording.target, recording.insns, base=base, regions=regions, constants=image,
        initialised=initialised,
    )
    return findings[0].message if findings else None


def _regions(recording: Recording, stream: Stream, base: int) -> Iterator[Region]:
    """The recorded DRAM as regions: what changes, then per memory what is only loaded.

    Data that a LOAD reads change if they touch anything stored: an input may give its place to a
    result.
    """
    memories = (Memory.UOP, Memory.WGT, Memory.INP, Memory.ACC)
    loaded = {memory: merged(_rows(recording.target, stream, memory)) for memory in memories}
    changing = merged(_rows(recording.target, stream, Memory.OUT))
    for memory in (Memory.INP, Memory.WGT, Memory.INP):
        changing = merged([*changing, *_touching(loaded[memory], changing)])
    for start, end in changing:
        yield Region(f"data@{start:#x}", "output", Memory.OUT, start - base, end - start)
    for memory in memories:
        for start, end in loaded[memory]:
            if not _touching([(start, end)], changing):
                name = f"{memory.name.lower()}@{start:#x}"
                yield Region(name, "constant", memory, start - base, end - start)


def merged(intervals: Iterable[tuple[int, int]]) -> Intervals:
    """Sorted disjoint intervals that cover the same; adjacent ones become one."""
    result: Intervals = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _touching(intervals: Intervals, others: Intervals) -> Intervals:
    """Those of `intervals` that share a byte with one of the disjoint sorted `others`."""
    ends = [end for _, end in others]
    found = []
    for start, end in intervals:
        first = bisect_right(ends, start)
        if first < len(others) and others[first][0] < end:
            found.append((start, end))
    return found


def _rows(target: Target, stream: Stream, memory: Memory) -> Iterator[tuple[int, int]]:
    """DRAM byte intervals of all rows that are loaded to `memory`, or stored from OUT."""
    opcode = Opcode.STORE if memory is Memory.OUT else Opcode.LOAD
    kinds = stream.fields["memory_type"]
    narrow = kinds == MemoryType.ACC_8BIT
    chosen = (stream.opcode == opcode) & ((kinds == memory) | (narrow & (memory is Memory.ACC)))
    names = ("dram_base", "x_size", "y_size", "x_stride", "memory_type")
    columns = np.stack([stream.fields[name][chosen] for name in names], axis=1)
    for base, size, rows, stride, kind in np.unique(columns, axis=0).tolist():
        unit = target.element_bytes(memory) // (4 if kind == MemoryType.ACC_8BIT else 1)
        if stride == size and rows:
            size, rows = size * rows, 1
        for row in range(rows if size else 0):
            start = (base + row * stride) * unit
            yield start, start + size * unit


def record_launch(
    target: Target,
    insns: NDArray[np.uint8],
    dram: Dram,
    insn_address: int,
    meta: Mapping[str, object],
) -> Recording:
    """Run the bound stream on one image, in place, and keep what it read and wrote."""
    launch = Launch(target, insns, dram, profile=FSIM)
    stream = Isa.of(target).decode_stream(insns)
    loads = (Memory.UOP, Memory.WGT, Memory.INP, Memory.ACC)
    read = merged(rows for memory in loads for rows in _rows(target, stream, memory))
    written = merged(_rows(target, stream, Memory.OUT))
    pre = tuple(Block(start, _bytes(dram, start, end).copy()) for start, end in read)
    launch.run()
    return Recording(
        target=target,
        insns=insns,
        insn_address=insn_address,
        pre=pre,
        post=tuple(Block(start, _bytes(dram, start, end).copy()) for start, end in written),
        tokens_before=(0, 0, 0, 0),
        tokens_after=(0, 0, 0, 0),
        counters=launch.counters,
        meta=meta,
    )


class _RecordingDevice:
    """A device for one compiled batch that keeps every launch as a recording."""

    max_batch = 1

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self._regions: dict[str, StoredRegion] = {}
        self._arena: Bytes = np.zeros(0, np.uint8)
        self._artifact: Artifact | None = None

    def load(self, artifact: Artifact) -> None:
        """Lay out the arena and its constants."""
        size = artifact.manifest["arena"]["bytes"]
        if ARENA_BASE + size > ADDRESS_SPACE:
            raise DataError(f"{artifact.source}: an arena of {size} bytes is too large to record")
        self._artifact, self._regions = artifact, artifact.regions
        self._arena = np.zeros(size, np.uint8)
        constants = artifact.constants
        self._arena[CONSTANTS_START : CONSTANTS_START + len(constants)] = constants

    def write(self, region: str, data: Bytes) -> None:
        """Fill the beginning of a region."""
        start = self._regions[region].start
        self._arena[start : start + data.shape[1]] = data[0]

    def launch(self, index: int) -> LaunchResult:
        """Run and record one launch."""
        assert self._artifact is not None
        began = time.perf_counter()
        target = self._artifact.target
        insns = bind(self._artifact.instructions(index), target, ARENA_BASE)
        dram = Dram([Segment(ARENA_BASE, self._arena)])
        behind = -(-(ARENA_BASE + len(self._arena)) // PAGE_BYTES) * PAGE_BYTES
        meta = {"model": self._artifact.name, "launch": index}
        self.recordings.append(record_launch(target, insns, dram, behind, meta))
        return LaunchResult(self.recordings[-1].counters, time.perf_counter() - began)

    def read(self, region: str) -> Bytes:
        """A copy of a region."""
        place = self._regions[region]
        return self._arena[None, place.start : place.start + place.bytes].copy()

    def close(self) -> None:
        """Nothing to let go of: the recordings are the result."""


def record(
    artifact: Artifact,
    feeds: Mapping[str, NDArray[np.generic]],
    directory: str | os.PathLike[str],
) -> list[str]:
    """Run the artifact once, on the first compiled batch of `feeds`, and write each launch.

    Returns the paths of the files, `MODEL_runNN.npz` in `directory`, which is made if need be.
    Raises DataError if they cannot be written, FeedError if the feeds do not fit the model.
    """
    device = _RecordingDevice()
    with InferenceSession(artifact, device) as session:
        session.run(None, {name: array[: artifact.batch] for name, array in feeds.items()})
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder: {error.strerror}") from None
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", artifact.name) or "model"
    paths = [str(folder / f"{stem}_run{n:02d}.npz") for n in range(len(device.recordings))]
    for path, recording in zip(paths, device.recordings, strict=True):
        recording.save(path)
    return paths
