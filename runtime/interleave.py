"""Execution order: which module may run which instruction when, by dependence tokens alone.

VTA's load, compute and store modules run concurrently, each in stream order, and wait for one
another through four token queues only (docs/hardware.md, "Tokens"). The order in
which a simulator executes a stream therefore does not depend on data: it is computed once here,
under one of several policies. A stream whose result changes with the policy lacks a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.isa import MemoryType, Opcode, Stream
from ..backend.profile import Profile, Unknown
from ..errors import StreamError

LOAD, COMPUTE, STORE = 0, 1, 2
"""The modules that execute instructions."""

MODULE_NAMES = ("load", "compute", "store")

QUEUES = ("load->compute", "compute->load", "compute->store", "store->compute")
"""The token queues, in the order of every tuple of token counts."""

_POLICIES = {
    "program": (),
    "load-first": (LOAD, COMPUTE, STORE),
    "compute-first": (COMPUTE, STORE, LOAD),
    "store-first": (STORE, LOAD, COMPUTE),
    "round-robin": (LOAD, COMPUTE, STORE),
}
ORDERS = tuple(_POLICIES)
"""Policies: the stream's own order, or always the first ready module of a fixed list (so the
last of the list runs as late as tokens allow), or the modules in turn."""

# Queue numbers that a module (row) pops and pushes by its prev and next bits; -1: no neighbour.
_POP_PREV = np.array([-1, 0, 2])
_POP_NEXT = np.array([1, 3, -1])
_PUSH_PREV = np.array([-1, 1, 3])
_PUSH_NEXT = np.array([0, 2, -1])

Tokens = tuple[int, int, int, int]


@dataclass(frozen=True)
class Execution:
    """The order of execution: `order` int64[n] of stream positions, and the tokens left over."""

    order: NDArray[np.int64]
    tokens_after: Tokens


@dataclass(frozen=True)
class _Moves:
    """What each instruction pops and pushes (bool[n, 4], by queue), and who runs it (int64[n])."""

    module: NDArray[np.int64]
    pops: NDArray[np.bool_]
    pushes: NDArray[np.bool_]
    opcode: NDArray[np.int64]

    def name(self, position: int) -> str:
        """How messages call the instruction."""
        return instruction_name(position, int(self.opcode[position]))


def instruction_name(position: int, opcode: int) -> str:
    """How messages call an instruction: its position in the stream and its opcode."""
    known = Opcode(opcode).name if opcode in set(Opcode) else f"opcode {opcode}"
    return f"instruction {position} ({known})"


def modules(stream: Stream) -> NDArray[np.int64]:
    """The module that fetch routes each instruction to: STORE to store, LOAD of INP and WGT to
    load, everything else to compute."""
    kinds = stream.fields["memory_type"]
    inputs = (kinds == MemoryType.INP) | (kinds == MemoryType.WGT)
    routed = np.full(len(stream), COMPUTE, np.int64)
    routed[(stream.opcode == Opcode.LOAD) & inputs] = LOAD
    routed[stream.opcode == Opcode.STORE] = STORE
    return routed


def execution(
    stream: Stream,
    profile: Profile,
    policy: str = "program",
    tokens: Sequence[int] = (0, 0, 0, 0),
) -> Execution:
    """The order in which `policy` executes the stream, starting with `tokens` in the queues.

    Raises StreamError, naming the instruction, where a token is missing (or never comes), a
    queue overflows, a dependence bit points nowhere, FINISH is absent or not the last to run.
    """
    if policy not in _POLICIES:
        raise StreamError(f"unknown execution order {policy!r}; orders are {', '.join(ORDERS)}")
    moves = _moves(stream, profile)
    start = np.array(tokens, np.int64)
    capacity = profile.token_capacity or np.iinfo(np.int64).max
    if policy == "program":
        order = _program_order(moves, start, capacity)
    else:
        rotate = policy == "round-robin"
        order = _scheduled_order(moves, start, capacity, _POLICIES[policy], rotate)
    _require_finish_last(moves, order)
    left = start + moves.pushes.sum(axis=0) - moves.pops.sum(axis=0)
    return Execution(order, (int(left[0]), int(left[1]), int(left[2]), int(left[3])))


def require_tokens(left: Sequence[int], expected: Sequence[int]) -> None:
    """Check the tokens that a launch leaves behind. Raises StreamError naming the queue."""
    for queue, count, wanted in zip(QUEUES, left, expected, strict=True):
        if count != wanted:
            raise StreamError(
                f"the stream ends with {count} tokens in {queue}, not {wanted}: the next launch "
                "would start too early or never; balance pushes and pops"
            )


def _moves(stream: Stream, profile: Profile) -> _Moves:
    module = modules(stream)
    rows = np.arange(len(stream))
    pops = np.zeros((len(stream), len(QUEUES)), np.bool_)
    pushes = np.zeros_like(pops)
    table = (
        (pops, "pop_prev_dep", _POP_PREV),
        (pops, "pop_next_dep", _POP_NEXT),
        (pushes, "push_prev_dep", _PUSH_PREV),
        (pushes, "push_next_dep", _PUSH_NEXT),
    )
    for moved, field, queue_of in table:
        queue = queue_of[module]
        flagged = stream.fields[field] != 0
        if profile.neighbours_strict and np.any(flagged & (queue < 0)):
            position = int(np.flatnonzero(flagged & (queue < 0))[0])
            name = instruction_name(position, int(stream.opcode[position]))
            raise StreamError(
                f"{name}: {field} is set, but the {MODULE_NAMES[module[position]]} module has no "
                f"such neighbour; profile {profile.name} aborts"
            )
        chosen = flagged & (queue >= 0)
        moved[rows[chosen], queue[chosen]] = True
    _require_routable(stream, profile)
    return _Moves(module, pops, pushes, stream.opcode)


def _require_routable(stream: Stream, profile: Profile) -> None:
    """Fetch of some designs never dispatches what it does not know."""
    unknown = unroutable(stream, profile)
    if np.any(unknown):
        position = int(np.flatnonzero(unknown)[0])
        name = instruction_name(position, int(stream.opcode[position]))
        raise StreamError(
            f"{name}: fetch of profile {profile.name} does not know this instruction and waits "
            "for ever"
        )


def unroutable(stream: Stream, profile: Profile) -> NDArray[np.bool_]:
    """Instructions that fetch never dispatches, bool[n]."""
    unknown = np.zeros(len(stream), np.bool_)
    if profile.unknown is not Unknown.HANG:
        return unknown
    kinds, operations = stream.fields["memory_type"], stream.fields["alu_opcode"]
    known_load = kinds <= MemoryType.ACC
    if profile.acc_8bit:
        known_load |= kinds == MemoryType.ACC_8BIT
    unknown |= stream.opcode > Opcode.ALU
    unknown |= (stream.opcode == Opcode.LOAD) & ~known_load
    unknown |= (stream.opcode == Opcode.ALU) & (operations > (4 if profile.mul else 3))
    return unknown


def _program_order(
    moves: _Moves, start: NDArray[np.int64], capacity: int
) -> NDArray[np.int64]:
    """The stream's own order, if every pop finds its token."""
    popped = np.cumsum(moves.pops, axis=0)
    pushed = np.cumsum(moves.pushes, axis=0)
    after = start + pushed - popped  # no module pushes into a queue that it pops
    faults = moves.pops & (after < 0)
    if np.any(faults):
        position, queue = (int(x) for x in np.argwhere(faults)[0])
        raise StreamError(
            f"{moves.name(position)}: pops a token from {QUEUES[queue]}, which is empty in "
            "program order: underflow, the instruction would wait for a later one"
        )
    if np.any(after > capacity):
        position, queue = (int(x) for x in np.argwhere(after > capacity)[0])
        raise _overflow(moves, position, queue, capacity)
    return np.arange(len(moves.module), dtype=np.int64)


