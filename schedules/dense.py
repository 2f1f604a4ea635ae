"""The dense template: a fully connected layer as a blocked matrix product.

Loop nest, outermost first: batch tile, output tile, reduction tile. Weights lie in DRAM in the
order in which that nest reads them, so that every tile is one burst. The input of a batch tile is
loaded once when it fits, behind the first weights, which need not wait for an earlier layer.
Where fewer accumulators than the accumulator distance are in play, the reduction is dealt to
several partial sums that are added at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..backend import timing
from ..backend.commands import AluOp, Loop, Memory
from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops.layout import ceil_div
from ..ops.types import Array
from . import epilogue
from .emitter import Emitter, usable
from .template import Cost, Layer
from .tiling import cuts, lengths, tile_sizes

MOST_ELEMENTS = (1 << 16) - 1
"""Elements of one row: x_size has 16 bits (docs/hardware.md)."""

MOST_ITERATIONS = (1 << 14) - 1
"""Iterations of one loop: iter_out and iter_in have 14 bits."""


@dataclass(frozen=True)
class DenseSchedule:
    """Tile sizes in BATCH rows, BLOCK_OUT columns and BLOCK_IN columns.

    `bias` is "init" (accumulators start as a loaded image of the bias), "add" (they start at
    zero and the bias is added by the ALU) or "none".
    """

    tile_n: int
    tile_o: int
    tile_i: int
    bias: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Shape:
    """A layer's extent in tiles, and what its epilogue needs."""

    n: int
    o: int
    i: int
    steps: tuple[tuple[Any, ...], ...]
    has_bias: bool
    vectors: int
    """Per-channel constant vectors in ACC beside the accumulators, the bias apart."""

    @classmethod
    def of(cls, layer: Layer) -> _Shape:
        data, weight, *_ = layer.node.inputs
        n, i = layer.types[data].storage_shape[:2]
        o = layer.constants[weight].shape[0]
        steps = tuple(tuple(step) for step in layer.node.attrs["epilogue"])
        has_bias = steps[0][0] == "add"
        vectors = sum(step[0] in epilogue.VECTOR_OPS for step in steps) - has_bias
        return cls(n, o, i, steps, has_bias, vectors)


class DenseTemplate:
    """Gemm and MatMul with constant weights."""

    name = "dense"
    float_op = "Dense"
    device_op = "VtaDense"
    onnx_operators: tuple[str, ...] = ("Gemm", "MatMul")

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """Fully connected layers with constant weights and bias run as blocked GEMMs."""
        for value, role in zip(node.inputs[1:], ("weight", "bias"), strict=False):
            if value and value not in graph.constants:
                return f"its {role} {value!r} is not a constant"
        return None

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, DenseSchedule]]:
        """Every feasible schedule with its cost, best first."""
        shape = _Shape.of(layer)
        ranked = [
            (_cost(shape, schedule, target), schedule)
            for schedule in _space(shape)
            if _overflow(shape, schedule, target) is None
        ]
        return sorted(ranked, key=lambda one: (one[0].total, -one[1].tile_o, -one[1].tile_i))

    def override(
        self, layer: Layer, target: Target, values: Mapping[str, Any]
    ) -> DenseSchedule:
        """The best schedule with the named fields fixed."""
        shape = _Shape.of(layer)
        known = {"tile_n": shape.n, "tile_o": shape.o, "tile_i": shape.i, "bias": None}
        for key, value in values.items():
            if key not in known:
                raise ScheduleError(
                    f"layer {layer.node.name!r}: no schedule field {key!r}; "
                    f"the dense template has {', '.join(known)}"
                )
            limit = known[key]
            if limit is not None and not (type(value) is int and 1 <= value <= limit):
                raise ScheduleError(
                    f"layer {layer.node.name!r}: {key} must be an integer from 1 to {limit}, "
                    f"found {value!r}"
                )
        fixed = [one for one in _space(shape, values) if _matches(one, values)]
        if not fixed:
            biases = ", ".join(repr(one) for one in _biases(shape))
            raise ScheduleError(
                f"layer {layer.node.name!r}: bias must be {biases}, found {values['bias']!r}"
            )
        for schedule in sorted(fixed, key=lambda one: _cost(shape, one, target).total):
            if _overflow(shape, schedule, target) is None:
                return schedule
        raise ScheduleError(
            f"layer {layer.node.name!r}: {dict(values)} does not fit whatever the other sizes: "
            f"{_overflow(shape, fixed[-1], target)}"
        )

    def emit(self, layer: Layer, schedule: DenseSchedule, out: Emitter) -> None:
        """Write the layer's commands."""
        _Lowering(layer, schedule, out).run()

    def describe(self, layer: Layer, schedule: DenseSchedule, target: Target) -> str:
        """The blocked loop nest as pseudo-code."""
        shape = _Shape.of(layer)
        resident = _input_resident(shape, schedule, target)
        lines = [
            f"for n in tiles({shape.n}, {schedule.tile_n}):",
            f"  for o in tiles({shape.o}, {schedule.tile_o}):",
            "    ACC <- bias[o]" if schedule.bias == "init" else "    ACC = 0",
        ]
        if shape.vectors + (schedule.bias == "add"):
            lines.append("    ACC <- vectors[o], behind the accumulators")
        lines.append(f"    for i in tiles({shape.i}, {schedule.tile_i}):")
        lines.append("      WGT <- w[o, i]")
        lines.append("      INP <- x[n], the first time" if resident else "      INP <- x[n, i]")
        lines.append("      ACC += GEMM(INP, WGT)")
        parts = _partial_sums(schedule.tile_n, schedule.tile_o, schedule.tile_i, target)
        if parts > 1:
            lines.append(f"    ACC = sum of {parts} partial sums")
        lines += [f"    {line}" for line in epilogue.describe(shape.steps, schedule.bias)]
        lines.append("    y[n, o] <- OUT")
        return "\n".join(lines)


