"""Tile sizes: every number of tiles once, by its smallest tile; cuts that cover exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vtaflow.schedules.tiling import cuts, lengths, tile_sizes

EXTENTS = st.integers(1, 300)


def tiles(extent: int, size: int) -> int:
    return -(-extent // size)


def test_small_extents() -> None:
    assert tile_sizes(1) == [1]
    assert tile_sizes(7) == [7, 4, 3, 2, 1]
    assert tile_sizes(16) == [16, 8, 6, 4, 3, 2, 1]


@given(EXTENTS)
def test_every_number_of_tiles_once_and_by_its_smallest_tile(extent: int) -> None:
    sizes = tile_sizes(extent)
    counts = [tiles(extent, size) for size in sizes]
    assert counts == sorted({tiles(extent, size) for size in range(1, extent + 1)})
    for size, count in zip(sizes, counts, strict=True):
        assert size == 1 or tiles(extent, size - 1) > count


@given(EXTENTS, EXTENTS)
def test_cuts_cover_the_extent_in_order(extent: int, size: int) -> None:
    covered = [
        index for start, length in cuts(extent, size) for index in range(start, start + length)
    ]
    assert covered == list(range(extent))


@given(EXTENTS, EXTENTS)
def test_lengths_are_those_of_the_cuts(extent: int, size: int) -> None:
    found = dict.fromkeys(length for _, length in cuts(extent, size))
    assert lengths(extent, size) == tuple(found)
