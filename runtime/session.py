"""InferenceSession: runs an artifact on a device, shaped like onnxruntime's class of that name.

The session checks names and feeds, cuts the feeds into parts, lets a runner compute them and puts
the results together. It is the same class whether the device is here or behind a URL.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from ..backend.artifact import Artifact
from ..backend.target import Target
from ..errors import DeviceError, FeedError
from ..ops.types import Array
from .board import board_device, emulator_device
from .client import Client, RemoteRunner, is_url
from .device import Device
from .host import region_type
from .preprocessing import Preprocessing, batched
from .recipe import preprocessing_of
from .runner import LocalRunner, Record, Runner
from .simdevice import SimDevice
from .spread import Spread
from .tensors import TensorInfo, tensors_of

DEVICES: Mapping[str, Callable[[Target], Device]] = {
    "sim": SimDevice,
    "emulator": emulator_device,
    "board": board_device,
}
"""Devices by name; each is made for the hardware that it is or plays."""

Compute = Callable[[Sequence[str], Mapping[str, Array], Record], list[Array]]
"""The values of some names for one part of the samples."""

Several = Callable[
    [Sequence[str], Iterable[Mapping[str, Array]], Record], Iterator[list[Array]]
]
"""The same for part after part."""


@dataclass(frozen=True)
class RunStatistics:
    """What one `run` did.

    `counters` and `launches` are those of one compiled batch, `batches` how many of these were
    run; `device_seconds` is what the launches took by the device's own clock. Of the rest,
    `packing_seconds` passed up to the last launch and `unpacking_seconds` after it.
    """

    counters: Mapping[str, int]
    launches: int
    batches: int
    samples: int
    seconds: float
    device_seconds: float
    packing_seconds: float = 0.0
    unpacking_seconds: float = 0.0


class InferenceSession:
    """An artifact loaded on a device.

    `artifact` is an `Artifact`, a path or a file's bytes; `device` a name of `DEVICES`, a
    `Device`, the URL of a server (`http://board:8000`) or a `Client` of one; `target` the hardware
    at hand, by default the artifact's own. A server keeps the model under the artifact's name.
    Raises ArtifactError if the artifact is damaged or for other hardware, DeviceError if the
    device is not there or does not take it.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str] | bytes,
        device: str | Device | Client = "sim",
        target: Target | str | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
        hardware = Target.load(target) if isinstance(target, str) else target
        self.target = hardware or self.artifact.target
        self.artifact.require_target(self.target)
        self.last_run: RunStatistics | None = None
        manifest = self.artifact.manifest
        self._inputs = tensors_of(manifest["inputs"])
        self._outputs = tensors_of(manifest["outputs"])
        self._kept = self._kept_regions() if manifest["arena"]["keep_intermediates"] else ()
        self._ran = False
        self._runner = make_runner(self.artifact, device, self.target)

    def get_inputs(self) -> list[TensorInfo]:
        """The model's inputs, in its order."""
        return list(self._inputs)

    def get_outputs(self) -> list[TensorInfo]:
        """The model's outputs, in its order."""
        return list(self._outputs)

    def get_intermediates(self) -> list[str]:
        """Names of the layer outputs that the artifact keeps: `run` and `read` take them too."""
        return list(self._kept)

    def get_device_outputs(self) -> list[str]:
        """Names of the tensors that leave VTA, before any host step: `run` takes them too."""
        steps = self.artifact.manifest["steps"]
        launches = [step["outputs"] for step in steps if step["kind"] == "launch"]
        return list(dict.fromkeys(name for names in launches for name in names))

    @property
    def preprocessing(self) -> dict[str, Preprocessing]:
        """How raw samples become feeds, by input name, as the model's recipe said."""
        return preprocessing_of(self.artifact.manifest["preprocessing"], self.artifact.source)

    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Mapping[str, Array],
        progress: Callable[[int], object] = lambda samples: None,
        spread: Spread | None = None,
    ) -> list[Array]:
        """Compute outputs (all if `output_names` is None) for any number of samples.

        Names of kept intermediates and of device outputs may stand among the outputs; they come
        as stored, unpacked. `progress` is called with the number of samples done each time.
        `spread` computes elsewhere what would run on a simulator here.
        Raises FeedError when names, shapes, dtypes or values are not what the model takes.
        """
        names = self._names(output_names)
        for tensor in self._check_inputs(feeds):
            check_feed(tensor, feeds[tensor.name])
        if spread is None:
            return self._run(names, feeds, self._in_turn(self._runner.run), progress)
        return self._run(names, feeds, partial(spread.run, self.target), progress)

    def run_raw(
        self,
        output_names: Sequence[str] | None,
        samples: Mapping[str, Array],
        progress: Callable[[int], object] = lambda samples: None,
    ) -> list[Array]:
        """As `run`, for raw samples, which are preprocessed where the model runs.

        A single sample may come without a batch axis. Raises FeedError or DataError when they
        are not what the recipe takes.
        """
        names = self._names(output_names)
        raw = {}
        for tensor in self._check_inputs(samples):
            array = samples[tensor.name]
            if not isinstance(array, np.ndarray) or not array.size:
                raise FeedError(f"input {tensor.name!r}: expected a NumPy array of raw samples")
            raw[tensor.name] = batched(array, tensor)
        return self._run(names, raw, self._in_turn(self._runner.run_raw), progress)

    def _in_turn(self, compute: Compute) -> Several:
        """Parts one after the other on the device of the session."""

        def several(
            names: Sequence[str], parts: Iterable[Mapping[str, Array]], record: Record
        ) -> Iterator[list[Array]]:
            for part in parts:
                values = compute(names, part, record)
                self._ran = True
                yield values

        return several

    def _run(
        self,
        names: Sequence[str],
        arrays: Mapping[str, Array],
        compute: Several,
        progress: Callable[[int], object],
    ) -> list[Array]:
        """Everything in parts, results put together, statistics noted."""
        samples = _count(arrays)
        began = time.perf_counter()
        record = Record()
        chunks: list[list[Array]] = []
        for values in compute(names, self._parts(arrays, samples), record):
            chunks.append(values)
            progress(len(values[0]))
        seconds = time.perf_counter() - began
        self.last_run = RunStatistics(
            counters=record.counters,
            launches=self.artifact.launches,
            batches=-(-samples // self.artifact.batch),
            samples=samples,
            seconds=seconds,
            device_seconds=record.device_seconds,
            packing_seconds=record.packing_seconds,
            unpacking_seconds=record.unpacking_seconds,
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
        if not self._ran:
            raise FeedError(f"{self.artifact.source}: nothing was run, so {region!r} is empty")
        return self._runner.read(region)

    def reload(self) -> None:
        """Put the artifact on the device again, which has lost it; raises as the constructor."""
        self._runner.reload()
        self._ran = False

    def close(self) -> None:
        """Let go of the device."""
        self._runner.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _kept_regions(self) -> tuple[str, ...]:
        """Regions that can be read after a run; raises ArtifactError if one holds no tensor."""
        regions = self.artifact.regions.items()
        kept = tuple(
            name for name, region in regions
            if region.kind != "constant" and region.logical_shape is not None
        )
        for name in kept:
            region_type(self.artifact, name, self.artifact.source)
        return kept

    def _names(self, output_names: Sequence[str] | None) -> Sequence[str]:
        """The names wanted; FeedError if one is unknown."""
        names = [tensor.name for tensor in self._outputs] if output_names is None else output_names
        if isinstance(names, str) or not names:
            raise FeedError("output_names is a list of names, or None for all outputs")
        known = {tensor.name for tensor in self._outputs}
        known.update(self._kept, self.get_device_outputs())
        for name in names:
            if name not in known:
                raise FeedError(
                    f"the model has no output {name!r}, it has "
                    f"{', '.join(tensor.name for tensor in self._outputs)}"
                )
        return names

    def _check_inputs(self, feeds: Mapping[str, Array]) -> tuple[TensorInfo, ...]:
        """The inputs, once `feeds` has exactly their names; FeedError with what was expected."""
        expected = {tensor.name: tensor for tensor in self._inputs}
        takes = ", ".join(f"{name!r} {tensor}" for name, tensor in expected.items())
        if not isinstance(feeds, Mapping):
            raise FeedError(f"feeds is a mapping of input names to arrays; the model takes {takes}")
        for name in feeds:
            if name not in expected:
                raise FeedError(f"the model has no input {name!r}; it takes {takes}")
        for name in expected:
            if name not in feeds:
                raise FeedError(f"the input {name!r} is missing; the model takes {takes}")
        return self._inputs

    def _parts(self, feeds: Mapping[str, Array], samples: int) -> Iterator[dict[str, Array]]:
        """The feeds in pieces that are run at once."""
        size = self._runner.samples
        for start in range(0, samples, size):
            yield {name: array[start : start + size] for name, array in feeds.items()}


def make_runner(artifact: Artifact, device: str | Device | Client, target: Target) -> Runner:
    """What runs `artifact` there; what is opened for it is closed if that fails."""
    opened: Device | Client
    if isinstance(device, str):
        opened = Client(device) if is_url(device) else make_device(device, target)
    else:
        opened = device
    try:
        if isinstance(opened, Client):
            return RemoteRunner(artifact, opened)
        return LocalRunner(artifact, opened)
    except BaseException:
        if opened is not device:
            opened.close()
        raise


def make_device(name: str, target: Target) -> Device:
    """The device of that name; raises DeviceError if there is none."""
    if name not in DEVICES:
        raise DeviceError(f"there is no device {name!r}; known: {', '.join(DEVICES)}")
    return DEVICES[name](target)


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


def _count(arrays: Mapping[str, Array]) -> int:
    """The number of samples; FeedError if inputs differ in it."""
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise FeedError(f"the inputs have different numbers of samples: {listed}")
    return next(iter(counts.values()))
