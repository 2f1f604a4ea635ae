"""Timing what runs briefly, on a machine that may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(run: Callable[[], object], least: float) -> float:
    """The shortest of the runs that fit in `least` seconds, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
