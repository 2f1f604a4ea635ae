"""The checker accepts a double-buffered two-layer stream and refuses each fault by its rule.

The stream is written by hand here, instruction by instruction, so that nothing of the compiler
is trusted; races are compared with a brute-force happens-before oracle.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtaflow.backend.checker import RULES, Finding, check, require_clean
from vtaflow.backend.checker.findings import MAX_FINDINGS, Report
from vtaflow.backend.checker.kernels import (
    ALU_IMMEDIATE,
    ALU_REGISTER,
    GEMM,
    RESET,
    Kernels,
    Shape,
)
from vtaflow.backend.checker.order import Clocks, OpenMasks
from vtaflow.backend.checker.rows import Rows, overlap, rows_of
from vtaflow.backend.commands import AluOp, Memory
from vtaflow.backend.dram import Region
from vtaflow.backend.isa import FIELD_NAMES, Isa, Opcode
from vtaflow.backend.profile import PROFILES
from vtaflow.backend.target import Target
from vtaflow.errors import EncodingError, StreamError, TargetError

TARGET = Target.load("pynq")
ISA = Isa.of(TARGET)
BASE = 0x1800_0000

# One tile: 4 pixels, 2 blocks of input channels, 2 of output channels. SRAM of buffer b begins at
# b * INP_TILE, b * WGT_TILE and b * ACC_TILE; bias and shift amounts follow the accumulators.
TILES = 8
PIXELS, BLOCKS_IN, BLOCKS_OUT = 4, 2, 2
INP_TILE, WGT_TILE, ACC_TILE = PIXELS * BLOCKS_IN, BLOCKS_IN * BLOCKS_OUT, PIXELS * BLOCKS_OUT
BIAS, SHIFT = 2 * ACC_TILE, 2 * ACC_TILE + BLOCKS_OUT
ROW = TILES * PIXELS
TENSOR = BLOCKS_OUT * ROW

# Micro-ops of buffer b: GEMM at 8b, elementwise (dst = src) at 16 + b, bias 18 + b, shift 20 + b.
UOPS = [
    (b * ACC_TILE + o * PIXELS + x, b * INP_TILE + x, b * WGT_TILE + o * BLOCKS_IN)
    for b in (0, 1)
    for o in range(BLOCKS_OUT)
    for x in range(PIXELS)
]
UOPS += [(b * ACC_TILE, source, 0) for source in (-1, BIAS, SHIFT) for b in (0, 1)]
UOPS = [(dst, dst if src < 0 else src, wgt) for dst, src, wgt in UOPS]

Regions = dict[str, Region]
Fields = dict[str, int]


def place(sizes: Iterable[tuple[str, str, Memory, int]]) -> Regions:
    """Regions one after the other, aligned."""
    regions, cursor = {}, 4096
    for name, kind, memory, elements in sizes:
        unit = TARGET.element_bytes(memory)
        cursor = -(-cursor // unit) * unit
        regions[name] = Region(name, kind, memory, cursor, elements * unit)
        cursor += elements * unit
    return regions


REGIONS = place(
    [
        ("uops", "constant", Memory.UOP, len(UOPS)),
        ("vectors", "constant", Memory.ACC, 2 * BLOCKS_OUT),
        ("spare", "constant", Memory.ACC, ACC_TILE),
        ("weights", "constant", Memory.WGT, 2 * WGT_TILE),
        ("x", "input", Memory.INP, TENSOR),
        ("mid", "activation", Memory.OUT, TENSOR),
        ("y", "output", Memory.OUT, TENSOR),
        ("z", "input", Memory.ACC, 64),
    ]
)


def image(shifts: int = 15) -> NDArray[np.uint8]:
    """The constants: micro-ops, a bias of 1000, shift amounts, weights."""
    constants = [one for one in REGIONS.values() if one.kind == "constant"]
    data = np.zeros(max(one.start + one.bytes for one in constants) - 4096, np.uint8)

    def put(name: str, values: NDArray[np.int32]) -> None:
        raw = values.view(np.uint8)
        start = REGIONS[name].start - 4096
        data[start : start + raw.size] = raw

    put("uops", ISA.encode_uops(np.array(UOPS)).view(np.int32))
    put("vectors", np.repeat(np.array([1000, shifts], np.int32), BLOCKS_OUT * TARGET.block_out))
    return data


@dataclass
class Line:
    """One instruction, with a label by which a test finds it."""

    label: str
    opcode: Opcode
    fields: dict[str, int]
    node: str = ""


@dataclass
class Case:
    """Everything that `check` is given."""

    lines: list[Line]
    regions: Regions = field(default_factory=lambda: dict(REGIONS))
    constants: NDArray[np.uint8] = field(default_factory=image)
    base: int = BASE
    initialised: tuple[str, ...] = ("x",)
    raw: dict[str, tuple[int, int]] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)

    def index(self, label: str) -> int:
        """The number of the instruction with that label."""
        return next(i for i, line in enumerate(self.lines) if line.label == label)

    def edit(self, label: str, **fields: int) -> None:
        """Change fields of one instruction."""
        self.lines[self.index(label)].fields.update(fields)

    def swap(self, label: str, opcode: Opcode, **fields: int) -> None:
        """Replace an instruction, keeping its dependence bits."""
        line = self.lines[self.index(label)]
        deps = {name: value for name, value in line.fields.items() if name.endswith("_dep")}
        line.opcode, line.fields = opcode, {**deps, **fields}

    def drop(self, *labels: str) -> None:
        """Remove instructions."""
        self.lines = [line for line in self.lines if line.label not in labels]

    def insert(self, before: str, *lines: Line) -> None:
        """Add instructions before the one with that label."""
        at = self.index(before)
        self.lines[at:at] = lines

    def encoded(self) -> NDArray[np.uint8]:
        """The stream."""
        insns = encode(self.lines)
        for label, (byte, bits) in self.raw.items():
            insns[self.index(label), byte] ^= bits
        return insns

    def findings(self) -> list[Finding]:
        """What the checker says."""
        return check(
            TARGET,
            self.encoded(),
            base=self.base,
            regions=self.regions.values(),
            constants=self.constants,
            origins=[(line.node,) for line in self.lines],
            initialised=self.initialised,
            **self.options,  # type: ignore[arg-type]
        )


def encode(lines: list[Line]) -> NDArray[np.uint8]:
    """The instructions' bits, columns built from the lines' fields."""
    columns = {name: np.zeros(len(lines), np.int64) for name in FIELD_NAMES}
    for row, line in enumerate(lines):
        columns["opcode"][row] = line.opcode
        for name, value in line.fields.items():
            columns[name][row] = value
    return ISA.encode_stream(columns)


def element(name: str, offset: int = 0, memory: Memory | None = None) -> int:
    """The bound element index of an element of a region."""
    unit = TARGET.element_bytes(REGIONS[name].memory if memory is None else memory)
    return (BASE + REGIONS[name].start) // unit + offset


def transfer(memory: Memory, sram: int, dram: int, x: int, y: int = 1, stride: int = 0) -> Fields:
    """Fields of a LOAD or STORE."""
    size = {"x_size": x, "y_size": y, "x_stride": stride or x}
    return {"memory_type": int(memory), "sram_base": sram, "dram_base": dram, **size}


def loops(uop: int, count: int, outer: tuple[int, ...], inner: tuple[int, ...]) -> Fields:
    """Fields of a GEMM or ALU: (trips, dst, src[, wgt]) of both loops."""
    fields = {"uop_bgn": uop, "uop_end": uop + count}
    for suffix, loop in (("out", outer), ("in", inner)):
        fields[f"iter_{suffix}"] = loop[0]
        for name, step in zip(("dst", "src", "wgt"), loop[1:], strict=False):
            fields[f"{name}_factor_{suffix}"] = step
    return fields


NOP = {"memory_type": int(Memory.UOP)}
POP_PREV, POP_NEXT = {"pop_prev_dep": 1}, {"pop_next_dep": 1}
PUSH_PREV, PUSH_NEXT = {"push_prev_dep": 1}, {"push_next_dep": 1}


def prologue() -> list[Line]:
    """The leading NOP and the constants of compute."""
    vectors = transfer(Memory.ACC, BIAS, element("vectors"), 2 * BLOCKS_OUT)
    uops = transfer(Memory.UOP, 0, element("uops"), len(UOPS))
    return [
        Line("start", Opcode.LOAD, dict(NOP)),
        Line("uops", Opcode.LOAD, uops),
        Line("vectors", Opcode.LOAD, vectors),
    ]


def load_tile(n: int) -> list[Line]:
    """Loads of tile n; the second layer reads what the first one stored."""
    b, tile, layer = n % 2, n % TILES, n // TILES
    name = "mid" if layer else "x"
    inp = transfer(Memory.INP, b * INP_TILE, element(name, tile * PIXELS), PIXELS, 2, ROW)
    weights = element("weights", layer * WGT_TILE)
    wgt = transfer(Memory.WGT, b * WGT_TILE, weights, WGT_TILE)
    return [
        Line(f"inp{n}", Opcode.LOAD, inp | (POP_NEXT if n >= 2 else {}), f"Conv_{layer}"),
        Line(f"wgt{n}", Opcode.LOAD, wgt | PUSH_NEXT, f"Conv_{layer}"),
    ]


def compute_tile(n: int) -> list[Line]:
    """Reset, GEMM, bias, shift, clip of tile n."""
    b, node = n % 2, f"Conv_{n // TILES}"
    reset = loops(16 + b, 1, (BLOCKS_OUT, PIXELS, 0), (PIXELS, 1, 0)) | {"reset_reg": 1}
    gemm = loops(8 * b, 8, (BLOCKS_IN, 0, PIXELS, 1), (1, 0, 0, 0))
    vector = ((BLOCKS_OUT, PIXELS, 1), (PIXELS, 1, 0))
    same = loops(16 + b, 1, (BLOCKS_OUT, PIXELS, PIXELS), (PIXELS, 1, 1)) | {"use_imm": 1}
    tokens = POP_PREV | (PUSH_PREV if n < 2 * TILES - 2 else {})

    def alu(name: str, op: AluOp, fields: dict[str, int]) -> Line:
        return Line(f"{name}{n}", Opcode.ALU, {"alu_opcode": int(op), **fields}, f"{node} {name}")

    return [
        Line(f"reset{n}", Opcode.GEMM, reset | (POP_NEXT if n >= 2 else {}), node),
        Line(f"gemm{n}", Opcode.GEMM, gemm | tokens, node),
        alu("add", AluOp.ADD, loops(18 + b, 1, *vector)),
        alu("shr", AluOp.SHR, loops(20 + b, 1, *vector)),
        alu("max", AluOp.MAX, same | {"imm": -128}),
        alu("min", AluOp.MIN, same | {"imm": 127} | PUSH_NEXT),
    ]


def store_tile(n: int) -> list[Line]:
    """The store of tile n, two strided rows."""
    name = "y" if n // TILES else "mid"
    dram = element(name, n % TILES * PIXELS)
    fields = transfer(Memory.OUT, n % 2 * ACC_TILE, dram, PIXELS, BLOCKS_OUT, ROW)
    push = {} if n == 2 * TILES - 2 else PUSH_PREV
    return [Line(f"store{n}", Opcode.STORE, fields | POP_PREV | push, f"Conv_{n // TILES}")]


def good() -> Case:
    """Two layers of TILES tiles, double buffered, loads one tile ahead, no spare token."""
    lines = prologue() + load_tile(0)
    for n in range(2 * TILES):
        if n + 1 < 2 * TILES:
            lines += load_tile(n + 1)
        lines += compute_tile(n) + store_tile(n)
    lines += [Line("drain", Opcode.LOAD, NOP | POP_NEXT), Line("finish", Opcode.FINISH, {})]
    return Case(lines)


LAST = 2 * TILES - 1


def test_good_stream_is_clean() -> None:
    assert good().findings() == []


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_good_stream_is_clean_for_every_design(profile: str) -> None:
    case = good()
    case.options = {"profile": profile}
    assert case.findings() == []


# Faults: a change to the good stream, the rule that it breaks, the instruction to be named.
Fault = Callable[[Case], None]


def edited(label: str, **fields: int) -> Fault:
    return lambda case: case.edit(label, **fields)


def swapped(label: str, opcode: Opcode, **fields: int) -> Fault:
    return lambda case: case.swap(label, opcode, **fields)


def without(*labels: str) -> Fault:
    return lambda case: case.drop(*labels)


def flipped(label: str, byte: int, bits: int) -> Fault:
    return lambda case: case.raw.update({label: (byte, bits)})


def unlinked(pusher: str, push: str, popper: str, pop: str) -> Fault:
    """A token pair removed."""

    def fault(case: Case) -> None:
        case.edit(pusher, **{push: 0})
        case.edit(popper, **{pop: 0})

    return fault


def moved(name: str, /, **changes: object) -> Fault:
    """A region changed."""

    def fault(case: Case) -> None:
        case.regions[name] = replace(case.regions[name], **changes)  # type: ignore[arg-type]

    return fault


def set_up(**attributes: object) -> Fault:
    """Another part of the case changed."""

    def fault(case: Case) -> None:
        for name, value in attributes.items():
            setattr(case, name, value)

    return fault


def token_flood(case: Case) -> None:
    push = Line("flood", Opcode.LOAD, {"memory_type": int(Memory.INP)} | PUSH_NEXT)
    pop = Line("ebb", Opcode.LOAD, NOP | POP_PREV)
    case.insert("finish", *[push] * 255, replace(push, label="brim"), *[pop] * 256)


def token_tide(case: Case) -> None:
    """Never more than one token in program order, but nothing stops the load module."""
    push = Line("push", Opcode.LOAD, {"memory_type": int(Memory.INP)} | PUSH_NEXT)
    pop = Line("pop", Opcode.LOAD, NOP | POP_PREV)
    case.insert("drain", *[push, pop] * 253, replace(push, label="brim"), pop)


def early_finish(case: Case) -> None:
    case.insert("inp3", Line("early", Opcode.FINISH, {}))


def first_nop_pops(case: Case) -> None:
    case.insert("start", Line("push", Opcode.LOAD, {"memory_type": int(Memory.INP)} | PUSH_NEXT))
    case.edit("start", pop_prev_dep=1)


def first_nop_pushes(case: Case) -> None:
    case.edit("start", push_next_dep=1)
    case.insert("uops", Line("pop", Opcode.STORE, dict(POP_PREV)))


def load_acc_of_weights(case: Case) -> None:
    load = transfer(Memory.ACC, 100, element("weights", memory=Memory.ACC), 4)
    case.insert("inp3", Line("extra", Opcode.LOAD, load))


def overlapping_tensors(case: Case) -> None:
    """Tile j of y lies on tile j + 4 of the second row of mid."""
    half = case.regions["mid"].bytes // 2
    shift = half + 4 * PIXELS * 16 - (REGIONS["y"].start - REGIONS["mid"].start)
    for n in range(TILES, 2 * TILES):
        line = case.lines[case.index(f"store{n}")]
        line.fields["dram_base"] += shift // 16
    moved("y", start=REGIONS["y"].start + shift)(case)


SPARE = element("spare", memory=Memory.ACC)
INP_OF_MID = element("mid", memory=Memory.INP)

FAULTS: list[tuple[str, str, Fault]] = [
    ("stream-size", "", lambda case: case.lines.clear()),
    ("region", "", moved("x", start=REGIONS["x"].start + 8)),
    ("region", "", moved("x", bytes=REGIONS["x"].bytes - 8)),
    ("region", "", moved("x", start=0)),
    ("region", "", moved("y", start=TARGET.dram_bytes)),
    ("region", "", moved("y", bytes=-16)),
    ("region", "", moved("x", kind="scratch")),
    ("region", "", moved("x", name="y")),
    ("region", "", moved("x", start=REGIONS["weights"].start)),
    ("region", "", moved("weights", bytes=16 * 256)),
    ("region", "", set_up(initialised=("x", "nothing"))),
    ("region", "", set_up(options={"arena_bytes": REGIONS["y"].start})),
    ("base", "", set_up(base=BASE + 16)),
    ("base", "", set_up(base=-4096)),
    ("base", "", set_up(base=(1 << 32) - 4096)),
    ("base", "", set_up(options={"arena_bytes": 1 << 32})),
    ("opcode", "add1", flipped("add1", 0, 0b001)),
    ("memory-type", "vectors", edited("vectors", memory_type=5)),
    ("memory-type", "vectors", edited("vectors", memory_type=4)),
    ("memory-type", "store1", edited("store1", memory_type=3)),
    ("padding-bits", "inp3", flipped("inp3", 7, 0b100)),
    ("padding-bits", "gemm3", flipped("gemm3", 7, 0x80)),
    ("padding-bits", "finish", flipped("finish", 15, 1)),
    ("dep-neighbour", "store2", edited("store2", push_next_dep=1)),
    ("dep-neighbour", "store2", edited("store2", pop_next_dep=1)),
    ("dep-neighbour", "wgt2", edited("wgt2", pop_prev_dep=1)),
    ("dep-neighbour", "wgt2", edited("wgt2", push_prev_dep=1)),
    ("zero-size", "inp4", edited("inp4", x_size=0)),
    ("zero-size", "inp4", edited("inp4", y_size=0)),
    ("zero-size", "uops", edited("uops", y_size=0)),
    ("zero-size", "drain", edited("drain", sram_base=1)),
    ("zero-size", "drain", edited("drain", memory_type=int(Memory.ACC))),
    ("zero-loop", "gemm5", edited("gemm5", iter_in=0)),
    ("zero-loop", "max5", edited("max5", iter_out=0)),
    ("zero-loop", "gemm5", edited("gemm5", uop_end=8)),
    ("pads", "wgt6", edited("wgt6", x_pad_0=1)),
    ("pads", "vectors", edited("vectors", y_pad_1=1)),
    ("pads", "store6", edited("store6", x_pad_1=1)),
    ("uop-rows", "uops", edited("uops", y_size=2)),
    ("uop-rows", "uops", edited("uops", x_stride=len(UOPS) + 1)),
    ("uop-depth", "uops", edited("uops", sram_base=2048)),
    ("uop-depth", "gemm7", edited("gemm7", uop_end=2049)),
    ("sram-range", "inp8", edited("inp8", sram_base=2048 - 7)),
    ("sram-range", "inp8", edited("inp8", sram_base=2048 - 8, y_pad_1=1)),
    ("sram-range", "wgt8", edited("wgt8", sram_base=1024 - 3)),
    ("sram-range", "store8", edited("store8", sram_base=65535)),
    ("alu-opcode", "add9", edited("add9", alu_opcode=4)),
    ("alu-opcode", "add9", edited("add9", alu_opcode=7)),
    ("shift-immediate", "max9", edited("max9", alu_opcode=3, imm=16)),
    ("shift-immediate", "max9", edited("max9", alu_opcode=3, imm=-17)),
    ("shift-register", "shr9", edited("shr9", imm=1)),
    ("dram-zero", "inp9", edited("inp9", dram_base=0)),
    ("first-compute", "uops", without("start")),
    ("first-compute", "start", first_nop_pops),
    ("first-compute", "start", first_nop_pushes),
    ("finish", "drain", without("finish")),
    ("finish", "early", early_finish),
    ("token-underflow", f"gemm{LAST}", edited("wgt3", push_next_dep=0)),
    ("token-overflow", "brim", token_flood),
    ("token-overflow", "brim", token_tide),
    ("token-leftover", f"store{LAST}", edited("drain", pop_next_dep=0)),
    ("finish-order", "finish", unlinked(f"store{LAST}", "push_prev_dep", "drain", "pop_next_dep")),
    ("sram-raw", "gemm3", unlinked("wgt3", "push_next_dep", "gemm3", "pop_prev_dep")),
    ("sram-raw", "store3", unlinked("min3", "push_next_dep", "store3", "pop_prev_dep")),
    ("sram-war", "inp4", unlinked("gemm2", "push_prev_dep", "inp4", "pop_next_dep")),
    ("sram-war", "reset4", unlinked("store2", "push_prev_dep", "reset4", "pop_next_dep")),
    ("dram-raw", f"inp{TILES}", edited(f"inp{TILES}", dram_base=INP_OF_MID + 5 * PIXELS)),
    ("dram-war", f"store{TILES}", edited(f"store{TILES}", dram_base=element("mid", PIXELS))),
    ("dram-range", "inp2", edited("inp2", dram_base=element("x", TENSOR - 1))),
    ("dram-range", "inp2", edited("inp2", dram_base=element("x", TILES * PIXELS))),
    ("dram-range", "inp2", edited("inp2", dram_base=element("x") + (1 << 28))),
    ("dram-range", "inp2", edited("inp2", dram_base=(1 << 32) - 1, x_stride=65535)),
    ("dram-range", "inp2", edited("inp2", dram_base=1)),
    ("dram-range", "uops", edited("uops", dram_base=element("uops", 1))),
    ("dram-range", f"store{LAST}", edited(f"store{LAST}", dram_base=element("y", ROW))),
    ("dram-kind", "store9", edited("store9", dram_base=element("x", memory=Memory.OUT))),
    ("dram-kind", "store9", edited("store9", dram_base=element("weights", memory=Memory.OUT))),
    ("dram-kind", "wgt2", edited("wgt2", dram_base=element("x", memory=Memory.WGT))),
    ("dram-kind", "extra", load_acc_of_weights),
    ("dram-kind", "uops", edited("uops", dram_base=element("z", memory=Memory.UOP))),
    ("uninitialised-uop", "shr1", edited("uops", x_size=21, x_stride=21)),
    ("uninitialised-inp", "gemm0", edited("inp0", x_size=3)),
    ("uninitialised-wgt", "gemm1", edited("wgt1", x_size=3)),
    ("uninitialised-acc", "gemm1", without("reset1")),
    ("uninitialised-acc", "add0", edited("add0", src_factor_out=64)),
    ("uninitialised-dram", "inp9", edited("inp9", dram_base=element("y", 4 * PIXELS))),
    ("uninitialised-dram", "inp0", set_up(initialised=())),
    ("dram-overwritten", f"inp{TILES + 4}", overlapping_tensors),
    ("uop-index", "gemm5", edited("gemm5", src_factor_out=2047)),
    ("uop-index", "gemm5", edited("gemm5", wgt_factor_out=1023)),
    ("uop-index", "min5", edited("min5", iter_in=2048, dst_factor_in=1, src_factor_in=0)),
    ("alu-source", "max5", edited("max5", src_factor_out=1)),
    ("alu-source", "max5", edited("max5", uop_bgn=19, uop_end=20)),
    ("acc-distance", "gemm5", edited("gemm5", uop_bgn=8, uop_end=11, iter_in=1)),
    ("acc-distance", "max6", edited("max6", dst_factor_in=0, src_factor_in=0)),
    ("acc-distance", "add6", edited("add6", uop_bgn=16, uop_end=17, src_factor_out=3)),
    ("shift-lanes", "shr0", set_up(constants=image(16))),
    ("shift-lanes", "shr0", set_up(constants=image(-1))),
    ("shift-lanes", "shr7", edited("shr7", uop_bgn=19, uop_end=20)),
    ("shift-lanes", "add3", edited("add3", alu_opcode=3, imm=0)),
    ("store-unwritten", "store3", edited("store3", sram_base=100)),
    ("store-reset", "store4", swapped("min4", Opcode.GEMM, **compute_tile(0)[0].fields)),
    (
        "store-loaded",
        "store4",
        swapped("min4", Opcode.LOAD, **transfer(Memory.ACC, 0, SPARE, ACC_TILE)),
    ),
    ("store-loaded", "store9", edited("store9", sram_base=BIAS, y_size=1)),
    ("work-limit", "reset0", set_up(options={"work_limit": 500})),
]


@pytest.mark.parametrize(
    ("rule", "label", "fault"), FAULTS, ids=[f"{i}-{one[0]}" for i, one in enumerate(FAULTS)]
)
def test_fault_is_named(rule: str, label: str, fault: Fault) -> None:
    case = good()
    fault(case)
    findings = case.findings()
    assert {finding.rule for finding in findings} == {rule}
    first = findings[0]
    if not label:
        assert first.instruction == -1 and first.message.startswith(f"stream: {rule}: ")
        return
    line = case.lines[case.index(label)]
    assert first.instruction == case.index(label)
    assert first.node == line.node
    where = f"instruction {first.instruction}" + (f" ({line.node})" if line.node else "")
    assert first.message.startswith(f"{where}: {rule}: ")
    assert str(first) == first.message and "\n" not in first.message


def test_every_rule_has_a_fault() -> None:
    assert {rule for rule, _, _ in FAULTS} == set(RULES)


def test_require_clean_raises_one_line() -> None:
    case = good()
    context = {"base": BASE, "regions": REGIONS.values(), "constants": case.constants}
    nodes = [(line.node, "Relu_7") for line in case.lines]
    require_clean(TARGET, case.encoded(), initialised=("x",), **context)  # type: ignore[arg-type]
    case.edit("inp4", sram_base=2047)
    case.edit("wgt4", sram_base=1023)
    with pytest.raises(StreamError) as caught:
        require_clean(TARGET, case.encoded(), origins=nodes, **context)  # type: ignore[arg-type]
    index = case.index("inp4")
    assert str(caught.value) == (
        f"instruction {index} (Conv_0, Relu_7): sram-range: SRAM elements 2047..2055 (exclusive), "
        "depth 2048 (and 1 more)"
    )


def test_bad_arguments() -> None:
    case = good()
    case.options = {"profile": "asic"}
    with pytest.raises(TargetError, match="unknown profile 'asic'; profiles are"):
        case.findings()
    with pytest.raises(EncodingError, match="a stream is uint8"):
        check(TARGET, np.zeros((3, 8), np.uint8), base=0, regions=(), constants=image())


def test_design_profiles_relax_rules() -> None:
    case = good()
    case.edit("add9", alu_opcode=4)
    case.edit("max5", uop_bgn=19, uop_end=20)
    case.edit("wgt6", x_pad_0=1, sram_base=100)
    case.edit("max9", alu_opcode=3, imm=16)
    case.edit("gemm6", wgt_factor_in=0)
    case.options = {"profile": "fsim"}
    assert case.findings() == []
    case.options = {"profile": "hls"}
    assert {one.rule for one in case.findings()} == {"alu-opcode", "pads", "shift-immediate"}


def test_findings_are_bounded() -> None:
    case = good()
    for line in case.lines:
        line.fields["push_prev_dep"] = 1
    case.insert("start", *[Line("bad", Opcode.ALU, {"alu_opcode": 4}) for _ in range(100)])
    assert len(case.findings()) == MAX_FINDINGS


def test_region_views_and_reuse_are_legal() -> None:
    """A region may alias part of another; an input's place may be reused by an activation."""
    case = good()
    case.regions["all"] = replace(REGIONS["mid"], name="all", bytes=2 * REGIONS["mid"].bytes)
    case.regions["late"] = replace(REGIONS["x"], name="late", kind="activation", memory=Memory.OUT)
    assert case.findings() == []


