"""The concat template: copies what could not be written in place.

Values whose producers write into the result cost nothing. The others are moved by GEMMs with
0/1 weight tiles, which also shift lanes where channel counts are no multiples of the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..backend import timing
from ..backend.commands import Loop, Memory
from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops.types import Array
from .blocks import Block, Extent
from .emitter import Emitter, usable
from .template import Cost, Layer
from .tiling import cuts, tile_sizes


@dataclass(frozen=True)
class ConcatSchedule:
    """Rows that are copied at a time, or 0 where nothing is copied."""

    tile_h: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Piece:
    """Lanes `lane` and on of a result block come from lanes `source_lane` and on of an input."""

    value: str
    source: int
    source_lane: int
    lane: int
    count: int


def pieces(layer: Layer) -> dict[int, list[Piece]]:
    """Result block -> where its lanes come from, for blocks that have to be copied.

    Empty where every input lies in the result already.
    """
    node, block = layer.node, layer.node.attrs["layout"].block
    result = layer.places[node.outputs[0]]
    found: dict[int, list[Piece]] = {}
    channel = 0
    for value in node.inputs:
        count = layer.types[value].shape[1]
        place = layer.places[value]
        here = result.channel + channel // block
        in_place = place.buffer == result.buffer and place.channel == here
        position = 0
        while position < count and not in_place:
            target_block, lane = divmod(channel + position, block)
            source, source_lane = divmod(position, block)
            length = min(block - lane, block - source_lane, count - position)
            found.setdefault(target_block, []).append(
                Piece(value, source, source_lane, lane, length)
            )
            position += length
        channel += count
    return found


class ConcatTemplate:
    """Concatenation along channels."""

    name = "concat"
    float_op = "Concat"
    device_op = "VtaConcat"
    onnx_operators: tuple[str, ...] = ("Concat",)

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """Images of one scale are joined along channels, in place where possible."""
        kind = graph.types[node.outputs[0]]
        if len(kind.shape) != 4 or node.attrs["axis"] % 4 != 1:
            return "only images (N, C, H, W) along axis 1"
        if any(value in graph.constants for value in node.inputs):
            return "an input is a constant"
        return None

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, ConcatSchedule]]:
        """The largest tile that fits."""
        if not pieces(layer):
            return [(Cost(0, 0, 0, 0), ConcatSchedule(0))]
        height = layer.types[layer.node.outputs[0]].shape[2]
        return [
            (_cost(layer, tile, target), ConcatSchedule(tile))
            for tile in tile_sizes(height)
            if _fits(layer, tile, target)
        ][:1]

    def override(self, layer: Layer, target: Target, values: Mapping[str, Any]) -> ConcatSchedule:
        """A schedule with the rows that the user asks for."""
        height = layer.types[layer.node.outputs[0]].shape[2]
        tile = values.get("tile_h")
        if set(values) != {"tile_h"} or type(tile) is not int or not 1 <= tile <= height:
            raise ScheduleError(
                f"layer {layer.node.name!r}: concat has the field tile_h, from 1 to {height}"
            )
        if not _fits(layer, tile, target):
            raise ScheduleError(f"layer {layer.node.name!r}: {tile} rows do not fit INP or ACC")
        return ConcatSchedule(tile if pieces(layer) else 0)

    def emit(self, layer: Layer, schedule: ConcatSchedule, out: Emitter) -> None:
        """Copy the pieces of every result block, row tile by row tile."""
        batches, height, width = _extent(layer)
        y = layer.places[layer.node.outputs[0]]
        for target_block, parts in pieces(layer).items():
            for n in range(batches):
                for h, rows in cuts(height, max(1, schedule.tile_h)):
                    run = (Extent(h, rows), Extent(0, width))
                    block = Block(
                        y.layout, y.shape, n, Extent(y.channel + target_block, 1), *run
                    )
                    acc = out.context(Memory.ACC, block.elements)
                    out.reset(acc, Loop(block.elements, dst=1))
                    for piece in parts:
                        _copy(layer, piece, n, run, acc, out)
                    for one in block.rows():
                        out.store(
                            acc + one.sram, y.buffer, one.dram, one.size, one.rows, one.stride
                        )

    def describe(self, layer: Layer, schedule: ConcatSchedule, target: Target) -> str:
        """The copies as pseudo-code."""
        found = pieces(layer)
        if not found:
            return "nothing: the inputs are written in place"
        return "\n".join(
            [
                f"for block in {len(found)} of the result's channel blocks:",
                f"  for h in tiles({_extent(layer)[1]}, {schedule.tile_h}):",
                "    ACC = 0",
                "    for each input with lanes in block:",
                "      INP <- input[its block, h]",
                "      ACC += GEMM(INP, lanes)",
                "    y[block, h] <- OUT",
            ]
        )


def _extent(layer: Layer) -> tuple[int, int, int]:
    """Batch tiles, rows and columns of the result."""
    kind = layer.types[layer.node.outputs[0]]
    return kind.layout.tiles(kind.shape)["N"], kind.shape[2], kind.shape[3]


def _fits(layer: Layer, tile: int, target: Target) -> bool:
    size = tile * _extent(layer)[2]
    return all(2 * size <= usable(target, memory) for memory in (Memory.INP, Memory.ACC))


def _cost(layer: Layer, tile: int, target: Target) -> Cost:
    batches, height, width = _extent(layer)
    found = pieces(layer)
    copies = sum(map(len, found.values())) * batches * -(-height // tile)
    results = len(found) * batches * -(-height // tile)
    load = copies * timing.load(target, Memory.INP, 1, tile * width)
    compute = (copies + results) * timing.gemm(target, tile * width)
    store = results * timing.store(target, 1, tile * width)
    return Cost(load, compute, store, max(load, compute, store))


def _copy(
    layer: Layer, piece: Piece, n: int, run: tuple[Extent, Extent], acc: int, out: Emitter
) -> None:
    """ACC += the lanes of one input block."""
    x = layer.places[piece.value]
    block = Block(x.layout, x.shape, n, Extent(x.channel + piece.source, 1), *run)
    inp = out.context(Memory.INP, block.elements)
    for one in block.rows():
        out.load(Memory.INP, inp + one.sram, x.buffer, one.dram, one.size, one.rows, one.stride)
    wgt = out.resident(Memory.WGT, *_lanes(piece, x.layout.block))
    out.gemm(acc, inp, wgt, Loop(block.elements, dst=1, src=1))


def _lanes(piece: Piece, block: int) -> tuple[str, Array]:
    """Name and weight tile int8[BLOCK_OUT, BLOCK_IN] that move the piece's lanes."""
    tile = np.zeros((block, block), np.int8)
    for step in range(piece.count):
        tile[piece.lane + step, piece.source_lane + step] = 1
    return f"lanes_{piece.source_lane}_{piece.lane}_{piece.count}", tile

