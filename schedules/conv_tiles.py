"""Tiles of a convolution: what a schedule names, and what its tiles take of the scratchpads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..backend.commands import Memory
from ..backend.target import Target
from ..ops.layout import ceil_div
from .conv_shape import ConvShape
from .emitter import usable


@dataclass(frozen=True)
class ConvSchedule:
    """Tile sizes in channel blocks, rows and columns; the loop order; how the bias is added.

    `bias` is "gemm" (a product with a constant vector), "add" (by the ALU) or "none".
    """

    tile_o: int
    tile_i: int
    tile_h: int
    tile_w: int
    order: str
    bias: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Needs:
    """Elements that the largest tile takes in every scratchpad, and how many tiles there are.

    `acc` are a tile's sums, `made` its results: fewer if there is a pool. `carries` says that a
    tile uses sums of the one before it. `vectors` are those of the whole layer, which stay in ACC;
    `tile_o` is the tile's size in channel blocks, `tiles_o` and `tiles_i` count tiles of the
    channels and of the reduction, of which `tiles_s` are the shortcut's, `tile_s` blocks of its
    channels each.
    """

    wgt: int
    inp: int
    residual: int
    acc: int
    made: int
    carries: bool
    vectors: int
    wgt_tiles: int
    inp_tiles: int
    out_tiles: int
    tile_o: int
    tiles_o: int
    tiles_i: int
    diagonal: bool
    tile_s: int
    tiles_s: int


def needs(shape: ConvShape, schedule: ConvSchedule) -> Needs:
    """What the tiles of a schedule take."""
    part = shape.largest_part
    tile_o = min(schedule.tile_o, part.outputs.count)
    depth = 1 if part.diagonal else min(schedule.tile_i, part.inputs.count)
    height, width = schedule.tile_h, schedule.tile_w
    tiles_o = sum(ceil_div(one.outputs.count, schedule.tile_o) for one in shape.parts)
    carries = shape.rows.overlaps and (schedule.order == "weights" or tiles_o == 1)
    read = shape.rows.most_read(height, carries) * shape.columns.most_read(width)
    summed = shape.rows.most_summed(height, carries) * shape.columns.most_summed(width)
    made = tile_o * height * width
    wgt = tile_o * (depth * shape.taps + (schedule.bias == "gemm"))
    inp = (tile_o if part.diagonal else depth) * read
    tile_s = tiles_s = 0
    if shape.shortcut is not None:
        each = shape.shortcut.read(height, width)
        tile_s = max(1, min(shape.shortcut.inputs, inp // each, wgt // tile_o))
        tiles_s = ceil_div(shape.shortcut.inputs, tile_s)
        inp = max(inp, tile_s * each)
    tiles_i = 1 if part.diagonal else ceil_div(part.inputs.count, schedule.tile_i)
    tiles_i += tiles_s
    tiles_p = shape.batches * ceil_div(shape.rows.outputs, height)
    tiles_p *= ceil_div(shape.columns.outputs, width)
    return Needs(
        wgt=wgt,
        inp=inp,
        residual=made if shape.residuals else 0,
        acc=tile_o * summed,
        made=made,
        carries=carries,
        vectors=shape.outputs * (shape.shift_vectors + (schedule.bias == "add")),
        wgt_tiles=tiles_o * tiles_i,
        inp_tiles=tiles_p * (tiles_o if part.diagonal else tiles_i),
        out_tiles=tiles_o * tiles_p,
        tile_o=tile_o,
        tiles_o=tiles_o,
        tiles_i=tiles_i,
        diagonal=part.diagonal,
        tile_s=tile_s,
        tiles_s=tiles_s,
    )


@dataclass(frozen=True)
class Room:
    """Elements of the scratchpads that a layer may use."""

    wgt: int
    inp: int
    acc: int

    @classmethod
    def of(cls, target: Target) -> Room:
        return cls(*(usable(target, one) for one in (Memory.WGT, Memory.INP, Memory.ACC)))


def overflow(shape: ConvShape, schedule: ConvSchedule, room: Room) -> str | None:
    """The memory that a schedule overflows, or None."""
    need = needs(shape, schedule)
    inp = room.inp - min(2, need.out_tiles) * need.residual
    for memory, size, count, elements in (
        (Memory.WGT, need.wgt, need.wgt_tiles, room.wgt),
        (Memory.INP, need.inp, need.inp_tiles, inp),
        (Memory.ACC, need.acc, need.out_tiles, room.acc - need.vectors),
    ):
        share = elements // (1 if count == 1 else 2)
        if size > share:
            return f"{memory.name} has {share} elements for a tile, it needs {size}"
    return None
