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


def load(path: Path | None = None) -> ScheduleLog:
    """The shipped decisions, then those of `path`, by default the user's.

    Files that are not there are left out, and so are any that cannot be read unless `path` was
    asked for: that raises OSError.
    """
    log = ScheduleLog()
    for one in (SHIPPED, path or cache_path()):
        try:
            with open(one, encoding="utf-8", errors="replace") as file:
                log.read(file.read(MOST_BYTES))
        except FileNotFoundError:
            continue
        except OSError:
            if one == path:
                raise
    return log


def keep(log: ScheduleLog, path: Path | None = None) -> None:
    """Append the fresh decisions to `path`, by default the user's file.

    The user's cache may be impossible to write; a file that was asked for raises OSError.
    """
    if not log.fresh:
        return
    try:
        append(log, path or cache_path())
    except OSError:
        if path is not None:
            raise


def append(log: ScheduleLog, path: Path) -> None:
    """Append the fresh decisions to a file, on lines of their own even if its last was cut short.

    Raises OSError.
    """
    text = "".join(f"{line}\n" for line in lines(log.fresh))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if text and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())
    log.fresh.clear()
