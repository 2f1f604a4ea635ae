"""The report of `deploy replay`: a row for each recorded launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .schema import SCHEMA_VERSION, Json
from .tables import table

if TYPE_CHECKING:
    from ..runtime.replay import Replay


def replay_report(files: Sequence[str], results: Sequence[Replay]) -> Json:
    """What `deploy replay` found, a row for each file."""
    return {
        "schema_version": SCHEMA_VERSION,
        "launches": [
            {
                "file": file,
                "passed": one.problem is None,
                "problem": one.problem,
                "counters": dict(one.counters),
            }
            for file, one in zip(files, results, strict=True)
        ],
    }


def replay_text(report: Json) -> list[str]:
    """The lines of `replay_report`."""
    rows = [
        (one["file"], "ok" if one["passed"] else f"FAILED: {one['problem']}")
        for one in report["launches"]
    ]
    return table(("file", "result"), rows)