def token_pairs(lines: list[Line]) -> list[tuple[int, str, int, str]]:
    """(pushing instruction, bit, popping instruction, bit) of every token, queue by queue."""
    pairs = []
    for (pusher, push), (popper, pop) in QUEUE_ENDS:
        pushes = [i for i, x in enumerate(lines) if module(x) == pusher and x.fields.get(push)]
        pops = [i for i, x in enumerate(lines) if module(x) == popper and x.fields.get(pop)]
        pairs += [(a, push, b, pop) for a, b in zip(pushes, pops, strict=True)]
    return pairs


QUEUE_ENDS = (
    (("load", "push_next_dep"), ("compute", "pop_prev_dep")),
    (("compute", "push_prev_dep"), ("load", "pop_next_dep")),
    (("compute", "push_next_dep"), ("store", "pop_prev_dep")),
    (("store", "push_prev_dep"), ("compute", "pop_next_dep")),
)


def module(line: Line) -> str:
    """Who executes it."""
    if line.opcode == Opcode.STORE:
        return "store"
    loads = (int(Memory.INP), int(Memory.WGT))
    if line.opcode == Opcode.LOAD and line.fields["memory_type"] in loads:
        return "load"
    return "compute"


@pytest.mark.parametrize("number", range(len(token_pairs(good().lines))))
def test_no_token_of_the_good_stream_is_spare(number: int) -> None:
    case = good()
    pusher, push, popper, pop = token_pairs(case.lines)[number]
    case.lines[pusher].fields[push] = case.lines[popper].fields[pop] = 0
    rules = {finding.rule for finding in case.findings()}
    assert rules and rules <= {"sram-raw", "sram-war", "dram-raw", "dram-war", "finish-order"}


@given(
    index=st.integers(0, len(good().lines) - 1),
    name=st.sampled_from(["pop_prev_dep", "pop_next_dep", "push_prev_dep", "push_next_dep"]),
)
def test_every_token_bit_matters(index: int, name: str) -> None:
    case = good()
    fields = case.lines[index].fields
    fields[name] = 1 - fields.get(name, 0)
    assert case.findings()


# --- A brute-force oracle of races: access sets by loops, happens-before by closure. ---


def dram_bytes(line: Line) -> set[int]:
    """16-byte granules of DRAM that a transfer touches."""
    f = line.fields
    unit = TARGET.element_bytes(Memory(f["memory_type"]))
    return {
        ((f["dram_base"] + y * f["x_stride"] + x) * unit + at) // 16
        for y, x in product(range(f["y_size"]), range(f["x_size"]))
        for at in range(0, unit, 16)
    }


def accesses(line: Line) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """(read, written) places, naively."""
    f, reads, writes = line.fields, set(), set()
    if line.opcode in (Opcode.LOAD, Opcode.STORE) and f.get("x_size"):
        memory = Memory(f["memory_type"])
        name = "ACC" if memory is Memory.OUT else memory.name
        start = f["sram_base"]
        sram = {(name, start + i) for i in range(f["x_size"] * f["y_size"])}
        dram = {("DRAM", granule) for granule in dram_bytes(line)}
        return (sram, dram) if line.opcode == Opcode.STORE else (dram, sram)
    if line.opcode in (Opcode.GEMM, Opcode.ALU):
        for i, j in product(range(f["iter_out"]), range(f["iter_in"])):
            for uop in UOPS[f["uop_bgn"] : f["uop_end"]]:
                dst, src, wgt = (
                    base + i * f.get(f"{name}_factor_out", 0) + j * f.get(f"{name}_factor_in", 0)
                    for name, base in zip(("dst", "src", "wgt"), uop, strict=True)
                )
                writes.add(("ACC", dst))
                if line.opcode == Opcode.GEMM and not f.get("reset_reg"):
                    reads |= {("INP", src), ("WGT", wgt)}
    return reads, writes


def races(lines: list[Line]) -> bool:
    """Whether two conflicting accesses of different modules are not ordered by tokens."""
    before: list[set[int]] = [set() for _ in lines]
    edges: dict[int, list[int]] = {}
    for pusher, _, popper, _ in token_pairs(lines):
        edges.setdefault(popper, []).append(pusher)
    last: dict[str, int] = {}
    for i, line in enumerate(lines):
        for previous in [
            *edges.get(i, []),
            *([last[module(line)]] if module(line) in last else []),
        ]:
            before[i] |= before[previous] | {previous}
        last[module(line)] = i
    touched = [accesses(line) for line in lines]
    unordered = [(i, k) for i, known in enumerate(before) for k in range(i) if k not in known]
    for later, earlier in unordered:
        (reads, writes), (other_reads, other_writes) = touched[later], touched[earlier]
        apart = writes.isdisjoint(other_writes) and writes.isdisjoint(other_reads)
        if not (apart and reads.isdisjoint(other_writes)):
            return True
    return False


def test_oracle_of_races() -> None:
    case = good()
    assert not races(case.lines)
    case.edit("wgt3", push_next_dep=0)
    case.edit("gemm3", pop_prev_dep=0)
    assert races(case.lines)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_races_equal_the_brute_force_oracle(data: st.DataObject) -> None:
    """Tokens removed and transfers moved at random, checker and oracle agree on races."""
    case = good()
    pairs = token_pairs(case.lines)
    chosen = data.draw(st.lists(st.sampled_from(range(len(pairs))), max_size=2, unique=True))
    for number in chosen:
        pusher, push, popper, pop = pairs[number]
        case.lines[pusher].fields[push] = case.lines[popper].fields[pop] = 0
    moves = data.draw(st.lists(st.integers(0, 2 * TILES - 1), max_size=2, unique=True))
    for n in moves:
        kind = data.draw(st.sampled_from(["inp", "wgt", "store"]))
        fields = case.lines[case.index(f"{kind}{n}")].fields
        fields["sram_base"] = data.draw(st.integers(0, 12))
        if kind == "store":
            fields["dram_base"] = element("mid", data.draw(st.integers(0, 28)))
        if kind == "inp":
            fields["dram_base"] = INP_OF_MID + data.draw(st.integers(0, 28))
            fields["x_stride"] = data.draw(st.integers(0, ROW))
    found = {one.rule for one in case.findings()}
    found &= {"sram-raw", "sram-war", "dram-raw", "dram-war"}
    assert bool(found) == races(case.lines)


