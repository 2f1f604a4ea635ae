"""Steps of a GEMM: INP rows gathered as float32, dense products, their addition to ACC.

Arithmetic is exact: float32 products of int8 are summed over at most `EXACT_TERMS` terms, or over
as many as constant weights allow, before they are added to int32 accumulators modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from .lift import GemmBlock, Indices
from .machine import Action, Machine, Plain, Step

EXACT_FLOAT = 1 << 24
"""float32 holds every integer up to this."""

EXACT_TERMS = EXACT_FLOAT // (128 * 128)
"""Products of int8 by int8 whose sum float32 certainly holds."""


@dataclass(frozen=True, eq=False)
class Gather:
    """Scratch `rows` <- the INP rows of a block as float32 [B, images*P*batch, R*block_in]."""

    block: GemmBlock
    base: int

    def reserve(self, machine: Machine) -> None:
        """The packed int8 rows and the float rows."""
        size = self.block.src.size * machine.images * machine.target.element_bytes(Memory.INP)
        machine.reserve("packed", size)
        machine.reserve("rows", size * 4)

    def bind(self, machine: Machine) -> Action:
        """One take (or none, if the elements lie in a row) and one conversion."""
        inp, block = machine.sram[Memory.INP], self.block
        (b, p, r), batch, lanes = block.src.shape, machine.target.batch, machine.target.block_in
        images = machine.images
        rows = machine.scratch("rows", (b, images, p, batch, r * lanes), np.float32)
        if batch == 1 and block.source_run:
            low = int(block.src[0, 0, 0]) + self.base
            packed = inp[:, low : low + block.src.size].reshape(images, b, p, 1, r * lanes)
            return partial(np.copyto, rows, packed.transpose(1, 0, 2, 3, 4))
        packed = machine.scratch("packed", (images, b, p, batch, r, lanes), np.int8)
        lines = inp.reshape(images, -1, lanes)
        index = machine.source_rows(block, self.base)
        ordered = packed.reshape(images, b, p, batch, r * lanes).transpose(1, 0, 2, 3, 4)

        def run() -> None:
            np.take(lines, index, axis=1, out=packed, mode="clip")
            np.copyto(rows, ordered)

        return run


@dataclass(frozen=True, eq=False)
class Multiply:
    """ACC[dst] += (or, with `assign`, =) the gathered rows of a block times its weights.

    `weights` is float32[B, R*block_in, C*block_out], or None: then the tiles are read from SRAM,
    their indices moved by `wgt_base`. `cuts` are the ends of the reduction's parts, in terms,
    each short enough for float32.
    """

    block: GemmBlock
    base: int
    weights: NDArray[np.float32] | None
    wgt_base: int
    cuts: tuple[int, ...]
    assign: bool

    def reserve(self, machine: Machine) -> None:
        """The float products, their integers and, if not constant, the float weights."""
        size = self.block.dst.size * machine.images * machine.target.element_bytes(Memory.ACC)
        machine.reserve("sums", size)
        machine.reserve("integers", size)
        if self.weights is None:
            tiles = machine.sram[Memory.WGT].shape[0] * self.block.wgt.size
            machine.reserve("weights", 4 * tiles * machine.target.element_bytes(Memory.WGT))

    def bind(self, machine: Machine) -> Action:
        """For each part a product, a conversion and an addition."""
        (b, p, r), c = self.block.src.shape, self.block.dst.shape[2]
        target, images = machine.target, machine.images
        weights = self.weights
        actions: list[Action] = []
        if weights is None:
            weights = self._bind_weights(machine, actions)
        own = weights.ndim == 4  # each image has its own weights
        outer = (b, images, p * target.batch) if own else (b, images * p * target.batch)
        rows = machine.scratch("rows", (*outer, r * target.block_in), np.float32)
        sums = machine.scratch("sums", (*outer, c * target.block_out), np.float32)
        add = self._bind_sums(machine)
        low = 0
        for number, high in enumerate(self.cuts):
            part = (rows[..., low:high], weights[..., low:high, :])
            actions.append(partial(np.matmul, *part, out=sums))
            actions.append(add[0] if number == 0 and self.assign else add[1])
            low = high
        return _in_turn(actions)

    def _bind_weights(self, machine: Machine, actions: list[Action]) -> NDArray[np.float32]:
        """Float weights in scratch memory, filled from SRAM by a first action."""
        wgt, target = machine.sram[Memory.WGT], machine.target
        tiles, (b, r, c) = self.block.wgt + self.wgt_base, self.block.wgt.shape
        bo, bi, images = target.block_out, target.block_in, len(wgt)
        floats = machine.scratch("weights", (b, images, r, bi, c, bo), np.float32)
        ordered = floats.transpose(1, 0, 2, 4, 5, 3)

        def fill() -> None:
            np.copyto(ordered, wgt[:, tiles].reshape(images, b, r, c, bo, bi))

        actions.append(fill)
        matrix = floats.reshape(b, images, r * bi, c * bo)
        return matrix if images > 1 else matrix[:, 0]

    def _bind_sums(self, machine: Machine) -> tuple[Action, Action]:
        """Two actions on ACC: assign the float products, add the float products."""
        (b, p, c), target = self.block.dst.shape, machine.target
        images, lanes = machine.images, (target.batch, target.block_out)
        sums = machine.scratch("sums", (b, images, p, lanes[0], c, lanes[1]), np.float32)
        grid = self.block.grid
        if grid is None:
            ordered = sums.transpose(1, 0, 2, 4, 3, 5)
            return _scattered_sums(machine, self.block.dst + self.base, ordered)
        nb, np_, nc = grid.counts
        eb, ep = grid.extents[:nb], grid.extents[nb : nb + np_]
        nested = sums.reshape(*eb, images, *ep, lanes[0], *grid.extents[nb + np_ :], lanes[1])
        # The axes of dst in the order of their strides: then both sides are scanned in order.
        place = [*range(nb), *range(nb + 1, nb + 1 + np_)]
        place += range(nb + np_ + 2, nb + np_ + 2 + nc)
        by_step = sorted(range(len(grid.steps)), key=lambda axis: -abs(grid.steps[axis]))
        axes = (nb, *(place[axis] for axis in by_step), nb + np_ + 1, nested.ndim - 1)
        ordered = nested.transpose(axes)
        extents = tuple(grid.extents[axis] for axis in by_step)
        steps = tuple(grid.steps[axis] for axis in by_step)
        view = machine.strided(Memory.ACC, grid.start + self.base, extents, steps)
        view = view.reshape(*view.shape[:-1], *lanes)
        integers = machine.scratch("integers", ordered.shape, np.int32)

        def add() -> None:
            np.copyto(integers, ordered, casting="unsafe")
            np.add(view, integers, out=view)

        return partial(np.copyto, view, ordered, casting="unsafe"), add


def _scattered_sums(
    machine: Machine, dst: Indices, ordered: NDArray[np.float32]
) -> tuple[Action, Action]:
    """As `Multiply._bind_sums`, for any dst int64[B,P,C] and products [images,B,P,C,lanes]."""
    acc, flat = machine.sram[Memory.ACC], dst.reshape(-1)
    integers = machine.scratch("integers", ordered.shape, np.int32)
    shaped = integers.reshape(acc.shape[0], len(flat), acc.shape[2])

    def assign() -> None:
        np.copyto(integers, ordered, casting="unsafe")
        acc[:, flat] = shaped

    def add() -> None:
        np.copyto(integers, ordered, casting="unsafe")
        acc[:, flat] += shaped

    return assign, add


def _in_turn(actions: list[Action]) -> Action:
    def run() -> None:
        for action in actions:
            action()

    return run


@dataclass(frozen=True, eq=False)
class ResetRubbish(Plain):
    """OUT[dst] <- low 8 bits of ACC[dst]*keep + INP[src] . WGT[wgt], for distinct dst [n].

    `fills` first bring into WGT the tiles that so far were used as constants only.
    """

    elements: Indices
    keep: NDArray[np.bool_]
    src: Indices
    wgt: Indices
    fills: tuple[Step, ...]

    def part(self, chosen: NDArray[np.bool_]) -> ResetRubbish:
        """The same for some of the elements."""
        picked = (self.elements[chosen], self.keep[chosen], self.src[chosen], self.wgt[chosen])
        return ResetRubbish(*picked, self.fills)

    def bind(self, machine: Machine) -> Action:
        """Integer products in NumPy, without BLAS: this is rare."""
        row = (-1, machine.target.batch, machine.target.block_in)
        tile = (-1, machine.target.block_out, machine.target.block_in)
        acc, out = machine.sram[Memory.ACC], machine.sram[Memory.OUT]
        inp, wgt = machine.sram[Memory.INP], machine.sram[Memory.WGT]
        keep = self.keep[:, None].astype(np.int32)
        fills = [fill.bind(machine) for fill in self.fills]

        def run() -> None:
            for fill in fills:
                fill()
            for image in range(machine.images):
                rows = inp[image, self.src].reshape(row).astype(np.int32)
                tiles = wgt[image % len(wgt), self.wgt].reshape(tile).astype(np.int32)
                sums = (rows @ tiles.transpose(0, 2, 1)).reshape(len(keep), -1)
                old = acc[image, self.elements] * keep
                out[image, self.elements] = (old + sums).astype(np.int8)

        return run
