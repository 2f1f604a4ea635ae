"""The max-pool template: input moved into ACC by an identity GEMM, then MAX tap by tap.

The result starts as the inputs of one tap that every output has (moved by the same GEMM), so that
border positions need no filler. Where no tap reaches every output, it starts at the least value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ..backend import timing
from ..backend.commands import AluOp, Loop, Memory
from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops.epilogue import LOWEST
from ..ops.layout import ceil_div
from ..ops.taps import Tap, windows
from .axes import Axis
from .blocks import Block, Extent
from .emitter import Emitter, usable
from .nests import arrange
from .template import Cost, Layer
from .tiling import cuts, tile_sizes

FIELDS = ("tile_c", "tile_h", "tile_w")


@dataclass(frozen=True)
class PoolSchedule:
    """Tile sizes in channel blocks, output rows and output columns."""

    tile_c: int
    tile_h: int
    tile_w: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PoolShape:
    """A VtaMaxPool node in VTA's terms."""

    def __init__(self, layer: Layer) -> None:
        node = layer.node
        self.x, self.y = (layer.places[name] for name in (node.inputs[0], node.outputs[0]))
        shape, result = (layer.types[name].shape for name in (node.inputs[0], node.outputs[0]))
        tiles = node.attrs["layout"].tiles(result)
        self.batches, self.channels = tiles["N"], tiles["C"]
        rows, columns = windows(node.attrs, node.attrs["kernel_shape"])
        self.rows = Axis(rows, shape[2], result[2])
        self.columns = Axis(columns, shape[3], result[3])

    def extents(self) -> tuple[int, int, int]:
        """Sizes that the fields of a schedule cut."""
        return self.channels, self.rows.outputs, self.columns.outputs


class MaxPoolTemplate:
    """Max-pooling with any window."""

    name = "max_pool"
    float_op = "MaxPool"
    device_op = "VtaMaxPool"
    onnx_operators: tuple[str, ...] = ("MaxPool",)

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """Two-dimensional max-pooling, padding left out; in a convolution where that is faster."""
        if len(graph.types[node.inputs[0]].shape) != 4:
            return f"its input is {graph.types[node.inputs[0]]}, not an image (N, C, H, W)"
        if len(node.outputs) > 1:
            return "VTA does not compute the indices of the maxima"
        return None

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, PoolSchedule]]:
        """Feasible schedules with their costs, best first."""
        shape = PoolShape(layer)
        space = product(*(tile_sizes(extent) for extent in shape.extents()))
        ranked = [
            (_cost(shape, schedule, target), schedule)
            for schedule in (PoolSchedule(*sizes) for sizes in space)
            if _overflow(shape, schedule, target) is None
        ]
        return sorted(ranked, key=lambda one: one[0].total)

    def override(self, layer: Layer, target: Target, values: Mapping[str, Any]) -> PoolSchedule:
        """The best schedule with the named fields fixed."""
        shape, where = PoolShape(layer), f"layer {layer.node.name!r}"
        limits = dict(zip(FIELDS, shape.extents(), strict=True))
        for key, value in values.items():
            if key not in limits:
                raise ScheduleError(
                    f"{where}: no schedule field {key!r}; max_pool has {', '.join(FIELDS)}"
                )
            if type(value) is not int or not 1 <= value <= limits[key]:
                raise ScheduleError(f"{where}: {key} must be from 1 to {limits[key]}")
        sizes = [
            [values[key]] if key in values else tile_sizes(limits[key]) for key in FIELDS
        ]
        fixed = [PoolSchedule(*one) for one in product(*sizes)]
        for schedule in sorted(fixed, key=lambda one: _cost(shape, one, target).total):
            if _overflow(shape, schedule, target) is None:
                return schedule
        raise ScheduleError(
            f"{where}: {dict(values)} does not fit: {_overflow(shape, fixed[-1], target)}"
        )

    def emit(self, layer: Layer, schedule: PoolSchedule, out: Emitter) -> None:
        """Write the layer's commands."""
        shape = PoolShape(layer)
        sizes = (schedule.tile_c, schedule.tile_h, schedule.tile_w)
        channels, rows, columns = (
            [Extent(*cut) for cut in cuts(extent, size)]
            for extent, size in zip(shape.extents(), sizes, strict=True)
        )
        for n, c, h, w in product(range(shape.batches), channels, rows, columns):
            _emit_tile(shape, n, c, h, w, out)

    def describe(self, layer: Layer, schedule: PoolSchedule, target: Target) -> str:
        """The blocked loop nest as pseudo-code."""
        shape = PoolShape(layer)
        kernel = layer.node.attrs["kernel_shape"]
        return "\n".join(
            [
                f"for c in tiles({shape.channels}, {schedule.tile_c}):",
                f"  for h in tiles({shape.rows.outputs}, {schedule.tile_h}):",
                f"    for w in tiles({shape.columns.outputs}, {schedule.tile_w}):",
                "      INP <- x[c, rows and columns that h, w read]",
                "      A = GEMM(INP, identity)",
                "      R = GEMM(INP at first tap, identity)",
                f"      for other taps in {kernel[0]} x {kernel[1]}:",
                "        R = max(R, A at tap)",
                "      y[c, h, w] <- OUT",
            ]
        )


