"""What onnxruntime and onnx's own evaluator say about a model, and comparing with it.

Float results are compared within 1e-5 of the largest magnitude: both sides sum at most a few
hundred float32 products of numbers near 1, in an order of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from vtaflow.frontend.onnx_import import import_model
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.simplify import simplify
from vtaflow.ops.types import Array


def onnxruntime_says(
    model: onnx.ModelProto, feeds: dict[str, Array], literally: bool = False
) -> list[Array]:
    """`literally` keeps it from replacing nodes by others that round differently."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if literally:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return list(session.run(None, feeds))


def onnx_says(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, feeds))


def close(result: Array, expected: Array) -> None:
    """Same shape and dtype; floats within 1e-5 of the largest magnitude, others equal."""
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    if result.dtype.kind != "f":
        assert np.array_equal(result, expected)
        return
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)


def check(
    model: onnx.ModelProto,
    feeds: dict[str, Array],
    oracles: Sequence[Callable[..., list[Array]]] = (onnxruntime_says, onnx_says),
) -> None:
    """Imported and simplified graphs agree with each oracle; a bigger batch does row by row."""
    batch = next(iter(feeds.values())).shape[0]
    graph = import_model(model, batch)
    simple = simplify(graph)
    imported = interpret(graph, feeds)
    simplified = interpret(simple, feeds)
    names = [info.name for info in model.graph.output]
    assert list(imported) == list(graph.outputs) == list(simple.outputs) == names
    for oracle in oracles:
        for name, expected in zip(names, oracle(model, feeds), strict=True):
            close(imported[name], expected)
            close(simplified[name], expected)
    twice = {name: np.concatenate([array, -array]) for name, array in feeds.items()}
    opposite = interpret(simple, {name: -array for name, array in feeds.items()})
    both = interpret(simple.rebatch(2 * batch), twice)
    for name in names:
        close(both[name], np.concatenate([simplified[name], opposite[name]]))
