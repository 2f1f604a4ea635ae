"""Split: pieces of the lengths in the attribute `split`, one after the other along `axis`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import axis_within, plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, lengths = kinds[0].shape, tuple(attrs["split"])
    axis = axis_within(attrs["axis"], len(shape))
    if not lengths or min(lengths) < 0 or sum(lengths) != shape[axis]:
        raise ValueError(f"lengths {text(lengths)} do not make up axis {axis} of {text(shape)}")
    return [
        replace(kinds[0], shape=(*shape[:axis], length, *shape[axis + 1 :])) for length in lengths
    ]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    ends = np.cumsum(attrs["split"])[:-1]
    return [piece.copy() for piece in np.split(arrays[0], ends, axis=attrs["axis"])]


OPERATOR = Operator("Split", _infer, _evaluate, (1, 1))
