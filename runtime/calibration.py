"""How long instructions take on a board: constants of the timing formulas, measured.

A host cannot time one instruction, so each kind runs often in one stream; the difference between
two streams that differ in the number of repetitions alone is free of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..backend.commands import Memory
from ..backend.isa import AluOpcode
from ..backend.target import Timing
from .probe import ProbeFailure
from .probe_streams import Bench, Script

LANES = 16
"""Different accumulators in turn: more than any pipeline is deep."""

TOLERANCE = 0.05
"""By how much a measured interval may miss a whole number of cycles."""

Step = Callable[[Script], None]


@dataclass(frozen=True)
class _Rows:
    """Cycles of a transfer: once, per row (latency included), per element."""

    fixed: float
    row: float
    element: float


def measured_timing(bench: Bench, uops: int, data: int) -> tuple[Timing, dict[str, float]]:
    """The target's constants with all that can be measured replaced, and the raw numbers.

    LANES micro-ops lie at `uops`, an input at `data`. Chisel's transfers overlap in ways that the
    formulas do not have, so there only GEMM and ALU are measured. Raises ProbeFailure if the
    numbers make no sense.
    """
    measured: dict[str, float] = {}
    constants = _loops(bench, uops, measured)
    if bench.target.design == "hls":
        constants = _transfers(bench, data, constants, measured)
    return constants, {name: round(value, 3) for name, value in measured.items()}


def _loops(bench: Bench, uops: int, measured: dict[str, float]) -> Timing:
    """Intervals and fixed costs of GEMM and ALU."""
    timing = bench.target.timing
    kinds: tuple[tuple[str, Callable[[int], Step]], ...] = (
        ("gemm", lambda times: lambda script: script.gemm(LANES, times)),
        ("alu_imm", lambda times: lambda script: script.alu(AluOpcode.ADD, 0, 0, LANES, times)),
        ("alu", lambda times: lambda script: script.alu(AluOpcode.MAX, None, 0, LANES, times)),
    )
    for name, step in kinds:
        long, short = 1 << 10, 1
        cycles = _cycles(bench, uops, step(long), 8), _cycles(bench, uops, step(short), 2048)
        interval = (cycles[0] - cycles[1]) / (LANES * (long - short))
        measured[f"{name}_interval"] = interval
        measured[f"{name}_fixed"] = cycles[1] - LANES * interval
        if round(interval) < 1 or abs(interval - round(interval)) > TOLERANCE * interval:
            raise ProbeFailure(
                f"{name} takes {interval:.2f} cycles a micro-op, no whole number: is the clock "
                f"{bench.target.clock_mhz} MHz?"
            )
    return replace(
        timing,
        gemm_interval=round(measured["gemm_interval"]),
        gemm_fixed=_whole(measured["gemm_fixed"]),
        alu_interval=round(measured["alu_interval"]),
        alu_imm_interval=round(measured["alu_imm_interval"]),
        alu_fixed=_whole(measured["alu_imm_fixed"]),
    )


def _transfers(
    bench: Bench, data: int, timing: Timing, measured: dict[str, float]
) -> Timing:
    """Latencies and costs of LOAD and STORE; the read latency is what INP's rows do not explain."""
    shapes = {Memory.INP: (64, 32), Memory.WGT: (8, 16), Memory.ACC: (16, 16), Memory.OUT: (16, 32)}
    found = {}
    for memory, (rows, size) in shapes.items():
        found[memory] = one = _rows(bench, data, memory, rows, size)
        for name in ("fixed", "row", "element"):
            measured[f"{memory.name.lower()}_{name}"] = getattr(one, name)
    latency = _whole(found[Memory.INP].row - timing.inp_row)
    uop = _cycles(bench, data, lambda script: script.load(Memory.UOP, 0, data, 1), 512)
    measured["uop_one"] = uop
    beats = max(1, bench.target.element_bits(Memory.WGT) // bench.target.bus_bits)
    return replace(
        timing,
        read_latency=latency,
        write_latency=_whole(found[Memory.OUT].row - timing.store_row),
        uop_fixed=_whole(uop - 1 - latency),
        inp_fixed=_whole(found[Memory.INP].fixed),
        wgt_fixed=_whole(found[Memory.WGT].fixed),
        wgt_row=_whole(found[Memory.WGT].row - latency),
        wgt_cycles_per_beat=max(1, _whole(found[Memory.WGT].element / beats)),
        acc_fixed=_whole(found[Memory.ACC].fixed),
        acc_row=_whole(found[Memory.ACC].row - latency),
        store_fixed=_whole(found[Memory.OUT].fixed),
    )


def _rows(bench: Bench, data: int, memory: Memory, rows: int, size: int) -> _Rows:
    """The three costs of a transfer of `memory`, from three shapes of it."""

    def cycles(rows: int, size: int, often: int) -> float:
        if memory is Memory.OUT:
            step: Step = lambda script: script.store(0, data, size, rows)  # noqa: E731
        else:
            step = lambda script: script.load(memory, 0, data, size, rows)  # noqa: E731
        return _cycles(bench, data, step, often)

    one, high, wide = cycles(1, 1, 512), cycles(rows, 1, 32), cycles(rows, size, 16)
    row_and_element = (high - one) / (rows - 1)
    element = (wide - high) / (rows * (size - 1))
    return _Rows(one - row_and_element, row_and_element - element, element)


def _cycles(bench: Bench, uops: int, step: Step, often: int) -> float:
    """Cycles of one more `step`, from a stream with `often` of them and one with twice as many.

    Both must take longer than the driver's first sleep.
    """

    def seconds(count: int) -> float:
        script = bench.script()
        script.load(Memory.UOP, 0, uops, LANES)
        for _ in range(count):
            step(script)
        return bench.least(bench.place(script))

    more = seconds(2 * often) - seconds(often)
    return more * bench.target.clock_mhz * 1e6 / often


def _whole(cycles: float) -> int:
    """Cycles as a constant of a description, which cannot be negative."""
    return max(0, round(cycles))
