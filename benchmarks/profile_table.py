"""Layer by layer: simulated time, TVM's board time where there is one, and the lower bound.

    python benchmarks/profile_table.py MODEL.onnx ... [--target pynq] [--json]

Models are compiled with the default options and random calibration data, which change no cycle
worth mentioning. Board times are those of tvm_board_times.json, by the geometry of a convolution.
`bound` is the larger of compute (GEMM micro-ops alone), weight load, input load and store; `floor`
counts the ALU's shifts and clips with compute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import shape_inference

import vtaflow
from vtaflow.profiling.profile import profile
from vtaflow.profiling.subject import Subject

TIMES = Path(__file__).parent / "tvm_board_times.json"
SHORTCUT = "1x1 /2"

Row = dict[str, Any]


def geometries(path: Path) -> dict[str, str]:
    """Convolutions of a model by node name, written as in the table of board times."""
    model = shape_inference.infer_shapes(onnx.load(path))
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Conv" or len(shapes.get(node.input[0], ())) != 4:
            continue
        _, channels, height, width = shapes[node.input[0]]
        outputs, _, rows, columns = shapes[node.input[1]]
        strides = next((a.ints for a in node.attribute if a.name == "strides"), [1, 1])
        step = f" /{strides[0]}" if strides[0] > 1 else ""
        name = node.name or f"Conv_{index}"
        found[name] = f"{height}x{width} {channels}->{outputs} {rows}x{columns}{step}"
    return found


def board_times() -> dict[str, float]:
    """Milliseconds by geometry."""
    table = json.loads(TIMES.read_text(encoding="utf-8"))
    return {row["layer"]: row["ms"] for row in table["layers"]}


def rows_of(path: Path, target: str) -> tuple[list[Row], Row]:
    """The table of a model, and its totals."""
    compiled = vtaflow.compile(path, target)
    report = profile(Subject.of_artifact(compiled.artifact)).report
    shapes, board = geometries(path), board_times()
    rows = []
    for layer in report["layers"]:
        per_cycle = report["ms"] / report["cycles"]
        geometry = shapes.get(layer["layer"], "") if layer["macs"] else ""
        bound = layer["lower_bound_cycles"]
        rows.append(
            {
                "layer": layer["name"],
                "geometry": geometry,
                "ms": layer["ms"],
                "board_ms": board.get(geometry),
                "array_use": layer["array_use"],
                "bound_ms": bound * per_cycle,
                "floor_ms": max(bound, layer["compute_with_alu_cycles"]) * per_cycle,
                "limit": layer["limit"],
            }
        )
    return rows, {"model": report["model"], "ms": report["ms"], "array_use": report["array_use"]}


def line(row: Row) -> str:
    """A row as text."""
    board = row["board_ms"]
    beside = f"{board:9.3f}{row['ms'] / board:7.3f}" if board else f"{'-':>9s}{'-':>7s}"
    distance = f"{row['ms'] / row['bound_ms']:8.2f}" if row["bound_ms"] else f"{'-':>8s}"
    return (
        f"{row['layer']:28s}{row['geometry']:24s}{row['ms']:9.3f}{beside}{row['bound_ms']:9.3f}"
        f"{row['floor_ms']:9.3f}{distance}{100 * row['array_use']:8.1f} %  {row['limit']}"
    )


def totals(rows: list[Row], whole: Row) -> list[str]:
    """Everything, and the layers that have board times."""
    lines = [f"everything: {whole['ms']:.3f} ms, array use {100 * whole['array_use']:.1f} %"]
    timed = [row for row in rows if row["board_ms"]]
    groups = {
        f"{len(timed)} layers with board times": timed,
        "of these 1x1 with stride 2": [r for r in timed if r["geometry"].endswith(SHORTCUT)],
    }
    for name, group in groups.items():
        if group:
            ours, theirs = (sum(row[key] for row in group) for key in ("ms", "board_ms"))
            floor = sum(row["floor_ms"] for row in group)
            lines.append(
                f"{name}: {ours:.3f} ms, TVM {theirs:.3f} ms, ratio {ours / theirs:.3f}, "
                f"floor {floor:.3f} ms"
            )
    if timed:
        worst = max(timed, key=lambda row: row["ms"] / row["board_ms"])
        ratio = worst["ms"] / worst["board_ms"]
        lines.append(f"worst ratio to TVM: {ratio:.3f} ({worst['layer']})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--target", default="pynq")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for path in arguments.models:
        rows, whole = rows_of(path, arguments.target)
        if arguments.json:
            print(json.dumps({**whole, "layers": rows}))
            continue
        print(f"\n{whole['model']} on {arguments.target}")
        print(
            f"{'layer':28s}{'geometry':24s}{'ms':>9s}{'board ms':>9s}{'ratio':>7s}{'bound':>9s}"
            f"{'floor':>9s}{'x bound':>8s}{'array':>10s}  limit"
        )
        for row in rows:
            print(line(row))
        print("\n".join(totals(rows, whole)), flush=True)


if __name__ == "__main__":
    main()
