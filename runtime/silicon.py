"""How one emulated piece of hardware behaves where builds of VTA differ, and old encodings.

The defaults are those of the Xilinx design as measured (docs/hardware.md); tests choose others to
see that the probes of a board tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..backend.isa import MemoryType, Opcode
from ..backend.profile import Profile, ShiftRule
from ..backend.target import Target, Timing

ADD, OR, IGNORED = "add", "or", "ignored"
"""What hardware does with its data base registers."""


@dataclass(frozen=True)
class Silicon:
    """Behaviour that may differ; None means what the target's design says.

    `hw_ver` "0.0.1" reads the older instruction encoding. The distances are those at which an
    accumulator may be used again. With `stale_loads` a LOAD does not see what a STORE of the same
    launch wrote.
    """

    hw_ver: str = "0.0.2"
    gemm_distance: int | None = None
    alu_distance: int | None = None
    acc_pads: bool | None = None
    shr_imm: ShiftRule | None = None
    base_registers: str | None = None
    timing: Timing | None = None
    stale_loads: bool = False

    def profile(self, target: Target) -> Profile:
        """The design's profile with these differences."""
        chosen = target.profile
        for name in ("gemm_distance", "alu_distance", "acc_pads", "shr_imm"):
            value = getattr(self, name)
            if value is not None:
                chosen = replace(chosen, **{name: value})
        return chosen

    def bases(self, target: Target) -> str:
        """What the data base registers do."""
        return self.base_registers or (OR if target.design == "chisel" else ADD)

    def described(self, target: Target) -> Target:
        """`target` with the timing that this hardware has."""
        return replace(target, timing=self.timing or target.timing)

    def understood(self, insns: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the hardware takes a stream for, in the encoding of today."""
        return insns if self.hw_ver == "0.0.2" else _modernised(insns)


def _modernised(insns: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Instructions read as version 0.0.1 does, written as 0.0.2 writes them.

    The old memory_type and alu_opcode have 2 bits, and everything behind them is one bit lower;
    a STORE's memory type, OUT today, was 0.
    """
    words = np.ascontiguousarray(insns).view("<u8").astype(np.uint64)
    low, high = words[:, 0], words[:, 1]
    opcode = low & np.uint64(7)
    moves = (opcode == Opcode.LOAD) | (opcode == Opcode.STORE)
    kind = _bits(low, 7, 2)
    kind = np.where(opcode == Opcode.STORE, np.uint64(MemoryType.OUT), kind)
    transfer = _bits(low, 0, 7) | kind << np.uint64(7)
    transfer |= _bits(low, 9, 16) << np.uint64(10) | _bits(low, 25, 32) << np.uint64(26)
    alu = _bits(high, 0, 44) | _bits(high, 44, 2) << np.uint64(44)
    alu |= _bits(high, 46, 1) << np.uint64(47) | _bits(high, 47, 16) << np.uint64(48)
    result = np.empty_like(words)
    result[:, 0] = np.where(moves, transfer, low)
    result[:, 1] = np.where(opcode == Opcode.ALU, alu, high)
    return result.astype("<u8").view(np.uint8).reshape(-1, 16)


def _bits(words: NDArray[np.uint64], start: int, width: int) -> NDArray[np.uint64]:
    chosen: NDArray[np.uint64] = words >> np.uint64(start) & np.uint64((1 << width) - 1)
    return chosen
