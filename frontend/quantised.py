"""Quantised models: QuantizeLinear and DequantizeLinear taken out, the ranges they state kept.

A model quantised elsewhere computes in integers of its own. What is wanted of it is the float
function that they stand for and the range of every value; vtaflow quantises by its own scheme.
The difference from the model's own arithmetic is what `compare` reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ModelError
from ..graph.edit import free_name, live_nodes
from ..graph.graph import Graph, Node
from ..graph.passes.fold_constants import fold_constants
from ..graph.signs import makes_non_negative
from ..ops.types import Array

_MOVES = (
    "Concat",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
"""Operators that mean the same on integers as on the real values they stand for."""

_LARGEST = 2**31  # bytes of weights that are dequantised


@dataclass(frozen=True)
class Imported:
    """A float graph, and the lowest and highest real value that a value's integers stand for."""

    graph: Graph
    ranges: Mapping[str, tuple[float, float]]

    @property
    def limits(self) -> dict[str, float]:
        """The absolute value that a signed 8-bit quantiser with zero point 0 has to clip at.

        What is only moved has the limit of what it was before.
        """
        found = {name: max(high, -low * 127 / 128) for name, (low, high) in self.ranges.items()}
        for node in self.graph.nodes:
            if node.op in _MOVES and node.op != "Concat" and node.inputs[0] in found:
                for name in node.outputs:
                    found.setdefault(name, found[node.inputs[0]])
        return found


def unquantised(graph: Graph, source: str = "model") -> Imported:
    """The float function of an imported graph, and the ranges that it states.

    Weights are dequantised. A pair of QuantizeLinear and DequantizeLinear vanishes; where it cuts
    off negative values, as it does where a Relu has been merged into it, a Clip takes its place.
    Integer inputs and outputs of the model keep their conversion. Raises ModelError, with `source`
    in front, that lists all uses of quantised values that no float operator stands for.
    """
    if not any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        return Imported(graph, {})
    graph = fold_constants(graph, _LARGEST)
    work = _Unquantiser(graph)
    for node in graph.nodes:
        work.visit(node)
    for value in graph.outputs:
        work.as_integer(value)
    if work.problems:
        raise ModelError(source, work.problems)
    result = graph.rebuild(nodes=live_nodes(work.nodes, graph.outputs))
    return Imported(result, {key: each for key, each in work.ranges.items() if key in result.types})


@dataclass(frozen=True)
class _Quantised:
    """Integers that stand for the real `value`; `operands` name their scale and zero point.

    `origin` is that of the node that made them.
    """

    value: str
    origin: tuple[str, ...]
    operands: tuple[str, ...]
    axis: int
    dtype: str
    scale: Array
    zero_point: Array

    @property
    def range(self) -> tuple[float, float]:
        limits = np.iinfo(self.dtype)
        scale, zero_point = self.scale.astype(np.float64), self.zero_point.astype(np.float64)
        low, high = scale * (limits.min - zero_point), scale * (limits.max - zero_point)
        return float(low.min()), float(high.max())

    def same(self, other: _Quantised) -> bool:
        """Whether equal integers stand for equal real values."""
        equal = (self.scale, other.scale), (self.zero_point, other.zero_point)
        axes = self.scale.size == 1 or self.axis == other.axis
        return self.dtype == other.dtype and axes and all(np.array_equal(*pair) for pair in equal)


