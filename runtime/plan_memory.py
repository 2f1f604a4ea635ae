"""Planning LOAD and STORE: what each design makes of them, and which data are constants."""

from __future__ import annotations

import numpy as np

from ..backend.commands import Memory
from ..backend.isa import MemoryType, Stream
from .accumulators import Accumulators, Elements
from .context import Context, Inputs
from .copies import Zero
from .transfer import Stored, Transfer, load_steps, source_rows, store_steps
from .weights import Weights

_PADS = ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")


class NotConstant(Exception):
    """Micro-ops come from memory that is not the same for all images and all times."""


class MemoryPlanner:
    """Emits the steps of LOAD and STORE instructions and follows what they do to each SRAM."""

    def __init__(
        self, context: Context, stream: Stream, acc: Accumulators, inp: Inputs, wgt: Weights
    ) -> None:
        self.stores_shared = False
        self._context, self._acc, self._inp, self._wgt = context, acc, inp, wgt
        self._stored = Stored(context.target, stream)

    def load(self, position: int) -> None:
        """Plan a LOAD. Raises StreamError, and NotConstant for micro-ops that depend on data."""
        field, profile = self._context.fields, self._context.profile
        kind, size = field["memory_type"][position], field["x_size"][position]
        if size == 0 and not profile.empty_load_pads:
            return
        if kind > MemoryType.ACC and not (kind == MemoryType.ACC_8BIT and profile.acc_8bit):
            self._context.unknown(position, f"LOAD of memory type {kind}")
            return
        self._require_rows(position)
        narrow = kind == MemoryType.ACC_8BIT
        memory = Memory.ACC if narrow else Memory(kind)
        transfer = self._transfer(position, memory, narrow)
        if transfer.length == 0:
            return
        elements = self._elements(position, transfer)
        if memory is Memory.UOP:
            self._load_uops(transfer)
        elif memory is not Memory.WGT or not self._load_constant_weights(transfer):
            self._overwrite(memory, elements, transfer)
            depth = self._context.depth[memory]
            self._context.steps.extend(load_steps(self._context.dram, transfer, depth))

    def store(self, position: int) -> None:
        """Plan a STORE. Raises StreamError."""
        field, profile, dram = self._context.fields, self._context.profile, self._context.dram
        if field["x_size"][position] == 0:
            return
        self._require_rows(position)
        pads = [field[name][position] for name in _PADS]
        kind = field["memory_type"][position]
        if profile.store_strict and (kind != MemoryType.OUT or any(pads)):
            self._context.fail(
                position,
                f"memory_type {kind} and pads {pads}: profile {profile.name} stores memory type "
                f"{int(MemoryType.OUT)} without pads only",
            )
        transfer = self._transfer(position, Memory.OUT)
        self._elements(position, transfer)
        depth = self._context.depth[Memory.OUT]
        for step in store_steps(dram, transfer, depth, self._acc.store_source):
            self._context.steps.append(step)
            self.stores_shared |= dram.segments[step.target.segment].shared

    def _require_rows(self, position: int) -> None:
        field, profile = self._context.fields, self._context.profile
        size, rows = field["x_size"][position], field["y_size"][position]
        if size and not rows and profile.zero_rows_hang:
            self._context.fail(
                position, f"y_size 0 with x_size {size} never ends on profile {profile.name}"
            )

    def _transfer(self, position: int, memory: Memory, narrow: bool = False) -> Transfer:
        """The transfer that the design makes of a LOAD or STORE."""
        field, profile = self._context.fields, self._context.profile
        pads = {
            Memory.UOP: profile.uop_rows,
            Memory.INP: profile.inp_pads,
            Memory.WGT: profile.wgt_pads,
            Memory.ACC: profile.acc_pads,
            Memory.OUT: False,
        }[memory]
        one_row = memory is Memory.UOP and not profile.uop_rows
        y0, y1, x0, x1 = (field[name][position] if pads else 0 for name in _PADS)
        return Transfer(
            position=position,
            memory=memory,
            sram=field["sram_base"][position],
            dram=field["dram_base"][position],
            size=field["x_size"][position],
            rows=1 if one_row else field["y_size"][position],
            stride=field["x_stride"][position],
            unit=self._context.unit[memory] // (4 if narrow else 1),
            pads=(y0, y1, x0, x1),
            narrow=narrow,
        )

    def _elements(self, position: int, transfer: Transfer) -> Elements:
        """The SRAM elements of a transfer; wraps or refuses what lies beyond the depth."""
        depth, profile = self._context.depth[transfer.memory], self._context.profile
        start, end = transfer.sram, transfer.sram + transfer.length
        if end <= depth:
            return slice(start, end)
        if not profile.index_wraps:
            self._context.fail(
                position,
                f"{transfer.memory.name} elements {start}..{end - 1} exceed the depth {depth} "
                f"and profile {profile.name} aborts; shorten the transfer",
            )
        return np.unique(np.arange(start, min(end, start + depth)) % depth)

    def _shared(self, transfer: Transfer) -> bool:
        """Whether the transfer reads nothing but memory that all images share."""
        rows = source_rows(self._context.dram, transfer)
        return rows is not None and self._context.dram.segments[rows.segment].shared

    def _constant(self, transfer: Transfer) -> bool:
        """Whether the transfer reads nothing but shared memory that no STORE touches."""
        return self._shared(transfer) and not self._stored.touches(*transfer.span)

    def _load_uops(self, transfer: Transfer) -> None:
        """Copy micro-ops into the planner's own UOP SRAM."""
        context = self._context
        steps = list(load_steps(context.dram, transfer, len(context.uops)))
        reads = transfer.rows * transfer.size > 0
        if reads and not context.live and not self._constant(transfer):
            raise NotConstant
        for step in steps:
            if isinstance(step, Zero):
                context.uops[step.elements] = 0
                continue
            source = step.source
            data = context.dram.segments[source.segment].data.reshape(-1)
            for row in range(source.rows):
                low = source.offset + row * source.stride
                words = np.frombuffer(data[low : low + 4 * source.size].tobytes(), "<u4")
                start = step.start + row * step.pitch
                context.uops[start : start + source.size] = words

    def _load_constant_weights(self, transfer: Transfer) -> bool:
        """Remember constant tiles by address instead of loading them, if that is possible."""
        fits = transfer.sram + transfer.length <= self._context.depth[Memory.WGT]
        if any(transfer.pads) or not fits or not self._constant(transfer):
            return False
        rows = np.arange(transfer.rows)[:, None] * transfer.stride + np.arange(transfer.size)
        addresses = (transfer.dram + rows.reshape(-1)) * transfer.unit
        self._wgt.load_constant(transfer.sram, addresses)
        return True

    def _overwrite(self, memory: Memory, elements: Elements, transfer: Transfer) -> None:
        """Note that a LOAD is about to replace SRAM elements."""
        if memory is Memory.ACC:
            self._acc.overwrite(elements)
        elif memory is Memory.WGT:
            self._wgt.load(elements, per_image=not self._shared(transfer))
        else:
            self._inp.overwrite(elements)
