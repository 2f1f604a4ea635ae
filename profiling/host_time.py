"""Host steps of an artifact: how long each takes on the machine at hand.

A step's time hardly depends on its data, so nothing runs on a device: what launches return is
zeros. A board's processor is slower than a desk-top's; the figure says where it was taken.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..backend.artifact import Artifact
from ..ops.types import Array
from ..runtime.data import random_feeds
from ..runtime.host import HostStep, evaluate, typed_steps
from ..runtime.tensors import TensorInfo

REPEATS = 3


@dataclass(frozen=True)
class StepTime:
    """A host step with the least of the seconds that it took for one compiled batch."""

    name: str
    op: str
    seconds: float


def measure(artifact: Artifact) -> list[StepTime]:
    """Run every host step on one compiled batch of random inputs."""
    plan = typed_steps(artifact)
    inputs = [
        TensorInfo(one["name"], tuple(one["shape"][1:]), one["dtype"])
        for one in artifact.manifest["inputs"]
    ]
    feeds = random_feeds(inputs, artifact.batch, 0)
    values: dict[str, Array] = {name: array[None] for name, array in feeds.items()}
    times = []
    for step in plan.steps:
        if isinstance(step, HostStep):
            seconds, results = _timed(step, values, plan.constants)
            times.append(StepTime(step.name, step.operator.name, seconds))
            values.update(zip(step.outputs, results, strict=True))
        else:
            for name in step.outputs:
                kind = plan.types[name]
                values[name] = np.zeros((1, *kind.storage_shape), kind.dtype)
    return times


def _timed(
    step: HostStep, values: Mapping[str, Array], constants: Mapping[str, Array]
) -> tuple[float, list[Array]]:
    least = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        results = evaluate(step, values, constants)
        least = min(least, time.perf_counter() - began)
    return least, results


def machine_name() -> str:
    """Where the times were taken."""
    return f"this machine ({platform.machine()}, {platform.system()})"
