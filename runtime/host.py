"""The host side of an artifact: its steps with the type of every value, and their evaluation.

`typed_steps` infers all types with the operators' own rules before anything runs, so that an
artifact whose steps do not fit together is refused when it is loaded. Values of K compiled
batches are arrays `[K, *storage shape]`. A step that treats rows alike is evaluated once for all
K, any other step once for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backend.artifact import Artifact
from ..backend.manifest import MAX_TENSOR_BYTES, tensor_bytes
from ..errors import ArtifactError
from ..ops import operator
from ..ops.layout import PLAIN
from ..ops.types import Array, Operator, TensorType, type_of
from .attributes import decode_attrs, layout_from_json

ABSENT = TensorType((), "absent")
ABSENT_ARRAY = np.empty(0)
PACKING = ("Pack", "Unpack")
"""Operators whose attributes hold the shape that they were made for."""


@dataclass(frozen=True)
class HostStep:
    """One operator application; `kinds` are the types of its outputs.

    `stacks` says whether K batches can be evaluated as one of K times the size.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    kinds: tuple[TensorType, ...]
    stacks: bool


@dataclass(frozen=True)
class LaunchStep:
    """One launch: the values that the host hands over, and those that it takes back."""

    index: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """All steps of an artifact in order, the type of every value, the constants."""

    steps: tuple[HostStep | LaunchStep, ...]
    types: Mapping[str, TensorType]
    constants: Mapping[str, Array]


def typed_steps(artifact: Artifact) -> Steps:
    """Read the steps of an artifact; raises ArtifactError if they do not fit together."""
    manifest, where = artifact.manifest, artifact.source
    constants = artifact.host_constants()
    types = {name: type_of(array) for name, array in constants.items()}
    for tensor in manifest["inputs"]:
        types[tensor["name"]] = _declared_type(tensor)
    steps: list[HostStep | LaunchStep] = []
    for index, entry in enumerate(manifest["steps"]):
        place = f"{where}: step {index}"
        if entry["kind"] == "host":
            steps.append(_host_step(entry, types, constants.keys(), place))
        else:
            steps.append(_launch_step(entry, artifact, types, place))
    for tensor in manifest["outputs"]:
        found, declared = types[tensor["name"]], _declared_type(tensor)
        if (found.shape, found.dtype, found.layout) != (declared.shape, declared.dtype, PLAIN):
            raise ArtifactError(f"{where}: output {tensor['name']!r} is {found}, not {declared}")
    return Steps(tuple(steps), types, constants)


def region_type(artifact: Artifact, name: str, where: str) -> TensorType:
    """The tensor in a region; raises ArtifactError if layout and shapes disagree."""
    region = artifact.regions[name]
    if region.logical_shape is None or region.shape is None or region.dtype is None:
        raise ArtifactError(f"{where}: the region {name!r} holds no tensor")
    layout = PLAIN if region.layout is None else layout_from_json(region.layout, where)
    kind = TensorType(region.logical_shape, region.dtype, layout, region.scale)
    if layout.packed and len(kind.shape) != len(layout.order):
        raise ArtifactError(f"{where}: layout {layout} does not fit the region {name!r}")
    if kind.storage_shape != region.shape:
        raise ArtifactError(f"{where}: {kind} is not stored as the region {name!r} is")
    return kind


def evaluate(
    step: HostStep, values: Mapping[str, Array], constants: Mapping[str, Array]
) -> list[Array]:
    """Outputs of a host step, `[K, ...]` each; raises ArtifactError if it cannot be evaluated."""
    batches = next(len(values[name]) for name in step.inputs if name in values)
    try:
        if step.stacks:
            outputs = _all_at_once(step, values, constants, batches)
        else:
            rows = [_one_batch(step, values, constants, k) for k in range(batches)]
            outputs = [np.stack(column) for column in zip(*rows, strict=True)]
    except Exception as error:
        # The types fit, so an attribute is at fault, and attributes come with the artifact.
        raise ArtifactError(f"step {step.name!r} ({step.operator.name}): {error}") from error
    for array, kind in zip(outputs, step.kinds, strict=True):
        if array.shape != (batches, *kind.storage_shape) or str(array.dtype) != kind.dtype:
            raise RuntimeError(f"{step.operator.name} made {array.dtype}{array.shape}, not {kind}")
    return outputs


def _all_at_once(
    step: HostStep, values: Mapping[str, Array], constants: Mapping[str, Array], batches: int
) -> list[Array]:
    """One evaluation with the rows of all batches behind one another."""
    operands = [
        values[name].reshape(-1, *values[name].shape[2:]) if name in values
        else constants.get(name, ABSENT_ARRAY)
        for name in step.inputs
    ]
    outputs = step.operator.evaluate(operands, _scaled(step, batches))
    return [array.reshape(batches, -1, *array.shape[1:]) for array in outputs]


def _one_batch(
    step: HostStep, values: Mapping[str, Array], constants: Mapping[str, Array], k: int
) -> Sequence[Array]:
    operands = [
        values[name][k] if name in values else constants.get(name, ABSENT_ARRAY)
        for name in step.inputs
    ]
    return step.operator.evaluate(operands, step.attrs)


