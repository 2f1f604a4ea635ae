"""The sums of a convolution's tile, and a fused pool of them as MAX instructions.

A tile has a piece of sums for every pair of planes (see planes.py), one piece without a pool.
First the rows that a window sees gather in the home rows, then the columns in the home piece, which
is the tile's result. The other rows stay as they are: the next tile may still see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..backend import timing
from ..backend.commands import AluOp, Loop
from ..backend.target import Target
from .axes import Axis
from .blocks import Block, Extent
from .conv_shape import ConvShape
from .conv_tiles import ConvSchedule, Needs
from .emitter import Emitter
from .nests import arrange
from .planes import Planes, View

ROLE = "pool"
"""What its commands are in profiles."""


@dataclass(frozen=True)
class Piece:
    """Sums that are one plane along both axes; in ACC they start at `acc`."""

    rows: Axis
    columns: Axis
    block: Block
    acc: int


@dataclass(frozen=True)
class Sums:
    """The sums of a tile whose result is `block`, by the planes of their rows and columns."""

    block: Block
    pieces: Mapping[tuple[int, int], Piece]

    @classmethod
    def of(cls, shape: ConvShape, block: Block, carries: bool) -> Sums:
        """The sums for a result, the first of them at 0; `carries` as in planes.py."""
        pieces: dict[tuple[int, int], Piece] = {}
        acc = 0
        heights = shape.rows.spans(block.h.start, block.h.count, carries)
        widths = shape.columns.spans(block.w.start, block.w.count)
        for row, column in product(_home_first(shape.rows), _home_first(shape.columns)):
            part = replace(block, h=heights[row], w=widths[column])
            if part.elements:
                axes = shape.rows.axes()[row], shape.columns.axes()[column]
                pieces[row, column] = Piece(*axes, part, acc)
                acc += part.elements
        return cls(block, pieces)

    @property
    def elements(self) -> int:
        """Accumulators that they take."""
        return sum(one.block.elements for one in self.pieces.values())

    def at(self, acc: int) -> Sums:
        """The same sums where the first lies at `acc`."""
        moved = {key: replace(one, acc=one.acc + acc) for key, one in self.pieces.items()}
        return Sums(self.block, moved)


def _home_first(axis: Planes) -> list[int]:
    """The planes of an axis, such that results come first."""
    home = axis.home()
    assert home is not None, "no schedule has tiles of a pool without a home"
    return [home.plane, *(plane for plane in range(len(axis.axes())) if plane != home.plane)]


def gather(out: Emitter, shape: ConvShape, sums: Sums, before: Sums | None) -> None:
    """Make the home piece the greatest of all that its windows see.

    `before` are the sums of the tile before, where this one uses them.
    """
    home = _home_first(shape.rows)[0], _home_first(shape.columns)[0]
    sources = [one for one in (sums, before) if one is not None]
    with out.role(ROLE, shape.pool_origin):
        for view, column in product(_others(shape.rows), range(len(shape.columns.axes()))):
            for source in sources:
                found = source.pieces.get((view.plane, column))
                if found is not None and (home[0], column) in sums.pieces:
                    seen = _seen(sums.block.h, view, found.block.h)
                    every = Extent(0, found.block.w.count)
                    _maximum(out, sums.pieces[home[0], column], found, seen, (every, every))
        for view in _others(shape.columns):
            found = sums.pieces.get((home[0], view.plane))
            if found is not None:
                every = Extent(0, sums.block.h.count)
                seen = _seen(sums.block.w, view, found.block.w)
                _maximum(out, sums.pieces[home], found, (every, every), seen)


def _others(axis: Planes) -> list[View]:
    """The views that do not see the home plane."""
    return [view for view in axis.views() if view != axis.home()]


def _seen(outputs: Extent, view: View, held: Extent) -> tuple[Extent, Extent]:
    """Which of a tile's outputs see a held position through a view, and which positions those are.

    Both are counted from the start of the tile, and of what is held.
    """
    low = max(outputs.start, held.start - view.offset)
    high = min(outputs.start + outputs.count, held.start + held.count - view.offset)
    count = max(0, high - low)
    return Extent(low - outputs.start, count), Extent(low + view.offset - held.start, count)


def _maximum(
    out: Emitter,
    to: Piece,
    source: Piece,
    rows: tuple[Extent, Extent],
    columns: tuple[Extent, Extent],
) -> None:
    """to = max(to, source) for rows and columns (of `to`, of `source`), all channels."""
    dst, src = to.block.steps(), source.block.steps()
    if not rows[0].count or not columns[0].count:
        return
    loops = (
        Loop(to.block.c.count, dst=dst["C"], src=src["C"]),
        Loop(rows[0].count, dst=dst["H"], src=src["H"]),
        Loop(columns[0].count, dst=dst["W"], src=src["W"]),
    )
    nest = arrange((), loops, 1)
    assert nest is not None
    first = to.acc + rows[0].start * dst["H"] + columns[0].start * dst["W"]
    seen = source.acc + rows[1].start * src["H"] + columns[1].start * src["W"]
    out.alu(AluOp.MAX, first, seen, *nest)


def cycles(shape: ConvShape, schedule: ConvSchedule, target: Target, need: Needs) -> int:
    """Busy cycles of `gather` for one tile."""
    if not shape.pooled:
        return 0
    columns = shape.columns.most_summed(schedule.tile_w)
    along_rows = timing.alu(target, need.tile_o * schedule.tile_h * columns, immediate=False)
    along_columns = timing.alu(target, need.made, immediate=False)
    rows, others = len(_others(shape.rows)), len(_others(shape.columns))
    return int(rows * along_rows + others * along_columns)


def describe(shape: ConvShape) -> Sequence[str]:
    """The pool as pseudo-code."""
    if not shape.pooled:
        return []
    kernel = shape.rows.pool.kernel, shape.columns.pool.kernel
    return [
        f"for element in {kernel[0]} x {kernel[1]}:",
        "  ACC of the result = max(ACC of the result, ACC at element)",
    ]
