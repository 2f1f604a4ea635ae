"""Rules about one instruction by itself, as a table of vectorised conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..commands import AluOp, Memory
from ..isa import AluOpcode, Opcode
from ..profile import Profile
from ..target import Target
from .columns import LOAD, STORE, Column, Columns, Mask
from .findings import Report

_LOADED = (Memory.UOP, Memory.WGT, Memory.INP, Memory.ACC)
_PADS = ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")


@dataclass(frozen=True)
class Limits:
    """The numbers that a stream must respect."""

    target: Target
    profile: Profile

    @property
    def uop(self) -> int:
        """Micro-op indices that may be used."""
        depth = self.target.depth(Memory.UOP)
        return self.target.uop_limit if self.profile.uop_depth is not None else depth


Condition = Callable[[Columns, Limits], Mask]


@dataclass(frozen=True)
class FieldRule:
    """A rule's name, where it is broken, and the text, formatted with the instruction's fields."""

    rule: str
    broken: Condition
    detail: str


def check_fields(columns: Columns, limits: Limits, report: Report) -> None:
    """Report every instruction that breaks a rule by itself."""
    for rule in FIELD_RULES:
        for row in np.flatnonzero(rule.broken(columns, limits)).tolist():
            values = {name: int(column[row]) for name, column in columns.fields.items()}
            values["uop_limit"] = limits.uop
            values["shr_min"] = limits.profile.shr_imm_min
            values["shr_max"] = limits.profile.shr_imm_max
            values["sram_end"] = int(_sram_end(columns)[row])
            values["sram_depth"] = int(_sram_depth(columns, limits)[row])
            report.add(columns.first + row, rule.rule, rule.detail.format_map(values))


def sram_elements(columns: Columns) -> Column:
    """Elements that a LOAD writes or a STORE reads, pads included."""
    rows = columns["y_pad_0"] + columns["y_size"] + columns["y_pad_1"]
    return np.asarray(rows * (columns["x_pad_0"] + columns["x_size"] + columns["x_pad_1"]))


def _sram_end(columns: Columns) -> Column:
    return np.asarray(columns["sram_base"] + sram_elements(columns))


def _sram_depth(columns: Columns, limits: Limits) -> Column:
    depths = [limits.target.depth(memory) for memory in Memory] + [0, 0, 0]
    return np.array(depths, np.int64)[columns["memory_type"]]


def _memory_type(columns: Columns, limits: Limits) -> Mask:
    known = np.isin(columns["memory_type"], [int(memory) for memory in _LOADED])
    load = columns.is_opcode(Opcode.LOAD) & ~known
    store = columns.is_opcode(Opcode.STORE) & (columns["memory_type"] != Memory.OUT)
    return np.asarray(columns.transfer & (load | store))


def _padding_bits(columns: Columns, limits: Limits) -> Mask:
    return np.asarray(columns.stray & (columns["opcode"] <= Opcode.ALU))


def _dep_neighbour(columns: Columns, limits: Limits) -> Mask:
    previous, following = columns.deps & 0b0101, columns.deps & 0b1010
    load = (columns.module == LOAD) & (previous != 0)
    return np.asarray(load | ((columns.module == STORE) & (following != 0)))


def _zero_size(columns: Columns, limits: Limits) -> Mask:
    return np.asarray(columns.transfer & ((columns["x_size"] == 0) | (columns["y_size"] == 0)))


def _arithmetic(columns: Columns) -> Mask:
    return np.asarray(columns.is_opcode(Opcode.GEMM) | columns.is_opcode(Opcode.ALU))


def _zero_loop(columns: Columns, limits: Limits) -> Mask:
    still = (columns["iter_out"] == 0) | (columns["iter_in"] == 0)
    return np.asarray(_arithmetic(columns) & (still | (columns["uop_bgn"] >= columns["uop_end"])))


def _pads(columns: Columns, limits: Limits) -> Mask:
    padded = np.logical_or.reduce([columns[name] != 0 for name in _PADS])
    allowed = columns.moves(Opcode.LOAD, Memory.INP)
    if limits.profile.wgt_pads:
        allowed = allowed | columns.moves(Opcode.LOAD, Memory.WGT)
    if limits.profile.acc_pads:
        allowed = allowed | columns.moves(Opcode.LOAD, Memory.ACC)
    return np.asarray(columns.transfer & padded & ~allowed)


def _uop_rows(columns: Columns, limits: Limits) -> Mask:
    one_row = (columns["y_size"] <= 1) & (columns["x_stride"] == columns["x_size"])
    return np.asarray(columns.moves(Opcode.LOAD, Memory.UOP) & ~one_row)


def _uop_depth(columns: Columns, limits: Limits) -> Mask:
    load = columns.moves(Opcode.LOAD, Memory.UOP) & (_sram_end(columns) > limits.uop)
    return np.asarray(load | (_arithmetic(columns) & (columns["uop_end"] > limits.uop)))


def _sram_range(columns: Columns, limits: Limits) -> Mask:
    beyond = _sram_end(columns) > _sram_depth(columns, limits)
    known = columns["memory_type"] <= Memory.OUT
    return np.asarray(columns.transfer & beyond & known & (columns["memory_type"] != Memory.UOP))


def _alu_opcode(columns: Columns, limits: Limits) -> Mask:
    highest = AluOpcode.MUL if limits.profile.mul else AluOpcode.SHR
    return np.asarray(columns.is_opcode(Opcode.ALU) & (columns["alu_opcode"] > highest))


def _shift(columns: Columns) -> Mask:
    return np.asarray(columns.is_opcode(Opcode.ALU) & (columns["alu_opcode"] == AluOp.SHR))


def _shift_immediate(columns: Columns, limits: Limits) -> Mask:
    low, high = limits.profile.shr_imm_min, limits.profile.shr_imm_max
    outside = (columns["imm"] < low) | (columns["imm"] > high)
    return np.asarray(_shift(columns) & (columns["use_imm"] == 1) & outside)


def _shift_register(columns: Columns, limits: Limits) -> Mask:
    return np.asarray(_shift(columns) & (columns["use_imm"] == 0) & (columns["imm"] != 0))


def _dram_zero(columns: Columns, limits: Limits) -> Mask:
    return np.asarray(columns.transfer & (columns["x_size"] > 0) & (columns["dram_base"] == 0))


FIELD_RULES: tuple[FieldRule, ...] = (
    FieldRule("opcode", lambda c, _: c["opcode"] > Opcode.ALU, "opcode {opcode} is undefined"),
    FieldRule("memory-type", _memory_type, "memory_type {memory_type} with opcode {opcode}"),
    FieldRule("padding-bits", _padding_bits, "a bit outside every field is set"),
    FieldRule(
        "dep-neighbour",
        _dep_neighbour,
        "LOAD INP and WGT have no previous module, STORE has no next one",
    ),
    FieldRule(
        "zero-size",
        _zero_size,
        "x_size {x_size}, y_size {y_size}: moves nothing and is no plain NOP",
    ),
    FieldRule(
        "zero-loop",
        _zero_loop,
        "iter_out {iter_out}, iter_in {iter_in}, micro-ops {uop_bgn}..{uop_end}: nothing to do",
    ),
    FieldRule(
        "pads",
        _pads,
        "pads y {y_pad_0} {y_pad_1} x {x_pad_0} {x_pad_1} with memory_type {memory_type}; "
        "only INP may pad",
    ),
    FieldRule(
        "uop-rows",
        _uop_rows,
        "y_size {y_size}, x_size {x_size}, x_stride {x_stride}: LOAD UOP copies one row, "
        "with x_stride = x_size",
    ),
    FieldRule(
        "uop-depth",
        _uop_depth,
        "UOP index reaches beyond {uop_limit} (sram_base {sram_base} + x_size {x_size}, "
        "uop_end {uop_end})",
    ),
    FieldRule(
        "sram-range",
        _sram_range,
        "SRAM elements {sram_base}..{sram_end} (exclusive), depth {sram_depth}",
    ),
    FieldRule("alu-opcode", _alu_opcode, "ALU opcode {alu_opcode} is not portable"),
    FieldRule(
        "shift-immediate", _shift_immediate, "SHR by immediate {imm}, not in {shr_min}..{shr_max}"
    ),
    FieldRule("shift-register", _shift_register, "SHR by register with imm {imm}, not 0"),
    FieldRule("dram-zero", _dram_zero, "dram_base 0 with x_size {x_size}"),
)
