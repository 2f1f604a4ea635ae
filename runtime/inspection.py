"""What an artifact contains, as text: for people, so nothing here is parsed again."""

from __future__ import annotations

from collections.abc import Iterator

from ..backend.artifact import Artifact
from ..backend.listing import listing


def open_artifact(path: str) -> Artifact:
    """The artifact in a file; raises ArtifactError."""
    return Artifact.load(path)


def schedule_lines(artifact: Artifact) -> Iterator[str]:
    """The blocked loop nest of every layer, as the compiler chose it."""
    for layer in artifact.manifest["layers"]:
        yield f"layer {layer['name']} ({layer['op']}): {layer['tiles']}"
        for line in layer["loop_nest"]:
            yield f"  {line}"
        yield ""


def assembly_lines(artifact: Artifact) -> Iterator[str]:
    """The disassembly of every launch, each instruction with the ONNX nodes that it serves."""
    yield from listing(artifact)
