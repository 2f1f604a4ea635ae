"""Which artifacts may run: VTA reaches all of the board's memory, so everything is checked first.

An artifact comes from a stranger. What is established here before anything is kept: the file is
whole and consistent, it is for this hardware, its host steps fit together and stay small, and
the independent checker finds its streams clean. A board's device checks once more, where the
streams really lie.
"""

from __future__ import annotations

from pathlib import Path

from ...backend.artifact import Artifact
from ...backend.checker import require_clean
from ...backend.program import bind
from ...backend.target import Target
from ...errors import ArtifactError
from ..board_device import initialised
from ..host import region_type, typed_steps
from ..recipe import preprocessing_of
from ..runner import batch_bytes
from ..simdevice import ARENA_BASE
from .limits import Limits


def admit(path: Path, target: Target, limits: Limits, source: str) -> Artifact:
    """The artifact in a file, known to be harmless on `target`; raises a VtaflowError."""
    artifact = Artifact.load(path, source)
    artifact.require_target(target)
    _check_host(artifact, limits)
    check_streams(artifact, target, ARENA_BASE, limits)
    return artifact


def check_streams(artifact: Artifact, target: Target, base: int, limits: Limits) -> None:
    """Every launch, bound to an arena at `base`; raises StreamError."""
    for index, held in enumerate(initialised(artifact)):
        require_clean(
            target,
            bind(artifact.instructions(index), target, base),
            base=base,
            regions=artifact.regions.values(),
            constants=artifact.constants,
            origins=artifact.origins(index),
            initialised=held,
            arena_bytes=artifact.manifest["arena"]["bytes"],
            work_limit=limits.check_steps,
        )


def _check_host(artifact: Artifact, limits: Limits) -> None:
    """Host steps have types, which add up to little enough; so has the preprocessing."""
    used = batch_bytes(typed_steps(artifact).types)
    if used > limits.host_values:
        raise ArtifactError(
            f"{artifact.source}: its values take {used:,} bytes on the host, the limit is "
            f"{limits.host_values:,}: compile it with a smaller --batch"
        )
    preprocessing_of(artifact.manifest["preprocessing"], artifact.source)
    if artifact.manifest["arena"]["keep_intermediates"]:
        for name, region in artifact.regions.items():
            if region.kind != "constant" and region.logical_shape is not None:
                region_type(artifact, name, artifact.source)
