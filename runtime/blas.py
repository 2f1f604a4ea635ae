"""The number of threads that NumPy's BLAS uses.

The products of the simulator and of the quantiser are many and small. OpenBLAS would share each
among all cores, and its helper threads spin while they wait for one another: on a busy machine
that makes every product wait for the scheduler, at a hundred times its cost. The simulator shares
whole images among threads of its own instead.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

_MAPS = "/proc/self/maps"
_NAMES = tuple(
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
)
"""Getter and setter in the builds that NumPy's wheels and Linux distributions ship."""

Control = tuple[Callable[[], int], Callable[[int], object]]


_lock = threading.Lock()
_before: list[list[int]] = []
"""Thread counts, one entry for each `one_thread` in progress; the first one found the user's."""


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS uses one thread meanwhile; nothing happens where it is not a known OpenBLAS.

    May be entered by several threads at once: the last one to leave restores the number.
    """
    controls = _controls()
    with _lock:
        _before.append([get() for get, _ in controls])
        for _, put in controls:
            put(1)
    try:
        yield
    finally:
        with _lock:
            counts = _before[0]
            _before.pop()
            if not _before:
                for (_, put), count in zip(controls, counts, strict=True):
                    put(count)


@lru_cache(maxsize=1)
def _controls() -> tuple[Control, ...]:
    """Getter and setter of every OpenBLAS that this process has loaded."""
    return tuple(control for path in _loaded() for control in _control(path))


def _loaded() -> list[str]:
    """Paths of the loaded OpenBLAS libraries; none where the system does not tell."""
    try:
        with open(_MAPS, encoding="utf-8", errors="surrogateescape") as lines:
            paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in lines if "/" in line}
    except OSError:
        return []
    return sorted(path for path in paths if "openblas" in os.path.basename(path))


def _control(path: str) -> Iterator[Control]:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return
    for getter, setter in _NAMES:
        if hasattr(library, getter) and hasattr(library, setter):
            yield getattr(library, getter), getattr(library, setter)
            return
