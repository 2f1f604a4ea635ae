"""Simulated DRAM: disjoint segments at physical byte addresses, for K images at once.

A segment holds bytes that every image shares (constants), or bytes of each image. Physical
addresses have 32 bits. Reading or writing outside every segment is the caller's to report.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ADDRESS_SPACE = 1 << 32

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Segment:
    """`data` at byte `address`: uint8[bytes] shared by all images, or uint8[K, bytes].

    Raises ValueError unless `data` is C-contiguous uint8 of one or two dimensions that lies
    within the address space.
    """

    address: int
    data: Bytes

    def __post_init__(self) -> None:
        data = self.data
        if data.dtype != np.uint8 or data.ndim not in (1, 2) or not data.flags.c_contiguous:
            raise ValueError("a segment is C-contiguous uint8[bytes] or uint8[K, bytes]")
        if not 0 <= self.address <= ADDRESS_SPACE - self.size:
            raise ValueError(f"segment of {self.size} bytes at {self.address:#x}: beyond 32 bits")

    @property
    def shared(self) -> bool:
        """Whether all images see the same bytes."""
        return self.data.ndim == 1

    @property
    def size(self) -> int:
        """Bytes of one image."""
        return int(self.data.shape[-1])

    @property
    def end(self) -> int:
        """The first address after the segment."""
        return self.address + self.size


class Dram:
    """Disjoint segments in order of address. `images` is K, 1 if every segment is shared.

    Raises ValueError if segments overlap or disagree about K.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        filled = [segment for segment in segments if segment.size]
        self.segments = tuple(sorted(filled, key=lambda segment: segment.address))
        for below, above in zip(self.segments, self.segments[1:], strict=False):
            if below.end > above.address:
                raise ValueError(f"segments overlap at address {above.address:#x}")
        images = {segment.data.shape[0] for segment in self.segments if not segment.shared}
        if len(images) > 1:
            raise ValueError(f"segments hold different numbers of images: {sorted(images)}")
        self.images = images.pop() if images else 1
        self._starts = [segment.address for segment in self.segments]

    def find(self, address: int) -> int | None:
        """Number of the segment that holds the byte at `address`, or None."""
        number = bisect_right(self._starts, address) - 1
        return number if number >= 0 and address < self.segments[number].end else None

    def covering(self, start: int, end: int) -> int | None:
        """Number of the one segment that holds [start, end), or None."""
        number = self.find(start)
        return number if number is not None and end <= self.segments[number].end else None

    def part(self, start: int, stop: int) -> Dram:
        """The images [start, stop) alone; their bytes are views, not copies."""
        return Dram(
            segment if segment.shared else Segment(segment.address, segment.data[start:stop])
            for segment in self.segments
        )

    def read(self, number: int, start: int, size: int) -> Bytes:
        """`size` bytes at address `start` of segment `number`, as the first image sees them."""
        segment = self.segments[number]
        data = segment.data if segment.shared else segment.data[0]
        return data[start - segment.address : start - segment.address + size]

    def same_layout(self, other: Dram) -> bool:
        """Whether `other` has the same segments, the shared ones being the very same arrays."""
        if len(self.segments) != len(other.segments):
            return False
        return all(
            (a.address, a.size, a.shared) == (b.address, b.size, b.shared)
            and (a.data is b.data or not a.shared)
            for a, b in zip(self.segments, other.segments, strict=True)
        )
