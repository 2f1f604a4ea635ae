"""Trains `fashion_resnet.onnx`: a ResNet with one block of 16, 32 and 64 channels, on one core.

    python -m vtaflow.models.train_fashion_resnet FOLDER

Needs PyTorch (any recent version; nothing else in vtaflow does). The export is our own, and
leaves BatchNormalization unfolded, as training frameworks do. Torch promises the same numbers
for the same seed on one machine and version only; elsewhere the accuracy is what repeats.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto

from .fashion_mnist import HERE, MEAN, STD, FashionMnist, read_fashion_mnist, script_arguments
from .onnx_writer import OnnxWriter, write_model

Tensor = Any  # torch is a development dependency, absent where mypy runs
Weights = dict[str, Tensor]

EPOCHS = 8
BATCH = 128
PEAK_RATE = 0.2
WEIGHT_DECAY = 5e-4
STAGES = ((16, 1), (32, 2), (64, 2))  # channels and stride of each residual block
CLASSES = 10


class Layers(Protocol):
    """What a residual network is made of: PyTorch computes it, the writer writes it."""

    def conv_norm(self, name: str, x: Any, stride: int) -> Any: ...
    def relu(self, x: Any) -> Any: ...
    def add(self, x: Any, y: Any) -> Any: ...
    def classify(self, name: str, x: Any) -> Any: ...


def resnet(layers: Layers, x: Any) -> Any:
    """The topology, once for training and export."""
    x = layers.relu(layers.conv_norm("stem", x, 1))
    for index, (_, stride) in enumerate(STAGES):
        y = layers.relu(layers.conv_norm(f"block{index}.first", x, stride))
        y = layers.conv_norm(f"block{index}.second", y, 1)
        if stride != 1:
            x = layers.conv_norm(f"block{index}.shortcut", x, stride)
        x = layers.relu(layers.add(y, x))
    return layers.classify("classifier", x)


def initial_weights() -> tuple[Weights, Weights]:
    """He-initialised parameters, and the running statistics of the normalisations."""
    shapes = {"stem": (STAGES[0][0], 1, 3, 3)}
    before = STAGES[0][0]
    for index, (channels, stride) in enumerate(STAGES):
        shapes[f"block{index}.first"] = (channels, before, 3, 3)
        shapes[f"block{index}.second"] = (channels, channels, 3, 3)
        if stride != 1:
            shapes[f"block{index}.shortcut"] = (channels, before, 1, 1)
        before = channels
    parameters, statistics = {}, {}
    for name, shape in shapes.items():
        deviation = (2.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
        parameters[f"{name}.weight"] = torch.randn(shape) * deviation
        parameters[f"{name}.gamma"] = torch.ones(shape[0])
        parameters[f"{name}.beta"] = torch.zeros(shape[0])
        statistics[f"{name}.mean"] = torch.zeros(shape[0])
        statistics[f"{name}.variance"] = torch.ones(shape[0])
    parameters["classifier.weight"] = torch.randn(CLASSES, before) * before**-0.5
    parameters["classifier.bias"] = torch.zeros(CLASSES)
    return {name: p.requires_grad_() for name, p in parameters.items()}, statistics


class TorchLayers:
    """Computes the network; while `training` it also updates the running statistics."""

    def __init__(self, parameters: Weights, statistics: Weights, training: bool) -> None:
        self.p = parameters
        self.s = statistics
        self.training = training

    def conv_norm(self, name: str, x: Tensor, stride: int) -> Tensor:
        weight = self.p[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(
            x,
            self.s[f"{name}.mean"],
            self.s[f"{name}.variance"],
            self.p[f"{name}.gamma"],
            self.p[f"{name}.beta"],
            self.training,
        )

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def classify(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self.p[f"{name}.weight"], self.p[f"{name}.bias"])


class OnnxLayers:
    """Writes the network with the trained arrays."""

    def __init__(self, writer: OnnxWriter, arrays: dict[str, Any]) -> None:
        self.writer = writer
        self.a = arrays

    def conv_norm(self, name: str, x: str, stride: int) -> str:
        x = self.writer.conv(x, self.a[f"{name}.weight"], stride=stride)
        parts = [self.a[f"{name}.{part}"] for part in ("gamma", "beta", "mean", "variance")]
        return self.writer.node("BatchNormalization", x, constants=parts)

    def relu(self, x: str) -> str:
        return self.writer.node("Relu", x)

    def add(self, x: str, y: str) -> str:
        return self.writer.node("Add", x, y)

    def classify(self, name: str, x: str) -> str:
        x = self.writer.node("Flatten", self.writer.node("GlobalAveragePool", x))
        return self.writer.gemm(x, self.a[f"{name}.weight"], self.a[f"{name}.bias"])


def normalised(images: Any) -> Tensor:
    """uint8[n, 28, 28] to the network's input float32[n, 1, 28, 28]."""
    return ((torch.from_numpy(images.astype(np.float32)) / 255 - MEAN) / STD)[:, None]


