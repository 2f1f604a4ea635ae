"""`deploy MODEL.onnx`: everything at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..compilation import compile_model
from ..files import require_writable
from ..judgement import judge
from ..options import Options, add_compilation, add_data, add_limits, add_model, add_place
from ..outcome import FINE
from ..output import progress_bar
from ..place import device_notes, load_target, open_place, server_notes
from ..samples import count, labelled_samples, model_source


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `compile` and `compare`, and where to keep the result."""
    add_model(parser)
    add_compilation(parser)
    add_place(parser)
    add_data(parser)
    add_limits(parser)
    parser.add_argument("-o", "--output", metavar="MODEL.vta", help="keep the compiled model")
    parser.set_defaults(scheduler=None)


def run(options: Options) -> int:
    """Compile, run, compare; FAILED for a comparison that did. Raises VtaflowError."""
    require_writable(options.output, options.model)
    recipe, inputs = model_source(options)
    feeds, labels = labelled_samples(options, recipe, inputs)
    place = open_place(options, load_target(options.target))
    notes = server_notes(place, Path(options.model).stem)  # a server that is not there: say so now
    compiled = compile_model(options, recipe, inputs)
    if compiled is None:
        return FINE
    from ...evaluate import compare

    with progress_bar(options, count(feeds), "comparing") as progress:
        comparison = compare(compiled, feeds, labels, place, progress, options.scheduler)
    if options.output:
        compiled.save(options.output)
    manifest = compiled.artifact.manifest
    notes = notes or device_notes(manifest["target"], place)
    return judge(
        options, comparison, manifest, notes, compiled.compile_seconds, compiled.warnings
    )
