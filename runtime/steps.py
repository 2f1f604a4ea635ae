"""Steps of a plan: the whole-array operations that a launch becomes, and the machine they run on.

A step is independent of data and of the number of images. `bind` fixes it to one machine: all
views are made then, so that running it again costs its NumPy calls only. Arithmetic is exact:
float32 products of int8 are summed over at most 1024 terms, or over as many as constant weights
allow, before they are added to int32 accumulators modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..backend.commands import Memory
from ..backend.isa import AluOpcode
from ..backend.profile import ShiftRule
from ..backend.target import Target
from .lift import Affine, GemmBlock, Indices
from .memory import Dram

Action = Callable[[], object]

EXACT_FLOAT = 1 << 24
"""float32 holds every integer up to this."""

EXACT_TERMS = EXACT_FLOAT // (128 * 128)
"""Products of int8 by int8 whose sum float32 certainly holds."""

_IMAGE_GAP_BYTES = 192  # keeps images from falling on the same cache sets


class Machine:
    """SRAM and scratch memory for `dram.images` images.

    `sram[memory]` is [images, depth + gap, lanes] (WGT has one image if all share the weights);
    lanes are batch x block of int8, int32 for ACC.
    """

    def __init__(self, target: Target, dram: Dram, weights_per_image: bool) -> None:
        self.target = target
        self.dram = dram
        self.images = dram.images
        self.sram: dict[Memory, NDArray[Any]] = {}
        for memory in (Memory.INP, Memory.WGT, Memory.ACC, Memory.OUT):
            dtype = np.dtype(np.int32 if memory is Memory.ACC else np.int8)
            lanes = target.element_bytes(memory) // dtype.itemsize
            gap = -(-_IMAGE_GAP_BYTES // target.element_bytes(memory))
            images = 1 if memory is Memory.WGT and not weights_per_image else self.images
            shape = (images, target.depth(memory) + gap, lanes)
            self.sram[memory] = np.zeros(shape, dtype)
        self._scratch: dict[str, NDArray[np.uint8]] = {}
        self._index: dict[tuple[int, int, int], NDArray[np.intp]] = {}

    @property
    def scratch_bytes(self) -> int:
        """Bytes reserved so far."""
        return sum(buffer.size for buffer in self._scratch.values())

    def elements(self, memory: Memory) -> NDArray[Any]:
        """A view of the whole SRAM without its gaps: [images, depth, lanes]."""
        return self.sram[memory][:, : self.target.depth(memory)]

    def reserve(self, role: str, size: int) -> None:
        """Make the scratch buffer `role` hold at least `size` bytes; a larger one is kept."""
        if role not in self._scratch or self._scratch[role].size < size:
            self._scratch[role] = np.empty(size, np.uint8)

    def scratch(self, role: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The first bytes of a reserved buffer as an array."""
        return np.ndarray(shape, dtype, buffer=self._scratch[role])

    def source_rows(self, block: GemmBlock, base: int) -> NDArray[np.intp]:
        """[B,P,batch,R] numbers of the INP rows that `block` multiplies, sources moved by base."""
        key = (id(block), base, 0)
        if key not in self._index:
            batch = self.target.batch
            rows = (block.src + base)[:, :, None, :] * batch + np.arange(batch)[:, None]
            self._index[key] = rows.astype(np.intp)
        return self._index[key]

    def strided(
        self, memory: Memory, start: int, extents: tuple[int, ...], steps: tuple[int, ...]
    ) -> NDArray[Any]:
        """A view [images, *extents, lanes] of the elements start + nested steps."""
        array = self.sram[memory]
        image, element, lane = array.strides
        return np.ndarray(
            (array.shape[0], *extents, array.shape[2]),
            array.dtype,
            buffer=array,
            offset=start * element,
            strides=(image, *(step * element for step in steps), lane),
        )

    def dram_rows(
        self, segment: int, offset: int, shape: tuple[int, int], stride: int, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """A view [images or 1, rows, items] of rows `stride` bytes apart in one segment."""
        data = self.dram.segments[segment].data
        images, image = (1, 0) if data.ndim == 1 else (data.shape[0], data.strides[0])
        strides = (image, stride, dtype.itemsize)
        return np.ndarray((images, *shape), dtype, buffer=data, offset=offset, strides=strides)


class Step(Protocol):
    """One operation of a plan."""

    def reserve(self, machine: Machine) -> None:
        """Reserve scratch memory; called for every step before any is bound."""

    def bind(self, machine: Machine) -> Action:
        """The operation, fixed to the machine's arrays."""


class Plain:
    """A step that needs no scratch memory."""

    def reserve(self, machine: Machine) -> None:
        """Nothing to reserve."""


@dataclass(frozen=True, eq=False)
class Rows:
    """DRAM rows within one segment: `rows` of `size` elements, `stride` bytes apart."""

    segment: int
    offset: int
    rows: int
    size: int
    stride: int


@dataclass(frozen=True, eq=False)
class CopyIn(Plain):
    """SRAM elements start + r*pitch + x <- DRAM rows; `narrow` widens int8 to int32."""

    memory: Memory
    start: int
    pitch: int
    source: Rows
    narrow: bool = False

    def bind(self, machine: Machine) -> Action:
        """A strided copy."""
        array, source = machine.sram[self.memory], self.source
        items = source.size * array.shape[2]
        dtype = np.dtype("<i4" if array.dtype == np.int32 and not self.narrow else np.int8)
        data = machine.dram_rows(
            source.segment, source.offset, (source.rows, items), source.stride, dtype
        )
        view = machine.strided(
            self.memory, self.start, (source.rows, source.size), (self.pitch, 1)
        )
        return partial(np.copyto, view.reshape(view.shape[0], source.rows, items), data)


@dataclass(frozen=True, eq=False)
class Scatter(Plain):
    """SRAM elements [n] <- DRAM elements at byte offsets [n] of one segment, in any order."""

    memory: Memory
    elements: Indices
    segment: int
    offsets: Indices
    narrow: bool = False

    def bind(self, machine: Machine) -> Action:
        """A gather of bytes and a fancy assignment."""
        array = machine.sram[self.memory]
        dtype = np.dtype("<i4" if array.dtype == np.int32 and not self.narrow else np.int8)
        data = machine.dram.segments[self.segment].data
        span = self.offsets[:, None] + np.arange(array.shape[2] * dtype.itemsize)

        def run() -> None:
            array[:, self.elements] = data[..., span].view(dtype)

        return run


@dataclass(frozen=True, eq=False)
class CopyOut(Plain):
    """DRAM rows <- low 8 bits of the SRAM elements start... (dense) of ACC or OUT."""

    memory: Memory
    start: int
    target: Rows

    def bind(self, machine: Machine) -> Action:
        """A strided copy; int32 to int8 keeps the low bits."""
        target = self.target
        lanes = machine.sram[self.memory].shape[2]
        data = machine.dram_rows(
            target.segment, target.offset, (target.rows, target.size * lanes), target.stride,
            np.dtype(np.int8),
        )
        view = machine.strided(self.memory, self.start, (target.rows * target.size,), (1,))
        shaped = view.reshape(view.shape[0], target.rows, target.size * lanes)
        return partial(np.copyto, data, shaped, casting="unsafe")


@dataclass(frozen=True, eq=False)
class Zero(Plain):
    """SRAM elements <- 0; `elements` is a slice or int64[n]."""

    memory: Memory
    elements: slice | Indices

    def bind(self, machine: Machine) -> Action:
        """A fill."""
        array = machine.sram[self.memory]
        if isinstance(self.elements, slice):
            return partial(array[:, self.elements].fill, 0)
        return partial(array.__setitem__, (slice(None), self.elements), 0)


@dataclass(frozen=True, eq=False)
class SyncOut(Plain):
    """OUT elements <- low 8 bits of ACC."""

    elements: Indices

    def part(self, chosen: NDArray[np.bool_]) -> SyncOut:
        """The same for some of the elements."""
        return SyncOut(self.elements[chosen])

    def bind(self, machine: Machine) -> Action:
        """A gather and a fancy assignment."""
        acc, out = machine.sram[Memory.ACC], machine.sram[Memory.OUT]

        def run() -> None:
            out[:, self.elements] = acc[:, self.elements].astype(np.int8)

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


@dataclass(frozen=True)
class Operation:
    """What an ALU micro-op computes: out = A op B.

    B is `imm` (int32), or ACC[src] if None. A is ACC[dst], or ACC[src] with `from_source`.
    `shift` says how SHR reads B; `sign` is the immediate field of a register SHR.
    """

    opcode: int
    imm: int | None
    shift: ShiftRule
    from_source: bool = False
    sign: int = 0

    def bind(self, a: NDArray[Any], b: NDArray[Any] | None, out: NDArray[Any]) -> Action:
        """out[...] = a op b (int32), b None standing for the immediate."""
        if self.opcode != AluOpcode.SHR:
            ufunc, operand = _UFUNCS[self.opcode], np.int32(self.imm or 0) if b is None else b
            return partial(ufunc, a, operand, out=out)
        if b is None:
            return _immediate_shift(a, int(shift_amounts(self.imm, self.shift)), out)
        return partial(_register_shift, a, b, out, self.shift, self.sign)

    def apply(self, a: NDArray[Any], b: NDArray[Any] | None) -> None:
        """a[...] = a op b."""
        self.bind(a, b, a)()


_UFUNCS: dict[int, Callable[..., object]] = {
    AluOpcode.MIN: np.minimum,
    AluOpcode.MAX: np.maximum,
    AluOpcode.ADD: np.add,
    AluOpcode.MUL: np.multiply,
}


def shift_amounts(values: Any, rule: ShiftRule, sign: int = 0) -> NDArray[np.int32]:
    """What SHR makes of B (int32): how far to the right, negative to the left, -31..31.

    FULL is undefined beyond 31 in the simulator's C++; as compiled for x86 it takes 5 bits of
    the magnitude. A negative immediate field (`sign`) turns Chisel's register form to the left.
    """
    b = np.asarray(values, np.int32)
    if rule is ShiftRule.SIGNED5:
        return ((b & 31) ^ 16) - np.int32(16)
    if rule is ShiftRule.UNSIGNED5:
        return -(-b & 31) if sign < 0 else b & 31
    return np.where(b >= 0, b & 31, -(-b & 31))


def _immediate_shift(a: NDArray[Any], amount: int, out: NDArray[Any]) -> Action:
    ufunc = np.right_shift if amount >= 0 else np.left_shift
    return partial(ufunc, a, np.int32(abs(amount)), out=out)


def _register_shift(
    a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], rule: ShiftRule, sign: int
) -> None:
    amounts = shift_amounts(b, rule, sign)
    if amounts.min() >= 0:
        np.right_shift(a, amounts, out)
    elif amounts.max() <= 0:
        np.left_shift(a, -amounts, out)
    else:
        left = np.left_shift(a, np.maximum(-amounts, 0))
        right = np.right_shift(a, np.maximum(amounts, 0))
        np.copyto(out, np.where(amounts < 0, left, right))