def _space(shape: _Shape, fixed: Mapping[str, Any] | None = None) -> Iterator[DenseSchedule]:
    """Every schedule worth a look; `fixed` adds tile sizes that the user asks for."""
    fixed = fixed or {}

    def sizes(key: str, extent: int) -> Sequence[int]:
        return [fixed[key]] if key in fixed else tile_sizes(extent)

    for tile_n in sizes("tile_n", shape.n):
        for tile_o in sizes("tile_o", shape.o):
            for tile_i in sizes("tile_i", shape.i):
                for bias in _biases(shape):
                    yield DenseSchedule(tile_n, tile_o, tile_i, bias)


def _biases(shape: _Shape) -> tuple[str, ...]:
    return ("init", "add") if shape.has_bias else ("none",)


def _matches(schedule: DenseSchedule, values: Mapping[str, Any]) -> bool:
    mine = schedule.to_json()
    return all(mine[key] == value for key, value in values.items())


def _partial_sums(rows: int, columns: int, reduction: int, target: Target) -> int:
    """Accumulators per output, so that none returns within the accumulator distance.

    `reduction` is that of one instruction: others wait for it.
    """
    return min(ceil_div(target.acc_dep_distance, rows * columns), reduction)


def _accumulators(shape: _Shape, schedule: DenseSchedule, target: Target) -> int:
    """ACC elements of one context: partial sums, then constant vectors.

    A short last tile may need more than a full one, because it needs more partial sums.
    """
    vectors = shape.vectors + (schedule.bias == "add")
    return max(
        columns * (rows * _partial_sums(rows, columns, schedule.tile_i, target) + vectors)
        for rows in lengths(shape.n, schedule.tile_n)
        for columns in lengths(shape.o, schedule.tile_o)
    )


def _input_resident(shape: _Shape, schedule: DenseSchedule, target: Target) -> bool:
    """Whether the whole input of a batch tile stays in INP."""
    contexts = 1 if schedule.tile_n == shape.n else 2
    return schedule.tile_n * shape.i <= _context(target, Memory.INP, contexts)


