"""The emulated accelerator behind the registers: what a stream in memory does, and when.

The functional simulator executes streams; those that it cannot tell right (races between the
micro-ops of an instruction, hardware whose loads do not see its stores) go through `pipeline`.
A stream that no hardware would finish, or that leaves the board's memory, hangs the accelerator,
and `violations` says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import timing
from ..backend.commands import Memory
from ..backend.isa import INSTRUCTION_BYTES, Isa, Opcode, Stream
from ..backend.target import Target
from ..errors import EncodingError, StreamError
from .driver import Bases
from .emulated_memory import EmulatedMemory
from .functional import Launch
from .interleave import execution
from .memory import ADDRESS_SPACE, Dram, Segment
from .pipeline import Pipeline, races
from .silicon import ADD, IGNORED, Silicon

_ORDER = "round-robin"
_NO_TOKENS = (0, 0, 0, 0)


@dataclass(frozen=True)
class Moments:
    """Cycles from launch: fetch has handed out everything, compute begins, everything ended."""

    fetched: int
    computing: int
    ended: int


@dataclass(frozen=True, eq=False)
class _Plan:
    """A stream as it was understood, and what must not change for that to stay right.

    `launch` is None for streams that the pipeline executes. `fixed` are the address ranges of
    the stream itself and of the constants planned into it, int64[n, 2]; `stored` is where STOREs
    may write.
    """

    stream: Stream
    order: NDArray[np.int64]
    tokens: tuple[int, int, int, int]
    moments: Moments
    launch: Launch | None
    fixed: NDArray[np.int64]
    stored: tuple[int, int]


class EmulatedVta:
    """A VTA of `target` with the ways of `silicon`, as configured from a bitstream."""

    def __init__(self, target: Target, silicon: Silicon, base: int, memory_bytes: int) -> None:
        self.memory = EmulatedMemory(base, memory_bytes, self._changed)
        self.violations: list[str] = []
        self._target, self._silicon = target, silicon
        self._profile = silicon.profile(target)
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._plan: _Plan | None = None
        self.reset()

    def reset(self) -> None:
        """What loading the bitstream does: queues empty, SRAM zero. DRAM stays."""
        self._tokens = _NO_TOKENS
        self._pipeline = Pipeline(self._target, self._profile)
        self._plan = None

    def start(self, address: int, count: int, bases: Bases) -> Moments | None:
        """Take in the stream at byte `address`; None if it will never end."""
        key = (address, count, bases, self._tokens)
        try:
            if key not in self._plans:
                self._plans[key] = self._understand(address, count, bases)
        except (StreamError, EncodingError) as error:
            self.violations.append(str(error))
            return None
        self._plan = self._plans[key]
        return self._plan.moments

    def execute(self) -> bool:
        """Do everything that the stream does; False if that never ends."""
        plan = self._plan
        assert plan is not None
        try:
            self._execute(plan)
        except StreamError as error:
            self.violations.append(str(error))
            return False
        self._tokens = plan.tokens
        self._changed(*plan.stored, keep=plan)
        return True

    def flip(self, number: int) -> None:
        """Invert a bit of the first word that STORE `number` of the executed stream wrote."""
        assert self._plan is not None
        fields = self._plan.stream.fields
        moves = (self._plan.stream.opcode == Opcode.STORE) & (fields["x_size"] > 0)
        places = np.flatnonzero(moves & (fields["y_size"] > 0))
        if number >= len(places):
            return
        unit = self._target.element_bytes(Memory.OUT)
        address = int(fields["dram_base"][places[number]]) * unit % ADDRESS_SPACE
        dram = self.memory.dram()
        segment = dram.find(address)
        if segment is not None:
            dram.read(segment, address, 1)[:] ^= 1

    def _understand(self, address: int, count: int, bases: Bases) -> _Plan:
        """Decode and plan. Raises StreamError or EncodingError if the hardware would hang."""
        dram = self.memory.dram()
        size = count * INSTRUCTION_BYTES
        segment = dram.covering(address, address + size)
        if segment is None or not size:
            raise StreamError(f"{count} instructions at {address:#x} lie in no memory of the board")
        insns = dram.read(segment, address, size).reshape(-1, INSTRUCTION_BYTES)
        stream = Isa.of(self._target).decode_stream(self._silicon.understood(insns))
        stream = self._based(stream, bases)
        done = execution(stream, self._profile, _ORDER, self._tokens)
        fixed, loaded, stored = self._ranges(stream)
        blind = self._silicon.stale_loads and loaded[0] < stored[1] and stored[0] < loaded[1]
        launch = None
        if not blind and not races(self._target, self._profile, stream, dram):
            launch = Launch(
                self._target,
                Isa.of(self._target).encode_stream(stream.fields),
                dram,
                profile=self._profile,
                order=_ORDER,
                tokens_before=self._tokens,
                tokens_after=done.tokens_after,
            )
        fixed = np.concatenate([np.array([(address, address + size)], np.int64), fixed])
        return _Plan(
            stream, done.order, done.tokens_after, self._moments(stream), launch, fixed, stored
        )

    def _execute(self, plan: _Plan) -> None:
        if plan.launch is not None:
            plan.launch.run()
            return
        dram, source = self.memory.dram(), None
        if self._silicon.stale_loads:
            source = Dram(Segment(one.address, one.data.copy()) for one in dram.segments)
        self._pipeline.run(plan.stream, plan.order, dram, source)

    def _based(self, stream: Stream, bases: Bases) -> Stream:
        """The stream with the base registers' effect on its addresses."""
        kind = self._silicon.bases(self._target)
        if kind == IGNORED or bases == Bases():
            return stream
        fields = dict(stream.fields)
        dram_base = fields["dram_base"].copy()
        moves = np.isin(stream.opcode, (Opcode.LOAD, Opcode.STORE)) & (fields["x_size"] > 0)
        values = (bases.uop, bases.wgt, bases.inp, bases.acc, bases.out)
        for memory, base in zip(Memory, values, strict=True):
            unit = self._target.element_bytes(memory)
            chosen = moves & (fields["memory_type"] == memory)
            shift, limit = base // unit, ADDRESS_SPACE // unit - 1
            moved = dram_base[chosen] + shift if kind == ADD else dram_base[chosen] | shift
            dram_base[chosen] = moved & limit
        return Stream({**fields, "dram_base": dram_base}, stream.stray)

    def _ranges(
        self, stream: Stream
    ) -> tuple[NDArray[np.int64], tuple[int, int], tuple[int, int]]:
        """Address ranges of what plans take for constant, and the hulls of LOADs and STOREs."""
        fields = stream.fields
        moves = (fields["x_size"] > 0) & (fields["y_size"] > 0)
        loads = moves & (stream.opcode == Opcode.LOAD)
        spans = {
            memory: self._spans(stream, loads & (fields["memory_type"] == memory), memory)
            for memory in (Memory.UOP, Memory.WGT, Memory.INP, Memory.ACC)
        }
        out = self._spans(stream, moves & (stream.opcode == Opcode.STORE), Memory.OUT)
        fixed = np.concatenate([spans[Memory.UOP], spans[Memory.WGT]])
        return fixed, _hull(np.concatenate(list(spans.values()))), _hull(out)

    def _spans(
        self, stream: Stream, chosen: NDArray[np.bool_], memory: Memory
    ) -> NDArray[np.int64]:
        """First address and the one after the last of the chosen transfers, int64[n, 2]."""
        fields, unit = stream.fields, self._target.element_bytes(memory)
        low = fields["dram_base"][chosen] * unit % ADDRESS_SPACE
        rows = (fields["y_size"][chosen] - 1) * fields["x_stride"][chosen]
        return np.stack([low, low + (rows + fields["x_size"][chosen]) * unit], axis=1)

    def _moments(self, stream: Stream) -> Moments:
        target = self._silicon.described(self._target)
        constants = target.timing
        try:
            line = timing.schedule(target, stream)
        except ValueError:  # tokens out of program order: nobody promised an exact time
            ended = int(timing.durations(target, stream).sum())
            return Moments(ended, 0, ended)
        computing = int(line.start[line.module == timing.COMPUTE][0])
        first = constants.fetch_start + constants.read_latency + constants.fetch_fixed
        fetched = first + len(stream) * constants.fetch_interval
        return Moments(min(fetched, line.cycles), computing, line.cycles)

    def _changed(self, start: int, end: int, keep: _Plan | None = None) -> None:
        """Forget plans that took what was at these addresses for granted."""
        self._plans = {
            key: plan
            for key, plan in self._plans.items()
            if plan is keep
            or not np.any((plan.fixed[:, 0] < end) & (plan.fixed[:, 1] > start))
        }


def _hull(spans: NDArray[np.int64]) -> tuple[int, int]:
    """The range that holds all of these; (0, 0) if there is none."""
    return (int(spans[:, 0].min()), int(spans[:, 1].max())) if len(spans) else (0, 0)
