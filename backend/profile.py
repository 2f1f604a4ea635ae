"""Capability profiles: what each public VTA design does where the designs differ.

The facts are those of docs/hardware.md, "Where the designs differ"; this module owns them as
data and nothing else. A simulator takes its semantics from the design's profile; the checker
takes its limits from `portable`, the intersection that every design executes alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class ShiftRule(Enum):
    """How SHR reads its amount (positive: arithmetic right, negative: left)."""

    FULL = "the whole signed value"
    SIGNED5 = "the low 5 bits as a signed number"
    MAGNITUDE5 = "the sign, and the low 5 bits of the magnitude"
    UNSIGNED5 = "the low 5 bits, always to the right"


class Unknown(Enum):
    """What an opcode or memory type that the design does not know leads to."""

    ABORT = "the simulator aborts"
    IGNORE = "only its tokens are honoured"
    HANG = "fetch waits for ever"


@dataclass(frozen=True)
class Profile:
    """What one design does, or, for `portable`, what a stream may rely on.

    None in `uop_depth`, `max_batch`, `token_capacity` and `instruction_queue` means that the
    design sets no bound of its own.
    """

    name: str
    separate_out: bool
    """OUT is a memory of its own that GEMM and ALU write; else STORE truncates ACC as it is."""
    reset_writes_out: bool
    """A reset GEMM leaves low8(old ACC + INP . WGT) in OUT."""
    index_wraps: bool
    """An index beyond an SRAM wraps modulo its depth; else the run aborts."""
    mul: bool
    """ALU opcode 4 multiplies."""
    unknown: Unknown
    """Effect of undefined opcodes and memory types."""
    shr_imm: ShiftRule
    shr_register: ShiftRule
    shr_imm_min: int
    shr_imm_max: int
    """Immediates whose meaning is a plain shift (right if positive) by that amount."""
    shr_lane_min: int
    shr_lane_max: int
    """The same for the lanes of a register operand."""
    alu_imm_reads_src: bool
    """An immediate operation reads ACC[src] and writes ACC[dst]; else ACC[dst] is both."""
    inp_pads: bool
    wgt_pads: bool
    acc_pads: bool
    """LOAD inserts the zeros that the pad fields ask for, by memory."""
    empty_load_pads: bool
    """A LOAD with x_size 0 still writes its pads."""
    uop_rows: bool
    """LOAD UOP honours y_size, x_stride and pads; else it copies one row whatever they say."""
    acc_8bit: bool
    """LOAD to ACC of 8-bit data (memory type 5)."""
    zero_rows_hang: bool
    """LOAD or STORE with y_size 0 and x_size > 0 does not end."""
    zero_loops_hang: bool
    """GEMM or ALU without an iteration does not end."""
    store_strict: bool
    """STORE aborts on a memory type other than OUT and on pads."""
    neighbours_strict: bool
    """A dependence bit towards a neighbour that does not exist aborts; else it is ignored."""
    gemm_distance: int
    alu_distance: int
    """Micro-ops from a write of an accumulator to the first one that reads it back right."""
    uop_depth: int | None
    max_batch: int | None
    token_capacity: int | None
    instruction_queue: int | None


FSIM = Profile(
    name="fsim",
    separate_out=False,
    reset_writes_out=False,
    index_wraps=False,
    mul=True,
    unknown=Unknown.ABORT,
    shr_imm=ShiftRule.FULL,
    shr_register=ShiftRule.FULL,
    shr_imm_min=-31,
    shr_imm_max=31,
    shr_lane_min=-31,
    shr_lane_max=31,
    alu_imm_reads_src=False,
    inp_pads=True,
    wgt_pads=True,
    acc_pads=True,
    empty_load_pads=False,
    uop_rows=True,
    acc_8bit=True,
    zero_rows_hang=False,
    zero_loops_hang=False,
    store_strict=True,
    neighbours_strict=True,
    gemm_distance=1,
    alu_distance=1,
    uop_depth=None,
    max_batch=None,
    token_capacity=None,
    instruction_queue=None,
)

HLS = Profile(
    name="hls",
    separate_out=True,
    reset_writes_out=True,
    index_wraps=True,
    mul=False,
    unknown=Unknown.IGNORE,
    shr_imm=ShiftRule.SIGNED5,
    shr_register=ShiftRule.SIGNED5,
    shr_imm_min=-16,
    shr_imm_max=15,
    shr_lane_min=-16,
    shr_lane_max=15,
    alu_imm_reads_src=False,
    inp_pads=True,
    wgt_pads=False,
    acc_pads=True,  # in the source; bitstreams built before December 2020 ignore them
    empty_load_pads=True,
    uop_rows=False,
    acc_8bit=False,
    zero_rows_hang=False,
    zero_loops_hang=False,
    store_strict=False,
    neighbours_strict=False,
    gemm_distance=3,
    alu_distance=3,
    uop_depth=None,
    max_batch=None,
    token_capacity=1023,
    instruction_queue=512,
)

CHISEL = Profile(
    name="chisel",
    separate_out=True,
    reset_writes_out=False,
    index_wraps=True,
    mul=False,
    unknown=Unknown.HANG,
    shr_imm=ShiftRule.MAGNITUDE5,
    shr_register=ShiftRule.UNSIGNED5,
    shr_imm_min=-31,
    shr_imm_max=31,
    shr_lane_min=0,
    shr_lane_max=31,
    alu_imm_reads_src=True,
    inp_pads=True,
    wgt_pads=True,
    acc_pads=True,
    empty_load_pads=False,
    uop_rows=True,
    acc_8bit=False,
    zero_rows_hang=True,
    zero_loops_hang=True,
    store_strict=False,
    neighbours_strict=False,
    gemm_distance=1,
    alu_distance=3,
    uop_depth=2048,
    max_batch=1,
    token_capacity=255,
    instruction_queue=512,
)

# Behaviours are set to whatever forbids most: a stream that is right under these is right on all.
PORTABLE = Profile(
    name="portable",
    separate_out=True,
    reset_writes_out=True,
    index_wraps=False,
    mul=False,
    unknown=Unknown.ABORT,
    shr_imm=ShiftRule.SIGNED5,
    shr_register=ShiftRule.UNSIGNED5,
    shr_imm_min=-16,
    shr_imm_max=15,
    shr_lane_min=0,
    shr_lane_max=15,
    alu_imm_reads_src=True,
    inp_pads=True,
    wgt_pads=False,
    acc_pads=False,
    empty_load_pads=True,
    uop_rows=False,
    acc_8bit=False,
    zero_rows_hang=True,
    zero_loops_hang=True,
    store_strict=True,
    neighbours_strict=True,
    gemm_distance=3,
    alu_distance=3,
    uop_depth=2048,
    max_batch=None,
    token_capacity=255,
    instruction_queue=512,
)

DESIGNS = ("fsim", "hls", "chisel")
"""The designs that a hardware description may name."""

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {profile.name: profile for profile in (FSIM, HLS, CHISEL, PORTABLE)}
)
"""Every profile by name: the designs, and `portable`."""
