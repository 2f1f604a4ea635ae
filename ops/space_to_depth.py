"""SpaceToDepth: blocks of `blocksize` x `blocksize` pixels become channels, pixels outermost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, block = kinds[0].shape, attrs["blocksize"]
    if len(shape) != 4 or block < 1 or shape[2] % block or shape[3] % block:
        raise ValueError(f"blocks of {block} x {block} do not fit {text(shape)}")
    count, channels, height, width = shape
    result = (count, channels * block**2, height // block, width // block)
    return [replace(kinds[0], shape=result)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, block = arrays[0], attrs["blocksize"]
    count, channels, height, width = x.shape
    rows, columns = height // block, width // block
    split = x.reshape(count, channels, rows, block, columns, block).transpose(0, 3, 5, 1, 2, 4)
    return [split.reshape(count, channels * block**2, rows, columns)]


OPERATOR = Operator("SpaceToDepth", _infer, _evaluate, (1, 1))
