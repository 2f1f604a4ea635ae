"""The cycle-level simulator: when each instruction of a stream runs, and what it waits for.

Fetch deals a stream to three modules through bounded queues; a module runs its instructions in
order, each as soon as it is there and its tokens are, and pushes tokens that the neighbour sees
some cycles later; a push into a full queue waits (docs/timing.md). Times follow from one another
like values in a network of processes: every process goes on until it needs a time that is not
known yet. What only a common memory port can tell is decided by the port, in order of time, once
nobody else can go on. A stream that stops for ever is a StreamError that says who waits for what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import timing
from ..backend.isa import MemoryType, Opcode, Stream
from ..backend.profile import Profile
from ..backend.target import Target
from ..errors import StreamError
from .fetching import PrivateFetch, SharedFetch
from .interleave import MODULE_NAMES, QUEUES, instruction_name, unroutable
from .port import ACC, INP, UOP, WGT, Reading, SharedPort

LOAD, COMPUTE, STORE = range(3)

PRODUCERS = (LOAD, COMPUTE, COMPUTE, STORE)
"""The module that pushes into each token queue, in the order of `interleave.QUEUES`."""

NOBODY = -1

# Queues that load, compute and store reach by their previous and next bits.
_SIDES = {
    "pop": ((None, 1), (0, 3), (2, None)),
    "push": ((None, 0), (1, 2), (3, None)),
}

_MASTERS: dict[int, int] = {
    MemoryType.UOP: UOP,
    MemoryType.INP: INP,
    MemoryType.WGT: WGT,
    MemoryType.ACC: ACC,
}

Column = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """When every instruction ran, int64[n] in cycles from launch; `start` and `end` inclusive.

    `module` says where. Before its start, the module stood still for `wait_fetch` cycles until
    the instruction had come, then for `wait_token` until a token from module `token_from` had.
    Of the cycles between start and end, `latency` were the memory's latency, `contention` those
    in which others had the port, `wait_room` the last ones, in which a token queue was full.
    `arrows` is int64[k, 3]: each token's producer, consumer and queue.
    """

    module: Column
    start: Column
    end: Column
    wait_fetch: Column
    wait_token: Column
    token_from: Column
    wait_room: Column
    latency: Column
    contention: Column
    arrows: Column

    @property
    def cycles(self) -> int:
        """Cycles from launch to the end of the last instruction."""
        return int(self.end.max()) + 1


def simulate(
    target: Target,
    stream: Stream,
    shared_port: bool = False,
    tokens: Sequence[int] = (0, 0, 0, 0),
) -> Run:
    """Run a decoded stream of at least one instruction on `target`, from `tokens` in the queues.

    With `shared_port`, all that reads memory shares one port. Raises StreamError if the stream
    stops for ever, or if tokens are lost on a design that drops what a queue cannot hold.
    """
    machine = _Machine(target, stream, shared_port, tokens)
    while machine.advance() or machine.serve():
        pass
    if not machine.done:
        raise StreamError(machine.deadlock())
    run = machine.run(tokens)
    _require_no_lost_tokens(target.profile, run, tokens)
    return run


class _Machine:
    """Four processes and their queues; times are appended as they become known."""

    def __init__(
        self, target: Target, stream: Stream, shared_port: bool, tokens: Sequence[int]
    ) -> None:
        count = len(stream)
        self._profile, self._timing, self._stream = target.profile, target.timing, stream
        self._spans = timing.spans(target, stream)
        self._cycles: list[int] = self._spans.cycles.tolist()
        modules = timing.modules(stream)
        self._module: list[int] = modules.tolist()
        self._pops = _moves(stream, modules, "pop")
        self._pushes = _moves(stream, modules, "push")
        self._unknown = unroutable(stream, target.profile).tolist()
        self._capacity = target.profile.token_capacity if target.design == "hls" else None
        self._latencies = (
            target.timing.load_to_compute,
            target.timing.compute_to_load,
            target.timing.compute_to_store,
            target.timing.store_to_compute,
        )
        self._port = SharedPort(target) if shared_port else None
        self._fetch = (
            SharedFetch(target, count, self._port)
            if self._port is not None
            else PrivateFetch(target, count)
        )
        self._left: list[int] = []  # when instructions left fetch
        self._dealt = [0, 0, 0]  # how many of them went to each module
        self._mine = [[i for i in range(count) if self._module[i] == m] for m in range(3)]
        self._begun: list[list[int]] = [[], [], []]  # start times of each module
        self._free = [0, 0, 0]
        self._running = [NOBODY] * 3
        self._reading: list[Reading | None] = [None] * 3
        self._visible = [[0] * number for number in tokens]  # from when each token can be popped
        self._popped: list[list[int]] = [[] for _ in QUEUES]
        self._start, self._end, self._wait_fetch = [0] * count, [0] * count, [0] * count
        self._wait_token, self._token_from = [0] * count, [NOBODY] * count
        self._wait_room, self._contention = [0] * count, [0] * count

    @property
    def done(self) -> bool:
        """Whether every instruction has run to its end."""
        return len(self._left) == len(self._cycles) and all(
            self._running[m] == NOBODY and len(self._begun[m]) == len(self._mine[m])
            for m in (LOAD, COMPUTE, STORE)
        )

    def advance(self) -> bool:
        """Let every process go on as far as it can; whether any did."""
        moved = self._deal()
        for module in (LOAD, COMPUTE, STORE):
            while self._finish(module) or self._begin(module):
                moved = True
        return moved

    def serve(self) -> bool:
        """Let the shared port decide; whether it had anything to."""
        served = self._port.serve() if self._port is not None else None
        if isinstance(served, Reading):
            module = self._reading.index(served)
            index = self._running[module]
            self._contention[index] = served.done - served.done_alone
            self._end[index] += self._contention[index]
            self._reading[module] = None
        return served is not None

    def _deal(self) -> bool:
        """Fetch: deal instructions in order, each when its queue has room."""
        before = len(self._left)
        capacity = self._profile.instruction_queue or len(self._cycles)
        for index in range(before, len(self._cycles)):
            module = self._module[index]
            full = self._dealt[module] - capacity
            if self._unknown[index] or full >= len(self._begun[module]):
                break
            time = self._fetch.earliest(index, self._left)
            if time is None:
                break
            if full >= 0:
                time = max(time, self._begun[module][full] + 1)
            self._left.append(time)
            self._dealt[module] += 1
        return len(self._left) > before

    def _begin(self, module: int) -> bool:
        """Start the module's next instruction, if its start is known."""
        begun, mine = self._begun[module], self._mine[module]
        if self._running[module] != NOBODY or len(begun) == len(mine):
            return False
        index = mine[len(begun)]
        if index >= len(self._left):
            return False
        free = self._free[module]
        begin = there = max(free, self._left[index] + self._timing.queue_latency)
        source = NOBODY
        for queue in self._pops[index]:
            visible, popped = self._visible[queue], len(self._popped[queue])
            if popped == len(visible):
                return False
            if visible[popped] > begin:
                begin, source = visible[popped], PRODUCERS[queue]
        for queue in self._pops[index]:
            self._popped[queue].append(begin)
        begun.append(begin)
        self._running[module] = index
        self._wait_fetch[index], self._wait_token[index] = there - free, begin - there
        self._token_from[index] = source
        self._start[index], self._end[index] = begin, begin + self._cycles[index] - 1
        if self._port is not None:
            self._reading[module] = self._read(index)
        return True

    def _read(self, index: int) -> Reading | None:
        """Ask the shared port for the words of a LOAD."""
        spans, kind = self._spans, int(self._stream.fields["memory_type"][index])
        words = int(spans.requests[index] * spans.words[index])
        if self._port is None or self._stream.opcode[index] != Opcode.LOAD or not words:
            return None
        reading = Reading(
            master=_MASTERS[kind],
            begin=self._start[index] + int(spans.lead[index]),
            requests=int(spans.requests[index]),
            gap=int(spans.gap[index]),
            latency=self._timing.read_latency,
            words=int(spans.words[index]),
            span=int(spans.span[index]),
        )
        self._port.submit(reading)
        return reading

    def _finish(self, module: int) -> bool:
        """End the module's instruction, if its end is known."""
        index = self._running[module]
        if index == NOBODY or self._reading[module] is not None:
            return False
        end = self._end[index]
        if self._capacity is not None:
            for queue in self._pushes[index]:
                full = len(self._visible[queue]) - self._capacity
                if full >= len(self._popped[queue]):
                    return False
                if full >= 0:
                    end = max(end, self._popped[queue][full] + 1)
        for queue in self._pushes[index]:
            self._visible[queue].append(end + self._latencies[queue])
        self._wait_room[index] = end - self._end[index]
        self._end[index] = end
        self._free[module] = end + 1
        self._running[module] = NOBODY
        return True

    def run(self, tokens: Sequence[int]) -> Run:
        """The result of a machine that is done."""
        return Run(
            module=np.array(self._module, np.int64),
            start=np.array(self._start, np.int64),
            end=np.array(self._end, np.int64),
            wait_fetch=np.array(self._wait_fetch, np.int64),
            wait_token=np.array(self._wait_token, np.int64),
            token_from=np.array(self._token_from, np.int64),
            wait_room=np.array(self._wait_room, np.int64),
            latency=self._spans.latency,
            contention=np.array(self._contention, np.int64),
            arrows=_arrows(self._pops, self._pushes, tokens),
        )

    def deadlock(self) -> str:
        """What every process waits for, in one line."""
        waits = [wait for m in (LOAD, COMPUTE, STORE) for wait in self._module_waits(m)]
        if len(self._left) < len(self._cycles):
            index = len(self._left)
            module = MODULE_NAMES[self._module[index]]
            reason = f"room in the queue of {module}, which holds {self._profile.instruction_queue}"
            if self._unknown[index]:
                reason = f"nothing: design {self._profile.name} does not know the instruction"
            waits.append(f"fetch waits at {self._name(index)} for {reason}")
        return f"deadlock after cycle {max(self._free)}: " + "; ".join(waits)

    def _module_waits(self, module: int) -> list[str]:
        begun, mine, running = self._begun[module], self._mine[module], self._running[module]
        if running != NOBODY:
            full = [QUEUES[queue] for queue in self._pushes[running]]
            where = f"{MODULE_NAMES[module]} waits at {self._name(running)}"
            return [f"{where} for room in {' or '.join(full)}, which holds {self._capacity} tokens"]
        if len(begun) == len(mine):
            return []
        index = mine[len(begun)]
        where = f"{MODULE_NAMES[module]} waits at {self._name(index)}"
        if index >= len(self._left):
            return [f"{where}, which fetch has not dealt"]
        empty = [
            QUEUES[queue]
            for queue in self._pops[index]
            if len(self._popped[queue]) == len(self._visible[queue])
        ]
        return [f"{where} for a token from {' and '.join(empty)}"]

    def _name(self, index: int) -> str:
        return instruction_name(index, int(self._stream.opcode[index]))


