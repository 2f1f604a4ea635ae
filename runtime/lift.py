"""Lifting: from the micro-ops of one instruction to whole-array operations.

A GEMM or ALU instruction is a list of index tuples. This module owns what those lists mean as a
whole, without looking at data: a GEMM as dense products of pixels x reduction x channels, an ALU
operation as waves of independent micro-ops, an index set as nested strides. Every list has an
exact form; a regular one has a fast form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_MAX_AXES = 5
_TILES_PER_BLOCK = 4096


@dataclass(frozen=True)
class Affine:
    """Index tuples start + sum over axes of i_a * step_a, axes outermost first (row-major).

    `start` has one entry a column; `steps[a]` the step of axis a in each column.
    """

    start: tuple[int, ...]
    extents: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]


def affine(*columns: Indices) -> Affine | None:
    """The columns (int64[n] each, n >= 1) as nested strides, or None if they are irregular."""
    rest = np.stack(columns)
    start = tuple(rest[:, 0].tolist())
    extents: list[int] = []
    steps: list[tuple[int, ...]] = []
    while rest.shape[1] > 1:
        step = rest[:, 1] - rest[:, 0]
        line = rest[:, :1] + step[:, None] * np.arange(rest.shape[1])
        breaks = np.flatnonzero((rest != line).any(axis=0))
        extent = int(breaks[0]) if len(breaks) else rest.shape[1]
        rows = rest.reshape(len(columns), -1, extent) if rest.shape[1] % extent == 0 else None
        if rows is None or len(extents) == _MAX_AXES:
            return None
        inner = rows[:, :, :1] + (step[:, None] * np.arange(extent))[:, None, :]
        if not np.array_equal(rows, inner):
            return None
        extents.append(extent)
        steps.append(tuple(step.tolist()))
        rest = rows[:, :, 0]
    return Affine(start, tuple(extents[::-1]), tuple(steps[::-1]))


def expand(column: Indices, out: tuple[int, int], inner: tuple[int, int]) -> Indices:
    """Every index that one micro-op field takes: the kernel's `column` under the instruction's
    two loops, each (extent, factor), in order of execution."""
    outer_part = np.arange(out[0]) * out[1]
    inner_part = np.arange(inner[0]) * inner[1]
    indices: Indices = outer_part[:, None, None] + inner_part[:, None] + column
    return indices.reshape(-1)


@dataclass(frozen=True, eq=False)
class GemmBlock:
    """A batch of dense products: ACC[dst[b,p,c]] += sum_r INP[src[b,p,r]] . WGT[wgt[b,r,c]].

    dst int64[B,P,C] holds no index twice; src is int64[B,P,R], wgt int64[B,R,C].
    """

    dst: Indices
    src: Indices
    wgt: Indices

    @cached_property
    def grid(self) -> Grid | None:
        """dst as nested strides, or None if it is irregular."""
        return grid(self.dst)

    @cached_property
    def source_run(self) -> bool:
        """Whether src, flattened, counts up by one."""
        flat = self.src.reshape(-1)
        return bool(np.array_equal(flat, flat[0] + np.arange(flat.size)))


def gemm_blocks(dst: Indices, src: Indices, wgt: Indices) -> tuple[GemmBlock, ...]:
    """Dense blocks that together do what the micro-ops (dst, src, wgt: int64[n]) do.

    Sums modulo 2^32 commute, so the order of micro-ops does not matter. No index of dst is in
    two blocks.
    """
    order = np.argsort(dst, kind="stable")
    starts = np.flatnonzero(np.diff(dst[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    blocks: list[GemmBlock] = []
    for length in np.unique(lengths).tolist():
        rows = order[starts[lengths == length][:, None] + np.arange(length)]
        listed = _dense(dst[rows[:, 0]], src[rows], wgt[rows])
        if len(listed) > 1 or len(listed[0].dst) > 1:
            # As listed, pixels and channels do not separate; perhaps they do with each sum's
            # terms in the order of their sources.
            by_source = np.lexsort((wgt[rows], src[rows]), axis=1)
            rows = np.take_along_axis(rows, by_source, axis=1)
            listed = min(listed, _dense(dst[rows[:, 0]], src[rows], wgt[rows]), key=_products)
        blocks += listed
    return tuple(part for block in blocks for part in _bounded(block))


def _products(blocks: list[GemmBlock]) -> int:
    return sum(len(block.dst) for block in blocks)


def _dense(dst: Indices, src: Indices, wgt: Indices) -> list[GemmBlock]:
    """Blocks for sums of equal length: dst int64[d], their terms src and wgt int64[d, r]."""
    pixel_of, pixel_row = _row_numbers(src)
    channel_of, channel_row = _row_numbers(wgt)
    order = np.lexsort((pixel_of, channel_of))
    sizes = np.bincount(channel_of)
    starts = np.cumsum(sizes) - sizes
    blocks = []
    for size in np.unique(sizes).tolist():
        channels = np.flatnonzero(sizes == size)
        members = order[starts[channels][:, None] + np.arange(size)]
        same_pixels, _ = _row_numbers(pixel_of[members])
        for group in _equal_groups(same_pixels):  # group: [B, C] rows of `members`
            picked = members[group].transpose(0, 2, 1)  # [B, P, C] positions in dst
            blocks.append(
                GemmBlock(
                    dst[picked],
                    src[pixel_row[pixel_of[picked[:, :, 0]]]],
                    wgt[channel_row[channel_of[picked[:, 0, :]]]].transpose(0, 2, 1),
                )
            )
    return blocks


def _row_numbers(rows: Indices) -> tuple[Indices, Indices]:
    """Number the distinct rows of int64[m, r] by first appearance: each row's number, and for
    each number the row where it first appears."""
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    _, first, number = np.unique(packed.reshape(-1), return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    rank = np.empty_like(by_appearance)
    rank[by_appearance] = np.arange(len(first))
    return rank[number.reshape(-1)], first[by_appearance]


def _equal_groups(labels: Indices) -> Iterator[Indices]:
    """Positions of equal labels, as int64[B, C] for the B labels that occur C times."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes).tolist():
        yield order[starts[sizes == size][:, None] + np.arange(size)]


