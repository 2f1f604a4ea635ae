"""The compiler: the pipeline from an ONNX file to a checked artifact, one line a stage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .backend import program
from .backend.artifact import Artifact
from .backend.checker import require_clean
from .backend.commands import Store
from .backend.listing import listing
from .backend.program import Program
from .backend.target import Target
from .bundle import bundle
from .errors import ArenaError, DataError, NoTileError, ScheduleError, StreamError
from .frontend.onnx_import import import_onnx
from .frontend.quantised import unquantised
from .graph.calibration import (
    Calibration,
    calibrate,
    check_data,
    quantised_values,
    random_calibration,
)
from .graph.graph import Graph
from .graph.passes import Stage, run_passes
from .graph.passes.equalise import equalise
from .graph.passes.fold_input import fold_input
from .graph.passes.fuse_pools import fuse_pools
from .graph.passes.pack import pack
from .graph.passes.place import place
from .graph.passes.quantise import quantise
from .graph.passes.simplify import SIMPLIFY
from .graph.passes.take_in_shortcuts import take_in_shortcuts
from .graph.passes.to_device_forms import to_device_forms
from .graph.predicates import PACKED, PLACED, QUANTISED
from .graph.printer import to_text
from .graph.stated_limits import follow
from .ops.types import Array
from .runtime.blas import one_thread
from .runtime.tensors import TensorInfo
from .schedules import fusion, log_file
from .schedules.legality import accepts_on
from .schedules.model import LaunchStep, Lowered, lower
from .schedules.search import ScheduleLog

Result = TypeVar("Result")

CHECK_BASE = 0x0100_0000
"""Physical address at which streams are checked; the loader checks again at its own."""

RANDOM_SAMPLES = 32
RANDOM_WARNING = (
    "NO CALIBRATION DATA: the ranges come from random inputs and accuracy will suffer; "
    "give real data with --calib"
)

STAGES = (
    "import",
    *(stage.name for stage in SIMPLIFY),
    "place",
    "to_device_forms",
    "equalise",
    "take_in_shortcuts",
    "quantise",
    "fold_input",
    "pack",
    "fuse_pools",
    "lower",
    "assemble",
)
"""Names of the stages that can be dumped and stopped after."""


class Stopped(Exception):
    """Compilation ended where CompileOptions.stop_after asked; `text` is that stage's result."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(stage)
        self.stage, self.text = stage, text


@dataclass(frozen=True)
class CompileOptions:
    """Everything that may differ between two compilations of a model for a target.

    `batch` is the compiled batch; `bias_correction`, `input_offset`, `activation_offsets` and
    `weight_rounding` are those of graph.passes.quantise, `equalise` evens out channels first (not
    without calibration data, and not of a model that states its ranges);
    `placement` maps ONNX nodes to "vta" or "host"; `schedules` maps layers to schedule fields;
    `log` is the file of schedule decisions, by default the user's; `preprocessing` is the note
    kept for the artifact; `dump` is called with a stage's name and its result as text;
    `progress` with the number of calibration samples done; `seed` feeds random
    calibration, which takes `random_samples`.
    """

    batch: int = 1
    calibration_method: str = "mse"
    bias_correction: bool = True
    input_offset: bool = True
    activation_offsets: bool = True
    weight_rounding: str = "compensated"
    equalise: bool = True
    placement: Mapping[str, str] = field(default_factory=dict)
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keep_intermediates: bool = False
    log: Path | None = None
    preprocessing: Mapping[str, Any] | None = None
    dump: Callable[[str, str], None] | None = None
    stop_after: str | None = None
    progress: Callable[[int], None] = lambda samples: None
    seed: int = 0
    random_samples: int = RANDOM_SAMPLES


