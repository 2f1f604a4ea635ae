"""Two sessions of one artifact, tensor by tensor: what differs first, and which STORE wrote it.

Everything that VTA makes is exact, so two devices agree in every byte or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..backend.artifact import Artifact
from ..backend.commands import Memory
from ..backend.isa import Instruction, Isa, Opcode, disassemble
from ..ops.types import Array
from .comparison import Difference, first_difference
from .host import region_type
from .session import InferenceSession


@dataclass(frozen=True)
class Writer:
    """The instruction that wrote an element: launch, position, its text and its ONNX nodes."""

    launch: int
    instruction: int
    text: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class LayerComparison:
    """One tensor on both devices; `writer` made the first element that differs."""

    name: str
    elements: int
    difference: Difference | None
    writer: Writer | None


def compare_layers(
    reference: InferenceSession, session: InferenceSession, feeds: Mapping[str, Array]
) -> list[LayerComparison]:
    """All kept tensors in the order in which VTA makes them, then the model's outputs."""
    artifact = reference.artifact
    names = _in_order(artifact, reference.get_intermediates())
    names += [one.name for one in reference.get_outputs() if one.name not in names]
    wanted, found = reference.run(names, feeds), session.run(names, feeds)
    return [
        _compare(artifact, name, one, other)
        for name, one, other in zip(names, wanted, found, strict=True)
    ]


def writer_of(artifact: Artifact, region: str, index: tuple[int, ...]) -> Writer | None:
    """The last STORE that wrote element `index` of the tensor in a region; None if none did."""
    kind = region_type(artifact, region, artifact.source)
    marked = np.zeros(kind.shape, np.int8)
    marked[(index[0] % kind.shape[0], *index[1:])] = 1
    element = int(np.flatnonzero(kind.layout.pack(marked))[0]) * np.dtype(kind.dtype).itemsize
    address = artifact.regions[region].start + element
    for launch in reversed(range(artifact.launches)):
        position = _last_store(artifact, launch, address)
        if position is not None:
            return _writer(artifact, launch, position)
    return None


def _compare(artifact: Artifact, name: str, wanted: Array, found: Array) -> LayerComparison:
    difference = first_difference(wanted, found)
    writer = None
    if difference is not None and name in artifact.regions:
        writer = writer_of(artifact, name, difference.index)
    return LayerComparison(name, wanted.size, difference, writer)


def _in_order(artifact: Artifact, names: list[str]) -> list[str]:
    """Regions in the order of the first STORE into each; those that the host writes come first."""
    first: dict[str, tuple[int, int]] = {}
    for launch in range(artifact.launches):
        begin, _, positions = _stores(artifact, launch)
        for name in names:
            place = artifact.regions[name]
            inside = (begin >= place.start) & (begin < place.start + place.bytes)
            if inside.any():
                first.setdefault(name, (launch, int(positions[inside.argmax()])))
    return sorted(names, key=lambda name: first.get(name, (-1, -1)))


def _stores(artifact: Artifact, launch: int) -> tuple[Array, dict[str, Array], Array]:
    """First byte, fields and positions of the STOREs of a launch, relative to the arena."""
    stream = Isa.of(artifact.target).decode_stream(artifact.instructions(launch))
    positions = np.flatnonzero(
        (stream.opcode == Opcode.STORE) & (stream.fields["x_size"] > 0)
    )
    fields = {name: column[positions] for name, column in stream.fields.items()}
    unit = artifact.target.element_bytes(Memory.OUT)
    return fields["dram_base"] * unit, fields, positions


def _last_store(artifact: Artifact, launch: int, address: int) -> int | None:
    """Position of the last STORE that covers a byte of the arena."""
    _, fields, positions = _stores(artifact, launch)
    element = address // artifact.target.element_bytes(Memory.OUT) - fields["dram_base"]
    stride = np.maximum(fields["x_stride"], 1)
    row = np.minimum(element // stride, fields["y_size"] - 1)
    covers = (element >= 0) & (element - row * stride < fields["x_size"])
    hits = positions[covers]
    return int(hits[-1]) if len(hits) else None


def _writer(artifact: Artifact, launch: int, position: int) -> Writer:
    isa = Isa.of(artifact.target)
    insn: Instruction = isa.decode(artifact.instructions(launch)[position].tobytes())
    return Writer(
        launch, position, disassemble(artifact.target, insn), artifact.origins(launch)[position]
    )
