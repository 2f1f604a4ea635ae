"""Transfers: LOAD and STORE as copies between DRAM segments and SRAM ranges.

Owns the address arithmetic: elements to bytes, rows, wrap-around of DRAM addresses at 32 bits
and of SRAM indices at the depth, and the cut of a transfer that spans several segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import Opcode, Stream
from ..backend.target import Target
from ..errors import StreamError
from .copies import CopyIn, CopyOut, Rows, Zero
from .interleave import instruction_name
from .memory import ADDRESS_SPACE, Dram


@dataclass(frozen=True)
class Transfer:
    """A LOAD or STORE after its design's quirks: `rows` rows of `size` elements, `stride` apart.

    `position` is the instruction's, `unit` the bytes of a DRAM element, `pads` (y_pad_0, y_pad_1,
    x_pad_0, x_pad_1); `narrow` says that 8-bit data are loaded to ACC.
    """

    position: int
    memory: Memory
    sram: int
    dram: int
    size: int
    rows: int
    stride: int
    unit: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    narrow: bool = False

    @property
    def pitch(self) -> int:
        """SRAM elements from row to row."""
        return self.pads[2] + self.size + self.pads[3]

    @property
    def length(self) -> int:
        """SRAM elements in all."""
        return self.pitch * (self.pads[0] + self.rows + self.pads[1])

    @property
    def span(self) -> tuple[int, int]:
        """First byte address, and the one after the last, before wrap-around."""
        last = self.dram + max(self.rows - 1, 0) * self.stride + self.size
        return self.dram * self.unit, last * self.unit


class Stored:
    """The DRAM byte ranges that a stream may store to (the hull of each STORE's rows)."""

    def __init__(self, target: Target, stream: Stream) -> None:
        fields = {name: column[stream.opcode == Opcode.STORE] for name, column in
                  stream.fields.items()}
        unit = target.element_bytes(Memory.OUT)
        starts = fields["dram_base"] * unit
        rows = np.maximum(fields["y_size"] - 1, 0)
        ends = starts + (rows * fields["x_stride"] + fields["x_size"]) * unit
        real = fields["x_size"] * fields["y_size"] > 0
        order = np.argsort(starts[real], kind="stable")
        self._starts: NDArray[np.int64] = starts[real][order]
        self._ends: NDArray[np.int64] = np.maximum.accumulate(ends[real][order])

    def touches(self, start: int, end: int) -> bool:
        """Whether a STORE may write into [start, end)."""
        if len(self._ends) and self._ends[-1] > ADDRESS_SPACE:
            return True  # wraps around: anything may be hit
        below = int(np.searchsorted(self._starts, end)) - 1
        return below >= 0 and bool(self._ends[below] > start)


def source_rows(dram: Dram, transfer: Transfer) -> Rows | None:
    """The whole transfer as rows of one segment, or None if it spans several or wraps."""
    start, end = transfer.span
    segment = dram.covering(start, end)
    if segment is None:
        return None
    offset = start - dram.segments[segment].address
    if transfer.stride == transfer.size == transfer.pitch:
        return Rows(segment, offset, 1, transfer.size * transfer.rows, 0)
    return Rows(segment, offset, transfer.rows, transfer.size, transfer.stride * transfer.unit)


def load_steps(dram: Dram, transfer: Transfer, depth: int) -> Iterator[Zero | CopyIn]:
    """Copies (and zeros for pads) that fill SRAM. Raises StreamError if DRAM is unmapped."""
    memory, pads = transfer.memory, transfer.pads
    rows = source_rows(dram, transfer) if transfer.rows * transfer.size else None
    if rows is not None and transfer.sram + transfer.length <= depth:
        if any(pads):
            yield Zero(memory, slice(transfer.sram, transfer.sram + transfer.length))
        start = transfer.sram + pads[0] * transfer.pitch + pads[2]
        pitch = rows.size if rows.rows == 1 else transfer.pitch
        yield CopyIn(memory, start, pitch, rows, transfer.narrow)
        return
    position = transfer.sram
    for row in range(-pads[0], transfer.rows + pads[1]):
        end = position + transfer.pitch
        if any(pads):
            for _, start, count in _wrapped(position, transfer.pitch, depth):
                yield Zero(memory, slice(start, start + count))
        if 0 <= row < transfer.rows:
            for part, start in _row_pieces(dram, transfer, row, position + pads[2], depth):
                yield CopyIn(memory, start, part.size, part, transfer.narrow)
        position = end


def store_steps(
    dram: Dram, transfer: Transfer, depth: int, source: Callable[[int, int], Memory]
) -> Iterator[CopyOut]:
    """Copies of SRAM elements to DRAM; `source(start, end)` says where OUT's elements stand.

    Raises StreamError if DRAM is unmapped.
    """
    rows = source_rows(dram, transfer)
    distinct = transfer.rows == 1 or transfer.stride >= transfer.size
    if rows is not None and distinct and transfer.sram + transfer.length <= depth:
        memory = source(transfer.sram, transfer.sram + transfer.length)
        yield CopyOut(memory, transfer.sram, rows)
        return
    for row in range(transfer.rows):
        position = transfer.sram + row * transfer.size
        for part, start in _row_pieces(dram, transfer, row, position, depth):
            yield CopyOut(source(start, start + part.size), start, part)


def _row_pieces(
    dram: Dram, transfer: Transfer, row: int, position: int, depth: int
) -> Iterator[tuple[Rows, int]]:
    """One row cut at the ends of segments and of SRAM: DRAM part and SRAM start of each piece."""
    first = (transfer.dram + row * transfer.stride) * transfer.unit
    for offset, start, count in _wrapped(position, transfer.size, depth):
        done = 0
        while done < count:
            address = (first + (offset + done) * transfer.unit) % ADDRESS_SPACE
            segment = dram.find(address)
            fits = 0 if segment is None else dram.segments[segment].end - address
            part = min(count - done, fits // transfer.unit)
            if segment is None or part == 0:
                opcode = Opcode.STORE if transfer.memory is Memory.OUT else Opcode.LOAD
                name = instruction_name(transfer.position, opcode)
                raise StreamError(
                    f"{name}: DRAM address {address:#x} (dram_base {transfer.dram}, row {row}) "
                    "lies in no memory of this run; stay within the program's regions"
                )
            place = address - dram.segments[segment].address
            yield Rows(segment, place, 1, part, 0), start + done
            done += part


def _wrapped(position: int, count: int, depth: int) -> Iterator[tuple[int, int, int]]:
    """Cut `count` elements from `position` modulo `depth`: offset, start and length of each."""
    done = 0
    while done < count:
        start = (position + done) % depth
        length = min(count - done, depth - start)
        yield done, start, length
        done += length