def _areas(shape: PoolShape, schedule: PoolSchedule) -> tuple[int, int]:
    """ACC elements of a tile's input and of its result."""
    read = shape.rows.most_read(schedule.tile_h) * shape.columns.most_read(schedule.tile_w)
    return schedule.tile_c * read, schedule.tile_c * schedule.tile_h * schedule.tile_w


def _tiles(shape: PoolShape, schedule: PoolSchedule) -> int:
    sizes = (schedule.tile_c, schedule.tile_h, schedule.tile_w)
    cut = (ceil_div(extent, size) for extent, size in zip(shape.extents(), sizes, strict=True))
    count: int = shape.batches * prod(cut)
    return count


def _overflow(shape: PoolShape, schedule: PoolSchedule, target: Target) -> str | None:
    """The memory that a schedule overflows, or None."""
    read, made = _areas(shape, schedule)
    contexts = 1 if _tiles(shape, schedule) == 1 else 2
    for memory, size in ((Memory.INP, read), (Memory.ACC, read + made)):
        share = usable(target, memory) // contexts
        if size > share:
            return f"{memory.name} has {share} elements for a tile, it needs {size}"
    return None


def _cost(shape: PoolShape, schedule: PoolSchedule, target: Target) -> Cost:
    """Busy cycles by the closed forms."""
    read, made = _areas(shape, schedule)
    tiles = _tiles(shape, schedule)
    taps = shape.rows.window.kernel * shape.columns.window.kernel
    rows = schedule.tile_c
    load = timing.load(target, Memory.INP, rows, read // rows)
    moves = timing.gemm(target, read + made) + timing.gemm(target, read)
    moves += timing.gemm(target, made)
    compute = moves + (taps - 1) * timing.alu(target, made, immediate=False)
    store = timing.store(target, rows, made // rows)
    total = max(tiles * load + compute, tiles * compute + load, tiles * store) + store
    return Cost(tiles * load, tiles * compute, tiles * store, total)


def _emit_tile(
    shape: PoolShape, n: int, c: Extent, h: Extent, w: Extent, out: Emitter
) -> None:
    """Load, move, maximise and store one tile."""
    x, y = shape.x, shape.y
    rows, columns = shape.rows.reads(h.start, h.count), shape.columns.reads(w.start, w.count)
    source = Block(x.layout, x.shape, n, Extent(x.channel + c.start, c.count), rows, columns)
    result = Block(y.layout, y.shape, n, Extent(y.channel + c.start, c.count), h, w)
    inp = out.context(Memory.INP, source.elements)
    for one in source.rows():
        out.load(Memory.INP, inp + one.sram, x.buffer, one.dram, one.size, one.rows, one.stride)
    acc = out.context(Memory.ACC, source.elements + result.elements)
    made = acc + source.elements
    block = x.layout.block
    identity = out.resident(Memory.WGT, "identity_1", np.eye(block, dtype=np.int8))
    out.reset(acc, Loop(source.elements + result.elements, dst=1))
    out.gemm(acc, inp, identity, Loop(source.elements, dst=1, src=1))
    taps = [
        (row, column)
        for row in shape.rows.taps(h.start, h.count)
        for column in shape.columns.taps(w.start, w.count)
    ]
    first = next((one for one in taps if _covers(one, h, w)), None)
    if first is None:
        out.alu_imm(AluOp.ADD, made, LOWEST, Loop(result.elements, dst=1))
    else:
        dst, src, loops = _rectangle(first, source, result)
        out.gemm(made + dst, inp + src, identity, *loops)
    for tap in taps:
        if tap != first:
            dst, src, loops = _rectangle(tap, source, result)
            out.alu(AluOp.MAX, made + dst, acc + src, *loops)
    for one in result.rows():
        out.store(made + one.sram, y.buffer, one.dram, one.size, one.rows, one.stride)


def _covers(taps: tuple[Tap, Tap], h: Extent, w: Extent) -> bool:
    """Whether a tap reads an input for every output of the tile."""
    return (taps[0].count, taps[1].count) == (h.count, w.count)


def _rectangle(
    taps: tuple[Tap, Tap], source: Block, result: Block
) -> tuple[int, int, tuple[Loop, ...]]:
    """First dst and src offset of a tap, and the loops over its outputs."""
    row, column = taps
    to, at = result.steps(), source.steps()
    dst = (row.out - result.h.start) * to["H"] + (column.out - result.w.start) * to["W"]
    src = (row.inp - source.h.start) * at["H"] + (column.inp - source.w.start) * at["W"]
    loops = (
        Loop(result.c.count, dst=to["C"], src=at["C"]),
        Loop(row.count, dst=row.out_step * to["H"], src=row.inp_step * at["H"]),
        Loop(column.count, dst=column.out_step * to["W"], src=column.inp_step * at["W"]),
    )
    nest = arrange((), loops, 1)
    assert nest is not None
    return dst, src, nest
