"""Handing out pieces of one contiguous range of memory."""

from __future__ import annotations


class Pool:
    """Free pieces of one range of addresses, handed out in pages, lowest first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = [(0, size)] if size else []

    @property
    def free_bytes(self) -> int:
        """Bytes that are not handed out."""
        return sum(end - start for start, end in self._free)

    @property
    def largest(self) -> int:
        """The largest piece that could be handed out."""
        return max((end - start for start, end in self._free), default=0)

    def take(self, size: int) -> int | None:
        """The offset of a piece of `size` bytes, or None if there is none."""
        for number, (start, end) in enumerate(self._free):
            if end - start >= size:
                rest = [(start + size, end)] if end - start > size else []
                self._free[number : number + 1] = rest
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        """Return a piece that `take` handed out."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._free, (start, start + size)]):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged
