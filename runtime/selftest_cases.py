"""The cases of the self-test: what goes in, and what NumPy says must come out.

Each function of `CASES` is one program; its docstring says what it isolates. Data comes from a
formula, so nothing is shipped but the programs, and results come from plain NumPy on whole
arrays, from the instructions' definitions (docs/hardware.md) and not from a simulator. The
programs themselves are in `vtaflow.selftest_programs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ..backend.commands import Memory
from ..backend.target import Target
from ..ops.types import Array

MATMUL = 1024
MATMUL_SHIFT = 8
MATMUL_CLIP = (0, 127)
MATMUL_PERIOD = 127

ELEMENTS = 4
"""Elements of most operands."""

TILES = 6
RADIUS = 16
"""Magnitude of small weights, with which sums use the 8 bits of an output well."""

PADS = (1, 2, 1, 1)
"""Rows of zeros before and after, elements of zeros before and after each row."""

REDUCTION = 12
WAVES = 3
ROUND_TRIP_SHIFT = 5
SHIFTS = (1, 8, 15)
LEFT_SHIFTS = (1, 7, 16)
MIN_IMMEDIATE, MAX_IMMEDIATE, ADD_IMMEDIATE = 100, 1000, 12345
NEGATIVE_MIN, NEGATIVE_MAX, NEGATIVE_ADD = -5, -20000, -32768
WRAP_IMMEDIATE = 32767
BURST = (64, 4)
"""Weight tiles of the long burst: reduction, outputs."""


@dataclass(frozen=True)
class Operand:
    """Elements of `memory` in DRAM: int8 or int32 [elements, rows, lanes].

    A constant is part of the program, anything else is fed to it.
    """

    memory: Memory
    data: Array
    constant: bool = False


@dataclass(frozen=True)
class Case:
    """One program's operands, its expected outputs (int8 [elements, batch, lanes]) by name, and
    the elements of what it stores in between."""

    operands: Mapping[str, Operand]
    expected: Mapping[str, Array]
    activations: Mapping[str, int] = field(default_factory=dict)


def numbers(shape: tuple[int, ...], seed: int, low: int = -128, high: int = 127) -> Array:
    """int64 numbers within low..high that look random: splitmix64 of seed and position."""
    with np.errstate(over="ignore"):
        state = np.arange(1, prod(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)
        state = state * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    span = np.uint64(high - low + 1)
    return ((state >> np.uint64(32)) % span).astype(np.int64).reshape(shape) + low


def inputs(target: Target, count: int, seed: int) -> Operand:
    """`count` INP elements."""
    shape = (count, target.batch, target.block_in)
    return Operand(Memory.INP, numbers(shape, seed).astype(np.int8))


def weights(target: Target, count: int, seed: int, radius: int = 128) -> Operand:
    """`count` WGT elements within -radius..radius-1."""
    shape = (count, target.block_out, target.block_in)
    return Operand(Memory.WGT, numbers(shape, seed, -radius, radius - 1).astype(np.int8))


def accumulators(target: Target, count: int, seed: int, radius: int = 1 << 31) -> Operand:
    """`count` ACC elements within -radius..radius-1."""
    shape = (count, target.batch, target.block_out)
    return Operand(Memory.ACC, numbers(shape, seed, -radius, radius - 1).astype(np.int32))


def identity(target: Target) -> Operand:
    """The weight tile that moves INP to ACC unchanged."""
    tile = np.eye(target.block_out, target.block_in, dtype=np.int8)
    return Operand(Memory.WGT, tile[None], constant=True)


def products(x: Array, w: Array) -> Array:
    """INP elements [..., rows, lanes] times WGT elements [..., out, in]: int64 [..., rows, out]."""
    return np.asarray(np.matmul(x.astype(np.int64), np.swapaxes(w.astype(np.int64), -1, -2)))


def low_bits(acc: Array) -> Array:
    """What STORE writes: the low 8 bits."""
    return acc.astype(np.int8)


def planes(acc: Array) -> Array:
    """All four bytes of 32-bit accumulators [n, ...] as int8 [4n, ...], the lowest bytes first."""
    wrapped = acc.astype(np.int32)
    return np.concatenate([low_bits(wrapped >> (8 * byte)) for byte in range(4)])


def clipped(acc: Array, shift: int, low: int = -128, high: int = 127) -> Array:
    """Shifted right, clipped, 8 bits."""
    return low_bits(np.clip(acc.astype(np.int32) >> shift, low, high))


# --- the matrix multiply ------------------------------------------------------------------------


def blocked_matmul(target: Target) -> Case:
    """1024 -> 1024, shift right by 8, clip to 0..127: lowered by the compiler's dense template."""
    blocks, block = MATMUL // target.block_in, target.block_in
    x = numbers((blocks, target.batch, block), 1, -64, 63).astype(np.int8)
    matrix = matmul_weight()
    rows = x.transpose(1, 0, 2).reshape(target.batch, MATMUL)
    y = clipped(rows.astype(np.int64) @ matrix.T.astype(np.int64), MATMUL_SHIFT, *MATMUL_CLIP)
    packed = y.reshape(target.batch, blocks, block).transpose(1, 0, 2)
    return Case({"x": Operand(Memory.INP, x)}, {"y": np.ascontiguousarray(packed)})


