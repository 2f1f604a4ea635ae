"""Runners: who computes a part of the samples, on a device at hand or on a server.

A `Runner` takes as many samples as it can at once and returns what was asked for. `LocalRunner`
owns the loop over an artifact's steps: host steps with `vtaflow.ops`, launches on the device.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import numpy as np

from ..backend.artifact import Artifact
from ..ops.layout import ceil_div
from ..ops.types import Array, TensorType
from .device import Device, LaunchResult
from .host import HostStep, LaunchStep, evaluate, region_type, typed_steps
from .preprocessing import PLAIN
from .recipe import preprocessing_of
from .tensors import tensors_of

MEMORY_BYTES = 256 << 20
"""What the values of all samples that are run together should not exceed."""


@dataclass
class Record:
    """What one run did so far; `counters` are those of one compiled batch.

    `packing_seconds` are those up to the last launch, launches apart: host steps and transfers;
    `unpacking_seconds` those after it.
    """

    counters: dict[str, int] = field(default_factory=dict)
    device_seconds: float = 0.0
    packing_seconds: float = 0.0
    unpacking_seconds: float = 0.0


class Runner(Protocol):
    """Computes; knows nothing of what a caller may ask for, which the session checks."""

    samples: int
    """How many samples `run` takes at once."""

    def run(self, names: Sequence[str], part: Mapping[str, Array], record: Record) -> list[Array]:
        """The values `names` for the samples in `part`; adds to `record`."""

    def run_raw(
        self, names: Sequence[str], part: Mapping[str, Array], record: Record
    ) -> list[Array]:
        """As `run`, for raw samples, which the model's preprocessing turns into feeds."""

    def read(self, region: str) -> Array:
        """A kept intermediate of the last run, as stored, unpacked."""

    def reload(self) -> None:
        """Put the artifact on the device again."""

    def close(self) -> None:
        """Let go of the device."""


class LocalRunner:
    """Runs an artifact on a device of this process; `memory_bytes` bounds what runs together."""

    def __init__(
        self, artifact: Artifact, device: Device, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self._artifact, self._device = artifact, device
        self._plan = typed_steps(artifact)
        self._outputs = {tensor["name"] for tensor in artifact.manifest["outputs"]}
        self._handed = {
            name for step in self._plan.steps if isinstance(step, LaunchStep)
            for name in step.outputs
        }
        note = artifact.manifest["preprocessing"]
        self._preprocessing = preprocessing_of(note, artifact.source)
        device.load(artifact)
        together = max(1, memory_bytes // max(1, batch_bytes(self._plan.types)))
        self.samples = artifact.batch * min(device.max_batch, together)
        self._last = 0

    def run(self, names: Sequence[str], part: Mapping[str, Array], record: Record) -> list[Array]:
        """All steps on up to `samples` samples, and the values wanted."""
        began = mark = time.perf_counter()
        launching = 0.0
        self._last = samples = len(next(iter(part.values())))
        values = {name: _batches(array, self._artifact.batch) for name, array in part.items()}
        record.counters = {}
        made: set[str] = set()
        for step in self._plan.steps:
            if isinstance(step, HostStep):
                results = evaluate(step, values, self._plan.constants)
                values.update(zip(step.outputs, results, strict=True))
            else:
                started = self._hand_over(step, values, made)
                result = self._device.launch(step.index)
                mark = time.perf_counter()
                launching += mark - started
                self._take_back(step, values, result, record)
                made.update(step.outputs)
        found = [self._result(name, values)[:samples] for name in names]
        record.packing_seconds += mark - began - launching
        record.unpacking_seconds += time.perf_counter() - mark
        return found

    def run_raw(
        self, names: Sequence[str], part: Mapping[str, Array], record: Record
    ) -> list[Array]:
        """As `run`, for raw samples; raises DataError if they do not fit."""
        began = time.perf_counter()
        feeds = {
            tensor.name: self._preprocessing.get(tensor.name, PLAIN).apply(
                part[tensor.name], tensor, f"input {tensor.name!r}"
            )
            for tensor in tensors_of(self._artifact.manifest["inputs"])
        }
        record.packing_seconds += time.perf_counter() - began
        return self.run(names, feeds, record)

    def read(self, region: str) -> Array:
        """A kept intermediate of the last run, as stored, unpacked."""
        kind = region_type(self._artifact, region, self._artifact.source)
        return _logical(self._stored(region, kind), kind)[: self._last]

    def reload(self) -> None:
        """Put the artifact on the device again."""
        self._device.load(self._artifact)

    def close(self) -> None:
        """Let go of the device."""
        self._device.close()

    def _hand_over(
        self, step: LaunchStep, values: Mapping[str, Array], made: set[str]
    ) -> float:
        """Write a launch's inputs, but not again what an earlier launch left in the arena.

        Returns the time afterwards.
        """
        for name in step.inputs:
            if name not in made:
                array = np.ascontiguousarray(values[name])
                self._device.write(name, array.reshape(len(array), -1).view(np.uint8))
        return time.perf_counter()

    def _take_back(
        self, step: LaunchStep, values: dict[str, Array], result: LaunchResult, record: Record
    ) -> None:
        """Read a launch's outputs and note what it did."""
        record.device_seconds += result.seconds
        for counter, count in result.counters.items():
            record.counters[counter] = record.counters.get(counter, 0) + count
        for name in step.outputs:
            values[name] = self._stored(name, self._plan.types[name])

    def _result(self, name: str, values: Mapping[str, Array]) -> Array:
        """A model output, or what VTA made, of the part that was just run, for all samples."""
        if name in self._outputs and name in values:
            return values[name].reshape(-1, *values[name].shape[2:])
        if name in self._outputs:
            batches = -(-self._last // self._artifact.batch)
            return np.concatenate([self._plan.constants[name]] * batches)
        if name in self._handed:
            return _logical(values[name], self._plan.types[name])
        return self.read(name)

    def _stored(self, name: str, kind: TensorType) -> Array:
        """A region as `[K, *storage shape]`."""
        size = prod(kind.storage_shape) * np.dtype(kind.dtype).itemsize
        data = np.ascontiguousarray(self._device.read(name)[:, :size])
        return data.view(kind.dtype).reshape(len(data), *kind.storage_shape)


def batch_bytes(types: Mapping[str, TensorType]) -> int:
    """Bytes of all values of one compiled batch."""
    return sum(prod(kind.storage_shape) * np.dtype(kind.dtype).itemsize for kind in types.values())


def sample_bytes(artifact: Artifact, name: str) -> int:
    """Bytes of one sample of a model output or of what VTA made, rounded up."""
    shapes = {
        tensor["name"]: (tensor["shape"], tensor["dtype"])
        for tensor in artifact.manifest["outputs"]
    }
    if name not in shapes:
        kind = region_type(artifact, name, artifact.source)
        shapes[name] = kind.shape, kind.dtype
    shape, dtype = shapes[name]
    return ceil_div(prod(shape) * np.dtype(dtype).itemsize, int(shape[0]))


def _logical(stored: Array, kind: TensorType) -> Array:
    """`[K, *storage shape]` as an array of all samples."""
    return np.concatenate([kind.layout.unpack(one, kind.shape) for one in stored])


def _batches(array: Array, batch: int) -> Array:
    """Samples as `[K, batch, ...]`; copies of the last one fill the last batch."""
    missing = -len(array) % batch
    if missing:
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return array.reshape(-1, batch, *array.shape[1:])
