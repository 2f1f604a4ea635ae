"""The emulated board's time, which does not pass while the simulator computes.

So a run takes the time that the hardware would take, however slow the machine is that plays it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

ACCESS_SECONDS = 1e-6
"""What reading or writing a register takes in virtual time, about as through Python on a board."""


class EmulatedClock:
    """Real time by default; with `virtual`, time passes by sleeping and register accesses alone."""

    def __init__(self, virtual: bool = False) -> None:
        self._virtual = virtual
        self._now = 0.0
        self._hidden = 0.0

    def now(self) -> float:
        """Seconds since some moment."""
        return self._now if self._virtual else time.perf_counter() - self._hidden

    def sleep(self, seconds: float) -> None:
        """Let at least that much time pass."""
        if self._virtual:
            self._now += seconds
        else:
            time.sleep(seconds)

    def access(self) -> None:
        """A register is accessed."""
        if self._virtual:
            self._now += ACCESS_SECONDS

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """No time passes inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._hidden += time.perf_counter() - began
