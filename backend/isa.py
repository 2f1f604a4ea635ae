"""The instruction set: every field declared once, and the encoder, decoder and disassembler.

A format is an ordered tuple of `Field`s (tvm-vta hw_spec.h); positions follow from packing them
from the least significant bit of each 64-bit word, widths from the target. Encoding, decoding,
range errors and disassembly all read that one declaration. An instruction has 16 bytes, little
endian; bits that no field covers are written as 0. What the fields mean: docs/hardware.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EncodingError
from .target import Target

INSTRUCTION_BYTES = 16
WORD_BITS = 64


class Opcode(IntEnum):
    """Instruction opcodes; 5..7 are undefined."""

    LOAD = 0
    STORE = 1
    GEMM = 2
    FINISH = 3
    ALU = 4


class MemoryType(IntEnum):
    """Memory types of LOAD and STORE; ACC_8BIT exists in VTA's functional simulator only."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4
    ACC_8BIT = 5


class AluOpcode(IntEnum):
    """ALU operations; MUL exists in VTA's functional simulator only."""

    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3
    MUL = 4


Width = Callable[[Target], int]


def _bits(count: int) -> Width:
    return lambda target: count


def _uop(target: Target) -> int:
    return target.log_uop_depth


def _uop_end(target: Target) -> int:
    return target.log_uop_depth + 1


def _inp(target: Target) -> int:
    return target.log_inp_depth


def _wgt(target: Target) -> int:
    return target.log_wgt_depth


def _acc(target: Target) -> int:
    return target.log_acc_depth


def _src(target: Target) -> int:
    return target.log_src_depth


@dataclass(frozen=True)
class Field:
    """One field: VTA's name, its width rule, its 64-bit word, its sign, the names of its codes."""

    name: str
    width: Width
    word: int = 0
    signed: bool = False
    codes: type[IntEnum] | None = None


_HEADER = (
    Field("opcode", _bits(3), codes=Opcode),
    Field("pop_prev_dep", _bits(1)),
    Field("pop_next_dep", _bits(1)),
    Field("push_prev_dep", _bits(1)),
    Field("push_next_dep", _bits(1)),
)
_MEMORY = (
    Field("memory_type", _bits(3), codes=MemoryType),
    Field("sram_base", _bits(16)),
    Field("dram_base", _bits(32)),
    Field("y_size", _bits(16), 1),
    Field("x_size", _bits(16), 1),
    Field("x_stride", _bits(16), 1),
    Field("y_pad_0", _bits(4), 1),
    Field("y_pad_1", _bits(4), 1),
    Field("x_pad_0", _bits(4), 1),
    Field("x_pad_1", _bits(4), 1),
)
_LOOPS = (
    Field("reset_reg", _bits(1)),
    Field("uop_bgn", _uop),
    Field("uop_end", _uop_end),
    Field("iter_out", _bits(14)),
    Field("iter_in", _bits(14)),
    Field("dst_factor_out", _acc, 1),
    Field("dst_factor_in", _acc, 1),
)
_GEMM = (
    Field("src_factor_out", _inp, 1),
    Field("src_factor_in", _inp, 1),
    Field("wgt_factor_out", _wgt, 1),
    Field("wgt_factor_in", _wgt, 1),
)
_ALU = (
    Field("src_factor_out", _acc, 1),
    Field("src_factor_in", _acc, 1),
    Field("alu_opcode", _bits(3), 1, codes=AluOpcode),
    Field("use_imm", _bits(1), 1),
    Field("imm", _bits(16), 1, signed=True),
)
_UOP = (Field("dst_idx", _acc), Field("src_idx", _src), Field("wgt_idx", _wgt))

FORMATS: Mapping[Opcode, tuple[Field, ...]] = {
    Opcode.LOAD: _HEADER + _MEMORY,
    Opcode.STORE: _HEADER + _MEMORY,
    Opcode.GEMM: _HEADER + _LOOPS + _GEMM,
    Opcode.FINISH: _HEADER,
    Opcode.ALU: _HEADER + _LOOPS + _ALU,
}

FIELD_NAMES = tuple(dict.fromkeys(f.name for fields in FORMATS.values() for f in fields))
"""Every instruction field once, `opcode` first."""


@dataclass(frozen=True)
class Slot:
    """A field of one format placed for one target: `start` is its first bit of 128 (or 32)."""

    name: str
    start: int
    width: int
    signed: bool
    codes: type[IntEnum] | None

    @property
    def low(self) -> int:
        """The smallest value that fits."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest value that fits."""
        return (1 << (self.width - int(self.signed))) - 1

    @property
    def mask(self) -> int:
        """The field's bits, at bit 0."""
        return (1 << self.width) - 1

    def refusal(self, value: int) -> EncodingError:
        """The error for a value that does not fit."""
        return EncodingError(
            f"{self.name} = {value} does not fit: {self.width} bits hold {self.low}..{self.high}"
        )


