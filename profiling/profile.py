"""A profile: every launch simulated, and one JSON-able report of where the cycles went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.comparison import Comparison
from ..runtime.cycles import Run, simulate
from ..runtime.interleave import MODULE_NAMES
from . import bounds, host_time
from .rows import Rows, Split, assign, busy, module_splits, time_splits
from .subject import Json, LaunchCode, Subject

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """One launch: its code, when its instructions ran, their rows; `offset` cycles after the first.

    Launches follow one another at once: the host's time between them is not the accelerator's.
    """

    code: LaunchCode
    run: Run
    rows: Rows
    offset: int


@dataclass(frozen=True)
class Profile:
    """A subject with its runs, and the report that text, page and JSON are made from."""

    subject: Subject
    launches: tuple[Measured, ...]
    report: Json


def profile(
    subject: Subject,
    shared_port: bool = False,
    host_steps: Sequence[host_time.StepTime] = (),
    comparison: Comparison | None = None,
) -> Profile:
    """Simulate every launch of `subject` and account for its cycles.

    `host_steps` are the times of its host steps, `comparison` what a run showed of its quality.
    Raises StreamError if a launch stops for ever.
    """
    launches: list[Measured] = []
    offset = 0
    for code in subject.launches:
        run = simulate(subject.target, code.stream, shared_port, code.tokens)
        launches.append(Measured(code, run, assign(code.keys, run), offset))
        offset += run.cycles
    found = _report(subject, launches, shared_port)
    found["host"] = _host(host_steps)
    _add_quality(found, comparison)
    return Profile(subject, tuple(launches), found)


def _add_quality(found: Json, comparison: Comparison | None) -> None:
    """What a comparison says of the layers and of the whole."""
    sqnr = {layer.name: layer.sqnr_db for layer in comparison.layers} if comparison else {}
    for row in found["layers"]:
        decibels = None if row["role"] else sqnr.get(row["layer"])
        row["exact"] = decibels == float("inf")
        row["sqnr_db"] = decibels if decibels is not None and np.isfinite(decibels) else None
    rates = comparison.accuracy if comparison else None
    found["comparison"] = comparison and {
        "samples": comparison.samples,
        "accuracy": rates and {"cpu": rates.cpu, "target": rates.target},
        "mismatch": comparison.mismatch,
    }


def _report(subject: Subject, launches: Sequence[Measured], shared_port: bool) -> Json:
    target = subject.target
    layers = [row for index, one in enumerate(launches) for row in _rows(subject, index, one)]
    cycles = sum(one.run.cycles for one in launches)
    macs = sum(row["macs"] for row in layers)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": subject.name,
        "target": target.name,
        "design": target.design,
        "clock_mhz": target.clock_mhz,
        "batch": subject.batch,
        "shared_port": shared_port,
        "read_latency": target.timing.read_latency,
        "write_latency": target.timing.write_latency,
        "peak_macs_per_cycle": peak(subject),
        "bus_bytes_per_cycle": target.bus_bits // 8,
        "weight_bytes_per_cycle": target.bus_bits / 8 / target.timing.wgt_cycles_per_beat,
        "cycles": cycles,
        "ms": milliseconds(subject, cycles),
        "macs": macs,
        "array_use": macs / (cycles * peak(subject)),
        "lower_bound_cycles": sum(row["lower_bound_cycles"] for row in layers),
        "layers": layers,
        "modules": _modules(launches, layers),
        "launches": [
            {
                "instructions": len(one.code.stream),
                "cycles": one.run.cycles,
                "ms": milliseconds(subject, one.run.cycles),
            }
            for one in launches
        ],
        "placement": [
            {key: row[key] for key in ("node", "op", "device", "reason")}
            for row in subject.placement
        ],
    }


def peak(subject: Subject) -> int:
    """Multiply-accumulates of a GEMM micro-op."""
    target = subject.target
    return target.batch * target.block_in * target.block_out


def milliseconds(subject: Subject, cycles: float) -> float:
    """Cycles at the target's clock."""
    return cycles / (1000 * subject.target.clock_mhz)