def _context(target: Target, memory: Memory, contexts: int) -> int:
    """Elements that a tile may have: a share of the memory, and what one LOAD can move."""
    return min(usable(target, memory) // contexts, MOST_ELEMENTS)


def _overflow(shape: _Shape, schedule: DenseSchedule, target: Target) -> str | None:
    """The memory or loop that a schedule overflows, or None."""
    if schedule.tile_i > MOST_ITERATIONS:
        return f"a loop has at most {MOST_ITERATIONS} iterations, the tile {schedule.tile_i}"
    tiles = [
        ceil_div(extent, size)
        for extent, size in (
            (shape.n, schedule.tile_n),
            (shape.o, schedule.tile_o),
            (shape.i, schedule.tile_i),
        )
    ]
    wants = [
        (Memory.WGT, schedule.tile_o * schedule.tile_i, tiles[0] * tiles[1] * tiles[2]),
        (Memory.ACC, _accumulators(shape, schedule, target), tiles[0] * tiles[1]),
    ]
    if not _input_resident(shape, schedule, target):
        wants.append((Memory.INP, schedule.tile_n * schedule.tile_i, tiles[0] * tiles[2]))
    for memory, size, count in wants:
        available = _context(target, memory, 1 if count == 1 else 2)
        if size > available:
            return f"{memory.name} holds {available} elements a context, the tile needs {size}"
    return None


def _cost(shape: _Shape, schedule: DenseSchedule, target: Target) -> Cost:
    """Busy cycles by the closed forms, every tile taken as full."""
    n, o, i = schedule.tile_n, schedule.tile_o, schedule.tile_i
    outer = ceil_div(shape.n, n) * ceil_div(shape.o, o)
    inner = ceil_div(shape.i, i)
    parts = _partial_sums(n, o, i, target)
    weight = timing.load(target, Memory.WGT, 1, o * i)
    if _input_resident(shape, schedule, target):
        rows = timing.load(target, Memory.INP, 1, n * shape.i)
        loads = outer * inner * weight + ceil_div(shape.n, n) * rows
    else:
        rows = timing.load(target, Memory.INP, *_joined(n, i, shape.i))
        loads = outer * inner * (weight + rows)
    product = timing.gemm(target, n * o * i)
    tail = epilogue.cycles(target, shape.steps, n, o, schedule.bias)
    tail += (parts > 1) * 2 * timing.alu(target, n * o * (parts // 2), immediate=False)
    images = n * parts * (schedule.bias == "init") + shape.vectors + (schedule.bias == "add")
    start = timing.load(target, Memory.ACC, 1, o * images) if images else 0
    if schedule.bias != "init":
        start += timing.gemm(target, n * o * parts)
    compute = outer * (start + inner * product + tail)
    store = timing.store(target, *_joined(n, o, shape.o))
    total = max(loads + product + tail, weight + rows + compute) + store
    return Cost(loads, compute, outer * store, max(total, outer * store))


def _joined(rows: int, size: int, pitch: int) -> tuple[int, int]:
    """Rows and size of a transfer: rows that lie end to end in DRAM move as one."""
    return (1, rows * size) if size == pitch else (rows, size)


@dataclass(frozen=True)
class _Tile:
    """One output tile: its place and extent in blocks, and where it lies in ACC.

    Row-major accumulators, `parts` times (partial sums), then the per-channel vectors.
    """

    n: int
    rows: int
    o: int
    columns: int
    parts: int
    acc: int

    @property
    def count(self) -> int:
        """Blocks of output."""
        return self.rows * self.columns

    @property
    def vectors(self) -> int:
        """First ACC element of the per-channel vectors."""
        return self.acc + self.parts * self.count


class _Lowering:
    """One layer on its way to commands."""

    def __init__(self, layer: Layer, schedule: DenseSchedule, out: Emitter) -> None:
        self.layer, self.schedule, self.out = layer, schedule, out
        self.shape = _Shape.of(layer)
        self.target = out.target
        self.x = layer.places[layer.node.inputs[0]]
        self.y = layer.places[layer.node.outputs[0]]
        self.resident = _input_resident(self.shape, schedule, self.target)
        self.input_base = 0
        self.weights = out.constant("weight", Memory.WGT, self._weights_in_order())
        self.vectors = epilogue.ConstantVectors(layer, self.target, self.shape.o)
        self.vectors_name = f"{layer.node.name}.vectors"
        self.images: dict[tuple[int, int, int], int] = {}
        self.image_data: list[Array] = []

    def run(self) -> None:
        """Emit every tile; constant images are added last, when all are known."""
        for n, rows in cuts(self.shape.n, self.schedule.tile_n):
            for o, columns in cuts(self.shape.o, self.schedule.tile_o):
                self._tile(n, rows, o, columns)
        if self.image_data:
            self.out.constant("vectors", Memory.ACC, np.concatenate(self.image_data))

    def _weights_in_order(self) -> Array:
        """Weight tiles in the order in which the loops read them."""
        weight = self.layer.constants[self.layer.node.inputs[1]]
        return np.concatenate(
            [
                weight[o : o + columns, i : i + depth].reshape(-1)
                for o, columns in cuts(self.shape.o, self.schedule.tile_o)
                for i, depth in cuts(self.shape.i, self.schedule.tile_i)
            ]
        )

    def _tile(self, n: int, rows: int, o: int, columns: int) -> None:
        """One output tile."""
        out, shape, bias = self.out, self.shape, self.schedule.bias
        parts = _partial_sums(rows, columns, self.schedule.tile_i, self.target)
        acc = out.context(Memory.ACC, _accumulators(shape, self.schedule, self.target))
        tile = _Tile(n, rows, o, columns, parts, acc)
        if bias != "init":
            out.reset(acc, Loop(parts * tile.count, dst=1))
        image = self._image(tile)
        if len(image):
            start = acc if bias == "init" else tile.vectors
            out.load(Memory.ACC, start, self.vectors_name, self._place(tile, image), len(image))
        for i, depth in cuts(shape.i, self.schedule.tile_i):
            self._products(tile, i, depth)
        self._sum_parts(tile)
        epilogue.emit(out, shape.steps, bias, acc, tile.vectors, rows, columns)
        start = n * self.y.row_stride + o
        out.store(acc, self.y.buffer, start, columns, rows, self.y.row_stride)

    def _image(self, tile: _Tile) -> Array:
        """What one LOAD brings into ACC for an output tile, int32[k, BATCH, BLOCK_OUT]."""
        blocks = slice(tile.o, tile.o + tile.columns)
        pieces = [np.zeros((0, self.target.batch, self.target.block_out), np.int32)]
        if self.schedule.bias == "init":
            bias = self.vectors.bias[blocks]
            pieces += [bias] * tile.rows
            pieces += [np.zeros_like(bias)] * (tile.rows * (tile.parts - 1))
        elif self.schedule.bias == "add":
            pieces.append(self.vectors.bias[blocks])
        pieces += [vector[blocks] for vector in self.vectors.others]
        return np.concatenate(pieces)

    def _place(self, tile: _Tile, image: Array) -> int:
        """Offset of `image` in the layer's constant vectors; equal tiles share one."""
        key = (tile.o, tile.columns, tile.rows)
        if key not in self.images:
            self.images[key] = sum(map(len, self.image_data))
            self.image_data.append(image)
        return self.images[key]

    def _products(self, tile: _Tile, i: int, depth: int) -> None:
        """ACC += INP . WGT over one reduction tile."""
        out = self.out
        elements = tile.columns * depth
        wgt = out.context(Memory.WGT, elements)
        position = tile.o * self.shape.i + tile.columns * i
        out.load(Memory.WGT, wgt, self.weights, position, elements)
        src, row = self._input(tile, i, depth)
        batch = Loop(tile.rows, dst=tile.columns, src=row)
        outputs = Loop(tile.columns, dst=1, wgt=depth)
        # The shorter loop is the one that is unrolled into micro-ops.
        pair = (batch, outputs) if tile.columns <= tile.rows else (outputs, batch)
        whole = depth // tile.parts
        done = whole * tile.parts
        if whole:
            part = Loop(tile.parts, dst=tile.count, src=1, wgt=1)
            out.gemm(tile.acc, src, wgt, Loop(whole, src=tile.parts, wgt=tile.parts), part, *pair)
        if done < depth:
            part = Loop(depth - done, dst=tile.count, src=1, wgt=1)
            out.gemm(tile.acc, src + done, wgt + done, part, *pair)

    def _input(self, tile: _Tile, i: int, depth: int) -> tuple[int, int]:
        """First INP element of a reduction tile, loaded if it is not there, and its row pitch."""
        out, width, stride = self.out, self.shape.i, self.x.row_stride
        start = self.x.row_start + tile.n * stride
        if not self.resident:
            src = out.context(Memory.INP, tile.rows * depth)
            out.load(Memory.INP, src, self.x.buffer, start + i, depth, tile.rows, stride)
            return src, depth
        if tile.o == 0 and i == 0:
            base = self.input_base = out.context(Memory.INP, tile.rows * width)
            out.load(Memory.INP, base, self.x.buffer, start, width, tile.rows, stride)
        return self.input_base + i, width

    def _sum_parts(self, tile: _Tile) -> None:
        """Add partial sums pairwise into the first."""
        parts = tile.parts
        while parts > 1:
            half = parts // 2
            source = tile.acc + (parts - half) * tile.count
            self.out.alu(AluOp.ADD, tile.acc, source, Loop(half * tile.count, dst=1, src=1))
            parts -= half
