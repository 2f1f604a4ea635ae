"""A fused pool: the greatest of a convolution's sums in every window, before the epilogue.

A node has one if it has the attribute `pool_kernel_shape`; the others are those of a MaxPool with
the same prefix. `pool_name` and `pool_origin` say which layer it was before it was fused.

An epilogue without a residual keeps order: it adds a constant to all sums of a channel, shifts
them alike and clips them. So the greatest sum becomes the greatest result, and a fused pool gives
the same bytes as one behind the convolution, since no sum wraps: the quantiser bounds biases so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import taps
from .taps import Window
from .types import Attrs

NAME, ORIGIN = "pool_name", "pool_origin"

_PREFIX = "pool_"
_KERNEL = f"{_PREFIX}kernel_shape"
_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")


def attributes(pool: Attrs) -> dict[str, Any]:
    """What a convolution gets of the attributes of a max-pool that it takes in."""
    return {f"{_PREFIX}{name}": pool.get(name, 0) for name in _WINDOW}


def windows(attrs: Attrs) -> tuple[Window, Window] | None:
    """The pool's windows along H and W; None for a node without one."""
    if _KERNEL not in attrs:
        return None
    own = {name: attrs[f"{_PREFIX}{name}"] for name in _WINDOW}
    return taps.windows(own, own["kernel_shape"])


def check(windows: Sequence[Window], sizes: Sequence[int], steps: Sequence[Sequence[Any]]) -> None:
    """ValueError unless a pool of sums of (H, W) `sizes` may come before the epilogue's `steps`."""
    if any(step[0] == "residual" for step in steps):
        raise ValueError("a pool does not come before a residual")
    for window, size in zip(windows, sizes, strict=True):
        if not sees_all(window, size):
            raise ValueError(f"a window of the pool sees nothing of {size} sums")


def sees_all(window: Window, inputs: int) -> bool:
    """Whether every window along an axis sees an input."""
    seen = {tap.out + index for tap in window.taps(inputs) for index in range(tap.count)}
    return len(seen) == window.outputs(inputs)