@dataclass
class _Unquantiser:
    """The new graph while it grows, node by node in topological order."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    integers: dict[str, _Quantised] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # integers that a problem was found with
    positive: set[str] = field(init=False)  # values that are never negative
    taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.taken = {*self.graph.types, *(node.name for node in self.graph.nodes)}
        constants = self.graph.constants.items()
        self.positive = {name for name, array in constants if (array >= 0).all()}

    def visit(self, node: Node) -> None:
        if self.lost.intersection(node.inputs):
            self.lost.update(node.outputs)
            return
        try:
            if node.op == "QuantizeLinear":
                self._quantize(node)
            elif node.op == "DequantizeLinear":
                self._dequantize(node)
            elif any(name in self.integers for name in node.inputs):
                self._move(node)
            else:
                self._emit(node)
        except ValueError as error:
            self.problems.append(f"node {node.name!r} ({node.op}): {error}")
            self.lost.update(node.outputs)

    def as_integer(self, value: str) -> None:
        """Make sure that `value` exists, if it is an output of integers."""
        if value in self.integers:
            found = self.integers[value]
            attrs = {"axis": found.axis, "dtype": found.dtype}
            inputs = (found.value, *found.operands)
            name = self._fresh(f"{value}.quantizelinear")
            self._emit(Node(name, "QuantizeLinear", inputs, (value,), attrs, found.origin))

    def _quantize(self, node: Node) -> None:
        found = self._quantised(node, node.inputs[0])
        low, high = found.range
        made = node.inputs[0] not in self.graph.inputs
        if low == 0 and made and node.inputs[0] not in self.positive:
            value = self._fresh(f"{node.outputs[0]}.clipped")
            attrs = {"min": 0.0, "max": high}
            self._emit(
                replace(node, op="Clip", inputs=node.inputs[:1], outputs=(value,), attrs=attrs)
            )
            found = replace(found, value=value)
        self.ranges[found.value] = (low, high)
        self.integers[node.outputs[0]] = found

    def _dequantize(self, node: Node) -> None:
        integers, result = node.inputs[0], node.outputs[0]
        if integers not in self.integers:  # an input of the model, perhaps moved
            self.ranges[result] = self._quantised(node, integers).range
            self._emit(node)
            if self.ranges[result][0] >= 0:
                self.positive.add(result)
            return
        known = self.integers[integers]
        if not known.same(self._quantised(node, integers)):
            raise ValueError("its scale or zero point is not that of its operand's QuantizeLinear")
        self.ranges[result] = known.range
        inputs = (known.value,)
        self._emit(replace(node, op="Identity", inputs=inputs, attrs={}))

    def _move(self, node: Node) -> None:
        """The same operator on the real values."""
        data = node.inputs[:1] if node.op == "Gather" else node.inputs
        found = [self.integers.get(name) for name in data]
        first = found[0]
        if node.op not in _MOVES or first is None:
            raise ValueError("computes with quantised values, which is not supported")
        if first.scale.size > 1 or not all(one is not None and one.same(first) for one in found):
            raise ValueError("its operands differ in scale or zero point")
        attrs = dict(node.attrs)
        if node.op == "Pad":
            attrs["value"] = ((attrs["value"] - first.zero_point) * first.scale).item()
        outputs = tuple(self._fresh(f"{value}.real") for value in node.outputs)
        inputs = (*(one.value for one in found if one is not None), *node.inputs[len(data) :])
        self._emit(replace(node, inputs=inputs, outputs=outputs, attrs=attrs))
        for value, real in zip(node.outputs, outputs, strict=True):
            self.integers[value] = replace(first, value=real, origin=node.origin)
            self.ranges[real] = first.range

    def _quantised(self, node: Node, value: str) -> _Quantised:
        """What the operands of QuantizeLinear or DequantizeLinear say about integers."""
        operands = node.inputs[1:]
        if not all(name in self.graph.constants for name in operands):
            raise ValueError("its scale or zero point is computed at run time")
        scale, *zero_points = (self.graph.constants[name].reshape(-1) for name in operands)
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError("its scale is not positive")
        integer = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
        dtype = self.graph.types[integer].dtype
        zero_point = zero_points[0] if zero_points else np.zeros(1, dtype)
        axis = node.attrs["axis"]
        return _Quantised(value, node.origin, operands, axis, dtype, scale, zero_point)

    def _emit(self, node: Node) -> None:
        self.nodes.append(node)
        if makes_non_negative(node, self.positive):
            self.positive.update(node.outputs)

    def _fresh(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name
