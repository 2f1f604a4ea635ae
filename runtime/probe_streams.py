"""Hand-built instruction streams for probing hardware, and the bench on which they run.

Probes ask what hardware does outside the rules that the checker enforces, so these streams never
meet it. The bench guards them instead: whatever the hardware makes of a stream, its transfers stay
inside the bench's own memory.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backend import timing
from ..backend.commands import Memory
from ..backend.isa import INSTRUCTION_BYTES, AluOpcode, Isa, MemoryType, Opcode
from ..backend.target import Target
from ..errors import StreamError
from .board import Board
from .driver import Bases, Job

DATA_BYTES = 1 << 18
STREAM_BYTES = 1 << 17
GUARD_BYTES = 4096
"""Nothing lies at the bench's beginning, as in every arena."""

MOST_REPEATS, AGREEING = 30, 3
AGREEMENT_SECONDS = 1.5e-6
"""Times of a run that count as equal."""

OLD_ISA_SCALE = 2
"""Hardware of version 0.0.1 reads dram_base one bit lower, so twice as far."""

Fields = dict[str, int]
LOAD, COMPUTE, STORE = timing.LOAD, timing.COMPUTE, timing.STORE

_NOPS: dict[int, Fields] = {
    LOAD: {"opcode": Opcode.LOAD, "memory_type": MemoryType.INP},
    COMPUTE: {"opcode": Opcode.LOAD, "memory_type": MemoryType.UOP},
    STORE: {"opcode": Opcode.STORE},
}


