"""What is profiled: the launches of an artifact or a recording, each instruction with its layer.

A *row* is what a profile gives a line to: a layer, or a part of one with a role of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backend.artifact import Artifact
from ..backend.isa import Isa, Stream
from ..backend.target import Target
from ..runtime.recording import Recording

Json = dict[str, Any]
Key = tuple[tuple[str, ...], str]
"""The ONNX nodes that an instruction serves, and its role among them."""


@dataclass(frozen=True)
class LaunchCode:
    """One stream, decoded; `keys` has one entry an instruction, `tokens` what it starts with."""

    stream: Stream
    keys: Sequence[Key]
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Subject:
    """Streams with what is known of their layers.

    `layers` are the rows of an artifact's manifest by origin; `placement` its table of nodes;
    `artifact` is None for a recording.
    """

    name: str
    target: Target
    launches: tuple[LaunchCode, ...]
    batch: int = 1
    layers: Mapping[tuple[str, ...], Json] = field(default_factory=dict)
    placement: Sequence[Json] = ()
    artifact: Artifact | None = None

    @classmethod
    def of_artifact(cls, artifact: Artifact, target: Target | None = None) -> Subject:
        """Every launch of an artifact, for its own hardware or another that fits.

        Raises ArtifactError if the streams do not run on `target`.
        """
        if target is not None:
            artifact.require_target(target)
        hardware = target or artifact.target
        isa = Isa.of(hardware)
        launches = []
        for index in range(artifact.launches):
            keys = list(zip(artifact.origins(index), artifact.roles(index), strict=True))
            launches.append(LaunchCode(isa.decode_stream(artifact.instructions(index)), keys))
        return cls(
            name=artifact.name,
            target=hardware,
            launches=tuple(launches),
            batch=artifact.batch,
            layers={_origin(row): row for row in artifact.manifest["layers"]},
            placement=artifact.manifest["placement"],
            artifact=artifact,
        )

    @classmethod
    def of_recording(
        cls, recording: Recording, name: str, target: Target | None = None
    ) -> Subject:
        """A recorded launch as a single layer, for the recorded hardware or another."""
        hardware = target or recording.target
        stream = Isa.of(hardware).decode_stream(recording.insns)
        keys = [((name,), "")] * len(stream)
        return cls(name, hardware, (LaunchCode(stream, keys, recording.tokens_before),))

    def label(self, key: Key) -> str:
        """How a row is called: by its layer, and its role if it has one."""
        origin, role = key
        layer = self.layers.get(origin)
        name = layer["name"] if layer else ", ".join(origin) or "launch"
        return f"{name} [{role}]" if role else name


def _origin(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes of a layer; a manifest from elsewhere may lack them."""
    names = row.get("origin")
    return tuple(map(str, names)) if isinstance(names, list) else ()
