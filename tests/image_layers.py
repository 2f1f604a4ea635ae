"""Random integer image layers for the tests of their templates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from vtaflow.backend.target import Target
from vtaflow.graph.graph import Graph, Node
from vtaflow.ops import fused_pool, shortcut
from vtaflow.ops.convolution import output_shape
from vtaflow.ops.fused_pool import sees_all
from vtaflow.ops.layout import Layout
from vtaflow.ops.taps import SECTIONS, Window, windows
from vtaflow.ops.types import Array, TensorType
from vtaflow.schedules.axes import Axis
from vtaflow.schedules.planes import Planes

ORIGIN = ("Conv_0", "Relu_1")
PROJECTION = ("Conv_2",)
POOL = ("MaxPool_2",)


@dataclass(frozen=True)
class Side:
    """A shortcut: channels of its image, strides, pixels that no output reads, shift."""

    channels: int = 16
    strides: tuple[int, int] = (2, 2)
    spare: tuple[int, int] = (1, 1)
    shift: int = 2


@dataclass(frozen=True)
class Pool:
    """A fused pool."""

    kernel: tuple[int, int] = (2, 2)
    strides: tuple[int, int] = (2, 2)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil_mode: int = 0

    def attrs(self) -> dict[str, Any]:
        own = {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "ceil_mode": self.ceil_mode,
        }
        names = {fused_pool.NAME: "pool", fused_pool.ORIGIN: POOL}
        return {**fused_pool.attributes(own), **names}


@dataclass(frozen=True)
class ConvCase:
    """One VtaConv: products, perhaps a shortcut or a pool, bias, shifts, a residual, a clip."""

    n: int = 1
    channels: int = 16
    outputs: int = 16
    size: tuple[int, int] = (8, 8)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)
    bias: int = 100_000
    vector: bool = True
    residual: int | None = None
    side: Side | None = None
    pool: Pool | None = None
    sections: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    order: str = "NCHW"
    seed: int = 0

    @property
    def weights(self) -> tuple[int, int]:
        """Rows and columns of the weights of a pair of channels."""
        if self.sections is None:
            return self.kernel
        return len(self.sections[0]), len(self.sections[1])

    def attrs(self) -> dict[str, Any]:
        sections = {"kernel_shape": self.kernel, SECTIONS: self.sections} if self.sections else {}
        return {
            **sections,
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "group": self.group,
            "transposed": self.transposed,
            "output_padding": self.output_padding,
        }

    def side_attrs(self) -> dict[str, Any]:
        if self.side is None:
            return {}
        return {
            shortcut.STRIDES: self.side.strides,
            shortcut.SHIFT: self.side.shift,
            shortcut.NAME: "projection",
            shortcut.ORIGIN: PROJECTION,
        }

    def side_size(self, side: Side) -> tuple[int, int]:
        """Height and width of the shortcut's image."""
        first, second = (
            (count - 1) * step + 1 + min(more, step - 1)
            for count, step, more in zip(self.result()[2:], side.strides, side.spare, strict=True)
        )
        return first, second

    def result(self) -> tuple[int, int, int, int]:
        """Shape of the result; ValueError if the kernel does not fit."""
        x = (self.n, self.channels, *self.size)
        return output_shape(x, self.outputs, windows(self.attrs(), self.weights))

    def can_pool(self, pool: Pool) -> bool:
        """Whether the template can pool the layer's sums."""
        found = fused_pool.windows(pool.attrs())
        assert found is not None
        along = list(zip(self.result()[2:], found, strict=True))
        if any(window.outputs(size) < 1 or not sees_all(window, size) for size, window in along):
            return False
        return all(Planes(Axis(Window(1), size, size), window).can_pool for size, window in along)

    def graph(self, target: Target) -> Graph:
        """The packed layer as a graph of one node."""
        layout = Layout(self.order, target.batch, target.block_in)
        random = np.random.default_rng(self.seed)
        shape = (self.outputs, self.channels // self.group, *self.weights)
        constants: dict[str, Array] = {"w": random.integers(-128, 128, shape, np.int8)}
        x = TensorType((self.n, self.channels, *self.size), "int8", layout, 0.5)
        kinds = {"x": x}
        inputs = ["x", "w"]
        steps: list[tuple[Any, ...]] = []
        if self.bias:
            steps.append(("add", len(inputs)))
            inputs.append("b")
            limit = self.bias
            constants["b"] = random.integers(-limit, limit + 1, self.outputs).astype(np.int32)
        if self.vector:
            steps.append(("shr_vector", len(inputs)))
            inputs.append("k")
            constants["k"] = random.integers(4, 12, self.outputs).astype(np.int32)
        else:
            steps.append(("shr", 9))
        if self.residual is not None:
            steps.append(("residual", len(inputs), self.residual))
            inputs.append("r")
            kinds["r"] = TensorType(self.result(), "int8", layout, 0.5)
            steps.append(("shr", 1))
        if self.side is not None:
            inputs += ["image", "v"]
            image = (self.n, self.side.channels, *self.side_size(self.side))
            kinds["image"] = TensorType(image, "int8", layout, 0.25)
            weight = (self.outputs, self.side.channels, 1, 1)
            constants["v"] = random.integers(-128, 128, weight, np.int8)
        epilogue = (*steps, ("max", -20), ("min", 120))
        attrs = {
            **self.attrs(),
            **self.side_attrs(),
            **(self.pool.attrs() if self.pool is not None else {}),
            "epilogue": epilogue,
            "scale": 0.5,
            "layout": layout,
            "in_layout": layout,
        }
        node = Node("conv", "VtaConv", tuple(inputs), ("y",), attrs, ORIGIN, "vta")
        return Graph.build("case", kinds, ["y"], [node], constants)


def feeds_of(graph: Graph, seed: int = 1) -> dict[str, Array]:
    """Random packed int8 inputs, zero in the padding lanes."""
    random = np.random.default_rng(seed)
    return {
        name: graph.types[name].layout.pack(
            random.integers(-128, 128, graph.types[name].shape, np.int8)
        )
        for name in graph.inputs
    }


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    """Any convolution whose kernel fits its input."""
    kind = draw(st.sampled_from(("plain", "depthwise", "multiplier", "grouped")))
    small = st.integers(1, 3)

    def pair(most: int) -> st.SearchStrategy[tuple[int, int]]:
        return st.tuples(st.integers(1, most), st.integers(1, most))

    channels, outputs, group = draw(st.integers(1, 50)), draw(st.integers(1, 50)), 1
    if kind == "depthwise":
        outputs = group = channels
    elif kind == "multiplier":
        group, outputs = channels, channels * draw(small)
    elif kind == "grouped":
        group = draw(st.integers(2, 4))
        channels, outputs = group * draw(st.integers(1, 20)), group * draw(st.integers(1, 20))
    transposed = draw(st.booleans())
    strides = draw(pair(3))
    side = None
    if kind == "plain" and not transposed and draw(st.booleans()):
        side = Side(draw(st.integers(1, 50)), draw(pair(3)), (draw(small), 0), draw(small) - 1)
    pool = None
    if not transposed and side is None and draw(st.booleans()):
        pool = draw(pools())
    case = ConvCase(
        n=draw(small),
        channels=channels,
        outputs=outputs,
        size=draw(st.tuples(*[st.integers(3, 18)] * 2)),
        kernel=draw(pair(5)),
        strides=strides,
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilations=draw(pair(2)),
        group=group,
        transposed=transposed,
        output_padding=tuple(draw(st.integers(0, step - 1)) for step in strides)  # type: ignore[arg-type]
        if transposed
        else (0, 0),
        bias=draw(st.sampled_from((0, 1000, 200_000, 1 << 30))),
        vector=draw(st.booleans()),
        residual=draw(st.sampled_from((None, None, 0, 3))) if not (side or pool) else None,
        side=side,
        pool=pool,
        order=draw(st.sampled_from(("NCHW", "NHCW", "NHWC"))),
        seed=draw(st.integers(0, 1000)),
    )
    try:
        case.result()
    except ValueError:
        case = replace(case, kernel=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))
    if case.pool is not None and not case.can_pool(case.pool):
        case = replace(case, pool=None)
    if case.pool is None and not transposed and draw(st.booleans()):
        first, second = (draw(sections_of(size)) for size in case.result()[2:])
        case = replace(case, sections=(first, second))
    return case


def sections_of(outputs: int) -> st.SearchStrategy[tuple[int, ...]]:
    """The first outputs of up to four sections."""
    rest = st.sets(st.integers(1, outputs - 1), max_size=3) if outputs > 1 else st.just(set())
    return rest.map(lambda firsts: (0, *sorted(firsts)))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Any pool whose windows overlap by less than their strides."""
    strides = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    kernel = tuple(draw(st.integers(1, 2 * stride - 1)) for stride in strides)
    begin, end = (tuple(draw(st.integers(0, size // 2)) for size in kernel) for _ in range(2))
    return Pool(kernel, strides, (*begin, *end), ceil_mode=draw(st.integers(0, 1)))  # type: ignore[arg-type]