def matmul_weight() -> Array:
    """int8 [out, in] with a period: it differs from tile to tile, and compresses well."""
    pattern = numbers((MATMUL_PERIOD,), 2, -RADIUS, RADIUS - 1).astype(np.int8)
    position = np.arange(MATMUL)
    return np.asarray(pattern[(17 * position[:, None] + 5 * position) % MATMUL_PERIOD])


# --- transfers ----------------------------------------------------------------------------------


def copy(target: Target) -> Case:
    """LOAD, a GEMM with the identity and STORE in one row each."""
    x = inputs(target, ELEMENTS, 10)
    return Case({"x": x, "eye": identity(target)}, {"y": x.data})


def strided_load(target: Target) -> Case:
    """LOAD of 3 rows of 2 elements, 5 apart in DRAM."""
    x = inputs(target, 12, 11)
    rows = np.concatenate([x.data[start : start + 2] for start in (0, 5, 10)])
    return Case({"x": x, "eye": identity(target)}, {"y": rows})


def repeated_row(target: Target) -> Case:
    """LOAD of one DRAM row three times, with a stride of 0."""
    x = inputs(target, 2, 12)
    return Case({"x": x, "eye": identity(target)}, {"y": np.concatenate([x.data] * 3)})


def strided_store(target: Target) -> Case:
    """STORE of 3 rows of 2 elements, 4 apart, over what a dense STORE wrote before."""
    x = inputs(target, 12, 13)
    y = x.data.copy()
    for row in range(3):
        y[4 * row : 4 * row + 2] = low_bits(x.data[2 * row : 2 * row + 2].astype(np.int32) + 1)
    return Case({"x": x, "eye": identity(target)}, {"y": y})


def padded_load(target: Target) -> Case:
    """LOAD of 2 rows of 3 elements with different zeros on all four sides."""
    x = inputs(target, 6, 14)
    image = x.data.reshape(2, 3, target.batch, target.block_in)
    padded = np.pad(image, (PADS[:2], PADS[2:], (0, 0), (0, 0)))
    return Case(
        {"x": x, "eye": identity(target)}, {"y": padded.reshape(-1, *padded.shape[2:])}
    )


def long_weight_burst(target: Target) -> Case:
    """One LOAD of up to 256 weight tiles, over many pages of DRAM."""
    depth, outputs = burst(target)
    x, w = inputs(target, depth, 15), weights(target, depth * outputs, 16)
    tiles = w.data.reshape(outputs, depth, *w.data.shape[1:])
    return Case({"x": x, "w": w}, {"y": planes(products(x.data, tiles).sum(axis=1))})


def burst(target: Target) -> tuple[int, int]:
    """Reduction and outputs of the long burst, as far as they fit the hardware."""
    outputs = max(BURST[1], target.acc_dep_distance)
    depth = min(BURST[0], target.depth(Memory.INP), target.depth(Memory.WGT) // outputs)
    return depth, outputs


# --- the ALU ------------------------------------------------------------------------------------


def alu_min(target: Target) -> Case:
    """MIN of two accumulators."""
    a, b = accumulators(target, ELEMENTS, 20), accumulators(target, ELEMENTS, 21)
    return Case({"a": a, "b": b}, {"y": planes(np.minimum(a.data, b.data))})


def alu_max(target: Target) -> Case:
    """MAX of two accumulators."""
    a, b = accumulators(target, ELEMENTS, 22), accumulators(target, ELEMENTS, 23)
    return Case({"a": a, "b": b}, {"y": planes(np.maximum(a.data, b.data))})


def alu_add(target: Target) -> Case:
    """ADD of two accumulators, modulo 2^32."""
    a, b = accumulators(target, ELEMENTS, 24), accumulators(target, ELEMENTS, 25)
    return Case({"a": a, "b": b}, {"y": planes(a.data.astype(np.int64) + b.data)})


def alu_shr(target: Target) -> Case:
    """SHR by another accumulator's lanes, 0..15."""
    a = accumulators(target, ELEMENTS, 26)
    lanes = numbers(a.data.shape, 27, 0, 15).astype(np.int32)
    amounts = Operand(Memory.ACC, lanes, constant=True)
    return Case({"a": a, "b": amounts}, {"y": planes(a.data >> lanes)})


def alu_min_imm(target: Target) -> Case:
    """MIN with an immediate."""
    a = accumulators(target, ELEMENTS, 28)
    return Case({"a": a}, {"y": planes(np.minimum(a.data, MIN_IMMEDIATE))})


def alu_max_imm(target: Target) -> Case:
    """MAX with an immediate."""
    a = accumulators(target, ELEMENTS, 29)
    return Case({"a": a}, {"y": planes(np.maximum(a.data, MAX_IMMEDIATE))})


def alu_add_imm(target: Target) -> Case:
    """ADD with an immediate, modulo 2^32."""
    a = accumulators(target, ELEMENTS, 30)
    return Case({"a": a}, {"y": planes(a.data.astype(np.int64) + ADD_IMMEDIATE)})


def alu_shr_imm(target: Target) -> Case:
    """SHR with immediates 1, 8 and 15."""
    a = accumulators(target, len(SHIFTS) * ELEMENTS, 31)
    parts = np.split(a.data, len(SHIFTS))
    shifted = [part >> amount for part, amount in zip(parts, SHIFTS, strict=True)]
    return Case({"a": a}, {"y": planes(np.concatenate(shifted))})


def left_shift(target: Target) -> Case:
    """SHR with immediates -1, -7 and -16, which shifts left."""
    a = accumulators(target, len(LEFT_SHIFTS) * ELEMENTS, 32)
    parts = np.split(a.data.astype(np.int64), len(LEFT_SHIFTS))
    shifted = [part << amount for part, amount in zip(parts, LEFT_SHIFTS, strict=True)]
    return Case({"a": a}, {"y": planes(np.concatenate(shifted))})


def negative_immediates(target: Target) -> Case:
    """MIN, MAX and ADD with negative immediates, down to -32768."""
    a = accumulators(target, 3 * ELEMENTS, 33, radius=40000)
    low, high, sum_ = np.split(a.data, 3)
    parts = [np.minimum(low, NEGATIVE_MIN), np.maximum(high, NEGATIVE_MAX), sum_ + NEGATIVE_ADD]
    return Case({"a": a}, {"y": planes(np.concatenate(parts))})


# --- GEMM and accumulators ----------------------------------------------------------------------


def gemm_reset(target: Target) -> Case:
    """A reset GEMM clears what a GEMM has left and a STORE has taken; the ALU adds 3 to that."""
    x = inputs(target, ELEMENTS, 40)
    y = np.concatenate([x.data, np.full_like(x.data, 3)])
    return Case({"x": x, "eye": identity(target)}, {"y": y})


def gemm_accumulate(target: Target) -> Case:
    """Reset, then two GEMMs into the same accumulators."""
    x, w = inputs(target, 2 * ELEMENTS, 41), weights(target, 2, 42)
    first, second = np.split(x.data, 2)
    total = products(first, w.data[0]) + products(second, w.data[1])
    return Case({"x": x, "w": w}, {"y": planes(total)})


def bias_load(target: Target) -> Case:
    """LOAD ACC instead of a reset, then a GEMM on top."""
    x, w = inputs(target, ELEMENTS, 43), weights(target, 1, 44)
    bias = accumulators(target, ELEMENTS, 45, radius=1 << 20)
    return Case({"x": x, "w": w, "b": bias}, {"y": planes(bias.data + products(x.data, w.data[0]))})


def accumulator_wrap(target: Target) -> Case:
    """GEMM and ADD beyond the ends of 32 bits."""
    x, w = inputs(target, 2 * ELEMENTS, 46), weights(target, 1, 47)
    near = numbers((2 * ELEMENTS, target.batch, target.block_out), 48, 0, 30000)
    ends = np.concatenate([np.int64(2**31 - 1) - near[:ELEMENTS], near[ELEMENTS:] - 2**31])
    bias = Operand(Memory.ACC, ends.astype(np.int32))
    total = (ends + products(x.data, w.data[0])).astype(np.int32).astype(np.int64)
    return Case({"x": x, "w": w, "b": bias}, {"y": planes(total + WRAP_IMMEDIATE)})


def accumulator_distance(target: Target) -> Case:
    """GEMM and ALU return to an accumulator after exactly the target's accumulator distance."""
    distance = target.acc_dep_distance
    x, w = inputs(target, REDUCTION * distance, 49), weights(target, 1, 50)
    b = accumulators(target, WAVES * distance, 51, radius=1 << 16)
    sums = products(x.data, w.data[0]).reshape(REDUCTION, distance, *b.data.shape[1:]).sum(axis=0)
    waves = b.data.reshape(WAVES, distance, *b.data.shape[1:]).sum(axis=0)
    return Case({"x": x, "w": w, "b": b}, {"y": planes(sums + waves)})


def micro_op_loops(target: Target) -> Case:
    """Two loops around six micro-ops, all three indices moving in each."""
    x, w = inputs(target, 12, 52), weights(target, 8, 53)
    total = np.zeros((12, target.batch, target.block_out), np.int64)
    for r, i, j, u in np.ndindex(2, 2, 3, 2):
        tile = w.data[4 * r + 2 * i + u]
        total[6 * i + 2 * j + u] += products(x.data[2 * r + 4 * j + u], tile)
    return Case({"x": x, "w": w}, {"y": planes(total)})


# --- modules and tokens -------------------------------------------------------------------------


def double_buffering(target: Target) -> Case:
    """Six tiles through two contexts of INP, WGT, ACC and OUT in turn."""
    return _tiles(target, 60)


def context_reuse(target: Target) -> Case:
    """Six tiles through the same context, so that each waits for the one before."""
    return _tiles(target, 62)


def _tiles(target: Target, seed: int) -> Case:
    x, w = inputs(target, TILES * ELEMENTS, seed), weights(target, TILES, seed + 1, RADIUS)
    tiles = x.data.reshape(TILES, ELEMENTS, *x.data.shape[1:])
    total = products(tiles, w.data[:, None]).reshape(TILES * ELEMENTS, target.batch, -1)
    return Case({"x": x, "w": w}, {"y": clipped(total, ROUND_TRIP_SHIFT)})


def dram_round_trip(target: Target) -> Case:
    """What one half stores the other half loads, in one launch."""
    x, w = inputs(target, ELEMENTS, 64), weights(target, 2, 65, RADIUS)
    middle = clipped(products(x.data, w.data[0]), ROUND_TRIP_SHIFT)
    y = clipped(products(middle, w.data[1]), ROUND_TRIP_SHIFT)
    return Case({"x": x, "w": w}, {"y": y}, {"middle": ELEMENTS})


CASES: tuple[Callable[[Target], Case], ...] = (
    blocked_matmul,
    copy,
    strided_load,
    repeated_row,
    strided_store,
    padded_load,
    long_weight_burst,
    alu_min,
    alu_max,
    alu_add,
    alu_shr,
    alu_min_imm,
    alu_max_imm,
    alu_add_imm,
    alu_shr_imm,
    left_shift,
    negative_immediates,
    gemm_reset,
    gemm_accumulate,
    bias_load,
    accumulator_wrap,
    accumulator_distance,
    micro_op_loops,
    double_buffering,
    context_reuse,
    dram_round_trip,
)
"""Every program, in the order in which they run; a function's name is the program's."""
