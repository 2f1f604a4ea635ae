"""Layers with seeded random weights and the batch statistics that belong to them.

A signal carries the mean and the variance of each channel, predicted as if its values were
independent and normal. Each normalisation takes the prediction for its running statistics, so
activations stay O(1) and differ from picture to picture at any depth, without a forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from .onnx_writer import Floats, OnnxWriter

Moments = NDArray[np.float64]

RELU6 = 6.0

MEAN_SHARE = 0.15
"""How much of a squared mean is counted as variance: the prediction of a mean is off by a part
of it, and without this allowance the errors of fifty layers multiply. More of it, and all
pictures end in the same logits."""


@dataclass(frozen=True)
class Signal:
    """A value of the model: its name, and float64[C] mean and variance of its channels."""

    name: str
    mean: Moments
    variance: Moments

    @property
    def spread(self) -> Moments:
        """The variance, and the allowance for the error of the mean."""
        return self.variance + MEAN_SHARE * self.mean**2


class RandomNet:
    """Writes one classifier of pictures: input `data` float32[N, 3, size, size], standardised."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self.writer = OnnxWriter(name, "data", (3, size, size))
        # The legacy generator's stream is frozen: the same weights with every NumPy.
        self.stream = np.random.RandomState(seed)
        self.input = Signal("data", np.zeros(3), np.ones(3))

    def conv(
        self,
        x: Signal,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        gain: float = 1.0,
    ) -> Signal:
        """Conv and BatchNormalization, whose output has a standard deviation of about `gain`."""
        weight, mean, variance = self._filters(x, channels, kernel, depthwise)
        group = channels if depthwise else 1
        name = self.writer.conv(x.name, weight, stride=stride, group=group)
        gamma = gain * self.stream.uniform(0.8, 1.2, channels)
        beta = self.stream.uniform(-0.2, 0.2, channels)
        parts = [part.astype(np.float32) for part in (gamma, beta, mean, variance)]
        return Signal(self.writer.node("BatchNormalization", name, constants=parts), beta, gamma**2)

    def biased_conv(self, x: Signal, channels: int, kernel: int) -> Signal:
        """Conv with a bias and no BatchNormalization: the statistics are folded into it."""
        weight, mean, variance = self._filters(x, channels, kernel, depthwise=False)
        weight /= np.sqrt(variance).astype(np.float32)[:, None, None, None]
        bias = (-mean / np.sqrt(variance)).astype(np.float32)
        name = self.writer.conv(x.name, weight, bias)
        return Signal(name, np.zeros(channels), np.ones(channels))

    def relu(self, x: Signal) -> Signal:
        """max(x, 0), with the moments of a rectified normal distribution."""
        return self._rectified(self.writer.node("Relu", x.name), x)

    def relu6(self, x: Signal) -> Signal:
        """clip(x, 0, 6); six standard deviations are taken for infinity."""
        limits = [np.float32(0), np.float32(RELU6)]
        return self._rectified(self.writer.node("Clip", x.name, constants=limits), x)

    def add(self, x: Signal, y: Signal) -> Signal:
        """The sum of two signals of equal shape."""
        name = self.writer.node("Add", x.name, y.name)
        return Signal(name, x.mean + y.mean, x.variance + y.variance)

    def max_pool(self, x: Signal, kernel: int, stride: int) -> Signal:
        """MaxPool; a maximum lies about one deviation higher and varies a little less."""
        pad = (kernel - 1) // 2
        shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
        name = self.writer.node("MaxPool", x.name, pads=[pad] * 4, **shape)
        return Signal(name, x.mean + np.sqrt(x.variance), 0.7 * x.variance)

    def global_average(self, x: Signal) -> Signal:
        """GlobalAveragePool and Flatten; neighbours agree enough to leave some variance."""
        name = self.writer.node("Flatten", self.writer.node("GlobalAveragePool", x.name))
        return Signal(name, x.mean, 0.1 * x.variance)

    def flatten(self, x: Signal, positions: int) -> Signal:
        """Flatten of a picture with `positions` pixels."""
        name = self.writer.node("Flatten", x.name)
        return Signal(name, x.mean.repeat(positions), x.variance.repeat(positions))

    def dense(self, x: Signal, features: int) -> Signal:
        """Gemm whose bias takes the mean away and whose weights give a variance of one."""
        weight = self._normal(features, len(x.mean))
        # einsum converts in small pieces: a float64 copy of VGG's largest layer has 800 MB.
        deviation = np.sqrt(np.einsum("oi,oi,i->o", weight, weight, x.spread))
        weight /= deviation.astype(np.float32)[:, None]
        bias = -np.einsum("oi,i->o", weight, x.mean).astype(np.float32)
        name = self.writer.gemm(x.name, weight, bias)
        return Signal(name, np.zeros(features), np.ones(features))

    def finish(self, x: Signal) -> ModelProto:
        """The model whose output `logits` is the last signal."""
        return self.writer.finish(x.name, "logits", len(x.mean))

    def _normal(self, *shape: int) -> Floats:
        """Standard normal float32, drawn by rows: VGG's largest layer is 400 MB as it is."""
        values = np.empty(shape, np.float32)
        for row in values:
            row[...] = self.stream.standard_normal(row.shape)
        return values

    def _filters(
        self, x: Signal, channels: int, kernel: int, depthwise: bool
    ) -> tuple[Floats, Moments, Moments]:
        """He-initialised filters, and mean and variance of what they give on `x`."""
        fan_in = kernel * kernel * (1 if depthwise else len(x.mean))
        weight = self._normal(channels, fan_in // kernel**2, kernel, kernel)
        weight *= np.float32((2.0 / fan_in) ** 0.5)
        sums = weight.sum((2, 3), dtype=np.float64)
        squares = (weight.astype(np.float64) ** 2).sum((2, 3))
        if depthwise:
            return weight, sums[:, 0] * x.mean, squares[:, 0] * x.spread
        return weight, sums @ x.mean, squares @ x.spread

    def _rectified(self, name: str, x: Signal) -> Signal:
        """Node `name`, which computes max(x, 0) of normal channels."""
        deviation = np.sqrt(x.variance)
        ratio = x.mean / deviation
        positive = np.array([0.5 * math.erfc(-r / math.sqrt(2)) for r in ratio])
        density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
        mean = x.mean * positive + deviation * density
        square = (x.mean**2 + x.variance) * positive + x.mean * deviation * density
        return Signal(name, mean, square - mean**2)
