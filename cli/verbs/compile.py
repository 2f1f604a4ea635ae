"""`deploy compile`: an ONNX model becomes an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...report.model import model_report, model_text
from ..compilation import compile_model
from ..files import require_writable
from ..options import Options, add_compilation, add_data, add_model
from ..outcome import FINE
from ..output import emit
from ..samples import labelled_samples, model_source


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a compilation takes, and what it writes."""
    add_model(parser)
    add_compilation(parser)
    add_data(parser)
    parser.add_argument("-o", "--output", metavar="MODEL.vta",
                        help="default: the model's name in the current folder")
    parser.add_argument("--record-launches", metavar="DIR",
                        help="run once and write every launch for `deploy replay`")


def run(options: Options) -> int:
    """Compile and write the artifact. Raises VtaflowError."""
    output = options.output or f"{Path(options.model).stem}.vta"
    require_writable(output, options.model)
    recipe, inputs = model_source(options)
    feeds = labelled_samples(options, recipe, inputs)[0] if options.record_launches else {}
    compiled = compile_model(options, recipe, inputs)
    if compiled is None:
        return FINE
    notes = [f"Written: {output}"]
    if options.record_launches:
        from ...runtime.replay import record

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
    emit(options, found, model_text(found))
    return FINE
