"""The server without HTTP: its parts, and the operations that requests ask for.

Everything here is called from the one thread of the event loop. What touches the device goes
through the queue; what may take long and does not touch it, through a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ... import __version__
from ...errors import VtaflowError
from ..client import VERSION_DIGITS
from .accelerator import Accelerator
from .admission import admit
from .limits import Limits
from .metrics import Counters
from .models import LoadedModel, ModelHost, Reply
from .problems import BUSY, NOT_FOUND, TIMED_OUT, UNREADY, Problem
from .store import ModelStore, Stored, Upload
from .work import WorkQueue

MAX_UPLOADS = 2

T = TypeVar("T")
Json = dict[str, Any]

log = logging.getLogger("vtaflow.server")


class Server:
    """A device, its models and their store. `start` it before use, `stop` it afterwards."""

    def __init__(self, accelerator: Accelerator, folder: Path, limits: Limits) -> None:
        self.limits, self.accelerator = limits, accelerator
        self.store = ModelStore(folder, limits.store, limits.models)
        self.host = ModelHost(accelerator, limits)
        self.queue = WorkQueue(limits.queue)
        self.counters = Counters()
        self.held_bytes = 0
        self.ready = False
        self._uploads = 0
        self._reasons: dict[str, str] = {}
        self._began = time.monotonic()
        self._admission = ThreadPoolExecutor(1, "admission")

    async def start(self) -> None:
        """Load what was loaded before; a model that fails stays in the store, with the reason."""
        for stored in self.store.models():
            if stored.loaded:
                await self._restore(stored)
        self.ready = True

    async def stop(self) -> None:
        """Take no more work, finish what there is within the limit, let go of the device."""
        self.ready = False
        deadline = time.monotonic() + self.limits.grace_seconds
        while self.queue.length and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.queue.close)
        await loop.run_in_executor(None, self.host.close)
        self._admission.shutdown(cancel_futures=True)
        self.store.close()

    def require_ready(self) -> None:
        """Raise Problem while starting or stopping."""
        if not self.ready:
            raise Problem(UNREADY, "the server is starting or stopping")

    async def job(self, work: Callable[[float], T], force: bool = False) -> T:
        """Run `work` on the device's thread, in turn; raises Problem if that takes too long."""
        queued = self.queue.submit(work, force)
        future = asyncio.wrap_future(queued)
        if force:
            return await future
        late = Problem(
            TIMED_OUT, f"no result within {self.limits.seconds:g} s of waiting and running"
        )
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self.limits.seconds, _give_up, queued, future, late)
        try:
            return await future
        finally:
            alarm.cancel()

    async def infer(
        self, name: str, version: str | None, body: bytes, length: int | None
    ) -> Reply:
        """Answer an inference request; raises a VtaflowError."""
        self.require_ready()
        self.host.model(name, version)  # refused before it takes a place in the queue
        return await self.job(
            lambda waited: self.host.infer(name, version, body, length, waited)
        )

    async def intermediate(
        self, name: str, version: str | None, region: str, run: int
    ) -> Reply:
        """A kept intermediate of run number `run`."""
        self.require_ready()
        return await self.job(lambda _: self.host.intermediate(name, version, region, run))

    def begin_upload(self, sha256: str, size: int) -> Upload:
        """Room for an artifact; raises Problem. Whoever gets it calls `end_upload`."""
        self.require_ready()
        if self._uploads >= MAX_UPLOADS:
            raise Problem(BUSY, f"{self._uploads} artifacts are arriving already")
        upload = self.store.upload(sha256, size, self.limits.upload)
        self._uploads += 1
        return upload

    async def accept(self, name: str, upload: Upload) -> Stored:
        """Check an artifact that has arrived and keep it as model `name`."""
        upload.finish()
        loop = asyncio.get_running_loop()
        target = self.accelerator.target
        await loop.run_in_executor(
            self._admission, lambda: admit(upload.path, target, self.limits, name)
        )
        self.store.keep(name, upload)
        self._reasons.pop(name, None)
        return self.store.get(name)

    def end_upload(self, upload: Upload) -> None:
        """Forget an upload, whatever became of it."""
        self._uploads -= 1
        upload.discard()

    async def load(self, name: str, sha256: str | None) -> None:
        """Put a model on the device: what is stored under its name, or the artifact given."""
        self.require_ready()
        if sha256 is not None:
            self.store.point(name, sha256)
        stored = self.store.get(name)
        path = self.store.path(stored.sha256)
        try:
            await self.job(lambda _: self.host.load(name, stored.sha256, path))
        except VtaflowError as error:
            self._reasons[name] = str(error)
            if sha256 is not None and not self.store.intact(sha256):
                raise Problem(
                    NOT_FOUND, f"the artifact {sha256} is damaged: upload it again"
                ) from None
            raise
        self._reasons.pop(name, None)
        self.store.mark(name, True)

    async def unload(self, name: str) -> None:
        """Take a model off the device."""
        self.require_ready()
        self.store.get(name)
        await self.job(lambda _: self.host.unload(name))
        self.store.mark(name, False)

    async def remove(self, name: str) -> None:
        """Take a model off the device and out of the store."""
        await self.unload(name)
        self.store.remove(name)

    def model(self, name: str, version: str | None) -> LoadedModel:
        """A loaded model; raises Problem."""
        return self.host.model(name, version)

    def model_ready(self, name: str, version: str | None) -> bool:
        """Whether a model of the store is on the device; raises Problem if there is none."""
        stored = self.store.get(name)
        if version is not None and version != stored.sha256[:VERSION_DIGITS]:
            raise Problem(NOT_FOUND, f"there is no version {version} of {name!r}")
        loaded = self.host.loaded.get(name)
        return self.ready and loaded is not None and loaded.sha256 == stored.sha256

    def index(self) -> list[Json]:
        """The repository as the protocol lists it."""
        return [
            {
                "name": stored.name,
                "version": stored.sha256[:VERSION_DIGITS],
                "state": "READY" if stored.name in self.host.loaded else "UNAVAILABLE",
                "reason": self._reasons.get(stored.name, ""),
            }
            for stored in self.store.models()
        ]

    def status(self) -> Json:
        """Everything that the status page shows."""
        bitstream = self.accelerator.bitstream
        return {
            "version": __version__,
            "uptime_seconds": time.monotonic() - self._began,
            "ready": self.ready,
            "target": self.accelerator.target.to_json(),
            "device": {
                "name": self.accelerator.name,
                "state": self.accelerator.state,
                "usable": self.accelerator.usable,
                "bitstream": str(bitstream.path) if bitstream else None,
                "bitstream_sha256": bitstream.sha256 if bitstream else None,
                "failures": self.host.failures,
                "recoveries": self.host.recoveries,
            },
            "queue": {"length": self.queue.length, "capacity": self.limits.queue},
            "limits": {
                "body_bytes": self.limits.body,
                "json_bytes": self.limits.json,
                "upload_bytes": self.limits.upload,
            },
            "models": [self._model_status(stored) for stored in self.store.models()],
        }

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Numbers for the metrics."""
        return {
            "up_seconds": ("Seconds since the start.", time.monotonic() - self._began),
            "ready": ("Whether requests are taken.", float(self.ready)),
            "device_usable": ("Whether the device can run.", float(self.accelerator.usable)),
            "device_failures_total": ("Runs that failed.", self.host.failures),
            "device_recoveries_total": ("Restarts of the device.", self.host.recoveries),
            "queue_length": ("Requests that wait or run.", self.queue.length),
            "held_bytes": ("Request bodies held.", self.held_bytes),
            "models_loaded": ("Models on the device.", len(self.host.loaded)),
            "models_stored": ("Models in the store.", len(self.store.models())),
        }

    async def _restore(self, stored: Stored) -> None:
        path = self.store.path(stored.sha256)
        try:
            await self.job(
                lambda _: self.host.load(stored.name, stored.sha256, path), force=True
            )
        except VtaflowError as error:
            self._reasons[stored.name] = str(error)
            log.error("model %s cannot be loaded: %s", stored.name, error)

    def _model_status(self, stored: Stored) -> Json:
        loaded = self.host.loaded.get(stored.name)
        return {
            "name": stored.name,
            "version": stored.sha256[:VERSION_DIGITS],
            "sha256": stored.sha256,
            "loaded": loaded is not None,
            "reason": self._reasons.get(stored.name, ""),
            "runs": loaded.runs if loaded else 0,
            "samples": loaded.samples if loaded else 0,
            "last_run": last_run(loaded) if loaded else None,
        }


def _give_up(queued: Future[T], waited: asyncio.Future[T], problem: Problem) -> None:
    """Whoever waits is told; what has not begun will not run."""
    queued.cancel()
    if not waited.done():
        waited.set_exception(problem)


def last_run(model: LoadedModel) -> Json | None:
    """Timing and counters of a model's last run, None if there was none."""
    if model.last is None or model.timing is None:
        return None
    return {
        "run": model.runs,
        "samples": model.last.samples,
        "batches": model.last.batches,
        "launches": model.last.launches,
        **{f"{stage}_seconds": seconds for stage, seconds in asdict(model.timing).items()},
        "counters": dict(model.last.counters),
    }
