"""The model's inputs as it declares them, and which batch size it is to be imported at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from ..ops.types import TensorType
from .tensors import size_in_bytes, value_shape

Declaration = tuple[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class ModelInputs:
    """Types of the inputs at batch size `batch`; inputs with a problem have no type.

    `fixed` says whether the model declares that batch size itself. One that fixes it at 1 is
    imported at 1 and rebatched later.
    """

    types: dict[str, TensorType]
    batch: int
    fixed: bool
    problems: list[str]


def model_inputs(proto: onnx.GraphProto, constants: Collection[str], batch: int) -> ModelInputs:
    """Read the inputs of `proto`, without those that are `constants` (initialisers)."""
    problems: list[str] = []
    found: dict[str, Declaration] = {}
    infos = [info for info in proto.input if info.name not in constants]
    if not infos:
        problems.append("the model has no inputs")
    for info in infos:
        try:
            found[info.name] = _declaration(info)
        except ValueError as error:
            problems.append(f"input {info.name!r} {error}")
    sizes = {name: shape[0] for name, (_, shape) in found.items() if isinstance(shape[0], int)}
    misfits = _misfits(sizes, batch)
    problems += misfits.values()
    built = 1 if set(sizes.values()) == {1} else batch
    types: dict[str, TensorType] = {}
    for name, (dtype, shape) in found.items():
        if name in misfits:
            continue
        whole = (built, *(size for size in shape[1:] if isinstance(size, int)))
        try:
            size_in_bytes(whole, dtype)
        except ValueError as error:
            problems.append(f"input {name!r} {error}")
        else:
            types[name] = TensorType(whole, dtype)
    return ModelInputs(types, built, bool(sizes), problems)


def _declaration(info: onnx.ValueInfoProto) -> Declaration:
    """dtype and shape of an input whose only unknown size, if any, is the batch."""
    dtype, shape = value_shape(info)
    if shape is None:
        raise ValueError("declares no shape")
    if not shape:
        raise ValueError("is a scalar; axis 0 has to be the batch")
    if 0 in shape:
        raise ValueError(f"has a size of 0 on axis {shape.index(0)}")
    for axis, size in enumerate(shape[1:], start=1):
        if isinstance(size, str):
            raise ValueError(
                f"has no fixed size on axis {axis} ({size}); only axis 0, the batch, may be "
                "dynamic: export the model with a fixed size there"
            )
    return dtype, shape


def _misfits(sizes: dict[str, int], batch: int) -> dict[str, str]:
    """Problems by input whose declared batch is neither `batch` nor 1, or 1 for some alone."""
    if set(sizes.values()) == {1, batch}:
        return {
            name: f"input {name!r} has a batch (axis 0) of 1, where others have {batch}"
            for name, size in sizes.items()
            if size == 1 != batch
        }
    return {
        name: f"input {name!r} has a fixed batch of {size}, not {batch}: compile for batch {size}, "
        "or export the model with a dynamic batch"
        for name, size in sizes.items()
        if size not in (1, batch)
    }
