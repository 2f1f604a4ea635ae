"""A compilation as the options ask for it; the compiler is loaded when there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.recipe import Recipe
from ..runtime.tensors import TensorInfo
from .options import QUANTISER_STEPS, Options
from .outcome import UsageError
from .output import print_lines, progress_bar, say, warn
from .samples import calibration_samples, count

if TYPE_CHECKING:
    from ..compiler import CompiledModel, CompileOptions


def compile_model(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> CompiledModel | None:
    """The compiled model; None if the compiler was told to stop on the way.

    Raises a VtaflowError for whatever the user can mend.
    """
    from ..compiler import Stopped, compile

    calibration = calibration_samples(options, recipe, inputs)
    with progress_bar(options, count(calibration or {}), "calibrating") as progress:
        try:
            compiled = compile(
                options.model,
                options.target,
                calibration,
                compile_options(options, recipe, progress),
            )
        except Stopped as stopped:
            print_lines([stopped.text])
            return None
    warn(compiled.warnings)
    return compiled


def compile_options(
    options: Options, recipe: Recipe, progress: Callable[[int], None]
) -> CompileOptions:
    """The compiler's options; raises UsageError for a stage that there is not."""
    from ..compiler import STAGES, CompileOptions

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
        **{name: getattr(options, name) for name in QUANTISER_STEPS},
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
    finished = 0

    def finish(stage: str, text: str) -> None:
        nonlocal finished
        if options.verbose:
            say(f"{time.perf_counter() - began:8.3f} s  {stage}")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{finished:02d}-{stage}.txt").write_text(text.rstrip() + "\n", "utf-8")
        finished += 1

    return finish
