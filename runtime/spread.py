"""Spreading: the parts of a long run on simulators of other processes, in order.

Parts are those that one process would run together, so that every byte comes out the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from ..backend.artifact import Artifact
from ..backend.target import Target
from ..ops.types import Array
from .runner import LocalRunner, Record
from .simdevice import SimDevice


@dataclass(frozen=True)
class Spread:
    """Where parts run. `artifact` is a file's bytes, or what the executor takes for them.

    `ahead` parts are handed out before the first is back: data sets may be larger than memory.
    """

    executor: Executor
    artifact: Any
    ahead: int

    def run(
        self,
        target: Target,
        names: Sequence[str],
        parts: Iterable[Mapping[str, Array]],
        record: Record,
    ) -> Iterator[list[Array]]:
        """The values `names` of every part, in order; adds to `record`."""
        running: deque[Future[tuple[list[Array], Record]]] = deque()
        for part in parts:
            running.append(self.executor.submit(run_part, self.artifact, target, names, part))
            if len(running) >= self.ahead:
                yield _noted(running.popleft(), record)
        while running:
            yield _noted(running.popleft(), record)


def _noted(done: Future[tuple[list[Array], Record]], record: Record) -> list[Array]:
    values, other = done.result()
    record.counters = other.counters
    record.device_seconds += other.device_seconds
    record.packing_seconds += other.packing_seconds
    record.unpacking_seconds += other.unpacking_seconds
    return values


def run_part(
    artifact: bytes, target: Target, names: Sequence[str], part: Mapping[str, Array]
) -> tuple[list[Array], Record]:
    """One part on a simulator of this process."""
    device, record = SimDevice(target), Record()
    try:
        return LocalRunner(Artifact.load(artifact), device).run(names, part, record), record
    finally:
        device.close()