def _bounded(block: GemmBlock) -> Iterator[GemmBlock]:
    """The block cut along its batch so that its float weights stay small."""
    step = max(1, _TILES_PER_BLOCK // (block.wgt.shape[1] * block.wgt.shape[2]))
    for start in range(0, len(block.dst), step):
        cut = slice(start, start + step)
        yield GemmBlock(block.dst[cut], block.src[cut], block.wgt[cut])


def waves(dst: Indices, src: Indices | None) -> list[Indices]:
    """Positions of the micro-ops (dst op= src) in waves that may each run at once.

    Running the waves in turn, each reading everything before it writes, equals running the
    micro-ops one by one. `src` is None where an operation reads nothing but its dst.
    """
    if src is None or np.array_equal(src, dst) or not np.isin(src, dst).any():
        level = _occurrence(dst)
    elif _reads_before_writes(dst, src):
        level = np.zeros(len(dst), np.int64)
    else:
        level = _levels(dst, src)
    order = np.argsort(level, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(level[order])) + 1)


def _occurrence(dst: Indices) -> Indices:
    """How often each position's index occurred before."""
    order = np.argsort(dst, kind="stable")
    starts = np.flatnonzero(np.diff(dst[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    level = np.empty_like(order)
    level[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return level


def _reads_before_writes(dst: Indices, src: Indices) -> bool:
    """Whether no micro-op needs what an earlier one wrote."""
    written_at = np.full(max(int(dst.max()), int(src.max())) + 1, len(dst))
    written_at[dst[::-1]] = np.arange(len(dst))[::-1]
    position = np.arange(len(dst))
    return bool((written_at[dst] == position).all() and (written_at[src] >= position).all())


def _levels(dst: Indices, src: Indices) -> Indices:
    """The earliest wave of each micro-op, from the waves of those that it depends on."""
    size = max(int(dst.max()), int(src.max())) + 1
    written = [-1] * size
    read = [0] * size
    levels = []
    for target, source in zip(dst.tolist(), src.tolist(), strict=True):
        level = max(written[target] + 1, written[source] + 1, read[target])
        written[target] = level
        read[source] = max(read[source], level)
        levels.append(level)
    return np.array(levels, np.int64)


@dataclass(frozen=True)
class Grid:
    """dst of a GemmBlock as nested strides: `start` + steps, with the axes of B, P and C apart.

    `extents` and `steps` list B's axes first, then P's, then C's; `counts` says how many each.
    """

    start: int
    counts: tuple[int, int, int]
    extents: tuple[int, ...]
    steps: tuple[int, ...]


def grid(dst: Indices) -> Grid | None:
    """int64[B,P,C] as a Grid, or None if it is irregular."""
    edges = (dst[:, 0, 0], dst[0, :, 0], dst[0, 0, :])
    outer = edges[0][:, None, None] + edges[1][:, None] + edges[2] - 2 * dst[0, 0, 0]
    if not np.array_equal(dst, outer):
        return None
    nests = [nest for nest in map(affine, edges) if nest is not None]
    if len(nests) < len(edges):
        return None
    b, p, c = (len(nest.extents) for nest in nests)
    extents = tuple(extent for nest in nests for extent in nest.extents)
    steps = tuple(step for nest in nests for (step,) in nest.steps)
    return Grid(int(dst[0, 0, 0]), (b, p, c), extents, steps)
