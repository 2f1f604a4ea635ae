"""Sections that several reports have: the layers on VTA, and the counters of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .schema import Json, finite
from .tables import decibels, table

if TYPE_CHECKING:
    from ..runtime.comparison import TensorComparison

WORST = 5
"""Layers that are named for their noise."""


def layer_row(row: Mapping[str, Any], quality: TensorComparison | None = None) -> Json:
    """A layer of a manifest for a report, with its SQNR where it was compared."""
    keys = ("name", "op", "macs", "tiles", "bytes", "estimated_cycles")
    return {
        **{key: row[key] for key in keys},
        "sqnr_db": finite(quality.sqnr_db) if quality else None,
    }


def layer_lines(layers: Sequence[Json], batch: int, worst: Sequence[str] = ()) -> list[str]:
    """The table of `layer_row`s, then the first names of `worst`, the one with least SQNR first."""
    rows = [
        (
            layer["name"],
            layer["op"],
            layer["macs"],
            layer["bytes"],
            layer["estimated_cycles"],
            decibels(layer["sqnr_db"]),
            layer["tiles"],
        )
        for layer in layers
    ]
    titles = ("layer", "operator", "MACs", "bytes", "est. cycles", "SQNR dB", "tiles")
    lines = [f"Layers on VTA (one compiled batch of {batch})", *table(titles, rows)]
    if len(worst) > 1:
        values = {layer["name"]: layer["sqnr_db"] for layer in layers}
        named = ", ".join(f"{name} {decibels(values[name])} dB" for name in worst[:WORST])
        lines.append(f"  least SQNR: {named}")
    return lines


def counter_lines(counters: Mapping[str, int]) -> list[str]:
    """The counters, one a line."""
    return ["Counters (one compiled batch)", *table(("counter", "value"), list(counters.items()))]
