"""Which values can never be negative."""

from __future__ import annotations

from .graph import Graph, Node

_ALWAYS = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
_LIKE_OPERANDS = (
    "Add",
    "AveragePool",
    "Concat",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "Max",
    "MaxPool",
    "Mul",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
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
"""Operators that make nothing negative of operands that are not."""


def non_negative(graph: Graph) -> set[str]:
    """Names of the values that are at least 0 whatever the inputs are."""
    found = {name for name, array in graph.constants.items() if (array >= 0).all()}
    for node in graph.nodes:
        if makes_non_negative(node, found):
            found.update(node.outputs)
    return found


def makes_non_negative(node: Node, known: set[str]) -> bool:
    """Whether no result of `node` is negative, if no value of `known` is."""
    if node.op in _ALWAYS:
        return True
    if node.op in ("Clip", "Dense", "FusedConv"):
        low, high = node.attrs.get("min"), node.attrs.get("max")
        positive = known.issuperset(node.inputs) or (low is not None and low >= 0)
        return bool(positive and (high is None or high >= 0))
    return node.op in _LIKE_OPERANDS and known.issuperset(node.inputs)