def test_many_open_accesses_are_merged_conservatively() -> None:
    report = Report(None, 10**9)
    clocks = Clocks(255, report)
    open_masks = OpenMasks(clocks, 0, 1, report)
    for number in range(40_000):
        clocks.begin(0, 0)
        open_masks.add(1 << (number % 7), number)
    clocks.now[1][0] = 39_990
    assert open_masks.clash(1 << 6, 40_000) is not None
    clocks.now[1][0] = 40_000
    assert open_masks.clash(0b1111111, 40_000) is None


# --- Closed forms against expansion. ---


class MicroOp(NamedTuple):
    """Indices into ACC, INP or ACC, and WGT."""

    dst: int
    src: int
    wgt: int


indices = st.integers(0, 12)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[list[MicroOp], Shape]:
    uops = draw(st.lists(st.builds(MicroOp, indices, indices, indices), min_size=1, max_size=5))
    steps = st.tuples(st.integers(0, 5), st.integers(0, 5))
    trips = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    kind = draw(st.sampled_from([GEMM, RESET, ALU_IMMEDIATE, ALU_REGISTER]))
    return uops, Shape(kind, trips, draw(steps), draw(steps), draw(steps))


def expanded(uops: list[MicroOp], shape: Shape) -> list[MicroOp]:
    """Every micro-op executed, in order."""
    steps = (shape.dst, shape.src, shape.wgt)
    return [
        MicroOp(
            *(base + i * out + j * inner for base, (out, inner) in zip(uop, steps, strict=True))
        )
        for i, j in product(range(shape.trips[0]), range(shape.trips[1]))
        for uop in uops
    ]


