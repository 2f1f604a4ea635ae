"""The `deploy` command: parsing, dispatch and what happens on errors.

`deploy MODEL.onnx` does everything at once; verbs do parts of it. Every verb is one function in
the table `VERBS`. Results go to stdout, everything else to stderr. Exit codes: 0 fine, 1 a
comparison failed, 2 a mistake of the user (one line says which); a bug keeps its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ArtifactError, DataError, VtaflowError
from .report.inspect import inspect_text
from .report.layers import layers_report, layers_text
from .report.model import broken_limits, model_report, model_text
from .report.replay import replay_report, replay_text
from .report.run import run_report, run_text
from .report.selftest import tests_report, tests_text
from .report.tuning import tuning_report, tuning_text
from .runtime.data import load_feeds, load_labels, load_samples, random_feeds, save_arrays
from .runtime.recipe import Recipe, find_recipe
from .runtime.tensors import TensorInfo

if TYPE_CHECKING:
    from .backend.artifact import Artifact
    from .backend.target import Target
    from .compiler import CompiledModel, CompileOptions
    from .profiling.subject import Subject
    from .runtime.client import Client
    from .runtime.comparison import Comparison
    from .runtime.device import Device
    from .runtime.session import InferenceSession

FINE, FAILED, USER_ERROR = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141
RANDOM_SAMPLES = 64
TRIALS = 64
LAYER_SAMPLES = 8
EMULATOR, EMULATED = "emulator", "pynq"
NOT_ON_A_BOARD = ("onnx", "networkx", "tqdm")
"""Packages that the server does without, so that they may be missing."""

DATA_TITLE = "data (REF: FILE.npz#key, FILE.npz, FILE.npy or a folder; raw, as the recipe takes it)"
CALIBRATION_METHODS = ("mse", "minmax", "percentile", "entropy")
WEIGHT_ROUNDINGS = ("nearest", "compensated")
QUANTISER_STEPS = {
    "bias-correction": "correct biases by what rounding does to the means",
    "input-offset": "give lopsided inputs a zero point",
    "equalise": "even out the ranges of channels across layers",
    "activation-offsets": "give activations that are never negative a zero point",
}
"""Steps of the quantiser that can be left out -> what each does."""


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
    except SystemExit as finished:  # --help, --version
        return int(finished.code or FINE)
    except VtaflowError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NOT_ON_A_BOARD:
            raise
        return _complain(
            f"this needs {missing}, which is not installed: pip install {missing}, or, on a board, "
            "compile on another machine and deploy run MODEL.vta here"
        )
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
    elif len(arguments) > 1 and re.fullmatch("[a-z]+", arguments[0]):
        raise UsageError(f"there is no verb {arguments[0]!r}; verbs: {', '.join(by_name)}")
    options = _parser(verb).parse_args(rest)
    if getattr(options, "target", None) == EMULATOR:
        options.target = EMULATED
        options.device = getattr(options, "device", None) or EMULATOR
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
        help="a bundled target's name or the path of a VTA JSON file; emulator is short for "
        f"{EMULATED} on device {EMULATOR} (default: {default or 'that of the artifact, else sim'})",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="D", help="where streams run: sim (default), emulator or board"
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Where streams run: here or on a server."""
    _add_device(parser)
    parser.add_argument("--bitstream", metavar="PATH",
                        help="of --device board (default: the target's in the cache)")
    group = parser.add_argument_group("a board across the network")
    group.add_argument("--host", metavar="URL",
                       help="run on the server there, such as http://192.168.2.99:8000 "
                       "(default for board targets: VTA_RPC_HOST and VTA_RPC_PORT)")
    group.add_argument("--token-file", metavar="FILE", help="the server's bearer token")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(DATA_TITLE)
    group.add_argument("--input", metavar="REF", help="samples to run (default: recipe, random)")
    group.add_argument("--labels", metavar="REF", help="their class indices")
    group.add_argument("--recipe", metavar="FILE", help="default: MODEL.json beside the model")
    group.add_argument("--seed", type=int, default=0, help="of random data (default: 0)")


