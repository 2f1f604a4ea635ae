"""Happens-before between the three modules: vector clocks carried by tokens, and what is open.

A module runs its instructions in order, each to its end before the next starts, so one number per
module says how much of it is known to be over. A token carries the knowledge of the instruction
that pushed it to the one that pops it; queues are FIFOs. Program order contains this order, so
two conflicting accesses are safe when the second knows of the first, and what is stored where is
then what program order says.
"""

from __future__ import annotations

from collections import deque
from functools import reduce
from operator import or_

from .columns import COMPUTE, LOAD, STORE
from .findings import Report, Stop
from .rows import Rows, overlap, overlap_cost
from .sequence import POPPED_BY, PUSHED_BY, QUEUES

MAX_OPEN = 16384
"""Accesses of one kind that may await synchronisation; a compiler's streams stay far below."""


def _tabulate(users: tuple[tuple[int, int], ...]) -> list[list[tuple[int, ...]]]:
    """For each module and value of its dependence bits, the queues that it uses."""
    return [
        [
            tuple(q for q in range(len(QUEUES)) if users[q][0] == module and users[q][1] & deps)
            for deps in range(16)
        ]
        for module in (LOAD, COMPUTE, STORE)
    ]


_POPS = _tabulate(POPPED_BY)
_PUSHES = _tabulate(PUSHED_BY)


class Clocks:
    """`now[m][k]`: how many instructions of module k are over when m runs its current one.

    Program order alone does not bound a queue: a module may run far ahead of the one that pops
    its tokens. A pop counts for a push only if the pusher knows of it.
    """

    def __init__(self, capacity: int | None, report: Report) -> None:
        self.now = [[0, 0, 0] for _ in range(3)]
        self._queues: list[deque[list[int]]] = [deque() for _ in QUEUES]
        self._capacity = capacity
        self._report = report
        self._held = [0] * len(QUEUES)
        self._pops: list[deque[int]] = [deque() for _ in QUEUES]

    def begin(self, module: int, deps: int) -> None:
        """Start the module's next instruction with the tokens that it pops."""
        clock = self.now[module]
        clock[module] += 1
        for queue in _POPS[module][deps]:
            for other, known in enumerate(self._queues[queue].popleft()):
                if known > clock[other]:
                    clock[other] = known
            if self._capacity is not None:
                self._pops[queue].append(clock[module])

    def end(self, module: int, deps: int, index: int) -> None:
        """End that instruction, number `index` of the stream, and push its tokens."""
        for queue in _PUSHES[module][deps]:
            self._queues[queue].append(self.now[module].copy())
            if self._capacity is not None:
                self._count_push(module, queue, self._capacity, index)

    def _count_push(self, module: int, queue: int, capacity: int, index: int) -> None:
        pops, known = self._pops[queue], self.now[module][POPPED_BY[queue][0]]
        self._held[queue] += 1
        while pops and pops[0] <= known:
            pops.popleft()
            self._held[queue] -= 1
        if self._held[queue] > capacity:
            self._report.add(
                index,
                "token-overflow",
                f"queue {QUEUES[queue]} can hold {self._held[queue]} tokens, capacity {capacity}: "
                "no token tells the pusher that they were popped",
            )
            raise Stop

    def all_known(self, module: int) -> bool:
        """Whether the module knows everything that the others have begun."""
        return all(self.now[module][other] == self.now[other][other] for other in range(3))


class OpenMasks:
    """Accesses of SRAM, as bit masks, by module `actor` that `observer` may not know of yet.

    Beyond MAX_OPEN of them neighbours are merged, which may refuse a legal stream but accepts no
    other.
    """

    def __init__(self, clocks: Clocks, actor: int, observer: int, report: Report) -> None:
        self._acting = clocks.now[actor]
        self._observing = clocks.now[observer]
        self._actor = actor
        self._report = report
        self._entries: deque[tuple[int, int, int]] = deque()
        self._union = 0

    def add(self, mask: int, index: int) -> None:
        """The actor's current instruction `index` accesses the elements of `mask`."""
        self._entries.append((self._acting[self._actor], mask, index))
        self._union |= mask
        if len(self._entries) > MAX_OPEN:
            self._forget_known(index)
            self._merge_neighbours()

    def clash(self, mask: int, index: int) -> int | None:
        """The first of them that shares an element with the observer's instruction `index`."""
        if not self._entries:
            return None
        if self._entries[0][0] <= self._observing[self._actor]:
            self._forget_known(index)
        if not self._union & mask:
            return None
        return next(other for _, taken, other in self._entries if taken & mask)

    def _forget_known(self, index: int) -> None:
        entries, known = self._entries, self._observing[self._actor]
        self._report.spend(index, 1 + len(entries) // 8)
        while entries and entries[0][0] <= known:
            entries.popleft()
        self._union = reduce(or_, (entry[1] for entry in entries), 0)

    def _merge_neighbours(self) -> None:
        if len(self._entries) > MAX_OPEN // 2:
            old = list(self._entries)
            pairs = zip(old[::2], old[1::2] + old[-1:], strict=False)
            merged = ((later[0], one[1] | later[1], later[2]) for one, later in pairs)
            self._entries = deque(merged)


class OpenRows:
    """Accesses of DRAM by module `actor` that `observer` may not know of yet."""

    def __init__(self, clocks: Clocks, actor: int, observer: int, report: Report) -> None:
        self._acting = clocks.now[actor]
        self._observing = clocks.now[observer]
        self._actor = actor
        self._report = report
        self._entries: deque[tuple[int, Rows, int]] = deque()

    def add(self, rows: Rows, index: int) -> None:
        """The actor's current instruction `index` accesses `rows`."""
        self._entries.append((self._acting[self._actor], rows, index))
        if len(self._entries) > MAX_OPEN:
            self._forget_known()
            if len(self._entries) > MAX_OPEN:
                self._report.exhausted(index, f"{MAX_OPEN} unsynchronised accesses of DRAM")

    def clash(self, rows: Rows, index: int) -> int | None:
        """The first of them that shares a byte with the observer's instruction `index`."""
        self._forget_known()
        self._report.spend(index, len(self._entries) // 4)
        for _, taken, other in self._entries:
            if taken.low < rows.high and rows.low < taken.high:
                self._report.spend(index, overlap_cost(taken, rows))
                if overlap(taken, rows):
                    return other
        return None

    def _forget_known(self) -> None:
        entries, known = self._entries, self._observing[self._actor]
        while entries and entries[0][0] <= known:
            entries.popleft()
