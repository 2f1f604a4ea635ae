"""The register maps of VTA's designs: names, offsets and bits.

HLS has a block of registers for each module, Chisel one block (VCR) for all. Registers hold 32
bits and are accessed whole. Facts: docs/hardware.md, "Memory and registers".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BLOCK_BYTES = 0x1000

# AP_CTRL of an HLS block.
CONTROL = 0x00
START = 1 << 0  # stays 1 with AUTO_RESTART
DONE = 1 << 1  # cleared by reading
IDLE = 1 << 2
AUTO_RESTART = 1 << 7

FETCH_COUNT = 0x10
FETCH_ADDRESS = 0x18
LOAD_INP_BASE = 0x10
LOAD_WGT_BASE = 0x18
COMPUTE_DONE = 0x18
COMPUTE_DONE_WRITTEN = 0x1C  # bit 0, cleared by reading
COMPUTE_UOP_BASE = 0x20
COMPUTE_ACC_BASE = 0x28
STORE_OUT_BASE = 0x10

_INTERRUPTS = ((0x04, "interrupt_global"), (0x08, "interrupt_enable"), (0x0C, "interrupt_status"))

HLS_REGISTERS: Mapping[str, tuple[tuple[int, str], ...]] = MappingProxyType(
    {
        "fetch": (
            (CONTROL, "control"),
            *_INTERRUPTS,
            (FETCH_COUNT, "insn_count"),
            (FETCH_ADDRESS, "insn_address"),
        ),
        "load": (
            (CONTROL, "control"),
            *_INTERRUPTS,
            (LOAD_INP_BASE, "inp_base"),
            (LOAD_WGT_BASE, "wgt_base"),
        ),
        "compute": (
            (CONTROL, "control"),
            *_INTERRUPTS,
            (0x10, "done_in"),
            (COMPUTE_DONE, "done"),
            (COMPUTE_DONE_WRITTEN, "done_written"),
            (COMPUTE_UOP_BASE, "uop_base"),
            (COMPUTE_ACC_BASE, "acc_base"),
        ),
        "store": (
            (CONTROL, "control"),
            *_INTERRUPTS,
            (STORE_OUT_BASE, "out_base"),
        ),
    }
)
"""Offset and name of every register of every HLS block."""

# The Chisel block, for 32-bit memory addresses.
VCR_CONTROL = 0x00
VCR_LAUNCH = 1 << 0
VCR_FINISH = 1 << 1
VCR_CYCLES = 0x04
VCR_COUNT = 0x08
VCR_ADDRESS = 0x0C
VCR_BASES = (0x10, 0x14, 0x18, 0x1C, 0x20)

VCR_REGISTERS: tuple[tuple[int, str], ...] = (
    (VCR_CONTROL, "control"),
    (VCR_CYCLES, "cycles"),
    (VCR_COUNT, "insn_count"),
    (VCR_ADDRESS, "insn_address"),
    *zip(VCR_BASES, ("uop_base", "inp_base", "wgt_base", "acc_base", "out_base"), strict=True),
    (0x24, "acc_writes"),
)
"""Offset and name of every register of the Chisel block."""
