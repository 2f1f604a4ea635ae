"""Blocks: rectangular parts of packed image tensors, and the rows that move them.

A block is a run of channel blocks, rows and columns of one batch tile. In SRAM it is dense, with
its axes in the tensor's own order; in DRAM it is cut out of the whole tensor. Rows are made as
long as the layout allows, because each one pays the memory's latency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from ..ops.layout import Layout

MOST_STRIDE = (1 << 16) - 1


@dataclass(frozen=True)
class Extent:
    """A run along one axis."""

    start: int
    count: int


@dataclass(frozen=True)
class Rows:
    """One transfer: `rows` rows of `size` elements, dense at `sram`, `stride` apart in DRAM."""

    sram: int
    dram: int
    rows: int
    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """The part of a stored tensor of `shape` (logical) that lies within the given extents.

    `n` counts batch tiles, `c` channel blocks.
    """

    layout: Layout
    shape: tuple[int, ...]
    n: int
    c: Extent
    h: Extent
    w: Extent

    @property
    def elements(self) -> int:
        """Elements in SRAM."""
        return self.c.count * self.h.count * self.w.count

    def steps(self) -> dict[str, int]:
        """Distance in SRAM between neighbours along each axis."""
        counts = {"N": 1, "C": self.c.count, "H": self.h.count, "W": self.w.count}
        return _steps(self.layout.order, counts)

    def rows(self) -> Iterator[Rows]:
        """The transfers that move the block."""
        full = self.layout.tiles(self.shape)
        strides = _steps(self.layout.order, full)
        extents = {"N": Extent(self.n, 1), "C": self.c, "H": self.h, "W": self.w}
        start = sum(strides[axis] * extents[axis].start for axis in self.layout.order)
        dims = _joined(
            [(extents[axis].count, strides[axis]) for axis in self.layout.order]
        )
        size = dims.pop()[0] if dims and dims[-1][1] == 1 else 1
        rows, stride = dims.pop() if dims and dims[-1][1] <= MOST_STRIDE else (1, size)
        for number, index in enumerate(product(*(range(count) for count, _ in dims))):
            offset = sum(
                position * step for position, (_, step) in zip(index, dims, strict=True)
            )
            yield Rows(number * rows * size, start + offset, rows, size, stride)


def _steps(order: str, counts: dict[str, int]) -> dict[str, int]:
    return {
        axis: prod(counts[inner] for inner in order[position + 1 :])
        for position, axis in enumerate(order)
    }


def _joined(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(count, stride) pairs, outermost first: drop single ones, join those that run on."""
    result: list[tuple[int, int]] = []
    for count, stride in dims:
        if count == 1:
            continue
        if result and result[-1][1] == count * stride:
            result[-1] = (result[-1][0] * count, stride)
        else:
            result.append((count, stride))
    return result