def too_close(run: list[MicroOp], shape: Shape) -> bool:
    if shape.kind == RESET:
        return False
    for at, first in enumerate(run):
        for later in run[at + 1 : at + TARGET.acc_dep_distance]:
            if later.dst == first.dst or (shape.kind == ALU_REGISTER and later.src == first.dst):
                return True
    return False


@settings(max_examples=500, deadline=None)
@given(kernels())
def test_kernels_equal_expansion(kernel: tuple[list[MicroOp], Shape]) -> None:
    uops, shape = kernel
    run = expanded(uops, shape)
    table = Kernels(TARGET, PROFILES["portable"], Report(None, 10**9))
    found = table.get(ISA.encode_uops(np.array(uops)), shape, 0)
    masks = [sum(1 << one for one in {row[k] for row in run}) for k in range(3)]
    assert found.dst == masks[0]
    assert found.src == (0 if shape.kind == ALU_IMMEDIATE else masks[1])
    assert found.wgt == (masks[2] if shape.kind in (GEMM, RESET) else 0)
    expected = {"acc-distance"} if too_close(run, shape) else set()
    if shape.kind == ALU_IMMEDIATE and any(row.dst != row.src for row in run):
        expected.add("alu-source")
    assert {rule for rule, _ in found.faults} == expected


