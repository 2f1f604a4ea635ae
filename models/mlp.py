"""Fully connected networks: Dense layers with ReLU between them, trained or random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from .onnx_writer import Floats, OnnxWriter

Layer = tuple[Floats, Floats]
"""The weight float32[O, I] and the bias float32[O] of a fully connected layer."""

SIZES = (784, 256, 128, 10)


def gemm_mlp(name: str, layers: Sequence[Layer], doc: str = "") -> ModelProto:
    """Input `image` float32[N, I], one Gemm a layer, output `logits`."""
    writer = OnnxWriter(name, "image", (layers[0][0].shape[1],))
    x = "image"
    for index, (weight, bias) in enumerate(layers):
        x = writer.gemm(writer.node("Relu", x) if index else x, weight, bias)
    return writer.finish(x, "logits", len(layers[-1][1]), doc)


def picture_mlp(name: str, layers: Sequence[Layer], doc: str = "") -> ModelProto:
    """Input `image` float32[N, 1, H, H], Flatten, MatMul and Add a layer, output `logits`."""
    side = round(layers[0][0].shape[1] ** 0.5)
    writer = OnnxWriter(name, "image", (1, side, side))
    x = writer.node("Flatten", "image")
    for index, (weight, bias) in enumerate(layers):
        x = writer.node("MatMul", writer.node("Relu", x) if index else x, constants=[weight.T])
        x = writer.node("Add", x, constants=[bias])
    return writer.finish(x, "logits", len(layers[-1][1]), doc)


def initial_layers(sizes: Sequence[int], seed: int) -> list[Layer]:
    """He-initialised layers for ReLU; the same for every NumPy (its frozen legacy stream)."""
    stream = np.random.RandomState(seed)
    layers = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        weight = stream.standard_normal((after, before)) * (2.0 / before) ** 0.5
        layers.append((weight.astype(np.float32), np.zeros(after, np.float32)))
    return layers


def mlp(seed: int = 0) -> ModelProto:
    """784-256-128-10 with random weights."""
    return gemm_mlp("mlp", initial_layers(SIZES, seed))
