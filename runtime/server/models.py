"""The models on the device: loading, running, and getting back to work after a failure.

Everything here runs as a job of the queue, except for looking at `loaded`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backend.artifact import Artifact
from ...errors import DeviceError, VtaflowError
from ...ops.types import Array
from ..client import VERSION_DIGITS
from ..openinference import decode, encode
from ..session import InferenceSession, RunStatistics
from .accelerator import Accelerator
from .limits import Limits
from .problems import CONFLICT, NOT_FOUND, TIMED_OUT, UNREADY, Problem
from .request import Wanted, require_small

Json = dict[str, Any]

log = logging.getLogger("vtaflow.server")


@dataclass(frozen=True)
class Timing:
    """Where the seconds of one request went; `device` by the device's own clock."""

    queue: float
    packing: float
    device: float
    unpacking: float


NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Reply:
    """The body of an answer, the length of its JSON if more follows, and the timing."""

    body: bytes
    length: int | None
    timing: Timing
    samples: int


@dataclass
class LoadedModel:
    """A model on the device; `last` is its last run and `runs` how many there were."""

    name: str
    sha256: str
    session: InferenceSession
    runs: int = 0
    samples: int = 0
    last: RunStatistics | None = None
    timing: Timing | None = None
    seconds: Timing = NO_TIME

    @property
    def version(self) -> str:
        """The protocol's version: the artifact's first digits."""
        return self.sha256[:VERSION_DIGITS]

    @property
    def artifact(self) -> Artifact:
        """What is loaded."""
        return self.session.artifact


