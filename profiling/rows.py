"""Which row of a profile every instruction belongs to, and what the rows take.

The compute module is the clock: a layer's time is the interval between the ends of the last
compute instructions of its predecessor and of itself, so that rows add up to the launch. Inside
an interval, instructions with a role are booked on a row of their own; that of a shortcut or a pool
has an ONNX node of its own too. Instructions of load and store belong to the layer that they serve,
whenever they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.isa import Stream
from ..runtime.cycles import COMPUTE, LOAD, NOBODY, STORE, Run
from ..runtime.interleave import MODULE_NAMES
from .activity import BUSY, CONTENTION, LATENCY, WORK, activities, own_cycles, work_kinds
from .subject import Key

Column = NDArray[np.int64]
Split = dict[str, float]

WAIT_LOAD, WAIT_STORE, WAIT_FETCH = "waits for load", "waits for store", "waits for instructions"
WAIT_WEIGHTS, WAIT_INPUTS = "waits for weights", "waits for inputs"
WAIT_MEMORY = "waits for memory latency"

PARTS = (
    *WORK[COMPUTE],
    WAIT_WEIGHTS,
    WAIT_INPUTS,
    WAIT_MEMORY,
    WAIT_LOAD,
    WAIT_STORE,
    WAIT_FETCH,
)
"""What the cycles of a row are split into. `WAIT_LOAD`: load itself waits or does other things."""


@dataclass(frozen=True)
class Rows:
    """Keys of the rows in order of time, and the row of every instruction, int64[n].

    `booked` is the row that an instruction's time is booked on; `served` the row that it serves.
    """

    keys: tuple[Key, ...]
    booked: Column
    served: Column


def assign(keys: Sequence[Key], run: Run) -> Rows:
    """Rows of one launch. What serves nothing (FINISH) belongs to the last row."""
    compute = np.flatnonzero(run.module == COMPUTE).tolist()
    last = {keys[i][0]: i for i in compute if keys[i][0] and not keys[i][1]}
    for origin, role in keys:
        if origin and not role:
            last.setdefault(origin, -1)  # a layer without compute instructions takes no time
    order = sorted(last, key=lambda origin: last[origin])
    ends = np.array([last[origin] for origin in order])
    interval = np.searchsorted(ends, np.arange(len(keys)))
    # A part follows the layer in whose interval it ends.
    moments = {(origin, ""): end for origin, end in last.items()}
    moments |= {key: last[order[min(at, len(order) - 1)]]
                for key, at in zip(keys, interval.tolist(), strict=True) if key[1]}
    rows = sorted(moments, key=lambda key: moments[key]) or [((), "")]
    number = {key: index for index, key in enumerate(rows)}
    final = number[order[-1], ""] if order else 0
    served = np.array([number.get(key, final) for key in keys], np.int64)
    mains = np.array([number[o, ""] for o in order] + [final], np.int64)
    has_role = np.array([bool(role) for _, role in keys])
    clock = (run.module == COMPUTE) & ~has_role
    return Rows(tuple(rows), np.where(clock, mains[interval], served), served)


def intervals(rows: Rows, run: Run) -> Iterator[tuple[int, int, int]]:
    """(begin, end, row) of each layer in cycles, `end` exclusive; parts with a role lie inside."""
    mine = np.flatnonzero(run.module == COMPUTE)
    begin = 0
    for row, (_, role) in enumerate(rows.keys):
        booked = mine[rows.booked[mine] == row]
        if not role and len(booked):
            end = int(run.end[booked[-1]]) + 1
            yield begin, end, row
            begin = end


def time_splits(rows: Rows, stream: Stream, run: Run) -> list[Split]:
    """For each row, its cycles by `PARTS`; the parts of all rows add up to the launch."""
    mine = np.flatnonzero(run.module == COMPUTE)
    parts = _compute_parts(stream, run, mine)
    splits = [
        {name: float(amount[rows.booked[mine] == row].sum()) for name, amount in parts.items()}
        for row in range(len(rows.keys))
    ]
    # After the last compute instruction only store can be at work.
    tail = run.cycles - (int(run.end[mine[-1]]) + 1 if len(mine) else 0)
    final = int(rows.booked[mine[-1]]) if len(mine) else len(rows.keys) - 1
    splits[final][WAIT_STORE] += tail
    return splits


def _compute_parts(
    stream: Stream, run: Run, mine: Column
) -> dict[str, NDArray[np.float64]]:
    """Cycles from the end of each compute instruction's predecessor to its own end, by part."""
    kinds, own = work_kinds(stream, run.module)[mine], own_cycles(run)[mine]
    wait, source = run.wait_token[mine], run.token_from[mine]
    end, begin = run.start[mine], run.start[mine] - run.wait_token[mine]
    parts = {
        name: np.where(kinds == number, own, 0).astype(np.float64)
        for number, name in enumerate(WORK[COMPUTE])
    }
    load = activities(stream, run)["load"]
    for_load = source == LOAD
    splits = {
        WAIT_WEIGHTS: load.between("weights", begin, end) * for_load,
        WAIT_INPUTS: load.between("inputs", begin, end) * for_load,
        WAIT_MEMORY: load.between(LATENCY, begin, end) * for_load
        + load.between(CONTENTION, begin, end) * for_load,
    }
    rest = wait * for_load - sum(splits.values())
    splits[WAIT_MEMORY] += run.latency[mine] + run.contention[mine]
    return {
        **parts,
        **splits,
        WAIT_LOAD: rest + 0.0,
        WAIT_STORE: wait * (source == STORE) + run.wait_room[mine] + 0.0,
        WAIT_FETCH: run.wait_fetch[mine] + 0.0,
    }


def module_splits(rows: Rows, stream: Stream, run: Run) -> list[dict[str, Split]]:
    """For each row and module, what the module does for it and what it waits for, in cycles.

    Compute is split by the row that its time is booked on, load and store by the row served.
    """
    kinds, own = work_kinds(stream, run.module), own_cycles(run)
    found: list[dict[str, Split]] = []
    for row in range(len(rows.keys)):
        splits = {}
        for module, name in enumerate(MODULE_NAMES):
            of_row = rows.booked if module == COMPUTE else rows.served
            chosen = (run.module == module) & (of_row == row)
            split = {
                kind: float(own[chosen & (kinds == number)].sum())
                for number, kind in enumerate(WORK[module])
            }
            split[LATENCY] = float(run.latency[chosen].sum())
            split[CONTENTION] = float(run.contention[chosen].sum())
            split |= _waits(run, chosen)
            splits[name] = split
        found.append(splits)
    return found


def _waits(run: Run, chosen: NDArray[np.bool_]) -> Split:
    """What the module waited for before the chosen instructions."""
    waits = {"instructions": float(run.wait_fetch[chosen].sum())}
    for module, name in enumerate(MODULE_NAMES):
        tokens = chosen & (run.token_from == module) & (run.token_from != NOBODY)
        waits[f"tokens from {name}"] = float(run.wait_token[tokens].sum())
    waits["room for tokens"] = float(run.wait_room[chosen].sum())
    return waits


def busy(split: Split, module: str) -> float:
    """Cycles of a module's split in which it was at work, memory's latency included."""
    return sum(split[kind] for kind in BUSY[MODULE_NAMES.index(module)])
