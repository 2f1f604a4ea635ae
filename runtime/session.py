"""InferenceSession: runs an artifact on a device, shaped like onnxruntime's class of that name.

The session owns the loop: it checks the feeds, cuts them into compiled batches, pads the last
one, runs host steps with `vtaflow.ops` and launches on the device, and puts the results together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import TracebackType
from typing import Any

import numpy as np

from ..backend.artifact import Artifact
from ..backend.target import Target
from ..errors import DeviceError, FeedError
from ..ops.types import Array, TensorType
from .device import Device
from .host import HostStep, LaunchStep, evaluate, region_type, typed_steps
from .preprocessing import Preprocessing
from .recipe import preprocessing_of
from .simdevice import SimDevice
from .tensors import TensorInfo

DEVICES: Mapping[str, Callable[[Target], Device]] = {"sim": SimDevice}
"""Devices by name; each is made for the hardware that it is or plays."""


@dataclass(frozen=True)
class RunStatistics:
    """What one `run` did.

    `counters` and `launches` are those of one compiled batch, `batches` how many of these were
    run; `device_seconds` is the part of `seconds` spent in launches.
    """

    counters: Mapping[str, int]
    launches: int
    batches: int
    samples: int
    seconds: float
    device_seconds: float


class InferenceSession:
    """An artifact loaded on a device.

    `artifact` is an `Artifact`, a path or a file's bytes; `device` a name of `DEVICES` or a
    `Device`; `target` the hardware at hand, by default the artifact's own. Raises ArtifactError
    if the artifact is damaged or for other hardware.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str] | bytes,
        device: str | Device = "sim",
        target: Target | str | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
        hardware = Target.load(target) if isinstance(target, str) else target
        self.target = hardware or self.artifact.target
        self.artifact.require_target(self.target)
        self.last_run: RunStatistics | None = None
        self._plan = typed_steps(self.artifact)
        manifest = self.artifact.manifest
        self._inputs = inputs_of(self.artifact)
        self._outputs = tuple(_info(tensor) for tensor in manifest["outputs"])
        self._kept = self._kept_regions() if manifest["arena"]["keep_intermediates"] else {}
        self._last_samples = 0
        self._device = make_device(device, self.target) if isinstance(device, str) else device
        self._device.load(self.artifact)

    def get_inputs(self) -> list[TensorInfo]:
        """The model's inputs, in its order."""
        return list(self._inputs)

    def get_outputs(self) -> list[TensorInfo]:
        """The model's outputs, in its order."""
        return list(self._outputs)

    def get_intermediates(self) -> list[str]:
        """Names of the layer outputs that the artifact keeps: `run` and `read` take them too."""
        return list(self._kept)

    @property
    def preprocessing(self) -> dict[str, Preprocessing]:
        """How raw samples become feeds, by input name, as the model's recipe said."""
        return preprocessing_of(self.artifact.manifest["preprocessing"], self.artifact.source)

    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Mapping[str, Array],
        progress: Callable[[int], object] = lambda samples: None,
    ) -> list[Array]:
        """Compute outputs (all if `output_names` is None) for any number of samples.

        Names of kept intermediates may stand among the outputs; they come as stored, unpacked.
        `progress` is called with the number of samples done each time. Raises FeedError when
        names, shapes, dtypes or values are not what the model takes.
        """
        names = [tensor.name for tensor in self._outputs] if output_names is None else output_names
        self._check_names(names)
        samples = self._check_feeds(feeds)
        began = time.perf_counter()
        record = _Record()
        chunks: list[list[Array]] = []
        for part in self._parts(feeds, samples):
            chunks.append(self._run_part(names, part, record))
            progress(self._last_samples)
        seconds = time.perf_counter() - began
        self.last_run = RunStatistics(
            counters=record.counters,
            launches=self.artifact.launches,
            batches=-(-samples // self.artifact.batch),
            samples=samples,
            seconds=seconds,
            device_seconds=record.device_seconds,
        )
        return [np.concatenate(column) for column in zip(*chunks, strict=True)]

    def read(self, region: str) -> Array:
        """A kept intermediate of the last samples that were run together, as stored, unpacked.

        Raises FeedError if there is no such region or nothing was run. To have it for all
        samples, name it among the outputs of `run`.
        """
        if region not in self._kept:
            raise FeedError(
                f"{self.artifact.source}: no intermediate {region!r} is kept "
                f"(kept: {', '.join(self._kept) or 'none, compile with --keep-intermediates'})"
            )
        if not self._last_samples:
            raise FeedError(f"{self.artifact.source}: nothing was run, so {region!r} is empty")
        return self._read_logical(region)[: self._last_samples]

    def close(self) -> None:
        """Let go of the device."""
        self._device.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _kept_regions(self) -> dict[str, TensorType]:
        """Regions that can be read after a run, with the tensor that each holds."""
        source = self.artifact.source
        return {
            name: region_type(self.artifact, name, source)
            for name, region in self.artifact.regions.items()
            if region.kind != "constant" and region.logical_shape is not None
        }

    def _check_names(self, names: Sequence[str]) -> None:
        if isinstance(names, str) or not names:
            raise FeedError("output_names is a list of names, or None for all outputs")
        known = {tensor.name for tensor in self._outputs} | self._kept.keys()
        for name in names:
            if name not in known:
                raise FeedError(
                    f"the model has no output {name!r}, it has "
                    f"{', '.join(tensor.name for tensor in self._outputs)}"
                )

    def _check_feeds(self, feeds: Mapping[str, Array]) -> int:
        """The number of samples; FeedError that says what was expected."""
        expected = {tensor.name: tensor for tensor in self._inputs}
        takes = ", ".join(f"{name!r} {tensor}" for name, tensor in expected.items())
        if not isinstance(feeds, Mapping):
            raise FeedError(f"feeds is a mapping of input names to arrays; the model takes {takes}")
        for name in feeds:
            if name not in expected:
                raise FeedError(f"the model has no input {name!r}; it takes {takes}")
        for name, tensor in expected.items():
            if name not in feeds:
                raise FeedError(f"the input {name!r} is missing; the model takes {takes}")
            check_feed(tensor, feeds[name])
        counts = {name: len(array) for name, array in feeds.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise FeedError(f"the inputs have different numbers of samples: {listed}")
        return next(iter(counts.values()))

    def _parts(self, feeds: Mapping[str, Array], samples: int) -> Iterator[dict[str, Array]]:
        """The feeds in pieces that the device takes at once."""
        size = self.artifact.batch * self._device.max_batch
        for start in range(0, samples, size):
            yield {name: array[start : start + size] for name, array in feeds.items()}

    def _run_part(
        self, names: Sequence[str], part: Mapping[str, Array], record: _Record
    ) -> list[Array]:
        """All steps on up to `max_batch` compiled batches, and the outputs wanted."""
        self._last_samples = samples = len(next(iter(part.values())))
        values = {name: _batches(array, self.artifact.batch) for name, array in part.items()}
        record.counters = {}
        made: set[str] = set()
        for step in self._plan.steps:
            if isinstance(step, HostStep):
                results = evaluate(step, values, self._plan.constants)
                values.update(zip(step.outputs, results, strict=True))
            else:
                self._launch(step, values, made, record)
                made.update(step.outputs)
        return [self._result(name, values)[:samples] for name in names]

    def _result(self, name: str, values: Mapping[str, Array]) -> Array:
        """A model output or kept intermediate of the part that was just run, for all samples."""
        declared = any(name == tensor.name for tensor in self._outputs)
        if not declared:
            return self._read_logical(name)
        if name in values:
            return values[name].reshape(-1, *values[name].shape[2:])
        batches = -(-self._last_samples // self.artifact.batch)
        return np.concatenate([self._plan.constants[name]] * batches)

    def _launch(
        self, step: LaunchStep, values: dict[str, Array], made: set[str], record: _Record
    ) -> None:
        """One launch; what an earlier launch left in the arena is not written again."""
        for name in step.inputs:
            if name not in made:
                array = np.ascontiguousarray(values[name])
                self._device.write(name, array.reshape(len(array), -1).view(np.uint8))
        result = self._device.launch(step.index)
        record.device_seconds += result.seconds
        for counter, count in result.counters.items():
            record.counters[counter] = record.counters.get(counter, 0) + count
        for name in step.outputs:
            values[name] = self._read_stored(name, self._plan.types[name])

    def _read_stored(self, name: str, kind: TensorType) -> Array:
        """A region as `[K, *storage shape]`."""
        size = prod(kind.storage_shape) * np.dtype(kind.dtype).itemsize
        data = np.ascontiguousarray(self._device.read(name)[:, :size])
        return data.view(kind.dtype).reshape(len(data), *kind.storage_shape)

    def _read_logical(self, name: str) -> Array:
        """A region as an array of all samples."""
        kind = self._kept[name]
        stored = self._read_stored(name, kind)
        return np.concatenate([kind.layout.unpack(one, kind.shape) for one in stored])


@dataclass
class _Record:
    """What the launches of one `run` add up to; `counters` are those of one compiled batch."""

    counters: dict[str, int] = field(default_factory=dict)
    device_seconds: float = 0.0


def make_device(name: str, target: Target) -> Device:
    """The device of that name; raises DeviceError if there is none."""
    if name not in DEVICES:
        raise DeviceError(f"there is no device {name!r}; known: {', '.join(DEVICES)}")
    return DEVICES[name](target)


def inputs_of(artifact: Artifact) -> tuple[TensorInfo, ...]:
    """The model's inputs, in its order."""
    return tuple(_info(tensor) for tensor in artifact.manifest["inputs"])


def check_feed(tensor: TensorInfo, array: Any) -> None:
    """Raise FeedError unless `array` is what the input takes: type, shape and finite values."""
    if not isinstance(array, np.ndarray):
        raise FeedError(
            f"input {tensor.name!r}: expected a NumPy array {tensor}, "
            f"found {type(array).__name__}"
        )
    found = f"{array.dtype}{list(array.shape)}"
    if array.dtype != np.dtype(tensor.dtype):
        raise FeedError(
            f"input {tensor.name!r}: expected {tensor}, found {found}; "
            f"convert it with .astype({tensor.dtype!r})"
        )
    if array.ndim != len(tensor.shape) or array.shape[1:] != tensor.sample or not len(array):
        raise FeedError(f"input {tensor.name!r}: expected {tensor}, found {found}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = tuple(int(axis) for axis in np.argwhere(~np.isfinite(array))[0])
        raise FeedError(
            f"input {tensor.name!r}: expected finite values, found {array[first]} at {first}"
        )


def _info(tensor: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(tensor["name"], tuple(tensor["shape"][1:]), tensor["dtype"])


def _batches(array: Array, batch: int) -> Array:
    """Samples as `[K, batch, ...]`; copies of the last one fill the last batch."""
    missing = -len(array) % batch
    if missing:
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return array.reshape(-1, batch, *array.shape[1:])
