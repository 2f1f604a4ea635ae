"""The report of `deploy run`: outputs without a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .schema import SCHEMA_VERSION, Json
from .sections import counter_lines
from .tables import percent, table

if TYPE_CHECKING:
    from ..runtime.session import RunStatistics


def run_report(
    manifest: Mapping[str, Any],
    target: str,
    outputs: Mapping[str, Any],
    statistics: RunStatistics,
    accuracy: float | None,
    notes: Sequence[str] = (),
) -> Json:
    """What `deploy run` did: no reference, so nothing to compare with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": manifest["model"]["name"],
        "target": target,
        "batch": manifest["batch"],
        "samples": statistics.samples,
        "outputs": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in outputs.items()
        },
        "accuracy": None if accuracy is None else {"target": accuracy},
        "counters": dict(statistics.counters),
        "arena_bytes": manifest["arena"]["bytes"],
        "run_seconds": statistics.seconds,
        "device_seconds": statistics.device_seconds,
        "launches": statistics.launches,
        "notes": list(notes),
    }


def run_text(report: Json) -> list[str]:
    """The lines of `run_report`."""
    lines = [
        f"Model {report['model']} on target {report['target']}: {report['samples']} samples, "
        f"{report['run_seconds']:.3f} s",
        "",
        *table(
            ("output", "dtype", "shape"),
            [(name, one["dtype"], one["shape"]) for name, one in report["outputs"].items()],
        ),
    ]
    if report["accuracy"]:
        lines += ["", f"Accuracy: {percent(report['accuracy']['target'])}"]
    if report["notes"]:
        lines += ["", *report["notes"]]
    return [*lines, "", *counter_lines(report["counters"])]
