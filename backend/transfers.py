"""What a LOAD or a STORE asks of memory, and the cycles that follow, by design.

A transfer is a number of requests. Each pays the memory's latency before its data move; what a
design does between requests, and how much it puts into one, is where designs differ
(docs/timing.md). The numbers are plain integers (the cost model) or columns of a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .commands import Memory
from .target import Target

Cycles = Any
"""int or int64[n]: the formulas are arithmetic on either."""


@dataclass(frozen=True)
class Transfer:
    """`requests` requests of `words` bus words each.

    A request takes `gap` cycles of the module's own, the memory's latency, and `span` cycles in
    which its words move; `lead` comes before all of them, `tail` after.
    """

    lead: Cycles
    requests: Cycles
    gap: Cycles
    words: Cycles
    span: Cycles
    tail: Cycles

    def cycles(self, latency: int) -> Cycles:
        """The whole transfer at a latency, nobody else being at the memory."""
        return self.lead + self.requests * (self.gap + latency + self.span) + self.tail


def load(
    target: Target,
    memory: Memory,
    rows: Cycles,
    size: Cycles,
    zeros: Cycles = 0,
    zero_rows: Cycles = 0,
) -> Transfer:
    """A LOAD of `rows` rows of `size` >= 1 elements and `zeros` padding elements.

    `zero_rows` of the padding are whole rows before the data.
    """
    if target.design == "chisel":
        return _pipelined_load(target, memory, rows, size, zeros, zero_rows)
    timing = target.timing
    words = _words(target, memory, size)
    if memory is Memory.UOP:  # one row whatever `rows` says, through a port of its own width
        return Transfer(timing.uop_fixed, 1, 0, words, size, 0)
    fixed, row, pace, padding = {
        Memory.INP: (timing.inp_fixed, timing.inp_row, 1, zeros),
        Memory.WGT: (timing.wgt_fixed, timing.wgt_row, timing.wgt_cycles_per_beat, 0 * zeros),
        Memory.ACC: (timing.acc_fixed, timing.acc_row, 1, zeros),
    }[memory]
    return Transfer(fixed, rows, row, words, pace * words, padding)


def _pipelined_load(
    target: Target,
    memory: Memory,
    rows: Cycles,
    size: Cycles,
    zeros: Cycles,
    zero_rows: Cycles,
) -> Transfer:
    """All rows are asked for at once; zeros are written while the first word is awaited."""
    timing = target.timing
    fixed = {
        Memory.UOP: timing.uop_fixed,
        Memory.INP: timing.inp_fixed,
        Memory.WGT: timing.wgt_fixed,
        Memory.ACC: timing.acc_fixed,
    }[memory]
    words = rows * _words(target, memory, size)
    late = zeros - timing.read_latency
    return Transfer(fixed + zero_rows, 1, 0, words, words, (late > 0) * late)


def empty_load(target: Target, memory: Memory, rows: Cycles, zeros: Cycles) -> Transfer:
    """A LOAD without a column: tokens, and on HLS the zeros that its pads ask for."""
    timing = target.timing
    nothing = 0 * rows
    if target.design == "chisel":
        return Transfer(timing.undefined + nothing, nothing, 0, 0, 0, 0)
    lead = {
        Memory.UOP: timing.uop_empty + nothing,
        Memory.INP: timing.inp_fixed + rows * timing.inp_empty_row + zeros,
        Memory.WGT: timing.wgt_fixed + rows * timing.wgt_empty_row,
        Memory.ACC: timing.acc_fixed + rows * timing.acc_empty_row + zeros,
    }[memory]
    return Transfer(lead, nothing, 0, 0, 0, 0)


def store(target: Target, rows: Cycles, size: Cycles) -> Transfer:
    """A STORE of `rows` rows of `size` elements; every request waits for its acknowledgement."""
    timing = target.timing
    words = _words(target, Memory.OUT, size)
    if target.design != "chisel":
        return Transfer(timing.store_fixed, rows, timing.store_row, words, words, 0)
    # A burst at a time. Its share of the words is moved with the lead: bursts are unequal.
    bursts = rows * -(-words // timing.burst_words)
    moved = rows * (words + size * timing.store_element)
    empty = (moved == 0) * (timing.undefined - timing.store_fixed)
    return Transfer(timing.store_fixed + moved + empty, bursts, timing.store_row, 0, 0, 0)


def _words(target: Target, memory: Memory, size: Cycles) -> Cycles:
    """Bus words of `size` adjacent elements."""
    return -(-size * target.element_bits(memory) // target.bus_bits)


def fetch_gaps(target: Target, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Cycles between an instruction leaving fetch and the one before it, int64[count].

    The first gap counts from the launch. Where fetch reads in batches, a batch is asked for when
    the one before has left.
    """
    timing = target.timing
    gaps = np.full(count, timing.fetch_interval, np.int64)
    batch = timing.fetch_batch or max(count, 1)
    for first in range(0, count, batch):
        gaps[first] = timing.read_latency + timing.fetch_fixed
        if timing.fetch_batch:
            gaps[first] += min(batch, count - first) * max(1, 128 // target.bus_bits)
    gaps[:1] += timing.fetch_start
    return gaps
