"""The emitter: what templates write commands to.

It owns the command list of one launch, the constant buffers that templates add on the way, and
where things lie in the scratchpads: the two contexts of a memory, which alternate across layers
so that a layer's first loads never wait for the previous layer's last tile, and a few elements at
the top of a memory where constants stay that many layers use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

RESIDENT = {Memory.WGT: 4, Memory.INP: 1}
"""Elements at the top of a memory kept for constants that layers share."""


def usable(target: Target, memory: Memory) -> int:
    """Elements of a scratchpad that a layer may use."""
    return target.depth(memory) - RESIDENT.get(memory, 0)


class Slots:
    """Equal pieces of a scratchpad that hold tiles by name; the oldest makes room for a new one."""

    def __init__(self, bases: list[int]) -> None:
        self._free = bases
        self._held: dict[object, int] = {}

    def find(self, key: object) -> int | None:
        """Where the tile named `key` lies, or None if it has to be loaded."""
        return self._held.get(key)

    def take(self, key: object) -> int:
        """A place for the tile named `key`."""
        base = self._free.pop(0) if self._free else self._held.pop(next(iter(self._held)))
        self._held[key] = base
        return base


class Emitter:
    """Collects the commands of one launch."""

    def __init__(self, target: Target, add_buffer: Callable[[Buffer], None]) -> None:
        self.target = target
        self.commands: list[Command] = []
        self._add_buffer = add_buffer
        self._turn = dict.fromkeys(Memory, 1)
        self._cursor = dict.fromkeys(Memory, 0)
        self._residents = {
            memory: Slots([usable(target, memory) + index for index in range(count)])
            for memory, count in RESIDENT.items()
        }
        self._resident_buffers: dict[str, str] = {}
        self._origin: tuple[str, ...] = ()
        self._role = ""
        self._layer = ""

    def begin(self, layer: str, origin: tuple[str, ...]) -> None:
        """Name the layer whose commands follow and the ONNX nodes it came from."""
        self._layer, self._origin = layer, origin

    @property
    def _whose(self) -> tuple[tuple[str, ...], str, str]:
        """What every command says of itself: origin, role and layer."""
        return self._origin, self._role, self._layer

    @contextmanager
    def role(self, name: str, origin: tuple[str, ...] | None = None) -> Iterator[None]:
        """Give the commands written inside a row of their own in profiles.

        `origin` are the ONNX nodes that they came from, where those are not the layer's.
        """
        before = self._role, self._origin
        self._role, self._origin = name, self._origin if origin is None else origin
        yield
        self._role, self._origin = before

    def context(self, memory: Memory, size: int, limit: int | None = None) -> int:
        """First element of the next context of `memory`; 0 when `size` needs more than a half.

        `limit` is the number of elements to share between contexts, by default all usable.
        """
        half = (usable(self.target, memory) if limit is None else limit) // 2
        if size > half:
            return 0
        self._turn[memory] ^= 1
        return half * self._turn[memory]

    def slots(self, memory: Memory, size: int, most: int, limit: int) -> Slots:
        """Up to `most` slots of `size` elements below `limit`.

        They are taken in turn from where the previous layer stopped.
        """
        count = max(1, min(most, limit // size))
        first = -(-self._cursor[memory] // size) % count
        bases = [(first + index) % count * size for index in range(count)]
        self._cursor[memory] = bases[0]
        return Slots(bases)

    def resident(self, memory: Memory, name: str, data: Array) -> int:
        """Index of an element that many layers share; it is loaded when it is not there yet."""
        slots = self._residents[memory]
        found = slots.find(name)
        if found is not None:
            return found
        if name not in self._resident_buffers:
            self._add_buffer(Buffer(name, memory, 1, "constant", np.ascontiguousarray(data)))
            self._resident_buffers[name] = name
        index = slots.take(name)
        self.load(memory, index, name, 0, 1)
        return index

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
            Load(memory, sram, buffer, offset, size, rows, stride, pads, *self._whose)
        )

    def store(
        self, sram: int, buffer: str, offset: int, size: int, rows: int = 1, stride: int = 0
    ) -> None:
        """Store `rows` rows of `size` elements."""
        self.commands.append(
            Store(sram, buffer, offset, size, rows, stride, *self._whose)
        )

    def gemm(self, dst: int, src: int, wgt: int, *loops: Loop) -> None:
        """Accumulate products."""
        self.commands.append(Gemm(dst, src, wgt, loops, False, *self._whose))

    def reset(self, dst: int, *loops: Loop) -> None:
        """Zero accumulators."""
        self.commands.append(Gemm(dst, 0, 0, loops, True, *self._whose))

    def alu_imm(self, op: AluOp, dst: int, imm: int, *loops: Loop) -> None:
        """Apply `op` with an immediate."""
        self.commands.append(Alu(op, dst, loops, imm, 0, *self._whose))

    def alu(self, op: AluOp, dst: int, src: int, *loops: Loop) -> None:
        """Apply `op` between accumulators."""
        self.commands.append(Alu(op, dst, loops, None, src, *self._whose))
