"""Planning: a stream, walked once in order of execution, becomes steps for any data.

The planner follows what does not depend on data (micro-ops, indices, addresses, which weights
are constant) and emits `steps`; the semantics of instructions where designs differ are those of
the profile (docs/hardware.md, "Where the designs differ"). Everything that a stream can do wrong
besides its tokens is found here, as a StreamError that names the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import AluOpcode, Isa, MemoryType, Opcode, Stream
from ..backend.profile import Profile, Unknown
from ..backend.target import Target
from ..errors import StreamError
from .accumulators import Accumulators, Elements
from .forms import AluForm, FormCache, GemmForm, Nest, ResetForm, last_occurrences
from .interleave import instruction_name
from .lift import GemmBlock
from .memory import Dram
from .steps import AluScatter, AluWave, Gather, Multiply, Operation, ResetRubbish, Step, Zero
from .transfer import Stored, Transfer, load_steps, source_rows, store_steps
from .weights import Weights

_PART_LIMIT = 1 << 20  # micro-ops that are expanded at a time


_FACTORS = (
    "dst_factor_out",
    "src_factor_out",
    "wgt_factor_out",
    "dst_factor_in",
    "src_factor_in",
    "wgt_factor_in",
)


class NotConstant(Exception):
    """Micro-ops come from memory that is not the same for all images and all times."""


class Planner:
    """Turns instructions into `steps`, in the order given to `walk`.

    `uops` is the UOP SRAM at the start, uint32[depth], and is kept up to date. With `live`,
    micro-ops are read from `dram` as it stands, which must hold one image; otherwise they must
    be constant and NotConstant is raised where they are not.
    """

    def __init__(
        self,
        target: Target,
        profile: Profile,
        stream: Stream,
        dram: Dram,
        uops: NDArray[np.uint32],
        live: bool = False,
    ) -> None:
        self._depth = {memory: target.depth(memory) for memory in Memory}
        self._depth[Memory.UOP] = len(uops)
        self._unit = {memory: target.element_bytes(memory) for memory in Memory}
        acc, inp, wgt = (self._depth[m] for m in (Memory.ACC, Memory.INP, Memory.WGT))
        self.steps: list[Step] = []
        self.uops = uops
        self.weights = Weights(target, dram)
        self.acc = Accumulators(acc, profile.separate_out, self.steps)
        self.stores_shared = False
        self._profile, self._dram, self._live = profile, dram, live
        self._isa = Isa.of(target)
        self._stored = Stored(target, stream)
        self._fields = {name: column.tolist() for name, column in stream.fields.items()}
        self._inp_seen = np.zeros(inp, np.bool_)
        self._inp_unwritten = False
        self._gathered: tuple[int, int] | None = None
        self._gathered_span = (0, 0)
        self._nests: dict[tuple[object, ...], Nest] = {}
        self._gemms = FormCache(GemmForm.build, (acc, inp, wgt))
        self._resets = FormCache(ResetForm.build, (acc, inp, wgt))
        self._alus = FormCache(AluForm.build, (acc, acc, wgt), one_memory=True)
        self._alus_in_place = FormCache(AluForm.build_in_place, (acc, acc, wgt))

    @property
    def unwritten(self) -> set[Memory]:
        """Memories of which the stream reads something that it never wrote."""
        inp = {Memory.INP} if self._inp_unwritten else set()
        return self.acc.unwritten | inp | ({Memory.WGT} if self.weights.unwritten else set())

    def walk(self, order: NDArray[np.int64]) -> Iterator[int]:
        """Plan the instructions at these positions, yielding each position when it is done."""
        handlers: dict[int, Callable[[int], None]] = {
            Opcode.LOAD: self._load,
            Opcode.STORE: self._store,
            Opcode.GEMM: self._gemm,
            Opcode.ALU: self._alu,
            Opcode.FINISH: lambda position: None,
        }
        opcodes = self._fields["opcode"]
        for position in order.tolist():
            handler = handlers.get(opcodes[position])
            if handler is None:
                self._unknown(position, "this opcode")
            else:
                handler(position)
            yield position

    def _fail(self, position: int, problem: str) -> NoReturn:
        name = instruction_name(position, self._fields["opcode"][position])
        raise StreamError(f"{name}: {problem}")

    def _unknown(self, position: int, what: str) -> None:
        """What the design does not know: it aborts, or honours the tokens only."""
        if self._profile.unknown is not Unknown.IGNORE:
            self._fail(position, f"profile {self._profile.name} does not know {what}")

    # LOAD

    def _load(self, position: int) -> None:
        field, profile = self._fields, self._profile
        kind, size = field["memory_type"][position], field["x_size"][position]
        if size == 0 and not profile.empty_load_pads:
            return
        if kind > MemoryType.ACC and not (kind == MemoryType.ACC_8BIT and profile.acc_8bit):
            self._unknown(position, f"LOAD of memory type {kind}")
            return
        self._require_rows(position)
        narrow = kind == MemoryType.ACC_8BIT
        memory = Memory.ACC if narrow else Memory(kind)
        transfer = self._transfer(position, memory, narrow)
        if transfer.length == 0:
            return
        depth = self._depth[memory]
        elements = self._elements(position, transfer, depth)
        if memory is Memory.UOP:
            self._load_uops(transfer)
        elif memory is Memory.WGT and self._load_constant_weights(transfer, depth):
            pass
        else:
            self._overwrite(memory, elements, transfer)
            self.steps.extend(load_steps(self._dram, transfer, depth))

    def _require_rows(self, position: int) -> None:
        size, rows = self._fields["x_size"][position], self._fields["y_size"][position]
        if size and not rows and self._profile.zero_rows_hang:
            self._fail(
                position, f"y_size 0 with x_size {size} never ends on profile {self._profile.name}"
            )

    def _transfer(self, position: int, memory: Memory, narrow: bool = False) -> Transfer:
        """The transfer that the design makes of a LOAD or STORE."""
        field, profile = self._fields, self._profile
        pads = {
            Memory.UOP: profile.uop_rows,
            Memory.INP: profile.inp_pads,
            Memory.WGT: profile.wgt_pads,
            Memory.ACC: profile.acc_pads,
            Memory.OUT: False,
        }[memory]
        one_row = memory is Memory.UOP and not profile.uop_rows
        names = ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")
        y0, y1, x0, x1 = (field[name][position] if pads else 0 for name in names)
        return Transfer(
            position=position,
            memory=memory,
            sram=field["sram_base"][position],
            dram=field["dram_base"][position],
            size=field["x_size"][position],
            rows=1 if one_row else field["y_size"][position],
            stride=field["x_stride"][position],
            unit=self._unit[memory] // (4 if narrow else 1),
            pads=(y0, y1, x0, x1),
            narrow=narrow,
        )

    def _elements(self, position: int, transfer: Transfer, depth: int) -> Elements:
        """The SRAM elements of a transfer; wraps or refuses what lies beyond `depth`."""
        start, end = transfer.sram, transfer.sram + transfer.length
        if end <= depth:
            return slice(start, end)
        if not self._profile.index_wraps:
            self._fail(
                position,
                f"{transfer.memory.name} elements {start}..{end - 1} exceed the depth {depth} "
                f"and profile {self._profile.name} aborts; shorten the transfer",
            )
        return np.unique(np.arange(start, min(end, start + depth)) % depth)

    def _constant(self, transfer: Transfer) -> bool:
        """Whether the transfer reads nothing but shared memory that no STORE touches."""
        rows = source_rows(self._dram, transfer)
        shared = rows is not None and self._dram.segments[rows.segment].shared
        return shared and not self._stored.touches(*transfer.span)

    def _load_uops(self, transfer: Transfer) -> None:
        """Copy micro-ops into the planner's own UOP SRAM."""
        reads = transfer.rows * transfer.size > 0
        if reads and not self._live and not self._constant(transfer):
            raise NotConstant
        for step in load_steps(self._dram, transfer, len(self.uops)):
            if isinstance(step, Zero):
                self.uops[step.elements] = 0
                continue
            source = step.source
            data = self._dram.segments[source.segment].data.reshape(-1)
            for row in range(source.rows):
                low = source.offset + row * source.stride
                words = np.frombuffer(data[low : low + 4 * source.size].tobytes(), "<u4")
                start = step.start + row * step.pitch
                self.uops[start : start + source.size] = words

    def _load_constant_weights(self, transfer: Transfer, depth: int) -> bool:
        """Remember constant tiles by address instead of loading them, if that is possible."""
        fits = transfer.sram + transfer.length <= depth
        if any(transfer.pads) or not fits or not self._constant(transfer):
            return False
        rows = np.arange(transfer.rows)[:, None] * transfer.stride + np.arange(transfer.size)
        addresses = (transfer.dram + rows.reshape(-1)) * transfer.unit
        self.weights.load_constant(transfer.sram, addresses)
        return True

    def _overwrite(self, memory: Memory, elements: Elements, transfer: Transfer) -> None:
        """Note that a LOAD is about to replace SRAM elements."""
        if memory is Memory.ACC:
            self.acc.overwrite(elements)
        elif memory is Memory.WGT:
            rows = source_rows(self._dram, transfer)
            shared = rows is not None and self._dram.segments[rows.segment].shared
            self.weights.load(elements, per_image=not shared)
        else:
            self._inp_seen[elements] = True
            low, high = self._gathered_span
            if not isinstance(elements, slice) or (elements.start < high and elements.stop > low):
                self._gathered = None

    # STORE

    def _store(self, position: int) -> None:
        field, profile = self._fields, self._profile
        if field["x_size"][position] == 0:
            return
        self._require_rows(position)
        pads = [field[name][position] for name in ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")]
        kind = field["memory_type"][position]
        if profile.store_strict and (kind != MemoryType.OUT or any(pads)):
            self._fail(
                position,
                f"memory_type {kind} and pads {pads}: profile {profile.name} stores memory type "
                f"{int(MemoryType.OUT)} without pads only",
            )
        transfer = self._transfer(position, Memory.OUT)
        depth = self._depth[Memory.OUT]
        self._elements(position, transfer, depth)
        for step in store_steps(self._dram, transfer, depth, self.acc.store_source):
            self.steps.append(step)
            self.stores_shared |= self._dram.segments[step.target.segment].shared

    # GEMM and ALU

    def _nest(self, position: int, checked: dict[int, Memory]) -> Iterator[Nest]:
        """The instruction's micro-ops in parts; refuses what its design refuses.

        `checked` says which columns index which memory.
        """
        field, profile = self._fields, self._profile
        begin, end = field["uop_bgn"][position], field["uop_end"][position]
        extents = (field["iter_out"][position], field["iter_in"][position])
        if end <= begin or 0 in extents:
            if profile.zero_loops_hang:
                self._fail(
                    position,
                    f"iter_out {extents[0]}, iter_in {extents[1]}, micro-ops {begin}..{end}: "
                    f"nothing to do, which never ends on profile {profile.name}",
                )
            return
        nest = self._known_nest(position, begin, end, extents)
        if not profile.index_wraps:
            self._require_range(position, nest, checked)
        yield from nest.parts(_PART_LIMIT)

    def _known_nest(
        self, position: int, begin: int, end: int, extents: tuple[int, int]
    ) -> Nest:
        """The nest of the micro-ops [begin, end) of UOP SRAM; equal ones are one object."""
        field, depth = self._fields, self._depth[Memory.UOP]
        if end <= depth:
            words = self.uops[begin:end]
        elif self._profile.index_wraps:
            words = self.uops[np.arange(begin, end) % depth]
        else:
            self._fail(position, f"micro-ops {begin}..{end} exceed the UOP depth {depth}")
        factors = tuple(field[name][position] for name in _FACTORS)
        key = (words.tobytes(), extents, factors)
        if key not in self._nests:
            columns = self._isa.decode_uops(words)
            self._nests[key] = Nest(columns, extents, (factors[:3], factors[3:]))
        return self._nests[key]

    def _require_range(self, position: int, nest: Nest, checked: dict[int, Memory]) -> None:
        highest = nest.highest
        for column, memory in checked.items():
            if highest[column] >= self._depth[memory]:
                self._fail(
                    position,
                    f"reaches {memory.name} index {highest[column]}, but the depth is "
                    f"{self._depth[memory]} and profile {self._profile.name} aborts",
                )

    def _gemm(self, position: int) -> None:
        if self._fields["reset_reg"][position]:
            for part in self._nest(position, {0: Memory.ACC}):
                self._reset(part)
            return
        for part in self._nest(position, {0: Memory.ACC, 1: Memory.INP, 2: Memory.WGT}):
            form, (dst, src, wgt) = self._gemms.of(part)
            self._inp_unwritten |= not self._inp_seen[form.src + src].all()
            for block in form.blocks:
                self._gather(block, src)
                self._multiply(block, dst, wgt)

    def _reset(self, nest: Nest) -> None:
        form, (dst, src, wgt) = self._resets.of(nest)

        def rubbish() -> ResetRubbish:
            fills = self.weights.fills(form.wgt + wgt, keep=False)
            return ResetRubbish(
                form.dst + dst, form.once, form.src + src, form.wgt + wgt, tuple(fills)
            )

        self.acc.reset(form.dst + dst, rubbish if self._profile.reset_writes_out else None)

    def _gather(self, block: GemmBlock, base: int) -> None:
        """Emit the gathering of a block's inputs, unless the last one gathered the same."""
        if self._gathered != (id(block), base):
            self.steps.append(Gather(block, base))
            self._gathered = (id(block), base)
            self._gathered_span = (int(block.src.min()) + base, int(block.src.max()) + base + 1)

    def _multiply(self, block: GemmBlock, dst: int, wgt: int) -> None:
        elements = block.dst.reshape(-1) + dst
        matrix = self.weights.matrix(block, wgt)
        if matrix.floats is None:
            self.steps += self.weights.fills(block.wgt.reshape(-1) + wgt)
        assign = self.acc.all_zero(elements)
        if not assign:
            self.acc.read(elements)
        self.steps.append(Multiply(block, dst, matrix.floats, wgt, matrix.cuts, assign))
        self.acc.result(elements)

    def _alu(self, position: int) -> None:
        field, profile = self._fields, self._profile
        opcode, use_imm = field["alu_opcode"][position], bool(field["use_imm"][position])
        known = opcode <= (AluOpcode.MUL if profile.mul else AluOpcode.SHR)
        if not known:
            self._unknown(position, f"ALU opcode {opcode}")
        imm = field["imm"][position]
        operation = Operation(
            opcode=opcode if known else int(AluOpcode.SHR),
            imm=imm if use_imm else None,
            shift=profile.shr_imm if use_imm else profile.shr_register,
            from_source=use_imm and profile.alu_imm_reads_src,
            sign=0 if use_imm else imm,
        )
        for part in self._nest(position, {0: Memory.ACC, 1: Memory.ACC}):
            if known:
                self._operate(part, operation)
            else:
                self._operate_on_out(part, operation)

    def _operate(self, nest: Nest, operation: Operation) -> None:
        reads_src = operation.imm is None or operation.from_source
        cache = self._alus if reads_src else self._alus_in_place
        form, (dst, src, _) = cache.of(nest)
        if not reads_src:
            src = dst
        if reads_src:
            self.acc.read(form.src + src)
        if operation.from_source:
            self.acc.flush(form.dst + dst)
        else:
            self.acc.read(form.dst + dst)
        for wave in form.waves:
            if wave.nest is None:
                self.steps.append(AluScatter(operation, wave.dst + dst, wave.src + src))
            else:
                self.steps.append(AluWave(operation, wave.nest, dst, src))
        self.acc.result(form.dst + dst)

    def _operate_on_out(self, nest: Nest, operation: Operation) -> None:
        """An operation that the design does not have: ACC stays, OUT takes a shift's result."""
        dst, src, _ = nest.flat()
        depth = self._depth[Memory.ACC]
        last = last_occurrences(dst % depth)
        dst, src = dst[last] % depth, src[last] % depth
        self.acc.read(dst)
        if operation.imm is None:
            self.acc.read(src)
        self.steps.append(AluScatter(operation, dst, src, Memory.OUT))
        self.acc.out_only(dst)
