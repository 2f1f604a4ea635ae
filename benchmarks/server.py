"""Latency of the inference server over loopback: where the time of one request goes.

    python benchmarks/server.py [MODEL.onnx ...] [--requests N] [--json]

By default the perceptron that ships with vtaflow and, where VTAFLOW_MODELS names the folder, the
residual network resnet8. The server is a process of its own, `deploy serve --target pynq --device
sim`; one client sends single samples as binary tensors, one after the other. Each row gives median
and 99th percentile in milliseconds of the whole request and of its parts:

    wire       the client, loopback, HTTP on both sides, threads: what the rest leaves of the whole
    queue      waiting for the device
    packing    reading the tensors, host steps and transfers up to the launch
    device     the launch (here the simulator, on a board VTA)
    unpacking  host steps after the launch, writing the tensors
    overhead   all but device
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import vtaflow
from vtaflow.backend.artifact import Artifact
from vtaflow.runtime.client import Client
from vtaflow.runtime.openinference import encode

PARTS = ("total", "wire", "queue", "packing", "device", "unpacking", "overhead")
SHIPPED = Path(__file__).parent.parent / "models" / "fashion_mlp.onnx"
RESNET8 = "resnet8_cifar10_mlperftiny.onnx"
WARM_UP = 20


@contextmanager
def server() -> Iterator[str]:
    """A server process on a free port; its URL."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vtaflow", "serve", "--target", "pynq", "--device", "sim"]
        command += ["--port", "0", "--store", folder]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        try:
            match = re.search(r" on (http://\S+)", process.stdout.readline())
            assert match, "the server does not start"
            yield match[1]
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def measure(url: str, artifact: Artifact, requests: int) -> dict[str, list[float]]:
    """Seconds of every part, one entry a request."""
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    shapes = {one["name"]: one["shape"][1:] for one in artifact.manifest["inputs"]}
    random = np.random.default_rng(0)
    with Client(url) as client:
        client.install(artifact, artifact.name)
        head = {"parameters": {"binary_data_output": True}}
        for count in range(WARM_UP + requests):
            feeds = {name: random.random((1, *rest), np.float32) for name, rest in shapes.items()}
            began = time.perf_counter()
            body, length = encode(head, "inputs", feeds, list(feeds))
            client.infer(artifact.name, body, length)
            total = time.perf_counter() - began
            last = client.json("GET", f"/v2/models/{artifact.name}/last_run")
            found = {part: last[f"{part}_seconds"] for part in PARTS[2:6]}
            found |= {"total": total, "wire": total - sum(found.values())}
            found["overhead"] = total - found["device"]
            if count >= WARM_UP:
                for part, seconds in found.items():
                    parts[part].append(seconds)
    return parts


def summary(parts: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and 99th percentile in milliseconds."""
    return {
        part: {
            "median_ms": 1000 * float(np.median(times)),
            "p99_ms": 1000 * float(np.percentile(times, 99)),
        }
        for part, times in parts.items()
    }


def models(named: list[Path]) -> list[Path]:
    """What to measure."""
    folder = os.environ.get("VTAFLOW_MODELS")
    if named or not folder:
        return named or [SHIPPED]
    return [SHIPPED, Path(folder) / RESNET8]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    with server() as url:
        for path in models(arguments.models):
            artifact = vtaflow.compile(path, target="pynq").artifact
            results[path.name] = summary(measure(url, artifact, arguments.requests))
    if arguments.json:
        print(json.dumps(results))
        return
    for name, rows in results.items():
        print(f"{name}, {arguments.requests} requests, milliseconds")
        for part, row in rows.items():
            print(f"  {part:<10}{row['median_ms']:9.2f} median{row['p99_ms']:9.2f} p99")


if __name__ == "__main__":
    main()