def _rows(subject: Subject, index: int, one: Measured) -> list[Json]:
    times = time_splits(one.rows, one.code.stream, one.run)
    modules = module_splits(one.rows, one.code.stream, one.run)
    found = [
        _row(subject, index, one, row, time, work)
        for row, (time, work) in enumerate(zip(times, modules, strict=True))
    ]
    for row, (origin, role) in enumerate(one.rows.keys):
        mates = [n for n, key in enumerate(one.rows.keys) if key[0] == origin and n != row]
        floor = _floor(subject, one, row, mates, sum(found[n]["cycles"] for n in mates))
        lower = max(floor.values())
        found[row]["bounds"] = floor
        found[row]["compute_with_alu_cycles"] = bounds.compute_with_alu(
            subject.target, one.code.stream, one.rows.served == row
        )
        found[row]["lower_bound_cycles"] = lower
        found[row]["distance"] = found[row]["cycles"] / lower if lower else None
        found[row]["limit"] = bounds.limit(modules[row], found[row]["cycles"], bool(role))
    return found


def _floor(
    subject: Subject, one: Measured, row: int, mates: Sequence[int], elsewhere: int
) -> dict[str, int]:
    """The bounds of a row. `mates` are the other rows of its layer, `elsewhere` their cycles.

    A part with a role is booked on the compute module alone; what it loads or stores is the
    layer's business, which has that much time more.
    """
    stream, target = one.code.stream, subject.target
    floor = bounds.bounds(target, stream, one.rows.served == row)
    if one.rows.keys[row][1]:
        return {name: floor[name] if name == bounds.COMPUTE else 0 for name in floor}
    if mates:
        whole = bounds.bounds(target, stream, np.isin(one.rows.served, [row, *mates]))
        for name in (bounds.WEIGHTS, bounds.INPUTS, bounds.STORE):
            floor[name] = max(floor[name], whole[name] - elsewhere)
    return floor


def _row(
    subject: Subject,
    launch: int,
    one: Measured,
    row: int,
    time: Split,
    modules: Mapping[str, Split],
) -> Json:
    """One line of the table, but for its bounds."""
    origin, role = key = one.rows.keys[row]
    stream, target = one.code.stream, subject.target
    layer: Mapping[str, Any] = subject.layers.get(origin, {})
    served = one.rows.served == row
    micro_ops = int(bounds.products(stream)[served].sum())
    is_part = bool(role) and (origin, "") in one.rows.keys
    macs = 0 if is_part else layer.get("macs", micro_ops * peak(subject))
    cycles = round(sum(time.values()))
    return {
        "name": subject.label(key),
        "layer": layer.get("name", subject.label((origin, ""))),
        "role": role,
        "op": layer.get("op", ""),
        "tiles": layer.get("tiles", ""),
        "launch": launch,
        "instructions": int(served.sum()),
        "cycles": cycles,
        "ms": milliseconds(subject, cycles),
        "macs": macs,
        "micro_ops": micro_ops,
        "array_use": macs / (cycles * peak(subject)) if cycles else 0.0,
        "bytes": bounds.moved_bytes(target, stream, served),
        "time": {name: max(0.0, round(amount, 1)) for name, amount in time.items()},
        "modules": modules,
    }


def _modules(launches: Sequence[Measured], layers: Sequence[Json]) -> Json:
    """Totals by module: what it did and waited for, and the cycles after its last instruction."""
    found = {}
    for module, name in enumerate(MODULE_NAMES):
        total: Split = {}
        for row in layers:
            for kind, amount in row["modules"][name].items():
                total[kind] = total.get(kind, 0.0) + amount
        ends = ((one.run, one.run.end[one.run.module == module]) for one in launches)
        total["idle"] = float(
            sum(run.cycles - (int(end[-1]) + 1 if len(end) else 0) for run, end in ends)
        )
        found[name] = {"busy": busy(total, name), **total}
    return found


def _host(steps: Sequence[host_time.StepTime]) -> Json:
    return {
        "ms": sum(step.seconds for step in steps) * 1000,
        "measured_on": host_time.machine_name() if steps else None,
        "steps": [
            {"name": step.name, "op": step.op, "ms": step.seconds * 1000} for step in steps
        ],
    }
