"""Micro-op kernels: which loops a GEMM or ALU instruction runs itself and which are unrolled.

Equal kernels are shared. A launch's kernels are loaded in phases: each phase fills the micro-op
SRAM with the kernels of the longest run of commands that fits, by one LOAD. Most models need one
phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ScheduleError
from .commands import Alu, Command, Gemm, Loop

Kernel = tuple[tuple[int, int, int], ...]
"""Micro-ops as (dst, src, wgt) in order of execution."""

NO_LOOP = Loop(1)


@dataclass(frozen=True)
class Nest:
    """A command split into an instruction's two loops and its micro-ops."""

    outer: Loop
    inner: Loop
    kernel: Kernel


def nest(command: Gemm | Alu) -> Nest:
    """Split a command's loops: the first two stay loops, the rest become micro-ops."""
    source, weight = _bases(command)
    loops = merge(command.loops, alu_immediate=_is_immediate(command))
    kernel: list[tuple[int, int, int]] = [(command.dst, source, weight)]
    for loop in loops[2:]:
        kernel = [
            (dst + step * loop.dst, src + step * loop.src, wgt + step * loop.wgt)
            for dst, src, wgt in kernel
            for step in range(loop.extent)
        ]
    outer, inner = (*loops[:2], NO_LOOP, NO_LOOP)[:2]
    return Nest(outer, inner, tuple(kernel))


def merge(loops: Sequence[Loop], alu_immediate: bool = False) -> tuple[Loop, ...]:
    """Drop loops of one trip and join neighbours that step like a single longer loop."""
    merged: list[Loop] = []
    for loop in loops:
        if alu_immediate:
            # Chisel reads src even with an immediate: it must follow dst (docs/hardware.md).
            loop = Loop(loop.extent, loop.dst, loop.dst)
        if loop.extent == 1:
            continue
        last = merged[-1] if merged else None
        if last and (last.dst, last.src, last.wgt) == tuple(
            loop.extent * step for step in (loop.dst, loop.src, loop.wgt)
        ):
            merged[-1] = Loop(last.extent * loop.extent, loop.dst, loop.src, loop.wgt)
        else:
            merged.append(loop)
    return tuple(merged)


def _is_immediate(command: Gemm | Alu) -> bool:
    return isinstance(command, Alu) and command.imm is not None


def _bases(command: Gemm | Alu) -> tuple[int, int]:
    """First src and wgt index as encoded; unused ones are 0 so that kernels are shared."""
    if isinstance(command, Gemm):
        return command.src, command.wgt
    return (command.dst if command.imm is not None else command.src), 0


@dataclass(frozen=True)
class Phase:
    """Kernels resident from command `first` on, laid end to end from micro-op index 0."""

    first: int
    kernels: tuple[Kernel, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.kernels))

    def addresses(self) -> dict[Kernel, int]:
        """Kernel -> index of its first micro-op in SRAM."""
        result: dict[Kernel, int] = {}
        cursor = 0
        for kernel in self.kernels:
            result[kernel] = cursor
            cursor += len(kernel)
        return result


def phases(commands: Sequence[Command], nests: Sequence[Nest | None], limit: int) -> list[Phase]:
    """Cut a launch into phases whose distinct kernels fit in `limit` micro-ops.

    Raises ScheduleError if one kernel alone is larger than the micro-op SRAM.
    """
    result: list[Phase] = []
    first, used, resident = 0, 0, dict[Kernel, None]()
    for index, split in enumerate(nests):
        if split is None or split.kernel in resident:
            continue
        size = len(split.kernel)
        if size > limit:
            layer = ", ".join(commands[index].origin) or "a layer"
            raise ScheduleError(
                f"{layer}: a kernel of {size} micro-ops exceeds the {limit} that "
                "the micro-op SRAM holds; use smaller tiles"
            )
        if used + size > limit:
            result.append(Phase(first, tuple(resident)))
            first, used, resident = index, 0, {}
        resident[split.kernel] = None
        used += size
    if resident:
        result.append(Phase(first, tuple(resident)))
    return result
