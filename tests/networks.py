"""Small float graphs for the tests of passes: fully connected networks at the Dense level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.passes.place import place
from vtaflow.ops.types import Array, TensorType

RELU = (0.0, None)
LINEAR = (None, None)
Bounds = tuple[float | None, float | None]


class Builder:
    """Collects nodes and constants of one graph."""

    def __init__(self, features: int, batch: int = 1, seed: int = 0) -> None:
        self.inputs = {"x": TensorType((batch, features))}
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.random = np.random.default_rng(seed)

    def dense(
        self,
        source: str,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        bounds: Bounds = LINEAR,
    ) -> str:
        """Append a Dense node; returns its value."""
        name = f"dense{len(self.nodes)}"
        weight = np.asarray(weight, np.float32)
        self.constants[f"{name}.w"] = weight
        offset = np.zeros(len(weight)) if bias is None else bias
        self.constants[f"{name}.b"] = np.asarray(offset, np.float32)
        attrs = {"min": bounds[0], "max": bounds[1]}
        inputs = (source, f"{name}.w", f"{name}.b")
        origin = (f"onnx_{name}",)
        self.nodes.append(Node(name, "Dense", inputs, (f"{name}.y",), attrs, origin))
        return f"{name}.y"

    def random_dense(
        self, source: str, features: int, outputs: int, bounds: Bounds = LINEAR
    ) -> str:
        """Append a Dense node with random weights of different sizes per channel."""
        sizes = self.random.uniform(0.2, 2.0, (outputs, 1)) / np.sqrt(features)
        weight = self.random.standard_normal((outputs, features)) * sizes
        return self.dense(source, weight, self.random.standard_normal(outputs) * 0.2, bounds)

    def host(self, op: str, source: str, **attrs: object) -> str:
        """Append a host operator of one operand."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name, op, (source,), (f"{name}.y",), attrs, (name,)))
        return f"{name}.y"

    def build(self, *outputs: str) -> Graph:
        """The graph, with Dense placed on VTA and everything else on the host."""
        graph = Graph.build("net", self.inputs, outputs, self.nodes, self.constants)
        return place(graph, only_dense)


def only_dense(node: Node, graph: Graph) -> str | None:
    """An `accepts` for `place`: VTA runs Dense and nothing else."""
    return None if node.op == "Dense" else f"no template for {node.op}"


def mlp(widths: Sequence[int], batch: int = 1, seed: int = 0, hidden: Bounds = RELU) -> Graph:
    """A random network with `hidden` bounds on all layers but the last, which is linear."""
    builder = Builder(widths[0], batch, seed)
    value = "x"
    for depth, (features, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        last = depth == len(widths) - 2
        value = builder.random_dense(value, features, outputs, LINEAR if last else hidden)
    return builder.build(value)


def normal(features: int, samples: int, seed: int = 1) -> dict[str, Array]:
    """Normal samples for the input "x"."""
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((samples, features)).astype(np.float32)}
