"""The verdict on a comparison: its report, and the limits that it broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..report.model import broken_limits, model_report, model_text
from .options import Options
from .outcome import FAILED, FINE
from .output import emit, say, warn

if TYPE_CHECKING:
    from ..runtime.comparison import Comparison


def judge(
    options: Options,
    comparison: Comparison,
    manifest: Mapping[str, Any],
    notes: Sequence[str],
    compile_seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> int:
    """Print the comparison; FAILED if bytes differ or a limit was given and is not kept."""
    found = model_report(
        manifest,
        manifest["target"]["TARGET"],
        comparison,
        compile_seconds,
        warnings,
        notes,
    )
    emit(options, found, model_text(found))
    if options.json and not options.quiet:
        for note in found["notes"]:
            say(note)
    warn(warnings)
    problems = broken_limits(found, options.min_sqnr, options.max_drop)
    for problem in problems:
        say(f"failed: {problem}")
    return FAILED if problems else FINE
