"""Quantisation: every node placed on VTA goes from float to 8-bit integers.

The numbers are those of shift_grid: power-of-two requantisation with a shift of its own for
every output channel; the scales are those of scales.py. Values cross between host and device
through Quantize and Dequantize nodes. A float value keeps its name; its integer form is
`<name>.int8`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import DataError, ModelError
from ...ops import shortcut
from ...ops.layout import PLAIN
from ...ops.types import Array, Attrs
from .. import shift_grid
from ..calibration import Calibration
from ..edit import free_name
from ..graph import Graph, Node
from ..layers import LAYERS, MOVES, residual_of, shortcut_of
from ..products import Operand, Products, side_by_side
from ..sample_run import SampleRun
from ..scales import Scales, plan_scales
from ..shift_grid import ALONE, IntegerLayer, Meeting
from ..shortcuts import Branch, best_shift, mean_square

Warn = Callable[[str], None]

ROUNDINGS = ("nearest", "compensated")
"""How weights are rounded: each to the nearest step, or making good the errors of others."""

_LOG = logging.getLogger(__name__)


def quantise(
    graph: Graph,
    calibration: Calibration,
    bias_correction: bool = True,
    warn: Warn = _LOG.warning,
    input_offset: bool = True,
    activation_offsets: bool = True,
    weight_rounding: str = "compensated",
) -> Graph:
    """The graph with integer operators wherever `device` is "vta"; host nodes stay as they are.

    `input_offset` lets inputs of the model that are far from centred have a zero point, and
    `activation_offsets` values between layers; `weight_rounding` is one of ROUNDINGS. Bias
    correction and compensated rounding need samples in `calibration` and are left out without
    them; so is the latter where there are too few positions to learn from for a layer's inputs.
    `warn` hears of biases that saturate. Raises DataError for an unknown option, ModelError for
    weights or biases that are not finite.
    """
    if weight_rounding not in ROUNDINGS:
        raise DataError(
            f"weight rounding {weight_rounding!r} is unknown; known are {', '.join(ROUNDINGS)}"
        )
    _check_finite(graph)
    compensate = weight_rounding == "compensated"
    run = None
    if (bias_correction or compensate) and calibration.samples:
        run = SampleRun(graph, calibration, bias_correction)
    scales = plan_scales(graph, calibration, input_offset, activation_offsets)
    work = _Quantiser(graph, calibration, scales, run, warn, compensate)
    for node in graph.nodes:
        if node.device == "vta":
            EMIT[node.op](work, node)
        else:
            work.host(node)
        if run is not None:
            run.done()
    work.run = None
    for value in graph.outputs:
        work.as_float(value)
    return graph.rebuild(nodes=work.nodes, constants=work.constants)


@dataclass
class _Quantiser:
    """The new graph while it grows, node by node in topological order."""

    graph: Graph
    calibration: Calibration
    scales: Scales
    run: SampleRun | None
    warn: Warn
    compensate: bool
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(init=False)
    integers: dict[str, str] = field(default_factory=dict)  # float value -> its int8 form
    halos: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    born_integer: set[str] = field(default_factory=set)  # float values that come from VTA
    floats: set[str] = field(init=False)  # values that exist in float
    taken: set[str] = field(init=False)  # names of values and nodes

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self.floats = {*self.graph.inputs, *self.graph.constants, ""}
        self.taken = {*self.graph.types, *(node.name for node in self.graph.nodes)}

    def host(self, node: Node) -> None:
        """Emit a host node: on integers where it only moves what VTA made, else in float."""
        source = node.inputs[0] if node.inputs else ""
        if node.op in MOVES and source in self.born_integer:
            operands = (self.integers[source], *node.inputs[1:])
            self._emit(replace(node, inputs=operands, outputs=(self._born(node),)), node.outputs)
            return
        for value in node.inputs:
            self.as_float(value)
        self._emit(node, node.outputs)
        self.floats.update(node.outputs)

    def as_float(self, value: str) -> None:
        """Make sure that `value` exists in float."""
        if value not in self.floats:
            attrs = {"scale": self.scales.of[value]}
            self._convert("Dequantize", value, self.integers[value], value, attrs)
            self.floats.add(value)

    def as_integer(self, value: str) -> str:
        """The name of `value`'s integer form, which is made where it is missing."""
        if value not in self.integers:
            attrs: dict[str, object] = {"scale": self.scales.of[value]}
            if self.zero_point(value):
                attrs["zero_point"] = self.zero_point(value)
            self.integers[value] = self._fresh(f"{value}.int8")
            self._convert("Quantize", value, value, self.integers[value], attrs)
        return self.integers[value]

    def zero_point(self, value: str) -> int:
        """The integer that stands for 0 in `value`'s integer form."""
        return self.scales.zero_points.get(value, 0)

    def operand(self, node: Node, position: int) -> str:
        """The integers that an input of a device node reads: a requantised copy where needed."""
        value = node.inputs[position]
        if (node.name, position) not in self.scales.copies:
            return self.as_integer(value)
        x, (scale, zero_point) = self.as_integer(value), self.scales.copies[node.name, position]
        channels = self.graph.types[value].shape[1]
        weight, bias = np.ones((channels, 1, 1, 1), np.float32), np.zeros(channels)
        scales = self.scales.of[value], scale
        grid = shift_grid.choose(weight, bias, *scales, zero_point=zero_point)
        layer = IntegerLayer.of(grid, weight, bias, None, None)
        layer = layer.without_zero_points(self.zero_point(value), 0)
        attrs = {**_POINTWISE, "group": channels}
        copy = replace(
            node,
            name=self._fresh(f"{node.name}.requantise{position}"),
            op="FusedConv",
            attrs=attrs,
            reason="aligns scales",
        )
        name = self._fresh(f"{value}.requantised")
        operand = Operand(x, self.zero_point(value), weight.shape)
        products = Products(LAYERS[copy.op], attrs, operand)
        self._layer(copy, layer, products, "", name, value)
        return name

    def layer(self, node: Node) -> None:
        """Emit a layer with weights."""
        result = node.outputs[0]
        products, weight = self._products(node)
        residual, meeting = self._residual(node)
        bias = self.graph.constants[node.inputs[2]]
        in_scale, out_scale = self.scales.of[node.inputs[0]], self.scales.of[result]
        zero_point = self.zero_point(result)
        grid = shift_grid.choose(weight, bias, in_scale, out_scale, meeting, zero_point)
        bounds = node.attrs.get("min"), node.attrs.get("max")
        layer = IntegerLayer.of(
            grid, weight, bias, *bounds, residual=bool(residual), gains=products.gains
        )
        if self.compensate and self.run is not None:
            layer = self.run.compensated(products, layer, weight)
        added = self.zero_point(node.inputs[3]) if residual else 0
        if (node.name, 3) in self.scales.copies:
            added = 0
        layer = layer.without_zero_points(products.zero_points, added)
        node = replace(node, attrs=products.attrs)
        self._layer(node, layer, products, residual, self._born(node), result)

    def plain(self, node: Node, op: str, attrs: Attrs) -> None:
        """Emit a device node without weights as `op`."""
        operands = tuple(self.operand(node, position) for position in range(len(node.inputs)))
        device = replace(node, op=op, inputs=operands, outputs=(self._born(node),), attrs=attrs)
        self._emit(device, node.outputs)

    def _products(self, node: Node) -> tuple[Products, Array]:
        """What a layer's weights multiply, and the weights, those of a shortcut beside the others.

        All are for one accumulator, so those of a shortcut are scaled as if they multiplied x.
        """
        source, name = node.inputs[:2]
        x, attrs = self._data(node)
        weight = self.graph.constants[name]
        products = Products(
            LAYERS[node.op], attrs, Operand(x, self.zero_point(source), weight.shape)
        )
        taken = shortcut_of(node)
        if taken is None:
            return products, weight
        image, other = taken[0], self.graph.constants[taken[1]]
        shift = self._shift(node)
        operand = Operand(self.as_integer(image), self.zero_point(image), other.shape)
        ratio = self.scales.of[image] / self.scales.of[source] / (1 << shift)
        return (
            replace(products, attrs={**attrs, shortcut.SHIFT: shift}, image=operand),
            side_by_side(weight, other, ratio),
        )

    def _shift(self, node: Node) -> int:
        """By how much the products of a layer's shortcut are shifted."""
        out_scale = self.scales.of[node.outputs[0]]
        branches = []
        for value, name in (node.inputs[:2], node.inputs[3:]):
            scale = self.scales.of[value]
            power = mean_square(self.calibration, value) / scale**2
            branches.append(Branch(self.graph.constants[name], scale, out_scale, power))
        return best_shift(*branches)[0]

    def _data(self, node: Node) -> tuple[str, Attrs]:
        """The integers that a layer reads, and its attributes: an input's halo takes its pads."""
        source = node.inputs[0]
        x, pads = self.as_integer(source), tuple(node.attrs.get("pads", ()))
        if not self.zero_point(source) or not any(pads):
            return x, node.attrs
        if (x, pads) not in self.halos:
            self.halos[x, pads] = self._fresh(f"{x}.halo")
            attrs = {**_HALO, "pads": pads, "value": self.zero_point(source)}
            self._convert("FoldPixels", source, x, self.halos[x, pads], attrs)
        return self.halos[x, pads], {**node.attrs, "pads": (0, 0, 0, 0)}

    def _residual(self, node: Node) -> tuple[str, Meeting]:
        """The integers that a layer adds and how their scale meets the result's."""
        value = residual_of(node)
        if value is None:
            return "", ALONE
        scale, _ = self.scales.copies.get((node.name, 3), (self.scales.of[value], 0))
        meeting = Meeting.of(scale, self.scales.of[node.outputs[0]])
        assert meeting is not None, "scales of a residual are planned"
        return self.operand(node, 3), meeting

    def _layer(
        self,
        node: Node,
        layer: IntegerLayer,
        products: Products,
        residual: str,
        result: str,
        owner: str,
    ) -> None:
        """Correct, report and emit an integer layer; `owner` is the float value it stands for."""
        if self.run is not None:
            layer, accumulated = self.run.layer(products, layer, residual, owner)
            self.run.finish(layer, accumulated, residual, result, owner)
        self._report(node, layer)
        steps, vectors = layer.epilogue(first=2)
        weights, *beside = products.parts(layer.weights)
        inputs = [products.x.name]
        for part, array in {"weight.int8": weights, **vectors}.items():
            inputs.append(self._constant(f"{node.name}.{part}", array))
        inputs += [residual] if residual else []
        if products.image is not None:
            name = self._constant(f"{node.name}.shortcut.weight.int8", *beside)
            inputs += [products.image.name, name]
        attrs = {key: value for key, value in node.attrs.items() if key not in ("min", "max")}
        attrs.update(epilogue=steps, scale=layer.grid.out_scale, layout=PLAIN)
        if layer.grid.zero_point:
            attrs["zero_point"] = layer.grid.zero_point
        if node.op == "FusedConv":
            attrs["in_layout"] = PLAIN
        self.nodes.append(
            replace(
                node, op=products.kind.op, inputs=tuple(inputs), outputs=(result,), attrs=attrs
            )
        )

    def _report(self, node: Node, layer: IntegerLayer) -> None:
        saturated = layer.saturated
        if saturated.any():
            self.warn(
                f"node {node.name!r}: the bias of {saturated.sum()} of {len(saturated)} channels "
                "does not fit 32 bits and saturates"
            )

    def _born(self, node: Node) -> str:
        """A name for the integer form of the node's result, which VTA made."""
        value = node.outputs[0]
        self.integers[value] = self._fresh(f"{value}.int8")
        self.born_integer.add(value)
        return self.integers[value]

    def _convert(
        self, op: str, value: str, source: str, result: str, attrs: Mapping[str, object]
    ) -> None:
        name = self._fresh(f"{value}.{op.lower()}")
        reason = "converts between host and VTA"
        node = Node(name, op, (source,), (result,), attrs, (), "host", reason)
        self._emit(node, (value,))

    def _emit(self, node: Node, owners: tuple[str, ...]) -> None:
        """Add a node that is no layer; `owners` are the float values of its results."""
        self.nodes.append(node)
        if self.run is not None:
            self.run.node(node, dict(zip(node.outputs, owners, strict=True)))

    def _constant(self, wanted: str, array: Array) -> str:
        name = self._fresh(wanted)
        self.constants[name] = array
        return name

    def _fresh(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name


_POINTWISE = {
    "strides": (1, 1),
    "pads": (0, 0, 0, 0),
    "dilations": (1, 1),
    "transposed": False,
    "output_padding": (0, 0),
}
_HALO = {"kernel_shape": (1, 1), "strides": (1, 1), "dilations": (1, 1)}


def _max_pool(work: _Quantiser, node: Node) -> None:
    work.plain(node, "VtaMaxPool", {**node.attrs, "in_layout": PLAIN, "layout": PLAIN})


def _concat(work: _Quantiser, node: Node) -> None:
    channels = tuple(work.graph.types[value].shape[1] for value in node.inputs)
    work.plain(node, "VtaConcat", {"axis": 1, "channels": channels, "layout": PLAIN})


def _flatten(work: _Quantiser, node: Node) -> None:
    work.plain(node, "VtaFlatten", {"in_layout": PLAIN, "layout": PLAIN})


EMIT: dict[str, Callable[[_Quantiser, Node], None]] = {
    "Dense": _Quantiser.layer,
    "FusedConv": _Quantiser.layer,
    "MaxPool": _max_pool,
    "Concat": _concat,
    "Flatten": _flatten,
}
"""How each float operator that VTA runs becomes integers."""


def _check_finite(graph: Graph) -> None:
    problems = [
        f"node {node.name!r}: constant {name!r} holds NaN or infinite values"
        for node in graph.nodes
        if node.device == "vta"
        for name in node.inputs
        if name in graph.constants and not np.isfinite(graph.constants[name]).all()
    ]
    if problems:
        raise ModelError(graph.name, problems)
