"""Reports: one JSON-able object for each command, and its text for people.

The text is made from the object alone, so both always say the same. Tables are plain ASCII with
aligned columns: they read the same on a terminal, in a pipe and in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

from .runtime.comparison import Comparison, TensorComparison

if TYPE_CHECKING:
    from .runtime.layer_comparison import LayerComparison
    from .runtime.probes import Capabilities
    from .runtime.replay import Replay
    from .runtime.session import RunStatistics

SCHEMA_VERSION = 1
_WORST = 5  # layers that are named for their noise

Json = dict[str, Any]


class Tested(Protocol):
    """The result of one program of the self-test."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool | None: ...
    @property
    def counters(self) -> Mapping[str, int]: ...
    @property
    def estimated_cycles(self) -> int: ...
    @property
    def detail(self) -> str: ...


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
        "layers": [_layer(row, quality.get(row["name"])) for row in manifest["layers"]],
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


def _layer(row: Mapping[str, Any], quality: TensorComparison | None) -> Json:
    keys = ("name", "op", "macs", "tiles", "bytes", "estimated_cycles")
    return {
        **{key: row[key] for key in keys},
        "sqnr_db": _finite(quality.sqnr_db) if quality else None,
    }


def _worst_first(quality: Mapping[str, TensorComparison]) -> list[str]:
    """Names of the layers whose output was compared with float, by SQNR."""
    return sorted(quality, key=lambda name: quality[name].sqnr_db)


def _output(one: TensorComparison) -> Json:
    return {
        "max_abs_error": _finite(one.max_abs_error),
        "cosine": _finite(one.cosine),
        "sqnr_db": _finite(one.sqnr_db),
        "top1_agreement": one.top1_agreement,
    }


def _accuracy(comparison: Comparison | None) -> Json | None:
    if comparison is None or comparison.accuracy is None:
        return None
    return {"cpu": comparison.accuracy.cpu, "target": comparison.accuracy.target}


def _finite(value: float) -> float | None:
    """JSON has no infinity: an error of zero has no finite SQNR."""
    return value if isfinite(value) else None


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
        *_layer_lines(report),
    ]
    if report["outputs"]:
        lines += ["", *_output_lines(report)]
    if report["accuracy"]:
        lines += ["", *_accuracy_lines(report)]
    if report["counters"]:
        lines += ["", *counter_lines(report)]
    lines += ["", *_size_lines(report)]
    return lines


def _layer_lines(report: Json) -> list[str]:
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
        for layer in report["layers"]
    ]
    titles = ("layer", "operator", "MACs", "bytes", "est. cycles", "SQNR dB", "tiles")
    lines = [f"Layers on VTA (one compiled batch of {report['batch']})", *table(titles, rows)]
    worst = report["worst_layers"][:_WORST]
    if len(worst) > 1:
        values = {layer["name"]: layer["sqnr_db"] for layer in report["layers"]}
        named = ", ".join(f"{name} {decibels(values[name])} dB" for name in worst)
        lines.append(f"  least SQNR: {named}")
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


def counter_lines(report: Json) -> list[str]:
    """The counters, one a line."""
    rows = list(report["counters"].items())
    return ["Counters (one compiled batch)", *table(("counter", "value"), rows)]


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
    return [*lines, "", *counter_lines(report)]


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
            "expected": _finite(difference.expected),
            "found": _finite(difference.actual),
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


def tuning_report(
    model: str,
    target: str,
    trials: int,
    workers: int,
    layers: Sequence[Mapping[str, Any]],
    seconds: float,
) -> Json:
    """What `deploy tune` found; `layers` has a row for every distinct layer."""
    default, tuned = (
        sum(len(row["layers"]) * row[key] for row in layers)
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
            len(row["layers"]),
            row["default_cycles"],
            row["tuned_cycles"],
            f"{row['ratio']:.3f}",
            " ".join(f"{key}={value}" for key, value in row["schedule"].items()),
        )
        for row in report["layers"]
    ]
    default, tuned = report["default_cycles"], report["tuned_cycles"]
    titles = ("layer", "times", "default cycles", "tuned cycles", "ratio", "schedule")
    return [
        f"Model {report['model']} for target {report['target']}, {report['trials']} trials a layer",
        "",
        *table(titles, rows),
        "",
        f"All layers: {default} cycles by default, {tuned} tuned "
        f"(ratio {tuned / max(default, 1):.3f})",
        f"Searched {report['searched']} of {len(rows)} layers, the others were known: "
        f"{report['seconds']:.1f} s, {report['workers']} at a time",
    ]


