"""A shortcut: a 1 x 1 convolution of a second image that is added to a convolution's products.

A node has one if it has the attribute `shortcut_strides`. Its image (N, C, H', W') and its weight
(O, C, 1, 1) are then the last two inputs of the node. `shortcut_name` and `shortcut_origin` say
which layer it was before it was taken in. In integers its products are shifted to the left by
`shortcut_shift` before they join the others: its weights may have larger steps than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import taps
from .convolution import output_shape
from .inference import text
from .taps import Window
from .types import Attrs, TensorType

STRIDES, SHIFT = "shortcut_strides", "shortcut_shift"
NAME, ORIGIN = "shortcut_name", "shortcut_origin"

MOST_SHIFT = 8
"""The hardware shifts by up to 16; so many bits apart no two layers are worth joining."""


def attributes(attrs: Attrs) -> dict[str, Any]:
    """The shortcut's own attributes as a convolution."""
    pads, dilations = (0, 0, 0, 0), (1, 1)
    return {"strides": attrs[STRIDES], "pads": pads, "dilations": dilations, "group": 1}


def windows(attrs: Attrs) -> tuple[Window, Window]:
    """The shortcut's windows along H and W."""
    return taps.windows(attributes(attrs), (1, 1))


def inputs(attrs: Attrs) -> int:
    """How many of a node's inputs, at their end, are the shortcut's."""
    return 2 if STRIDES in attrs else 0


def check(kinds: Sequence[TensorType], attrs: Attrs, shape: tuple[int, ...]) -> None:
    """ValueError unless the shortcut of a node with inputs `kinds` has a result of `shape`."""
    image, weight = (kind.shape for kind in kinds[-2:])
    if len(image) != 4 or weight != (shape[1], image[1], 1, 1):
        raise ValueError(
            f"the shortcut's image {text(image)} and weight {text(weight)} are not [N,C,H,W], "
            f"[{shape[1]},C,1,1]"
        )
    result = output_shape(image, shape[1], windows(attrs))
    if result != shape:
        raise ValueError(f"the shortcut is {text(result)}, the result {text(shape)}")
