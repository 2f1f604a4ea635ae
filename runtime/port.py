"""The memory port that all readers of a board share: one bus word a cycle, burst by burst.

On a Zynq-7000 the read masters of VTA (fetch, micro-ops, inputs, weights, accumulators) meet at
one port; whose turn it is changes with every burst (docs/timing.md). Writes have a channel of
their own. Who is served depends on when everybody asks, so grants are made in order of time: the
port may decide once every reader that can still ask has asked, or is waiting for the port itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..backend.target import Target

FETCH, UOP, INP, WGT, ACC = range(5)
"""Read masters, in the order in which the Chisel design prefers them."""

BURSTS_UNDER_WAY = 16
"""Bursts that a master has asked for and not yet consumed, at most."""


@dataclass
class Reading:
    """A LOAD that waits for its words: `requests` requests of `words` words, as in `Transfer`.

    `begin` is when it has come to its first request. `done` is the cycle after the last word
    consumed so far, `done_alone` what it will be where nobody else uses the port.
    """

    master: int
    begin: int
    requests: int
    gap: int
    latency: int
    words: int
    span: int

    def __post_init__(self) -> None:
        self.ready = self.done = self.begin + self.gap + self.latency
        self.finished = False
        self._row = self._moved = 0
        self._consumed: deque[int] = deque(maxlen=BURSTS_UNDER_WAY)

    @property
    def done_alone(self) -> int:
        """The closed form."""
        return self.begin + self.requests * (self.gap + self.latency + self.span)

    def burst(self, most: int) -> int:
        """Words of the next burst."""
        return min(most, self.words - self._moved)

    def grant(self, time: int, words: int) -> None:
        """A burst begins to arrive at `time`."""
        before, after = (self.span * n // self.words for n in (self._moved, self._moved + words))
        self.done = max(self.done, time) + after - before
        self._moved += words
        self._consumed.append(self.done)
        if self._moved < self.words:
            if len(self._consumed) == BURSTS_UNDER_WAY:
                self.ready = max(self.ready, self._consumed[0] + self.latency)
            return
        self._row += 1
        self._moved = 0
        self._consumed.clear()
        self.finished = self._row == self.requests
        if not self.finished:
            self.ready = self.done = self.done + self.gap + self.latency


@dataclass
class FetchBurst:
    """One burst of the instruction stream; `granted` is when its first word arrives."""

    ready: int
    words: int
    master: int = FETCH
    granted: int = -1

    @property
    def finished(self) -> bool:
        """Whether its words are on their way."""
        return self.granted >= 0

    def burst(self, most: int) -> int:
        """Its words."""
        return self.words

    def grant(self, time: int, words: int) -> None:
        """The burst begins to arrive at `time`."""
        self.granted = time


class SharedPort:
    """Grants bursts, one word a cycle: in turn, or by fixed preference on the Chisel design."""

    def __init__(self, target: Target) -> None:
        self._burst_words = target.timing.burst_words
        self._in_turn = target.design != "chisel"
        self._free = 0
        self._last = FETCH
        self._waiting: list[Reading | FetchBurst] = []

    def submit(self, reader: Reading | FetchBurst) -> None:
        """`reader` asks for its words."""
        self._waiting.append(reader)

    def serve(self) -> Reading | FetchBurst | None:
        """Grant bursts until a reader has all it asked for; None if nobody asks."""
        while self._waiting:
            time = max(self._free, min(reader.ready for reader in self._waiting))
            asking = [reader for reader in self._waiting if reader.ready <= time]
            chosen = min(asking, key=self._preference)
            words = chosen.burst(self._burst_words)
            chosen.grant(time, words)
            self._free = time + words
            self._last = chosen.master
            if chosen.finished:
                self._waiting.remove(chosen)
                return chosen
        return None

    def _preference(self, reader: Reading | FetchBurst) -> int:
        first = self._last + 1 if self._in_turn else FETCH
        return (reader.master - first) % 5