def _moves(stream: Stream, modules: Column, kind: str) -> list[tuple[int, ...]]:
    """The queues that each instruction pops or pushes; there are few different answers."""
    sides = _SIDES[kind]
    answers = [
        tuple(q for q, flag in zip(sides[module], bits, strict=True) if flag and q is not None)
        for module in (LOAD, COMPUTE, STORE)
        for bits in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    codes = modules * 4
    codes = codes + 2 * stream.fields[f"{kind}_prev_dep"] + stream.fields[f"{kind}_next_dep"]
    return [answers[code] for code in codes.tolist()]


def _arrows(
    pops: Sequence[tuple[int, ...]], pushes: Sequence[tuple[int, ...]], tokens: Sequence[int]
) -> Column:
    """int64[k, 3]: producer, consumer and queue of every token that was pushed and popped."""
    producers: list[list[int]] = [[] for _ in QUEUES]
    consumers: list[list[int]] = [[] for _ in QUEUES]
    for index, (popped, pushed) in enumerate(zip(pops, pushes, strict=True)):
        for queue in popped:
            consumers[queue].append(index)
        for queue in pushed:
            producers[queue].append(index)
    arrows = []
    for queue, first in enumerate(tokens):
        used = consumers[queue][first:]
        made = producers[queue][: len(used)]
        arrows += [(one, other, queue) for one, other in zip(made, used, strict=True)]
    return np.array(arrows, np.int64).reshape(-1, 3)


def _require_no_lost_tokens(profile: Profile, run: Run, tokens: Sequence[int]) -> None:
    """A design that does not block drops a token that its counter cannot hold."""
    capacity = profile.token_capacity
    if profile.name != "chisel" or capacity is None:
        return
    for queue, name in enumerate(QUEUES):
        mine = run.arrows[run.arrows[:, 2] == queue]
        pushed, popped = np.sort(run.end[mine[:, 0]]), np.sort(run.start[mine[:, 1]])
        held = tokens[queue] + np.arange(1, len(pushed) + 1)
        held -= np.searchsorted(popped, pushed, side="right")
        if np.any(held > capacity):
            producer = int(mine[int(np.argmax(held > capacity)), 0])
            raise StreamError(
                f"instruction {producer}: pushes token {capacity + 1} into {name}, where design "
                f"{profile.name} counts to {capacity} and drops it; pop earlier"
            )
