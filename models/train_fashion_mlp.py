"""Trains `fashion_mlp.onnx` and `fashion_mlp_odd.onnx` with NumPy alone.

    python -m vtaflow.models.train_fashion_mlp FOLDER

The odd one is deeper, and none of its widths is a multiple of a block of VTA. Backpropagation
through Dense and ReLU is four lines, so no framework is needed. The seed fixes the result on one
machine; another BLAS rounds differently, and the accuracy is what repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from .fashion_mnist import HERE, FashionMnist, read_fashion_mnist, script_arguments
from .mlp import Layer, gemm_mlp, initial_layers, picture_mlp
from .onnx_writer import Floats, write_model

EPOCHS = 15
BATCH = 128
RATE = 1e-3
WEIGHT_DECAY = 1e-2

NETWORKS: tuple[tuple[str, tuple[int, ...], Callable[[str, Sequence[Layer], str], ModelProto]], ...]
NETWORKS = (
    ("fashion_mlp", (784, 256, 128, 10), gemm_mlp),
    ("fashion_mlp_odd", (784, 203, 151, 99, 67, 45, 10), picture_mlp),
)


def scaled(images: NDArray[np.uint8]) -> Floats:
    """uint8[n, 28, 28] to the networks' input float32[n, 784], 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def forward(layers: Sequence[Layer], x: Floats) -> list[Floats]:
    """The input of every layer, then the logits."""
    values = [x]
    for index, (weight, bias) in enumerate(layers):
        x = values[-1] @ weight.T + bias
        values.append(np.maximum(x, 0) if index < len(layers) - 1 else x)
    return values


def gradients(layers: Sequence[Layer], x: Floats, labels: NDArray[np.uint8]) -> list[Floats]:
    """Gradients of the mean cross entropy: weight and bias of each layer in turn."""
    values = forward(layers, x)
    logits = values[-1] - values[-1].max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    delta = exponentials / exponentials.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= np.float32(len(labels))
    found: list[Floats] = []
    for (weight, _), value in zip(reversed(layers), reversed(values[:-1]), strict=True):
        found = [delta.T @ value, delta.sum(axis=0), *found]
        delta = (delta @ weight) * (value > 0)
    return found


def train(sizes: Sequence[int], data: FashionMnist) -> list[Layer]:
    """Adam with decoupled weight decay and a cosine rate; mirrors half of the pictures."""
    stream = np.random.RandomState(1)
    layers = initial_layers(sizes, seed=0)
    parameters = [array for layer in layers for array in layer]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps = len(data.train_images) // BATCH
    for step in range(EPOCHS * steps):
        if step % steps == 0:
            order = stream.permutation(len(data.train_images))
        chosen = order[step % steps * BATCH :][:BATCH]
        images = data.train_images[chosen].copy()
        images[::2] = images[::2, :, ::-1]
        found = gradients(layers, scaled(images), data.train_labels[chosen])
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * steps)))
        correction = np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        for p, g, m, v in zip(parameters, found, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            if p.ndim == 2:
                p *= np.float32(1 - rate * WEIGHT_DECAY)
            p -= np.float32(rate * correction) * m / (np.sqrt(v) + np.float32(1e-8))
    return layers


def accuracy(layers: Sequence[Layer], data: FashionMnist) -> float:
    """The fraction of the 10,000 test pictures that is classified rightly."""
    logits = forward(layers, scaled(data.test_images))[-1]
    return float((logits.argmax(axis=1) == data.test_labels).mean())


def main() -> None:
    """Train both, measure on the full test set, write."""
    arguments = script_arguments("Train fashion_mlp.onnx and fashion_mlp_odd.onnx.", HERE)
    data = read_fashion_mnist(arguments.folder)
    for name, sizes, write in NETWORKS:
        layers = train(sizes, data)
        final = accuracy(layers, data)
        path = arguments.output / f"{name}.onnx"
        doc = f"Fashion-MNIST, {final:.2%} of the 10,000 test pictures"
        write_model(write(name, layers, doc), path)
        print(f"{path}: {final:.4f} on {len(data.test_images)} test pictures", flush=True)


if __name__ == "__main__":
    main()
