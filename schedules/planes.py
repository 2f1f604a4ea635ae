"""Planes: how the sums along one axis are dealt out so that pooling them is a MAX of neighbours.

Windows of a fused pool lie `stride` sums apart. So the sums are dealt out to as many planes, as
one deals cards: position i of plane r is sum i * stride + r. A kernel element of the pool then
sees, for output p, position p + offset of one plane, and the maximum of a window is a MAX of whole
rectangles. One plane, the *home*, is seen through a single element: the maxima gather there, and
since its positions are the outputs, they lie densely, ready to be stored.

Each plane is a convolution with a larger stride. Without a pool all sums are one plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..ops.layout import ceil_div
from ..ops.taps import Tap, Window
from .axes import Axis
from .blocks import Extent

MOST_STRIDE = 4
"""Of a pool whose sums are dealt out: more planes take more instructions than they save."""

ALONE = Window(1)
"""The pool of a layer that has none."""


@dataclass(frozen=True)
class View:
    """What an element of the pool sees: output p sees position p + `offset` of `plane`."""

    plane: int
    offset: int


@dataclass(frozen=True)
class Planes:
    """An axis of a convolution and the pool behind it; `sums` is the axis of the convolution.

    A tile is a run of outputs. `carries` says that it may use what the tile before it has summed;
    otherwise it sums anew what windows of both see.
    """

    sums: Axis
    pool: Window = ALONE

    @property
    def outputs(self) -> int:
        """Results of the pool."""
        return self.pool.outputs(self.sums.outputs)

    @property
    def inputs(self) -> int:
        """Inputs of the convolution."""
        return self.sums.inputs

    @lru_cache(maxsize=256)  # noqa: B019 (axes are small, few and compare by value)
    def axes(self) -> tuple[Axis, ...]:
        """The planes; their outputs are positions."""
        step, sums = self.pool.stride, self.sums.outputs
        if step == 1:
            return (self.sums,)
        return tuple(
            _every(self.sums, plane, step, ceil_div(sums - plane, step))
            for plane in range(min(step, sums))
        )

    @lru_cache(maxsize=256)  # noqa: B019
    def views(self) -> tuple[View, ...]:
        """A view for every element of the pool that sees a sum."""
        starts = (tap.kernel * self.pool.dilation - self.pool.pad_begin for tap in self._taps())
        return tuple(View(start % self.pool.stride, start // self.pool.stride) for start in starts)

    @lru_cache(maxsize=256)  # noqa: B019
    def home(self) -> View | None:
        """A view that every output has and no other shares the plane of."""
        planes = [view.plane for view in self.views()]
        for view, tap in zip(self.views(), self._taps(), strict=True):
            if tap.count == self.outputs and planes.count(view.plane) == 1:
                return view
        return None

    @property
    def can_pool(self) -> bool:
        """Whether there is a home, and not too many planes."""
        return self.pool.stride <= MOST_STRIDE and self.home() is not None

    @property
    def overlaps(self) -> bool:
        """Whether neighbouring windows see the same sum."""
        return any(low < high for low, high in map(self._offsets, range(len(self.axes()))))

    @lru_cache(maxsize=4096)  # noqa: B019
    def spans(self, low: int, count: int, carries: bool = False) -> tuple[Extent, ...]:
        """The positions of each plane that outputs [low, low + count) need and that are summed."""
        found = []
        for plane, axis in enumerate(self.axes()):
            least, most = self._offsets(plane)
            begin = max(0, low + (most if carries and low else least))
            end = min(axis.outputs, low + count + most)
            found.append(Extent(begin, max(0, end - begin)))
        return tuple(found)

    @lru_cache(maxsize=4096)  # noqa: B019
    def reads(self, low: int, count: int, carries: bool = False) -> Extent:
        """The inputs that a tile reads."""
        spans = self.spans(low, count, carries)
        found = [
            axis.reads(span.start, span.count)
            for axis, span in zip(self.axes(), spans, strict=True)
            if span.count
        ]
        first = min(one.start for one in found)
        return Extent(first, max(one.start + one.count for one in found) - first)

    @lru_cache(maxsize=4096)  # noqa: B019
    def most_read(self, tile: int, carries: bool = False) -> int:
        """Inputs that the greediest tile of `tile` outputs reads."""
        return max(self.reads(*one, carries).count for one in self._tiles(tile))

    @lru_cache(maxsize=4096)  # noqa: B019
    def most_summed(self, tile: int, carries: bool = False) -> int:
        """Sums of the tile of `tile` outputs that has the most."""
        return max(
            sum(span.count for span in self.spans(*one, carries)) for one in self._tiles(tile)
        )

    @lru_cache(maxsize=4096)  # noqa: B019
    def products(self, tile: int, carries: bool = False) -> int:
        """Pairs of a sum and a tap that feeds it, over all tiles of `tile` outputs."""
        if carries or not self.overlaps:
            tile = self.outputs  # no sum is made twice
        return sum(
            tap.count
            for one in self._tiles(tile)
            for axis, span in zip(self.axes(), self.spans(*one, carries), strict=True)
            for tap in axis.taps(span.start, span.count)
        )

    def runs(self, tile: int, carries: bool = False) -> int:
        """Joined taps of a tile from the middle."""
        low = self.middle(tile)
        spans = self.spans(low, min(tile, self.outputs - low), carries)
        return sum(
            len(axis.runs(span.start, span.count))
            for axis, span in zip(self.axes(), spans, strict=True)
        )

    def middle(self, tile: int) -> int:
        """Where a tile from the middle of the axis starts."""
        return (ceil_div(self.outputs, tile) - 1) // 2 * tile

    def _tiles(self, tile: int) -> list[tuple[int, int]]:
        """(start, length) of the tiles."""
        return [(low, min(tile, self.outputs - low)) for low in range(0, self.outputs, tile)]

    def _taps(self) -> list[Tap]:
        """The elements of the pool that see a sum."""
        return self.pool.taps(self.sums.outputs)

    def _offsets(self, plane: int) -> tuple[int, int]:
        """Least and greatest offset of the views of a plane; an empty range if there are none."""
        offsets = [view.offset for view in self.views() if view.plane == plane]
        return (min(offsets), max(offsets)) if offsets else (0, -self.outputs)


def _every(sums: Axis, first: int, step: int, count: int) -> Axis:
    """Every `step`-th output of an axis from `first` on, as an axis of its own."""
    window = sums.window
    begin = window.pad_begin - first * window.stride
    stride = window.stride * step
    end = (count - 1) * stride + window.reach - sums.inputs - begin
    return Axis(Window(window.kernel, stride, begin, end, window.dilation), sums.inputs, count)
