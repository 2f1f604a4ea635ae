"""The epilogue on VTA: the steps of `ops/epilogue.py` as ALU instructions.

Accumulators of a tile are `rows` rows of `columns` channel blocks; per-channel vectors lie in
ACC after them, one block of `columns` elements each, in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import timing
from ..backend.commands import AluOp, Loop
from ..backend.target import Target
from ..ops.types import Array
from .blocks import Block
from .emitter import Emitter
from .nests import arrange
from .template import Layer

Step = tuple[Any, ...]

VECTOR_OPS = {"add": AluOp.ADD, "shr_vector": AluOp.SHR}
IMMEDIATE_OPS = {"shr": AluOp.SHR, "max": AluOp.MAX, "min": AluOp.MIN}


class ConstantVectors:
    """A layer's per-channel vectors as ACC elements, int32[blocks, BATCH, BLOCK_OUT].

    `bias` is the vector of a first "add" step, `others` those of the later steps.
    """

    def __init__(self, layer: Layer, target: Target, blocks: int) -> None:
        self.others: list[Array] = []
        for position, (kind, *arguments) in enumerate(layer.node.attrs["epilogue"]):
            if kind not in VECTOR_OPS:
                continue
            vector = layer.constants[layer.node.inputs[arguments[0]]]
            if position == 0 and kind == "add":
                self.bias = _as_elements(vector, target, blocks)
            else:
                self.others.append(_as_elements(vector, target, blocks))


def _as_elements(vector: Array, target: Target, blocks: int) -> Array:
    """int32[channels] -> int32[blocks, BATCH, BLOCK_OUT], zero padded, the same in every row."""
    padded = np.zeros(blocks * target.block_out, np.int32)
    padded[: len(vector)] = vector
    tiled = padded.reshape(blocks, 1, target.block_out)
    return np.repeat(tiled, target.batch, axis=1)


def _steps(steps: Sequence[Step], bias: str) -> list[Step]:
    """The steps that take instructions: a bias that initialises the accumulators takes none."""
    return list(steps[1:] if bias in ("init", "gemm") else steps)


@dataclass(frozen=True)
class BlockAccumulators:
    """Accumulators of an image tile: `block` tells their order, `acc` where they start.

    The tile's first vector lies at `vectors`, the next ones `vector_stride` further each.
    """

    acc: int
    block: Block
    vectors: int
    vector_stride: int

    def per_channel(self) -> tuple[Loop, ...]:
        """Loops over the tile with the channel block as source."""
        steps, block = self.block.steps(), self.block
        loops = (
            Loop(block.c.count, dst=steps["C"], src=1),
            Loop(block.h.count, dst=steps["H"]),
            Loop(block.w.count, dst=steps["W"]),
        )
        nest = arrange((), loops, 1)
        assert nest is not None
        return nest


def emit(
    out: Emitter,
    steps: Sequence[Step],
    bias: str,
    acc: int,
    vectors: int,
    rows: int,
    columns: int,
) -> None:
    """Write the steps for one tile whose accumulators start at `acc`, its vectors at `vectors`."""
    for kind, *arguments in _steps(steps, bias):
        if kind in VECTOR_OPS:
            loops = (Loop(rows, dst=columns), Loop(columns, dst=1, src=1))
            out.alu(VECTOR_OPS[kind], acc, vectors, *loops)
            vectors += columns
        else:
            out.alu_imm(IMMEDIATE_OPS[kind], acc, arguments[0], Loop(rows * columns, dst=1))


def emit_block(
    out: Emitter,
    steps: Sequence[Step],
    bias: str,
    tile: BlockAccumulators,
    add_residual: Callable[[int, int], None],
) -> None:
    """Write the steps for one tile of an image layer.

    A first bias is left out unless `bias` is "add". `add_residual(position, power)` adds input
    `position` times 2^power.
    """
    vectors = tile.vectors
    for kind, *arguments in steps[bias == "gemm" :]:
        if kind == "residual":
            add_residual(*arguments)
        elif kind in VECTOR_OPS:
            out.alu(VECTOR_OPS[kind], tile.acc, vectors, *tile.per_channel())
            vectors += tile.vector_stride
        else:
            loop = Loop(tile.block.elements, dst=1)
            out.alu_imm(IMMEDIATE_OPS[kind], tile.acc, arguments[0], loop)


def cycles(
    target: Target, steps: Sequence[Step], rows: int, columns: int, bias: str
) -> int:
    """Busy cycles of `emit` for one tile."""
    count = rows * columns
    return sum(
        int(timing.gemm(target, count))
        if step[0] == "residual"
        else int(timing.alu(target, count, immediate=step[0] in IMMEDIATE_OPS))
        for step in _steps(steps, bias)
    )


def describe(steps: Sequence[Step], bias: str) -> list[str]:
    """The steps as pseudo-code."""
    words = {
        "add": "ACC += bias[o]",
        "shr": "ACC >>= {0}",
        "shr_vector": "ACC >>= shift[o]",
        "residual": "ACC += GEMM(residual, identity * 2^{1})",
        "max": "ACC = max(ACC, {0})",
        "min": "ACC = min(ACC, {0})",
    }
    return [words[kind].format(*arguments) for kind, *arguments in _steps(steps, bias)]
