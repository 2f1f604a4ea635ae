"""Quantisation: every layer placed on VTA goes from float to 8-bit integers.

The numbers are those of shift_grid: power-of-two requantisation with a shift of its own for
every output channel. Values cross between host and device through Quantize and Dequantize
nodes. A float value keeps its name; its integer form is `<name>.int8`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import ModelError
from ...ops import operator, vta_dense
from ...ops.layout import PLAIN
from ...ops.types import Array, Attrs
from .. import shift_grid
from ..bias_correction import correct
from ..calibration import Calibration
from ..edit import free_name
from ..graph import Graph, Node
from ..interpret import interpret
from ..shift_grid import IntegerLayer

Warn = Callable[[str], None]

_LOG = logging.getLogger(__name__)
_LARGEST_STEP = 127
_SMALLEST_SCALE = 1e-30  # float32 can still multiply by its inverse


@dataclass(frozen=True)
class Layer:
    """How a float layer with inputs (x, weight, bias) becomes an operator of the device.

    `accumulate(x, weight, attrs)` gives the int32 products (N, channels, ...) of int8 arrays.
    """

    op: str
    accumulate: Callable[[Array, Array, Attrs], Array]


LAYERS = {
    "Dense": Layer("VtaDense", lambda x, weight, attrs: vta_dense.accumulate(x, weight)),
}

MOVES = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Host operators that move elements without changing them, in integers as in float."""


def quantise(
    graph: Graph,
    calibration: Calibration,
    bias_correction: bool = True,
    warn: Warn = _LOG.warning,
) -> Graph:
    """The graph with integer layers wherever `device` is "vta"; host nodes stay as they are.

    Bias correction needs samples in `calibration` and is left out without them. `warn` hears of
    biases that saturate. Raises ModelError for weights or biases that are not finite.
    """
    _check_finite(graph)
    samples = None
    if bias_correction and calibration.samples:
        samples = _Samples.of(graph, calibration)
    work = _Quantiser(graph, calibration, samples, warn)
    for node in graph.nodes:
        if node.device == "vta":
            work.layer(node)
        else:
            work.host(node)
    for value in graph.outputs:
        work.as_float(value)
    return graph.rebuild(nodes=work.nodes, constants=work.constants)


@dataclass
class _Samples:
    """Values on the calibration samples, for bias correction.

    `reference` holds the float graph's layer outputs, `values` what the new graph computes.
    """

    reference: dict[str, Array]
    values: dict[str, Array]

    @classmethod
    def of(cls, graph: Graph, calibration: Calibration) -> _Samples:
        samples = dict(calibration.samples)
        whole = graph.rebatch(len(next(iter(samples.values()))))
        layers = [node.outputs[0] for node in _layers(graph)]
        reference = interpret(whole, samples, keep=layers)
        return cls(reference, {**graph.constants, **samples, "": np.empty(0)})

    def run(self, node: Node) -> None:
        arrays = [self.values[name] for name in node.inputs]
        results = operator(node.op).evaluate(arrays, node.attrs)
        self.values.update(zip(node.outputs, results, strict=True))


@dataclass
class _Quantiser:
    """The new graph while it grows, node by node in topological order."""

    graph: Graph
    calibration: Calibration
    samples: _Samples | None
    warn: Warn
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(init=False)
    integers: dict[str, str] = field(default_factory=dict)  # float value -> its int8 form
    scales: dict[str, float] = field(default_factory=dict)  # float value -> scale of that form
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
            self._move(node, source)
            return
        for value in node.inputs:
            self.as_float(value)
        self._emit(node)
        self.floats.update(node.outputs)

    def _move(self, node: Node, source: str) -> None:
        result = node.outputs[0]
        self._born(result, self.scales[source])
        operands, results = (self.integers[source], *node.inputs[1:]), (self.integers[result],)
        self._emit(replace(node, inputs=operands, outputs=results))

    def as_float(self, value: str) -> None:
        """Make sure that `value` exists in float."""
        if value not in self.floats:
            self._convert("Dequantize", value, self.integers[value], value)
            self.floats.add(value)

    def as_integer(self, value: str) -> str:
        """The name of `value`'s integer form, which is made where it is missing."""
        if value not in self.integers:
            self.scales[value] = self._limit_scale(value)
            self.integers[value] = self._fresh(f"{value}.int8")
            self._convert("Quantize", value, value, self.integers[value])
        return self.integers[value]

    def layer(self, node: Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        x = self.as_integer(source)
        weight, bias = (self.graph.constants[name] for name in node.inputs[1:3])
        in_scale = self.scales[source]
        out_scale = shift_grid.output_scale(weight, in_scale, self._limit_scale(result))
        grid = shift_grid.choose(weight, bias, in_scale, out_scale)
        layer = IntegerLayer.of(grid, weight, bias, node.attrs.get("min"), node.attrs.get("max"))
        self._born(result, out_scale)
        if self.samples:
            given = self.samples.values[x]
            products = LAYERS[node.op].accumulate(given, layer.weights, node.attrs)
            layer = correct(layer, products, self.samples.reference[result])
            self.samples.values[self.integers[result]] = layer.output(products)
        self._report(node, layer)
        self._emit_layer(node, x, layer)

    def _born(self, value: str, scale: float) -> None:
        self.integers[value] = self._fresh(f"{value}.int8")
        self.scales[value] = scale
        self.born_integer.add(value)

    def _report(self, node: Node, layer: IntegerLayer) -> None:
        saturated = layer.saturated
        if saturated.any():
            self.warn(
                f"node {node.name!r}: the bias of {saturated.sum()} of {len(saturated)} channels "
                "does not fit 32 bits and saturates"
            )

    def _emit_layer(self, node: Node, x: str, layer: IntegerLayer) -> None:
        steps, vectors = layer.epilogue(first=2)
        inputs = [x]
        for part, array in {"weight.int8": layer.weights, **vectors}.items():
            inputs.append(self._fresh(f"{node.name}.{part}"))
            self.constants[inputs[-1]] = array
        attrs = {key: value for key, value in node.attrs.items() if key not in ("min", "max")}
        attrs.update(epilogue=steps, scale=layer.grid.out_scale, layout=PLAIN)
        outputs = (self.integers[node.outputs[0]],)
        device = LAYERS[node.op].op
        self.nodes.append(
            replace(node, op=device, inputs=tuple(inputs), outputs=outputs, attrs=attrs)
        )

    def _convert(self, op: str, value: str, source: str, result: str) -> None:
        name = self._fresh(f"{value}.{op.lower()}")
        attrs = {"scale": self.scales[value]}
        reason = "converts between host and VTA"
        self._emit(Node(name, op, (source,), (result,), attrs, (), "host", reason))

    def _emit(self, node: Node) -> None:
        self.nodes.append(node)
        if self.samples:
            self.samples.run(node)

    def _limit_scale(self, value: str) -> float:
        return max(self.calibration.limits[value] / _LARGEST_STEP, _SMALLEST_SCALE)

    def _fresh(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name


def _layers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.device == "vta"]


def _check_finite(graph: Graph) -> None:
    problems = [
        f"node {node.name!r}: constant {name!r} holds NaN or infinite values"
        for node in _layers(graph)
        for name in node.inputs
        if name in graph.constants and not np.isfinite(graph.constants[name]).all()
    ]
    if problems:
        raise ModelError(graph.name, problems)