def _scheduled_order(
    moves: _Moves,
    start: NDArray[np.int64],
    capacity: int,
    priority: tuple[int, ...],
    rotate: bool,
) -> NDArray[np.int64]:
    """Run one instruction of the first ready module at a time, until nobody can run."""
    pops, pushes = _queue_lists(moves.pops), _queue_lists(moves.pushes)
    pending = [np.flatnonzero(moves.module == m).tolist()[::-1] for m in range(3)]
    tokens = start.tolist()
    turn = list(priority)
    order: list[int] = []
    while any(pending):
        for module in turn:
            if pending[module] and all(tokens[q] for q in pops[pending[module][-1]]):
                break
        else:
            raise _deadlock(moves, [rest[-1] for rest in pending if rest], tokens)
        position = pending[module].pop()
        order.append(position)
        for queue in pops[position]:
            tokens[queue] -= 1
        for queue in pushes[position]:
            tokens[queue] += 1
            if tokens[queue] > capacity:
                raise _overflow(moves, position, queue, capacity)
        if rotate:
            turn = [(module + step) % 3 for step in (1, 2, 3)]
    return np.array(order, np.int64)


def _queue_lists(moved: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """For each instruction the queues that it moves; there are only 16 different answers."""
    masks = [tuple(q for q in range(4) if code >> q & 1) for code in range(16)]
    return [masks[code] for code in (moved @ np.array([1, 2, 4, 8])).tolist()]


def _overflow(moves: _Moves, position: int, queue: int, capacity: int) -> StreamError:
    return StreamError(
        f"{moves.name(position)}: pushes token {capacity + 1} into {QUEUES[queue]}, which holds "
        f"{capacity}; pop earlier"
    )


def _deadlock(moves: _Moves, waiting: list[int], tokens: list[int]) -> StreamError:
    blocked = []
    for position in sorted(waiting):
        empty = [q for q in range(4) if moves.pops[position, q] and not tokens[q]]
        blocked.append(f"{moves.name(position)} waits for {QUEUES[empty[0]]}")
    return StreamError(f"deadlock: {', '.join(blocked)}")


def _require_finish_last(moves: _Moves, order: NDArray[np.int64]) -> None:
    finish = np.flatnonzero(moves.opcode[order] == Opcode.FINISH)
    if not len(finish):
        raise StreamError("the stream has no FINISH: the launch would never end")
    if finish[0] != len(order) - 1:
        late = int(order[finish[0] + 1])
        raise StreamError(
            f"{moves.name(late)} can run after FINISH (instruction {order[finish[0]]}), so its "
            "effect is not waited for; order it before FINISH by tokens, FINISH last"
        )
