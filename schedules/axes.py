"""Spatial axes of a convolution: the taps on a tile of outputs, and what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ..ops.taps import Tap, Window
from .blocks import Extent


@dataclass(frozen=True)
class Run:
    """Neighbouring taps along one axis that feed the same outputs.

    Tap t < taps has the weight at `kernel + t*kernel_step` and reads inputs from
    `inp + t*tap_step` on; output i < count lies at `out + i*out_step` and steps `inp_step` through
    the input.
    """

    kernel: int
    kernel_step: int
    taps: int
    tap_step: int
    out: int
    out_step: int
    count: int
    inp: int
    inp_step: int


def runs(taps: Iterable[Tap], kernel_step: int = 1) -> list[Run]:
    """Join neighbouring taps whose outputs agree and whose weights lie `kernel_step` apart."""
    result: list[Run] = []
    for tap in taps:
        last = result[-1] if result else None
        same = last is not None and (last.out, last.out_step, last.count, last.inp_step) == (
            tap.out,
            tap.out_step,
            tap.count,
            tap.inp_step,
        )
        if last is not None and same and tap.kernel == last.kernel + last.taps * kernel_step:
            step = tap.inp - last.inp - (last.taps - 1) * last.tap_step
            if step >= 0 and (last.taps == 1 or step == last.tap_step):
                result[-1] = replace(last, taps=last.taps + 1, tap_step=step)
                continue
        outputs = tap.out, tap.out_step, tap.count, tap.inp, tap.inp_step
        result.append(Run(tap.kernel, kernel_step, 1, 0, *outputs))
    return result


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
        return tuple(runs(self.taps(low, count), 0 if self.window.sections else 1))

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