@dataclass(frozen=True, eq=False)
class AluWave(Plain):
    """One wave of independent micro-ops on strides: `nest` has the columns dst and src."""

    operation: Operation
    nest: Affine
    dst_base: int
    src_base: int

    def bind(self, machine: Machine) -> Action:
        """One ufunc on views; an axis along which src stands still is broadcast."""
        nest, operation = self.nest, self.operation
        steps = [tuple(step[column] for step in nest.steps) for column in (0, 1)]
        dst = machine.strided(Memory.ACC, nest.start[0] + self.dst_base, nest.extents, steps[0])
        if operation.imm is not None and not operation.from_source:
            return operation.bind(dst, None, dst)
        axes = zip(nest.extents, steps[1], strict=True)
        still = tuple(1 if step == 0 else extent for extent, step in axes)
        src = machine.strided(Memory.ACC, nest.start[1] + self.src_base, still, steps[1])
        if operation.imm is None:
            return operation.bind(dst, src, dst)
        return operation.bind(src, None, dst)


@dataclass(frozen=True, eq=False)
class AluScatter(Plain):
    """One wave of independent micro-ops on index lists dst and src, int64[n] each.

    `result` is ACC, or OUT for an operation that leaves ACC alone.
    """

    operation: Operation
    dst: Indices
    src: Indices
    result: Memory = Memory.ACC

    def bind(self, machine: Machine) -> Action:
        """Gathers, one ufunc, a fancy assignment."""
        acc, result = machine.sram[Memory.ACC], machine.sram[self.result]
        operation = self.operation
        first = self.src if operation.from_source else self.dst

        def run() -> None:
            a = acc[:, first]
            operation.apply(a, acc[:, self.src] if operation.imm is None else None)
            result[:, self.dst] = a.astype(result.dtype, copy=False)

        return run
