"""`deploy compare`: a model on the device beside the float reference, or beside the simulator."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import ArtifactError
from ...report.layers import layers_report, layers_text
from ..compilation import compile_model
from ..judgement import judge
from ..options import (
    Options,
    add_cluster,
    add_compilation,
    add_data,
    add_limits,
    add_model,
    add_place,
)
from ..outcome import FAILED, FINE, UsageError
from ..output import emit, progress_bar
from ..place import device_notes, load_target, open_place, server_notes
from ..samples import count, labelled_samples, model_source, recipe_of
from . import deploy

if TYPE_CHECKING:
    from ...backend.artifact import Artifact

LAYER_SAMPLES = 8
"""That are compared tensor by tensor."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model, its artifact if there is one, samples, a place and limits."""
    add_model(parser)
    parser.add_argument("artifact", nargs="?", metavar="MODEL.vta",
                        help="compiled from it (default: compile now)")
    parser.add_argument("--layers", action="store_true",
                        help="compare with the simulator instead, byte for byte and tensor by "
                        "tensor; the artifact has --keep-intermediates")
    add_cluster(parser, "spread the samples over simulators on")
    add_compilation(parser, None)
    add_place(parser)
    add_data(parser)
    add_limits(parser)
    parser.set_defaults(output=None)


def run(options: Options) -> int:
    """Compare; FAILED for what differs or breaks a limit. Raises VtaflowError."""
    _require_simulators(options)
    if options.layers:
        return _compare_layers(options)
    if options.artifact is None:
        options.target = options.target or "sim"
        return deploy.run(options)
    return _compare_artifact(options)


def _require_simulators(options: Options) -> None:
    """Refuse a cluster for what does not run on simulators alone."""
    if options.scheduler is None:
        return
    for name in ("layers", "host", "bitstream"):
        if getattr(options, name):
            raise UsageError(f"--scheduler spreads samples over simulators: leave --{name} out")
    if options.device not in (None, "sim"):
        raise UsageError("--scheduler spreads samples over simulators: leave --device out")


def _compare_artifact(options: Options) -> int:
    """A compiled model beside the float model that it was compiled from."""
    from ...evaluate import compare_artifact
    from ...runtime.inspection import open_artifact
    from ...runtime.session import InferenceSession

    artifact = open_artifact(options.artifact)
    target = load_target(options.target) if options.target else artifact.target
    place = open_place(options, target)
    with InferenceSession(artifact, place, target) as session:
        manifest = session.artifact.manifest
        feeds, labels = labelled_samples(options, recipe_of(options), session.get_inputs())
        with progress_bar(options, count(feeds), "comparing") as progress:
            comparison = compare_artifact(
                session, options.model, feeds, labels, progress, place == "sim", options.scheduler
            )
        notes = server_notes(place, session.artifact.name)
        return judge(
            options, comparison, manifest, notes or device_notes(manifest["target"], place)
        )


def _compare_layers(options: Options) -> int:
    """Every tensor that VTA makes, on the device and on the simulator."""
    from ...runtime.layer_comparison import compare_layers
    from ...runtime.session import InferenceSession

    artifact = _kept_artifact(options)
    if artifact is None:
        return FINE
    place = open_place(options, artifact.target)
    with (
        InferenceSession(artifact) as reference,
        InferenceSession(artifact, place) as session,
    ):
        feeds, _ = labelled_samples(options, recipe_of(options), session.get_inputs())
        some = {name: array[:LAYER_SAMPLES] for name, array in feeds.items()}
        results = compare_layers(reference, session, some)
    notes = server_notes(place, artifact.name) or device_notes(artifact.target.to_json(), place)
    found = layers_report(artifact.manifest, results, count(some), notes)
    emit(options, found, layers_text(found))
    return FINE if all(one["equal"] for one in found["tensors"]) else FAILED


def _kept_artifact(options: Options) -> Artifact | None:
    """The artifact whose layers are compared: given, or compiled so that it keeps them."""
    from ...runtime.inspection import open_artifact

    given = options.artifact or (options.model if options.model.endswith(".vta") else None)
    if given is not None:
        artifact = open_artifact(given)
        if not artifact.manifest["arena"]["keep_intermediates"]:
            raise ArtifactError(f"{given}: keeps no layers, compile it with --keep-intermediates")
        return artifact
    options.keep_intermediates = True
    options.target = options.target or "sim"
    compiled = compile_model(options, *model_source(options))
    return None if compiled is None else compiled.artifact
