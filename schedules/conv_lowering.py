"""Lowering of a convolution: tiles, transfers and products as commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..backend.commands import AluOp, Loop, Memory
from ..errors import ScheduleError
from ..ops.types import Array
from . import bias as bias_tiles
from . import conv_pool, epilogue
from .blocks import Block, Extent
from .conv_pool import Piece, Sums
from .conv_shape import ConvShape, Part
from .conv_shortcut import ROLE
from .conv_tiles import ConvSchedule, needs
from .emitter import Emitter, Slots, usable
from .nests import arrange
from .places import Place
from .template import Layer
from .tiling import cuts


@dataclass(frozen=True)
class Tile:
    """One output tile: a part's channel blocks (counted within the part), rows and columns."""

    part: Part
    n: int
    o: Extent
    h: Extent
    w: Extent


class ConvLowering:
    """One layer on its way to commands."""

    def __init__(self, layer: Layer, schedule: ConvSchedule, out: Emitter) -> None:
        self.layer, self.schedule, self.out = layer, schedule, out
        self.shape = ConvShape(layer, out.target)
        self.need = needs(self.shape, schedule)
        self.weight_offsets: dict[tuple[int, int], tuple[int, int]] = {}
        self.weights = out.constant("weight", Memory.WGT, self._weights_in_order())
        self.inp_limit = usable(out.target, Memory.INP)
        self.residual_slots = self._residual_slots()
        self.above: Sums | None = None
        self.acc_limit = usable(out.target, Memory.ACC) - self.need.vectors
        self.wgt_slots = out.slots(
            Memory.WGT,
            self.need.wgt,
            max(2, self._weights_worth_keeping()),
            usable(out.target, Memory.WGT),
        )
        self.inp_slots = out.slots(
            Memory.INP, self.need.inp, max(2, self._inputs_worth_keeping()), self.inp_limit
        )

    def run(self) -> None:
        """Emit every tile."""
        self.vectors = self._load_vectors()
        for tile in self._tiles():
            self._tile(tile)

    def _tiles(self) -> Iterator[Tile]:
        """Output tiles in the schedule's order; what carries comes right behind the tile above."""
        schedule, shape = self.schedule, self.shape
        rows = [Extent(*h) for h in cuts(shape.rows.outputs, schedule.tile_h)]
        columns = [Extent(*w) for w in cuts(shape.columns.outputs, schedule.tile_w)]
        if self.need.carries:
            places = [(h, w) for w in columns for h in rows]
        else:
            places = [(h, w) for h in rows for w in columns]
        pixels = [(n, h, w) for n in range(shape.batches) for h, w in places]
        channels = [
            (part, Extent(*o))
            for part in shape.parts
            for o in cuts(part.outputs.count, schedule.tile_o)
        ]
        if schedule.order == "weights":
            for (part, o), (n, h, w) in product(channels, pixels):
                yield Tile(part, n, o, h, w)
        else:
            for (n, h, w), (part, o) in product(pixels, channels):
                yield Tile(part, n, o, h, w)

    def _weights_worth_keeping(self) -> int:
        """Weight tiles that are read again before others push them out.

        Beside a shortcut all that fit: its loads take longer than its products and run ahead.
        """
        room = usable(self.out.target, Memory.WGT) // self.need.wgt
        if self.need.wgt_tiles <= room or self.need.tiles_s:
            return min(room, self.need.wgt_tiles)
        reused = self.schedule.order == "weights" and self.need.tiles_i <= room
        return self.need.tiles_i if reused else 2

    def _inputs_worth_keeping(self) -> int:
        """Input tiles that are read again before others push them out, or can run ahead."""
        room = self.inp_limit // self.need.inp
        if self.need.inp_tiles <= room or self.need.tiles_s:
            return min(room, self.need.inp_tiles)
        reused = self.schedule.order == "inputs" and self.need.tiles_i <= room
        return self.need.tiles_i if reused else 2

    def _residual_slots(self) -> Slots | None:
        """Two places for residual tiles at the top of INP."""
        size = self.need.residual
        if not size:
            return None
        count = min(2, self.need.out_tiles)
        self.inp_limit -= count * size
        return Slots([self.inp_limit + index * size for index in range(count)])

    def _weights_in_order(self) -> Array:
        """Weight tiles (and bias tiles) in the order in which the loops read them."""
        pieces: list[Array] = []
        offset = 0
        for part in self.shape.parts:
            for o, columns in cuts(part.outputs.count, self.schedule.tile_o):
                first = part.outputs.start + o
                for step, tile in self._weights_of(part, first, columns):
                    self.weight_offsets[first, step] = offset, len(tile)
                    offset += len(tile)
                    pieces.append(tile)
        return np.concatenate(pieces)

    def _weights_of(
        self, part: Part, first: int, columns: int
    ) -> Iterator[tuple[int, Array]]:
        """Weight tiles of a column of outputs, by the reduction steps that they belong to."""
        shape, blocks = self.shape, range(first, first + columns)
        for step, depth in self._shortcut_steps():
            assert shape.shortcut is not None
            tiles = [shape.shortcut.tiles[block][step : step + depth] for block in blocks]
            yield shape.inputs + step, self._joined(tiles)
        biases = None
        if self.schedule.bias == "gemm":
            biases = bias_tiles.tiles(shape.bias, shape.block)[first : first + columns]
        for step, depth in self._reduction(part):
            tiles = [shape.weight_tiles[block][step : step + depth] for block in blocks]
            tile = self._joined(tiles)
            if biases is not None and step == self._bias_step(part):
                tile = np.concatenate([tile, biases])
            yield step, tile

    def _joined(self, tiles: list[Array]) -> Array:
        """Weights of several output blocks as elements of WGT."""
        return np.stack(tiles).reshape(-1, self.shape.block, self.shape.block)

    def _reduction(self, part: Part) -> list[tuple[int, int]]:
        """(start, length) of the reduction tiles in input blocks."""
        count = 1 if part.diagonal else part.inputs.count
        return list(cuts(count, self.schedule.tile_i))

    def _bias_step(self, part: Part) -> int:
        """The reduction tile behind which the bias comes: the first, to bridge the wait for others.

        A pool needs all sums and comes before the bias, which then concerns fewer.
        """
        return self._reduction(part)[-1][0] if self.shape.pooled else 0

    def _shortcut_steps(self) -> list[tuple[int, int]]:
        """(start, length) of the shortcut's reduction tiles in blocks of its image."""
        if self.shape.shortcut is None:
            return []
        return list(cuts(self.shape.shortcut.inputs, self.need.tile_s))

    def _load_vectors(self) -> int:
        """Load the per-channel vectors of the whole layer; returns their place in ACC."""
        if not self.need.vectors:
            return 0
        constants = epilogue.ConstantVectors(self.layer, self.out.target, self.shape.outputs)
        arrays = list(constants.others)
        if self.schedule.bias == "add":
            arrays.insert(0, constants.bias)
        data = np.concatenate(arrays)
        name = self.out.constant("vectors", Memory.ACC, data)
        self.out.load(Memory.ACC, self.acc_limit, name, 0, len(data))
        return self.acc_limit

    def _tile(self, tile: Tile) -> None:
        """Load, multiply, finish and store one output tile."""
        out, shape = self.out, self.shape
        block = self._result_block(tile, shape.y)
        sums = Sums.of(shape, block, self.need.carries)
        acc = out.context(Memory.ACC, sums.elements, self.acc_limit)
        sums = sums.at(acc)
        out.reset(acc, Loop(sums.elements, dst=1))
        self._add_shortcut(tile, block, acc)
        for i, depth in self._reduction(tile.part):
            wgt = self._weight_tile(tile, i)
            source = self._input_block(tile, i, depth)
            inp = self._input_tile(source, shape.x.buffer)
            for piece in sums.pieces.values():
                self._products(tile, depth, piece, inp, source, wgt)
            if i == self._bias_step(tile.part):
                self._pool(tile, sums)
                self._bias(tile, block, acc, wgt + tile.o.count * depth * shape.taps)
        self._finish(tile, block, acc)
        for rows in block.rows():
            out.store(acc + rows.sram, shape.y.buffer, rows.dram, rows.size, rows.rows, rows.stride)

    def _result_block(self, tile: Tile, place: Place) -> Block:
        """The tile's part of the result, or of a residual that lies like it."""
        start = place.channel + tile.part.outputs.start + tile.o.start
        return Block(
            place.layout, place.shape, tile.n, Extent(start, tile.o.count), tile.h, tile.w
        )

    def _weight_tile(self, tile: Tile, i: int) -> int:
        key = tile.part.outputs.start + tile.o.start, i
        found = self.wgt_slots.find(key)
        if found is not None:
            return found
        base = self.wgt_slots.take(key)
        offset, size = self.weight_offsets[key]
        self.out.load(Memory.WGT, base, self.weights, offset, size)
        return base

    def _input_block(self, tile: Tile, i: int, depth: int) -> Block:
        """What a tile reads of some input blocks."""
        shape = self.shape
        channels = tile.part.inputs_of(tile.o.start, tile.o.count, i, depth)
        return Block(
            shape.x.layout,
            shape.x.shape,
            tile.n,
            Extent(shape.x.channel + channels.start, channels.count),
            shape.rows.reads(tile.h.start, tile.h.count, self.need.carries),
            shape.columns.reads(tile.w.start, tile.w.count),
        )

    def _input_tile(self, block: Block, buffer: str) -> int:
        """The place of an input block in INP."""
        found = self.inp_slots.find((buffer, block))
        if found is None:
            found = self.inp_slots.take((buffer, block))
            self._load_block(block, buffer, found)
        return found

    def _load_block(self, block: Block, buffer: str, base: int) -> None:
        for rows in block.rows():
            self.out.load(
                Memory.INP, base + rows.sram, buffer, rows.dram, rows.size, rows.rows, rows.stride
            )

    def _add_shortcut(self, tile: Tile, block: Block, acc: int) -> None:
        """ACC += the shortcut's products, shifted."""
        shortcut = self.shape.shortcut
        if shortcut is None:
            return
        size = tile.o.count, tile.h.count, tile.w.count
        with self.out.role(ROLE, shortcut.origin):
            for step, depth in self._shortcut_steps():
                wgt = self._weight_tile(tile, self.shape.inputs + step)
                source = shortcut.block(tile.n, Extent(step, depth), tile.h, tile.w)
                inp = self._input_tile(source, shortcut.place.buffer)
                loops = shortcut.loops(source, block.steps(), size)
                self._emit_products(acc, inp, wgt, *loops)
            if shortcut.shift:
                loop = Loop(block.elements, dst=1)
                self.out.alu_imm(AluOp.SHR, acc, -shortcut.shift, loop)

    def _products(
        self, tile: Tile, depth: int, piece: Piece, inp: int, source: Block, wgt: int
    ) -> None:
        """ACC += INP . WGT for every tap, taps with equal rectangles in one instruction."""
        h, w = piece.block.h, piece.block.w
        rows, columns = piece.rows.runs(h.start, h.count), piece.columns.runs(w.start, w.count)
        to, at = piece.block.steps(), source.steps()
        row_step, column_step = self.shape.tap_steps()
        for row, column in product(rows, columns):
            dst = (row.out - h.start) * to["H"] + (column.out - w.start) * to["W"]
            src = (row.inp - source.h.start) * at["H"] + (column.inp - source.w.start) * at["W"]
            first = row.kernel * row_step + column.kernel * column_step
            reductions = (
                Loop(depth, src=at["C"], wgt=self.shape.taps),
                Loop(row.taps, 0, row.tap_step * at["H"], row.kernel_step * row_step),
                Loop(column.taps, 0, column.tap_step * at["W"], column.kernel_step * column_step),
            )
            channel_step = at["C"] if tile.part.diagonal else 0
            outputs = (
                Loop(tile.o.count, to["C"], channel_step, depth * self.shape.taps),
                Loop(row.count, row.out_step * to["H"], row.inp_step * at["H"]),
                Loop(column.count, column.out_step * to["W"], column.inp_step * at["W"]),
            )
            self._emit_products(piece.acc + dst, inp + src, wgt + first, reductions, outputs)

    def _emit_products(
        self,
        dst: int,
        src: int,
        wgt: int,
        reductions: tuple[Loop, ...],
        outputs: tuple[Loop, ...],
    ) -> None:
        """One instruction, or several where the accumulator distance leaves no other way."""
        nest = arrange(reductions, outputs, self.out.target.acc_dep_distance)
        if nest is not None:
            self.out.gemm(dst, src, wgt, *nest)
            return
        loop = max(reductions, key=lambda one: one.extent)
        if loop.extent == 1:
            raise ScheduleError(f"layer {self.layer.node.name!r}: a loop is too long to encode")
        rest = tuple(Loop(1) if one is loop else one for one in reductions)
        for step in range(loop.extent):
            self._emit_products(
                dst, src + step * loop.src, wgt + step * loop.wgt, rest, outputs
            )

    def _pool(self, tile: Tile, sums: Sums) -> None:
        """The greatest sums of every window, where the layer has a pool."""
        if self.shape.pooled:
            above = self.above if self.need.carries and tile.h.start else None
            conv_pool.gather(self.out, self.shape, sums, above)
            self.above = sums

    def _bias(self, tile: Tile, block: Block, acc: int, wgt: int) -> None:
        """ACC += constant vector . bias tile, where the schedule adds the bias so."""
        if self.schedule.bias != "gemm":
            return
        target = self.out.target
        ones = self.out.resident(
            Memory.INP, bias_tiles.NAME, bias_tiles.vector(target.batch, target.block_in)
        )
        steps = block.steps()
        outputs = (
            Loop(tile.o.count, dst=steps["C"], wgt=1),
            Loop(tile.h.count, dst=steps["H"]),
            Loop(tile.w.count, dst=steps["W"]),
        )
        nest = arrange((), outputs, 1)
        assert nest is not None
        self.out.gemm(acc, ones, wgt, *nest)

    def _finish(self, tile: Tile, block: Block, acc: int) -> None:
        """The epilogue of a tile."""
        first = self.vectors + tile.part.outputs.start + tile.o.start
        blocks = epilogue.BlockAccumulators(acc, block, first, self.shape.outputs)
        epilogue.emit_block(
            self.out,
            self.shape.steps,
            self.schedule.bias,
            blocks,
            lambda position, power: self._add_residual(position, power, tile, acc),
        )

    def _add_residual(self, position: int, power: int, tile: Tile, acc: int) -> None:
        """ACC += residual . 2^power, through an identity weight tile."""
        assert self.residual_slots is not None
        place = self.layer.places[self.layer.node.inputs[position]]
        block = self._result_block(tile, place)
        base = self.residual_slots.take((place.buffer, block))
        size = self.shape.block
        identity = np.eye(size, dtype=np.int8) * np.int8(1 << power)
        with self.out.role("residual"):
            self._load_block(block, place.buffer, base)
            wgt = self.out.resident(Memory.WGT, f"identity_{1 << power}", identity)
            self.out.gemm(acc, base, wgt, Loop(block.elements, dst=1, src=1))
