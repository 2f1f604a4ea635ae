"""A small convolutional model, compiled once, for the tests of profiles."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

import vtaflow
from vtaflow.compiler import CompiledModel
from vtaflow.ops.types import Array

from .onnx_models import build, node

CHANNELS = 16


def model() -> onnx.ModelProto:
    """Two convolutions with a residual addition, global pooling, a classifier and a Softmax."""
    random = np.random.default_rng(5)

    def weights(*shape: int) -> Array:
        scaled = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return np.asarray(scaled, np.float32)

    constants = {
        "w0": weights(CHANNELS, 3, 3, 3),
        "w1": weights(CHANNELS, CHANNELS, 3, 3),
        "w2": weights(10, CHANNELS),
        "b2": weights(10, 1)[:, 0],
    }
    nodes = [
        node("Conv", "x w0", "a", name="first", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b", name="rectify"),
        node("Conv", "b w1", "c", name="second", pads=[1, 1, 1, 1]),
        node("Add", "c b", "d", name="add"),
        node("GlobalAveragePool", "d", "e", name="pool"),
        node("Flatten", "e", "f", name="flat"),
        node("Gemm", "f w2 b2", "g", name="classify", transB=1),
        node("Softmax", "g", "y", name="<b>chances</b>", axis=1),
    ]
    return build(nodes, constants, {"x": ("N", 3, 12, 12)}, {"y": ("N", 10)})


def samples(count: int) -> Array:
    """Inputs of the model."""
    return np.random.default_rng(6).standard_normal((count, 3, 12, 12)).astype(np.float32)


@cache
def compiled() -> CompiledModel:
    """The model compiled for pynq. Nobody changes it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        onnx.save(model(), path)
        return vtaflow.compile(path, "pynq", {"x": samples(16)})