def inspect_text(manifest: Mapping[str, Any]) -> list[str]:
    """The contents of an artifact."""
    launches = manifest["launches"]
    lines = [
        f"Model {manifest['model']['name']}, made by {manifest['producer']} for target "
        f"{manifest['target']['TARGET']}, profile {manifest['profile']}",
        f"Fingerprint: {' '.join(f'{k}={v}' for k, v in manifest['fingerprint'].items())}",
        f"Compiled batch {manifest['batch']}, launches {len(launches)}, arena "
        f"{manifest['arena']['bytes']} bytes",
        "",
        "Inputs and outputs",
        *table(
            ("side", "name", "dtype", "shape", "scale"),
            [
                (side[:-1], one["name"], one["dtype"], one["shape"],
                 one["quantisation"]["scale"] if one["quantisation"] else "-")
                for side in ("inputs", "outputs")
                for one in manifest[side]
            ],
        ),
    ]
    for name, note in (manifest["preprocessing"] or {}).items():
        lines.append(f"Preprocessing of {name}: {note}")
    return [
        *lines,
        "",
        "Steps",
        *table(("step", "what", "reads", "makes"), _step_rows(manifest)),
        "",
        *_layer_lines(
            {
                "batch": manifest["batch"],
                "layers": [_layer(row, None) for row in manifest["layers"]],
                "worst_layers": [],
            }
        ),
        "",
        "Memory map",
        *table(
            ("region", "kind", "memory", "start", "bytes"),
            [
                (one["name"], one["kind"], one["memory"], f"{one['start']:#x}", one["bytes"])
                for one in manifest["arena"]["regions"]
            ],
        ),
    ]


def _step_rows(manifest: Mapping[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for index, step in enumerate(manifest["steps"]):
        what = f"host {step.get('op')}"
        if step["kind"] == "launch":
            launch = manifest["launches"][step["index"]]
            what = f"launch {step['index']}: {launch['instructions']} instructions"
        rows.append((index, what, ", ".join(step["inputs"]), ", ".join(step["outputs"])))
    return rows


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


def tests_report(
    target: str,
    results: Sequence[Tested],
    capabilities: Capabilities | None = None,
    notes: Sequence[str] = (),
) -> Json:
    """What `deploy selftest` found; `capabilities` are those of hardware."""
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target,
        "capabilities": capabilities.to_json() if capabilities else None,
        "tests": [
            {
                "name": one.name,
                "passed": one.passed,
                "counters": dict(one.counters),
                "estimated_cycles": one.estimated_cycles,
                "detail": one.detail,
            }
            for one in results
        ],
        "notes": list(notes),
    }


def tests_text(report: Json) -> list[str]:
    """The lines of a self-test's report."""
    words = {True: "ok", False: "FAILED", None: "not run"}
    tests = report["tests"]
    names = list(dict.fromkeys(name for one in tests for name in one["counters"]))
    rows = [
        (one["name"], words[one["passed"]], one["estimated_cycles"],
         *(one["counters"].get(name, "-") for name in names))
        for one in tests
    ]
    passed = sum(one["passed"] is True for one in tests)
    return [
        *(_capability_lines(report["capabilities"]) if report["capabilities"] else []),
        *(table(("test", "result", "est. cycles", *names), rows) if rows else []),
        *([""] if rows else []),
        *(f"{one['name']}: {one['detail']}" for one in tests if one["detail"]),
        f"{passed} of {len(rows)} programs passed on target {report['target']}",
        *report["notes"],
    ]


def _capability_lines(found: Json) -> list[str]:
    """What the probes of a board say."""
    words = {True: "ok", False: "FAILED"}
    probes = [(one["name"], words[one["passed"]], one["text"]) for one in found["probes"]]
    lines = [*table(("probe", "result", "finding"), probes), ""]
    if found["bitstream"]:
        lines += [f"Bitstream {name}: {value}" for name, value in found["bitstream"].items()]
    for name, pair in found["differences"].items():
        lines.append(f"Measured: {name} {pair['measured']} (described: {pair['described']})")
    return [*lines, ""] if lines[-1] else lines


def banner(message: str) -> list[str]:
    """A warning that cannot be overlooked."""
    rule = "*" * min(100, max(40, len(message) + 11))
    return [rule, f"* WARNING: {message}", rule]


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligned columns, two blanks apart; columns of numbers are set to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ["  (none)"]
    columns = list(zip(titles, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return ("  " + "  ".join(padded)).rstrip()

    return [line(titles), *map(line, cells)]


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return str(value)


def _is_number(cell: str) -> bool:
    return cell in ("-", "exact") or cell.lstrip("+-")[:1].isdigit() and "x" not in cell


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def decibels(value: float | None) -> str:
    """One decimal, or a dash where nothing was measured or the error is zero."""
    return number(value, ".1f")


def percent(fraction: float | None) -> str:
    """A fraction of 1 as a percentage."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
