"""The files of schedule decisions: one ships with the package, one grows in the user's cache.

The cache is `$VTAFLOW_CACHE/schedules.log`, by default in `~/.cache/vtaflow`. Lines are only ever
appended, so that processes may share it; a line that was cut short is passed over when read.
"""

from __future__ import annotations

import os
from pathlib import Path

from .search import ScheduleLog, lines

SHIPPED = Path(__file__).parent / "shipped.log"
MOST_BYTES = 64 << 20


def cache_path() -> Path:
    """Where the user's decisions are kept."""
    folder = os.environ.get("VTAFLOW_CACHE")
    return Path(folder or Path.home() / ".cache" / "vtaflow") / "schedules.log"


def load(shipped: Path = SHIPPED, cache: Path | None = None) -> ScheduleLog:
    """The shipped decisions, then the user's, which win. Files that cannot be read are left out."""
    log = ScheduleLog()
    for path in (shipped, cache or cache_path()):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                log.read(file.read(MOST_BYTES))
        except OSError:
            continue
    return log


def keep(log: ScheduleLog, cache: Path | None = None) -> None:
    """Append the fresh decisions to the user's file; a cache that cannot be written is no error."""
    if not log.fresh:
        return
    path = cache or cache_path()
    text = "\n".join(lines(log.fresh)) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return
    log.fresh.clear()