def _add_compilation(parser: argparse.ArgumentParser, target: str | None = "sim") -> None:
    _add_target(parser, target)
    group = parser.add_argument_group("compilation")
    _add_layers(group)
    group.add_argument("--tiles", type=_tiles, action="append", default=[],
                       metavar="LAYER:KEY=V,...", help="override a layer's schedule")
    group.add_argument("--dump-stages", metavar="DIR", help="write every stage's graph as text")
    group.add_argument("--stop-after", metavar="STAGE", help="print that stage's graph and stop")


def _add_layers(group: argparse._ArgumentGroup) -> None:
    """What decides which layers a model has on VTA."""
    group.add_argument("--calib", metavar="REF", help="calibration samples")
    group.add_argument("--calib-method", choices=CALIBRATION_METHODS, default="mse")
    group.add_argument("--weight-rounding", choices=WEIGHT_ROUNDINGS, default="compensated",
                       help="compensated: each weight makes up for the errors of those before it")
    for name, what in QUANTISER_STEPS.items():
        group.add_argument(f"--no-{name}", dest=_identifier(name), action="store_false",
                           help=f"do not {what}")
    group.add_argument("--batch", type=_positive, default=1, metavar="N", help="compiled batch")
    group.add_argument("--place", type=_placement, action="append", default=[],
                       metavar="NODE=DEVICE", help="put an ONNX node on vta or host")
    group.add_argument("--keep-intermediates", action="store_true",
                       help="let every layer's output be read after a run")
    group.add_argument("--log", metavar="FILE", type=Path,
                       help="decisions about schedules (default: the user's cache)")


def _add_cluster(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT",
                        help=f"{what} a Dask cluster (needs vtaflow[cluster])")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits (exit code 1 beyond them)")
    group.add_argument("--min-sqnr", type=float, metavar="DB", help="for every output")
    group.add_argument("--max-drop", type=float, metavar="POINTS",
                       help="of accuracy, in percentage points")


def _identifier(option: str) -> str:
    return option.replace("-", "_")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {text!r}")
    return int(text)


def _placement(text: str) -> tuple[str, str]:
    node, _, device = text.rpartition("=")
    if not node or device not in ("vta", "host"):
        raise argparse.ArgumentTypeError(f"expected NODE=vta or NODE=host, found {text!r}")
    return node, device


