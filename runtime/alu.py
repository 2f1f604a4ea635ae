"""Steps of an ALU operation: waves of independent micro-ops, on strides or on index lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import AluOpcode
from ..backend.profile import ShiftRule
from .lift import Affine, Indices
from .machine import Action, Machine, Plain


@dataclass(frozen=True)
class Operation:
    """What an ALU micro-op computes: out = A op B.

    B is `imm` (int32), or ACC[src] if None. A is ACC[dst], or ACC[src] with `from_source`.
    `shift` says how SHR reads B; `sign` is the immediate field of a register SHR.
    """

    opcode: int
    imm: int | None
    shift: ShiftRule
    from_source: bool = False
    sign: int = 0

    def bind(self, a: NDArray[Any], b: NDArray[Any] | None, out: NDArray[Any]) -> Action:
        """out[...] = a op b (int32), b None standing for the immediate."""
        if self.opcode != AluOpcode.SHR:
            ufunc, operand = _UFUNCS[self.opcode], np.int32(self.imm or 0) if b is None else b
            return partial(ufunc, a, operand, out=out)
        if b is None:
            return _immediate_shift(a, int(shift_amounts(self.imm, self.shift)), out)
        return partial(_register_shift, a, b, out, self.shift, self.sign)

    def apply(self, a: NDArray[Any], b: NDArray[Any] | None) -> None:
        """a[...] = a op b."""
        self.bind(a, b, a)()


_UFUNCS: dict[int, Callable[..., object]] = {
    AluOpcode.MIN: np.minimum,
    AluOpcode.MAX: np.maximum,
    AluOpcode.ADD: np.add,
    AluOpcode.MUL: np.multiply,
}


def shift_amounts(values: Any, rule: ShiftRule, sign: int = 0) -> NDArray[np.int32]:
    """What SHR makes of B (int32): how far to the right, negative to the left, -31..31.

    FULL is undefined beyond 31 in the simulator's C++; as compiled for x86 it takes 5 bits of
    the magnitude. A negative immediate field (`sign`) turns Chisel's register form to the left.
    """
    b = np.asarray(values, np.int32)
    if rule is ShiftRule.SIGNED5:
        return ((b & 31) ^ 16) - np.int32(16)
    if rule is ShiftRule.UNSIGNED5:
        return -(-b & 31) if sign < 0 else b & 31
    return np.where(b >= 0, b & 31, -(-b & 31))


def _immediate_shift(a: NDArray[Any], amount: int, out: NDArray[Any]) -> Action:
    ufunc = np.right_shift if amount >= 0 else np.left_shift
    return partial(ufunc, a, np.int32(abs(amount)), out=out)


def _register_shift(
    a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], rule: ShiftRule, sign: int
) -> None:
    amounts = shift_amounts(b, rule, sign)
    if amounts.min() >= 0:
        np.right_shift(a, amounts, out)
    elif amounts.max() <= 0:
        np.left_shift(a, -amounts, out)
    else:
        left = np.left_shift(a, np.maximum(-amounts, 0))
        right = np.right_shift(a, np.maximum(amounts, 0))
        np.copyto(out, np.where(amounts < 0, left, right))


@dataclass(frozen=True, eq=False)
class AluWave(Plain):
    """One wave of independent micro-ops on strides: `nest` has the columns dst and src."""

    operation: Operation
    nest: Affine
    dst_base: int
    src_base: int

    def bind(self, machine: Machine) -> Action:
        """One ufunc on views; an axis along which src stands still is broadcast."""
        nest, operation = self.nest, self.operation
        steps = [tuple(step[column] for step in nest.steps) for column in (0, 1)]
        dst = machine.strided(Memory.ACC, nest.start[0] + self.dst_base, nest.extents, steps[0])
        if operation.imm is not None and not operation.from_source:
            return operation.bind(dst, None, dst)
        axes = zip(nest.extents, steps[1], strict=True)
        still = tuple(1 if step == 0 else extent for extent, step in axes)
        src = machine.strided(Memory.ACC, nest.start[1] + self.src_base, still, steps[1])
        if operation.imm is None:
            return operation.bind(dst, src, dst)
        return operation.bind(src, None, dst)


@dataclass(frozen=True, eq=False)
class AluScatter(Plain):
    """One wave of independent micro-ops on index lists dst and src, int64[n] each.

    `result` is ACC, or OUT for an operation that leaves ACC alone.
    """

    operation: Operation
    dst: Indices
    src: Indices
    result: Memory = Memory.ACC

    def bind(self, machine: Machine) -> Action:
        """Gathers, one ufunc, a fancy assignment."""
        acc, result = machine.sram[Memory.ACC], machine.sram[self.result]
        operation = self.operation
        first = self.src if operation.from_source else self.dst

        def run() -> None:
            a = acc[:, first]
            operation.apply(a, acc[:, self.src] if operation.imm is None else None)
            result[:, self.dst] = a.astype(result.dtype, copy=False)

        return run
