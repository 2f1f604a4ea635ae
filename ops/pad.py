"""Pad: more elements at both ends of every axis.

`pads` has an entry for the beginning of every axis, then one for every end. `mode` says what is
put there: "constant" the attribute `value`, "edge" the outermost element, "reflect" the elements
mirrored at it, "wrap" those of the other end. A constant mode may also cut off: entries below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType

MODES = ("constant", "edge", "reflect", "wrap")


def pairs(attrs: Attrs) -> list[tuple[int, int]]:
    """(begin, end) of every axis."""
    pads = tuple(attrs["pads"])
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, pads, mode = kinds[0].shape, tuple(attrs["pads"]), attrs["mode"]
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    if len(pads) != 2 * len(shape):
        raise ValueError(f"pads {text(pads)} do not fit {text(shape)}")
    if mode != "constant" and min(pads, default=0) < 0:
        raise ValueError(f"pads {text(pads)} cut off, which mode {mode!r} cannot")
    for size, ends in zip(shape, pairs(attrs), strict=True):
        spare = {"reflect": size - 1, "wrap": size, "edge": max(ends) if size else 0}
        if max(ends) > spare.get(mode, max(ends)):
            raise ValueError(f"pads {text(pads)} are too wide for {text(shape)} in mode {mode!r}")
        if -min(ends[0], 0) - min(ends[1], 0) > size:
            raise ValueError(f"pads {text(pads)} cut off more than {text(shape)} has")
    sizes = (size + sum(ends) for size, ends in zip(shape, pairs(attrs), strict=True))
    return [replace(kinds[0], shape=tuple(sizes))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, ends = arrays[0], pairs(attrs)
    if attrs["mode"] != "constant":
        return [np.pad(x, ends, mode=attrs["mode"])]
    kept = tuple(
        slice(max(0, -begin), size - max(0, -end))
        for size, (begin, end) in zip(x.shape, ends, strict=True)
    )
    wider = [(max(0, begin), max(0, end)) for begin, end in ends]
    return [np.pad(x[kept], wider, mode="constant", constant_values=attrs["value"])]


OPERATOR = Operator("Pad", _infer, _evaluate, (1, 1))
