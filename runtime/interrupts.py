"""Signals that wait: Ctrl-C and SIGTERM do not leave a run of the hardware behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEFERRED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive inside take effect at the end, whatever the end is.

    Only the main thread receives signals, so elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in DEFERRED}
    mine = {number: handler for number, handler in before.items() if handler is not None}
    for number in mine:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
