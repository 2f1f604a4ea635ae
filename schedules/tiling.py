"""Arithmetic of tiles: the sizes worth trying and the pieces that they cut."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops.layout import ceil_div


def tile_sizes(extent: int) -> list[int]:
    """The smallest tile for every possible number of tiles, largest first.

    Any other size cuts `extent` into as many tiles as one of these, with more left over.
    """
    sizes: list[int] = []
    count = 1
    while count <= extent:
        size = ceil_div(extent, count)
        sizes.append(size)
        if size == 1:
            break
        count = ceil_div(extent, size - 1)
    return sizes


def cuts(extent: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, length) of every tile; the last may be short."""
    for start in range(0, extent, size):
        yield start, min(size, extent - start)


def lengths(extent: int, size: int) -> tuple[int, ...]:
    """The distinct lengths of the tiles: full ones and, if there is one, the short last one."""
    full, rest = divmod(extent, size)
    return (size,) * (full > 0) + (rest,) * (rest > 0)