def _tiles(text: str) -> tuple[str, dict[str, int | str]]:
    layer, _, fields = text.rpartition(":")
    pairs = [field.partition("=") for field in fields.split(",")]
    if not layer or not all(key and value for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected LAYER:KEY=VALUE,KEY=VALUE, found {text!r}")
    return layer, {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


def _one_shot_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_compilation(parser)
    _add_place(parser)
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


def _tune_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_target(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--trials", type=_positive, default=TRIALS, metavar="N",
                       help=f"schedules of a layer that are timed (default: {TRIALS})")
    group.add_argument("--processes", type=_positive, metavar="P",
                       help="that search at the same time (default: one a CPU)")
    _add_cluster(group, "search on")
    group = parser.add_argument_group("the model's layers, as `deploy compile` makes them")
    _add_layers(group)
    group.add_argument("--recipe", metavar="FILE", help="default: MODEL.json beside the model")
    group.add_argument("--seed", type=int, default=0, help="of random data (default: 0)")
    parser.set_defaults(tiles=[], dump_stages=None, stop_after=None)


def _run_options(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    _add_target(parser, None)
    _add_place(parser)
    group = parser.add_argument_group(DATA_TITLE)
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
    parser.add_argument("--layers", action="store_true",
                        help="compare with the simulator instead, byte for byte and tensor by "
                        "tensor; the artifact has --keep-intermediates")
    _add_cluster(parser, "spread the samples over simulators on")
    _add_compilation(parser, None)
    _add_place(parser)
    _add_data(parser)
    _add_limits(parser)
    parser.set_defaults(output=None)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    parser.add_argument("--schedule", action="store_true", help="each layer's blocked loop nest")
    parser.add_argument("--asm", action="store_true", help="the disassembly, with provenance")


def _profile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL",
                        help="MODEL.onnx, a compiled MODEL.vta or a recorded LAUNCH.npz")
    group = parser.add_argument_group("profile")
    group.add_argument("--shared-port", action="store_true",
                       help="let everything that reads memory share one port")
    group.add_argument("--trace", metavar="FILE.json",
                       help="write a trace for ui.perfetto.dev or chrome://tracing")
    group.add_argument("--html", metavar="FILE.html",
                       help="write a page with charts that needs no network")
    group.add_argument("--compare", action="store_true",
                       help="run the model too, for every layer's quantisation quality")
    _add_compilation(parser, None)
    _add_data(parser)


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="recorded launches")
    parser.add_argument("--check", action="store_true",
                        help="apply the portable-subset checks as well")


def _selftest_options(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("--device", metavar="D",
                        help="what is tested: board (default for the targets of boards, on one), "
                        "emulator, or sim (default elsewhere)")
    parser.add_argument("--bitstream", metavar="PATH",
                        help="of the board (default: the target's in the cache)")
    parser.add_argument("-o", "--output", metavar="BOARD.json",
                        help="write a board's description with what was measured, for --target")


def _serve_options(parser: argparse.ArgumentParser) -> None:
    _add_target(parser, EMULATED)
    _add_device(parser)
    parser.add_argument("--bitstream", metavar="PATH",
                        help="default: the target's in the cache; 'loaded' keeps what is there")
    parser.add_argument("--store", metavar="DIR",
                        help="where models are kept (default: ~/.local/share/vtaflow/models)")
    parser.add_argument("--inject", default="", metavar="FAULTS",
                        help="faults of the emulator, such as never-done,runs=1")
    group = parser.add_argument_group("who may ask")
    group.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS",
                       help="listen there; anything but loopback needs --token-file")
    group.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    group.add_argument("--token-file", metavar="FILE", help="the bearer token that clients show")
    group = parser.add_argument_group("limits")
    group.add_argument("--queue", type=_positive, default=32, metavar="N",
                       help="requests that may wait for the device (then 429)")
    group.add_argument("--timeout", type=_positive, default=60, metavar="SECONDS",
                       help="for one request, waiting included")
    group.add_argument("--max-request", type=_positive, default=32, metavar="MIB")
    group.add_argument("--max-upload", type=_positive, default=128, metavar="MIB")


# --- verbs -------------------------------------------------------------------------------------


def _deploy(options: Options) -> int:
    """Everything at once: compile, run, compare."""
    _require_place(options.output, options.model)
    recipe, inputs = _source(options)
    feeds, labels = _test_data(options, recipe, inputs)
    place = _place(options, _target(options.target))
    notes = _place_notes(place, Path(options.model).stem)  # a server that is not there: say so now
    compiled = _compiled(options, recipe, inputs)
    if compiled is None:
        return FINE
    from .evaluate import compare

    with _progress(options, _count(feeds), "comparing") as progress:
        scheduler = getattr(options, "scheduler", None)
        comparison = compare(compiled, feeds, labels, place, progress, scheduler)
    if options.output:
        compiled.save(options.output)
    manifest = compiled.artifact.manifest
    notes = notes or _device_notes(manifest["target"], place)
    return _judge(
        options, comparison, manifest, notes, compiled.compile_seconds, compiled.warnings
    )


def _compile(options: Options) -> int:
    """Compile and write the artifact."""
    output = options.output or f"{Path(options.model).stem}.vta"
    _require_place(output, options.model)
    recipe, inputs = _source(options)
    feeds = _test_data(options, recipe, inputs)[0] if options.record_launches else {}
    compiled = _compiled(options, recipe, inputs)
    if compiled is None:
        return FINE
    notes = [f"Written: {output}"]
    if options.record_launches:
        from .runtime.replay import record

        paths = record(compiled.artifact, feeds, options.record_launches)
        notes += [f"Recorded: {path}" for path in paths]
    compiled.save(output)
    found = model_report(
        compiled.artifact.manifest,
        compiled.artifact.target.name,
        compile_seconds=compiled.compile_seconds,
        warnings=compiled.warnings,
        notes=notes,
    )
    _emit(options, found, model_text(found))
    return FINE


def _tune(options: Options) -> int:
    """Search for schedules and keep them in the log."""
    from .tuning import open_tuning, rows
    from .workers import workers

    if options.scheduler and options.processes:
        raise UsageError("--scheduler has processes of its own: leave --processes out")
    began, target = time.perf_counter(), _target(options.target)
    recipe, inputs = _source(options)
    calibration = _calibration(options, recipe, inputs)
    with _progress(options, _count(calibration or {}), "calibrating") as progress:
        compiling = _compile_options_of(options, recipe, progress)
        tuning, keep = open_tuning(options.model, target, calibration, compiling, options.trials)
    with (
        workers(options.processes, options.scheduler) as crew,
        _progress(options, tuning.left, "tuning") as progress,
    ):
        found = rows(tuning.run(crew, keep, progress))
    seconds = time.perf_counter() - began
    result = tuning_report(
        Path(options.model).stem, target.name, options.trials, crew.width, found, seconds
    )
    _emit(options, result, tuning_text(result))
    return FINE


def _run(options: Options) -> int:
    """Run an artifact."""
    from .runtime.comparison import accuracy
    from .runtime.inspection import open_artifact
    from .runtime.session import InferenceSession

    _require_place(options.output, options.artifact)
    artifact = open_artifact(options.artifact)
    target = _target(options.target) if options.target else artifact.target
    place = _place(options, target)
    with InferenceSession(artifact, place, target) as session:
        feeds = _run_samples(options, session)
        raw = bool(options.input) and not options.preprocessed
        labels = load_labels(options.labels) if options.labels else None
        with _progress(options, _count(feeds), "running") as progress:
            results = (session.run_raw if raw else session.run)(None, feeds, progress)
        assert session.last_run is not None
        names = [one.name for one in session.get_outputs()]
        outputs = dict(zip(names, results, strict=True))
        found = run_report(
            session.artifact.manifest,
            session.target.name,
            outputs,
            session.last_run,
            None if labels is None else accuracy(results[0], labels),
            _place_notes(place, artifact.name) or _device_notes(target.to_json(), place),
        )
    if options.output:
        save_arrays(options.output, outputs)
    _emit(options, found, run_text(found))
    return FINE


def _compare(options: Options) -> int:
    """Compare a model on the device with the float reference, or with the simulator."""
    _require_simulators(options)
    if options.layers:
        return _compare_layers(options)
    if options.artifact is None:
        options.target = options.target or "sim"
        return _deploy(options)
    from .evaluate import compare_artifact
    from .runtime.inspection import open_artifact
    from .runtime.session import InferenceSession

    artifact = open_artifact(options.artifact)
    target = _target(options.target) if options.target else artifact.target
    place = _place(options, target)
    with InferenceSession(artifact, place, target) as session:
        manifest = session.artifact.manifest
        feeds, labels = _test_data(options, _recipe(options), session.get_inputs())
        with _progress(options, _count(feeds), "comparing") as progress:
            comparison = compare_artifact(
                session, options.model, feeds, labels, progress, place == "sim", options.scheduler
            )
        notes = _place_notes(place, session.artifact.name)
        return _judge(
            options, comparison, manifest, notes or _device_notes(manifest["target"], place)
        )


def _require_simulators(options: Options) -> None:
    """Refuse a cluster for what does not run on simulators alone."""
    if options.scheduler is None:
        return
    for name in ("layers", "host", "bitstream"):
        if getattr(options, name):
            raise UsageError(f"--scheduler spreads samples over simulators: leave --{name} out")
    if options.device not in (None, "sim"):
        raise UsageError("--scheduler spreads samples over simulators: leave --device out")


def _compare_layers(options: Options) -> int:
    """Every tensor that VTA makes, on the device and on the simulator."""
    from .runtime.layer_comparison import compare_layers
    from .runtime.session import InferenceSession

    artifact = _kept_artifact(options)
    if artifact is None:
        return FINE
    place = _place(options, artifact.target)
    with (
        InferenceSession(artifact) as reference,
        InferenceSession(artifact, place) as session,
    ):
        recipe = _recipe(options)
        feeds, _ = _test_data(options, recipe, session.get_inputs())
        some = {name: array[:LAYER_SAMPLES] for name, array in feeds.items()}
        results = compare_layers(reference, session, some)
    notes = _place_notes(place, artifact.name) or _device_notes(artifact.target.to_json(), place)
    found = layers_report(artifact.manifest, results, _count(some), notes)
    _emit(options, found, layers_text(found))
    return FINE if all(one["equal"] for one in found["tensors"]) else FAILED


def _kept_artifact(options: Options) -> Artifact | None:
    """The artifact whose layers are compared: given, or compiled so that it keeps them."""
    from .runtime.inspection import open_artifact

    given = options.artifact or (options.model if options.model.endswith(".vta") else None)
    if given is not None:
        artifact = open_artifact(given)
        if not artifact.manifest["arena"]["keep_intermediates"]:
            raise ArtifactError(f"{given}: keeps no layers, compile it with --keep-intermediates")
        return artifact
    options.keep_intermediates = True
    options.target = options.target or "sim"
    recipe, inputs = _source(options)
    compiled = _compiled(options, recipe, inputs)
    return None if compiled is None else compiled.artifact


def _serve(options: Options) -> int:
    """Serve models over HTTP until a signal ends it."""
    try:
        from .runtime.server.command import Settings, serve
        from .runtime.server.limits import MIB, Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tornado":
            raise
        raise UsageError("deploy serve needs tornado: pip install 'vtaflow[serve]'") from None
    limits = Limits(
        queue=options.queue,
        seconds=float(options.timeout),
        body=options.max_request * MIB,
        bodies=3 * options.max_request * MIB,
        upload=options.max_upload * MIB,
    )
    hardware = bool(_target(options.target).registers)
    device = options.device or ("board" if hardware else "sim")
    settings = Settings(
        target=options.target, device=device, bind=options.bind, port=options.port,
        token_file=options.token_file, store=options.store, bitstream=options.bitstream,
        faults=options.inject, limits=limits,
    )
    serve(settings, lambda url: _announce(options, f"serving {device} on {url}"))
    return FINE


def _announce(options: Options, message: str) -> None:
    if not options.quiet:
        print(message, flush=True)


def _inspect(options: Options) -> int:
    """Show what an artifact contains."""
    from .runtime.inspection import assembly_lines, open_artifact, schedule_lines

    artifact = open_artifact(options.artifact)
    if options.json:
        _print([json.dumps(artifact.manifest, indent=1)])
        return FINE
    if options.schedule:
        _print(schedule_lines(artifact))
    if options.asm:
        _print(assembly_lines(artifact))
    if not options.schedule and not options.asm:
        _print(inspect_text(artifact.manifest))
    return FINE


def _profile(options: Options) -> int:
    """Simulate the cycles of a model, an artifact or a recorded launch."""
    from .profiling import host_time
    from .profiling.profile import profile
    from .profiling.text import profile_text

    for output in (options.trace, options.html):
        _require_place(output, options.model)
    subject, comparison = _profile_subject(options)
    if subject is None:
        return FINE
    steps = host_time.measure(subject.artifact) if subject.artifact else []
    found = profile(subject, options.shared_port, steps, comparison)
    if options.html:  # first: it fails where plotly is missing
        from .profiling.page import write_page

        write_page(found, options.html)
    if options.trace:
        from .profiling.trace import write_trace

        write_trace(found, options.trace)
    _emit(options, found.report, profile_text(found.report))
    return FINE


def _profile_subject(options: Options) -> tuple[Subject | None, Comparison | None]:
    """What to profile, and its comparison with the CPU if one was asked for.

    Nothing if the compiler was told to stop on the way.
    """
    from .profiling.subject import Subject
    from .runtime.inspection import open_artifact
    from .runtime.recording import Recording

    target = _target(options.target) if options.target else None
    kind = Path(options.model).suffix
    if kind in (".vta", ".npz"):
        if options.compare:
            raise UsageError(f"{options.model}: --compare needs the ONNX model")
        if kind == ".vta":
            return Subject.of_artifact(open_artifact(options.model), target), None
        recording = Recording.load(options.model)
        return Subject.of_recording(recording, Path(options.model).stem, target), None
    options.target = options.target or "sim"
    recipe, inputs = _source(options)
    feeds, labels = _test_data(options, recipe, inputs) if options.compare else ({}, None)
    compiled = _compiled(options, recipe, inputs)
    if compiled is None:
        return None, None
    subject = Subject.of_artifact(compiled.artifact)
    if not options.compare:
        return subject, None
    from .evaluate import compare

    with _progress(options, _count(feeds), "comparing") as progress:
        return subject, compare(compiled, feeds, labels, progress=progress)


def _replay(options: Options) -> int:
    """Execute recorded launches and compare memory and counters with the record."""
    from .runtime.replay import replay

    results = []
    with _progress(options, len(options.files), "replaying") as progress:
        for path in options.files:
            results.append(replay(path, check=options.check))
            progress(1)
    found = replay_report(options.files, results)
    _emit(options, found, replay_text(found))
    return FINE if all(one["passed"] for one in found["launches"]) else FAILED


def _selftest(options: Options) -> int:
    """Run the built-in programs on a target; hardware is probed first."""
    from .runtime.board import on_board
    from .runtime.selftest import run_selftest

    _require_place(options.output, options.target)
    target = _target(options.target)
    device = options.device or ("board" if target.registers and on_board() else "sim")
    if device != "sim":
        return _selftest_hardware(options, target, device)
    if options.output or options.bitstream:
        raise UsageError("--output and --bitstream are for hardware: --device board or emulator")
    results = run_selftest(target, device, _selftest_program)
    return _judge_tests(options, tests_report(
        target.name, results, notes=_device_notes(target.to_json(), device)
    ))


def _selftest_hardware(options: Options, target: Target, device: str) -> int:
    """Probe a board, then run the programs on it as it was measured."""
    from .runtime.board import open_hardware
    from .runtime.probes import PROBES, probe_board
    from .runtime.selftest import run_selftest

    with (
        closing(open_hardware(device, target, options.bitstream)) as board,
        _progress(options, len(PROBES), "probing") as progress,
    ):
        found = probe_board(board, lambda name: progress(1))
    if not found.passed:
        note = "No program was run, nothing written: models would not compute right on this board"
        return _judge_tests(options, tests_report(target.name, [], found, [note]))
    mine = found.calibrated()
    with (
        closing(open_hardware(device, mine, options.bitstream)) as board,
        closing(board.device()) as place,
    ):
        results = run_selftest(mine, place, _selftest_program)
    note = "To keep what was measured: -o my_board.json, then --target my_board.json"
    if options.output:
        found.save(options.output)
        note = f"Written: {options.output}, for --target"
    return _judge_tests(options, tests_report(target.name, results, found, [note]))


def _judge_tests(options: Options, found: dict[str, Any]) -> int:
    """Print a self-test; FAILED if a probe or a program did, or none ran.

    Programs too large for the hardware are no failure, but one at least must have passed.
    """
    _emit(options, found, tests_text(found))
    verdicts = {one["passed"] for one in found["tests"]}
    return FINE if True in verdicts and False not in verdicts else FAILED


def _selftest_program(target: Target, name: str) -> Artifact:
    """Compile a program for hardware that the shipped one does not fit."""
    try:
        from .selftest_programs import build
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"its geometry is not the default one, and the compiler needs {error.name}: "
            "run the self-test where vtaflow is installed completely"
        ) from None
    return build(target, name)


