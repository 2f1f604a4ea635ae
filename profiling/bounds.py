"""Lower bounds of a row: what it would take if one resource alone counted.

The closed forms of docs/timing.md, applied to what the row's instructions do: every multiplied
micro-op, a bias as a GEMM micro-op, every byte of weights, inputs and results once and in one
transfer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..backend import timing
from ..backend.commands import AluOp, Memory
from ..backend.isa import Opcode, Stream
from ..backend.target import Target

COMPUTE, WEIGHTS, INPUTS, STORE, ALU, LATENCY = (
    "compute",
    "weight load",
    "input load",
    "store",
    "ALU",
    "latency",
)
"""What can limit a row; the first four are bounds as well."""


Column = NDArray[np.int64]


def products(stream: Stream) -> Column:
    """Micro-ops of each instruction that multiply, int64[n]."""
    multiplies = (stream.opcode == Opcode.GEMM) & (stream.fields["reset_reg"] == 0)
    return np.where(multiplies, timing.micro_op_counts(stream), 0)


def _additions(stream: Stream) -> Column:
    """Vectors that the ALU adds: a bias or a residual, which costs one GEMM micro-op each."""
    fields = stream.fields
    adds = (stream.opcode == Opcode.ALU) & (fields["alu_opcode"] == AluOp.ADD)
    return np.where(adds & (fields["use_imm"] == 0), timing.micro_op_counts(stream), 0)


def compute_with_alu(target: Target, stream: Stream, chosen: NDArray[np.bool_]) -> int:
    """What compute would take for the products and the rest of the ALU's work, cycles."""
    added = _additions(stream)
    micro_ops = int((products(stream) + added)[chosen].sum())
    alu = chosen & (stream.opcode == Opcode.ALU) & (added == 0)
    counts = timing.micro_op_counts(stream)
    cycles = int(timing.gemm(target, micro_ops)) if micro_ops else 0
    for immediate in (True, False):
        form = alu & ((stream.fields["use_imm"] == 1) == immediate)
        if form.any():
            cycles += int(timing.alu(target, counts[form].sum(), immediate))
    return cycles


def bounds(target: Target, stream: Stream, chosen: NDArray[np.bool_]) -> dict[str, int]:
    """Cycles by resource for the chosen instructions, 0 for a resource that they do not use."""
    found = dict.fromkeys((COMPUTE, WEIGHTS, INPUTS, STORE), 0)
    micro_ops = int((products(stream) + _additions(stream))[chosen].sum())
    if micro_ops:
        found[COMPUTE] = int(timing.gemm(target, micro_ops))
    for name, memory in ((WEIGHTS, Memory.WGT), (INPUTS, Memory.INP)):
        elements = distinct(stream, chosen & _transfers(stream, memory))
        if elements:
            found[name] = int(timing.load(target, memory, 1, elements))
    elements = distinct(stream, chosen & _transfers(stream, Memory.OUT))
    if elements:
        found[STORE] = int(timing.store(target, 1, elements))
    return found


def moved_bytes(target: Target, stream: Stream, chosen: NDArray[np.bool_]) -> dict[str, int]:
    """Bytes that the chosen instructions move, by memory name; a byte counts every time."""
    elements = stream.fields["x_size"] * stream.fields["y_size"]
    return {
        memory.name.lower(): int(elements[chosen & _transfers(stream, memory)].sum())
        * target.element_bytes(memory)
        for memory in Memory
    }


def _transfers(stream: Stream, memory: Memory) -> NDArray[np.bool_]:
    """LOADs of a memory, or the STOREs for OUT."""
    if memory is Memory.OUT:
        stores: NDArray[np.bool_] = stream.opcode == Opcode.STORE
        return stores
    loads: NDArray[np.bool_] = stream.opcode == Opcode.LOAD
    loads &= stream.fields["memory_type"] == memory
    return loads


def distinct(stream: Stream, chosen: NDArray[np.bool_]) -> int:
    """DRAM elements that the chosen transfers of one memory touch, each counted once."""
    names = ("dram_base", "x_size", "y_size", "x_stride")
    shapes = np.unique(np.stack([stream.fields[name][chosen] for name in names], axis=1), axis=0)
    base, size, rows, stride = shapes.T
    row = np.concatenate([np.arange(count) for count in rows.tolist()] or [np.zeros(0, np.int64)])
    begin = np.repeat(base, rows) + row * np.repeat(stride, rows)
    end = begin + np.repeat(size, rows)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], end[order]
    reached = np.maximum.accumulate(np.concatenate([[-1], end[:-1]])) if len(end) else end
    return int(np.maximum(end - np.maximum(begin, reached), 0).sum())


def limit(modules: Mapping[str, Mapping[str, float]], cycles: float, alone: bool = False) -> str:
    """What keeps a row from being faster: the busiest module, and what it is busy with.

    `modules` are the splits of `rows.module_splits`; `alone`: only compute counts. Where no
    module is at work for half of the time, they wait for one another: latency.
    """
    compute, load, store = (modules[name] for name in ("compute", "load", "store"))
    resources = [
        {COMPUTE: compute["GEMM"], ALU: compute["ALU"], LATENCY: _latency(compute)},
        {WEIGHTS: load["weights"], INPUTS: load["inputs"], LATENCY: _latency(load)},
        {STORE: store["stores"], LATENCY: _latency(store)},
    ]
    busiest = max(resources[: 1 if alone else 3], key=lambda parts: sum(parts.values()))
    if sum(busiest.values()) < cycles / 2:
        return LATENCY
    return max(busiest, key=lambda name: busiest[name])


def _latency(split: Mapping[str, float]) -> float:
    """Cycles in which nothing moves and nothing is computed, and the loads of micro-ops."""
    return split["memory latency"] + split["memory port"] + split.get("micro-ops and biases", 0.0)
