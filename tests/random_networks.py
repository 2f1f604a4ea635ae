"""Random small convolutional networks in ONNX for the tests of the whole compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st

from vtaflow.ops.types import Array

from .onnx_models import build, node

Pair = tuple[int, int]
Choose = Callable[[int, int], int]  # any integer from the first to the second
T = TypeVar("T")

MOST_CHANNELS = 40
MOST_PIXELS = 14
"""Longest side of an input, and of what a resize or a transposed convolution makes."""


@dataclass(frozen=True)
class Network:
    """A model from `x` to `y`; `layers` tells what it is made of."""

    shape: tuple[int, int, int]
    batch: int
    seed: int
    layers: tuple[str, ...]
    model: onnx.ModelProto = field(repr=False)

    def samples(self, count: int, more: int = 0) -> Array:
        """Normal inputs; another `more` gives others."""
        random = np.random.default_rng((self.seed, more))
        return random.standard_normal((count, *self.shape)).astype(np.float32)


@dataclass(frozen=True)
class Image:
    """A value of the network: its name, channels, height and width."""

    name: str
    channels: int
    size: Pair


@dataclass
class Sketch:
    """A network in the making: `choose` decides what it is made of, `random` makes its weights."""

    choose: Choose
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)

    def whole(self, low: int, high: int) -> int:
        return self.choose(low, high)

    def pair(self, low: int, high: int) -> Pair:
        return self.whole(low, high), self.whole(low, high)

    def pick(self, *choices: T) -> T:
        return choices[self.choose(0, len(choices) - 1)]

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def floats(self, *shape: int, size: float = 1.0) -> str:
        """A constant of normal numbers of that `size`."""
        return self.constant((self.random.standard_normal(shape) * size).astype(np.float32))

    def between(self, low: float, high: float, count: int) -> str:
        """A constant of evenly spread numbers."""
        return self.constant(self.random.uniform(low, high, count).astype(np.float32))

    def add(self, op: str, inputs: str, channels: int, size: Pair, **attrs: Any) -> Image:
        """Append a node that makes an image."""
        result = Image(f"v{len(self.nodes)}", channels, size)
        self.nodes.append(node(op, inputs, result.name, **attrs))
        told = "".join(f" {key}={value}" for key, value in attrs.items())
        self.layers.append(f"{result.name} = {op}({inputs}){told} -> {channels}x{size}")
        return result

    def conv(
        self,
        x: Image,
        outputs: int,
        kernel: Pair,
        pads: tuple[int, int, int, int],
        strides: Pair = (1, 1),
        dilations: Pair = (1, 1),
        group: int = 1,
    ) -> Image:
        """A convolution, perhaps with a bias."""
        fan_in = x.channels // group * prod(kernel)
        weight = self.floats(outputs, x.channels // group, *kernel, size=fan_in**-0.5)
        inputs = f"{x.name} {weight}"
        if self.pick(True, False):
            inputs += f" {self.floats(outputs, size=0.3)}"
        size = shrunk(x.size, kernel, pads, strides, dilations)
        return self.add(
            "Conv", inputs, outputs, size, kernel_shape=kernel, pads=pads, strides=strides,
            dilations=dilations, group=group,
        )

    def same(self, x: Image, outputs: int, kernel: int, stride: int = 1) -> Image:
        """A square convolution that keeps the size, up to its stride."""
        pad = kernel // 2
        return self.conv(x, outputs, (kernel, kernel), (pad,) * 4, (stride, stride))

    def finished(self, x: Image) -> Image:
        """What follows a convolution: perhaps a normalisation, perhaps an activation."""
        if self.pick(False, True):
            scale, var = self.between(0.5, 1.5, x.channels), self.between(0.5, 1.5, x.channels)
            offset, mean = (self.floats(x.channels, size=0.3) for _ in range(2))
            names = f"{x.name} {scale} {offset} {mean} {var}"
            x = self.add("BatchNormalization", names, x.channels, x.size)
        return self.activated(x)

    def activated(self, x: Image) -> Image:
        op = self.pick("none", "Relu", "Clip", "LeakyRelu")
        if op == "none":
            return x
        more, attrs = "", {}
        if op == "Clip":
            limits = (self.constant(np.asarray(value, np.float32)) for value in (0, 6))
            more = " " + " ".join(limits)
        elif op == "LeakyRelu":
            attrs = {"alpha": self.pick(0.1, 0.25)}
        return self.add(op, x.name + more, x.channels, x.size, **attrs)

    def groups(self, channels: int) -> tuple[int, int]:
        """Groups and output channels of a convolution."""
        kind = self.pick("plain", "depthwise", "multiplier", "grouped")
        divisors = [count for count in range(2, channels) if channels % count == 0]
        if kind == "depthwise":
            return channels, channels
        if kind == "multiplier":
            return channels, channels * self.whole(1, min(3, max(1, MOST_CHANNELS // channels)))
        if kind == "grouped" and divisors:
            group = self.pick(*divisors)
            return group, group * self.whole(1, max(1, MOST_CHANNELS // group))
        return 1, self.whole(1, MOST_CHANNELS)


def shrunk(
    size: Pair,
    kernel: Pair,
    pads: tuple[int, ...],
    strides: Pair,
    dilations: Pair,
    up: bool = False,
) -> Pair:
    """Height and width behind a window that slides; `up`: the last one may be cut off."""
    height, width = (
        (
            size[axis] + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1
            + (strides[axis] - 1) * up
        )
        // strides[axis]
        + 1
        for axis in (0, 1)
    )
    return height, width


def fitting(size: Pair, kernel: Pair, pads: tuple[int, ...], dilations: Pair) -> Pair:
    """The largest part of the kernel that the padded image has room for."""
    height, width = (
        min(kernel[axis], (size[axis] + pads[axis] + pads[axis + 2] - 1) // dilations[axis] + 1)
        for axis in (0, 1)
    )
    return height, width


def convolution(sketch: Sketch, x: Image) -> Image:
    """Any kernel, stride, padding, dilation and grouping."""
    pads = (*sketch.pair(0, 2), *sketch.pair(0, 2))
    strides, dilations = sketch.pair(1, 2), sketch.pair(1, 2)
    kernel = fitting(x.size, sketch.pair(1, 5), pads, dilations)
    group, outputs = sketch.groups(x.channels)
    return sketch.finished(sketch.conv(x, outputs, kernel, pads, strides, dilations, group))


def residual(sketch: Sketch, x: Image) -> Image:
    """One or two convolutions beside the identity or a projection, added."""
    stride = sketch.pick(1, 2)
    outputs = sketch.pick(x.channels, sketch.whole(1, MOST_CHANNELS))
    main = sketch.finished(sketch.same(x, outputs, sketch.pick(1, 3, 5), stride))
    if sketch.pick(True, False):
        main = sketch.same(main, outputs, 3)
    plain = stride == 1 and outputs == x.channels
    beside = x if plain else sketch.same(x, outputs, 1, stride)
    names = sketch.pick(f"{main.name} {beside.name}", f"{beside.name} {main.name}")
    return sketch.activated(sketch.add("Add", names, outputs, main.size))


def branches(sketch: Sketch, x: Image) -> Image:
    """Two or three ways joined along the channels."""
    parts = []
    for _ in range(sketch.whole(2, 3)):
        kind = sketch.pick("conv", "as it is", "MaxPool", "AveragePool")
        if kind == "conv" or 3 * x.channels > MOST_CHANNELS:
            outputs = sketch.whole(1, MOST_CHANNELS // 3)
            part = sketch.finished(sketch.same(x, outputs, sketch.pick(1, 3)))
        elif kind == "as it is":
            part = x
        else:
            attrs = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
            part = sketch.add(kind, x.name, x.channels, x.size, **attrs)
        parts.append(part)
    names, channels = " ".join(part.name for part in parts), sum(part.channels for part in parts)
    return sketch.add("Concat", names, channels, x.size, axis=1)


def pool(sketch: Sketch, x: Image) -> Image:
    """A pool with any window; ONNX wants padding smaller than that."""
    op = sketch.pick("MaxPool", "AveragePool")
    kernel = fitting(x.size, sketch.pair(1, 4), (0, 0, 0, 0), (1, 1))
    pads = tuple(sketch.whole(0, min(2, kernel[axis % 2] - 1)) for axis in range(4))
    strides = sketch.pair(1, 3)
    attrs: dict[str, Any] = {"kernel_shape": kernel, "pads": pads, "strides": strides}
    if op == "AveragePool":
        attrs["count_include_pad"] = sketch.whole(0, 1)
    size = shrunk(x.size, kernel, pads, strides, (1, 1))
    wider = shrunk(x.size, kernel, pads, strides, (1, 1), up=True)
    # The shape inference of onnxruntime counts windows that begin in the padding, its pools do not.
    inside = all((wider[axis] - 1) * strides[axis] < x.size[axis] + pads[axis] for axis in (0, 1))
    if inside and sketch.pick(True, False):
        attrs["ceil_mode"], size = 1, wider
    return sketch.add(op, x.name, x.channels, size, **attrs)


def enlarged(sketch: Sketch, x: Image) -> Image:
    """Every pixel four times, where there is room for that."""
    if 2 * max(x.size) > MOST_PIXELS:
        return x
    scales = sketch.constant(np.array([1, 1, 2, 2], np.float32))
    mode, rounding = sketch.pick(("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
    return sketch.add(
        "Resize", f"{x.name} - {scales}", x.channels, (2 * x.size[0], 2 * x.size[1]),
        mode="nearest", coordinate_transformation_mode=mode, nearest_mode=rounding,
    )


def transposed(sketch: Sketch, x: Image) -> Image:
    """A transposed convolution, where there is room for its result."""
    kernel, strides, pads = sketch.pair(1, 4), sketch.pair(1, 2), (*sketch.pair(0, 1), 0, 0)
    padding = (sketch.whole(0, strides[0] - 1), sketch.whole(0, strides[1] - 1))
    height, width = (
        (x.size[axis] - 1) * strides[axis] + kernel[axis] + padding[axis] - pads[axis]
        for axis in (0, 1)
    )
    if not 1 <= min(height, width) <= max(height, width) <= MOST_PIXELS:
        return x
    group, outputs = sketch.groups(x.channels)
    size = (outputs * prod(kernel) / group) ** -0.5
    weight = sketch.floats(x.channels, outputs // group, *kernel, size=size)
    result = sketch.add(
        "ConvTranspose", f"{x.name} {weight}", outputs, (height, width), kernel_shape=kernel,
        strides=strides, pads=pads, output_padding=padding, group=group,
    )
    return sketch.finished(result)


STAGES: tuple[Callable[[Sketch, Image], Image], ...] = (
    convolution, residual, branches, pool, enlarged, transposed,
)


def tail(sketch: Sketch, x: Image) -> str:
    """Perhaps a global pool, perhaps a fully connected layer; the last value's name."""
    if sketch.pick(False, True):
        x = sketch.add("GlobalAveragePool", x.name, x.channels, (1, 1))
    if sketch.pick(True, False):
        return x.name
    features, outputs = x.channels * prod(x.size), sketch.whole(1, 20)
    weight = sketch.floats(outputs, features, size=features**-0.5)
    flat = sketch.add("Flatten", x.name, features, (1, 1))
    bias = sketch.floats(outputs, size=0.3)
    return sketch.add("Gemm", f"{flat.name} {weight} {bias}", outputs, (1, 1), transB=1).name


def sketched(choose: Choose, seed: int) -> Network:
    """A convolution, up to four more stages of any kind, and an end."""
    sketch = Sketch(choose, np.random.default_rng(seed))
    shape = (sketch.whole(1, MOST_CHANNELS), *sketch.pair(3, MOST_PIXELS))
    value = convolution(sketch, Image("x", shape[0], shape[1:]))
    for _ in range(sketch.whole(0, 4)):
        value = sketch.pick(*STAGES)(sketch, value)
    sketch.nodes.append(node("Identity", tail(sketch, value), "y"))
    model = build(sketch.nodes, sketch.constants, {"x": ("N", *shape)})
    return Network(shape, sketch.whole(1, 3), seed, tuple(sketch.layers), model)


def numbered(number: int) -> Network:
    """The network of that number, always the same one."""
    random = np.random.default_rng(number)
    return sketched(lambda low, high: int(random.integers(low, high + 1)), number)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any network: hypothesis looks for a small one that fails."""
    seed = draw(st.integers(0, 9999))
    return sketched(lambda low, high: draw(st.integers(low, high)), seed)
