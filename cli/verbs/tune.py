"""`deploy tune`: a harder search for schedules, whose decisions compilations take."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...report.tuning import tuning_report, tuning_text
from ..compilation import compile_options
from ..options import Options, add_cluster, add_layers, add_model, add_recipe, add_target, positive
from ..outcome import FINE, UsageError
from ..output import emit, progress_bar
from ..place import load_target
from ..samples import calibration_samples, count, model_source

if TYPE_CHECKING:
    from ...backend.target import Target
    from ...runtime.preprocessing import Array
    from ...runtime.recipe import Recipe
    from ...workers import Workers

TRIALS = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long to search and where, and what decides which layers there are."""
    add_model(parser)
    add_target(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--trials", type=positive, default=TRIALS, metavar="N",
                       help=f"schedules of a layer that are timed (default: {TRIALS})")
    group.add_argument("--processes", type=positive, metavar="P",
                       help="that search at the same time (default: one a CPU)")
    add_cluster(group, "search on")
    group = parser.add_argument_group("the model's layers, as `deploy compile` makes them")
    add_layers(group)
    add_recipe(group)
    parser.set_defaults(tiles=[], dump_stages=None, stop_after=None)


def run(options: Options) -> int:
    """Search for schedules of what a compilation would have on VTA. Raises VtaflowError."""
    from ...compiler import moving_to_host
    from ...workers import workers

    if options.scheduler and options.processes:
        raise UsageError("--scheduler has processes of its own: leave --processes out")
    began, target = time.perf_counter(), load_target(options.target)
    recipe, inputs = model_source(options)
    calibration = calibration_samples(options, recipe, inputs)
    with workers(options.processes, options.scheduler) as crew:
        found = moving_to_host(partial(_search, options, target, recipe, calibration, crew))
    seconds = time.perf_counter() - began
    result = tuning_report(
        Path(options.model).stem, target.name, options.trials, crew.width, found, seconds
    )
    emit(options, result, tuning_text(result))
    return FINE


def _search(
    options: Options,
    target: Target,
    recipe: Recipe,
    calibration: dict[str, Array] | None,
    crew: Workers,
    too_large: Mapping[str, str],
) -> list[dict[str, Any]]:
    """A row for every distinct layer; raises NoTileError for one that must go to the host."""
    from ...tuning import open_tuning, rows

    with progress_bar(options, count(calibration or {}), "calibrating") as progress:
        compiling = compile_options(options, recipe, progress)
        tuning, keep = open_tuning(
            options.model, target, calibration, compiling, options.trials, too_large
        )
    with progress_bar(options, tuning.left, "tuning") as progress:
        return rows(tuning.run(crew, keep, progress))
