"""Layers too large for one tile: divided, or on the host with the reason; never an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, CompileOptions, compile
from vtaflow.errors import ModelError
from vtaflow.evaluate import compare
from vtaflow.ops.types import Array

PYNQ = Target.load("pynq")
SMALL = replace(PYNQ, log_inp_buff_size=11, log_acc_buff_size=13)


def conv_and(
    path: Path, op: str, size: tuple[int, int], kernel: int = 1, **attrs: Any
) -> tuple[Path, Array]:
    """A convolution of `size` pictures, then `op`; and samples for it."""
    random = np.random.default_rng(7)
    weight = random.standard_normal((20, 3, kernel, kernel)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", **attrs),
        helper.make_node(op, ["c"], ["y"], "last"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset), path)
    return path, random.standard_normal((4, 3, *size)).astype(np.float32) + 0.3


def devices(compiled: CompiledModel) -> dict[str, str]:
    """Where every ONNX node runs."""
    return {row["node"]: row["device"] for row in compiled.artifact.manifest["placement"]}


@pytest.mark.parametrize("size", [(56, 56), (7, 61), (40, 33)])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_pool_of_a_large_image_takes_two_steps(
    tmp_path: Path, op: str, size: tuple[int, int]
) -> None:
    model, x = conv_and(tmp_path / "m.onnx", op, size)
    compiled = compile(model, PYNQ, x)
    found = compare(compiled, {"x": x})
    assert (found.launches, found.mismatch) == (1, None)
    assert devices(compiled) == {"conv": "vta", "last": "vta"}
    assert found.outputs[0].sqnr_db > 20


def test_what_no_tile_holds_runs_on_the_host(tmp_path: Path) -> None:
    model, x = conv_and(tmp_path / "m.onnx", "Relu", (40, 40), 9, dilations=[3, 3])
    compiled = compile(model, SMALL, x)
    assert devices(compiled) == {"conv": "host", "last": "host"}
    (reason, _) = (row["reason"] for row in compiled.artifact.manifest["placement"])
    assert reason == "the conv template finds no tile that fits"
    assert compare(compiled, {"x": x}).mismatch is None


def test_the_rest_of_the_model_stays_on_vta(tmp_path: Path) -> None:
    model, x = conv_and(tmp_path / "m.onnx", "Relu", (40, 40), 9, dilations=[3, 3])
    graph = onnx.load(model)
    weight = np.eye(20, dtype=np.float32)[:, :, None, None]
    graph.graph.initializer.append(numpy_helper.from_array(weight, "v"))
    graph.graph.node[1].output[0] = "r"
    graph.graph.node.append(helper.make_node("Conv", ["r", "v"], ["y"], "second"))
    onnx.save(graph, model)
    compiled = compile(model, SMALL, x)
    assert devices(compiled)["second"] == "vta"
    found = compare(compiled, {"x": x})
    assert found.mismatch is None and found.outputs[0].sqnr_db > 25


def test_an_override_of_what_has_no_tile_is_refused(tmp_path: Path) -> None:
    model, x = conv_and(tmp_path / "m.onnx", "Relu", (40, 40), 9, dilations=[3, 3])
    with pytest.raises(ModelError, match="cannot be placed on VTA: the conv template finds no"):
        compile(model, SMALL, x, CompileOptions(placement={"conv": "vta"}))
