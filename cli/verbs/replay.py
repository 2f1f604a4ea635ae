"""`deploy replay`: recorded launches once more."""

from __future__ import annotations

import argparse

from ...report.replay import replay_report, replay_text
from ..options import Options
from ..outcome import FAILED, FINE
from ..output import emit, progress_bar


def add_options(parser: argparse.ArgumentParser) -> None:
    """The records."""
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="recorded launches")
    parser.add_argument("--check", action="store_true",
                        help="apply the portable-subset checks as well")


def run(options: Options) -> int:
    """Execute launches and compare memory and counters with the record; FAILED if they differ.

    Raises VtaflowError for a file that is no record.
    """
    from ...runtime.replay import replay

    results = []
    with progress_bar(options, len(options.files), "replaying") as progress:
        for path in options.files:
            results.append(replay(path, check=options.check))
            progress(1)
    found = replay_report(options.files, results)
    emit(options, found, replay_text(found))
    return FINE if all(one["passed"] for one in found["launches"]) else FAILED
