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
) -> Known | None:
    """What `node` makes, if that is known from `known` and `types` and has at most `limit` bytes.

    Raises ValueError when the operator refuses the values, such as an index out of range.
    """
    if node.op == "Shape" and node.inputs[0] not in known:
        sizes = types[node.inputs[0]].shape
        larger = (*(size + 1 for size in sizes[:1]), *sizes[1:])
        return Known(shape.sizes(sizes, node.attrs), shape.sizes(larger, node.attrs))
    if not all(name in known for name in node.inputs):
        return None
    if sum(bytes_of(types[name]) for name in node.outputs) > limit:
        return None
    operands = [known[name] for name in node.inputs]
    evaluate = operator(node.op).evaluate
    value = evaluate([operand.value for operand in operands], node.attrs)[0]
    if all(operand.value is operand.probe for operand in operands):
        return Known(value, value)
    return Known(value, evaluate([operand.probe for operand in operands], node.attrs)[0])