def _place(fields: tuple[Field, ...], target: Target) -> tuple[Slot, ...]:
    ends = [0, WORD_BITS]
    slots = []
    for f in fields:
        width = f.width(target)
        slots.append(Slot(f.name, ends[f.word], width, f.signed, f.codes))
        ends[f.word] += width
    return tuple(slots)


@dataclass(frozen=True)
class Instruction:
    """One instruction: its opcode and its other fields by name; an absent field is 0."""

    opcode: Opcode
    fields: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.fields.get(name, 0)


@dataclass(frozen=True)
class Stream:
    """A decoded stream as columns.

    `fields[name]` is int64[n] for every name in FIELD_NAMES, 0 where an instruction lacks the
    field. `stray` is bool[n]: a bit is set that no field of the instruction covers.
    """

    fields: Mapping[str, NDArray[np.int64]]
    stray: NDArray[np.bool_]

    @property
    def opcode(self) -> NDArray[np.int64]:
        """Opcodes, int64[n]; values above 4 are undefined."""
        return self.fields["opcode"]

    def __len__(self) -> int:
        return len(self.stray)


@dataclass(frozen=True)
class Isa:
    """The instruction set of one target: `formats` by opcode, the header, the micro-op."""

    formats: Mapping[Opcode, tuple[Slot, ...]]
    header: tuple[Slot, ...]
    uop: tuple[Slot, ...]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(target: Target) -> Isa:
        """The instruction set of `target`."""
        formats = {opcode: _place(fields, target) for opcode, fields in FORMATS.items()}
        return Isa(formats, _place(_HEADER, target), _place(_UOP, target))

    def encode(self, insn: Instruction) -> bytes:
        """The 16 bytes of `insn`.

        Raises EncodingError if a field is unknown to the opcode or its value does not fit.
        """
        slots = self.formats[insn.opcode]
        unknown = insn.fields.keys() - {slot.name for slot in slots[1:]}
        if unknown:
            raise EncodingError(f"{insn.opcode.name} has no field {', '.join(sorted(unknown))}")
        bits = 0
        for slot in slots:
            raw = insn.opcode if slot.name == "opcode" else insn[slot.name]
            try:
                value = operator.index(raw)
            except TypeError:
                raise EncodingError(
                    f"{insn.opcode.name}: {slot.name} = {raw!r} is no integer"
                ) from None
            if not slot.low <= value <= slot.high:
                raise EncodingError(f"{insn.opcode.name}: {slot.refusal(value)}")
            bits |= (value & slot.mask) << slot.start
        return bits.to_bytes(INSTRUCTION_BYTES, "little")

    def decode(self, data: bytes) -> Instruction:
        """The instruction in 16 bytes; bits that no field covers are not read.

        Raises EncodingError on another length and on an undefined opcode.
        """
        if len(data) != INSTRUCTION_BYTES:
            raise EncodingError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
        bits = int.from_bytes(data, "little")
        values = {slot.name: _extract(bits, slot) for slot in self.header}
        try:
            opcode = Opcode(values["opcode"])
        except ValueError:
            raise EncodingError(f"opcode {values['opcode']} is undefined") from None
        values = {slot.name: _extract(bits, slot) for slot in self.formats[opcode]}
        del values["opcode"]
        return Instruction(opcode, values)

    def decode_stream(self, insns: NDArray[np.uint8]) -> Stream:
        """Columns of the instructions in uint8[n, 16]; any bytes decode.

        Raises EncodingError if the array has another shape or type.
        """
        if insns.dtype != np.uint8 or insns.ndim != 2 or insns.shape[1] != INSTRUCTION_BYTES:
            raise EncodingError(
                f"a stream is uint8[n, {INSTRUCTION_BYTES}], not {insns.dtype}{list(insns.shape)}"
            )
        words = np.ascontiguousarray(insns).view("<u8").astype(np.uint64, copy=False)
        columns = {name: np.zeros(len(words), np.int64) for name in FIELD_NAMES}
        stray = np.zeros(len(words), np.bool_)
        for slot in self.header:
            columns[slot.name] = _extract_column(words, slot)
        for code in np.unique(columns["opcode"]).tolist():
            slots = self.formats[Opcode(code)] if code in set(Opcode) else self.header
            rows = np.flatnonzero(columns["opcode"] == code)
            part = words[rows]
            for slot in slots[len(self.header) :]:
                columns[slot.name][rows] = _extract_column(part, slot)
            stray[rows] = np.any(part & ~_used(slots), axis=1)
        return Stream(columns, stray)

    def encode_stream(self, columns: Mapping[str, ArrayLike]) -> NDArray[np.uint8]:
        """uint8[n, 16] from integer columns of equal length; an absent column is 0.

        `columns` holds `opcode` and any of FIELD_NAMES (`Stream.fields` is such a mapping).
        Raises EncodingError naming the first instruction and field that cannot be encoded.
        """
        table = _integer_columns(columns)
        opcodes = table["opcode"]
        words = np.zeros((len(opcodes), 2), np.uint64)
        for code in np.unique(opcodes).tolist():
            rows = np.flatnonzero(opcodes == code)
            if code not in set(Opcode):
                raise EncodingError(f"instruction {rows[0]}: opcode {code} is undefined")
            opcode = Opcode(code)
            slots = self.formats[opcode]
            for name in table.keys() - {slot.name for slot in slots}:
                set_rows = rows[table[name][rows] != 0]
                if len(set_rows):
                    raise EncodingError(
                        f"instruction {set_rows[0]}: {opcode.name} has no field {name}"
                    )
            part = np.zeros((len(rows), 2), np.uint64)
            for slot in (slot for slot in slots if slot.name in table):
                values = table[slot.name][rows]
                first = _misfit(values, slot)
                if first is not None:
                    refusal = slot.refusal(int(values[first]))
                    raise EncodingError(f"instruction {rows[first]} ({opcode.name}): {refusal}")
                part[:, slot.start // WORD_BITS] |= _shifted(values, slot)
            words[rows] = part
        return words.astype("<u8", copy=False).view(np.uint8).reshape(-1, INSTRUCTION_BYTES)

    def encode_uops(self, uops: ArrayLike) -> NDArray[np.uint32]:
        """uint32[n] from integers [n, 3]: dst_idx, src_idx, wgt_idx of each micro-op.

        Raises EncodingError naming the first micro-op and index that does not fit.
        """
        table = np.asarray(uops)
        if table.ndim != 2 or table.shape[1] != len(self.uop) or table.dtype.kind not in "iu":
            raise EncodingError(
                f"micro-ops are integers [n, {len(self.uop)}], not {table.dtype}{list(table.shape)}"
            )
        words = np.zeros(len(table), np.uint64)
        for column, slot in enumerate(self.uop):
            values = table[:, column].astype(np.int64)
            first = _misfit(values, slot)
            if first is not None:
                raise EncodingError(f"micro-op {first}: {slot.refusal(int(values[first]))}")
            words |= _shifted(values, slot)
        return words.astype(np.uint32)

    def decode_uops(self, words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """int64[n, 3] (dst_idx, src_idx, wgt_idx) from micro-op words."""
        wide = words.astype(np.uint64).reshape(-1, 1)
        return np.stack([_extract_column(wide, slot) for slot in self.uop], axis=1)


def disassemble(target: Target, insn: Instruction) -> str:
    """One line: opcode and other codes by name, flags that are set, fields that are not 0."""
    codes, others = [], []
    for slot in Isa.of(target).formats[insn.opcode]:
        value = insn.opcode if slot.name == "opcode" else insn[slot.name]
        if slot.codes is not None:
            known = value in set(slot.codes)
            codes.append(slot.codes(value).name if known else f"{slot.name}={value}")
        elif value:
            others.append(slot.name if slot.width == 1 else f"{slot.name}={value}")
    return " ".join(codes + others)


def _extract(bits: int, slot: Slot) -> int:
    value = bits >> slot.start & slot.mask
    return value - (1 << slot.width) if slot.signed and value > slot.high else value


def _extract_column(words: NDArray[np.uint64], slot: Slot) -> NDArray[np.int64]:
    word, shift = divmod(slot.start, WORD_BITS)
    values = (words[:, word] >> np.uint64(shift) & np.uint64(slot.mask)).astype(np.int64)
    if slot.signed:
        sign = np.int64(1 << (slot.width - 1))
        values = (values ^ sign) - sign
    return values


def _shifted(values: NDArray[np.int64], slot: Slot) -> NDArray[np.uint64]:
    raw = (values & np.int64(slot.mask)).astype(np.uint64)
    shifted: NDArray[np.uint64] = raw << np.uint64(slot.start % WORD_BITS)
    return shifted


def _used(slots: tuple[Slot, ...]) -> NDArray[np.uint64]:
    words = [0, 0]
    for slot in slots:
        words[slot.start // WORD_BITS] |= slot.mask << slot.start % WORD_BITS
    return np.array(words, np.uint64)


def _integer_columns(columns: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.int64]]:
    """The columns as int64[n] each. Raises EncodingError."""
    unknown = columns.keys() - set(FIELD_NAMES)
    if unknown or "opcode" not in columns:
        raise EncodingError(
            f"columns are opcode and other instruction fields; unknown: {sorted(unknown)}"
        )
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    count = arrays["opcode"].size
    for name, array in arrays.items():
        if array.shape != (count,) or array.dtype.kind not in "iub":
            raise EncodingError(
                f"column {name} is {array.dtype}{list(array.shape)}; it must be integers [{count}]"
            )
    return {name: array.astype(np.int64) for name, array in arrays.items()}


def _misfit(values: NDArray[np.int64], slot: Slot) -> int | None:
    """Index of the first value that does not fit, or None."""
    wrong = np.flatnonzero((values < slot.low) | (values > slot.high))
    return int(wrong[0]) if len(wrong) else None
