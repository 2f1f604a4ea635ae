"""The `deploy` command: parsing, dispatch and what happens on errors.

`deploy MODEL.onnx` does everything at once; verbs do parts of it. Every verb is one function in
the table `VERBS`. Results go to stdout, everything else to stderr. Exit codes: 0 fine, 1 a
comparison failed, 2 a mistake of the user (one line says which); a bug keeps its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__, report
from .errors import ArtifactError, DataError, VtaflowError
from .runtime.recipe import Recipe, find_recipe, load_feeds, load_labels, random_feeds
from .runtime.tensors import TensorInfo

if TYPE_CHECKING:
    from .compiler import CompiledModel, CompileOptions
    from .runtime.comparison import Comparison
    from .runtime.session import InferenceSession

FINE, FAILED, USER_ERROR = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141
RANDOM_SAMPLES = 64
CALIBRATION_METHODS = ("mse", "minmax", "percentile", "entropy")

Options = argparse.Namespace
Array = Any


class UsageError(VtaflowError):
    """The command line cannot be understood."""


@dataclass(frozen=True)
class Verb:
    """One command: its name, one line of help, its options, what it does (-> exit code)."""

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Options], int]


class _Parser(argparse.ArgumentParser):
    """Problems become a `UsageError`, so that every user error looks the same."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except VtaflowError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError:
        return _complain("not enough memory: take a smaller model, batch or data set")
    except OSError as error:
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}")


