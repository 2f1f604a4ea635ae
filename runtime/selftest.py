"""The self-test: small programs, shipped compiled, each with its result computed by NumPy.

It tells whether a device executes VTA's instructions, without a model and without the compiler.
The programs are compiled for the default geometry; for another one the caller may hand over a
function that compiles them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from ..backend import timing
from ..backend.artifact import Artifact
from ..backend.isa import Isa
from ..backend.target import Target
from ..errors import ArtifactError, DeviceError, StreamError, VtaflowError
from ..ops.types import Array
from .device import Device
from .selftest_cases import CASES, Case
from .session import InferenceSession, make_device

FOLDER = "selftests"
"""Where the programs lie beside this module."""

Build = Callable[[Target, str], Artifact]
"""Compiles the program of that name for a target; a VtaflowError says why it cannot."""


@dataclass(frozen=True)
class ProgramResult:
    """What came of one program.

    `passed` is None where it could not run on the target; `detail` is one line about anything
    but success. `counters` are VTA's, `estimated_cycles` those of the timing model on the target.
    """

    name: str
    passed: bool | None
    counters: Mapping[str, int]
    estimated_cycles: int
    detail: str = ""


def run_selftest(
    target: Target, device: str | Device = "sim", build: Build | None = None
) -> list[ProgramResult]:
    """Run every program on a device for `target`.

    `build` compiles for hardware that the shipped programs do not fit. Raises DeviceError if
    there is no such device.
    """
    opened = make_device(device, target) if isinstance(device, str) else device
    try:
        return [_run(case, target, opened, build) for case in CASES]
    finally:
        if opened is not device:
            opened.close()


def shipped(name: str) -> Artifact:
    """The compiled program of that name, for the default geometry."""
    data = files(__package__).joinpath(FOLDER, f"{name}.vta").read_bytes()
    return Artifact.load(data, f"self-test program {name}")


def _run(
    make: Callable[[Target], Case], target: Target, device: Device, build: Build | None
) -> ProgramResult:
    name = make.__name__
    try:
        artifact = _program(name, target, build)
    except VtaflowError as error:
        return ProgramResult(name, None, {}, 0, f"not for this target: {error}")
    case = make(artifact.target)
    cycles = sum(
        timing.schedule(target, Isa.of(target).decode_stream(artifact.instructions(index))).cycles
        for index in range(artifact.launches)
    )
    feeds = {
        name: operand.data[None] for name, operand in case.operands.items() if not operand.constant
    }
    try:
        session = InferenceSession(artifact, device, target)
        found = session.run(list(case.expected), feeds)
    except (DeviceError, StreamError) as error:
        return ProgramResult(name, False, {}, cycles, str(error))
    assert session.last_run is not None
    differences = [
        difference(output, right, array[0])
        for (output, right), array in zip(case.expected.items(), found, strict=True)
    ]
    detail = "; ".join(filter(None, differences))
    return ProgramResult(name, not detail, session.last_run.counters, cycles, detail)


def _program(name: str, target: Target, build: Build | None) -> Artifact:
    """The shipped program, or one compiled for the target; ArtifactError if neither is there."""
    artifact = shipped(name)
    here, there = target.fingerprint(), artifact.target.fingerprint()
    differing = [f"{key} {here[key]} (it: {there[key]})" for key in here if here[key] != there[key]]
    distance = artifact.target.acc_dep_distance
    if target.acc_dep_distance > distance:
        differing.append(f"acc_dep_distance {target.acc_dep_distance} (it: {distance})")
    if not differing:
        return artifact
    if build is None:
        raise ArtifactError(
            f"it is shipped for the default geometry, the target has {', '.join(differing)}; "
            "run it where the compiler is installed"
        )
    return build(target, name)


def difference(name: str, right: Array, found: Array) -> str:
    """One line about the first element that differs, or "" if none does."""
    wrong = np.argwhere(found != right)
    if not len(wrong):
        return ""
    first = tuple(int(axis) for axis in wrong[0])
    return (
        f"{name}{list(first)}: expected {right[first]}, found {found[first]} "
        f"({len(wrong)} of {right.size} values differ)"
    )
