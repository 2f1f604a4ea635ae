"""The reference on the CPU: onnxruntime where it is installed, else onnx's own evaluator."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import ModelError

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """A model ready to run: `run(feeds)` gives every output by name.

    `arithmetic` is "float32", or "quantised" if the model came with its own integers.
    """

    name: str
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    arithmetic: str = "float32"


def cpu_reference(path: str | os.PathLike[str]) -> Reference:
    """The preferred CPU reference of the ONNX file at `path`, for any number of samples.

    Samples are cut to the model's batch where that is fixed; the last piece is filled up with
    zeros. Raises ModelError if no runtime takes the model.
    """
    try:
        reference = _onnxruntime(os.fspath(path))
    except ImportError:
        reference = _evaluator(os.fspath(path))
    graph = onnx.load(os.fspath(path), load_external_data=False).graph
    if any("QuantizeLinear" in node.op_type or "QLinear" in node.op_type for node in graph.node):
        reference = replace(reference, arithmetic="quantised")
    batch = _fixed_batch(graph)
    if batch is None:
        return reference
    return replace(reference, run=lambda feeds: _piecewise(reference.run, feeds, batch))


def _fixed_batch(graph: onnx.GraphProto) -> int | None:
    """The size of axis 0 of the model's first input, None where it is open."""
    constants = {tensor.name for tensor in graph.initializer}
    first = next(value for value in graph.input if value.name not in constants)
    axis = first.type.tensor_type.shape.dim[0]
    return int(axis.dim_value) if axis.HasField("dim_value") else None


def _onnxruntime(path: str) -> Reference:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told by the error
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(path, [f"onnxruntime refuses the model: {_first_line(error)}"]) from None
    names = [output.name for output in session.get_outputs()]

    return _reference("onnxruntime", path, names, session.run)


def _evaluator(path: str) -> Reference:
    from onnx.reference import ReferenceEvaluator

    try:
        session = ReferenceEvaluator(path)
    except Exception as error:
        raise ModelError(path, [f"onnx cannot evaluate the model: {_first_line(error)}"]) from None
    return _reference("onnx ReferenceEvaluator", path, list(session.output_names), session.run)


def _reference(
    name: str, path: str, names: list[str], evaluate: Callable[..., Any]
) -> Reference:
    """`evaluate(names, feeds)` as a reference; what it cannot run is a ModelError."""

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = evaluate(names, dict(feeds))
        except Exception as error:
            raise ModelError(path, [f"{name} cannot run the model: {_first_line(error)}"]) from None
        return dict(zip(names, values, strict=True))

    return Reference(name, run)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _piecewise(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    feeds: Mapping[str, Array],
    batch: int,
) -> dict[str, Array]:
    """Run pieces of exactly `batch` samples and join the results."""
    total = len(next(iter(feeds.values())))
    pieces: list[dict[str, Array]] = []
    for start in range(0, total, batch):
        piece = {name: array[start : start + batch] for name, array in feeds.items()}
        count = min(batch, total - start)
        if count < batch:
            piece = {
                name: np.concatenate([one, np.zeros((batch - count, *one.shape[1:]), one.dtype)])
                for name, one in piece.items()
            }
        pieces.append({name: one[:count] for name, one in run(piece).items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
