"""A run on samples: what the integer graph computes while it is still being made.

Every value is held for all samples until the last reader of its float value has been seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..ops import operator, shortcut
from ..ops.types import Array, Attrs
from .bias_correction import correct
from .calibration import Calibration
from .graph import Graph, Node
from .products import Operand, Products
from .sampling import rows_of
from .shift_grid import IntegerLayer
from .weight_rounding import can_compensate, compensated, is_exact, patches

_CHUNK = 2**22  # accumulators that go through the epilogue at a time


class SampleRun:
    """Values of the new graph by name, each on behalf of a value of the float graph."""

    def __init__(self, graph: Graph, calibration: Calibration, corrects: bool = True) -> None:
        self.calibration = calibration
        self.corrects = corrects
        self.values: dict[str, Array] = {"": np.empty(0), **calibration.samples}
        self.count = len(next(iter(calibration.samples.values())))
        self.constants: Mapping[str, Array] = graph.constants
        self._owners = {name: [name] for name in graph.inputs}
        self._last = {
            value: index for index, node in enumerate(graph.nodes) for value in node.inputs
        }
        self._done = 0

    def node(self, node: Node, owners: Mapping[str, str]) -> None:
        """Evaluate a node that is no layer; `owners` maps its results to float values."""
        arrays = [
            self.constants[name] if name in self.constants else self.values[name]
            for name in node.inputs
        ]
        results = operator(node.op).evaluate(arrays, node.attrs)
        for name, array in zip(node.outputs, results, strict=True):
            self._keep(name, array, owners[name])

    def layer(
        self, made_of: Products, layer: IntegerLayer, residual: str, owner: str
    ) -> tuple[IntegerLayer, Array]:
        """The layer with its biases corrected, where there is a reference, and its products.

        `residual` names the integers that are added, or is empty.
        """
        products = made_of.of(self.values, layer.weights)
        reference = self.calibration.references.get(owner)
        if reference is None or not self.corrects:
            return layer, products
        beside = rows_of(self.values[residual], 0, self.count) if residual else None
        rows = rows_of(products, 0, self.count)
        return correct(layer, rows, reference, beside), products

    def compensated(
        self, made_of: Products, layer: IntegerLayer, weight: Array
    ) -> IntegerLayer:
        """The layer with its weights rounded for the integers that they multiply."""
        if is_exact(layer.grid, weight):
            return layer
        found = [self._rows(made_of.x, made_of.attrs)]
        if made_of.image is not None:
            found.append(self._rows(made_of.image, shortcut.attributes(made_of.attrs)))
        rows = [one for one in found if one is not None]
        if len(rows) < len(found):
            return layer
        fed = rows[0]
        if made_of.image is not None:
            fed = np.concatenate(rows, axis=2) * made_of.gains.astype(np.float32)
        if not can_compensate(fed):
            return layer
        return replace(layer, weights=compensated(layer.grid, weight, fed))

    def _rows(self, operand: Operand, attrs: Attrs) -> Array | None:
        """What an operand feeds to sampled outputs."""
        centred = self.values[operand.name].astype(np.int16) - np.int16(operand.zero_point)
        return patches(centred, operand.shape[2:], attrs, self.count)

    def finish(
        self, layer: IntegerLayer, products: Array, residual: str, name: str, owner: str
    ) -> None:
        """Keep the layer's output, a few samples at a time."""
        output = np.empty(products.shape, np.int8)
        at_once = max(1, _CHUNK * self.count // products.size)
        for start in range(0, self.count, at_once):
            part = slice(start, start + at_once)
            beside = self.values[residual][part] if residual else None
            output[part] = layer.output(products[part], beside)
        self._keep(name, output, owner)

    def done(self) -> None:
        """One more node of the float graph is dealt with: drop what nobody reads any more."""
        dead = [owner for owner in self._owners if self._last.get(owner, -1) <= self._done]
        for owner in dead:
            for name in self._owners.pop(owner):
                self.values.pop(name, None)
        self._done += 1

    def _keep(self, name: str, array: Array, owner: str) -> None:
        self.values[name] = array
        self._owners.setdefault(owner, []).append(name)
