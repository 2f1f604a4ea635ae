"""What `deploy inspect` says of an artifact; its object is the manifest itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sections import layer_lines, layer_row
from .tables import table


def inspect_text(manifest: Mapping[str, Any]) -> list[str]:
    """The contents of an artifact."""
    layers = [layer_row(row) for row in manifest["layers"]]
    return [
        *_summary(manifest),
        "",
        *_borders(manifest),
        "",
        "Steps",
        *table(("step", "what", "reads", "makes"), _step_rows(manifest)),
        "",
        *layer_lines(layers, manifest["batch"]),
        "",
        *_memory_map(manifest),
    ]


def _summary(manifest: Mapping[str, Any]) -> list[str]:
    return [
        f"Model {manifest['model']['name']}, made by {manifest['producer']} for target "
        f"{manifest['target']['TARGET']}, profile {manifest['profile']}",
        f"Fingerprint: {' '.join(f'{k}={v}' for k, v in manifest['fingerprint'].items())}",
        f"Compiled batch {manifest['batch']}, launches {len(manifest['launches'])}, arena "
        f"{manifest['arena']['bytes']} bytes",
    ]


def _borders(manifest: Mapping[str, Any]) -> list[str]:
    """Inputs and outputs, and what is done to the inputs first."""
    rows = [
        (side[:-1], one["name"], one["dtype"], one["shape"],
         one["quantisation"]["scale"] if one["quantisation"] else "-")
        for side in ("inputs", "outputs")
        for one in manifest[side]
    ]
    notes = (manifest["preprocessing"] or {}).items()
    return [
        "Inputs and outputs",
        *table(("side", "name", "dtype", "shape", "scale"), rows),
        *(f"Preprocessing of {name}: {note}" for name, note in notes),
    ]


def _memory_map(manifest: Mapping[str, Any]) -> list[str]:
    rows = [
        (one["name"], one["kind"], one["memory"], f"{one['start']:#x}", one["bytes"])
        for one in manifest["arena"]["regions"]
    ]
    return ["Memory map", *table(("region", "kind", "memory", "start", "bytes"), rows)]


def _step_rows(manifest: Mapping[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for index, step in enumerate(manifest["steps"]):
        what = f"host {step.get('op')}"
        if step["kind"] == "launch":
            launch = manifest["launches"][step["index"]]
            what = f"launch {step['index']}: {launch['instructions']} instructions"
        rows.append((index, what, ", ".join(step["inputs"]), ", ".join(step["outputs"])))
    return rows
