"""Checks and runs an assembled program in tests, without artifact and session."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vtaflow.backend import checker
from vtaflow.backend.dram import CONSTANTS_START
from vtaflow.backend.profile import Profile
from vtaflow.backend.program import Program, bind
from vtaflow.backend.target import Target
from vtaflow.ops.types import Array
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.memory import Dram, Segment

BASE = 0x0100_0000


def findings(
    target: Target,
    code: Program,
    initialised: tuple[str, ...],
    insns: NDArray[np.uint8] | None = None,
) -> list[str]:
    """Messages of the checker for launch 0, or for `insns` in its place."""
    launch = code.launches[0]
    found = checker.check(
        target,
        bind(launch.insns if insns is None else insns, target, BASE),
        base=BASE,
        regions=code.arena.regions,
        constants=code.constants,
        origins=launch.origins,
        initialised=initialised,
    )
    return [finding.message for finding in found]


def run(
    target: Target,
    code: Program,
    feeds: Mapping[str, Array],
    order: str = "program",
    profile: Profile | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Execute every launch on one arena; the bytes of every region afterwards."""
    begin = CONSTANTS_START + len(code.constants)
    constants = code.constants.copy()
    memory = np.full((1, code.arena.bytes - begin), 0x5A, np.uint8)
    regions = {one.name: one for one in code.arena.regions if one.kind != "constant"}
    places = {
        name: slice(one.start - begin, one.start - begin + one.bytes)
        for name, one in regions.items()
    }
    for name, array in feeds.items():
        memory[0, places[name]] = np.ascontiguousarray(array).view(np.uint8).ravel()
    dram = Dram([Segment(BASE + CONSTANTS_START, constants), Segment(BASE + begin, memory)])
    for launch in code.launches:
        Launch(target, bind(launch.insns, target, BASE), dram, profile=profile, order=order).run()
    return {name: memory[0, place] for name, place in places.items()}
