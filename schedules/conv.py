"""The convolution template: plain, grouped, depthwise and transposed convolutions, directly.

A layer is cut into tiles of output channels, rows and columns; the reduction over input channels
may be cut too. A kernel element (tap) is applied to the rectangle of outputs whose input exists,
so that padding costs neither memory nor cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..backend import timing
from ..backend.commands import Memory
from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops.layout import ceil_div
from . import epilogue
from .bias import fits_gemm
from .blocks import Block, Extent
from .conv_lowering import ConvLowering
from .conv_shape import ConvShape
from .conv_shortcut import Shortcut
from .emitter import Emitter, usable
from .template import Cost, Layer
from .tiling import tile_sizes

ORDERS = ("weights", "inputs")
"""What stays in place: output channels are the outer loop, or pixels are."""

MOST_SIZES = 12
"""Sizes of one axis that are tried; more are thinned out evenly."""


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


class ConvTemplate:
    """Convolutions with constant weights."""

    name = "conv"
    float_op = "FusedConv"
    device_op = "VtaConv"
    onnx_operators: tuple[str, ...] = (
        "Conv",
        "ConvTranspose",
        "AveragePool",
        "GlobalAveragePool",
        "Add",
        "Resize",
        "Upsample",
        "Pad",
    )

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """Two-dimensional convolutions with constant weights run tap by tap."""
        if len(graph.types[node.inputs[0]].shape) != 4:
            return f"its input is {graph.types[node.inputs[0]]}, not an image (N, C, H, W)"
        for value, role in zip(node.inputs[1:3], ("weight", "bias"), strict=False):
            if value and value not in graph.constants:
                return f"its {role} {value!r} is not a constant"
        return None

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, ConvSchedule]]:
        """Feasible schedules with their costs, best first."""
        shape, room = ConvShape(layer, target), Room.of(target)
        ranked = [
            (_cost(shape, schedule, target, room), schedule)
            for schedule in _space(shape, {})
            if overflow(shape, schedule, room) is None
        ]
        return sorted(ranked, key=lambda one: (one[0].total, one[0].load, one[1].tile_o))

    def override(self, layer: Layer, target: Target, values: Mapping[str, Any]) -> ConvSchedule:
        """The best schedule with the named fields fixed."""
        shape = ConvShape(layer, target)
        limits = {
            "tile_o": shape.outputs,
            "tile_i": shape.inputs,
            "tile_h": shape.rows.outputs,
            "tile_w": shape.columns.outputs,
        }
        words = {"order": ORDERS, "bias": _biases(shape)}
        where = f"layer {layer.node.name!r}"
        for key, value in values.items():
            if key in limits and not (type(value) is int and 1 <= value <= limits[key]):
                raise ScheduleError(
                    f"{where}: {key} must be an integer from 1 to {limits[key]}, found {value!r}"
                )
            if key in words and value not in words[key]:
                raise ScheduleError(
                    f"{where}: {key} must be one of {', '.join(words[key])}, found {value!r}"
                )
            if key not in limits and key not in words:
                known = ", ".join((*limits, *words))
                raise ScheduleError(f"{where}: no schedule field {key!r}; conv has {known}")
        room, every = Room.of(target), list(_space(shape, values))
        fitting = [one for one in every if overflow(shape, one, room) is None]
        if not fitting:
            raise ScheduleError(
                f"{where}: {dict(values)} does not fit: {overflow(shape, every[0], room)}"
            )
        return min(fitting, key=lambda one: _cost(shape, one, target, room).total)

    def emit(self, layer: Layer, schedule: ConvSchedule, out: Emitter) -> None:
        """Write the layer's commands."""
        ConvLowering(layer, schedule, out).run()

    def describe(self, layer: Layer, schedule: ConvSchedule, target: Target) -> str:
        """The blocked loop nest as pseudo-code."""
        shape = ConvShape(layer, target)
        outer = [f"for o in tiles({shape.outputs}, {schedule.tile_o}):"]
        pixels = [
            f"for h in tiles({shape.rows.outputs}, {schedule.tile_h}):",
            f"for w in tiles({shape.columns.outputs}, {schedule.tile_w}):",
        ]
        loops = outer + pixels if schedule.order == "weights" else pixels + outer
        body = [
            "ACC = 0",
            *_describe_shortcut(shape, schedule),
            f"for i in tiles({shape.inputs}, {schedule.tile_i}):",
            "  WGT <- weight[o, i]" + (" and bias[o]" if schedule.bias == "gemm" else ""),
            "  INP <- x[i, rows and columns that h, w read]",
            f"  for tap in {shape.kernel[0]} x {shape.kernel[1]}:",
            "    ACC += GEMM(INP at tap, WGT at tap)",
        ]
        if schedule.bias == "gemm":
            body.append("ACC += GEMM(ones, bias[o])")
        body += epilogue.describe(shape.steps, schedule.bias)
        body.append("y[o, h, w] <- OUT")
        lines = ["  " * depth + line for depth, line in enumerate(loops)]
        return "\n".join(lines + ["  " * len(loops) + line for line in body])


