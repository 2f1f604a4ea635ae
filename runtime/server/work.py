"""The queue before the device: jobs run one at a time, in the order in which they came.

Everything that touches the device is a job, so nothing else needs a lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .problems import BUSY, Problem

T = TypeVar("T")


class WorkQueue:
    """A thread that runs jobs; at most `capacity` wait or run at any time."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pool = ThreadPoolExecutor(1, "device")
        self._lock = threading.Lock()
        self._held = 0

    @property
    def length(self) -> int:
        """Jobs that wait or run."""
        return self._held

    def submit(self, job: Callable[[float], T], force: bool = False) -> Future[T]:
        """Queue a job, which is told how many seconds it waited.

        Raises Problem (busy) when the queue is full, unless `force`. Cancelling the future takes
        a job that has not begun out of the queue.
        """
        with self._lock:
            if self._held >= self._capacity and not force:
                raise Problem(BUSY, f"busy: {self._held} requests are waiting, try again later")
            self._held += 1
        came = time.perf_counter()
        future = self._pool.submit(lambda: job(time.perf_counter() - came))
        future.add_done_callback(self._release)
        return future

    def close(self) -> None:
        """Wait for the job that runs; those that wait are cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def _release(self, future: Future[T]) -> None:
        with self._lock:
            self._held -= 1
