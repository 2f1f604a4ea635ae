"""DepthToSpace: channels become blocks of `blocksize` x `blocksize` pixels.

`mode` says which axis of the channels is the outer one: "DCR" the pixels of a block, "CRD" the
channels that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, block = kinds[0].shape, attrs["blocksize"]
    if len(shape) != 4 or block < 1 or shape[1] % block**2:
        raise ValueError(f"blocks of {block} x {block} do not fit {text(shape)}")
    count, channels, height, width = shape
    result = (count, channels // block**2, height * block, width * block)
    return [replace(kinds[0], shape=result)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, block = arrays[0], attrs["blocksize"]
    count, channels, height, width = x.shape
    rest = channels // block**2
    if attrs["mode"] == "CRD":
        split = x.reshape(count, rest, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        split = x.reshape(count, block, block, rest, height, width).transpose(0, 3, 4, 1, 5, 2)
    return [split.reshape(count, rest, height * block, width * block)]


OPERATOR = Operator("DepthToSpace", _infer, _evaluate, (1, 1))
