"""How long instructions take, and when they run.

The closed forms are those of docs/timing.md, with the constants of the target. They take plain
numbers (the cost model) as well as columns of a stream (`spans`). `schedule` is the in-order
recurrence of fetch, load, compute and store over their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import transfers
from .commands import Memory
from .isa import Opcode, Stream
from .target import Target
from .transfers import Cycles

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
    one = transfers.load(target, memory, rows, size, zeros)
    return one.cycles(target.timing.read_latency)


def store(target: Target, rows: Cycles, size: Cycles) -> Cycles:
    """Cycles of a STORE of `rows` rows of `size` elements."""
    return transfers.store(target, rows, size).cycles(target.timing.write_latency)


@dataclass(frozen=True)
class Spans:
    """What every instruction takes, int64[n] each.

    `cycles` run from the module's start to done, inclusive; `requests` is how often the memory's
    latency is among them, `latency` the cycles of it. For the LOADs among them, `words` are the
    bus words of a request, `span` the cycles in which they move, `gap` and `lead` the cycles
    before each request and before the first one.
    """

    cycles: NDArray[np.int64]
    requests: NDArray[np.int64]
    latency: NDArray[np.int64]
    words: NDArray[np.int64]
    span: NDArray[np.int64]
    gap: NDArray[np.int64]
    lead: NDArray[np.int64]


def spans(target: Target, stream: Stream) -> Spans:
    """The spans of every instruction, nobody else being at the memory."""
    timing, opcode = target.timing, stream.opcode
    kind = stream.fields["memory_type"]
    result = Spans(*(np.zeros(len(stream), np.int64) for _ in range(7)))
    result.cycles[:] = _module_cycles(target, stream)
    for memory in (Memory.UOP, Memory.INP, Memory.WGT, Memory.ACC):
        loads = (opcode == Opcode.LOAD) & (kind == memory)
        full = loads & (stream.fields["x_size"] > 0)
        rows, size, zeros, zero_rows = _shape(stream, full)
        moved = transfers.load(target, memory, rows, size, zeros, zero_rows)
        _fill(result, full, moved, timing.read_latency)
        rows, _, zeros, _ = _shape(stream, loads & ~full)
        moved = transfers.empty_load(target, memory, rows, zeros)
        _fill(result, loads & ~full, moved, timing.read_latency)
    stores = opcode == Opcode.STORE
    rows, size, *_ = _shape(stream, stores)
    _fill(result, stores, transfers.store(target, rows, size), timing.write_latency)
    return result


def durations(target: Target, stream: Stream) -> NDArray[np.int64]:
    """Cycles of every instruction, int64[n], from the module's start to done inclusive."""
    return spans(target, stream).cycles


def _fill(
    result: Spans, chosen: NDArray[np.bool_], moved: transfers.Transfer, latency: int
) -> None:
    result.cycles[chosen] = moved.cycles(latency)
    result.requests[chosen] = moved.requests
    result.latency[chosen] = moved.requests * latency
    result.words[chosen] = moved.words
    result.span[chosen] = moved.span
    result.gap[chosen] = moved.gap
    result.lead[chosen] = moved.lead


def _shape(stream: Stream, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Rows, columns, padding elements and leading rows of padding of the chosen transfers."""
    column = {name: values[chosen] for name, values in stream.fields.items()}
    rows, size = column["y_size"], column["x_size"]
    width = column["x_pad_0"] + size + column["x_pad_1"]
    zeros = width * (column["y_pad_0"] + column["y_pad_1"]) + rows * (width - size)
    return rows, size, zeros, column["y_pad_0"]


def _module_cycles(target: Target, stream: Stream) -> NDArray[np.int64]:
    """Cycles of what moves nothing: GEMM, ALU, FINISH and everything unknown."""
    timing, opcode = target.timing, stream.opcode
    result = np.full(len(stream), timing.undefined, np.int64)
    result[opcode == Opcode.FINISH] = timing.finish
    executed = micro_op_counts(stream)
    immediate = stream.fields["use_imm"] == 1
    for chosen, cycles in (
        (opcode == Opcode.GEMM, gemm(target, executed)),
        ((opcode == Opcode.ALU) & immediate, alu(target, executed)),
        ((opcode == Opcode.ALU) & ~immediate, alu(target, executed, immediate=False)),
    ):
        result[chosen] = np.where(executed > 0, cycles, timing.empty_loops)[chosen]
    return result


def micro_op_counts(stream: Stream) -> NDArray[np.int64]:
    """Micro-ops that each instruction executes, int64[n]; 0 for other than GEMM and ALU."""
    fields = stream.fields
    kernel = np.maximum(fields["uop_end"] - fields["uop_bgn"], 0)
    counts: NDArray[np.int64] = kernel * fields["iter_out"] * fields["iter_in"]
    return counts


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
    cycles = durations(target, stream).tolist()
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
    fetched = np.cumsum(transfers.fetch_gaps(target, len(stream)))
    arrivals = (fetched + timing.queue_latency).tolist()
    free = [0, 0, 0]
    starts, ends = [], []
    for index, (module, span) in enumerate(zip(where, cycles, strict=True)):
        begin = max(free[module], arrivals[index])
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
