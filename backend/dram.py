"""The DRAM plan: one arena for everything that a model keeps in DRAM.

Offsets are relative to the arena; physical addresses exist only in the runtime. The first 4 KiB
stay unused, because `dram_base` 0 is not portable (docs/hardware.md). Constants follow in one
contiguous area, then everything that changes between runs, where regions whose live ranges do not
overlap share addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArenaError
from .commands import Buffer, Memory
from .target import Target

CONSTANTS_START = 4096


@dataclass(frozen=True)
class Region:
    """A buffer with its place: `start` in bytes from the arena's begin, `bytes` long."""

    name: str
    kind: str
    memory: Memory
    start: int
    bytes: int


@dataclass(frozen=True)
class Arena:
    """The planned arena: its size in bytes and its regions."""

    bytes: int
    regions: tuple[Region, ...]

    @property
    def constant_bytes(self) -> int:
        """Length of the constant area, which begins at CONSTANTS_START."""
        ends = [one.start + one.bytes for one in self.regions if one.kind == "constant"]
        return max(ends, default=CONSTANTS_START) - CONSTANTS_START


@dataclass(frozen=True)
class LiveRange:
    """First and last moment (inclusive) at which a buffer holds data that is still needed."""

    first: int
    last: int

    def overlaps(self, other: LiveRange) -> bool:
        return self.first <= other.last and other.first <= self.last


def align(value: int, step: int) -> int:
    """The least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def plan(target: Target, buffers: Sequence[Buffer], live: Mapping[str, LiveRange]) -> Arena:
    """Place every buffer; a buffer absent from `live` is never shared.

    Raises ArenaError, naming the largest tensors, if the arena exceeds `target.dram_bytes`.
    """
    regions: list[Region] = []
    cursor = CONSTANTS_START
    for buffer in buffers:
        if buffer.kind == "constant":
            cursor = align(cursor, target.element_bytes(buffer.memory))
            regions.append(_region(target, buffer, cursor))
            cursor += regions[-1].bytes
    regions += _place_shared(target, buffers, live, cursor)
    end = max((one.start + one.bytes for one in regions), default=cursor)
    arena = Arena(align(end, 4096), tuple(regions))
    if arena.bytes > target.dram_bytes:
        raise ArenaError(_too_large(target, arena))
    return arena


def _region(target: Target, buffer: Buffer, start: int) -> Region:
    size = buffer.elements * target.element_bytes(buffer.memory)
    return Region(buffer.name, buffer.kind, buffer.memory, start, size)


def _place_shared(
    target: Target, buffers: Sequence[Buffer], live: Mapping[str, LiveRange], floor: int
) -> list[Region]:
    """Greedy placement, largest first, at the lowest address free for the whole live range."""
    dynamic = [one for one in buffers if one.kind != "constant"]
    dynamic.sort(key=lambda one: -one.elements * target.element_bytes(one.memory))
    placed: list[tuple[Region, LiveRange | None]] = []
    for buffer in dynamic:
        mine = live.get(buffer.name)
        rivals = sorted(
            (region.start, region.start + region.bytes)
            for region, range_ in placed
            if mine is None or range_ is None or mine.overlaps(range_)
        )
        step = target.element_bytes(buffer.memory)
        size = buffer.elements * step
        start = align(floor, step)
        for low, high in rivals:
            if start + size <= low:
                break
            start = max(start, align(high, step))
        placed.append((_region(target, buffer, start), mine))
    by_name = {region.name: region for region, _ in placed}
    return [by_name[one.name] for one in buffers if one.kind != "constant"]


def _too_large(target: Target, arena: Arena) -> str:
    largest = sorted(arena.regions, key=lambda one: -one.bytes)[:5]
    listing = ", ".join(f"{one.name} ({one.kind}, {one.bytes:,} bytes)" for one in largest)
    return (
        f"the model needs {arena.bytes:,} bytes of DRAM, target {target.name!r} has "
        f"{target.dram_bytes:,} (dram_bytes); largest: {listing}; "
        "use a smaller model or batch, or a target with more memory"
    )