def _complain(message: str) -> int:
    print("deploy: error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def _dispatch(arguments: list[str]) -> int:
    by_name = {verb.name: verb for verb in VERBS}
    verb, rest = ONE_SHOT, arguments
    if arguments and arguments[0] in by_name:
        verb, rest = by_name[arguments[0]], arguments[1:]
    options = _parser(verb).parse_args(rest)
    return verb.run(options)


def _parser(verb: Verb) -> argparse.ArgumentParser:
    epilog = None
    if verb is ONE_SHOT:
        rows = "\n".join(f"  {one.name:<10}{one.help}" for one in VERBS)
        epilog = f"verbs (deploy VERB --help):\n{rows}"
    parser = _Parser(
        prog=f"deploy {verb.name}".strip(),
        description=verb.help,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vtaflow {__version__}")
    verb.options(parser)
    _add_talk(parser)
    return parser


# --- options -----------------------------------------------------------------------------------


def _add_talk(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="one JSON object alone on stdout")
    group.add_argument("-v", "--verbose", action="store_true", help="name the stages on stderr")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="nothing but warnings, errors and --json"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx", help="the float model")


def _add_artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="MODEL.vta", help="a compiled model")


def _add_target(parser: argparse.ArgumentParser, default: str | None = "sim") -> None:
    parser.add_argument(
        "--target",
        default=default,
        metavar="T",
        help="a bundled target's name or the path of a VTA JSON file (default: "
        f"{default or 'that of the artifact'})",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="sim", help="where streams run (default: sim, the simulator)"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data (FILE.npz#key, FILE.npz, FILE.npy or a folder)")
    group.add_argument("--input", metavar="REF", help="samples to run (default: recipe, random)")
    group.add_argument("--labels", metavar="REF", help="their class indices")
    group.add_argument("--recipe", metavar="FILE", help="default: MODEL.json beside the model")
    group.add_argument("--seed", type=int, default=0, help="of random data (default: 0)")


def _add_compilation(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    group = parser.add_argument_group("compilation")
    group.add_argument("--calib", metavar="REF", help="calibration samples")
    group.add_argument("--calib-method", choices=CALIBRATION_METHODS, default="mse")
    group.add_argument("--batch", type=_positive, default=1, metavar="N", help="compiled batch")
    group.add_argument("--place", type=_placement, action="append", default=[],
                       metavar="NODE=DEVICE", help="put an ONNX node on vta or host")
    group.add_argument("--tiles", type=_tiles, action="append", default=[],
                       metavar="LAYER:KEY=N,...", help="override a layer's schedule")
    group.add_argument("--keep-intermediates", action="store_true",
                       help="let every layer's output be read after a run")
    group.add_argument("--dump-stages", metavar="DIR", help="write every stage's graph as text")
    group.add_argument("--stop-after", metavar="STAGE", help="print that stage's graph and stop")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits (exit code 1 beyond them)")
    group.add_argument("--min-sqnr", type=float, metavar="DB", help="for every output")
    group.add_argument("--max-drop", type=float, metavar="POINTS",
                       help="of accuracy, in percentage points")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def _placement(text: str) -> tuple[str, str]:
    node, _, device = text.rpartition("=")
    if not node or device not in ("vta", "host"):
        raise argparse.ArgumentTypeError(f"expected NODE=vta or NODE=host, found {text!r}")
    return node, device


def _tiles(text: str) -> tuple[str, dict[str, int]]:
    layer, _, fields = text.rpartition(":")
    pairs = [field.partition("=") for field in fields.split(",")]
    if not layer or not all(key and value.isdigit() for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected LAYER:KEY=N,KEY=N, found {text!r}")
    return layer, {key: int(value) for key, _, value in pairs}


def _one_shot_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_compilation(parser)
    _add_data(parser)
    _add_limits(parser)
    parser.add_argument("-o", "--output", metavar="MODEL.vta", help="keep the compiled model")


def _compile_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_compilation(parser)
    _add_data(parser)
    parser.add_argument("-o", "--output", metavar="MODEL.vta",
                        help="default: the model's name in the current folder")
    parser.add_argument("--record-launches", metavar="DIR",
                        help="run once and write every launch for `deploy replay`")


def _run_options(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    _add_target(parser, None)
    _add_device(parser)
    group = parser.add_argument_group("data (FILE.npz#key, FILE.npz, FILE.npy or a folder)")
    group.add_argument("--input", metavar="REF", help="samples to run (default: random)")
    group.add_argument("--labels", metavar="REF", help="their class indices")
    group.add_argument("--seed", type=int, default=0, help="of random data (default: 0)")
    group.add_argument("--preprocessed", action="store_true",
                       help="the samples are what the model takes, not raw")
    parser.add_argument("-o", "--output", metavar="FILE.npz", help="keep the outputs")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("artifact", nargs="?", metavar="MODEL.vta",
                        help="compiled from it (default: compile now)")
    _add_compilation(parser)
    _add_data(parser)
    _add_limits(parser)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    parser.add_argument("--schedule", action="store_true", help="each layer's blocked loop nest")
    parser.add_argument("--asm", action="store_true", help="the disassembly, with provenance")


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="recorded launches")
    parser.add_argument("--check", action="store_true",
                        help="apply the portable-subset checks as well")


def _selftest_options(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _add_device(parser)


# --- verbs -------------------------------------------------------------------------------------


def _deploy(options: Options) -> int:
    """Everything at once: compile, run, compare."""
    if options.output:
        _require_place(options.output, options.model)
    recipe = _recipe(options)
    compiled = _compiled(options, recipe)
    if compiled is None:
        return FINE
    if options.output:
        compiled.artifact.save(options.output)
    return _compared(options, recipe, compiled)


def _compile(options: Options) -> int:
    """Compile and write the artifact."""
    output = options.output or f"{Path(options.model).stem}.vta"
    _require_place(output, options.model)
    recipe = _recipe(options)
    compiled = _compiled(options, recipe)
    if compiled is None:
        return FINE
    compiled.artifact.save(output)
    if options.record_launches:
        from .runtime.replay import record

        feeds, _ = _test_data(options, recipe, _inputs_of(compiled.artifact.manifest))
        for path in record(compiled.artifact, feeds, options.record_launches):
            _say(options, f"recorded {path}")
    found = report.model_report(
        compiled.artifact.manifest,
        compiled.artifact.target.name,
        compile_seconds=compiled.compile_seconds,
        warnings=compiled.warnings,
        notes=[f"Written: {output}"],
    )
    _emit(options, found, report.model_text(found))
    return FINE


def _run(options: Options) -> int:
    """Run an artifact."""
    from .backend.artifact import Artifact, write_whole
    from .runtime.comparison import accuracy
    from .runtime.session import InferenceSession

    if options.output:
        _require_place(options.output, options.artifact)
    artifact = Artifact.load(options.artifact)
    with InferenceSession(artifact, options.device, options.target) as session:
        feeds = _run_feeds(options, session)
        samples = len(next(iter(feeds.values())))
        with _progress(options, samples, "running") as progress:
            results = session.run(None, feeds, progress)
        statistics = session.last_run
        target, inputs = session.target, session.get_outputs()
    outputs = dict(zip((one.name for one in inputs), results, strict=True))
    right = None
    if options.labels:
        right = accuracy(results[0], load_labels(options.labels))
    if options.output:
        import numpy as np

        write_whole(options.output, lambda stream: np.savez(stream, **outputs))
    assert statistics is not None
    found = report.run_report(
        artifact.manifest, target.name, outputs, statistics, right, _device_notes(target)
    )
    _emit(options, found, report.run_text(found))
    return FINE


def _compare(options: Options) -> int:
    """Compare a model on the device with the float reference."""
    recipe = _recipe(options)
    if options.artifact is None:
        compiled = _compiled(options, recipe)
        return FINE if compiled is None else _compared(options, recipe, compiled)
    from .backend.artifact import Artifact
    from .compiler import compare_artifact

    artifact = Artifact.load(options.artifact)
    feeds, labels = _test_data(options, recipe, _inputs_of(artifact.manifest))
    with _progress(options, _count(feeds), "comparing") as progress:
        comparison = compare_artifact(artifact, options.model, feeds, labels, progress=progress)
    return _judge(options, comparison, artifact.manifest, artifact.target, None, ())


def _inspect(options: Options) -> int:
    """Show what an artifact contains."""
    from .backend.artifact import Artifact
    from .runtime.inspection import assembly_lines, schedule_lines

    artifact = Artifact.load(options.artifact)
    if options.json:
        _print_json(dict(artifact.manifest))
        return FINE
    if options.schedule:
        _print(schedule_lines(artifact))
    if options.asm:
        _print(assembly_lines(artifact))
    if not options.schedule and not options.asm:
        _print(report.inspect_text(artifact.manifest))
    return FINE


def _replay(options: Options) -> int:
    """Execute recorded launches and compare memory and counters with the record."""
    from .runtime.replay import replay

    results = []
    with _progress(options, len(options.files), "replaying") as progress:
        for path in options.files:
            results.append(replay(path, check=options.check))
            progress(1)
    found = {
        "schema_version": report.SCHEMA_VERSION,
        "launches": [
            {"file": path, "passed": one.problem is None, "problem": one.problem,
             "counters": dict(one.counters)}
            for path, one in zip(options.files, results, strict=True)
        ],
    }
    _emit(options, found, report.replay_text(found))
    return FINE if all(one["passed"] for one in found["launches"]) else FAILED


def _selftest(options: Options) -> int:
    """Run the built-in programs on a target."""
    from .backend.target import Target
    from .runtime.selftest import selftest

    target = Target.load(options.target)
    results = selftest(target, options.device)
    found = {
        "schema_version": report.SCHEMA_VERSION,
        "target": target.name,
        "tests": [
            {"name": one.name, "passed": one.passed, "counters": dict(one.counters),
             "estimated_cycles": one.estimated_cycles}
            for one in results
        ],
    }
    _emit(options, found, report.tests_text(found))
    return FINE if all(one.passed for one in results) else FAILED


ONE_SHOT = Verb(
    "", "Compile an ONNX model for VTA, run it, compare it with the CPU.",
    _one_shot_options, _deploy,
)
VERBS = (
    Verb("compile", "Compile an ONNX model and write the artifact.", _compile_options, _compile),
    Verb("run", "Run an artifact.", _run_options, _run),
    Verb("compare", "Compare a model on VTA with the CPU.", _compare_options, _compare),
    Verb("inspect", "Show what an artifact contains.", _inspect_options, _inspect),
    Verb("replay", "Execute recorded launches again.", _replay_options, _replay),
    Verb("selftest", "Run the built-in test programs.", _selftest_options, _selftest),
)
