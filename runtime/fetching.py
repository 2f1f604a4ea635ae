"""The fetch module: when an instruction could leave it, if its queue had room.

Alone at the memory, fetch follows the closed form of docs/timing.md. At a shared port its words
come burst by burst, as the port grants them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backend.isa import INSTRUCTION_BYTES
from ..backend.target import Target
from ..backend.transfers import fetch_gaps
from .port import BURSTS_UNDER_WAY, FetchBurst, SharedPort


class PrivateFetch:
    """Fetch with a memory port of its own."""

    def __init__(self, target: Target, count: int) -> None:
        self._gaps: list[int] = fetch_gaps(target, count).tolist()

    def earliest(self, index: int, left: Sequence[int]) -> int | None:
        """Cycle at which instruction `index` can leave; `left` are those of its predecessors."""
        return (left[index - 1] if index else 0) + self._gaps[index]


class SharedFetch:
    """Fetch at a port that others use as well.

    Without batches, bursts are asked for as long as what has not left yet fits the master's
    buffer; a batch is asked for when the one before has left.
    """

    def __init__(self, target: Target, count: int, port: SharedPort) -> None:
        self._timing = target.timing
        self._port = port
        self._count = count
        self._words = max(1, 8 * INSTRUCTION_BYTES // target.bus_bits)
        batch = target.timing.fetch_batch
        self._size = batch or max(1, target.timing.burst_words // self._words)
        self._window = 0 if batch else BURSTS_UNDER_WAY * target.timing.burst_words
        self._available: list[int] = []
        self._burst: FetchBurst | None = None

    def earliest(self, index: int, left: Sequence[int]) -> int | None:
        """As `PrivateFetch.earliest`; None as long as the port has not granted the words."""
        self._receive()
        if index >= len(self._available):
            self._ask(left)
            return None
        after = left[index - 1] + self._timing.fetch_interval if index else 0
        return max(after, self._available[index])

    def _receive(self) -> None:
        """Take over a burst that was granted."""
        if self._burst is None or not self._burst.finished:
            return
        first = len(self._available)
        size = min(self._size, self._count - first)
        begin = self._burst.granted + self._timing.fetch_fixed
        if not self._window:
            begin += self._burst.words  # a batch is read whole before it is dealt out
        self._available += [begin + step * self._timing.fetch_interval for step in range(size)]
        self._burst = None

    def _ask(self, left: Sequence[int]) -> None:
        """Ask for the next burst, if there is room for it."""
        first = len(self._available)
        size = min(self._size, self._count - first)
        before = first + size - 1 - self._window if self._window else first - 1
        if self._burst is not None or before >= len(left):
            return
        asked = left[before] if before >= 0 else self._timing.fetch_start
        ready = asked + self._timing.read_latency
        self._burst = FetchBurst(ready, size * self._words)
        self._port.submit(self._burst)
