"""What all probes of a board share: how they report, and where they keep their data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .probe_streams import Bench

# Where things lie on the bench, each in pages of its own.
UOPS, INPUT, WEIGHT, BIAS, RESULT, SECOND = (0x1000 * n for n in range(1, 7))

LONGEST_DISTANCE = 6
"""Micro-ops apart at which accumulators are tried at most."""

Result = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""What a probe returns: one line, changes to the target, measured numbers."""

Probe = Callable[[Bench], Result]
"""Raises ProbeFailure if compiled code must not run on the hardware."""


class ProbeFailure(Exception):
    """The hardware does not behave as compiled code needs it to; the message says how."""


def put_ones(bench: Bench) -> None:
    """Inputs with 1 in the first lane of each row, and weights of 1: every product is 1."""
    inp = np.zeros((LONGEST_DISTANCE, bench.target.batch, bench.target.block_in), np.int8)
    inp[:, :, 0] = 1
    bench.put(INPUT, inp, "i1")
    bench.put(WEIGHT, np.ones((bench.target.block_out, bench.target.block_in)), "i1")
