"""The board's self-test: seven probes that tell what this hardware and bitstream really do.

Each probe runs small hand-built streams and decodes what they left; together they say whether
compiled models can be trusted on the board, and calibrate its description. docs/hardware.md tells
what is known to differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend.artifact import write_whole
from ..backend.commands import Memory
from ..backend.isa import AluOpcode
from ..backend.target import Target
from ..errors import DeviceError
from .base_probe import base_registers
from .board import Board
from .calibration import measured_timing
from .driver import RunTimeout
from .probe import (
    BIAS,
    INPUT,
    LONGEST_DISTANCE,
    RESULT,
    SECOND,
    UOPS,
    WEIGHT,
    Probe,
    ProbeFailure,
    Result,
    put_ones,
)
from .probe_streams import Bench

ROUNDS = 12
OLD_ISA_LOADS, OLD_ISA_UOPS = 64, 8192
PATTERN = 0x12345678


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    `passed` says whether compiled code may rely on the hardware in this respect; `changes` are
    fields of the target as they were measured; `measured` the numbers, for a report.
    """

    name: str
    passed: bool
    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Capabilities:
    """The findings of all probes on a board that was described as `target`."""

    target: Target
    bitstream: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether compiled models may run on the board."""
        return all(finding.passed for finding in self.findings)

    def calibrated(self) -> Target:
        """The description with what was measured. Raises DeviceError if a probe failed."""
        failed = [finding for finding in self.findings if not finding.passed]
        if failed:
            raise DeviceError(
                f"the board failed the probe {failed[0].name!r} ({failed[0].text}): models would "
                "not compute right on it, so no description is made of it"
            )
        changes: dict[str, Any] = {}
        for finding in self.findings:
            changes.update(finding.changes)
        return replace(self.target, **changes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `calibrated` as a description that `--target` takes; raises DeviceError."""
        text = json.dumps(self.calibrated().to_json(), indent=2) + "\n"
        try:
            write_whole(path, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise DeviceError(f"{os.fspath(path)}: cannot write: {error.strerror}") from None

    def differences(self) -> dict[str, dict[str, Any]]:
        """The fields that were measured otherwise than they are described; none if one failed."""
        if not self.passed:
            return {}
        described, measured = _fields(self.target), _fields(self.calibrated())
        return {
            name: {"described": value, "measured": measured[name]}
            for name, value in described.items()
            if value != measured[name]
        }

    def to_json(self) -> dict[str, Any]:
        """The report."""
        return {
            "target": self.target.name,
            "bitstream": dict(self.bitstream),
            "passed": self.passed,
            "differences": self.differences(),
            "probes": [
                {
                    "name": finding.name,
                    "passed": finding.passed,
                    "text": finding.text,
                    "measured": dict(finding.measured),
                }
                for finding in self.findings
            ],
        }


def _fields(target: Target) -> dict[str, Any]:
    """A target's fields that probes measure, those of its timing by `timing.name`."""
    constants = {f"timing.{name}": value for name, value in asdict(target.timing).items()}
    distance, bases = target.acc_dep_distance, target.base_registers
    return {"acc_dep_distance": distance, "base_registers": bases, **constants}


def probe_board(
    board: Board, progress: Callable[[str], object] = lambda name: None
) -> Capabilities:
    """Run every probe; `progress` is called with the name of each before it runs.

    A board that reads the instruction encoding of version 0.0.1 gets the first probe only: it
    would store anywhere. Raises DeviceError if the board cannot be used at all.
    """
    findings: list[Finding] = []
    with Bench(board) as bench:
        for name, probe in PROBES:
            if findings and not findings[0].passed:
                findings.append(Finding(name, False, f"not run: the probe {PROBES[0][0]} failed"))
                continue
            progress(name)
            findings.append(_guarded(board, name, probe, bench))
    file = board.bitstream
    texts = {} if file is None else {
        "path": str(file.path), "sha256": file.sha256, "part": file.part, "date": file.date
    }
    return Capabilities(board.target, texts, tuple(findings))


def _guarded(board: Board, name: str, probe: Probe, bench: Bench) -> Finding:
    """The finding of a probe that may fail, or hang the hardware."""
    try:
        text, changes, measured = probe(bench)
    except ProbeFailure as failure:
        return Finding(name, False, str(failure))
    except RunTimeout as error:
        board.reprogram()
        return Finding(name, False, f"the hardware hung: {error}")
    return Finding(name, True, text, changes, measured)


def isa_version(bench: Bench) -> Result:
    """Which encoding the hardware reads: first by time, as a misread STORE would go astray.

    A LOAD of memory type 4 does nothing, but to version 0.0.1 it is a LOAD of micro-ops.
    """
    target = bench.target
    if target.design == "hls":
        script = bench.script()
        for _ in range(OLD_ISA_LOADS):
            script.load_of_no_memory(UOPS + -(bench.address + UOPS) % 8, OLD_ISA_UOPS)
        seconds = bench.least(bench.place(script))
        if seconds * target.clock_mhz * 1e6 > OLD_ISA_LOADS * OLD_ISA_UOPS / 2:
            raise ProbeFailure(
                "the hardware reads the encoding of HW_VER 0.0.1: load the bitstream of the same "
                f"name from the folder {target.hw_ver}"
            )
    found = _one_addition(bench)
    if not (found == 3).all():
        raise ProbeFailure(f"0 + 3 gave {found.tolist()}: this is not VTA {target.hw_ver}")
    return f"reads HW_VER {target.hw_ver}", {}, {"hw_ver": target.hw_ver}


def _one_addition(bench: Bench) -> NDArray[np.int8]:
    """ALU ADD imm 3 on a zeroed accumulator, stored."""
    bench.put_uops(UOPS, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 1)
    script.gemm(1, reset=True)
    script.alu(AluOpcode.ADD, 3, 0, 1)
    script.store(0, RESULT, 1)
    bench.run(script)
    return bench.get(RESULT, 1).reshape(-1)


def accumulator_distance(bench: Bench) -> Result:
    """From which distance on an accumulator may be used again, by GEMM and by ALU."""
    put_ones(bench)
    wrong: dict[str, list[int]] = {"gemm": [], "alu": []}
    for distance in range(1, LONGEST_DISTANCE + 1):
        bench.put_uops(UOPS, [[index, index, 0] for index in range(distance)])
        for kind in wrong:
            script = bench.script()
            script.load(Memory.UOP, 0, UOPS, distance)
            script.load(Memory.INP, 0, INPUT, distance)
            script.load(Memory.WGT, 0, WEIGHT, 1)
            script.gemm(distance, reset=True)
            if kind == "gemm":
                script.gemm(distance, ROUNDS)
            else:
                script.alu(AluOpcode.ADD, 1, 0, distance, ROUNDS)
            script.store(0, RESULT, distance)
            bench.run(script)
            if not (bench.get(RESULT, distance) == ROUNDS).all():
                wrong[kind].append(distance)
    least = {kind: max(distances, default=0) + 1 for kind, distances in wrong.items()}
    safe = max(least.values())
    if safe > LONGEST_DISTANCE:
        raise ProbeFailure(f"accumulators are wrong even {LONGEST_DISTANCE} micro-ops apart")
    text = f"exact from {least['gemm']} (GEMM) and {least['alu']} (ALU) micro-ops apart"
    return f"{text}; compile for {safe + 1}", {"acc_dep_distance": safe + 1}, least


def acc_padding(bench: Bench) -> Result:
    """Whether LOAD ACC inserts zeros; compiled code does without."""
    lanes = bench.target.batch * bench.target.block_out
    bench.put_uops(UOPS, [[index, index, 0] for index in range(3)])
    bench.put(BIAS, np.full((3, lanes), 7), "<i4")
    bench.put(SECOND, np.full(lanes, 5), "<i4")
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 3)
    script.load(Memory.ACC, 0, BIAS, 3)
    script.load(Memory.ACC, 0, SECOND, 1, pads=(1, 1))
    script.alu(AluOpcode.ADD, 0, 0, 3)
    script.store(0, RESULT, 3)
    bench.run(script)
    found = bench.get(RESULT, 3)
    kinds = {(0, 5, 0): "inserts zeros", (5, 7, 7): "ignores its pads"}
    seen = tuple(found[:, 0].tolist())
    if seen not in kinds or (found != found[:, :1]).any():
        raise ProbeFailure(f"a padded LOAD ACC left {found.tolist()}")
    return f"LOAD ACC {kinds[seen]} (not relied upon)", {}, {"acc_pads": seen == (0, 5, 0)}


