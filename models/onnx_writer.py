"""Writing an ONNX model node by node, so that equal calls give equal bytes.

Every node is named, and its single output carries the node's name: `Conv_0`, `Relu_1`, ... The
counter is common to all operators, as in exports of PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

Floats = NDArray[np.float32]

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17


class OnnxWriter:
    """Collects the nodes and initialisers of a model with one input and one output.

    Shapes exclude the batch, which is the symbolic dimension `N`.
    """

    def __init__(self, name: str, input_name: str, input_shape: Sequence[int]) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.initialisers: list[TensorProto] = []
        self.input = helper.make_tensor_value_info(
            input_name, TensorProto.FLOAT, ["N", *input_shape]
        )

    def node(self, op: str, *inputs: str, constants: Sequence[Any] = (), **attrs: Any) -> str:
        """Append one node; `constants` become initialisers after the named inputs."""
        name = f"{op}_{len(self.nodes)}"
        names = list(inputs)
        for index, array in enumerate(constants):
            names.append(f"{name}.{len(inputs) + index}")
            value = np.ascontiguousarray(array)
            self.initialisers.append(numpy_helper.from_array(value, names[-1]))
        self.nodes.append(helper.make_node(op, names, [name], name=name, **attrs))
        return name

    def conv(
        self, x: str, weight: Floats, bias: Floats | None = None, stride: int = 1, group: int = 1
    ) -> str:
        """A square convolution, weight float32[O, I/group, K, K], padded by K//2 on each side."""
        kernel = weight.shape[-1]
        return self.node(
            "Conv",
            x,
            constants=[weight] if bias is None else [weight, bias],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )

    def gemm(self, x: str, weight: Floats, bias: Floats) -> str:
        """A fully connected layer, weight float32[O, I]."""
        return self.node("Gemm", x, constants=[weight, bias], transB=1)

    def finish(self, last: str, output_name: str, classes: int, doc: str = "") -> ModelProto:
        """The checked model whose output float32[N, classes] is what node `last` computes."""
        self.nodes[-1].output[:] = [output_name]
        assert self.nodes[-1].name == last, "the last node appended is the output"
        output = helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, self.name, [self.input], [output], self.initialisers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vtaflow.models",
            doc_string=doc,
        )
        checker.check_model(model, full_check=True)
        return model


def write_model(model: ModelProto, path: Path) -> None:
    """Write the model with its maps in a fixed order, so that equal models are equal files."""
    path.write_bytes(model.SerializeToString(deterministic=True))
