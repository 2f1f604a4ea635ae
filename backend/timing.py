"""How long instructions take, and when they run.

The closed forms are those of docs/hardware.md, "Timing", with the constants of the target. They
take plain numbers (the cost model) as well as columns of a stream (`durations`). `schedule` is
the in-order recurrence of fetch, load, compute and store over their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .commands import Memory
from .isa import Opcode, Stream
from .target import Target

Cycles = Any
"""int or int64[n]: the formulas are arithmetic on either."""

LOAD, COMPUTE, STORE = range(3)
"""Modules, in the order of the pipeline."""


@dataclass(frozen=True)
class Timeline:
    """When each instruction of a stream runs, in cycles from launch.

    `module` is int64[n] (LOAD, COMPUTE, STORE); `start` and `end` are int64[n], both inclusive.
    """

    module: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    @property
    def cycles(self) -> int:
        """Cycles from launch to the end of the last instruction."""
        return int(self.end.max()) + 1


def gemm(target: Target, micro_ops: Cycles) -> Cycles:
    """Cycles of a GEMM of `micro_ops` >= 1 executed micro-ops."""
    return micro_ops * target.timing.gemm_interval + target.timing.gemm_fixed


def alu(target: Target, micro_ops: Cycles, immediate: bool = True) -> Cycles:
    """Cycles of an ALU operation of `micro_ops` >= 1 executed micro-ops."""
    timing = target.timing
    interval = timing.alu_imm_interval if immediate else timing.alu_interval
    return micro_ops * interval + timing.alu_fixed


def load(target: Target, memory: Memory, rows: Cycles, size: Cycles, zeros: Cycles = 0) -> Cycles:
    """Cycles of a LOAD of `rows` rows of `size` >= 1 elements and `zeros` padding elements."""
    timing = target.timing
    if memory is Memory.UOP:
        return size + timing.uop_fixed + timing.read_latency
    fixed, row, beat = {
        Memory.INP: (timing.inp_fixed, timing.inp_row, 1),
        Memory.WGT: (timing.wgt_fixed, timing.wgt_row, timing.wgt_cycles_per_beat),
        Memory.ACC: (timing.acc_fixed, timing.acc_row, 1),
    }[memory]
    element = beat * _beats(target, memory)
    return fixed + rows * (element * size + row + timing.read_latency) + zeros


def store(target: Target, rows: Cycles, size: Cycles) -> Cycles:
    """Cycles of a STORE of `rows` rows of `size` elements."""
    timing = target.timing
    element = _beats(target, Memory.OUT)
    return timing.store_fixed + rows * (element * size + timing.store_row + timing.write_latency)


def _beats(target: Target, memory: Memory) -> int:
    return max(1, target.element_bits(memory) // target.bus_bits)


def durations(target: Target, stream: Stream) -> NDArray[np.int64]:
    """Cycles of every instruction, int64[n], from the module's start to done inclusive."""
    timing, column, opcode = target.timing, stream.fields, stream.opcode
    result = np.full(len(stream), timing.undefined, np.int64)
    result[opcode == Opcode.FINISH] = timing.finish
    micro_ops = np.maximum(column["uop_end"] - column["uop_bgn"], 0)
    micro_ops = micro_ops * column["iter_out"] * column["iter_in"]
    immediate = column["use_imm"] == 1
    for chosen, cycles in (
        (opcode == Opcode.GEMM, gemm(target, micro_ops)),
        ((opcode == Opcode.ALU) & immediate, alu(target, micro_ops)),
        ((opcode == Opcode.ALU) & ~immediate, alu(target, micro_ops, immediate=False)),
    ):
        result[chosen] = np.where(micro_ops > 0, cycles, timing.empty_loops)[chosen]
    result[opcode == Opcode.STORE] = store(target, column["y_size"], column["x_size"])[
        opcode == Opcode.STORE
    ]
    for memory in (Memory.UOP, Memory.INP, Memory.WGT, Memory.ACC):
        chosen = (opcode == Opcode.LOAD) & (column["memory_type"] == memory)
        result[chosen] = _load_column(target, memory, stream)[chosen]
    return result


def _load_column(target: Target, memory: Memory, stream: Stream) -> NDArray[np.int64]:
    timing, column = target.timing, stream.fields
    rows, size = column["y_size"], column["x_size"]
    width = column["x_pad_0"] + size + column["x_pad_1"]
    zeros = width * (column["y_pad_0"] + column["y_pad_1"]) + rows * (width - size)
    empty = {
        Memory.UOP: timing.uop_empty + 0 * rows,
        Memory.INP: timing.inp_fixed + rows * timing.inp_empty_row + zeros,
        Memory.WGT: timing.wgt_fixed + rows * timing.wgt_empty_row,
        Memory.ACC: timing.acc_fixed + rows * timing.acc_empty_row + zeros,
    }[memory]
    if memory is Memory.WGT:
        zeros = np.zeros_like(zeros)
    full = load(target, memory, rows, size, zeros)
    return np.asarray(np.where(size > 0, full, empty))


def modules(stream: Stream) -> NDArray[np.int64]:
    """The module that executes each instruction, int64[n]."""
    kind = stream.fields["memory_type"]
    to_load = (stream.opcode == Opcode.LOAD) & ((kind == Memory.INP) | (kind == Memory.WGT))
    result = np.full(len(stream), COMPUTE, np.int64)
    result[to_load] = LOAD
    result[stream.opcode == Opcode.STORE] = STORE
    return result


def schedule(target: Target, stream: Stream) -> Timeline:
    """When each instruction runs.

    The stream must replay in program order without a token underflow (the checker's rule);
    raises ValueError at the first instruction that would wait for ever.
    """
    timing = target.timing
    where = modules(stream).tolist()
    spans = durations(target, stream).tolist()
    bits = [
        stream.fields[name].tolist()
        for name in ("pop_prev_dep", "pop_next_dep", "push_prev_dep", "push_next_dep")
    ]
    # A token from one module to its neighbour waits in queue (producer, consumer).
    latency = {
        (LOAD, COMPUTE): timing.load_to_compute,
        (COMPUTE, LOAD): timing.compute_to_load,
        (COMPUTE, STORE): timing.compute_to_store,
        (STORE, COMPUTE): timing.store_to_compute,
    }
    queues: dict[tuple[int, int], list[int]] = {key: [] for key in latency}
    heads = dict.fromkeys(latency, 0)
    arrival = timing.fetch_start + timing.read_latency + timing.fetch_fixed + timing.queue_latency
    free = [0, 0, 0]
    starts, ends = [], []
    for index, (module, span) in enumerate(zip(where, spans, strict=True)):
        begin = max(free[module], arrival + index * timing.fetch_interval)
        for bit, neighbour in ((bits[0][index], module - 1), (bits[1][index], module + 1)):
            key = (neighbour, module)
            if bit and key in queues:
                if heads[key] == len(queues[key]):
                    raise ValueError(f"instruction {index} waits for a token that never comes")
                begin = max(begin, queues[key][heads[key]])
                heads[key] += 1
        end = begin + span - 1
        for bit, neighbour in ((bits[2][index], module - 1), (bits[3][index], module + 1)):
            key = (module, neighbour)
            if bit and key in queues:
                queues[key].append(end + latency[key])
        free[module] = end + 1
        starts.append(begin)
        ends.append(end)
    return Timeline(np.array(where), np.array(starts, np.int64), np.array(ends, np.int64))
