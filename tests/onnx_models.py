"""Small ONNX models for the tests of the frontend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vtaflow.errors import ModelError
from vtaflow.frontend.onnx_import import import_model
from vtaflow.ops.types import Array

NEWEST = onnx.defs.onnx_opset_version()
RNG = np.random.default_rng(3)
Dims = Sequence[int | str | None]


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(number: float) -> Array:
    return np.asarray(number, np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Array] | None = None,
    inputs: dict[str, Dims] | None = None,
    outputs: dict[str, Dims | None] | None = None,
    opset: int = 13,
    value_info: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A float model from `x` (N×6 unless told) to `y`."""
    given_inputs = {"x": ("N", 6)} if inputs is None else inputs
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in given_inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in ({"y": None} if outputs is None else outputs).items()
        ],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        value_info=list(value_info),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node with blank-separated operand names; "-" is an absent one."""
    operands = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, operands, outputs.split(), **attributes)


def layer(name: str = "", **attributes: Any) -> onnx.NodeProto:
    return node("Gemm", "x w", "y", name=name, **attributes)


def problems_of(model: onnx.ModelProto, batch: int = 1, **more: Any) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        import_model(model, batch, source="m.onnx", **more)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("m.onnx: ")
    return caught.value.problems


VECTOR = {"c": floats(6)}
SQUARE = {"w": floats(6, 4)}
CUBE: dict[str, Dims] = {"x": ("N", 2, 3)}
