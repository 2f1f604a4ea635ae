"""Counters of a launch, named and counted as VTA's own profiler does (tvm-vta sim_driver.cc)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import MemoryType, Opcode, Stream
from ..backend.target import Target
from ..backend.timing import micro_op_counts

COUNTERS = (
    "inp_load_nbytes",
    "wgt_load_nbytes",
    "acc_load_nbytes",
    "uop_load_nbytes",
    "out_store_nbytes",
    "gemm_counter",
    "alu_counter",
    "insn_count",
)
"""Names, in the order in which they are printed."""


def count(target: Target, stream: Stream) -> dict[str, int]:
    """The counters of one run of `stream`, by name.

    Bytes are those of the elements named by x_size and y_size (pads are free; an 8-bit ACC load
    counts the full accumulator elements that it fills); gemm_counter and alu_counter are
    micro-ops, resets not included.
    """
    fields, opcode = stream.fields, stream.opcode
    elements = fields["x_size"] * fields["y_size"]
    kind = fields["memory_type"]
    micro_ops = micro_op_counts(stream)
    load = opcode == Opcode.LOAD
    accumulators = (kind == MemoryType.ACC) | (kind == MemoryType.ACC_8BIT)

    def loaded(selected: NDArray[np.bool_], memory: Memory) -> int:
        return int(elements[load & selected].sum()) * target.element_bytes(memory)

    stored = int(elements[opcode == Opcode.STORE].sum())
    multiplied = (opcode == Opcode.GEMM) & (fields["reset_reg"] == 0)
    return {
        "inp_load_nbytes": loaded(kind == MemoryType.INP, Memory.INP),
        "wgt_load_nbytes": loaded(kind == MemoryType.WGT, Memory.WGT),
        "acc_load_nbytes": loaded(accumulators, Memory.ACC),
        "uop_load_nbytes": loaded(kind == MemoryType.UOP, Memory.UOP),
        "out_store_nbytes": stored * target.element_bytes(Memory.OUT),
        "gemm_counter": int(micro_ops[multiplied].sum()),
        "alu_counter": int(micro_ops[opcode == Opcode.ALU].sum()),
        "insn_count": len(stream),
    }
