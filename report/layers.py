"""The report of `deploy compare --layers`: a device beside the simulator, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .schema import SCHEMA_VERSION, Json, finite
from .tables import number, table

if TYPE_CHECKING:
    from ..runtime.layer_comparison import LayerComparison


def layers_report(
    manifest: Mapping[str, Any],
    results: Sequence[LayerComparison],
    samples: int,
    notes: Sequence[str] = (),
) -> Json:
    """A device beside the simulator, tensor by tensor."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": manifest["model"]["name"],
        "target": manifest["target"]["TARGET"],
        "samples": samples,
        "tensors": [_compared(one) for one in results],
        "notes": list(notes),
    }


def _compared(one: LayerComparison) -> Json:
    difference, writer = one.difference, one.writer
    return {
        "name": one.name,
        "elements": one.elements,
        "equal": difference is None,
        "first_difference": difference and {
            "index": list(difference.index),
            "expected": finite(difference.expected),
            "found": finite(difference.actual),
        },
        "instruction": writer and {
            "launch": writer.launch,
            "position": writer.instruction,
            "text": writer.text,
            "nodes": list(writer.nodes),
        },
    }


def layers_text(report: Json) -> list[str]:
    """The lines of `layers_report`: every tensor, then where the first wrong one begins."""
    rows = [
        (one["name"], one["elements"], "equal" if one["equal"] else "DIFFERS")
        for one in report["tensors"]
    ]
    lines = [
        f"Model {report['model']} on target {report['target']} beside the simulator, "
        f"{report['samples']} samples, byte for byte",
        *table(("tensor", "elements", "bytes"), rows),
    ]
    wrong = next((one for one in report["tensors"] if not one["equal"]), None)
    if wrong is not None:
        at, insn = wrong["first_difference"], wrong["instruction"]
        lines += ["", f"First difference: tensor {wrong['name']!r}, element {at['index']}: "
                  f"simulator {number(at['expected'])}, device {number(at['found'])}"]
        if insn is not None:
            lines.append(
                f"Written by instruction {insn['position']} of launch {insn['launch']} "
                f"({', '.join(insn['nodes'])}): {insn['text']}"
            )
    return [*lines, *([""] if report["notes"] else []), *report["notes"]]
