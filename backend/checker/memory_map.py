"""DRAM as a program may use it: its regions, and which bytes hold what.

Finds the region of a transfer, follows in program order which region each granule (the smallest
element) was last stored for, and reads micro-ops and shift amounts from the constants.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..commands import Memory
from ..dram import CONSTANTS_START, Region
from ..target import Target
from .findings import WHOLE_STREAM, Report
from .rows import Rows

ADDRESS_SPACE = 1 << 32
KINDS = ("constant", "input", "output", "activation")
STORABLE_KINDS = ("output", "activation")
READ_FROM = {
    Memory.UOP: (Memory.UOP,),
    Memory.WGT: (Memory.WGT, Memory.OUT),
    Memory.INP: (Memory.INP, Memory.OUT),
    Memory.ACC: (Memory.ACC,),
}
"""The memories of the regions that a LOAD of each memory may read (a STORE writes OUT)."""

MAX_COVER = 1 << 20
MAX_MUTABLE_BYTES = 1 << 30
MAX_OWNERS = 1 << 16
LONGEST_STRIDE = 1 << 16

Candidates = tuple[int, ...]


class MemoryMap:
    """The regions of one program, bound to no address: all offsets are relative to the arena.

    Reports what is wrong with the regions; then the map must not be used.
    """

    def __init__(
        self,
        target: Target,
        regions: Sequence[Region],
        constants: NDArray[np.uint8],
        initialised: Collection[str],
        arena_bytes: int | None,
        report: Report,
    ) -> None:
        self._target = target
        ends = [region.start + region.bytes for region in regions]
        self._arena_bytes = max(ends, default=0) if arena_bytes is None else arena_bytes
        self._regions = regions
        self._report = report
        self._image = np.ascontiguousarray(constants)
        self._check_regions(min(self._arena_bytes, target.dram_bytes))
        report.stop_if_broken()
        self._bounds, self._cover = self._segments()
        self._check_initialised(initialised)
        report.stop_if_broken()
        self._owners: list[Candidates] = [()]
        self._owner_ids: dict[Candidates, int] = {(): 0}
        self._prepare_owners(set(initialised))

    def check_base(self, base: int) -> None:
        """The physical byte address to which the stream is bound."""
        unit = max(self._target.element_bytes(memory) for memory in Memory)
        end = base + self._arena_bytes
        if base < 0 or base % unit or end > ADDRESS_SPACE:
            self._report.add(
                WHOLE_STREAM,
                "base",
                f"arena at {base:#x}..{end:#x} (exclusive) must be aligned to {unit} bytes and "
                "end within 4 GiB",
            )

    def _check_regions(self, arena_bytes: int) -> None:
        """Each region by itself."""
        self._report.spend(WHOLE_STREAM, 10 * len(self._regions))
        names = [region.name for region in self._regions]
        constants_end = CONSTANTS_START + self._image.size
        for region in self._regions:
            for problem in _region_problems(self._target, region, arena_bytes, constants_end):
                self._report.add(WHOLE_STREAM, "region", f"region {region.name!r} {problem}")
        if len(set(names)) != len(names):
            self._report.add(WHOLE_STREAM, "region", "two regions have the same name")

    def _segments(self) -> tuple[list[int], list[Candidates]]:
        """Boundaries in rising order, and the regions that cover what follows each."""
        regions = self._regions
        events: dict[int, list[int]] = {0: []}
        for number, region in enumerate(regions):
            if region.bytes:
                events.setdefault(region.start, []).append(number)
                events.setdefault(region.start + region.bytes, []).append(~number)
        bounds, cover, open_now, total = sorted(events), [], set[int](), 0
        for bound in bounds:
            for number in events[bound]:
                if number >= 0:
                    open_now.add(number)
                else:
                    open_now.discard(~number)
            total += len(open_now)
            if total > MAX_COVER:
                self._report.exhausted(WHOLE_STREAM, "too many regions share addresses")
            cover.append(tuple(sorted(open_now)))
            if len({regions[one].kind == "constant" for one in open_now}) > 1:
                shared = ", ".join(repr(regions[one].name) for one in cover[-1][:4])
                self._report.add(
                    WHOLE_STREAM, "region", f"a constant shares addresses with others: {shared}"
                )
        return bounds, cover

    def _check_initialised(self, initialised: Collection[str]) -> None:
        for name in sorted(set(initialised) - {region.name for region in self._regions}):
            self._report.add(
                WHOLE_STREAM, "region", f"{name!r} is initialised, but there is no such region"
            )

    def _prepare_owners(self, initialised: set[str]) -> None:
        """One owner number per granule of everything that is not constant, initially 0 (none)."""
        mutable = [region for region in self._regions if region.kind != "constant"]
        self._begin = min((region.start for region in mutable), default=0)
        end = max((region.start + region.bytes for region in mutable), default=0)
        if end - self._begin > MAX_MUTABLE_BYTES:
            self._report.exhausted(
                WHOLE_STREAM, f"more than {MAX_MUTABLE_BYTES} bytes of changing data"
            )
        memories = (Memory.INP, Memory.WGT, Memory.ACC, Memory.OUT)
        largest = max(self._target.element_bytes(memory) for memory in memories)
        self._granule = min(self._target.element_bytes(memory) for memory in memories)
        self._begin = self._begin // largest * largest
        # A strided view may end one stride behind its last row; the pages are never touched.
        slack = LONGEST_STRIDE * largest // self._granule
        self._owner = np.zeros((end - self._begin) // self._granule + slack, np.uint16)
        ends = self._bounds[1:] + [0]
        for low, high, covering in zip(self._bounds, ends, self._cover, strict=True):
            filled = tuple(one for one in covering if self._regions[one].name in initialised)
            if filled and self._regions[filled[0]].kind != "constant":
                first, last = (low - self._begin), (high - self._begin)
                owner = self._owner_id(filled, WHOLE_STREAM)
                self._owner[first // self._granule : last // self._granule] = owner

    def find(self, memory: Memory, low: int, high: int) -> tuple[Candidates, str, str]:
        """The regions that hold all of bytes `low`..`high` and suit a transfer of `memory`.

        Without one, the rule that is broken and what to say.
        """
        segment = bisect_right(self._bounds, low) - 1
        inside = [
            one
            for one in (self._cover[segment] if segment >= 0 else ())
            if self._regions[one].start + self._regions[one].bytes >= high
        ]
        if not inside:
            detail = f"arena bytes {low}..{high} (exclusive) lie in no single region"
            return (), "dram-range", detail
        suitable = tuple(one for one in inside if _suits(self._regions[one], memory))
        if suitable:
            return suitable, "", ""
        region = self._regions[inside[0]]
        return (), "dram-kind", f"region {region.name!r} ({region.kind}, {region.memory.name})"

    def is_constant(self, candidates: Candidates) -> bool:
        """Whether the regions are constant; constants share no address with others."""
        return self._regions[candidates[0]].kind == "constant"

    def name(self, candidates: Candidates) -> str:
        """The regions' names, for a message."""
        return " or ".join(repr(self._regions[one].name) for one in candidates[:3])

    def store(self, rows: Rows, candidates: Candidates, index: int) -> None:
        """A STORE for `candidates` fills `rows`."""
        view = self._view(rows, index)
        view[...] = self._owner_id(candidates, index)

    def foreign_owner(self, rows: Rows, candidates: Candidates, index: int) -> Candidates | None:
        """For whom data in `rows` was stored that is none of `candidates`; () is for nobody."""
        view = self._view(rows, index)
        low, high = int(view.min()), int(view.max())
        owners = (low,) if low == high else np.unique(view).tolist()
        wanted = set(candidates)
        for owner in owners:
            if wanted.isdisjoint(self._owners[owner]):
                return self._owners[owner]
        return None

    def uop_words(self, low: int, count: int) -> NDArray[np.uint32]:
        """Micro-op words at a constant's offset."""
        begin = low - CONSTANTS_START
        return self._image[begin : begin + 4 * count].view("<u4").astype(np.uint32)

    def small_lanes(self, rows: Rows, low: int, high: int) -> int:
        """A mask of the ACC elements in the constant `rows` with all lanes in `low`..`high`.

        Rows that overlap in DRAM (one merged run) are for the caller to avoid.
        """
        size = self._target.element_bytes(Memory.ACC)
        lane = np.dtype(f"<i{(1 << self._target.log_acc_width) // 8}")
        begin = rows.low - CONSTANTS_START
        offsets = begin + rows.step * np.arange(rows.lines)[:, None] + np.arange(rows.width)
        values = self._image[offsets].reshape(-1, size).view(lane)
        fits = ((values >= low) & (values <= high)).all(axis=1)
        return int.from_bytes(np.packbits(fits, bitorder="little").tobytes(), "little")

    def _view(self, rows: Rows, index: int) -> NDArray[np.uint16]:
        """The owner numbers of `rows`, [lines, granules]."""
        unit = self._granule
        first, width = (rows.low - self._begin) // unit, rows.width // unit
        self._report.spend(index, 5 + rows.lines * (1 + width) // 256)
        if rows.lines == 1:
            return self._owner[first : first + width].reshape(1, width)
        step = rows.step // unit
        return self._owner[first : first + rows.lines * step].reshape(-1, step)[:, :width]

    def _owner_id(self, candidates: Candidates, index: int) -> int:
        number = self._owner_ids.setdefault(candidates, len(self._owners))
        if number == len(self._owners):
            if number >= MAX_OWNERS:
                self._report.exhausted(index, "too many combinations of overlapping regions")
            self._owners.append(candidates)
        return number


def _region_problems(
    target: Target, region: Region, arena_bytes: int, constants_end: int
) -> Iterator[str]:
    end = region.start + region.bytes
    unit = target.element_bytes(region.memory)
    if region.kind not in KINDS:
        yield f"has kind {region.kind!r}; kinds are {', '.join(KINDS)}"
    if region.start % unit or region.bytes % unit:
        yield f"at {region.start}, {region.bytes} bytes long, is not made of {unit}-byte elements"
    if region.bytes < 0 or region.start < CONSTANTS_START or end > arena_bytes:
        yield f"({region.start}..{end}) lies outside the arena ({CONSTANTS_START}..{arena_bytes})"
    if region.kind == "constant" and end > constants_end:
        yield f"ends at {end}, behind the constants, which end at {constants_end}"


def _suits(region: Region, memory: Memory) -> bool:
    """Whether a transfer of `memory` may use `region`."""
    if memory is Memory.OUT:
        return region.memory is Memory.OUT and region.kind in STORABLE_KINDS
    if memory is Memory.UOP and region.kind != "constant":
        return False
    return region.memory in READ_FROM[memory]