def shift_range(bench: Bench) -> Result:
    """Shifts of the portable range, and where SHR by 16 goes."""
    lanes = bench.target.batch * bench.target.block_out
    shifts = ((16,), (16, 8, 8), (15,), (-16, 15, 1))
    bench.put_uops(UOPS, [[index, index, 0] for index in range(len(shifts))])
    bench.put(BIAS, np.full((len(shifts), lanes), PATTERN), "<i4")
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, len(shifts))
    script.load(Memory.ACC, 0, BIAS, len(shifts))
    for index, amounts in enumerate(shifts):
        for amount in amounts:
            script.alu(AluOpcode.SHR, amount, index, 1)
    script.store(0, RESULT, len(shifts))
    bench.run(script)
    found = bench.get(RESULT, len(shifts)).view(np.uint8)
    by_16, twice, by_15, back = found[:, 0].tolist()
    if (found != found[:, :1]).any() or (by_15, back) != (PATTERN >> 15 & 255, PATTERN & 255):
        raise ProbeFailure(f"SHR by 15 and by -16 left {by_15:#x} and {back:#x}")
    left, right = (0, PATTERN & 255), (PATTERN >> 16 & 255, 0)
    where = {left: "left", right: "right"}.get((by_16, twice), "neither left nor right")
    text = f"-16..15 are exact; SHR by 16 goes {where} (not relied upon)"
    return text, {}, {"shr_16": where}


