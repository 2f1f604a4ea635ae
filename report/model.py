"""The report of a compiled model: placement, layers, and its comparison where there was one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .schema import SCHEMA_VERSION, Json, finite
from .sections import counter_lines, layer_lines, layer_row
from .tables import decibels, number, percent, table

if TYPE_CHECKING:
    from ..runtime.comparison import Comparison, TensorComparison


def model_report(
    manifest: Mapping[str, Any],
    target: str,
    comparison: Comparison | None = None,
    compile_seconds: float | None = None,
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Json:
    """What is known of a compiled model, and of its run where there was one."""
    quality = {layer.name: layer for layer in comparison.layers} if comparison else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": manifest["model"]["name"],
        "target": target,
        "batch": manifest["batch"],
        "placement": [
            {key: row[key] for key in ("node", "op", "device", "reason")}
            for row in manifest["placement"]
        ],
        "layers": [layer_row(row, quality.get(row["name"])) for row in manifest["layers"]],
        "worst_layers": _worst_first(quality),
        "outputs": {one.name: _output(one) for one in comparison.outputs} if comparison else {},
        "accuracy": _accuracy(comparison),
        "counters": dict(comparison.counters) if comparison else {},
        "arena_bytes": manifest["arena"]["bytes"],
        "estimated_cycles": sum(one["estimated_cycles"] for one in manifest["launches"]),
        "compile_seconds": compile_seconds,
        "run_seconds": comparison.run_seconds if comparison else None,
        "cpu_seconds": comparison.cpu_seconds if comparison else None,
        "launches": len(manifest["launches"]),
        "samples": comparison.samples if comparison else 0,
        "reference": comparison.reference if comparison else None,
        "reference_arithmetic": comparison.arithmetic if comparison else None,
        "mismatch": comparison.mismatch if comparison else None,
        "compared_samples": comparison.compared_samples if comparison else 0,
        "compared_bytes": comparison.compared_bytes if comparison else 0,
        "warnings": list(warnings),
        "notes": list(notes),
    }


def _worst_first(quality: Mapping[str, TensorComparison]) -> list[str]:
    """Names of the layers whose output was compared with float, by SQNR."""
    return sorted(quality, key=lambda name: quality[name].sqnr_db)


def _output(one: TensorComparison) -> Json:
    return {
        "max_abs_error": finite(one.max_abs_error),
        "cosine": finite(one.cosine),
        "sqnr_db": finite(one.sqnr_db),
        "top1_agreement": one.top1_agreement,
    }


def _accuracy(comparison: Comparison | None) -> Json | None:
    if comparison is None or comparison.accuracy is None:
        return None
    return {"cpu": comparison.accuracy.cpu, "target": comparison.accuracy.target}


def model_text(report: Json) -> list[str]:
    """The lines of `model_report`."""
    lines = [
        f"Model {report['model']} for target {report['target']}, "
        f"compiled batch {report['batch']}, launches {report['launches']}",
        "",
        "Placement",
        *table(
            ("node", "operator", "device", "reason"),
            [(row["node"], row["op"], row["device"], row["reason"]) for row in report["placement"]],
        ),
        "",
        *layer_lines(report["layers"], report["batch"], report["worst_layers"]),
    ]
    if report["outputs"]:
        lines += ["", *_output_lines(report)]
    if report["accuracy"]:
        lines += ["", *_accuracy_lines(report)]
    if report["counters"]:
        lines += ["", *counter_lines(report["counters"])]
    lines += ["", *_size_lines(report)]
    return lines


def _output_lines(report: Json) -> list[str]:
    rows = [
        (
            name,
            number(one["max_abs_error"]),
            number(one["cosine"], ".6f"),
            decibels(one["sqnr_db"]),
            percent(one["top1_agreement"]),
        )
        for name, one in report["outputs"].items()
    ]
    titles = ("output", "max abs error", "cosine", "SQNR dB", "top-1 agreement")
    own = report["reference_arithmetic"] != "float32"
    what = "the model's own integers" if own else "float32"
    heading = f"Outputs against {what} on the CPU ({report['reference']}), "
    return [f"{heading}{report['samples']} samples", *table(titles, rows)]


def _accuracy_lines(report: Json) -> list[str]:
    found = report["accuracy"]
    rows = [
        ("CPU, float32", percent(found["cpu"])),
        (f"VTA, {report['target']}", percent(found["target"])),
        ("difference in points", f"{100 * (found['target'] - found['cpu']):+.2f}"),
    ]
    return ["Accuracy", *table(("where", "top-1"), rows)]


def _size_lines(report: Json) -> list[str]:
    lines = [
        f"Arena: {report['arena_bytes']} bytes ({report['arena_bytes'] / 2**20:.2f} MiB of DRAM)",
        f"Estimated: {report['estimated_cycles']} cycles for one compiled batch",
    ]
    if report["compile_seconds"] is not None:
        lines.append(f"Compile time: {report['compile_seconds']:.2f} s")
    if report["run_seconds"] is not None:
        lines.append(
            f"Run time: {report['run_seconds']:.3f} s for {report['samples']} samples "
            f"(CPU {report['cpu_seconds']:.3f} s)"
        )
    if report["compared_bytes"]:
        lines.append(
            f"What leaves VTA: {report['compared_bytes']} bytes of {report['compared_samples']} "
            "samples, all equal to the simulator's"
        )
    return lines + list(report["notes"])


def broken_limits(report: Json, min_sqnr: float | None, max_drop: float | None) -> list[str]:
    """Why the comparison of a `model_report` failed; empty if it did not."""
    problems = [report["mismatch"]] if report["mismatch"] else []
    for name, one in report["outputs"].items():
        if min_sqnr is not None and one["sqnr_db"] is not None and one["sqnr_db"] < min_sqnr:
            problems.append(f"output {name!r}: SQNR {one['sqnr_db']:.1f} dB, limit {min_sqnr:g}")
    if max_drop is not None:
        if not report["accuracy"]:
            problems.append("no accuracy was measured: a limit on its drop needs labels")
        else:
            drop = 100 * (report["accuracy"]["cpu"] - report["accuracy"]["target"])
            if drop > max_drop:
                problems.append(f"accuracy dropped by {drop:.2f} points, limit {max_drop:g}")
    return problems