@settings(max_examples=300)
@given(
    *[
        st.builds(
            rows_of, st.integers(0, 60), st.integers(1, 9), st.integers(1, 6), st.integers(0, 14)
        )
    ]
    * 2
)
def test_overlap_equals_sets(a: Rows, b: Rows) -> None:
    def places(rows: Rows) -> set[int]:
        return {
            rows.low + line * rows.step + x for line in range(rows.lines) for x in range(rows.width)
        }

    assert max(places(a)) + 1 == a.high
    assert overlap(a, b) == bool(places(a) & places(b))


# --- Hostile streams. ---


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=16, max_size=64 * 16), st.integers(0, 1 << 32))
def test_any_bytes_get_an_answer(data: bytes, base: int) -> None:
    insns = np.frombuffer(data[: len(data) // 16 * 16], np.uint8).reshape(-1, 16)
    context = {"regions": REGIONS.values(), "constants": image()}
    assert check(TARGET, insns, base=base, **context)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_accepted_stream_leaves_its_regions(data: st.DataObject) -> None:
    """Whatever bits are changed: no exception, and what is clean stays inside the regions."""
    case = good()
    insns = case.encoded()
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.integers(0, len(insns) - 1))
        insns[row, data.draw(st.integers(0, 15))] ^= 1 << data.draw(st.integers(0, 7))
    context = {"base": BASE, "constants": case.constants, "initialised": ("x",)}
    if check(TARGET, insns, regions=REGIONS.values(), **context):  # type: ignore[arg-type]
        return
    fields = ISA.decode_stream(insns).fields
    transfers = (fields["opcode"] <= Opcode.STORE) & (fields["x_size"] > 0)
    for row in np.flatnonzero(transfers).tolist():
        values = {name: int(column[row]) for name, column in fields.items()}
        line = Line("", Opcode(values["opcode"]), values)
        granules = dram_bytes(line)
        low, high = min(granules) * 16 - BASE, max(granules) * 16 + 16 - BASE
        writable = [r for r in REGIONS.values() if r.kind in ("output", "activation")]
        allowed = writable if line.opcode == Opcode.STORE else REGIONS.values()
        assert any(r.start // 16 * 16 <= low and high <= r.start + r.bytes + 8 for r in allowed)


def test_hostile_streams_end_in_time() -> None:
    """Half a million instructions, each over all of the arena, none synchronised."""
    size = 16 << 20
    regions = [Region("x", "input", Memory.INP, 4096, size)]
    columns = {name: np.zeros(500_000, np.int64) for name in FIELD_NAMES}
    columns["opcode"][-1] = Opcode.FINISH
    fields = transfer(Memory.INP, 0, (BASE + 4096) // 16, 2, 1000, 1040)
    for name, value in fields.items():
        columns[name][1:-1] = value
    insns = ISA.encode_stream(columns)
    started = time.monotonic()
    findings = check(
        TARGET,
        insns,
        base=BASE,
        regions=regions,
        constants=np.zeros(0, np.uint8),
        initialised=("x",),
        work_limit=1_000_000,
    )
    assert [finding.rule for finding in findings] == ["work-limit"]
    assert time.monotonic() - started < 20


def test_hostile_kernels_end_in_time() -> None:
    """Every instruction has another long window of micro-ops."""
    lines = prologue()
    lines[1].fields |= {"x_size": 2048, "x_stride": 2048}
    lines[2].fields |= {"sram_base": 0, "x_size": 2048, "x_stride": 2048}
    for n in range(40_000):
        alu = loops(n % 500, 1000 - n // 500 - n % 500, (3, 4, 0), (3, 8, 0))
        lines.append(Line("", Opcode.ALU, alu | {"alu_opcode": 2}))
    lines.append(Line("", Opcode.FINISH, {}))
    regions = place(
        [("uops", "constant", Memory.UOP, 2048), ("vectors", "constant", Memory.ACC, 2048)]
    )
    constants = np.zeros(regions["vectors"].start + 2048 * 64 - 4096, np.uint8)
    uops = np.stack([np.arange(2048) % 1024, np.full(2048, 2000), np.zeros(2048, int)], axis=1)
    constants[: 4 * 2048] = ISA.encode_uops(uops).view(np.uint8)
    for line in lines[1:3]:
        name = line.label
        unit = TARGET.element_bytes(regions[name].memory)
        line.fields["dram_base"] = (BASE + regions[name].start) // unit
    context = {"regions": regions.values(), "constants": constants, "work_limit": 500_000}
    started = time.monotonic()
    findings = check(TARGET, encode(lines), base=BASE, **context)  # type: ignore[arg-type]
    assert [finding.rule for finding in findings] == ["work-limit"]
    assert time.monotonic() - started < 20


def test_region_bombs_are_refused() -> None:
    nested = [
        Region(f"r{i}", "activation", Memory.OUT, 4096 + 16 * i, 16 * (8000 - 2 * i))
        for i in range(3000)
    ]
    findings = check(TARGET, good().encoded(), base=BASE, regions=nested, constants=image())
    assert [finding.rule for finding in findings] == ["work-limit"]
    assert "too many regions share addresses" in findings[0].message


STREAMS = os.environ.get("VTAFLOW_STREAMS", "")
RECORDED = sorted(Path(STREAMS).glob("*conv*.npz")) if STREAMS else []


@pytest.mark.skipif(not RECORDED, reason="VTAFLOW_STREAMS names no folder of recorded streams")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_another_compilers_streams_have_no_false_findings(path: Path) -> None:
    """Its streams are right but for padding bits and the leading NOP, which are mended here."""
    fields = dict(ISA.decode_stream(np.load(path)["insns"]).fields)
    nop = (fields["opcode"] <= Opcode.STORE) & (fields["x_size"] == 0)
    for name in set(FIELD_NAMES) - {"opcode", "memory_type"}:
        if not name.endswith("_dep"):
            fields[name] = np.where(nop, 0, fields[name])
    fields = {name: np.concatenate([[0], column]) for name, column in fields.items()}
    base, regions, constants = recorded_memory(np.load(path), fields)
    findings = check(
        TARGET,
        ISA.encode_stream(fields),
        base=base,
        regions=regions,
        constants=constants,
        initialised=[one.name for one in regions if one.memory is not Memory.OUT],
    )
    assert findings == []


def recorded_memory(
    recorded: np.lib.npyio.NpzFile, fields: dict[str, NDArray[np.int64]]
) -> tuple[int, list[Region], NDArray[np.uint8]]:
    """Base, regions and constants for a recorded stream: one region for each memory and run."""
    moved = (fields["opcode"] <= Opcode.STORE) & (fields["x_size"] > 0)
    spans: list[tuple[Memory, int, int]] = []
    for memory in Memory:
        rows = np.flatnonzero(moved & (fields["memory_type"] == memory))
        unit = TARGET.element_bytes(memory)
        low = fields["dram_base"][rows] * unit
        size = (fields["y_size"] - 1) * fields["x_stride"] + fields["x_size"]
        for begin, end in sorted(
            zip(low.tolist(), (low + size[rows] * unit).tolist(), strict=True)
        ):
            if spans and spans[-1][0] is memory and begin <= spans[-1][2]:
                spans[-1] = (memory, spans[-1][1], max(end, spans[-1][2]))
            else:
                spans.append((memory, begin, end))
    base = min(begin for _, begin, _ in spans) // 4096 * 4096 - 4096
    regions = [
        Region(
            f"{memory.name}{begin}",
            "constant" if memory is Memory.UOP else "activation",
            memory,
            begin - base,
            end - begin,
        )
        for memory, begin, end in spans
    ]
    last = max(one.start + one.bytes for one in regions if one.kind == "constant")
    constants = np.zeros(last - 4096, np.uint8)
    ends = np.cumsum(recorded["pre_len"].astype(np.int64))
    starts = recorded["pre_addr"].astype(np.int64) - base - 4096
    for start, end, size in zip(starts, ends, recorded["pre_len"].astype(np.int64), strict=True):
        part = recorded["pre_data"][end - size : end][: max(0, len(constants) - start)]
        constants[start : start + len(part)] = part
    return base, regions, constants