class ModelHost:
    """The models on `accelerator`."""

    def __init__(self, accelerator: Accelerator, limits: Limits) -> None:
        self.accelerator, self._limits = accelerator, limits
        self.loaded: Mapping[str, LoadedModel] = {}
        self.failures = 0
        self.recoveries = 0

    def load(self, name: str, sha256: str, path: Path) -> None:
        """Put an artifact on the device as `name`, in place of what has that name.

        Raises a VtaflowError, and then what was there stays.
        """
        present = self.loaded.get(name)
        if present is not None and present.sha256 == sha256:
            return
        if present is None and len(self.loaded) >= self._limits.loaded:
            raise Problem(CONFLICT, f"{len(self.loaded)} models are loaded already: unload one")
        self._ensure_usable()
        artifact = Artifact.load(path, name)
        device = self.accelerator.device(artifact)
        try:
            session = InferenceSession(artifact, device, self.accelerator.target)
        except BaseException:
            device.close()
            raise
        if present is not None:
            present.session.close()
        self.loaded = {**self.loaded, name: LoadedModel(name, sha256, session)}

    def unload(self, name: str) -> None:
        """Take a model off the device; nothing happens if it is not there."""
        remaining = dict(self.loaded)
        model = remaining.pop(name, None)
        self.loaded = remaining
        if model is not None:
            model.session.close()

    def model(self, name: str, version: str | None) -> LoadedModel:
        """A loaded model; raises Problem."""
        if name not in self.loaded:
            raise Problem(NOT_FOUND, f"the model {name!r} is not loaded")
        model = self.loaded[name]
        if version is not None and version != model.version:
            raise Problem(NOT_FOUND, f"{name!r} is version {model.version}, not {version}")
        return model

    def infer(
        self, name: str, version: str | None, body: bytes, length: int | None, waited: float
    ) -> Reply:
        """Answer an inference request; raises a VtaflowError."""
        began = time.perf_counter()
        model = self.model(name, version)
        head, feeds = decode(body, length, "inputs", self._limits.json)
        wanted = Wanted.of(head)
        require_small(model.session, wanted, feeds, self._limits)
        decoded = time.perf_counter()
        outputs = self._run(model, wanted, feeds, began + self._limits.seconds - waited)
        statistics = model.session.last_run
        assert statistics is not None
        ran = time.perf_counter()
        names = wanted.names or [tensor.name for tensor in model.session.get_outputs()]
        found = dict(zip(names, outputs, strict=True))
        binary = found if wanted.binary_default and wanted.names is None else wanted.binary
        model.runs += 1
        answer = _head(model, wanted)
        if wanted.statistics:
            answer["parameters"] = _statistics(model, statistics, waited, decoded - began)
        reply, size = encode(answer, "outputs", found, list(binary))
        timing = Timing(
            queue=waited,
            packing=decoded - began + statistics.packing_seconds,
            device=statistics.device_seconds,
            unpacking=statistics.unpacking_seconds + time.perf_counter() - ran,
        )
        _note(model, statistics, timing)
        return Reply(reply, size, timing, statistics.samples)

    def intermediate(self, name: str, version: str | None, region: str, run: int) -> Reply:
        """A kept intermediate of the model's last run, if that is number `run`."""
        model = self.model(name, version)
        if run != model.runs:
            raise Problem(CONFLICT, f"the last run was {model.runs}, not {run}: run it again")
        found = {region: model.session.read(region)}
        body, length = encode(_head(model, None), "outputs", found, [region])
        return Reply(body, length, NO_TIME, 0)

    def close(self) -> None:
        """Everything off the device, and the device let go of."""
        for name in list(self.loaded):
            self.unload(name)
        self.accelerator.close()

    def _run(
        self, model: LoadedModel, wanted: Wanted, feeds: Mapping[str, Array], deadline: float
    ) -> list[Array]:
        """Run; if the device failed, it is made usable again before the error is told."""
        self._ensure_usable()
        compute = model.session.run_raw if wanted.raw else model.session.run

        def go_on(samples: int) -> None:
            if time.perf_counter() > deadline:  # nobody waits for it any more
                raise Problem(TIMED_OUT, "too many samples for the time that a request may take")

        try:
            return compute(wanted.names, feeds, go_on)
        except DeviceError:
            self.failures += 1
            if not self.accelerator.usable:
                self._recover()
            raise

    def _ensure_usable(self) -> None:
        """Raise Problem unless the device can run, or can be made to."""
        if not self.accelerator.usable and not self._recover():
            raise Problem(UNREADY, f"the device cannot run: {self.accelerator.state}")

    def _recover(self) -> bool:
        """Make the device usable and load everything again; what cannot be loaded is off it."""
        self.recoveries += 1
        try:
            self.accelerator.recover()
        except VtaflowError as error:
            log.error("the device does not recover: %s", error)
            return False
        for model in list(self.loaded.values()):
            try:
                model.session.reload()
            except VtaflowError as error:
                log.error("model %s is lost: %s", model.name, error)
                self.unload(model.name)
        log.warning("the device failed and was started again")
        return True


def _head(model: LoadedModel, wanted: Wanted | None) -> Json:
    head: Json = {"model_name": model.name, "model_version": model.version}
    if wanted is not None and wanted.id is not None:
        head["id"] = wanted.id
    return head


def _statistics(
    model: LoadedModel, statistics: RunStatistics, waited: float, decoding: float
) -> Json:
    """The run in plain values, as the protocol's parameters are; encoding is yet to come."""
    return {
        "run": model.runs,
        "queue_seconds": waited,
        "packing_seconds": decoding + statistics.packing_seconds,
        "device_seconds": statistics.device_seconds,
        "unpacking_seconds": statistics.unpacking_seconds,
        **{f"counter.{name}": count for name, count in statistics.counters.items()},
    }


def _note(model: LoadedModel, statistics: RunStatistics, timing: Timing) -> None:
    """Remember the run."""
    model.last, model.timing = statistics, timing
    model.samples += statistics.samples
    total = model.seconds
    model.seconds = Timing(
        total.queue + timing.queue,
        total.packing + timing.packing,
        total.device + timing.device,
        total.unpacking + timing.unpacking,
    )
