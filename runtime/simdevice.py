"""SimDevice: the functional simulator as a device, with the semantics of the target's design.

One arena at a fixed physical address; constants are shared by all batches, everything behind them
exists once for each.
"""

from __future__ import annotations

import time

import numpy as np

from ..backend.artifact import Artifact, StoredRegion
from ..backend.dram import CONSTANTS_START
from ..backend.program import bind
from ..backend.target import Target
from ..errors import DeviceError
from .device import Bytes, LaunchResult
from .functional import Launch
from .memory import ADDRESS_SPACE, Dram, Segment

ARENA_BASE = 0x0100_0000
"""Physical address of the arena: page-aligned, otherwise arbitrary."""

MAX_BATCH = 64
MEMORY_BYTES = 256 << 20
"""What the arenas of all batches together should not exceed."""


class SimDevice:
    """A simulated VTA for `target`; `order` is the module interleaving (`interleave.ORDERS`)."""

    def __init__(self, target: Target, order: str = "program") -> None:
        self.max_batch = 1
        self._target = target
        self._order = order
        self._regions: dict[str, StoredRegion] = {}
        self._launches: list[Launch] = []
        self._constants: Bytes = np.zeros(0, np.uint8)
        self._variable: Bytes = np.zeros((0, 0), np.uint8)
        self._begin = self._bytes = 0
        self._dram = Dram(())

    def load(self, artifact: Artifact) -> None:
        """Plan every launch; raises DeviceError or StreamError if it cannot run."""
        self.close()
        arena_bytes = artifact.manifest["arena"]["bytes"]
        if ARENA_BASE + arena_bytes > ADDRESS_SPACE:
            raise DeviceError(
                f"{artifact.source}: an arena of {arena_bytes} bytes does not fit behind address "
                f"{ARENA_BASE:#x}"
            )
        self._regions = artifact.regions
        self._constants = artifact.constants.copy()
        self._begin = CONSTANTS_START + len(self._constants)
        self._bytes = max(0, arena_bytes - self._begin)
        self.max_batch = max(1, min(MAX_BATCH, MEMORY_BYTES // max(1, self._bytes)))
        layout = self._memory(1)
        self._launches = [
            Launch(
                self._target,
                bind(artifact.instructions(index), self._target, ARENA_BASE),
                layout,
                order=self._order,
            )
            for index in range(artifact.launches)
        ]

    def write(self, region: str, data: Bytes) -> None:
        """Fill the beginning of a region for K batches; a new K gives every batch new memory."""
        place = self._regions[region]
        if data.shape[1] > place.bytes or not 1 <= len(data) <= self.max_batch:
            raise DeviceError(
                f"{len(data)} batches of {data.shape[1]} bytes do not fit the region {region!r}: "
                f"{self.max_batch} batches of {place.bytes} bytes"
            )
        start = place.start - self._begin
        self._memory(len(data))
        self._variable[:, start : start + data.shape[1]] = data

    def launch(self, index: int) -> LaunchResult:
        """Run stream `index` on all batches."""
        began = time.perf_counter()
        launch = self._launches[index]
        launch.run(self._dram)
        return LaunchResult(launch.counters, time.perf_counter() - began)

    def read(self, region: str) -> Bytes:
        """A copy of the whole region, `uint8[K, bytes]`."""
        place = self._regions[region]
        start = place.start - self._begin
        return self._variable[:, start : start + place.bytes].copy()

    def close(self) -> None:
        """Forget the artifact and its memory."""
        self._launches = []
        self._constants = np.zeros(0, np.uint8)
        self._variable = np.zeros((0, 0), np.uint8)
        self._dram = Dram(())

    def _memory(self, batches: int) -> Dram:
        """The memory of `batches` batches, made anew when their number changes."""
        if len(self._variable) != batches:
            self._variable = np.zeros((batches, self._bytes), np.uint8)
            parts = [(CONSTANTS_START, self._constants), (self._begin, self._variable)]
            self._dram = Dram(
                Segment(ARENA_BASE + start, data) for start, data in parts if data.size
            )
        return self._dram