# --- what verbs share --------------------------------------------------------------------------


def _require_place(output: str | None, source: str) -> None:
    """Refuse an output that cannot be written before any work is done."""
    if output is None:
        return
    path = Path(output)
    if path.is_dir() or not path.name:
        raise ArtifactError(f"{output!r}: cannot write: it is a folder")
    if not path.parent.is_dir():
        raise ArtifactError(f"{output}: cannot write: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise ArtifactError(f"{output}: cannot write: no permission in {str(path.parent)!r}")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ArtifactError(f"{output}: cannot write: it is the input")


def _recipe(options: Options) -> Recipe:
    """The recipe asked for, else the one beside the model."""
    return Recipe.load(options.recipe) if options.recipe else find_recipe(options.model)


def _source(options: Options) -> tuple[Recipe, tuple[TensorInfo, ...]]:
    """The recipe and the inputs of the ONNX model."""
    from .compiler import model_inputs

    if options.model.endswith(".vta"):
        raise UsageError(f"{options.model} is compiled already: deploy run {options.model}")
    recipe, inputs = _recipe(options), model_inputs(options.model)
    recipe.require_inputs(inputs)
    return recipe, inputs


def _compiled(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> CompiledModel | None:
    """The compiled model; None if the compiler was told to stop on the way."""
    from .compiler import Stopped, compile

    calibration = _calibration(options, recipe, inputs)
    with _progress(options, _count(calibration or {}), "calibrating") as progress:
        try:
            compiled = compile(
                options.model,
                options.target,
                calibration,
                _compile_options_of(options, recipe, progress),
            )
        except Stopped as stopped:
            _print([stopped.text])
            return None
    _warn(compiled.warnings)
    return compiled


def _calibration(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> dict[str, Array] | None:
    """The calibration samples that were given, on the command line or by the recipe."""
    reference = options.calib or recipe.calibration
    return load_feeds(reference, inputs, recipe.preprocessing) if reference else None


def _compile_options_of(
    options: Options, recipe: Recipe, progress: Callable[[int], None]
) -> CompileOptions:
    from .compiler import STAGES, CompileOptions

    if options.stop_after and options.stop_after not in STAGES:
        raise UsageError(
            f"there is no stage {options.stop_after!r}; stages: {', '.join(STAGES)}"
        )
    schedules: dict[str, dict[str, int | str]] = {}
    for layer, fields in options.tiles:
        schedules.setdefault(layer, {}).update(fields)
    return CompileOptions(
        batch=options.batch,
        calibration_method=options.calib_method,
        weight_rounding=options.weight_rounding,
        **{name: getattr(options, name) for name in map(_identifier, QUANTISER_STEPS)},
        placement=dict(options.place),
        schedules=schedules,
        keep_intermediates=options.keep_intermediates,
        log=options.log,
        preprocessing=recipe.note(),
        dump=_stage_writer(options),
        stop_after=options.stop_after,
        progress=progress,
        seed=options.seed,
    )


def _stage_writer(options: Options) -> Callable[[str, str], None]:
    """What is called after every stage: writes its text, and names it if `--verbose`."""
    began = time.perf_counter()
    folder = Path(options.dump_stages) if options.dump_stages else None
    count = 0

    def finish(stage: str, text: str) -> None:
        nonlocal count
        if options.verbose:
            _say(f"{time.perf_counter() - began:8.3f} s  {stage}")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{count:02d}-{stage}.txt").write_text(text.rstrip() + "\n", "utf-8")
        count += 1

    return finish


def _test_data(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> tuple[dict[str, Array], Array | None]:
    """Samples and labels. The recipe's labels belong to the recipe's samples alone."""
    reference = options.input or recipe.test
    labels = options.labels or (None if options.input else recipe.labels)
    if reference is None:
        if labels:
            raise DataError(f"{labels}: labels need samples, give them with --input")
        return random_feeds(inputs, RANDOM_SAMPLES, options.seed), None
    feeds = load_feeds(reference, inputs, recipe.preprocessing)
    return feeds, _matching(load_labels(labels), labels, feeds) if labels else None


def _target(name: str) -> Target:
    from .backend.target import Target

    return Target.load(name)


def _place(options: Options, target: Target) -> str | Device | Client:
    """Where streams run, as a session takes it."""
    from .runtime.bearer import read_token
    from .runtime.client import Client, server_url

    if options.host and options.device:
        raise UsageError("--host runs on the server's device: leave --device out")
    hardware = bool(target.registers) and not options.device
    url = server_url(options.host, None if hardware else {})
    if url is not None and options.bitstream is None:
        token = read_token(options.token_file) if options.token_file else None
        return Client(url, token)
    if options.bitstream is None:
        return options.device or "sim"
    if options.device != "board":
        raise UsageError("--bitstream is for --device board; a server has its own")
    from .runtime.board import open_board
    from .runtime.board_device import BoardDevice

    return BoardDevice(open_board(target, options.bitstream), owns_board=True)


def _place_notes(place: str | Device | Client, name: str) -> list[str]:
    """What a report says of a server. Raises DeviceError if none answers."""
    from .runtime.client import Client, model_name

    if not isinstance(place, Client):
        return []
    status = place.status()
    place.close()  # the session connects again
    return [
        f"Ran on {place.url} (device {status['device']['name']}, target "
        f"{status['target']['TARGET']}), where the model stays loaded as {model_name(name)!r}"
    ]


def _run_samples(options: Options, session: InferenceSession) -> dict[str, Array]:
    """Samples for an artifact: raw from a file, else random feeds."""
    inputs = session.get_inputs()
    if options.input is None:
        if options.labels:
            raise DataError(f"{options.labels}: labels need samples, give them with --input")
        return random_feeds(inputs, RANDOM_SAMPLES, options.seed)
    if options.preprocessed:
        return load_feeds(options.input, inputs, {})
    return load_samples(options.input, inputs)


def _matching(labels: Array, reference: str, feeds: Mapping[str, Array]) -> Array:
    if len(labels) != _count(feeds):
        raise DataError(f"{reference}: {len(labels)} labels for {_count(feeds)} samples")
    return labels


def _count(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values()), ()))


def _judge(
    options: Options,
    comparison: Comparison,
    manifest: Mapping[str, Any],
    notes: Sequence[str],
    compile_seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> int:
    """Print the comparison; FAILED if bytes differ or a limit was given and is not kept."""
    found = model_report(
        manifest,
        manifest["target"]["TARGET"],
        comparison,
        compile_seconds,
        warnings,
        notes,
    )
    _emit(options, found, model_text(found))
    if options.json and not options.quiet:
        for note in found["notes"]:
            _say(note)
    _warn(warnings)
    problems = broken_limits(found, options.min_sqnr, options.max_drop)
    for problem in problems:
        print(f"deploy: failed: {problem}", file=sys.stderr)
    return FAILED if problems else FINE


def _device_notes(target: Mapping[str, Any], device: object) -> list[str]:
    """Say so when a board's stream ran on the simulator."""
    if device != "sim" or target["design"] == "fsim":
        return []
    return [
        f"No board was used: this very stream for {target['TARGET']} ran on the simulator, with "
        f"the semantics of that design ({target['design']})"
    ]


# --- output ------------------------------------------------------------------------------------


def _emit(options: Options, found: Mapping[str, Any], text: Sequence[str]) -> None:
    """The result: JSON or text."""
    if options.json:
        _print([json.dumps(found, indent=1, allow_nan=False)])
    elif not options.quiet:
        _print(text)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _say(message: str) -> None:
    print(f"deploy: {message}", file=sys.stderr)


def _warn(warnings: Sequence[str]) -> None:
    """Warnings go to stderr, framed: before the report and again after it."""
    for warning in warnings:
        print("\n".join(_banner(warning)), file=sys.stderr)


def _banner(message: str) -> list[str]:
    """A warning that cannot be overlooked."""
    rule = "*" * min(100, max(40, len(message) + 11))
    return [rule, f"* WARNING: {message}", rule]


@contextmanager
def _progress(options: Options, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes longer than a second, if somebody watches."""
    from tqdm import tqdm

    silent = options.quiet or not sys.stderr.isatty()
    with tqdm(total=total or None, desc=label, delay=1, disable=silent, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance


ONE_SHOT = Verb(
    "",
    "Compile an ONNX model for VTA, run it, compare it with the CPU.",
    _one_shot_options,
    _deploy,
)
VERBS = (
    Verb("compile", "Compile an ONNX model and write the artifact.", _compile_options, _compile),
    Verb("run", "Run an artifact.", _run_options, _run),
    Verb("compare", "Compare a model on VTA with the CPU.", _compare_options, _compare),
    Verb("tune", "Search for faster schedules and remember them.", _tune_options, _tune),
    Verb("inspect", "Show what an artifact contains.", _inspect_options, _inspect),
    Verb("profile", "Show where the cycles of a model go.", _profile_options, _profile),
    Verb("replay", "Execute recorded launches again.", _replay_options, _replay),
    Verb("serve", "Serve models over HTTP (Open Inference Protocol v2).", _serve_options, _serve),
    Verb("selftest", "Run the built-in test programs.", _selftest_options, _selftest),
)
