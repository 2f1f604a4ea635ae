"""Fold BatchNormalization, or a scale and shift spelled out, into the Dense beside it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np

from ...ops.types import Array
from ..edit import free_name
from ..graph import Graph, Node

Affine = tuple[str, Array, Array]
"""Operand, scale[C] and shift[C] (float64) of a node that computes operand * scale + shift."""


def fold_batch_normalization(graph: Graph) -> Graph:
    """Fold per-channel scale and shift of an [N,C] activation into the Dense before or after it.

    That is BatchNormalization and Add, Sub, Mul, Div by a constant. It goes into the Dense
    before if nobody else reads that one's result, otherwise into the Dense layers after if
    there is no other reader. What fits neither stays a node. The folded parameters are computed
    in float64 and rounded once.
    """
    return _into_following(_into_preceding(graph))


def _into_preceding(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    nodes = {node.name: node for node in graph.nodes}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()
    shared = {value for value, after in readers.items() if len(after) > 1}
    for node in graph.nodes:
        affine = _affine(graph, node)
        if affine is None or affine[0] not in producer or affine[0] in graph.outputs:
            continue
        operand, scale, shift = affine
        dense = nodes[producer[operand]]
        clipped = dense.attrs.get("min") is not None or dense.attrs.get("max") is not None
        if not _folds(dense, constants) or clipped or len(readers[operand]) > 1:
            continue
        weight, bias = _parameters(dense, constants)
        weight, bias = weight * scale[:, None], bias * scale + shift
        origin = (*dense.origin, *node.origin)
        dense = replace(
            _with_parameters(dense, weight, bias, constants, shared),
            outputs=node.outputs,
            origin=origin,
        )
        nodes[dense.name] = dense
        producer[node.outputs[0]] = dense.name
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values(), constants=constants)


def _into_following(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    nodes = {node.name: node for node in graph.nodes}
    readers = {value: [node.name for node in after] for value, after in graph.consumers().items()}
    shared = {value for value, after in readers.items() if len(after) > 1}
    for node in reversed(graph.nodes):
        affine = _affine(graph, node)
        result = node.outputs[0]
        after = [nodes[name] for name in readers.get(result, [])]
        if affine is None or result in graph.outputs or not after:
            continue
        if not all(_folds(dense, constants) for dense in after):
            continue
        operand, scale, shift = affine
        for dense in after:
            weight, bias = _parameters(dense, constants)
            weight, bias = weight * scale, weight @ shift + bias
            dense = _with_parameters(dense, weight, bias, constants, shared)
            origin = (*node.origin, *dense.origin)
            inputs = (operand, *dense.inputs[1:])
            nodes[dense.name] = replace(dense, inputs=inputs, origin=origin)
        readers[operand] = [name for name in readers[operand] if name != node.name]
        readers[operand] += [dense.name for dense in after]
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values(), constants=constants)


def _folds(node: Node, constants: Mapping[str, Array]) -> bool:
    """Whether `node` is a Dense whose weight and bias are constants."""
    return node.op == "Dense" and all(name in constants for name in node.inputs[1:])


def _parameters(dense: Node, constants: Mapping[str, Array]) -> tuple[Array, Array]:
    weight, bias = (constants[name].astype(np.float64) for name in dense.inputs[1:])
    return weight, bias


def _with_parameters(
    dense: Node, weight: Array, bias: Array, constants: dict[str, Array], shared: Set[str]
) -> Node:
    """`dense` with new parameters in `constants`; those of `shared` names stay as they are."""
    names = []
    for name, array in zip(dense.inputs[1:], (weight, bias), strict=True):
        if name in shared:
            name = free_name(f"{dense.name}.{name}", constants)
        with np.errstate(over="ignore"):
            constants[name] = array.astype(np.float32)
        names.append(name)
    return replace(dense, inputs=(dense.inputs[0], *names))


def _affine(graph: Graph, node: Node) -> Affine | None:
    """`node` as operand * scale + shift per channel of an [N,C] float32 activation."""
    kind = graph.types[node.outputs[0]]
    if len(kind.shape) != 2 or kind.dtype != "float32":
        return None
    if node.op == "BatchNormalization":
        return _batch_normalization(graph.constants, node)
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    left, right = node.inputs
    if right in graph.constants and left not in graph.constants:
        operand, constant, sign = left, graph.constants[right], 1.0
    elif left in graph.constants and right not in graph.constants and node.op != "Div":
        operand, constant, sign = right, graph.constants[left], -1.0
    else:
        return None
    channels = kind.shape[1]
    if graph.types[operand].shape != kind.shape or constant.size not in (1, channels):
        return None
    if constant.ndim == 2 and constant.shape[0] != 1:
        return None
    vector = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "Add":
        return operand, ones, vector
    if node.op == "Sub":
        return operand, ones * sign, vector * -sign
    if node.op == "Mul":
        return operand, vector, zeros
    return (operand, 1 / vector, zeros) if vector.all() else None


def _batch_normalization(constants: Mapping[str, Array], node: Node) -> Affine | None:
    operand, *names = node.inputs
    if operand in constants or not all(name in constants for name in names):
        return None
    scale, offset, mean, var = (constants[name].astype(np.float64) for name in names)
    if (var + node.attrs["epsilon"] <= 0).any():
        return None
    factor = scale / np.sqrt(var + node.attrs["epsilon"])
    return operand, factor, offset - mean * factor
