"""Speed of the simulator and of the compiler on a perceptron, beside onnxruntime in the same run.

    python benchmarks/perceptron.py [MODEL.onnx] [--json]

Prints images a second at batch 1, 16 and 256, the ratio of the simulator's time to onnxruntime's
float32, and the seconds to compile. Times are the best of several runs: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from stopwatch import best_seconds

import vtaflow
from vtaflow.frontend.reference import cpu_reference

BATCHES = (1, 16, 256)
LEAST = 0.5
"""Seconds that a figure is measured for."""
DEFAULT = Path(__file__).parent.parent / "models" / "fashion_mlp.onnx"


def measure(model: Path) -> list[dict[str, float]]:
    """One row a batch size."""
    compiled = vtaflow.compile(model, target="sim")
    session = vtaflow.InferenceSession(compiled.artifact)
    reference = cpu_reference(model)
    tensor = session.get_inputs()[0]
    rows = []
    for batch in BATCHES:
        random = np.random.default_rng(batch)
        feeds = {tensor.name: random.random((batch, *tensor.sample), np.float32)}
        simulator = best_seconds(lambda feeds=feeds: session.run(None, feeds), LEAST)
        floats = best_seconds(lambda feeds=feeds: reference.run(feeds), LEAST)
        rows.append(
            {
                "batch": batch,
                "simulator_images_per_second": batch / simulator,
                f"{reference.name}_images_per_second": batch / floats,
                "ratio": simulator / floats,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds = best_seconds(lambda: vtaflow.compile(arguments.model, target="sim"), LEAST)
    rows = measure(arguments.model)
    if arguments.json:
        print(json.dumps({"compile_seconds": seconds, "rows": rows}))
        return
    print(f"{arguments.model.name}: compiled in {seconds:.2f} s")
    for row in rows:
        print("  ".join(f"{key} {value:,.1f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
