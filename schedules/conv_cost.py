"""What a schedule of a convolution costs, in closed forms."""

from __future__ import annotations

from dataclasses import replace

from ..backend import timing
from ..backend.commands import Memory
from ..backend.target import Target
from . import conv_pool, epilogue
from .blocks import Block, Extent
from .conv_shape import ConvShape
from .conv_shortcut import Shortcut
from .conv_tiles import ConvSchedule, Needs, Room, needs
from .template import Cost


def cost(
    shape: ConvShape, schedule: ConvSchedule, target: Target, room: Room
) -> Cost:
    """Busy cycles by the closed forms, every tile taken as one from the middle."""
    need = needs(shape, schedule)
    tiles_p = need.out_tiles // need.tiles_o
    weight_reads, input_reads = _reads(schedule, room, need)
    steps = _steps(shape, schedule, target, need)
    wgt, inp = (sum(each) // len(steps) for each in zip(*steps, strict=True))
    row = need.made // need.tile_o
    residual = timing.load(target, Memory.INP, need.tile_o, row) * len(shape.residuals)
    loads = weight_reads * wgt + input_reads * inp + need.out_tiles * residual
    products = shape.products(schedule.tile_h, schedule.tile_w, need.carries)
    gemms = products + need.out_tiles * need.tiles_i * _instructions(
        shape, schedule, need
    ) * timing.gemm(target, 0)
    tail = epilogue.cycles(target, shape.steps, need.made, 1, schedule.bias)
    work = timing.gemm(target, need.acc) + tail + _shift(shape, target, need)
    if schedule.bias == "gemm":
        work += timing.gemm(target, need.made)
    work += conv_pool.cycles(shape, schedule, target, need)
    compute = gemms + need.out_tiles * work
    store = timing.store(target, need.tile_o, row)
    # The last tile's products cannot hide behind loads, nor the first loads behind products.
    last = gemms // (need.out_tiles * need.tiles_i)
    total = max(loads + last, compute + wgt + inp, need.out_tiles * store) + tail + store
    return Cost(loads, compute, tiles_p * need.tiles_o * store, total)


def step_by_step(
    shape: ConvShape, schedule: ConvSchedule, target: Target, room: Room, found: Cost
) -> Cost:
    """The cost `found` of a layer with a shortcut at a closer look: what waits for loads.

    A shortcut's loads are long beside its products, so that the average says too little.
    """
    need = needs(shape, schedule)
    own = need.tiles_i - need.tiles_s
    products = timing.gemm(target, need.acc * need.tile_s)
    rest = found.compute / need.out_tiles - need.tiles_s * products
    computes = [float(products)] * need.tiles_s + [rest / own] * own
    steps = _steps(shape, schedule, target, need)
    period = _period(steps, computes, schedule, room, need)
    ends = max(0, found.total - max(found.load, found.compute))
    return replace(found, total=int(max(period, found.store)) + ends)


def _steps(
    shape: ConvShape, schedule: ConvSchedule, target: Target, need: Needs
) -> list[tuple[int, int]]:
    """Cycles to load the weights and the input of every step of the reduction."""
    wgt = int(timing.load(target, Memory.WGT, 1, need.wgt))
    inp = _input_cycles(shape, schedule, target, need)
    steps = [(wgt, inp)] * (need.tiles_i - need.tiles_s)
    if shape.shortcut is not None:
        more = _shortcut_loads(shape.shortcut, schedule, target, need)
        steps = [more] * need.tiles_s + steps
    return steps


def _shift(shape: ConvShape, target: Target, need: Needs) -> int:
    """Cycles of shifting the shortcut's products of a tile."""
    shifts = shape.shortcut is not None and shape.shortcut.shift > 0
    return int(timing.alu(target, need.acc)) if shifts else 0


def _period(
    tiles: list[tuple[int, int]],
    computes: list[float],
    schedule: ConvSchedule,
    room: Room,
    need: Needs,
) -> float:
    """Cycles of a layer whose steps load `tiles` (of weights, of inputs) and take `computes`.

    Loads come in bursts where tiles stay for several output tiles: the first one has to wait.
    """
    tiles_p = need.out_tiles // need.tiles_o
    weight_reads, input_reads = _reads(schedule, room, need)
    once_w = weight_reads == need.wgt_tiles and schedule.order == "weights"
    once_i = input_reads == tiles_p * need.tiles_i and schedule.order == "inputs"
    turns = tiles_p if once_w else need.tiles_o if once_i else 1
    slots = min(room.wgt // need.wgt, room.inp // need.inp)
    first = [float(weights + inputs) for weights, inputs in tiles]
    other = [float(weights * (not once_w) + inputs * (not once_i)) for weights, inputs in tiles]
    few = min(turns, 3)
    long = _steady(first + other * (few - 1), computes * few, slots)
    if turns > few:
        long += (turns - few) * _steady(other, computes, slots)
    return need.out_tiles / turns * long


def _steady(loads: list[float], computes: list[float], slots: int) -> float:
    """Cycles of steps between others like them, whose loads run up to `slots` steps ahead."""
    ends = [0.0] * slots
    loaded = 0.0
    turns = []
    for _ in range(3):
        for load, compute in zip(loads, computes, strict=True):
            loaded = max(loaded, ends[-slots]) + load
            ends.append(max(ends[-1], loaded) + compute)
        turns.append(ends[-1])
    return turns[2] - turns[1]


def _shortcut_loads(
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


def _instructions(shape: ConvShape, schedule: ConvSchedule, need: Needs) -> int:
    """GEMM instructions of one reduction tile."""
    return shape.rows.runs(schedule.tile_h, need.carries) * shape.columns.runs(schedule.tile_w)


def _input_cycles(
    shape: ConvShape, schedule: ConvSchedule, target: Target, need: Needs
) -> int:
    """Cycles to load the input of a tile from the middle."""
    channels = need.tile_o if need.diagonal else min(schedule.tile_i, shape.inputs)
    key = channels, schedule.tile_h, schedule.tile_w, need.carries
    known = shape.input_cycles.get(key)
    if known is not None:
        return known
    block = Block(
        shape.x.layout,
        shape.x.shape,
        0,
        Extent(0, channels),
        shape.rows.reads(shape.rows.middle(schedule.tile_h), schedule.tile_h, need.carries),
        shape.columns.reads(shape.columns.middle(schedule.tile_w), schedule.tile_w),
    )
    cycles = int(
        sum(timing.load(target, Memory.INP, one.rows, one.size) for one in block.rows())
    )
    shape.input_cycles[key] = cycles
    return cycles
