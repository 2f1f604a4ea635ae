"""The builder of ArgMax and ArgMin: where along `axis` the extreme value is, as int64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .inference import numbers
from .reduction import reduced
from .types import Array, Attrs, Operator, TensorType


def arg_reduction(name: str, function: Callable[..., Any]) -> Operator:
    """The first place, or with `select_last_index` the last; `keepdims` keeps the axis."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        numbers(*kinds)
        shape = reduced(kinds[0].shape, (attrs["axis"],), attrs["keepdims"])
        return [TensorType(shape, "int64")]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        (x,), axis = arrays, attrs["axis"]
        if attrs["select_last_index"]:
            place = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
        else:
            place = function(x, axis=axis)
        place = np.expand_dims(place, axis) if attrs["keepdims"] else place
        return [np.asarray(place, np.int64)]

    return Operator(name, infer, evaluate, (1, 1))
