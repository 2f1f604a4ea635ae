"""Bias by GEMM: a bias as the product of a constant input vector and a weight tile.

The vector is 127 in every lane but the last, which is 1; a weight row spreads bias/127 over the
lanes and puts the rest into the last. One GEMM micro-op a vector then does what takes the ALU
two cycles.
"""

from __future__ import annotations

import numpy as np

from ..ops.layout import ceil_div
from ..ops.types import Array

FACTOR = 127
NAME = "bias_vector"


def fits_gemm(bias: Array, block: int) -> bool:
    """Whether every bias of int32[channels] can be written that way."""
    return block > 1 and int(np.abs(bias.astype(np.int64)).max()) <= FACTOR * FACTOR * (block - 1)


def vector(batch: int, block: int) -> Array:
    """The constant input element, int8[BATCH, BLOCK_IN]."""
    lanes = np.full((batch, block), FACTOR, np.int8)
    lanes[:, -1] = 1
    return lanes


def tiles(bias: Array, block: int) -> Array:
    """int32[channels] -> weight tiles int8[blocks, BLOCK_OUT, BLOCK_IN]."""
    padded = np.zeros(ceil_div(len(bias), block) * block, np.int64)
    padded[: len(bias)] = bias
    rest = (padded + FACTOR // 2) % FACTOR - FACTOR // 2
    whole = (padded - rest) // FACTOR
    lanes = np.zeros((len(padded), block), np.int8)
    for lane in range(block - 1):
        part = np.clip(whole, -FACTOR, FACTOR)
        lanes[:, lane] = part
        whole = whole - part
    lanes[:, -1] = rest
    return lanes.reshape(-1, block, block)