class Script:
    """A stream in which every instruction waits for the one before, whatever their modules.

    Addresses are bytes from the bench's beginning. It starts with a compute no-op that waits for
    nothing.
    """

    def __init__(self, target: Target, base: int) -> None:
        self._target, self._base = target, base
        self._rows: list[Fields] = [dict(_NOPS[COMPUTE])]
        self._module = COMPUTE
        self.spans: list[tuple[int, int]] = []
        """Bytes from the bench's beginning that the stream's transfers touch."""

    def load(
        self,
        memory: Memory,
        sram: int,
        start: int,
        size: int,
        rows: int = 1,
        pads: tuple[int, int] = (0, 0),
    ) -> None:
        """LOAD dense rows; `pads` are x_pad_0 and x_pad_1."""
        fields = self._transfer(memory, sram, start, size, rows)
        fields |= {"opcode": Opcode.LOAD, "x_pad_0": pads[0], "x_pad_1": pads[1]}
        self._add(LOAD if memory in (Memory.INP, Memory.WGT) else COMPUTE, fields)

    def store(self, sram: int, start: int, size: int, rows: int = 1) -> None:
        """STORE dense rows."""
        fields = self._transfer(Memory.OUT, sram, start, size, rows)
        self._add(STORE, fields | {"opcode": Opcode.STORE})

    def load_of_no_memory(self, start: int, size: int) -> None:
        """A LOAD of memory type OUT: nothing today, a LOAD of micro-ops in version 0.0.1."""
        unit = OLD_ISA_SCALE * self._target.element_bytes(Memory.UOP)
        self.spans.append((start, start + size * unit // OLD_ISA_SCALE))
        fields = {
            "opcode": Opcode.LOAD,
            "memory_type": MemoryType.OUT,
            "dram_base": (self._base + start) // unit,
            "y_size": 1,
            "x_size": size,
            "x_stride": size,
        }
        self._add(COMPUTE, fields)

    def gemm(self, uops: int, times: int = 1, reset: bool = False) -> None:
        """GEMM over the first `uops` micro-ops, `times` times."""
        fields = self._loops(uops, times) | {"opcode": Opcode.GEMM, "reset_reg": int(reset)}
        self._add(COMPUTE, fields)

    def alu(self, op: AluOpcode, imm: int | None, first: int, uops: int, times: int = 1) -> None:
        """ALU over `uops` micro-ops from `first` on, `times` times; imm None takes ACC[src]."""
        fields = self._loops(uops, times) | {"opcode": Opcode.ALU, "alu_opcode": op}
        fields |= {"uop_bgn": first, "uop_end": first + uops}
        self._add(COMPUTE, fields | {"use_imm": int(imm is not None), "imm": imm or 0})

    def finished(self) -> NDArray[np.uint8]:
        """The stream with its FINISH, uint8[n, 16]."""
        if self._rows[-1]["opcode"] != Opcode.FINISH:
            self._add(COMPUTE, {"opcode": Opcode.FINISH})
        names = {name for row in self._rows for name in row}
        columns = {
            name: np.array([row.get(name, 0) for row in self._rows], np.int64) for name in names
        }
        return Isa.of(self._target).encode_stream(columns)

    def _transfer(self, memory: Memory, sram: int, start: int, size: int, rows: int) -> Fields:
        unit = self._target.element_bytes(memory)
        self.spans.append((start, start + rows * size * unit))
        return {
            "memory_type": memory,
            "sram_base": sram,
            "dram_base": (self._base + start) // unit,
            "y_size": rows,
            "x_size": size,
            "x_stride": size,
        }

    def _loops(self, uops: int, times: int) -> Fields:
        return {"uop_bgn": 0, "uop_end": uops, "iter_out": 1, "iter_in": times}

    def _add(self, module: int, fields: Fields) -> None:
        """Append, with a token from the instruction before if another module ran that."""
        while self._module != module:
            step = 1 if module > self._module else -1
            self._rows[-1]["push_next_dep" if step > 0 else "push_prev_dep"] = 1
            self._module += step
            row = dict(fields if self._module == module else _NOPS[self._module])
            row["pop_prev_dep" if step > 0 else "pop_next_dep"] = 1
            self._rows.append(row)
            if self._module == module:
                return
        self._rows.append(dict(fields))


class Bench:
    """Memory on a board for probes: data first, the stream behind them. Use it with `with`."""

    def __init__(self, board: Board) -> None:
        self.target = board.target
        self._board = board
        self._buffer = board.allocate(DATA_BYTES + STREAM_BYTES)
        self._buffer.data[:] = 0
        self._buffer.flush(0, len(self._buffer.data))

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._board.release(self._buffer)

    @property
    def address(self) -> int:
        """Where the bench begins, as VTA sees it."""
        return self._buffer.address

    def script(self) -> Script:
        """A new stream for this bench."""
        return Script(self.target, self.address)

    def put(self, start: int, data: ArrayLike, dtype: str) -> None:
        """Write an array for VTA to read."""
        raw = np.ascontiguousarray(data, np.dtype(dtype)).view(np.uint8).reshape(-1)
        if start < GUARD_BYTES or start + raw.size > DATA_BYTES:
            raise StreamError(f"probe data {start}..{start + raw.size} leave the bench")
        self._buffer.data[start : start + raw.size] = raw
        self._buffer.flush(0, DATA_BYTES)

    def put_uops(self, start: int, uops: ArrayLike) -> None:
        """Write micro-ops, integers [n, 3]."""
        self.put(start, Isa.of(self.target).encode_uops(uops), "<u4")

    def get(self, start: int, elements: int) -> NDArray[np.int8]:
        """OUT elements that VTA stored, int8[elements, batch * block]."""
        unit = self.target.element_bytes(Memory.OUT)
        self._buffer.invalidate(0, DATA_BYTES)
        raw = self._buffer.data[start : start + elements * unit].copy()
        return raw.view(np.int8).reshape(elements, unit)

    def run(self, script: Script, **bases: int) -> float:
        """Run a script; the seconds it took. `bases` are data base registers by memory.

        Raises StreamError if a transfer could leave the bench, with its base register or without.
        """
        return self.repeat(self.place(script, **bases))

    def place(self, script: Script, **bases: int) -> Job:
        """Put a script where it can be run, in place of the last one. Raises StreamError."""
        reach = max([0, *bases.values()])
        for low, high in script.spans:
            if low < GUARD_BYTES or high + reach > DATA_BYTES:
                raise StreamError(f"a probe's transfer {low}..{high + reach} leaves the bench")
        insns = script.finished()
        if len(insns) * INSTRUCTION_BYTES > STREAM_BYTES:
            raise StreamError(f"a probe of {len(insns)} instructions does not fit the bench")
        self._buffer.data[DATA_BYTES : DATA_BYTES + insns.size] = insns.reshape(-1)
        self._buffer.flush(DATA_BYTES, STREAM_BYTES)
        cycles = timing.schedule(self.target, Isa.of(self.target).decode_stream(insns)).cycles
        return Job(self.address + DATA_BYTES, len(insns), cycles, Bases(**bases))

    def repeat(self, job: Job) -> float:
        """Run the script that was placed last; the seconds it took."""
        return self._board.run(job, spin=True)

    def least(self, job: Job) -> float:
        """Seconds of the placed script when nothing disturbs the host: the least, seen thrice."""
        times: list[float] = []
        for _ in range(MOST_REPEATS):
            times = sorted([*times, self.repeat(job)])[:AGREEING]
            if len(times) == AGREEING and times[-1] - times[0] <= AGREEMENT_SECONDS:
                break
        return times[0]
