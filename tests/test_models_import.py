"""Whole trained models: imported and simplified they agree with onnxruntime.

Bound: 1e-5 of the largest magnitude of an output, whose sums are fifty layers deep. Models that do
not ship are used where the environment variable VTAFLOW_MODELS names their folder.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from vtaflow.frontend.onnx_import import import_onnx
from vtaflow.frontend.quantised import unquantised
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.simplify import simplify

from .oracles import close, onnxruntime_says
from .shared_models import model_path, sample

FLOAT = {
    # file: the operators that are left
    "ad_autoencoder_mlperftiny": {"Dense": 10},
    "efficientnet_lite0_imagenet": {
        "FusedConv": 49, "GlobalAveragePool": 1, "Flatten": 1, "Dense": 1,
    },
    "kws_dscnn_mlperftiny": {
        "FusedConv": 9, "GlobalAveragePool": 1, "Flatten": 1, "Dense": 1, "Softmax": 1,
    },
    "mnist_cntk": {"FusedConv": 2, "MaxPool": 2, "Flatten": 1, "Dense": 1},
    "mobilenetv1_0.25_128_imagenet_float": {
        "FusedConv": 28, "GlobalAveragePool": 1, "Flatten": 1, "Softmax": 1,
    },
    "mobilenetv2_1.0_224_imagenet_float": {
        "FusedConv": 53, "GlobalAveragePool": 1, "Flatten": 1, "Softmax": 1,
    },
    "resnet20_cifar10": {"FusedConv": 21, "GlobalAveragePool": 1, "Flatten": 1, "Dense": 1},
    "resnet8_cifar10_mlperftiny": {
        "FusedConv": 9, "GlobalAveragePool": 1, "Flatten": 1, "Dense": 1, "Softmax": 1,
    },
    "squeezenet1.1_imagenet": {
        "FusedConv": 26, "MaxPool": 3, "Concat": 8, "GlobalAveragePool": 1, "Flatten": 1,
        "Softmax": 1,
    },
    "vww_mobilenetv1_0.25_96_mlperftiny": {
        "FusedConv": 27, "GlobalAveragePool": 1, "Flatten": 1, "Dense": 1, "Softmax": 1,
    },
    "yunet_n_320": {
        "FusedConv": 59, "MaxPool": 4, "Resize": 2, "Add": 2, "Transpose": 12, "Reshape": 12,
        "Sigmoid": 6,
    },
}  # fmt: skip
QUANTISED = {
    # file: the float model of the same function or, where that was trained apart, None
    "kws_dscnn_mlperftiny_qdq_s8": None,
    "mobilenetv1_0.25_128_imagenet_qdq_u8": "mobilenetv1_0.25_128_imagenet_float",
    "mobilenetv2_1.0_224_imagenet_qdq_u8": "mobilenetv2_1.0_224_imagenet_float",
    "resnet8_cifar10_mlperftiny_qdq_s8": None,
    "vww_mobilenetv1_0.25_96_mlperftiny_qdq_s8": None,
}


@pytest.mark.parametrize("name", FLOAT)
def test_float_models(name: str) -> None:
    path = model_path(name)
    graph = import_onnx(path)
    simple = simplify(graph)
    kinds = [node.op for node in simple.nodes]
    assert {kind: kinds.count(kind) for kind in kinds} == FLOAT[name]
    (given,) = graph.inputs
    feeds = {given: sample(name, graph.types[given].shape)}
    results = interpret(simple, feeds)
    expected = onnxruntime_says(onnx.load(path), feeds)
    for output, array in zip(graph.outputs, expected, strict=True):
        close(results[output], array)


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_models(name: str) -> None:
    """As it is the model agrees with onnxruntime; its float function with the float model."""
    path = model_path(name)
    graph = import_onnx(path)
    (given,), (output,) = graph.inputs, graph.outputs
    feeds = {given: sample(name, graph.types[given].shape)}
    (expected,) = onnxruntime_says(onnx.load(path), feeds, literally=True)
    error = np.abs(interpret(graph, feeds)[output] - expected)
    assert error.max() < 3.01 / 256 and error.mean() < 0.1 / 256  # steps of the last Softmax
    imported = unquantised(graph, str(path))
    simple = simplify(imported.graph)
    kinds = {node.op for node in simple.nodes}
    assert kinds <= {"FusedConv", "GlobalAveragePool", "Flatten", "Dense", "Softmax"}
    layers = [node for node in simple.nodes if node.op == "FusedConv"]
    assert {given, *(node.outputs[0] for node in layers)} <= set(imported.ranges)
    if QUANTISED[name] is not None:
        twin = import_onnx(model_path(str(QUANTISED[name])))
        close(interpret(simple, feeds)[output], interpret(twin, feeds)[twin.outputs[0]])


@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_mlp_odd", "fashion_resnet"])
def test_shipped_models(name: str) -> None:
    path = model_path(name)
    graph = import_onnx(path, 3)
    simple = simplify(graph)
    assert {node.op for node in simple.nodes} <= {
        "Dense", "FusedConv", "Flatten", "GlobalAveragePool", "Softmax",
    }  # fmt: skip
    (given,) = graph.inputs
    feeds = {given: np.abs(sample(name, graph.types[given].shape))}
    expected = onnxruntime_says(onnx.load(path), feeds)
    close(interpret(simple, feeds)[graph.outputs[0]], expected[0])
