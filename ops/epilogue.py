"""The epilogue: what happens between a layer's 32-bit accumulator and its 8-bit output.

An epilogue is a tuple of steps, plain data that goes through JSON. Operand numbers are
positions in the node's inputs; `acc` is int32 and wraps like the hardware's:

    ("add", i)           acc += inputs[i]         int32, one value per output channel
    ("shr", n)           acc >>= n                arithmetic, 0..15
    ("shr_vector", i)    acc >>= inputs[i]        int32, one shift 0..15 per output channel
    ("residual", i, j)   acc += inputs[i] << j    int8, of the output's shape, 0 <= j <= 6
    ("max", v)           acc = max(acc, v)        the last step but one
    ("min", v)           acc = min(acc, v)        the last step; -128 <= max's v <= v <= 127

Every step is one VTA ALU instruction (MIN, MAX, ADD, SHR; see docs/hardware.md), a residual is
a GEMM with the diagonal 2^j. There is no multiplier and no shift beyond 15 on a board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .layout import Layout, ceil_div
from .types import Array, Attrs, TensorType

Step = Sequence[Any]
Steps = Sequence[Step]

MAX_SHIFT = 15  # the register form of SHR has a 5-bit signed amount
MAX_RESIDUAL_SHIFT = 6  # the diagonal 2^j is an int8 weight
LOWEST, HIGHEST = -128, 127

_VECTORS = ("add", "shr_vector")


def apply(acc: Array, steps: Steps, operands: Sequence[Array]) -> Array:
    """Run `steps` on int32 `acc` of shape (N, channels, ...) and return int8 of that shape.

    `operands` are the node's inputs: vectors of one value per channel, residuals of `acc`'s
    shape. Raises ValueError when a vector holds a shift that no hardware does.
    """
    column = (-1, *(1,) * (acc.ndim - 2))
    for kind, *rest in steps:
        value = int(rest[0])
        if kind == "add":
            acc = acc + operands[value].reshape(column)
        elif kind == "shr":
            acc = acc >> np.int32(value)
        elif kind == "shr_vector":
            acc = acc >> _shifts(operands[value]).reshape(column)
        elif kind == "residual":
            acc = acc + operands[value].astype(np.int32) * np.int32(1 << int(rest[1]))
        elif kind == "max":
            acc = np.maximum(acc, np.int32(value))
        else:
            acc = np.minimum(acc, np.int32(value))
    return acc.astype(np.int8)


def finish(acc: Array, attrs: Attrs, arrays: Sequence[Array]) -> Array:
    """The node's epilogue on logical int32 `acc` (N, channels, ...), result in storage.

    `arrays` are the node's inputs in storage shape, those from the third on operands of the
    epilogue. Channels that pad the last block get accumulators, biases and shifts of zero and go
    through the same steps: the stored bytes are those that VTA writes.
    """
    layout: Layout = attrs["layout"]
    if not layout.packed:
        return apply(acc, attrs["epilogue"], arrays)
    channels = ceil_div(acc.shape[1], layout.block) * layout.block
    operands = [*arrays[:2]]
    for array in arrays[2:]:
        operands.append(_padded(array, 0, channels) if array.ndim == 1 else layout.whole(array))
    return layout.pack(apply(_padded(acc, 1, channels), attrs["epilogue"], operands))


def check(steps: Steps, operands: Sequence[TensorType], output: TensorType) -> None:
    """Raise ValueError with a short reason unless `steps` fit the operands and the output.

    `output` is the type of the node's result: its axis 1 counts the channels, and a residual
    must have its shape and layout.
    """
    if [step[0] for step in steps[-2:]] != ["max", "min"]:
        raise ValueError("the epilogue must end with a max and a min")
    low, high = steps[-2][1], steps[-1][1]
    if not LOWEST <= low <= high <= HIGHEST:
        raise ValueError(f"the epilogue clips to {low}..{high}, not within {LOWEST}..{HIGHEST}")
    for step in steps[:-2]:
        kind = step[0]
        if kind == "shr":
            _check_shift(kind, step[1], MAX_SHIFT)
        elif kind in _VECTORS or kind == "residual":
            _check_operand(step, operands, output)
        else:
            raise ValueError(f"epilogue step {kind!r} is unknown or in the wrong place")


def _padded(array: Array, axis: int, size: int) -> Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


def _check_operand(step: Step, operands: Sequence[TensorType], output: TensorType) -> None:
    kind, position = step[0], step[1]
    if not 0 <= position < len(operands):
        raise ValueError(f"epilogue step {kind!r} reads input {position} of {len(operands)}")
    given = operands[position]
    wanted = TensorType((output.shape[1],), "int32")
    if kind == "residual":
        wanted = TensorType(output.shape, "int8", output.layout)
        _check_shift(kind, step[2], MAX_RESIDUAL_SHIFT)
    if replace(given, scale=None, zero_point=0) != wanted:
        raise ValueError(f"epilogue step {kind!r} takes {wanted}, got {given}")


def _check_shift(kind: str, amount: int, most: int) -> None:
    if not 0 <= amount <= most:
        raise ValueError(f"epilogue step {kind!r} shifts by {amount}, not within 0..{most}")


def _shifts(vector: Array) -> Array:
    if vector.min() < 0 or vector.max() > MAX_SHIFT:
        raise ValueError(f"shifts {vector.min()}..{vector.max()} are not within 0..{MAX_SHIFT}")
    return vector
