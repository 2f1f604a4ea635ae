"""`deploy selftest`: the built-in test programs, after the probes where there is hardware."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError
from ...report.selftest import tests_report, tests_text
from ..files import require_writable
from ..options import Options, add_target
from ..outcome import FAILED, FINE, UsageError
from ..output import emit, progress_bar
from ..place import device_notes, load_target

if TYPE_CHECKING:
    from ...backend.artifact import Artifact
    from ...backend.target import Target


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is tested, and where to write what was measured."""
    add_target(parser)
    parser.add_argument("--device", metavar="D",
                        help="what is tested: board (default for the targets of boards, on one), "
                        "emulator, or sim (default elsewhere)")
    parser.add_argument("--bitstream", metavar="PATH",
                        help="of the board (default: the target's in the cache)")
    parser.add_argument("-o", "--output", metavar="BOARD.json",
                        help="write a board's description with what was measured, for --target")


def run(options: Options) -> int:
    """Run the built-in programs on a target; hardware is probed first. Raises VtaflowError."""
    from ...runtime.board import on_board
    from ...runtime.selftest import run_selftest

    require_writable(options.output, options.target)
    target = load_target(options.target)
    device = options.device or ("board" if target.registers and on_board() else "sim")
    if device != "sim":
        return _test_hardware(options, target, device)
    if options.output or options.bitstream:
        raise UsageError("--output and --bitstream are for hardware: --device board or emulator")
    results = run_selftest(target, device, _program)
    return _judge(options, tests_report(
        target.name, results, notes=device_notes(target.to_json(), device)
    ))


def _test_hardware(options: Options, target: Target, device: str) -> int:
    """Probe a board, then run the programs on it as it was measured."""
    from ...runtime.board import open_hardware
    from ...runtime.probes import PROBES, probe_board
    from ...runtime.selftest import run_selftest

    with (
        closing(open_hardware(device, target, options.bitstream)) as board,
        progress_bar(options, len(PROBES), "probing") as progress,
    ):
        found = probe_board(board, lambda name: progress(1))
    if not found.passed:
        note = "No program was run, nothing written: models would not compute right on this board"
        return _judge(options, tests_report(target.name, [], found, [note]))
    mine = found.calibrated()
    with (
        closing(open_hardware(device, mine, options.bitstream)) as board,
        closing(board.device()) as place,
    ):
        results = run_selftest(mine, place, _program)
    note = "To keep what was measured: -o my_board.json, then --target my_board.json"
    if options.output:
        found.save(options.output)
        note = f"Written: {options.output}, for --target"
    return _judge(options, tests_report(target.name, results, found, [note]))


def _judge(options: Options, found: dict[str, Any]) -> int:
    """Print a self-test; FAILED if a probe or a program did, or none ran.

    Programs too large for the hardware are no failure, but one at least must have passed.
    """
    emit(options, found, tests_text(found))
    verdicts = {one["passed"] for one in found["tests"]}
    return FINE if True in verdicts and False not in verdicts else FAILED


def _program(target: Target, name: str) -> Artifact:
    """Compile a program for hardware that the shipped one does not fit."""
    try:
        from ...selftest_programs import build
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"its geometry is not the default one, and the compiler needs {error.name}: "
            "run the self-test where vtaflow is installed completely"
        ) from None
    return build(target, name)
