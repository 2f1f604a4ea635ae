"""The emulated pipeline: instructions executed one micro-op at a time, accumulator races included.

Slow and exact where the functional simulator is fast: a GEMM or ALU micro-op sees an accumulator
as it was some micro-ops ago (docs/hardware.md, "Accumulator distance"). SRAM outlives a launch, as
it does in hardware.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import AluOpcode, Isa, MemoryType, Opcode, Stream
from ..backend.profile import Profile
from ..backend.target import Target
from ..errors import StreamError
from .alu import Operation
from .memory import ADDRESS_SPACE, Dram

CHUNK = 1 << 16
RACE_LIMIT = 1 << 18
"""Micro-ops that a stream with races may execute."""

Row = dict[str, int]
Indices = NDArray[np.int64]
_LANES = {Memory.UOP: "<u4", Memory.INP: "i1", Memory.WGT: "i1", Memory.ACC: "<i4"}


class Pipeline:
    """SRAM of one VTA, zeros at first, and the execution of streams on it."""

    def __init__(self, target: Target, profile: Profile) -> None:
        self._profile, self._isa = profile, Isa.of(target)
        self._unit = {memory: target.element_bytes(memory) for memory in Memory}
        rows, block = target.batch, target.block_in
        limit = profile.uop_depth or target.depth(Memory.UOP)
        self._sram: dict[Memory, NDArray[np.generic]] = {
            Memory.UOP: np.zeros(min(limit, target.depth(Memory.UOP)), np.uint32),
            Memory.INP: np.zeros((target.depth(Memory.INP), rows, block), np.int8),
            Memory.WGT: np.zeros((target.depth(Memory.WGT), block, block), np.int8),
            Memory.ACC: np.zeros((target.depth(Memory.ACC), rows, block), np.int32),
            Memory.OUT: np.zeros((target.depth(Memory.OUT), rows, block), np.int8),
        }

    def run(self, stream: Stream, order: Indices, dram: Dram, source: Dram | None = None) -> None:
        """Execute the instructions at the positions `order`; LOADs read from `source`.

        Raises StreamError where an address lies in no memory.
        """
        columns = {name: column.tolist() for name, column in stream.fields.items()}
        for position in order.tolist():
            row = {name: column[position] for name, column in columns.items()}
            if row["opcode"] == Opcode.LOAD:
                self._load(row, source or dram)
            elif row["opcode"] == Opcode.STORE:
                self._store(row, dram)
            elif row["opcode"] in (Opcode.GEMM, Opcode.ALU):
                self._compute(row)

    def _load(self, row: Row, dram: Dram) -> None:
        if row["memory_type"] > MemoryType.ACC:
            return
        memory = Memory(row["memory_type"])
        pads = {
            Memory.INP: self._profile.inp_pads,
            Memory.WGT: self._profile.wgt_pads,
            Memory.ACC: self._profile.acc_pads,
            Memory.UOP: self._profile.uop_rows,
        }[memory]
        y0, y1, x0, x1 = (
            row[name] if pads else 0 for name in ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")
        )
        one_row = memory is Memory.UOP and not self._profile.uop_rows
        rows = 1 if one_row else row["y_size"]
        sram, place = self._sram[memory], row["sram_base"]
        for y in range(-y0, rows + y1):
            for x in range(-x0, row["x_size"] + x1):
                inside = 0 <= y < rows and 0 <= x < row["x_size"]
                element = row["dram_base"] + y * row["x_stride"] + x
                sram[place % len(sram)] = self._element(dram, memory, element) if inside else 0
                place += 1

    def _store(self, row: Row, dram: Dram) -> None:
        sram = self._sram[Memory.OUT]
        for y in range(row["y_size"]):
            for x in range(row["x_size"]):
                value = sram[(row["sram_base"] + y * row["x_size"] + x) % len(sram)]
                target = self._bytes(dram, Memory.OUT, row["dram_base"] + y * row["x_stride"] + x)
                target[:] = value.astype(np.int8).view(np.uint8).reshape(-1)

    def _element(self, dram: Dram, memory: Memory, element: int) -> NDArray[np.generic]:
        shape = self._sram[memory].shape[1:]
        return self._bytes(dram, memory, element).copy().view(_LANES[memory]).reshape(shape)

    def _bytes(self, dram: Dram, memory: Memory, element: int) -> NDArray[np.uint8]:
        unit = self._unit[memory]
        address = element * unit % ADDRESS_SPACE
        segment = dram.covering(address, address + unit)
        if segment is None:
            raise StreamError(f"DRAM address {address:#x} lies in no memory of the board")
        return dram.read(segment, address, unit)

    def _compute(self, row: Row) -> None:
        """A GEMM or ALU instruction, whose micro-ops see late what earlier ones wrote."""
        gemm = row["opcode"] == Opcode.GEMM
        distance = self._profile.gemm_distance if gemm else self._profile.alu_distance
        acc, out = self._sram[Memory.ACC], self._sram[Memory.OUT]
        late: deque[tuple[int, NDArray[np.generic]]] = deque()
        for dst, src, wgt in self._micro_ops(row):
            if len(late) == distance:
                index, value = late.popleft()
                acc[index] = value
            new = self._product(row, dst, src, wgt) if gemm else self._operation(row, dst, src)
            reset = gemm and row["reset_reg"]
            if not reset or self._profile.reset_writes_out:
                out[dst] = new.astype(np.int8)
            late.append((dst, np.zeros_like(new) if reset else new))
        for index, value in late:
            acc[index] = value

    def _micro_ops(self, row: Row) -> Iterator[list[int]]:
        """dst, src, wgt of each micro-op as it is executed, wrapped at the depths."""
        gemm = row["opcode"] == Opcode.GEMM
        memories = (Memory.ACC, Memory.INP if gemm else Memory.ACC, Memory.WGT)
        depths = [len(self._sram[memory]) for memory in memories]
        kernel = kernel_of(self._isa, self._sram[Memory.UOP], row)
        for part in flattened(kernel, row):
            yield from (part % np.array(depths)).tolist()

    def _product(self, row: Row, dst: int, src: int, wgt: int) -> NDArray[np.int32]:
        inp = self._sram[Memory.INP][src].astype(np.int32)
        weights = self._sram[Memory.WGT][wgt].astype(np.int32)
        total: NDArray[np.int32] = self._sram[Memory.ACC][dst] + inp @ weights.T
        return total

    def _operation(self, row: Row, dst: int, src: int) -> NDArray[np.int32]:
        acc, immediate = self._sram[Memory.ACC], bool(row["use_imm"])
        if row["alu_opcode"] > AluOpcode.SHR:
            raise StreamError(f"ALU opcode {row['alu_opcode']} is not emulated")
        rule = self._profile.shr_imm if immediate else self._profile.shr_register
        from_source = immediate and self._profile.alu_imm_reads_src
        imm, sign = (row["imm"], 0) if immediate else (None, row["imm"])
        operation = Operation(row["alu_opcode"], imm, rule, from_source, sign)
        new: NDArray[np.int32] = acc[src if from_source else dst].astype(np.int32)
        operation.apply(new, None if immediate else acc[src])
        return new


def kernel_of(isa: Isa, uops: NDArray[np.generic], row: Row) -> Indices:
    """The micro-ops that a GEMM or ALU instruction names, int64[n, 3]."""
    places = np.arange(row["uop_bgn"], max(row["uop_bgn"], row["uop_end"])) % len(uops)
    return isa.decode_uops(uops[places].astype(np.uint32))


def flattened(kernel: Indices, row: Row, overlap: int = 0) -> Iterator[Indices]:
    """dst, src, wgt of the micro-ops as they are executed, int64[n, 3], in parts.

    Each part repeats the last `overlap` micro-ops of the one before.
    """
    total = len(kernel) * row["iter_in"] * row["iter_out"]
    outer = [row[f"{name}_factor_out"] for name in ("dst", "src", "wgt")]
    inner = [row[f"{name}_factor_in"] for name in ("dst", "src", "wgt")]
    for start in range(0, total, CHUNK):
        moment = np.arange(max(0, start - overlap), min(start + CHUNK, total), dtype=np.int64)
        loop, place = np.divmod(moment, len(kernel))
        i, j = np.divmod(loop, row["iter_in"])
        yield kernel[place] + i[:, None] * np.array(outer) + j[:, None] * np.array(inner)


def races(target: Target, profile: Profile, stream: Stream, dram: Dram) -> bool:
    """Whether a micro-op of the stream uses an accumulator too soon after another wrote it.

    Looks at the stream in its own order, with micro-ops as they lie in memory now. Raises
    StreamError if there are races in more micro-ops than can be executed one at a time.
    """
    isa = Isa.of(target)
    uops = np.zeros(profile.uop_depth or target.depth(Memory.UOP), np.uint32)
    known: dict[tuple[object, ...], bool] = {}
    found, work = False, 0
    columns = {name: column.tolist() for name, column in stream.fields.items()}
    for position, opcode in enumerate(columns["opcode"]):
        row = {name: column[position] for name, column in columns.items()}
        if opcode == Opcode.LOAD and row["memory_type"] == MemoryType.UOP:
            _load_uops(target, uops, row, dram)
        if opcode not in (Opcode.GEMM, Opcode.ALU):
            continue
        words = uops[row["uop_bgn"] : row["uop_end"]]
        work += len(words) * row["iter_in"] * row["iter_out"]
        if opcode == Opcode.GEMM and row["reset_reg"]:
            continue
        distance = profile.gemm_distance if opcode == Opcode.GEMM else profile.alu_distance
        reads = (0,) if opcode == Opcode.GEMM or row["use_imm"] else (0, 1)
        key = (words.tobytes(), opcode, reads, *(row[name] for name in _LOOP_FIELDS))
        if key not in known:
            known[key] = _races(kernel_of(isa, uops, row), row, distance, reads)
        found |= known[key]
    if found and work > RACE_LIMIT:
        raise StreamError(f"races in a stream of {work} micro-ops, more than can be emulated")
    return found


_LOOP_FIELDS = ("iter_in", "iter_out", "dst_factor_in", "dst_factor_out", "src_factor_in",
                "src_factor_out")


def _races(kernel: Indices, row: Row, distance: int, reads: tuple[int, ...]) -> bool:
    for part in flattened(kernel, row, distance - 1):
        for apart in range(1, min(distance, len(part))):
            written = part[:-apart, 0]
            if any(np.any(part[apart:, column] == written) for column in reads):
                return True
    return False


def _load_uops(target: Target, uops: NDArray[np.uint32], row: Row, dram: Dram) -> None:
    """A LOAD of one row of micro-ops, as far as it lies in memory and in SRAM."""
    unit, size = target.element_bytes(Memory.UOP), row["x_size"]
    address = row["dram_base"] * unit % ADDRESS_SPACE
    segment = dram.covering(address, address + unit * size) if size else None
    if segment is None:
        return
    words = np.frombuffer(dram.read(segment, address, unit * size).tobytes(), "<u4")
    places = (row["sram_base"] + np.arange(size)) % len(uops)
    uops[places] = words
