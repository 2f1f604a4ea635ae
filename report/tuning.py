"""The report of `deploy tune`: each layer's schedule before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .schema import SCHEMA_VERSION, Json
from .tables import table


def tuning_report(
    model: str,
    target: str,
    trials: int,
    workers: int,
    layers: Sequence[Mapping[str, Any]],
    seconds: float,
) -> Json:
    """What `deploy tune` found; `layers` has a row for every distinct layer.

    The sums are of the layers that a compilation uses.
    """
    default, tuned = (
        sum(row["used"] * row[key] for row in layers)
        for key in ("default_cycles", "tuned_cycles")
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "target": target,
        "trials": trials,
        "workers": workers,
        "layers": [
            {**row, "ratio": row["tuned_cycles"] / max(row["default_cycles"], 1)} for row in layers
        ],
        "default_cycles": default,
        "tuned_cycles": tuned,
        "searched": sum(row["searched"] for row in layers),
        "seconds": seconds,
    }


def tuning_text(report: Json) -> list[str]:
    """The lines of `tuning_report`."""
    rows = [
        (
            row["layer"],
            row["used"],
            row["default_cycles"],
            row["tuned_cycles"],
            f"{row['ratio']:.3f}",
            " ".join(f"{key}={value}" for key, value in row["schedule"].items()),
        )
        for row in report["layers"]
    ]
    default, tuned = report["default_cycles"], report["tuned_cycles"]
    unused = ["", "0 times: the slower way with a pool, of apart and in the convolution before it"]
    titles = ("layer", "times", "default cycles", "tuned cycles", "ratio", "schedule")
    return [
        f"Model {report['model']} for target {report['target']}, {report['trials']} trials a layer",
        "",
        *table(titles, rows),
        *(unused if any(not row["used"] for row in report["layers"]) else []),
        "",
        f"All layers: {default} cycles by default, {tuned} tuned "
        f"(ratio {tuned / max(default, 1):.3f})",
        f"Searched {report['searched']} of {len(rows)} layers, the others were known: "
        f"{report['seconds']:.1f} s, {report['workers']} at a time",
    ]
