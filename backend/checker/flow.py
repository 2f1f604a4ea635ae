"""The stream in program order: what every instruction reads and writes, and whether it may.

Relies on the rules that were checked before it: field values, token counts, regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..commands import AluOp, Memory
from ..isa import Opcode
from ..profile import Profile
from ..target import Target
from .columns import COMPUTE, LOAD, STORE, Column, Columns, Mask
from .fields import sram_elements
from .findings import Report, Stop
from .kernels import (
    ALU_IMMEDIATE,
    ALU_REGISTER,
    GEMM,
    MEMO_ENTRIES,
    RESET,
    Kernel,
    Kernels,
    Shape,
)
from .memory_map import Candidates, MemoryMap
from .order import Clocks, OpenRows
from .rows import Rows, rows_of
from .scratchpads import Scratchpads

OTHER, LOAD_INP, LOAD_WGT, LOAD_UOP, LOAD_ACC, GEMM_INSN, ALU_INSN, STORE_INSN, FINISH = range(9)
"""What an instruction does; NOPs do nothing."""

COST = 20
"""Steps that an instruction takes by itself."""


class Flow:
    """Follows one stream piece by piece."""

    def __init__(
        self, target: Target, profile: Profile, base: int, memory_map: MemoryMap, report: Report
    ) -> None:
        self._target = target
        self._profile = profile
        self._base = base
        self._map = memory_map
        self._report = report
        self._clocks = Clocks(profile.token_capacity, report)
        self._sram = Scratchpads(self._clocks, profile.separate_out, report)
        self._kernels = Kernels(target, profile, report)
        self._uops = np.zeros(target.depth(Memory.UOP), np.uint32)
        self._small: dict[Rows, int] = {}
        self._stored = {
            module: OpenRows(self._clocks, STORE, module, report) for module in (LOAD, COMPUTE)
        }
        self._loaded = {
            module: OpenRows(self._clocks, module, STORE, report) for module in (LOAD, COMPUTE)
        }

    def feed(self, columns: Columns) -> None:
        """Follow the next piece."""
        clocks, act = self._clocks, self._act
        piece = _Piece(self._target, self._base, columns)
        modules, deps = columns.module.tolist(), columns.deps.tolist()
        for row, (module, bits) in enumerate(zip(modules, deps, strict=True)):
            clocks.begin(module, bits)
            act(piece, row)
            clocks.end(module, bits, piece.first + row)

    def _act(self, piece: _Piece, row: int) -> None:
        what, index = piece.what[row], piece.first + row
        self._report.spend(index, COST)
        if what == LOAD_INP:
            self._load(piece, row, Memory.INP)
        elif what == LOAD_WGT:
            self._load(piece, row, Memory.WGT)
        elif what == GEMM_INSN:
            self._gemm(piece, row)
        elif what == ALU_INSN:
            self._alu(piece, row)
        elif what == LOAD_UOP:
            self._load_uop(piece, row)
        elif what == LOAD_ACC:
            self._load_acc(piece, row)
        elif what == STORE_INSN:
            self._store(piece, row)
        elif what == FINISH and not self._clocks.all_known(COMPUTE):
            self._report.add(index, "finish-order", "a LOAD or STORE may still run at FINISH")

    def _load(self, piece: _Piece, row: int, memory: Memory) -> None:
        index = piece.first + row
        self._read_dram(piece.rows(row), memory, LOAD, index)
        self._sram.load(memory, piece.mask(row), index)

    def _load_uop(self, piece: _Piece, row: int) -> None:
        index, rows = piece.first + row, piece.rows(row)
        if not self._find(Memory.UOP, rows, index):
            raise Stop  # what the stream does from here on is unknown
        begin, count = piece.sram[row], piece.elements[row]
        self._uops[begin : begin + count] = self._map.uop_words(rows.low, count)
        self._sram.load_uops(piece.mask(row))

    def _load_acc(self, piece: _Piece, row: int) -> None:
        index, rows = piece.first + row, piece.rows(row)
        regions = self._read_dram(rows, Memory.ACC, COMPUTE, index)
        small = 0
        if regions and self._map.is_constant(regions) and not piece.rearranges[row]:
            small = self._small_lanes(rows, index) << piece.sram[row]
        self._sram.load_acc(piece.mask(row), small, index)

    def _small_lanes(self, rows: Rows, index: int) -> int:
        """The elements of constant `rows` that may serve as shift amounts, memoised."""
        if rows not in self._small:
            if len(self._small) >= MEMO_ENTRIES:
                self._small.clear()
            low, high = self._profile.shr_lane_min, self._profile.shr_lane_max
            self._report.spend(index, 20 + rows.lines * rows.width // 256)
            self._small[rows] = self._map.small_lanes(rows, low, high)
        return self._small[rows]

    def _gemm(self, piece: _Piece, row: int) -> None:
        index, reset = piece.first + row, piece.reset[row] == 1
        kernel = self._kernel(piece, row, RESET if reset else GEMM)
        if not reset:
            self._sram.read_loaded(Memory.INP, kernel.src, index)
            self._sram.read_loaded(Memory.WGT, kernel.wgt, index)
            self._sram.require(Memory.ACC, kernel.dst, index)
        self._sram.compute(kernel.dst, reset, index)

    def _alu(self, piece: _Piece, row: int) -> None:
        index, immediate = piece.first + row, piece.use_imm[row] == 1
        kernel = self._kernel(piece, row, ALU_IMMEDIATE if immediate else ALU_REGISTER)
        self._sram.require(Memory.ACC, kernel.dst | kernel.src, index)
        if not immediate and piece.alu_opcode[row] == AluOp.SHR:
            self._sram.shift_by(kernel.src, kernel.dst, index)
        self._sram.compute(kernel.dst, False, index)

    def _kernel(self, piece: _Piece, row: int, kind: int) -> Kernel:
        """The kernel of a GEMM or ALU instruction.

        Raises Stop, with a finding, if its micro-ops are not there or leave SRAM.
        """
        index, begin, end = piece.first + row, piece.uop_bgn[row], piece.uop_end[row]
        if not self._sram.require(Memory.UOP, (1 << end) - (1 << begin), index):
            raise Stop
        kernel = self._kernels.get(self._uops[begin:end], piece.shape(row, kind), index)
        for rule, detail in kernel.faults:
            self._report.add(index, rule, detail)
        if not kernel.dst:
            raise Stop
        return kernel

    def _store(self, piece: _Piece, row: int) -> None:
        index, rows = piece.first + row, piece.rows(row)
        self._sram.store(piece.mask(row), index)
        regions = self._find(Memory.OUT, rows, index)
        if not regions:
            return
        for module in (LOAD, COMPUTE):
            other = self._loaded[module].clash(rows, index)
            if other is not None:
                self._report.add(
                    index,
                    "dram-war",
                    f"overwrites {self._map.name(regions)}, which instruction {other} may still "
                    "be loading",
                )
            self._stored[module].add(rows, index)
        self._map.store(rows, regions, index)

    def _read_dram(self, rows: Rows, memory: Memory, module: int, index: int) -> Candidates:
        """A LOAD reads `rows`; the regions that it may mean."""
        regions = self._find(memory, rows, index)
        if not regions or self._map.is_constant(regions):
            return regions
        name = self._map.name(regions)
        other = self._stored[module].clash(rows, index)
        if other is not None:
            detail = f"loads {name}, which instruction {other} may still be storing"
            self._report.add(index, "dram-raw", detail)
        self._loaded[module].add(rows, index)
        owner = self._map.foreign_owner(rows, regions, index)
        if owner == ():
            detail = f"loads {name} where nothing was stored before"
            self._report.add(index, "uninitialised-dram", detail)
        elif owner is not None:
            detail = f"loads {name} where {self._map.name(owner)} was stored last"
            self._report.add(index, "dram-overwritten", detail)
        return regions

    def _find(self, memory: Memory, rows: Rows, index: int) -> Candidates:
        regions, rule, detail = self._map.find(memory, rows.low, rows.high)
        if rule:
            act = "STORE" if memory is Memory.OUT else f"LOAD {memory.name}"
            self._report.add(index, rule, f"{act}: {detail}")
        return regions


class _Piece:
    """The columns that the flow reads, as lists of Python integers (fast to index)."""

    def __init__(self, target: Target, base: int, columns: Columns) -> None:
        self.first = columns.first
        self.what: list[int] = _what(columns).tolist()
        bytes_of = [target.element_bytes(memory) for memory in Memory] + [1, 1, 1]
        unit = np.array(bytes_of, np.int64)[columns["memory_type"]]
        self._low: list[int] = (columns["dram_base"] * unit - base).tolist()
        self._width: list[int] = (columns["x_size"] * unit).tolist()
        self._step: list[int] = (columns["x_stride"] * unit).tolist()
        self._count: list[int] = columns["y_size"].tolist()
        self.rearranges: list[bool] = _rearranges(columns).tolist()
        self.sram: list[int] = columns["sram_base"].tolist()
        self.elements: list[int] = sram_elements(columns).tolist()
        self.uop_bgn: list[int] = columns["uop_bgn"].tolist()
        self.uop_end: list[int] = columns["uop_end"].tolist()
        self.reset: list[int] = columns["reset_reg"].tolist()
        self.use_imm: list[int] = columns["use_imm"].tolist()
        self.alu_opcode: list[int] = columns["alu_opcode"].tolist()
        self._loops = _pairs(columns, "iter_out", "iter_in")
        self._dst = _pairs(columns, "dst_factor_out", "dst_factor_in")
        self._src = _pairs(columns, "src_factor_out", "src_factor_in")
        self._wgt = _pairs(columns, "wgt_factor_out", "wgt_factor_in")

    def rows(self, row: int) -> Rows:
        """The DRAM bytes of a transfer, relative to the arena."""
        return rows_of(self._low[row], self._width[row], self._count[row], self._step[row])

    def mask(self, row: int) -> int:
        """The SRAM elements of a transfer."""
        return (1 << self.elements[row]) - 1 << self.sram[row]

    def shape(self, row: int, kind: int) -> Shape:
        """The loops of a GEMM or ALU instruction."""
        return Shape(kind, self._loops[row], self._dst[row], self._src[row], self._wgt[row])


def _pairs(columns: Columns, outer: str, inner: str) -> Sequence[tuple[int, int]]:
    return list(zip(columns[outer].tolist(), columns[inner].tolist(), strict=True))


def _rearranges(columns: Columns) -> Mask:
    """Where SRAM does not get each byte of DRAM once, in order: pads, rows that overlap."""
    rows_overlap = (columns["y_size"] > 1) & (columns["x_stride"] < columns["x_size"])
    padded = sram_elements(columns) != columns["x_size"] * columns["y_size"]
    return np.asarray(rows_overlap | padded)


def _what(columns: Columns) -> Column:
    what = np.full(len(columns), OTHER, np.int64)
    for mask, code in (
        (columns.moves(Opcode.LOAD, Memory.INP), LOAD_INP),
        (columns.moves(Opcode.LOAD, Memory.WGT), LOAD_WGT),
        (columns.moves(Opcode.LOAD, Memory.UOP), LOAD_UOP),
        (columns.moves(Opcode.LOAD, Memory.ACC), LOAD_ACC),
        (columns.is_opcode(Opcode.GEMM), GEMM_INSN),
        (columns.is_opcode(Opcode.ALU), ALU_INSN),
        (columns.moves(Opcode.STORE, Memory.OUT), STORE_INSN),
        (columns.is_opcode(Opcode.FINISH), FINISH),
    ):
        what[mask] = code
    return what
