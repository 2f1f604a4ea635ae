"""What a plan knows about ACC and OUT while it is made: zeros not yet written, OUT not yet copied.

Where OUT is a memory of its own, every GEMM and ALU micro-op writes it (docs/hardware.md). Nearly
all of those writes are overwritten unread, so a plan does not perform them: it remembers the
elements whose OUT equals the low bits of ACC (`synced`), stores those from ACC, and copies them
to OUT only where ACC moves on before a STORE that still wants the old value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from .copies import SyncOut, Zero
from .lift import Indices
from .machine import Step
from .products import ResetRubbish

Elements = slice | Indices
"""SRAM elements: a range or distinct indices."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Event:
    """OUT `elements` are read by a step, written for good, or written by the step `optional`."""

    elements: Elements
    reads: bool
    optional: int | None = None


class Accumulators:
    """Symbolic state of ACC and OUT; steps go to `steps`.

    `unwritten` collects the memories of which something is read that the stream never wrote.
    """

    def __init__(self, depth: int, separate_out: bool, steps: list[Step]) -> None:
        self._separate = separate_out
        self._steps = steps
        self._zero: Mask = np.zeros(depth, np.bool_)
        self._seen: Mask = np.zeros(depth, np.bool_)
        self._synced: Mask = np.zeros(depth, np.bool_)
        self._out_seen: Mask = np.zeros(depth, np.bool_)
        self._events: list[_Event] = []
        self.unwritten: set[Memory] = set()

    def read(self, elements: Elements) -> None:
        """A step is about to read ACC elements."""
        if not self._seen[elements].all():
            self.unwritten.add(Memory.ACC)
        self.flush(elements)

    def flush(self, elements: Elements) -> None:
        """Write the zeros that resets left to do among `elements`."""
        pending = self._zero[elements]
        if pending.any():
            chosen = np.unique(np.arange(len(self._zero))[elements][pending])
            self._steps.append(Zero(Memory.ACC, compact(chosen)))
            self._zero[chosen] = False

    def all_zero(self, elements: Elements) -> bool:
        """Whether the elements are zeros still to be written, so that adding is assigning."""
        return bool(self._zero[elements].all())

    def result(self, elements: Elements) -> None:
        """GEMM or ALU has written the elements: OUT follows ACC."""
        self._seen[elements] = True
        self._zero[elements] = False
        if self._separate:
            self._synced[elements] = True
            self._events.append(_Event(elements, reads=False))

    def overwrite(self, elements: Elements) -> None:
        """A LOAD is about to replace ACC elements; OUT keeps what it has."""
        self._diverge(elements)
        self._seen[elements] = True
        self._zero[elements] = False

    def reset(self, elements: Elements, rubbish: Callable[[], ResetRubbish] | None) -> None:
        """A reset is about to zero ACC elements; OUT keeps what it has, or gets `rubbish`."""
        if rubbish is None:
            self._diverge(elements)
        else:
            self.flush(elements)
            self._optional(elements, rubbish())
            self._synced[elements] = False
            self._out_seen[elements] = True
        self._seen[elements] = True
        self._zero[elements] = True

    def out_only(self, elements: Elements) -> None:
        """A step has written OUT elements and left ACC alone."""
        self._events.append(_Event(elements, reads=False))
        self._synced[elements] = False
        self._out_seen[elements] = True

    def store_source(self, start: int, end: int) -> Memory:
        """Where a STORE of OUT elements [start, end) finds them: ACC or OUT."""
        elements = slice(start, end)
        synced = self._synced[elements]
        if not self._separate or synced.all():
            self.read(elements)
            return Memory.ACC
        if not (synced | self._out_seen[elements]).all():
            self.unwritten.add(Memory.OUT)
        self._sync(np.flatnonzero(synced) + start)
        self._events.append(_Event(elements, reads=True))
        return Memory.OUT

    def finish(self) -> Indices:
        """Write all zeros still to do; the elements whose OUT still stands in ACC alone."""
        self.flush(slice(None))
        return np.flatnonzero(self._synced)

    def _diverge(self, elements: Elements) -> None:
        """ACC moves on: OUT elements that stood in ACC alone are to be copied."""
        if self._separate:
            self._sync(np.arange(len(self._synced))[elements][self._synced[elements]])
            self._synced[elements] = False

    def _sync(self, elements: Indices) -> None:
        if len(elements):
            self._optional(elements, SyncOut(elements))
            self._out_seen[elements] = True

    def _optional(self, elements: Elements, step: Step) -> None:
        self._events.append(_Event(elements, reads=False, optional=len(self._steps)))
        self._steps.append(step)

    def prune(self) -> None:
        """Drop, from the end of the plan backwards, copies to OUT that nobody reads."""
        wanted = np.ones(len(self._zero), np.bool_)  # OUT outlives the launch
        dropped = set()
        for event in reversed(self._events):
            if event.optional is None:
                wanted[event.elements] = event.reads
                continue
            step = self._steps[event.optional]
            assert isinstance(step, SyncOut | ResetRubbish)
            chosen = wanted[step.elements]
            if not chosen.any():
                dropped.add(event.optional)
            elif not chosen.all():
                self._steps[event.optional] = step.part(chosen)
            if isinstance(step, ResetRubbish):
                wanted[step.elements] = False
                if chosen.any():
                    self.unwritten |= {Memory.INP, Memory.WGT, Memory.ACC}
        self._events.clear()
        self._steps[:] = [step for n, step in enumerate(self._steps) if n not in dropped]


def compact(elements: Indices) -> Elements:
    """Ascending int64[n] as a slice where they count up by one."""
    low, high = int(elements[0]), int(elements[-1]) + 1
    return slice(low, high) if high - low == len(elements) else elements
