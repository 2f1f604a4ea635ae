"""Planning GEMM and ALU: micro-ops to forms, forms to steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend.commands import Memory
from ..backend.isa import AluOpcode, Isa
from .accumulators import Accumulators
from .alu import AluScatter, AluWave, Operation
from .context import Context, Inputs
from .forms import AluForm, FormCache, GemmForm, Nest, ResetForm, last_occurrences
from .lift import GemmBlock
from .products import Multiply, ResetRubbish
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


class ComputePlanner:
    """Emits the steps of GEMM and ALU instructions; equal ones share their forms."""

    def __init__(self, context: Context, acc: Accumulators, inp: Inputs, wgt: Weights) -> None:
        self._context, self._acc, self._inp, self._wgt = context, acc, inp, wgt
        self._isa = Isa.of(context.target)
        self._nests: dict[tuple[object, ...], Nest] = {}
        a, i, w = (context.depth[m] for m in (Memory.ACC, Memory.INP, Memory.WGT))
        self._gemms = FormCache(GemmForm.build, (a, i, w))
        self._resets = FormCache(ResetForm.build, (a, i, w))
        self._alus = FormCache(AluForm.build, (a, a, w), one_memory=True)
        self._alus_in_place = FormCache(AluForm.build_in_place, (a, a, w))

    def gemm(self, position: int) -> None:
        """Plan a GEMM. Raises StreamError."""
        if self._context.fields["reset_reg"][position]:
            for part in self._parts(position, {0: Memory.ACC}):
                self._reset(part)
            return
        for part in self._parts(position, {0: Memory.ACC, 1: Memory.INP, 2: Memory.WGT}):
            form, (dst, src, wgt) = self._gemms.of(part)
            self._inp.read(form.src + src)
            for block in form.blocks:
                self._context.steps += self._inp.gather(block, src)
                self._multiply(block, dst, wgt)

    def alu(self, position: int) -> None:
        """Plan an ALU operation. Raises StreamError."""
        field, profile = self._context.fields, self._context.profile
        opcode, use_imm = field["alu_opcode"][position], bool(field["use_imm"][position])
        known = opcode <= (AluOpcode.MUL if profile.mul else AluOpcode.SHR)
        if not known:
            self._context.unknown(position, f"ALU opcode {opcode}")
        imm = field["imm"][position]
        operation = Operation(
            opcode=opcode if known else int(AluOpcode.SHR),
            imm=imm if use_imm else None,
            shift=profile.shr_imm if use_imm else profile.shr_register,
            from_source=use_imm and profile.alu_imm_reads_src,
            sign=0 if use_imm else imm,
        )
        for part in self._parts(position, {0: Memory.ACC, 1: Memory.ACC}):
            if known:
                self._operate(part, operation)
            else:
                self._operate_on_out(part, operation)

    def _parts(self, position: int, checked: dict[int, Memory]) -> Iterator[Nest]:
        """The instruction's micro-ops in parts; refuses what its design refuses.

        `checked` says which columns index which memory.
        """
        field, profile = self._context.fields, self._context.profile
        begin, end = field["uop_bgn"][position], field["uop_end"][position]
        extents = (field["iter_out"][position], field["iter_in"][position])
        if end <= begin or 0 in extents:
            if profile.zero_loops_hang:
                self._context.fail(
                    position,
                    f"iter_out {extents[0]}, iter_in {extents[1]}, micro-ops {begin}..{end}: "
                    f"nothing to do, which never ends on profile {profile.name}",
                )
            return
        nest = self._nest(position, begin, end, extents)
        if not profile.index_wraps:
            self._require_range(position, nest, checked)
        yield from nest.parts(_PART_LIMIT)

    def _nest(self, position: int, begin: int, end: int, extents: tuple[int, int]) -> Nest:
        """The nest of micro-ops [begin, end) of UOP SRAM; equal ones are one object."""
        field, depth = self._context.fields, self._context.depth[Memory.UOP]
        if end <= depth:
            words = self._context.uops[begin:end]
        elif self._context.profile.index_wraps:
            words = self._context.uops[np.arange(begin, end) % depth]
        else:
            self._context.fail(position, f"micro-ops {begin}..{end} exceed the UOP depth {depth}")
        factors = tuple(field[name][position] for name in _FACTORS)
        key = (words.tobytes(), extents, factors)
        if key not in self._nests:
            columns = self._isa.decode_uops(words)
            self._nests[key] = Nest(columns, extents, (factors[:3], factors[3:]))
        return self._nests[key]

    def _require_range(self, position: int, nest: Nest, checked: dict[int, Memory]) -> None:
        for column, memory in checked.items():
            highest, depth = nest.highest[column], self._context.depth[memory]
            if highest >= depth:
                self._context.fail(
                    position,
                    f"reaches {memory.name} index {highest}, but the depth is {depth} and profile "
                    f"{self._context.profile.name} aborts",
                )

    def _reset(self, nest: Nest) -> None:
        form, (dst, src, wgt) = self._resets.of(nest)

        def rubbish() -> ResetRubbish:
            fills = self._wgt.fills(form.wgt + wgt, keep=False)
            return ResetRubbish(
                form.dst + dst, form.once, form.src + src, form.wgt + wgt, tuple(fills)
            )

        writes_out = self._context.profile.reset_writes_out
        self._acc.reset(form.dst + dst, rubbish if writes_out else None)

    def _multiply(self, block: GemmBlock, dst: int, wgt: int) -> None:
        elements = block.dst.reshape(-1) + dst
        matrix = self._wgt.matrix(block, wgt)
        if matrix.floats is None:
            self._context.steps += self._wgt.fills(block.wgt.reshape(-1) + wgt)
        assign = self._acc.all_zero(elements)
        if not assign:
            self._acc.read(elements)
        step = Multiply(block, dst, matrix.floats, wgt, matrix.cuts, assign)
        self._context.steps.append(step)
        self._acc.result(elements)

    def _operate(self, nest: Nest, operation: Operation) -> None:
        if operation.imm is None or operation.from_source:
            form, (dst, src, _) = self._alus.of(nest)
            self._acc.read(form.src + src)
        else:
            form, (dst, _, _) = self._alus_in_place.of(nest)
            src = dst
        if not operation.from_source:
            self._acc.read(form.dst + dst)
        for wave in form.waves:
            if wave.nest is None:
                step = AluScatter(operation, wave.dst + dst, wave.src + src)
                self._context.steps.append(step)
            else:
                self._context.steps.append(AluWave(operation, wave.nest, dst, src))
        self._acc.result(form.dst + dst)

    def _operate_on_out(self, nest: Nest, operation: Operation) -> None:
        """An operation that the design does not have: ACC stays, OUT takes a shift's result."""
        depth = self._context.depth[Memory.ACC]
        dst, src = (column % depth for column in nest.flat()[:2])
        last = last_occurrences(dst)
        dst, src = dst[last], src[last]
        self._acc.read(dst)
        if operation.imm is None:
            self._acc.read(src)
        self._context.steps.append(AluScatter(operation, dst, src, Memory.OUT))
        self._acc.out_only(dst)
