"""What every module does at every moment, summed by kind of work.

The cycles of an instruction are its own work, the latency of memory, and the time in which others
had the port; before it, the module may have waited. `Activity` answers how many cycles of a kind
lie before any moment, so that the difference of two moments splits the time between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.isa import MemoryType, Opcode, Stream
from ..runtime.cycles import COMPUTE, LOAD, STORE, Run
from ..runtime.interleave import MODULE_NAMES

Column = NDArray[np.int64]

WORK = {
    LOAD: ("weights", "inputs"),
    COMPUTE: ("GEMM", "ALU", "micro-ops and biases"),
    STORE: ("stores",),
}
"""Kinds of work of each module; no-ops and FINISH count with the last."""

LATENCY, CONTENTION = "memory latency", "memory port"

BUSY = {module: (*kinds, LATENCY, CONTENTION) for module, kinds in WORK.items()}
"""Kinds of what a module does between the start and the end of its instructions."""


def work_kinds(stream: Stream, module: Column) -> Column:
    """Index into WORK[module] of each instruction, int64[n]."""
    kinds = np.zeros(len(stream), np.int64)
    load, compute = module == LOAD, module == COMPUTE
    kinds[load & (stream.fields["memory_type"] == MemoryType.INP)] = 1
    kinds[compute] = 2
    kinds[compute & (stream.opcode == Opcode.GEMM)] = 0
    kinds[compute & (stream.opcode == Opcode.ALU)] = 1
    return kinds


def own_cycles(run: Run) -> Column:
    """Cycles of each instruction's own work, int64[n]."""
    return run.end - run.start + 1 - run.latency - run.contention - run.wait_room


@dataclass(frozen=True)
class Activity:
    """One module: `edges` are moments, `before[kind]` the cycles of that kind until each."""

    edges: Column
    before: Mapping[str, Column]

    @classmethod
    def of(cls, stream: Stream, run: Run, module: int) -> Activity:
        """The activity of a module in a run."""
        mine = np.flatnonzero(run.module == module)
        kinds = work_kinds(stream, run.module)[mine]
        own = own_cycles(run)[mine]
        amounts = {
            name: np.where(kinds == number, own, 0) for number, name in enumerate(WORK[module])
        }
        amounts |= {LATENCY: run.latency[mine], CONTENTION: run.contention[mine]}
        edges = np.stack([run.start[mine], run.end[mine] + 1], axis=1).ravel()
        return cls(edges, {name: _staircase(amount) for name, amount in amounts.items()})

    def until(self, kind: str, moments: Column) -> NDArray[np.float64]:
        """Cycles of `kind` before each moment; those of one instruction spread evenly over it."""
        if not len(self.edges):
            return np.zeros(len(moments))
        return np.interp(moments, self.edges, self.before[kind])

    def between(self, kind: str, begin: Column, end: Column) -> NDArray[np.float64]:
        """Cycles of `kind` in each interval [begin, end)."""
        return self.until(kind, end) - self.until(kind, begin)


def _staircase(amounts: Column) -> Column:
    """The sums before and after every instruction."""
    after = np.cumsum(amounts)
    return np.stack([after - amounts, after], axis=1).ravel()


def activities(stream: Stream, run: Run) -> dict[str, Activity]:
    """The activity of every module, by name."""
    return {
        name: Activity.of(stream, run, module) for module, name in enumerate(MODULE_NAMES)
    }
