"""ResNet-18 and ResNet-50 (He et al. 2015, with the stride in the 3x3 as torchvision has it)."""

from __future__ import annotations

from onnx import ModelProto

from .random_net import RandomNet, Signal

BRANCH_GAIN = 0.5
"""Deviation of what a block adds to its input, so that a stage's sums stay O(1)."""


def _basic(net: RandomNet, x: Signal, channels: int, stride: int) -> Signal:
    y = net.relu(net.conv(x, channels, 3, stride=stride))
    y = net.conv(y, channels, 3, gain=BRANCH_GAIN)
    if stride != 1:
        x = net.conv(x, channels, 1, stride=stride)
    return net.relu(net.add(y, x))


def _bottleneck(net: RandomNet, x: Signal, channels: int, stride: int) -> Signal:
    y = net.relu(net.conv(x, channels, 1))
    y = net.relu(net.conv(y, channels, 3, stride=stride))
    y = net.conv(y, 4 * channels, 1, gain=BRANCH_GAIN)
    if len(x.mean) != 4 * channels:
        x = net.conv(x, 4 * channels, 1, stride=stride)
    return net.relu(net.add(y, x))


def _stem(net: RandomNet) -> Signal:
    x = net.relu(net.conv(net.input, 64, 7, stride=2))
    return net.max_pool(x, 3, 2)


def resnet18(size: int = 224, classes: int = 1000, seed: int = 0) -> ModelProto:
    """Two basic blocks a stage: 11.7 million parameters."""
    net = RandomNet("resnet18", size, seed)
    x = _stem(net)
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = _basic(net, x, channels, stride)
        x = _basic(net, x, channels, 1)
    return net.finish(net.dense(net.global_average(x), classes))


def resnet50(size: int = 224, classes: int = 1000, seed: int = 0) -> ModelProto:
    """Three to six bottlenecks a stage: 25.6 million parameters."""
    net = RandomNet("resnet50", size, seed)
    x = _stem(net)
    for channels, stride, blocks in ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)):
        for block in range(blocks):
            x = _bottleneck(net, x, channels, stride if block == 0 else 1)
    return net.finish(net.dense(net.global_average(x), classes))
