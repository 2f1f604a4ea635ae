"""The batch axis: every value made from the model's inputs keeps the batch on axis 0.

vtaflow runs the images of a batch independently (it may loop over them, or fill a batch up), so
an operator that moves, splits or mixes axis 0 has no meaning here and is refused at import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ..graph.graph import Node
from ..ops.types import TensorType

_TO_THE_END = 2**31 - 1  # an end of a Slice that no axis reaches


@dataclass(frozen=True)
class Seen:
    """A node with its operands' and result's types; `batched` names values with a batch axis."""

    node: Node
    types: Mapping[str, TensorType]
    batched: Collection[str]

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.types[self.node.inputs[index]].shape

    def has_batch(self, index: int) -> bool:
        """Whether an operand is there and has the batch on axis 0."""
        return index < len(self.node.inputs) and self.node.inputs[index] in self.batched

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.types[self.node.outputs[0]].shape


def batch_problem(seen: Seen) -> str | None:
    """Why the result of a node with a batched operand has no batch on axis 0, or None."""
    rule = _RULES.get(seen.node.op, _keeps)
    if rule(seen):
        return None
    return "moves or mixes the batch axis (axis 0 of the model's inputs)"


def _keeps(seen: Seen) -> bool:
    """For operators that leave axis 0 alone: it is still there."""
    first = next(index for index in range(len(seen.node.inputs)) if seen.has_batch(index))
    return seen.result[:1] == seen.shape(first)[:1]


def _broadcasts(seen: Seen) -> bool:
    """Batched operands have the full rank, others have no entry per image."""
    rank = len(seen.result)
    for index in range(len(seen.node.inputs)):
        shape = seen.shape(index)
        if seen.has_batch(index) and len(shape) != rank:
            return False
        if not seen.has_batch(index) and len(shape) == rank and shape[:1] not in ((), (1,)):
            return False
    return True


def _gemm(seen: Seen) -> bool:
    if not seen.has_batch(0) or seen.node.attrs["transA"] or seen.has_batch(1):
        return False
    if len(seen.node.inputs) < 3:
        return True
    rows = seen.shape(2)[:-1]  # of C: none, or how many
    return bool(rows) if seen.has_batch(2) else rows in ((), (1,))


def _matmul(seen: Seen) -> bool:
    """The batch is a row of the left operand, or one of the axes that broadcast."""
    left, right = len(seen.shape(0)), len(seen.shape(1))
    if not seen.has_batch(1) and right <= 2:
        return left >= 2
    rank = len(seen.result)
    for index, own in ((0, left), (1, right)):
        if seen.has_batch(index) and own != rank:
            return False
        if not seen.has_batch(index) and own == rank and seen.shape(index)[0] != 1:
            return False
    return rank > 2


def _gather(seen: Seen) -> bool:
    axis = seen.node.attrs["axis"]
    if seen.has_batch(0):
        return axis > 0 and not seen.has_batch(1)
    return axis == 0 and len(seen.shape(1)) > 0


def _concat(seen: Seen) -> bool:
    every = all(seen.has_batch(index) for index in range(len(seen.node.inputs)))
    return every and seen.node.attrs["axis"] > 0


def _slice(seen: Seen) -> bool:
    attrs = seen.node.attrs
    if 0 not in attrs["axes"]:
        return True
    index = attrs["axes"].index(0)
    whole = attrs["starts"][index] == 0 and attrs["ends"][index] >= _TO_THE_END
    return bool(whole and attrs["steps"][index] == 1)


def _only_first(seen: Seen) -> bool:
    """For operators with parameters: those are the same for all images."""
    return not any(map(seen.has_batch, range(1, len(seen.node.inputs))))


def _beside_axes(seen: Seen) -> bool:
    return 0 not in seen.node.attrs["axes"] and _only_first(seen)


def _beside_axis(seen: Seen) -> bool:
    return bool(seen.node.attrs["axis"] != 0)


def _pad(seen: Seen) -> bool:
    pads = seen.node.attrs["pads"]
    return bool(pads[0] == pads[len(pads) // 2] == 0)


def _expand(seen: Seen) -> bool:
    target = seen.node.attrs["shape"]
    full = len(target) == len(seen.result)
    return len(seen.shape(0)) == len(seen.result) and not (full and target[0] != 1)


_RULES: Mapping[str, Callable[[Seen], bool]] = {
    "Add": _broadcasts,
    "ArgMax": _beside_axis,
    "ArgMin": _beside_axis,
    "BatchNormalization": _only_first,
    "Concat": _concat,
    "Conv": _only_first,
    "ConvTranspose": _only_first,
    "DequantizeLinear": _only_first,
    "Div": _broadcasts,
    "Equal": _broadcasts,
    "Expand": _expand,
    "Flatten": lambda seen: seen.node.attrs["axis"] == 1,
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": _broadcasts,
    "InstanceNormalization": _only_first,
    "LayerNormalization": _beside_axes,
    "Less": _broadcasts,
    "LogSoftmax": _beside_axes,
    "MatMul": _matmul,
    "Max": _broadcasts,
    "Min": _broadcasts,
    "Mul": _broadcasts,
    "PRelu": _broadcasts,
    "Pad": _pad,
    "Pow": _broadcasts,
    "QuantizeLinear": _only_first,
    "ReduceMax": _beside_axes,
    "ReduceMean": _beside_axes,
    "ReduceMin": _beside_axes,
    "ReduceSum": _beside_axes,
    "Resize": _beside_axes,
    "Slice": _slice,
    "Softmax": _beside_axes,
    "Split": _beside_axis,
    "Squeeze": _beside_axes,
    "Sub": _broadcasts,
    "Tile": lambda seen: seen.node.attrs["repeats"][0] == 1,
    "Transpose": lambda seen: seen.node.attrs["perm"][0] == 0,
    "Unsqueeze": _beside_axes,
    "Where": _broadcasts,
}
