"""Trials: ranking and timing the schedules of a layer, in this process or in another.

A layer travels as an `Outline`. Timing does not depend on its weights, which may take a hundred
megabytes, so others of the same kind stand in for them where the work is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backend import checker
from ..backend.program import Program, bind
from ..backend.target import Target
from ..errors import NoTileError
from ..ops.types import Array
from . import TEMPLATES
from .conv_shape import is_uniform
from .search import assemble_alone, measure, measure_twice
from .template import Layer, Template

MOST_BYTES = 1 << 16
"""Constants up to this size travel: biases matter, for only small ones can be added by a GEMM."""

BASE = 0x0100_0000
"""Physical address at which streams are checked."""

@dataclass(frozen=True)
class StandIn:
    """What timing depends on of a large constant; `uniform` as in conv_shape.is_uniform."""

    shape: tuple[int, ...]
    dtype: str
    uniform: bool

    @classmethod
    def of(cls, array: Array) -> StandIn:
        return cls(array.shape, str(array.dtype), array.ndim == 4 and is_uniform(array))

    def array(self) -> Array:
        """Numbers of that kind; neighbours differ unless they are uniform."""
        if self.uniform:
            return np.ones(self.shape, self.dtype)
        return np.resize(np.arange(1, 127, dtype=self.dtype), self.shape)


@dataclass(frozen=True)
class Outline:
    """A layer with stand-ins for its large constants, which `layer` lacks."""

    layer: Layer
    stand_ins: Mapping[str, StandIn]

    @classmethod
    def of(cls, layer: Layer) -> Outline:
        small = {name: one for name, one in layer.constants.items() if one.nbytes <= MOST_BYTES}
        large = {
            name: StandIn.of(one) for name, one in layer.constants.items() if name not in small
        }
        return cls(replace(layer, constants=small), large)

    def whole(self) -> Layer:
        """A layer that takes as long."""
        made = {name: one.array() for name, one in self.stand_ins.items()}
        return replace(self.layer, constants={**self.layer.constants, **made})


@dataclass(frozen=True)
class Ranking:
    """Schedules of one template, the best by cost first."""

    template: str
    schedules: tuple[Any, ...]


def templates_of(layer: Layer) -> tuple[Template, ...]:
    """The templates that may lower a layer, the preferred one first."""
    return tuple(one for one in TEMPLATES if one.device_op == layer.node.op)


def no_tile(layer: Layer) -> NoTileError:
    """The error about a layer that none of its templates has a tile for."""
    reasons = [f"the {one.name} template finds no tile that fits" for one in templates_of(layer)]
    return NoTileError(
        f"{layer.node.name!r} ({layer.node.op})",
        layer.node.origin,
        "; ".join(reasons) or "no template lowers it",
    )


def rank(outline: Outline, target: Target, count: int) -> Ranking:
    """The `count` best schedules by cost of the first template that has any."""
    layer, found = outline.whole(), Ranking("", ())
    for template in templates_of(layer):
        ranked = template.choices(layer, target)[:count]
        found = Ranking(template.name, tuple(schedule for _, schedule in ranked))
        if found.schedules:
            break
    return found


def time_all(
    outline: Outline, target: Target, template: str, schedules: Sequence[Any]
) -> list[int]:
    """Exact cycles of schedules of the template of that name."""
    layer = outline.whole()
    used = _named(template, layer)
    return [measure(used, layer, one, target) for one in schedules]


def settle(
    outline: Outline, target: Target, template: str, schedules: Sequence[Any], finalists: int
) -> int | None:
    """Position of the best of the first `finalists` schedules that are clean; None if none is.

    They are the fastest between busy neighbours; what decides is how they do from a cold start.
    """
    layer = outline.whole()
    used = _named(template, layer)
    found: list[tuple[int, int]] = []
    for position, schedule in enumerate(schedules):
        if clean(assemble_alone(used, layer, schedule, target), layer, target):
            found.append((measure_twice(used, layer, schedule, target), position))
        if len(found) == finalists:
            break
    return min(found)[1] if found else None


def _named(template: str, layer: Layer) -> Template:
    return next(one for one in templates_of(layer) if one.name == template)


def clean(code: Program, layer: Layer, target: Target) -> bool:
    """Whether the checker finds nothing wrong with a program of the layer alone.

    Tiles that fit may still be so many that a token queue overflows.
    """
    (launch,) = code.launches
    findings = checker.check(
        target,
        bind(launch.insns, target, BASE),
        base=BASE,
        regions=code.arena.regions,
        constants=code.constants,
        origins=launch.origins,
        initialised=[place.buffer for place in layer.places.values()],
    )
    return not findings