def _describe_shortcut(shape: ConvShape, schedule: ConvSchedule) -> list[str]:
    """The part of the loop nest that accumulates the shortcut."""
    if shape.shortcut is None:
        return []
    lines = [
        f"for i in tiles({shape.shortcut.inputs}, {needs(shape, schedule).tile_s}):",
        "  WGT <- shortcut_weight[o, i]",
        "  INP <- image[i, rows and columns that h, w read]",
        "  ACC += GEMM(INP, WGT)",
    ]
    if shape.shortcut.shift:
        lines.append(f"ACC <<= {shape.shortcut.shift}")
    return lines


def _biases(shape: ConvShape) -> tuple[str, ...]:
    """Ways to add the layer's bias."""
    if not shape.has_bias:
        return ("none",)
    return ("gemm", "add") if fits_gemm(shape.bias, shape.block) else ("add",)


def _thinned(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= MOST_SIZES:
        return list(sizes)
    last = len(sizes) - 1
    return [sizes[round(index * last / (MOST_SIZES - 1))] for index in range(MOST_SIZES)]


def _space(shape: ConvShape, fixed: Mapping[str, Any]) -> Iterator[ConvSchedule]:
    """Every schedule worth a look."""

    def values(key: str, free: Sequence[Any]) -> Sequence[Any]:
        return [fixed[key]] if key in fixed else free

    outputs = max(part.outputs.count for part in shape.parts)
    inputs = max(1 if part.diagonal else part.inputs.count for part in shape.parts)
    orders = ORDERS if len(shape.parts) == 1 else ORDERS[:1]
    for tile_o in values("tile_o", _thinned(tile_sizes(outputs))):
        for tile_i in values("tile_i", _thinned(tile_sizes(inputs))):
            for tile_h in values("tile_h", _thinned(tile_sizes(shape.rows.outputs))):
                for tile_w in values("tile_w", tile_sizes(shape.columns.outputs)[:4]):
                    for order in values("order", orders):
                        for bias in values("bias", _biases(shape)):
                            yield ConvSchedule(tile_o, tile_i, tile_h, tile_w, order, bias)


@dataclass(frozen=True)
class Needs:
    """Elements that the largest tile takes in every scratchpad, and how many tiles there are.

    `vectors` are those of the whole layer, which stay in ACC; `tile_o` is the tile's size in
    channel blocks, `tiles_o` and `tiles_i` count tiles of the channels and of the reduction, of
    which `tiles_s` are the shortcut's, `tile_s` blocks of its channels each.
    """

    wgt: int
    inp: int
    residual: int
    acc: int
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
    pixels = schedule.tile_h * schedule.tile_w
    read = shape.rows.most_read(schedule.tile_h) * shape.columns.most_read(schedule.tile_w)
    wgt = tile_o * (depth * shape.taps + (schedule.bias == "gemm"))
    inp = (tile_o if part.diagonal else depth) * read
    tile_s = tiles_s = 0
    if shape.shortcut is not None:
        each = shape.shortcut.read(schedule.tile_h, schedule.tile_w)
        tile_s = max(1, min(shape.shortcut.inputs, inp // each, wgt // tile_o))
        tiles_s = ceil_div(shape.shortcut.inputs, tile_s)
        inp = max(inp, tile_s * each)
    tiles_o = sum(ceil_div(one.outputs.count, schedule.tile_o) for one in shape.parts)
    tiles_i = 1 if part.diagonal else ceil_div(part.inputs.count, schedule.tile_i)
    tiles_i += tiles_s
    tiles_p = shape.batches * ceil_div(shape.rows.outputs, schedule.tile_h)
    tiles_p *= ceil_div(shape.columns.outputs, schedule.tile_w)
    return Needs(
        wgt=wgt,
        inp=inp,
        residual=tile_o * pixels if shape.residuals else 0,
        acc=tile_o * pixels,
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


def _cost(
    shape: ConvShape, schedule: ConvSchedule, target: Target, room: Room
) -> Cost:
    """Busy cycles by the closed forms, every tile taken as one from the middle."""
    need = needs(shape, schedule)
    tiles_p = need.out_tiles // need.tiles_o
    weight_reads, input_reads = _reads(schedule, room, need)
    wgt = timing.load(target, Memory.WGT, 1, need.wgt)
    inp = _input_cycles(shape, schedule, target, need)
    first = 0
    if shape.shortcut is not None:
        more = _shortcut_cycles(shape.shortcut, schedule, target, need)
        own = need.tiles_i - need.tiles_s
        wgt = (own * wgt + need.tiles_s * more[0]) // need.tiles_i
        inp = (own * inp + need.tiles_s * more[1]) // need.tiles_i
        first = timing.alu(target, need.acc) if shape.shortcut.shift else 0
    row = need.acc // need.tile_o
    residual = timing.load(target, Memory.INP, need.tile_o, row) * len(shape.residuals)
    loads = weight_reads * wgt + input_reads * inp + need.out_tiles * residual
    gemms = shape.products + need.out_tiles * need.tiles_i * _instructions(
        shape, schedule
    ) * timing.gemm(target, 0)
    passes = 1 + (schedule.bias == "gemm")
    tail = epilogue.cycles(target, shape.steps, need.acc, 1, schedule.bias)
    compute = gemms + need.out_tiles * (passes * timing.gemm(target, need.acc) + first + tail)
    store = timing.store(target, need.tile_o, row)
    # The last tile's products cannot hide behind loads, nor the first loads behind products.
    last = gemms // (need.out_tiles * need.tiles_i)
    total = max(loads + last, compute + wgt + inp, need.out_tiles * store) + tail + store
    return Cost(loads, compute, tiles_p * need.tiles_o * store, total)


def _shortcut_cycles(
    shortcut: Shortcut, schedule: ConvSchedule, target: Target, need: Needs
) -> tuple[int, int]:
    """Cycles to load the weights and the input of a step of the shortcut."""
    h, w = Extent(0, schedule.tile_h), Extent(0, schedule.tile_w)
    block = shortcut.block(0, Extent(0, need.tile_s), h, w)
    rows = (timing.load(target, Memory.INP, one.rows, one.size) for one in block.rows())
    return int(timing.load(target, Memory.WGT, 1, need.tile_o * need.tile_s)), int(sum(rows))


def _reads(schedule: ConvSchedule, room: Room, need: Needs) -> tuple[int, int]:
    """How many weight tiles and input tiles are loaded, repeats included."""
    tiles_p = need.out_tiles // need.tiles_o
    wgt_room = max(1, room.wgt // need.wgt)
    inp_room = max(1, (room.inp - 2 * need.residual) // need.inp)
    kept = need.tiles_i if schedule.order == "weights" else need.wgt_tiles
    weights = need.wgt_tiles * (tiles_p if kept > wgt_room else 1)
    inputs = tiles_p * need.tiles_i
    kept = inputs if schedule.order == "weights" else need.tiles_i
    if need.diagonal or kept > inp_room:
        inputs *= need.tiles_o
    return weights, inputs


def _instructions(shape: ConvShape, schedule: ConvSchedule) -> int:
    """GEMM instructions of one reduction tile."""
    rows, columns = (
        axis.runs(axis.middle(tile), tile)
        for axis, tile in ((shape.rows, schedule.tile_h), (shape.columns, schedule.tile_w))
    )
    return len(rows) * len(columns)


def _input_cycles(
    shape: ConvShape, schedule: ConvSchedule, target: Target, need: Needs
) -> int:
    """Cycles to load the input of a tile from the middle."""
    channels = need.tile_o if need.diagonal else min(schedule.tile_i, shape.inputs)
    key = channels, schedule.tile_h, schedule.tile_w
    known = shape.input_cycles.get(key)
    if known is not None:
        return known
    block = Block(
        shape.x.layout,
        shape.x.shape,
        0,
        Extent(0, channels),
        shape.rows.reads(shape.rows.middle(schedule.tile_h), schedule.tile_h),
        shape.columns.reads(shape.columns.middle(schedule.tile_w), schedule.tile_w),
    )
    cycles = int(
        sum(timing.load(target, Memory.INP, one.rows, one.size) for one in block.rows())
    )
    shape.input_cycles[key] = cycles
    return cycles
