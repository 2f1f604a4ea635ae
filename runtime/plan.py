"""Planning: a stream, walked once in order of execution, becomes steps for any data.

The planner follows what does not depend on data (micro-ops, indices, addresses, which weights
are constant) and emits steps; the semantics of instructions where designs differ are those of
the profile (docs/hardware.md, "Where the designs differ"). Everything that a stream can do wrong
besides its tokens is found here, as a StreamError that names the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import Opcode, Stream
from ..backend.profile import Profile
from ..backend.target import Target
from .accumulators import Accumulators
from .context import Context, Inputs
from .lift import Indices
from .machine import Step
from .memory import Dram
from .plan_compute import ComputePlanner
from .plan_memory import MemoryPlanner
from .weights import Weights


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
        self._context = Context(target, profile, stream, dram, uops, live)
        self.steps: list[Step] = self._context.steps
        self.uops = uops
        self.weights = Weights(target, dram)
        acc, inp = self._context.depth[Memory.ACC], self._context.depth[Memory.INP]
        self._acc = Accumulators(acc, profile.separate_out, self.steps)
        self._inp = Inputs(np.zeros(inp, np.bool_))
        parts = (self._acc, self._inp, self.weights)
        self._memory = MemoryPlanner(self._context, stream, *parts)
        self._compute = ComputePlanner(self._context, *parts)

    @property
    def unwritten(self) -> set[Memory]:
        """Memories of which the stream reads something that it never wrote."""
        inp = {Memory.INP} if self._inp.unwritten else set()
        return self._acc.unwritten | inp | ({Memory.WGT} if self.weights.unwritten else set())

    @property
    def stores_shared(self) -> bool:
        """Whether a STORE goes to memory that all images share."""
        return self._memory.stores_shared

    def walk(self, order: NDArray[np.int64]) -> Iterator[int]:
        """Plan the instructions at these positions, yielding each position when it is done."""
        handlers: dict[int, Callable[[int], None]] = {
            Opcode.LOAD: self._memory.load,
            Opcode.STORE: self._memory.store,
            Opcode.GEMM: self._compute.gemm,
            Opcode.ALU: self._compute.alu,
            Opcode.FINISH: lambda position: None,
        }
        opcodes = self._context.fields["opcode"]
        for position in order.tolist():
            handler = handlers.get(opcodes[position])
            if handler is None:
                self._context.unknown(position, "this opcode")
            else:
                handler(position)
            yield position

    def finish(self, prune: bool) -> Indices:
        """Complete the plan; `prune` drops copies to OUT that nobody reads.

        The elements returned are those whose OUT stands in ACC alone.
        """
        out_in_acc = self._acc.finish()
        if prune:
            self._acc.prune()
        return out_in_acc
