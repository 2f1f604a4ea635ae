"""Gemm and MatMul with constant weights become Dense, the one form of a fully connected layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ops.types import Array
from ..edit import free_name
from ..graph import Graph, Node


def make_dense(graph: Graph) -> Graph:
    """Rewrite Gemm and MatMul of an [N,I] activation by float32 constants as Dense.

    `alpha`, `beta`, `transB` and the broadcasting of C are folded into weight and bias; a MatMul
    has bias 0. Others (weights or C computed at run time, higher ranks) stay as they are.
    """
    nodes: list[Node] = []
    constants = dict(graph.constants)
    taken = set(graph.types)
    for node in graph.nodes:
        parameters = _parameters(graph, node)
        if parameters is None:
            nodes.append(node)
            continue
        names = []
        for what, array in zip(("weight", "bias"), parameters, strict=True):
            name = free_name(f"{node.name}.{what}", taken)
            constants[name] = array
            taken.add(name)
            names.append(name)
        dense = replace(
            node, op="Dense", inputs=(node.inputs[0], *names), attrs={"min": None, "max": None}
        )
        nodes.append(dense)
    return graph.rebuild(nodes=nodes, constants=constants)


def _parameters(graph: Graph, node: Node) -> tuple[Array, Array] | None:
    """Weight[O,I] and bias[O], if `node` is a fully connected layer."""
    if node.op not in ("Gemm", "MatMul") or graph.types[node.outputs[0]].dtype != "float32":
        return None
    x, *rest = node.inputs
    constant = all(name in graph.constants for name in rest)
    if x in graph.constants or not constant or len(graph.types[x].shape) != 2:
        return None
    arrays = [graph.constants[name] for name in rest]
    if arrays[0].ndim != 2:
        return None
    if node.op == "MatMul":
        return np.ascontiguousarray(arrays[0].T), np.zeros(arrays[0].shape[1], np.float32)
    return _gemm_parameters(node, arrays)


def _gemm_parameters(node: Node, arrays: list[Array]) -> tuple[Array, Array] | None:
    alpha, beta = np.float32(node.attrs["alpha"]), np.float32(node.attrs["beta"])
    weight = arrays[0] if node.attrs["transB"] else arrays[0].T
    offset = arrays[1] if len(arrays) == 2 else np.zeros(1, np.float32)
    differs_by_row = offset.ndim == 2 and offset.shape[0] != 1
    if node.attrs["transA"] or differs_by_row:
        return None
    with np.errstate(all="ignore"):
        scaled = weight if alpha == 1 else weight * alpha
        bias = np.broadcast_to(offset * beta, (1, weight.shape[0]))[0]
    return np.ascontiguousarray(scaled), bias.copy()
