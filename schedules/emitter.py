"""The emitter: what templates write commands to.

It owns the command list of one launch, the constant buffers that templates add on the way, and
the turn-taking between the two contexts of every scratchpad. Contexts are halves of a memory;
they alternate across layers too, so that a layer's first loads never wait for the previous
layer's last tile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend.commands import (
    Alu,
    AluOp,
    Buffer,
    Command,
    Gemm,
    Load,
    Loop,
    Memory,
    Store,
)
from ..backend.target import Target
from ..ops.types import Array


class Emitter:
    """Collects the commands of one launch."""

    def __init__(self, target: Target, add_buffer: Callable[[Buffer], None]) -> None:
        self.target = target
        self.commands: list[Command] = []
        self._add_buffer = add_buffer
        self._turn = dict.fromkeys(Memory, 1)
        self._origin: tuple[str, ...] = ()
        self._layer = ""

    def begin(self, layer: str, origin: tuple[str, ...]) -> None:
        """Name the layer whose commands follow and the ONNX nodes it came from."""
        self._layer, self._origin = layer, origin

    def context(self, memory: Memory, size: int) -> int:
        """First element of the next context of `memory`; 0 when `size` needs the whole memory."""
        half = self.target.depth(memory) // 2
        if size > half:
            return 0
        self._turn[memory] ^= 1
        return half * self._turn[memory]

    def constant(self, role: str, memory: Memory, data: Array) -> str:
        """Add a constant buffer of the layer; `data` is exactly its bytes. Returns its name."""
        name = f"{self._layer}.{role}"
        size = data.nbytes // self.target.element_bytes(memory)
        self._add_buffer(Buffer(name, memory, size, "constant", np.ascontiguousarray(data)))
        return name

    def load(
        self,
        memory: Memory,
        sram: int,
        buffer: str,
        offset: int,
        size: int,
        rows: int = 1,
        stride: int = 0,
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        """Load `rows` rows of `size` elements."""
        self.commands.append(
            Load(memory, sram, buffer, offset, size, rows, stride, pads, self._origin)
        )

    def store(
        self, sram: int, buffer: str, offset: int, size: int, rows: int = 1, stride: int = 0
    ) -> None:
        """Store `rows` rows of `size` elements."""
        self.commands.append(Store(sram, buffer, offset, size, rows, stride, self._origin))

    def gemm(self, dst: int, src: int, wgt: int, *loops: Loop) -> None:
        """Accumulate products."""
        self.commands.append(Gemm(dst, src, wgt, loops, origin=self._origin))

    def reset(self, dst: int, *loops: Loop) -> None:
        """Zero accumulators."""
        self.commands.append(Gemm(dst, 0, 0, loops, reset=True, origin=self._origin))

    def alu_imm(self, op: AluOp, dst: int, imm: int, *loops: Loop) -> None:
        """Apply `op` with an immediate."""
        self.commands.append(Alu(op, dst, loops, imm=imm, origin=self._origin))

    def alu(self, op: AluOp, dst: int, src: int, *loops: Loop) -> None:
        """Apply `op` between accumulators."""
        self.commands.append(Alu(op, dst, loops, src=src, origin=self._origin))
