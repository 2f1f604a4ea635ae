"""Spatial axes of a convolution: the taps on a tile of outputs, and what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..ops.taps import Tap, Window
from .blocks import Extent


@dataclass(frozen=True)
class Run:
    """Neighbouring taps along one axis that feed the same outputs.

    Tap t < taps is kernel element `kernel + t` and reads inputs from `inp + t*tap_step` on;
    output i < count lies at `out + i*out_step` and steps `inp_step` through the input.
    """

    kernel: int
    taps: int
    tap_step: int
    out: int
    out_step: int
    count: int
    inp: int
    inp_step: int


def runs(taps: Iterable[Tap]) -> list[Run]:
    """Join neighbouring taps whose outputs agree."""
    result: list[Run] = []
    for tap in taps:
        last = result[-1] if result else None
        same = last is not None and (last.out, last.out_step, last.count, last.inp_step) == (
            tap.out,
            tap.out_step,
            tap.count,
            tap.inp_step,
        )
        if last is not None and same and tap.kernel == last.kernel + last.taps:
            step = tap.inp - last.inp - (last.taps - 1) * last.tap_step
            if step >= 0 and (last.taps == 1 or step == last.tap_step):
                joined = Run(last.kernel, last.taps + 1, step, *_outputs(last))
                result[-1] = joined
                continue
        result.append(
            Run(
                tap.kernel, 1, 0, tap.out, tap.out_step, tap.count, tap.inp, tap.inp_step
            )
        )
    return result


def _outputs(run: Run) -> tuple[int, int, int, int, int]:
    return run.out, run.out_step, run.count, run.inp, run.inp_step


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a layer: its window and its sizes."""

    window: Window
    inputs: int
    outputs: int

    @lru_cache(maxsize=4096)  # noqa: B019 (axes are small, few and compare by value)
    def taps(self, low: int, count: int) -> tuple[Tap, ...]:
        """The taps on outputs [low, low + count)."""
        found = (tap.within(low, low + count) for tap in self.window.taps(self.inputs))
        return tuple(tap for tap in found if tap is not None)

    @lru_cache(maxsize=4096)  # noqa: B019
    def runs(self, low: int, count: int) -> tuple[Run, ...]:
        """The same taps, joined."""
        return tuple(runs(self.taps(low, count)))

    @lru_cache(maxsize=4096)  # noqa: B019
    def reads(self, low: int, count: int) -> Extent:
        """The inputs that outputs [low, low + count) read; one input where they read none."""
        taps = self.taps(low, count)
        if not taps:
            return Extent(0, 1)
        first = min(tap.inp for tap in taps)
        last = max(tap.inp + (tap.count - 1) * tap.inp_step for tap in taps)
        return Extent(first, last - first + 1)

    @lru_cache(maxsize=4096)  # noqa: B019
    def most_read(self, tile: int) -> int:
        """Inputs that the greediest tile of `tile` outputs reads."""
        starts = range(0, self.outputs, tile)
        return max(self.reads(low, min(tile, self.outputs - low)).count for low in starts)
