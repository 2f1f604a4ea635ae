"""What the parts of the planner share: the decoded stream, the profile, the steps so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import Stream
from ..backend.profile import Profile, Unknown
from ..backend.target import Target
from ..errors import StreamError
from .accumulators import Elements
from .interleave import instruction_name
from .lift import GemmBlock, Indices
from .machine import Step
from .memory import Dram
from .products import Gather


class Context:
    """One stream being planned for one memory layout.

    `fields[name][position]` are Python integers; `uops` is UOP SRAM, uint32[depth]; `steps` is
    the plan so far. With `live`, DRAM holds the one image that is being run.
    """

    def __init__(
        self,
        target: Target,
        profile: Profile,
        stream: Stream,
        dram: Dram,
        uops: NDArray[np.uint32],
        live: bool,
    ) -> None:
        self.target, self.profile, self.dram, self.live = target, profile, dram, live
        self.uops = uops
        self.steps: list[Step] = []
        self.fields = {name: column.tolist() for name, column in stream.fields.items()}
        self.depth = {memory: target.depth(memory) for memory in Memory}
        self.depth[Memory.UOP] = len(uops)
        self.unit = {memory: target.element_bytes(memory) for memory in Memory}

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise a StreamError that names the instruction."""
        name = instruction_name(position, self.fields["opcode"][position])
        raise StreamError(f"{name}: {problem}")

    def unknown(self, position: int, what: str) -> None:
        """What the design does not know: it aborts, or honours the tokens only."""
        if self.profile.unknown is not Unknown.IGNORE:
            self.fail(position, f"profile {self.profile.name} does not know {what}")


@dataclass
class Inputs:
    """Symbolic state of INP: what was written, and what scratch memory holds of it."""

    seen: NDArray[np.bool_]
    unwritten: bool = False
    _gathered: tuple[int, int] | None = None
    _span: tuple[int, int] = field(default=(0, 0))

    def overwrite(self, elements: Elements) -> None:
        """A LOAD is about to replace elements."""
        self.seen[elements] = True
        low, high = self._span
        if not isinstance(elements, slice) or (elements.start < high and elements.stop > low):
            self._gathered = None

    def read(self, elements: Indices) -> None:
        """A GEMM reads elements."""
        self.unwritten |= not self.seen[elements].all()

    def gather(self, block: GemmBlock, base: int) -> list[Gather]:
        """The step that gathers a block's rows; none if scratch memory still holds them."""
        if self._gathered == (id(block), base):
            return []
        self._gathered = (id(block), base)
        self._span = (int(block.src.min()) + base, int(block.src.max()) + base + 1)
        return [Gather(block, base)]
