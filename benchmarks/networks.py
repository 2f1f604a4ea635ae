"""Compiling and simulating whole networks, beside onnxruntime's float32 in the same run.

    python benchmarks/networks.py [--json] [--target TARGET] [NAME ...]

NAME is a builder of `python -m vtaflow.models` (resnet18 by default). Printed are the seconds to
compile with 32 calibration pictures, with an empty cache of schedules and once more; the peak
memory of that process; what the instructions count, and the time estimated for the target; the
seconds an image takes on the simulator at batch 1 and 8, and their ratio to onnxruntime's. Times
are the best of several runs: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from stopwatch import best_seconds

import vtaflow
from vtaflow.backend.commands import Memory
from vtaflow.compiler import CompiledModel, model_inputs
from vtaflow.frontend.reference import cpu_reference
from vtaflow.models import BUILDERS
from vtaflow.models.onnx_writer import write_model

PICTURES = 32
BATCHES = (1, 8)
LEAST = 2.0
"""Seconds that a figure is measured for."""


def pictures(model: Path, count: int) -> dict[str, Any]:
    """Seeded normal pictures by input name."""
    random = np.random.default_rng(count)
    return {
        tensor.name: random.standard_normal((count, *tensor.sample)).astype(np.float32)
        for tensor in model_inputs(model)
    }


def compile_twice(model: Path, target: str, artifact: Path) -> dict[str, Any]:
    """Compile with an empty cache and again; runs in a process of its own."""
    os.environ["VTAFLOW_CACHE"] = str(artifact.parent / "cache")
    data = pictures(model, PICTURES)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        compiled = vtaflow.compile(model, target, data)
        seconds.append(time.perf_counter() - began)
    compiled.save(artifact)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "first_compile_seconds": seconds[0],
        "second_compile_seconds": seconds[1],
        "peak_megabytes": peak / 1024,
        **estimates(compiled),
    }


def estimates(compiled: CompiledModel) -> dict[str, Any]:
    """What the launches cost on the target, and how often weights are loaded."""
    manifest = compiled.artifact.manifest
    target = compiled.artifact.target
    cycles = sum(launch["estimated_cycles"] for launch in manifest["launches"])
    packed = sum(
        buffer.data.nbytes
        for buffer in compiled.lowered.buffers
        if buffer.memory is Memory.WGT and buffer.data is not None
    )
    return {
        "launches": len(manifest["launches"]),
        "estimated_ms": cycles / target.clock_mhz / 1000,
        "packed_weight_bytes": packed,
    }


def simulate(model: Path, artifact: Path) -> dict[str, Any]:
    """Seconds an image, and the counters of one."""
    session = vtaflow.InferenceSession(artifact)
    reference = cpu_reference(model)
    row: dict[str, Any] = {}
    for batch in BATCHES:
        feeds = pictures(model, batch)
        simulator = best_seconds(lambda feeds=feeds: session.run(None, feeds), LEAST) / batch
        floats = best_seconds(lambda feeds=feeds: reference.run(feeds), LEAST) / batch
        row[f"simulator_seconds_at_{batch}"] = simulator
        row[f"{reference.name}_seconds_at_{batch}"] = floats
        row[f"ratio_at_{batch}"] = simulator / floats
    assert session.last_run is not None
    return row | dict(session.last_run.counters)


def measure(name: str, target: str) -> dict[str, Any]:
    """One network."""
    with tempfile.TemporaryDirectory() as folder:
        model, artifact = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}.vta"
        write_model(dict(BUILDERS)[name](), model)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(compile_twice, (model, target, artifact))
        return {"model": name, "target": target, **row, **simulate(model, artifact)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=["resnet18"])
    parser.add_argument("--target", default="pynq")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in dict(BUILDERS)]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(BUILDERS))}")
    rows = [measure(name, arguments.target) for name in arguments.names]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        for key, value in row.items():
            print(f"{key:28s} {value:,.3f}" if isinstance(value, float) else f"{key:28s} {value}")


if __name__ == "__main__":
    main()
