"""What every device offers to the session: a simulator here, a board elsewhere.

A device holds one artifact at a time and runs its launches on K compiled batches at once. K is
what was last written; arrays are bytes, `uint8[K, n]`, in storage order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..backend.artifact import Artifact

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class LaunchResult:
    """One finished launch: VTA's counters for one compiled batch, and the time for all K."""

    counters: Mapping[str, int]
    seconds: float


class Device(Protocol):
    """Where streams run. Failures raise DeviceError, a stream that breaks a rule StreamError."""

    max_batch: int
    """The largest K, at least 1; known once an artifact is loaded."""

    def load(self, artifact: Artifact) -> None:
        """Make `artifact` the one that runs: constants in place, streams bound."""

    def write(self, region: str, data: Bytes) -> None:
        """Fill the beginning of a region, for K batches; every write before a launch has one K."""

    def launch(self, index: int) -> LaunchResult:
        """Run stream `index` to its end."""

    def read(self, region: str) -> Bytes:
        """The whole region, `uint8[K, bytes]`."""

    def close(self) -> None:
        """Let go of memory and hardware; closing twice is harmless."""
