"""A profile's report as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..report.tables import decibels, number, percent, table
from .activity import BUSY
from .rows import PARTS

Json = Mapping[str, Any]

BOUNDS = ("compute", "weight load", "input load", "store")


def profile_text(report: Json) -> list[str]:
    """Summary, layers beside their bounds, where their cycles go, modules, host."""
    return [
        *_summary(report),
        "",
        "Layers, in milliseconds (bounds: what one resource alone would take)",
        *table(
            (
                *("layer", "cycles", "time", "array", *BOUNDS),
                *("with ALU", "x bound", "limit", "SQNR dB"),
            ),
            [*map(_layer, report["layers"]), _total(report)],
        ),
        "",
        "Where the cycles go, in percent of each layer's",
        *table(("layer", *_parts(report)), _split_rows(report)),
        "",
        "Modules, in percent of all cycles",
        *_module_lines(report),
        "",
        *_host_lines(report),
    ]


def _summary(report: Json) -> list[str]:
    port = "one shared memory port" if report["shared_port"] else "a memory port for each reader"
    lines = [
        f"Profile of {report['model']} on target {report['target']} (design {report['design']}, "
        f"{report['clock_mhz']} MHz, latencies {report['read_latency']} and "
        f"{report['write_latency']} cycles, {port})",
        f"Accelerator: {report['cycles']} cycles, {report['ms']:.3f} ms for one compiled batch of "
        f"{report['batch']}, {100 * report['array_use']:.1f} % of the array",
    ]
    if report["host"]["measured_on"]:
        lines.append(
            f"Host: {report['host']['ms']:.3f} ms beside it, on {report['host']['measured_on']}"
        )
    return lines


def _layer(row: Json) -> list[object]:
    per_ms = row["ms"] / row["cycles"] if row["cycles"] else 0.0
    return [
        row["name"],
        row["cycles"],
        f"{row['ms']:.3f}",
        percent(row["array_use"]) if row["macs"] else "-",
        *(f"{row['bounds'][name] * per_ms:.3f}" for name in BOUNDS),
        f"{row['compute_with_alu_cycles'] * per_ms:.3f}",
        number(row["distance"], ".2f"),
        row["limit"],
        "exact" if row["exact"] else decibels(row["sqnr_db"]),
    ]


def _total(report: Json) -> list[object]:
    bound = report["lower_bound_cycles"]
    distance = number(report["cycles"] / bound, ".2f") if bound else "-"
    use = percent(report["array_use"])
    return ["all", report["cycles"], f"{report['ms']:.3f}", use, *"-----", distance, "", "-"]


def _parts(report: Json) -> list[str]:
    """The parts that any layer has."""
    return [name for name in PARTS if any(row["time"][name] for row in report["layers"])]


def _split_rows(report: Json) -> Iterable[list[object]]:
    for row in report["layers"]:
        cycles = row["cycles"] or 1
        yield [row["name"], *(f"{100 * row['time'][p] / cycles:.1f}" for p in _parts(report))]


def _module_lines(report: Json) -> list[str]:
    """What no module spends a cycle on is left out."""
    modules = report["modules"]
    kinds = dict.fromkeys(kind for names in BUSY.values() for kind in names)
    kinds |= dict.fromkeys(kind for split in modules.values() for kind in split)
    shown = [k for k in kinds if k != "busy" and any(one.get(k) for one in modules.values())]
    rows = [
        [name, *(_share(split.get(kind), report["cycles"]) for kind in ("busy", *shown))]
        for name, split in modules.items()
    ]
    return table(("module", "busy", *shown), rows)


def _share(part: float | None, whole: int) -> str:
    return "-" if part is None else f"{100 * part / whole:.1f}"


def _host_lines(report: Json) -> list[str]:
    host = report["host"]
    if not host["measured_on"]:
        return ["Host steps: none, or not measured"]
    rows = [(step["name"], step["op"], f"{step['ms']:.3f}") for step in host["steps"]]
    title = f"Host steps of one compiled batch, on {host['measured_on']}"
    return [title, *table(("step", "operator", "ms"), rows)]