def timing(bench: Bench) -> Result:
    """How long GEMM, ALU, LOAD and STORE take."""
    put_ones(bench)
    bench.put_uops(UOPS, [[index, index, 0] for index in range(16)])
    constants, measured = measured_timing(bench, UOPS, INPUT)
    text = (
        f"GEMM n*{constants.gemm_interval} + {constants.gemm_fixed} cycles, ALU n*"
        f"{constants.alu_imm_interval} + {constants.alu_fixed}, read latency "
        f"{constants.read_latency}, write latency {constants.write_latency}"
    )
    return text, {"timing": constants}, measured


def store_then_load(bench: Bench) -> Result:
    """Whether a LOAD sees what an earlier STORE of the same launch wrote."""
    identity = np.eye(bench.target.block_out, bench.target.block_in, dtype=np.int8)
    bench.put(WEIGHT, identity, "i1")
    bench.put(SECOND, np.full(bench.target.element_bytes(Memory.OUT), 17), "i1")
    bench.put_uops(UOPS, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 1)
    script.load(Memory.WGT, 0, WEIGHT, 1)
    script.gemm(1, reset=True)
    script.alu(AluOpcode.ADD, 3, 0, 1)
    script.store(0, SECOND, 1)
    script.load(Memory.INP, 0, SECOND, 1)
    script.gemm(1, reset=True)
    script.gemm(1)
    script.store(0, RESULT, 1)
    bench.run(script)
    found = bench.get(RESULT, 1)
    if not (found == 3).all():
        raise ProbeFailure(
            f"a LOAD of what the same launch stored as 3 saw {found[0].tolist()}: whole models "
            "cannot run in one launch"
        )
    return "a LOAD sees the STOREs before it", {}, {}


PROBES: tuple[tuple[str, Probe], ...] = (
    ("isa version", isa_version),
    ("accumulator distance", accumulator_distance),
    ("acc padding", acc_padding),
    ("shift range", shift_range),
    ("timing", timing),
    ("store then load", store_then_load),
    ("base registers", base_registers),
)
"""All probes in the order in which they run; nothing runs after the first if that fails."""
