"""Fold neighbouring pixels of the model's input into channels, where its first layer has few.

VTA multiplies a block of channels at a time. A first layer that reads 3 of 16 channels wastes the
rest; when the host hands over windows of neighbouring pixels as channels, one product does the
work of several kernel elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ...ops.layout import ceil_div
from ...ops.taps import SECTIONS, Window, windows
from ...ops.types import Array
from ..edit import free_name, live_nodes
from ..graph import Graph, Node


@dataclass(frozen=True)
class _Axis:
    """How one axis is folded: `window` gathers pixels on the host, `kernel` convolves the result.

    `window.kernel` is the number of pixels that become channels.
    """

    window: Window
    kernel: Window


@dataclass(frozen=True)
class _Fold:
    """How both axes are folded."""

    rows: _Axis
    columns: _Axis

    @property
    def lanes(self) -> int:
        """Pixels that become channels of one."""
        return self.rows.window.kernel * self.columns.window.kernel

    def products(self, channels: int, block: int) -> int:
        """Blocks of channels that are multiplied for one output."""
        taps = self.rows.kernel.kernel * self.columns.kernel.kernel
        return taps * ceil_div(self.lanes * channels, block)

    def pixels(self, height: int, width: int) -> int:
        """Positions of the folded image."""
        return self.rows.window.outputs(height) * self.columns.window.outputs(width)


def fold_input(graph: Graph, block: int) -> Graph:
    """The quantised graph with convolutions of what the host hands over folded.

    Only where all pixels of a window fit one block of `block` channels, and where that takes
    fewer products.
    """
    taken = {*graph.types, *(node.name for node in graph.nodes)}
    constants = dict(graph.constants)
    producers = graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if node.op == "VtaConv" and (before is None or before.device == "host"):
            node, gathering = _folded(graph, node, before, block, constants, taken)
            nodes += gathering
        nodes.append(node)
    return graph.rebuild(nodes=live_nodes(nodes, graph.outputs), constants=constants)


def _folded(
    graph: Graph,
    node: Node,
    before: Node | None,
    block: int,
    constants: dict[str, Array],
    taken: set[str],
) -> tuple[Node, list[Node]]:
    """`node` on a folded input and the node that folds it, or `node` alone."""
    source = node.inputs[0]
    halo = (0, 0, 0, 0)
    if before is not None and before.op == "FoldPixels":
        source, halo = before.inputs[0], before.attrs["pads"]
    x, weight = graph.types[source], constants[node.inputs[1]]
    channels, *sizes = x.shape[1:]
    fold = _best(node, weight, halo, (channels, *sizes), block)
    if fold is None:
        return node, []
    names = {}
    for role, wanted in (
        ("node", f"{source}.fold"),
        ("value", f"{source}.folded"),
        ("weight", f"{node.inputs[1]}.folded"),
    ):
        names[role] = free_name(wanted, taken)
        taken.add(names[role])
    constants[names["weight"]] = _weight(weight, fold)
    attrs = {**_attrs(fold.rows.window, fold.columns.window), "value": x.zero_point}
    attrs["kernel_shape"] = (fold.rows.window.kernel, fold.columns.window.kernel)
    reason = "gathers neighbouring pixels for VTA"
    gather = Node(
        names["node"], "FoldPixels", (source,), (names["value"],), attrs, (), "host", reason
    )
    inputs = (names["value"], names["weight"], *node.inputs[2:])
    attrs = {**node.attrs, **_attrs(fold.rows.kernel, fold.columns.kernel)}
    return replace(node, inputs=inputs, attrs=attrs), [gather]


def _attrs(rows: Window, columns: Window) -> dict[str, tuple[int, ...]]:
    return {
        "strides": (rows.stride, columns.stride),
        "pads": (rows.pad_begin, columns.pad_begin, rows.pad_end, columns.pad_end),
        "dilations": (rows.dilation, columns.dilation),
    }


def _best(
    node: Node, weight: Array, halo: tuple[int, ...], image: tuple[int, ...], block: int
) -> _Fold | None:
    """The fold with the fewest products and then the fewest pixels, if it saves any."""
    if node.attrs["group"] != 1 or node.attrs.get("transposed", False) or SECTIONS in node.attrs:
        return None
    channels, height, width = image
    rows, columns = windows(node.attrs, weight.shape[2:])
    options = [
        _Fold(*pair)
        for row in _options(rows, (halo[0], halo[2]), height)
        for pair in ((row, column) for column in _options(columns, (halo[1], halo[3]), width))
    ]
    fitting = [one for one in options if one.lanes * channels <= block]
    best = min(
        fitting,
        key=lambda one: (one.products(channels, block), one.pixels(height, width)),
        default=None,
    )
    unfolded = prod(weight.shape[2:]) * ceil_div(channels, block)
    if best is None or best.products(channels, block) >= unfolded:
        return None
    return best


def _options(window: Window, halo: tuple[int, int], size: int) -> Iterator[_Axis]:
    """Ways to fold an axis: not at all, or by numbers of pixels that the stride divides."""
    yield _Axis(Window(1, pad_begin=halo[0], pad_end=halo[1]), window)
    outputs = window.outputs(size + sum(halo))
    begin = window.pad_begin + halo[0]
    for pixels in range(2, window.kernel + 1):
        whole = pixels == window.kernel
        if window.dilation > 1 or (pixels % window.stride and not whole):
            continue
        groups = ceil_div(window.kernel, pixels)
        step = 1 if whole else pixels // window.stride
        folded = outputs + (groups - 1) * step
        end = (folded - 1) * window.stride + pixels - size - begin
        yield _Axis(
            Window(pixels, window.stride, begin, end), Window(groups, dilation=step)
        )


def _weight(weight: Array, fold: _Fold) -> Array:
    """(O, C, kh, kw) -> (O, pixels * C, kh', kw'), elements that do not exist zero."""
    outputs, channels, *kernel = weight.shape
    groups = fold.rows.kernel.kernel, fold.columns.kernel.kernel
    pixels = fold.rows.window.kernel, fold.columns.window.kernel
    missing = [
        (0, count * size - taps)
        for count, size, taps in zip(groups, pixels, kernel, strict=True)
    ]
    full = np.pad(weight, [(0, 0), (0, 0), *missing])
    split = full.reshape(outputs, channels, groups[0], pixels[0], groups[1], pixels[1])
    lanes = split.transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(lanes).reshape(outputs, prod(pixels) * channels, *groups)


