"""`deploy run`: samples through an artifact."""

from __future__ import annotations

import argparse

from ...report.run import run_report, run_text
from ...runtime.data import load_labels, save_arrays
from ..files import require_writable
from ..options import DATA_TITLE, Options, add_artifact, add_place, add_seed, add_target
from ..outcome import FINE
from ..output import emit, progress_bar
from ..place import device_notes, load_target, open_place, server_notes
from ..samples import count, session_samples


def add_options(parser: argparse.ArgumentParser) -> None:
    """The artifact, where it runs, its samples and what is kept."""
    add_artifact(parser)
    add_target(parser, None)
    add_place(parser)
    group = parser.add_argument_group(DATA_TITLE)
    group.add_argument("--input", metavar="REF", help="samples to run (default: random)")
    group.add_argument("--labels", metavar="REF", help="their class indices")
    add_seed(group)
    group.add_argument("--preprocessed", action="store_true",
                       help="the samples are what the model takes, not raw")
    parser.add_argument("-o", "--output", metavar="FILE.npz", help="keep the outputs")


def run(options: Options) -> int:
    """Run an artifact. Raises VtaflowError."""
    from ...runtime.comparison import accuracy
    from ...runtime.inspection import open_artifact
    from ...runtime.session import InferenceSession

    require_writable(options.output, options.artifact)
    artifact = open_artifact(options.artifact)
    target = load_target(options.target) if options.target else artifact.target
    place = open_place(options, target)
    with InferenceSession(artifact, place, target) as session:
        feeds = session_samples(options, session)
        raw = bool(options.input) and not options.preprocessed
        labels = load_labels(options.labels) if options.labels else None
        with progress_bar(options, count(feeds), "running") as progress:
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
            server_notes(place, artifact.name) or device_notes(target.to_json(), place),
        )
    if options.output:
        save_arrays(options.output, outputs)
    emit(options, found, run_text(found))
    return FINE
