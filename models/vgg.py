"""VGG-11 (Simonyan and Zisserman 2014, configuration A): biases, no normalisation."""

from __future__ import annotations

from onnx import ModelProto

from .random_net import RandomNet

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the 3x3 convolutions; each stage ends in a 2x2 max-pooling."""


def vgg11(size: int = 224, classes: int = 1000, seed: int = 0, hidden: int = 4096) -> ModelProto:
    """Eight convolutions and three fully connected layers: 133 million parameters, 531 MB."""
    net = RandomNet("vgg11", size, seed)
    x = net.input
    for stage in STAGES:
        for channels in stage:
            x = net.relu(net.biased_conv(x, channels, 3))
        x = net.max_pool(x, 2, 2)
    x = net.flatten(x, (size // 32) ** 2)
    for _ in range(2):
        x = net.relu(net.dense(x, hidden))
    return net.finish(net.dense(x, classes))
