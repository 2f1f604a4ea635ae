"""The static checker: what a bound stream must respect on every VTA, whoever wrote it.

It shares no code with the program, its token pass or the simulators, so that their mistakes are
not its own, and it guards hardware whose DMA reaches all of a board's memory: it relies on
nothing in the stream, and both its work and its memory are bounded. The steps, each on pieces of
the stream: single instructions (`fields`), token counts (`sequence`), then everything else in
program order (`flow`), where happens-before is kept as vector clocks (`order`), SRAM as bit masks
(`scratchpads`, `kernels`) and DRAM by regions (`memory_map`, `rows`). Facts: docs/hardware.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import StreamError, TargetError
from ..dram import Region
from ..profile import PROFILES, Profile
from ..target import Target
from .columns import decoded
from .fields import Limits, check_fields
from .findings import RULES, Finding, Report, Stop
from .flow import Flow
from .memory_map import MemoryMap
from .sequence import Sequence as InstructionSequence
from .sequence import check_length

__all__ = ["RULES", "WORK_LIMIT", "Finding", "check", "require_clean"]

WORK_LIMIT = 20_000_000
"""Steps of about a microsecond that a check may take; ResNet-18 needs about a million."""


def check(
    target: Target,
    insns: NDArray[np.uint8],
    *,
    base: int,
    regions: Iterable[Region],
    constants: NDArray[np.uint8],
    origins: Sequence[tuple[str, ...]] | None = None,
    initialised: Collection[str] = (),
    profile: str = "portable",
    work_limit: int = WORK_LIMIT,
    arena_bytes: int | None = None,
) -> list[Finding]:
    """Every rule that the stream `insns` (uint8[n, 16]) breaks, by instruction; empty is clean.

    The stream is bound to the arena at physical byte address `base`. `regions` are relative to
    the arena, `constants` (uint8) is its content from offset 4096. `origins` names the ONNX nodes
    of each instruction. `initialised` names the regions, besides constants, that hold data before
    the launch. `arena_bytes` is what was allocated (default: up to the target's `dram_bytes`).
    `profile` is "portable", or one design whose extra freedom the stream may use: MUL, its shift
    ranges, pads on WGT and ACC, no OUT memory, its micro-op memory and token queues. A rule about
    what an instruction does is checked only if every instruction by itself, the token counts and
    the regions are right. At most 50 findings are returned. Raises TargetError for an unknown
    profile and EncodingError if `insns` is no such array.
    """
    if profile not in PROFILES:
        raise TargetError(f"unknown profile {profile!r}; profiles are {', '.join(PROFILES)}")
    report = Report(origins, work_limit)
    try:
        check_length(len(insns), report)
        _check_form(target, insns, PROFILES[profile], report)
        memory_map = MemoryMap(target, tuple(regions), constants, initialised, arena_bytes, report)
        memory_map.check_base(base)
        report.stop_if_broken()
        flow = Flow(target, PROFILES[profile], base, memory_map, report)
        for columns in decoded(target, insns):
            flow.feed(columns)
    except Stop:
        pass
    return sorted(report.findings, key=lambda finding: finding.instruction)


def require_clean(
    target: Target,
    insns: NDArray[np.uint8],
    *,
    base: int,
    regions: Iterable[Region],
    constants: NDArray[np.uint8],
    origins: Sequence[tuple[str, ...]] | None = None,
    initialised: Collection[str] = (),
    profile: str = "portable",
    work_limit: int = WORK_LIMIT,
    arena_bytes: int | None = None,
) -> None:
    """Raise StreamError with the first finding of `check`, and the number of the others."""
    findings = check(
        target,
        insns,
        base=base,
        regions=regions,
        constants=constants,
        origins=origins,
        initialised=initialised,
        profile=profile,
        work_limit=work_limit,
        arena_bytes=arena_bytes,
    )
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise StreamError(f"{findings[0].message}{more}")


def _check_form(target: Target, insns: NDArray[np.uint8], profile: Profile, report: Report) -> None:
    """Single instructions and token counts."""
    limits = Limits(target, profile)
    sequence = InstructionSequence(len(insns), profile.token_capacity, report)
    for columns in decoded(target, insns):
        report.spend(columns.first, len(columns))
        check_fields(columns, limits, report)
        sequence.feed(columns)
    sequence.close()
