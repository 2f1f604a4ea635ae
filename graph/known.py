"""Values that are known before any data arrives: constants, shapes, and arithmetic on them.

A shape knows the batch, and a graph may be rebatched, so a known value is worked out twice: for
the graph's batch and for a batch one larger. Where the two differ it must not become a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..ops import operator, shape
from ..ops.types import Array, TensorType, bytes_of
from .graph import Node


@dataclass(frozen=True)
class Known:
    """A known value for the graph's batch, and the same (`probe`) for a batch one larger."""

    value: Array
    probe: Array

    @property
    def fixed(self) -> bool:
        """Whether it does not depend on the batch."""
        return self.value is self.probe or np.array_equal(self.value, self.probe)


def constants_known(constants: Mapping[str, Array]) -> dict[str, Known]:
    """Constants as known values."""
    return {name: Known(array, array) for name, array in constants.items()}


def derive(
    node: Node, types: Mapping[str, TensorType], known: Mapping[str, Known], limit: int
) -> dict[str, Known]:
    """What `node` makes, by name, if that is known from `known` and `types`; else nothing.

    Nothing either if it has more than `limit` bytes. Raises ValueError when the operator refuses
    the values, such as an index out of range.
    """
    if node.op == "Shape" and node.inputs[0] not in known:
        sizes = types[node.inputs[0]].shape
        larger = (*(size + 1 for size in sizes[:1]), *sizes[1:])
        shapes = (shape.sizes(each, node.attrs) for each in (sizes, larger))
        return {node.outputs[0]: Known(*shapes)}
    if not all(name in known for name in node.inputs):
        return {}
    if sum(bytes_of(types[name]) for name in node.outputs) > limit:
        return {}
    operands = [known[name] for name in node.inputs]
    evaluate = operator(node.op).evaluate
    values = evaluate([operand.value for operand in operands], node.attrs)
    probes = values
    if not all(operand.value is operand.probe for operand in operands):
        probes = evaluate([operand.probe for operand in operands], node.attrs)
    return dict(zip(node.outputs, map(Known, values, probes), strict=True))