@dataclass(frozen=True)
class CompiledModel:
    """An artifact and the graphs that it was compiled through.

    `placed` is the float graph with its placement, `integer` the packed graph that the artifact
    computes byte for byte. `lowered` holds the commands.
    """

    artifact: Artifact
    source: Path
    placed: Graph
    integer: Graph
    lowered: Lowered
    warnings: tuple[str, ...]
    compile_seconds: float

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact; raises ArtifactError."""
        self.artifact.save(path)


def compile(
    model: str | os.PathLike[str],
    target: str | Target = "sim",
    calibration: Array | Mapping[str, Array] | None = None,
    options: CompileOptions | None = None,
) -> CompiledModel:
    """Compile an ONNX file for a target.

    `calibration` holds samples (n, ...) as they enter the model, by input name or, for a model
    of one input, bare; without it random inputs stand in, with a warning. Raises a VtaflowError
    for whatever the user can mend, and Stopped when `options.stop_after` was reached.
    """
    began = time.perf_counter()
    options = options or CompileOptions()
    target = target if isinstance(target, Target) else Target.load(target)
    graphs, lowered, assembled = _scheduled(model, target, calibration, options)
    artifact = bundle(Path(model), target, options.preprocessing, options.keep_intermediates,
                      graphs.imported, graphs.placed, graphs.integer, lowered, assembled)
    _done(options, "assemble", "\n".join(listing(artifact)))
    seconds = time.perf_counter() - began
    return CompiledModel(
        artifact, Path(model), graphs.placed, graphs.integer, lowered, graphs.warnings, seconds
    )


def _scheduled(
    model: str | os.PathLike[str],
    target: Target,
    calibration: Array | Mapping[str, Array] | None,
    options: CompileOptions,
) -> tuple[Graphs, Lowered, Program]:
    """The stages of `compile` but for the artifact; what has no tile goes to the host."""

    def attempt(too_large: Mapping[str, str]) -> tuple[Graphs, Lowered, Program]:
        log = log_file.load(options.log)
        graphs = prepare(model, target, calibration, options, too_large)
        graphs = replace(graphs, integer=_pools_fused(graphs.integer, target, options, log))
        try:
            return (graphs, *_program(graphs.integer, target, options, log))
        except NoTileError:
            raise
        except (ArenaError, ScheduleError, StreamError):
            # A decision may fit its layer and yet break a rule; whoever wrote it, models compile.
            return (graphs, *_program(graphs.integer, target, options, ScheduleLog()))

    return moving_to_host(attempt)


def moving_to_host(attempt: Callable[[Mapping[str, str]], Result]) -> Result:
    """What `attempt` returns once the ONNX nodes that no tile fits are on the host.

    It is called with those known so far and why, as `prepare` takes them, until it raises no
    NoTileError. One about nodes that are on the host already is passed on.
    """
    too_large: dict[str, str] = {}
    while True:
        try:
            return attempt(too_large)
        except NoTileError as error:
            if too_large.keys() >= set(error.origin):
                raise
            too_large.update(dict.fromkeys(error.origin, error.reason))


def _pools_fused(
    integer: Graph, target: Target, options: CompileOptions, log: ScheduleLog
) -> Graph:
    """The packed graph with max-pools fused where that is faster and nobody schedules the pool."""
    pays = partial(fusion.is_faster, target=target, log=log)
    fusing = partial(fuse_pools, pays=pays, apart=set(options.schedules))
    return run_passes(integer, [Stage("fuse_pools", fusing, PACKED)], partial(_done, options))


def _program(
    integer: Graph, target: Target, options: CompileOptions, log: ScheduleLog
) -> tuple[Lowered, Program]:
    """The stages of `compile` from choosing schedules with `log` to a checked program."""
    lowered = lower(integer, target, options.schedules, options.keep_intermediates, log)
    commands = "\n".join(str(one) for launch in lowered.launches for one in launch)
    _done(options, "lower", commands)
    assembled = program.assemble(
        target, lowered.launches, lowered.buffers, options.keep_intermediates
    )
    check(target, assembled, lowered)
    log_file.keep(log, options.log)
    return lowered, assembled


@dataclass(frozen=True)
class Graphs:
    """A model on its way to schedules: as imported, placed in float, and packed in integers."""

    imported: Graph
    placed: Graph
    integer: Graph
    warnings: tuple[str, ...]


@one_thread()
def prepare(
    model: str | os.PathLike[str],
    target: Target,
    calibration: Array | Mapping[str, Array] | None,
    options: CompileOptions,
    too_large: Mapping[str, str] | None = None,
) -> Graphs:
    """The stages of `compile` before schedules are chosen.

    `too_large` maps ONNX nodes that must run on the host to the reason.
    """
    warnings: list[str] = []
    done = partial(_done, options)
    imported = import_onnx(model, batch=options.batch)
    done("import", to_text(imported))
    real = unquantised(imported, str(model))
    simple = run_passes(real.graph, SIMPLIFY, done)
    accepts = accepts_on(target, too_large)
    placing = partial(place, accepts=accepts, overrides=options.placement)
    stages = [Stage("place", placing, PLACED), Stage("to_device_forms", to_device_forms)]
    placed = run_passes(simple, stages, done)
    limits = real.limits if calibration is not None else follow(placed, real.limits)
    data = _samples(placed, calibration, limits, options, warnings)
    if options.equalise and calibration is not None and not real.ranges:
        check_data(placed, data)
        placed = run_passes(placed, [Stage("equalise", partial(equalise, data=data))], done)
    learns = calibration is not None or not real.ranges
    ranges = _ranges(placed, data, limits, options, learns)
    taking_in = partial(take_in_shortcuts, calibration=ranges)
    placed = run_passes(placed, [Stage("take_in_shortcuts", taking_in)], done)
    quantising = partial(
        quantise,
        calibration=ranges,
        bias_correction=options.bias_correction,
        warn=warnings.append,
        input_offset=options.input_offset,
        activation_offsets=options.activation_offsets,
        weight_rounding=options.weight_rounding,
    )
    stages = [
        Stage("quantise", quantising, QUANTISED),
        Stage("fold_input", partial(fold_input, block=target.block_in)),
        Stage("pack", partial(pack, batch=target.batch, block=target.block_in), PACKED),
    ]
    integer = run_passes(placed, stages, done)
    return Graphs(imported, placed, integer, tuple(warnings))


def model_inputs(model: str | os.PathLike[str]) -> tuple[TensorInfo, ...]:
    """The inputs of an ONNX file, for whoever loads samples for it; raises ModelError."""
    graph = import_onnx(model)
    kinds = {name: graph.types[name] for name in graph.inputs}
    return tuple(TensorInfo(name, kind.shape[1:], kind.dtype) for name, kind in kinds.items())


def _done(options: CompileOptions, stage: str, text: str) -> None:
    """Report a finished stage and stop there if that was asked."""
    if options.dump is not None:
        options.dump(stage, text)
    if options.stop_after == stage:
        raise Stopped(stage, text)


def _samples(
    graph: Graph,
    calibration: Array | Mapping[str, Array] | None,
    limits: Mapping[str, float],
    options: CompileOptions,
    warnings: list[str],
) -> Mapping[str, Array]:
    """Calibration samples by input name; random ones, with a warning, where there are none."""
    if calibration is None:
        if not set(quantised_values(graph)) <= set(limits):
            warnings.append(RANDOM_WARNING)
        return random_calibration(graph, options.random_samples, options.seed)
    if isinstance(calibration, Mapping):
        return calibration
    if len(graph.inputs) == 1:
        return {graph.inputs[0]: np.asarray(calibration)}
    raise DataError(
        f"the model has {len(graph.inputs)} inputs ({', '.join(graph.inputs)}): give "
        "calibration data by name"
    )


def _ranges(
    graph: Graph,
    data: Mapping[str, Array],
    limits: Mapping[str, float],
    options: CompileOptions,
    learns: bool,
) -> Calibration:
    """Limits from the data; those that a model quantised elsewhere states itself replace them.

    Nothing can be learnt from random samples about such a model.
    """
    found = calibrate(graph, data, options.calibration_method, options.progress)
    return replace(found, samples=found.samples if learns else {}).with_limits(limits)


def check(target: Target, assembled: Program, lowered: Lowered) -> None:
    """Run the independent checker on every launch, bound; raises StreamError."""
    held: set[str] = set()
    steps = [step for step in lowered.steps if isinstance(step, LaunchStep)]
    stored: set[str] = set()
    for step, code, commands in zip(
        steps, assembled.launches, lowered.launches, strict=True
    ):
        held |= set(step.inputs)
        require_clean(
            target,
            program.bind(code.insns, target, CHECK_BASE),
            base=CHECK_BASE,
            regions=assembled.arena.regions,
            constants=assembled.constants,
            origins=code.origins,
            initialised=held | stored,
        )
        stored |= {command.buffer for command in commands if isinstance(command, Store)}
