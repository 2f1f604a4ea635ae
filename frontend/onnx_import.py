"""ONNX file -> Graph. Everything that is wrong with a model is collected and reported at once."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import ModelError
from ..graph.graph import Graph
from ..graph.known import constants_known
from ..ops.types import Array, type_of
from .model_inputs import ModelInputs, model_inputs
from .structure import is_text, naming_problems, node_names, order
from .tensors import LARGEST, size_in_bytes, to_array, value_shape
from .walk import Walk

OLDEST_OPSET = 7


def import_onnx(path: str | os.PathLike[str], batch: int = 1) -> Graph:
    """The model in the file `path` as a graph of ONNX's own operators, for `batch` images.

    A batch dimension without a size, or of size 1, becomes `batch`. Raises ModelError, whose
    problems list everything that is wrong: the file, unsupported operators (with the node, the
    reason, and whether the host could run it), dynamic dimensions, bad tensors, contradictions.
    """
    source = Path(path)
    return import_model(_read(source), batch, str(source), source.stem, source.parent)


def import_model(
    model: onnx.ModelProto,
    batch: int = 1,
    source: str = "model",
    name: str = "model",
    folder: Path | None = None,
) -> Graph:
    """As import_onnx, from a model in memory.

    `source` stands before the problems, `name` becomes the graph's, `folder` holds the files of
    external data.
    """
    if batch < 1:
        raise ModelError(source, [f"batch is {batch}, has to be at least 1"])
    if not is_text(model):
        raise ModelError(source, ["is no ONNX model, or a damaged one: a name is no UTF-8 text"])
    opset, problems = _opset(model)
    problems += naming_problems(model.graph)
    constants, bad = _initialisers(model.graph, folder)
    inputs = model_inputs(model.graph, {*constants, *bad}, batch)
    walk = _walk(model.graph, opset, folder, constants, inputs, set(bad))
    problems += [*bad.values(), *inputs.problems, *walk.problems]
    problems += _output_problems(model.graph, walk)
    problems += _contradictions(model.graph, walk, inputs)
    if problems:
        raise ModelError(source, problems)
    outputs = [info.name for info in model.graph.output]
    graph = Graph.build(name, inputs.types, outputs, walk.nodes, walk.constants)
    return graph if batch == inputs.batch else _rebatched(graph, batch, source)


def _read(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(str(path), ["is not a file"])
        if size > LARGEST:
            raise ModelError(
                str(path), [f"has {size} bytes, {LARGEST} are the limit; keep weights outside"]
            )
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(str(path), [f"cannot be read: {error.strerror}"]) from None
    if not data:
        raise ModelError(str(path), ["the file is empty"])
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelError(str(path), ["is no ONNX model, or a truncated one"]) from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(str(path), ["is no ONNX model, or a truncated one: no graph or no opset"])
    return model


def _opset(model: onnx.ModelProto) -> tuple[int, list[str]]:
    """Version of ONNX's own operators; what cannot be read is read as the newest."""
    newest = onnx.defs.onnx_opset_version()
    versions = {each.version for each in model.opset_import if each.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        return newest, [f"imports {len(versions)} versions of the ONNX operator set, not one"]
    (version,) = versions
    if not OLDEST_OPSET <= version <= newest:
        return newest, [
            f"uses opset {version}; {OLDEST_OPSET} to {newest} are supported with this onnx "
            "package (convert the model with onnx.version_converter)"
        ]
    return version, []


def _initialisers(
    proto: onnx.GraphProto, folder: Path | None
) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays by name, and problems by the name of the tensor that has them."""
    arrays: dict[str, Array] = {}
    problems = {
        sparse.values.name: f"initialiser {sparse.values.name!r} is sparse, which is not supported"
        for sparse in proto.sparse_initializer
    }
    for tensor in proto.initializer:
        try:
            arrays[tensor.name] = to_array(tensor, folder)
        except ValueError as error:
            problems[tensor.name] = f"initialiser {tensor.name!r} {error}"
    return arrays, problems


def _walk(
    proto: onnx.GraphProto,
    opset: int,
    folder: Path | None,
    constants: dict[str, Array],
    inputs: ModelInputs,
    broken: set[str],
) -> Walk:
    """Visit all nodes; a value that cannot be had is broken, so that it is reported once."""
    names = node_names(proto.node)
    given = {*constants, *broken, *(info.name for info in proto.input)}
    indices, problems = order(proto.node, names, given)
    read = {value for node in proto.node for value in node.input}
    made = {value for index in indices for value in proto.node[index].output}
    walk = Walk(
        opset=opset,
        folder=folder,
        used=read | {info.name for info in proto.output},
        constants=constants,
        types={**inputs.types, **{name: type_of(array) for name, array in constants.items()}},
        batched=set(inputs.types),
        broken=(read | given) - made - set(inputs.types) - set(constants) - {""},
        known=constants_known(constants),
        taken={*read, *given, *names, *(value for node in proto.node for value in node.output)},
        problems=problems,
    )
    for index in indices:
        walk.visit(proto.node[index], names[index])
    return walk


def _output_problems(proto: onnx.GraphProto, walk: Walk) -> list[str]:
    problems = [] if proto.output else ["the model has no outputs"]
    lost = walk.broken | {value for node in proto.node for value in node.output}
    for info in proto.output:
        if info.name not in walk.types and info.name not in lost:
            problems.append(f"output {info.name!r} is made by no node")
        elif info.name in walk.types and info.name not in walk.batched:
            problems.append(f"output {info.name!r} has no batch axis: it does not follow the input")
    return problems


def _contradictions(proto: onnx.GraphProto, walk: Walk, inputs: ModelInputs) -> list[str]:
    """Values whose declared type is not the one that the operators give them."""
    problems = []
    for info in (*proto.input, *proto.value_info, *proto.output):
        if info.name not in walk.types or info.name in inputs.types or not info.HasField("type"):
            continue
        kind = walk.types[info.name]
        try:
            dtype, shape = value_shape(info)
        except ValueError as error:
            problems.append(f"value {info.name!r} {error}")
            continue
        free = info.name in walk.batched and not inputs.fixed
        if dtype != kind.dtype or not _agree(shape, kind.shape, free):
            sizes = "" if shape is None else f"[{','.join(map(str, shape))}]"
            problems.append(f"value {info.name!r} is declared {dtype}{sizes} but is {kind}")
    return problems


def _agree(
    declared: tuple[int | str, ...] | None, actual: tuple[int, ...], free_batch: bool
) -> bool:
    """Whether a declared shape allows the `actual` one; a `free_batch` may be declared as 1."""
    if declared is None:
        return True
    pairs = list(zip(declared, actual, strict=False))
    if free_batch and declared[:1] == (1,):
        pairs = pairs[1:]
    return len(declared) == len(actual) and all(
        isinstance(size, str) or size == real for size, real in pairs
    )


def _rebatched(graph: Graph, batch: int, source: str) -> Graph:
    graph = graph.rebatch(batch)
    problems = []
    for name, kind in graph.types.items():
        try:
            size_in_bytes(kind.shape, kind.dtype)
        except ValueError as error:
            problems.append(f"value {name!r} at batch {batch} {error}")
    if problems:
        raise ModelError(source, problems)
    return graph