def _scaled(step: HostStep, batches: int) -> Mapping[str, Any]:
    """The attributes for `batches` times the batch."""
    if step.operator.name not in PACKING:
        return step.attrs
    batch, *rest = step.attrs["shape"]
    return {**step.attrs, "shape": (batch * batches, *rest)}


def _declared_type(tensor: Mapping[str, Any]) -> TensorType:
    """Type of a model input or output; only integers carry a scale."""
    scale = tensor["quantisation"] and float(tensor["quantisation"]["scale"])
    quantised = np.dtype(tensor["dtype"]).kind in "iu"
    return TensorType(tuple(tensor["shape"]), tensor["dtype"], scale=scale if quantised else None)


def _host_step(
    entry: Mapping[str, Any],
    types: dict[str, TensorType],
    constants: Any,
    where: str,
) -> HostStep:
    """Decode one host step and add the types of its outputs."""
    where = f"{where} ({entry['op']} {entry['name']!r})"
    try:
        meaning = operator(entry["op"])
    except KeyError:
        raise ArtifactError(f"{where}: this version knows no such operator") from None
    attrs = decode_attrs(entry["attrs"], where)
    kinds = [types[name] if name else ABSENT for name in entry["inputs"]]
    least, most = meaning.inputs
    if not least <= len(kinds) <= most:
        raise ArtifactError(f"{where}: {len(kinds)} inputs, takes {least} to {most}")
    if all(name in constants or not name for name in entry["inputs"]):
        raise ArtifactError(f"{where}: it depends on no input")
    outputs = _infer(meaning, kinds, attrs, where)
    if len(outputs) != len(entry["outputs"]):
        raise ArtifactError(f"{where}: {len(entry['outputs'])} outputs, makes {len(outputs)}")
    varying = [name not in constants and bool(name) for name in entry["inputs"]]
    types.update(zip(entry["outputs"], outputs, strict=True))
    return HostStep(
        name=entry["name"],
        operator=meaning,
        inputs=tuple(entry["inputs"]),
        outputs=tuple(entry["outputs"]),
        attrs=attrs,
        kinds=tuple(outputs),
        stacks=_stacks(meaning, kinds, varying, attrs, outputs),
    )


def _infer(
    meaning: Operator, kinds: Sequence[TensorType], attrs: Mapping[str, Any], where: str
) -> list[TensorType]:
    """Output types. Attributes may come from a stranger: whatever a rule trips over is refused."""
    try:
        outputs = list(meaning.infer(kinds, attrs))
        sizes = [tensor_bytes(kind.storage_shape, kind.dtype) for kind in outputs]
    except Exception as error:
        reason = error if isinstance(error, ValueError) else "its attributes are not legal"
        raise ArtifactError(f"{where}: {reason}") from None
    if max(sizes, default=0) > MAX_TENSOR_BYTES or any(not kind.shape for kind in outputs):
        raise ArtifactError(f"{where}: its outputs are too large or have no batch axis")
    return outputs


def _launch_step(
    entry: Mapping[str, Any], artifact: Artifact, types: dict[str, TensorType], where: str
) -> LaunchStep:
    """Check what goes over against the regions and add the types of what comes back."""
    for name in entry["inputs"]:
        held, region = types[name], region_type(artifact, name, where)
        if (held.storage_shape, held.dtype) != (region.storage_shape, region.dtype):
            raise ArtifactError(f"{where}: {held} is put into {region}, region {name!r}")
    for name in entry["outputs"]:
        types[name] = region_type(artifact, name, where)
    return LaunchStep(entry["index"], tuple(entry["inputs"]), tuple(entry["outputs"]))


def _stacks(
    meaning: Operator,
    kinds: Sequence[TensorType],
    varying: Sequence[bool],
    attrs: Mapping[str, Any],
    outputs: Sequence[TensorType],
) -> bool:
    """Whether twice the batch on axis 0 of the inputs means exactly that for the outputs.

    When in doubt it does not: then batches are evaluated one by one.
    """
    if meaning.name in PACKING:
        layout = attrs["layout"]
        return bool(layout.order.startswith("N") and kinds[0].shape[0] % layout.batch == 0)
    ranks = {len(kind.shape) for kind, moves in zip(kinds, varying, strict=True) if moves}
    named = [attrs.get("axis"), *(attrs["axes"] if isinstance(attrs.get("axes"), tuple) else ())]
    if len(ranks) > 1 or any(axis in (0, -max(ranks)) for axis in named):
        return False
    twice = [_twice(kind) if moves else kind for kind, moves in zip(kinds, varying, strict=True)]
    try:
        return list(meaning.infer(twice, attrs)) == [_twice(kind) for kind in outputs]
    except ValueError:
        return False


def _twice(kind: TensorType) -> TensorType:
    return replace(kind, shape=(2 * kind.shape[0], *kind.shape[1:]))
