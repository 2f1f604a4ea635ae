"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018), width 1."""

from __future__ import annotations

from onnx import ModelProto

from .random_net import RandomNet, Signal

V1_PAIRS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels and stride of each depthwise and pointwise pair."""

V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage."""

BRANCH_GAIN = 0.5
"""Deviation of what a block adds to its input, so that a stage's sums stay O(1)."""


def mobilenet_v1(size: int = 224, classes: int = 1000, seed: int = 0) -> ModelProto:
    """Thirteen separable convolutions with ReLU: 4.2 million parameters."""
    net = RandomNet("mobilenet_v1", size, seed)
    x = net.relu(net.conv(net.input, 32, 3, stride=2))
    for channels, stride in V1_PAIRS:
        x = net.relu(net.conv(x, len(x.mean), 3, stride=stride, depthwise=True))
        x = net.relu(net.conv(x, channels, 1))
    return net.finish(net.dense(net.global_average(x), classes))


def _inverted_residual(
    net: RandomNet, x: Signal, expansion: int, channels: int, stride: int
) -> Signal:
    hidden = expansion * len(x.mean)
    y = x if expansion == 1 else net.relu6(net.conv(x, hidden, 1))
    y = net.relu6(net.conv(y, hidden, 3, stride=stride, depthwise=True))
    if stride == 1 and len(x.mean) == channels:
        return net.add(net.conv(y, channels, 1, gain=BRANCH_GAIN), x)
    return net.conv(y, channels, 1)


def mobilenet_v2(size: int = 224, classes: int = 1000, seed: int = 0) -> ModelProto:
    """Seventeen inverted residuals with linear bottlenecks and ReLU6: 3.5 million parameters."""
    net = RandomNet("mobilenet_v2", size, seed)
    x = net.relu6(net.conv(net.input, 32, 3, stride=2))
    for expansion, channels, blocks, stride in V2_STAGES:
        for block in range(blocks):
            x = _inverted_residual(net, x, expansion, channels, stride if block == 0 else 1)
    x = net.relu6(net.conv(x, 1280, 1))
    return net.finish(net.dense(net.global_average(x), classes))
