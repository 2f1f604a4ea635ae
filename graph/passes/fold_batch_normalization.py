"""Fold BatchNormalization, or a scale and shift spelled out, into the layer beside it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np

from ...ops.types import Array
from ..affine import Affine, affine
from ..edit import free_name
from ..graph import Graph, Node

_LAYERS = ("Dense", "FusedConv")


def fold_batch_normalization(graph: Graph) -> Graph:
    """Fold per-channel scale and shift of an activation into the layer before or after it.

    That is BatchNormalization and Add, Sub, Mul, Div by a constant. It goes into the layer
    before if nobody else reads that one's result, otherwise into the layers after if there is no
    other reader. A shift stays outside a convolution that pads: its zeros would be shifted too.
    What fits neither stays a node. The folded parameters are computed in float64 and rounded
    once.
    """
    with np.errstate(all="ignore"):
        return _into_following(_into_preceding(graph))


def _into_preceding(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    nodes = {node.name: node for node in graph.nodes}
    producer = {value: node.name for node in graph.nodes for value in node.outputs}
    readers = graph.consumers()
    shared = {value for value, after in readers.items() if len(after) > 1}
    for node in graph.nodes:
        found = affine(graph, node)
        if found is None or found.operand not in producer or found.operand in graph.outputs:
            continue
        layer = nodes[producer[found.operand]]
        clipped = layer.attrs.get("min") is not None or layer.attrs.get("max") is not None
        alone = len(readers[found.operand]) == 1 and len(layer.inputs) == 3
        if not _folds(layer, constants) or clipped or not alone:
            continue
        weight, bias = _parameters(layer, constants)
        factors = found.scale.reshape(-1, *(1,) * (weight.ndim - 1))
        layer = replace(
            _with_parameters(
                layer, weight * factors, bias * found.scale + found.shift, constants, shared
            ),
            outputs=node.outputs,
            origin=(*layer.origin, *node.origin),
        )
        nodes[layer.name] = layer
        producer[node.outputs[0]] = layer.name
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values(), constants=constants)


def _into_following(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    nodes = {node.name: node for node in graph.nodes}
    readers = {value: [node.name for node in after] for value, after in graph.consumers().items()}
    shared = {value for value, after in readers.items() if len(after) > 1}
    for node in reversed(graph.nodes):
        found = affine(graph, node)
        result = node.outputs[0]
        after = [nodes[name] for name in readers.get(result, [])]
        if found is None or result in graph.outputs or not after:
            continue
        if not all(_takes(layer, result, found, constants) for layer in after):
            continue
        for layer in after:
            weight, bias = _scaled(layer, found, constants)
            layer = _with_parameters(layer, weight, bias, constants, shared)
            origin = (*node.origin, *layer.origin)
            inputs = (found.operand, *layer.inputs[1:])
            nodes[layer.name] = replace(layer, inputs=inputs, origin=origin)
        readers[found.operand] = [name for name in readers[found.operand] if name != node.name]
        readers[found.operand] += [layer.name for layer in after]
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values(), constants=constants)


def _folds(node: Node, constants: Mapping[str, Array]) -> bool:
    """Whether `node` is a layer whose weight and bias are constants."""
    return node.op in _LAYERS and all(name in constants for name in node.inputs[1:3])


def _takes(node: Node, value: str, found: Affine, constants: Mapping[str, Array]) -> bool:
    """Whether `node` is a layer that `found` folds into when it makes the operand `value`."""
    if not _folds(node, constants) or value in node.inputs[1:]:
        return False
    padded = node.op == "FusedConv" and (any(node.attrs["pads"]) or node.attrs["transposed"])
    return not (padded and found.shift.any())


def _scaled(layer: Node, found: Affine, constants: Mapping[str, Array]) -> tuple[Array, Array]:
    """Weight and bias of `layer` for the operand of `found` in place of its result."""
    weight, bias = _parameters(layer, constants)
    if layer.op == "Dense":
        return weight * found.scale, weight @ found.shift + bias
    outputs, depth = weight.shape[:2]
    many = outputs // layer.attrs["group"]  # outputs of a group see the same channels
    scale, shift = (
        np.repeat(vector.reshape(-1, depth), many, axis=0)[:, :, None, None]
        for vector in (found.scale, found.shift)
    )
    return weight * scale, (weight * shift).sum(axis=(1, 2, 3)) + bias


def _parameters(layer: Node, constants: Mapping[str, Array]) -> tuple[Array, Array]:
    weight, bias = (constants[name].astype(np.float64) for name in layer.inputs[1:3])
    return weight, bias


def _with_parameters(
    layer: Node, weight: Array, bias: Array, constants: dict[str, Array], shared: Set[str]
) -> Node:
    """`layer` with new parameters in `constants`; those of `shared` names stay as they are."""
    names = []
    for name, array in zip(layer.inputs[1:3], (weight, bias), strict=True):
        if name in shared:
            name = free_name(f"{layer.name}.{name}", constants)
        constants[name] = array.astype(np.float32)
        names.append(name)
    return replace(layer, inputs=(layer.inputs[0], *names, *layer.inputs[3:]))