def augmented(x: Tensor, generator: Any) -> Tensor:
    """Mirror half of the pictures and shift each by up to two pixels, with a black border."""
    count = len(x)
    flip = torch.rand(count, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded = F.pad(x, (2, 2, 2, 2), value=-MEAN / STD)
    dy, dx = torch.randint(0, 5, (2, count, 1, 1), generator=generator)
    rows = dy + torch.arange(28)[:, None]
    columns = dx + torch.arange(28)
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def accuracy(parameters: Weights, statistics: Weights, data: FashionMnist) -> float:
    """The fraction of the 10,000 test pictures that is classified rightly."""
    layers = TorchLayers(parameters, statistics, training=False)
    right = 0
    with torch.no_grad():
        for start in range(0, len(data.test_images), 1000):
            logits = resnet(layers, normalised(data.test_images[start : start + 1000]))
            right += int((logits.argmax(1).numpy() == data.test_labels[start : start + 1000]).sum())
    return right / len(data.test_images)


def train(data: FashionMnist) -> tuple[Weights, Weights]:
    """Nesterov SGD with a one-cycle rate; prints a line an epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    parameters, statistics = initial_weights()
    images = normalised(data.train_images)
    labels = torch.from_numpy(data.train_labels.astype(np.int64))
    layers = TorchLayers(parameters, statistics, training=True)
    steps = -(-len(images) // BATCH)
    optimiser = torch.optim.SGD(
        parameters.values(), PEAK_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, EPOCHS * steps)
    for epoch in range(EPOCHS):
        start, total = time.monotonic(), 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            x = augmented(images[chosen], generator).to(memory_format=torch.channels_last)
            logits = resnet(layers, x)
            loss = F.cross_entropy(logits, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            total += float(loss.detach()) * len(chosen)
        print(
            f"epoch {epoch}: loss {total / len(images):.4f}, "
            f"test accuracy {accuracy(parameters, statistics, data):.4f}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
    return parameters, statistics


def exported(parameters: Weights, statistics: Weights, test_accuracy: float) -> ModelProto:
    """The trained network as ONNX, input `image` float32[N, 1, 28, 28], output `logits`."""
    arrays = {name: t.detach().numpy() for name, t in (parameters | statistics).items()}
    writer = OnnxWriter("fashion_resnet", "image", (1, 28, 28))
    last = resnet(OnnxLayers(writer, arrays), "image")
    doc = f"Fashion-MNIST, {test_accuracy:.2%} of the 10,000 test pictures"
    return writer.finish(last, "logits", CLASSES, doc)


def main() -> None:
    """Train, measure on the full test set, write."""
    arguments = script_arguments("Train fashion_resnet.onnx.", HERE / "fashion_resnet.onnx")
    data = read_fashion_mnist(arguments.folder)
    parameters, statistics = train(data)
    final = accuracy(parameters, statistics, data)
    write_model(exported(parameters, statistics, final), arguments.output)
    print(f"{arguments.output}: {final:.4f} on {len(data.test_images)} test pictures")


if __name__ == "__main__":
    main()
