"""Rules about the order of instructions: FINISH, the first compute instruction, token counts.

Owns the token queues between modules: which dependence bit of which module pushes or pops which
queue. The counts are replayed in program order; if no pop finds its queue empty and no queue
overflows, the in-order hardware cannot deadlock (docs/hardware.md).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..isa import Opcode
from .columns import COMPUTE, LOAD, STORE, Columns, Mask
from .findings import WHOLE_STREAM, Report

QUEUES = ("load -> compute", "compute -> load", "compute -> store", "store -> compute")

POP_PREV, POP_NEXT, PUSH_PREV, PUSH_NEXT = 1, 2, 4, 8

POPPED_BY = ((COMPUTE, POP_PREV), (LOAD, POP_NEXT), (STORE, POP_PREV), (COMPUTE, POP_NEXT))
PUSHED_BY = ((LOAD, PUSH_NEXT), (COMPUTE, PUSH_PREV), (COMPUTE, PUSH_NEXT), (STORE, PUSH_PREV))
"""For each queue, the module and the dependence bit that pop from it and push to it."""

NO_CAPACITY_LIMIT = 1 << 32


class Sequence:
    """Replays a stream piece by piece; `length` is the number of all its instructions."""

    def __init__(self, length: int, capacity: int | None, report: Report) -> None:
        self._length = length
        self._capacity = NO_CAPACITY_LIMIT if capacity is None else capacity
        self._report = report
        self._counts = [0] * len(QUEUES)
        self._broken = [False] * len(QUEUES)
        recent = min(self._capacity, 1024)
        self._pushes: list[deque[int]] = [deque(maxlen=recent) for _ in QUEUES]
        self._compute_started = False
        self._finished = False

    def feed(self, columns: Columns) -> None:
        """Check the next piece."""
        self._check_first_compute(columns)
        self._check_finish(columns)
        for queue in range(len(QUEUES)):
            self._replay(columns, queue)

    def close(self) -> None:
        """Check what must hold at the end."""
        if not self._finished:
            self._report.add(self._length - 1, "finish", "the last instruction is not FINISH")
        for queue, count in enumerate(self._counts):
            if count and not self._broken[queue]:
                pushes = self._pushes[queue]
                oldest = pushes[-min(count, len(pushes))]
                self._report.add(
                    oldest,
                    "token-leftover",
                    f"its token is never popped; {count} left in queue {QUEUES[queue]}",
                )

    def _check_first_compute(self, columns: Columns) -> None:
        if self._compute_started:
            return
        rows = np.flatnonzero(columns.module == COMPUTE)
        if len(rows):
            self._compute_started = True
            row = int(rows[0])
            if not columns.nop[row] or columns.deps[row]:
                self._report.add(
                    columns.first + row,
                    "first-compute",
                    "the first compute instruction must be a NOP without tokens, "
                    "or a stale done flag ends the run early",
                )

    def _check_finish(self, columns: Columns) -> None:
        for row in np.flatnonzero(columns.is_opcode(Opcode.FINISH)).tolist():
            index = columns.first + row
            if index == self._length - 1:
                self._finished = True
            else:
                self._report.add(index, "finish", "FINISH before the end of the stream")

    def _replay(self, columns: Columns, queue: int) -> None:
        if self._broken[queue]:
            return
        pushed, popped = _uses(columns, *PUSHED_BY[queue]), _uses(columns, *POPPED_BY[queue])
        counts = self._counts[queue] + np.cumsum(pushed.astype(np.int64) - popped)
        for rule, wrong, text in (
            ("token-underflow", counts < 0, "pops a token that is not yet pushed in"),
            ("token-overflow", counts > self._capacity, f"exceeds {self._capacity} tokens in"),
        ):
            if not self._broken[queue] and wrong.any():
                self._broken[queue] = True
                row = int(np.argmax(wrong))
                self._report.add(columns.first + row, rule, f"{text} queue {QUEUES[queue]}")
        self._counts[queue] = int(counts[-1])
        self._pushes[queue].extend((columns.first + np.flatnonzero(pushed)).tolist())


def check_length(length: int, report: Report) -> None:
    """Check the number of instructions. Raises Stop if the stream is not worth reading."""
    limit = (1 << 25) // 16
    if not 1 <= length <= limit:
        report.add(WHOLE_STREAM, "stream-size", f"{length} instructions; 1 to {limit} are legal")
    report.stop_if_broken()


def _uses(columns: Columns, module: int, bit: int) -> Mask:
    return np.asarray((columns.module == module) & ((columns.deps & bit) != 0))
