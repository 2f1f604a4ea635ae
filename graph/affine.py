"""Nodes that compute operand * scale + shift, one scale and one shift a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..ops.types import Array
from .graph import Graph, Node


@dataclass(frozen=True)
class Affine:
    """The value `operand` with float64 `scale` [C] and `shift` [C] along axis 1."""

    operand: str
    scale: Array
    shift: Array


def affine(graph: Graph, node: Node) -> Affine | None:
    """`node` as an Affine of a float32 activation of its own shape, if it is a finite one.

    That is BatchNormalization and Add, Sub, Mul, Div by a constant.
    """
    kind = graph.types[node.outputs[0]]
    if len(kind.shape) < 2 or kind.dtype != "float32":
        return None
    with np.errstate(all="ignore"):
        if node.op == "BatchNormalization":
            found = _batch_normalization(graph.constants, node)
        elif node.op in ("Add", "Sub", "Mul", "Div"):
            found = _arithmetic(graph, node)
        else:
            found = None
    if found is None or graph.types[found.operand].shape != kind.shape:
        return None
    finite = np.isfinite(found.scale).all() and np.isfinite(found.shift).all()
    return found if finite else None


def _arithmetic(graph: Graph, node: Node) -> Affine | None:
    left, right = node.inputs
    if right in graph.constants and left not in graph.constants:
        operand, constant, sign = left, graph.constants[right], 1.0
    elif left in graph.constants and right not in graph.constants and node.op != "Div":
        operand, constant, sign = right, graph.constants[left], -1.0
    else:
        return None
    vector = per_channel(constant, graph.types[node.outputs[0]].shape)
    if vector is None:
        return None
    ones, zeros = np.ones(len(vector)), np.zeros(len(vector))
    if node.op == "Add":
        return Affine(operand, ones, vector)
    if node.op == "Sub":
        return Affine(operand, ones * sign, vector * -sign)
    return Affine(operand, vector if node.op == "Mul" else 1 / vector, zeros)


def per_channel(constant: Array, shape: tuple[int, ...]) -> Array | None:
    """A constant that broadcasts to `shape` as float64 [C], None if it varies within a channel."""
    if constant.ndim > len(shape):
        return None
    sizes = (1,) * (len(shape) - constant.ndim) + constant.shape
    if sizes[1] not in (1, shape[1]) or any(size != 1 for size in (sizes[0], *sizes[2:])):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(-1), (shape[1],))


def _batch_normalization(constants: Mapping[str, Array], node: Node) -> Affine | None:
    operand, *names = node.inputs
    if operand in constants or not all(name in constants for name in names):
        return None
    scale, offset, mean, var = (constants[name].astype(np.float64) for name in names)
    factor = scale / np.sqrt(var + node.attrs["epsilon"])
    return Affine(operand, factor, offset - mean * factor)
