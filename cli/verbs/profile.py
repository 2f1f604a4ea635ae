"""`deploy profile`: where the cycles of a model, an artifact or a recorded launch go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..compilation import compile_model
from ..files import require_writable
from ..options import Options, add_compilation, add_data
from ..outcome import FINE, UsageError
from ..output import emit, progress_bar
from ..place import load_target
from ..samples import count, labelled_samples, model_source

if TYPE_CHECKING:
    from ...backend.target import Target
    from ...profiling.subject import Subject
    from ...runtime.comparison import Comparison


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is profiled, what is written, and how a model is compiled for it."""
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
    add_compilation(parser, None)
    add_data(parser)


def run(options: Options) -> int:
    """Simulate the cycles. Raises VtaflowError."""
    from ...profiling import host_time
    from ...profiling.profile import profile
    from ...profiling.text import profile_text

    for output in (options.trace, options.html):
        require_writable(output, options.model)
    subject, comparison = _subject(options)
    if subject is None:
        return FINE
    steps = host_time.measure(subject.artifact) if subject.artifact else []
    found = profile(subject, options.shared_port, steps, comparison)
    if options.html:  # first: it fails where plotly is missing
        from ...profiling.page import write_page

        write_page(found, options.html)
    if options.trace:
        from ...profiling.trace import write_trace

        write_trace(found, options.trace)
    emit(options, found.report, profile_text(found.report))
    return FINE


def _subject(options: Options) -> tuple[Subject | None, Comparison | None]:
    """What to profile, and its comparison with the CPU if one was asked for.

    Nothing if the compiler was told to stop on the way.
    """
    target = load_target(options.target) if options.target else None
    if Path(options.model).suffix not in (".vta", ".npz"):
        return _compiled_subject(options)
    if options.compare:
        raise UsageError(f"{options.model}: --compare needs the ONNX model")
    return _stored_subject(options.model, target), None


def _stored_subject(path: str, target: Target | None) -> Subject:
    """An artifact or a recorded launch."""
    from ...profiling.subject import Subject
    from ...runtime.inspection import open_artifact
    from ...runtime.recording import Recording

    if Path(path).suffix == ".vta":
        return Subject.of_artifact(open_artifact(path), target)
    return Subject.of_recording(Recording.load(path), Path(path).stem, target)


def _compiled_subject(options: Options) -> tuple[Subject | None, Comparison | None]:
    """An ONNX model, compiled now; with its comparison if one was asked for."""
    from ...profiling.subject import Subject

    options.target = options.target or "sim"
    recipe, inputs = model_source(options)
    feeds, labels = labelled_samples(options, recipe, inputs) if options.compare else ({}, None)
    compiled = compile_model(options, recipe, inputs)
    if compiled is None:
        return None, None
    subject = Subject.of_artifact(compiled.artifact)
    if not options.compare:
        return subject, None
    from ...evaluate import compare

    with progress_bar(options, count(feeds), "comparing") as progress:
        return subject, compare(compiled, feeds, labels, progress=progress)
