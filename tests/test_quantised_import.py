"""Models quantised elsewhere: imported as they are, and as the float function they stand for.

As they are they agree with onnxruntime but for sums that round to the other side of a tie, and
what that leads to: within three steps of the last quantiser, a quarter of a step in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vtaflow.compiler import compile
from vtaflow.errors import ModelError
from vtaflow.frontend.expanders import EXPANDERS
from vtaflow.frontend.onnx_import import import_model
from vtaflow.frontend.quantised import Imported, unquantised
from vtaflow.frontend.reference import cpu_reference
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.simplify import simplify
from vtaflow.ops.types import Array, TensorType

from .onnx_models import Dims, build, ints, node, problems_of, scalar
from .oracles import close, onnxruntime_says

KINDS = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}
DIMS: dict[str, Dims] = {"x": ("N", 3, 8, 8)}


RNG = np.random.default_rng(8)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


class Reader:
    """Calibration data as onnxruntime reads them."""

    def __init__(self, batches: list[dict[str, Array]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.batches, None)


def network() -> onnx.ModelProto:
    """A small float network with most of what quantisers know."""
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 w2 b2", "c2", pads=[1, 1, 1, 1], group=2),
        node("Add", "c2 p1", "a1"),
        node("Relu", "a1", "r2"),
        node("Concat", "r2 p1", "k", axis=1),
        node("Conv", "k w3", "c3"),
        node("LeakyRelu", "c3", "l", alpha=0.125),
        node("Sigmoid", "l", "s"),
        node("Mul", "l s", "m"),
        node("AveragePool", "m", "ap", kernel_shape=[2, 2]),
        node("GlobalAveragePool", "ap", "g"),
        node("Flatten", "g", "f"),
        node("MatMul", "f w4", "h"),
        node("Gemm", "h w5 b5", "q", transB=1),
        node("Softmax", "q", "y"),
    ]
    # Its own numbers, whatever other tests have drawn.
    random = np.random.default_rng(3)

    def floats(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    weights = {
        "w1": floats(4, 3, 3, 3) / 3,
        "b1": floats(4) / 9,
        "w2": floats(4, 2, 3, 3) / 3,
        "b2": floats(4) / 9,
        "w3": floats(6, 8, 1, 1) / 3,
        "w4": floats(6, 6) / 2,
        "w5": floats(5, 6) / 2,
        "b5": floats(5) / 9,
    }
    return build(nodes, weights, DIMS, {"y": ("N", 5)})


NETWORK = network()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("layout", ["QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("activations", "weights", "per_channel"),
    [("QUInt8", "QInt8", True), ("QInt8", "QInt8", False), ("QUInt8", "QUInt8", False)],
)
def test_what_onnxruntime_quantises(
    layout: str, activations: str, weights: str, per_channel: bool, tmp_path: Path
) -> None:
    tool = pytest.importorskip("onnxruntime.quantization")
    random = np.random.default_rng(4)
    model, data = NETWORK, random.standard_normal((16, 3, 8, 8)).astype(np.float32)
    onnx.save(model, tmp_path / "float.onnx")

    tool.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantised.onnx",
        Reader([{"x": data}]),
        quant_format=tool.QuantFormat[layout],
        activation_type=tool.QuantType[activations],
        weight_type=tool.QuantType[weights],
        per_channel=per_channel,
    )
    quantised = onnx.load(tmp_path / "quantised.onnx")
    if layout == "QOperator":
        assert {each.op_type for each in quantised.graph.node} >= set(EXPANDERS) - {"Mean", "Sum"}
    graph = import_model(quantised, 16)
    feeds = {"x": data}
    (expected,) = onnxruntime_says(quantised, feeds, literally=True)
    step = 1 / 255  # of the Softmax at the end
    error = np.abs(interpret(graph, feeds)["y"] - expected)
    assert error.max() < 3.01 * step and error.mean() < 0.25 * step

    imported = unquantised(graph)
    assert not {each.op for each in imported.graph.nodes} & {"QuantizeLinear", "DequantizeLinear"}
    (original,) = onnxruntime_says(model, feeds)
    found = interpret(imported.graph, feeds)["y"]
    assert np.abs(found - original).max() < 0.05  # the weights' rounding
    simple = simplify(imported.graph)
    close(interpret(simple, feeds)["y"], found)
    layers = [each for each in simple.nodes if each.op in ("Dense", "FusedConv")]
    assert [each.attrs["min"] for each in layers] == [0.0, 0.0, None, None, None]
    assert all(each.outputs[0] in imported.ranges for each in layers[:3])


# By hand


def quantised_model(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: str = "float",
    outputs: str = "float",
) -> onnx.ModelProto:
    """From x (N, 2, 4) to y, with scales `s`, `t`, zero points `z`, `u` among the constants."""
    model = build(nodes, {**SCALES, **constants}, {"x": ("N", 2, 4)}, opset=13)
    for info, kind in ((model.graph.input[0], inputs), (model.graph.output[0], outputs)):
        if kind != "float":
            info.type.tensor_type.elem_type = KINDS[kind]
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


SCALES = {
    "s": scalar(0.125),
    "z": np.array(-20, np.int8),
    "t": scalar(0.0625),
    "u": np.array(0, np.uint8),
    "v": np.array(7, np.uint8),
}
X = (np.random.default_rng(5).standard_normal((3, 2, 4)) * 8).astype(np.float32)


def both(model: onnx.ModelProto, x: Array = X) -> tuple[Imported, Array]:
    """The float function of `model` and its result; the model itself agrees with onnxruntime."""
    graph = import_model(model, len(x))
    (expected,) = onnxruntime_says(model, {"x": x})
    close(interpret(graph, {"x": x})["y"], expected)
    imported = unquantised(graph)
    return imported, interpret(imported.graph, {"x": x})["y"]


def test_a_pair_vanishes_and_leaves_its_range() -> None:
    pair = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    imported, found = both(quantised_model([*pair, node("Tanh", "d")], {}))
    close(found, np.tanh(X))
    assert [each.op for each in simplify(imported.graph).nodes] == ["Tanh"]
    assert imported.ranges == {"x": (-13.5, 18.375), "d": (-13.5, 18.375)}
    assert imported.limits["x"] == 18.375


def test_limits_use_all_of_minus_128() -> None:
    imported = Imported(import_model(build([node("Relu", "x")])), {"x": (-128.0, 127.0)})
    assert imported.limits == {"x": 127.0}


def test_what_is_moved_keeps_its_limit() -> None:
    moved = import_model(build([node("Flatten", "x", "f"), node("Relu", "f")]))
    assert Imported(moved, {"x": (-128.0, 3.0)}).limits == {"x": 127.0, "f": 127.0}
    both_stated = {"x": (-128.0, 3.0), "f": (0.0, 2.0)}
    assert Imported(moved, both_stated).limits == {"x": 127.0, "f": 2.0}


def test_the_reference_of_a_quantised_model_is_its_own_integers(tmp_path: Path) -> None:
    pair = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    onnx.save(quantised_model([*pair, node("Tanh", "d")], {}), tmp_path / "q.onnx")
    onnx.save(build([node("Relu", "x")]), tmp_path / "f.onnx")
    assert cpu_reference(tmp_path / "q.onnx").arithmetic == "quantised"
    assert cpu_reference(tmp_path / "f.onnx").arithmetic == "float32"


def test_float_models_pass_through() -> None:
    graph = import_model(build([node("Relu", "x")]))
    assert unquantised(graph) == Imported(graph, {})


def test_a_merged_relu_becomes_a_clip() -> None:
    """The zero point is the least integer: negative values are cut off, as far as there are any."""
    pair = [node("QuantizeLinear", "h t u", "q"), node("DequantizeLinear", "q t u")]
    imported, found = both(quantised_model([node("Tanh", "x", "h"), *pair], {}))
    close(found, np.maximum(np.tanh(X), 0))
    assert [each.op for each in imported.graph.nodes] == ["Tanh", "Clip", "Identity"]
    assert imported.graph.nodes[1].attrs == {"min": 0.0, "max": 255 / 16}
    for first in ("Sigmoid", "Relu"):
        imported, _ = both(quantised_model([node(first, "x", "h"), *pair], {}))
        assert [each.op for each in imported.graph.nodes] == [first, "Identity"]
    pair = [node("QuantizeLinear", "x t u", "q"), node("DequantizeLinear", "q t u")]
    imported, _ = both(quantised_model(pair, {}))
    assert [each.op for each in imported.graph.nodes] == ["Identity"]  # inputs are not activations


def test_integers_may_be_moved() -> None:
    nodes = [
        node("QuantizeLinear", "x t v", "q"),
        node("Reshape", "q r", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1]),
        node("MaxPool", "b", "c", kernel_shape=[2]),
        node("Pad", "c p w", "e"),
        node("Concat", "e e", "f", axis=1),
        node("Slice", "f from to on", "g"),
        node("Gather", "g i", "h", axis=1),
        node("DequantizeLinear", "h t v"),
    ]
    constants = {
        "r": ints(0, 4, 2),
        "p": ints(0, 0, 0, 0, 1, 0),
        "w": np.array(3, np.uint8),
        "from": ints(1),
        "to": ints(5),
        "on": ints(1),
        "i": ints(2, 0),
    }
    imported, found = both(quantised_model(nodes, constants))
    moved = X.reshape(3, 4, 2).transpose(0, 2, 1)
    moved = np.maximum(moved[:, :, :-1], moved[:, :, 1:])
    moved = np.pad(moved, ((0, 0), (0, 1), (0, 0)), constant_values=(3 - 7) / 16)
    close(found, np.concatenate([moved, moved], axis=1)[:, [3, 1]])
    assert imported.ranges["x"] == imported.ranges["y"] == (-7 / 16, 248 / 16)


def test_integer_inputs_and_outputs_keep_their_conversion() -> None:
    nodes = [
        node("Reshape", "x r", "a"),
        node("DequantizeLinear", "a s z", "b"),
        node("Relu", "b", "c"),
        node("QuantizeLinear", "c t u", "d"),
        node("Identity", "d"),
    ]
    model = quantised_model(nodes, {"r": ints(0, 8)}, "int8", "uint8")
    x = np.arange(-128, 128, 16, dtype=np.int8).reshape(2, 2, 4)
    imported, found = both(model, x)
    simple = simplify(imported.graph)
    kept = ["Flatten", "DequantizeLinear", "Relu", "QuantizeLinear"]
    assert [each.op for each in simple.nodes] == kept
    assert simple.nodes[-1].origin == ("Identity_4",)
    assert np.array_equal(found, onnxruntime_says(model, {"x": x})[0])
    assert imported.ranges["b"] == (-13.5, 18.375)


def test_a_quantised_value_may_be_an_output_too() -> None:
    nodes = [node("Tanh", "x", "h"), node("QuantizeLinear", "h s z", "y")]
    nodes += [node("DequantizeLinear", "y s z", "d"), node("Relu", "d", "k")]
    model = quantised_model(nodes, {}, outputs="int8")
    model.graph.output.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, None))
    graph = unquantised(import_model(model, 3)).graph
    values = interpret(simplify(graph), {"x": X})
    expected = onnxruntime_says(model, {"x": X})
    assert np.array_equal(values["y"], expected[0])
    close(values["k"], np.maximum(np.tanh(X), 0))


def test_weights_per_channel_and_without_zero_point() -> None:
    constants: dict[str, Array] = {
        "w": np.arange(-12, 12, dtype=np.int8).reshape(4, 6),
        "ws": np.array([0.5, 0.25, 1, 2], np.float32),
        "wz": np.array([0, 3, -2, 1], np.int8),
        "b": np.array([1, -2, 3, 4], np.int32),
        "f": floats(4, 4),
        "fs": np.full(4, 0.03, np.float32),
    }
    nodes = [
        node("DequantizeLinear", "w ws wz", "W", axis=0),
        node("DequantizeLinear", "b s", "B"),
        node("Reshape", "x r", "a"),
        node("Slice", "a from to on", "c"),
        node("Gemm", "c W B", "h", transB=1),
        node("QuantizeLinear", "f fs", "F8", axis=-2),
        node("DequantizeLinear", "F8 fs", "F", axis=0),
        node("MatMul", "h F"),
    ]
    constants |= {"r": ints(0, 8), "from": ints(0), "to": ints(6), "on": ints(1)}
    imported, found = both(quantised_model(nodes, constants))
    assert imported.ranges == {}
    real = (constants["w"] - constants["wz"][:, None].astype(int)) * constants["ws"][:, None]
    hidden = X.reshape(3, 8)[:, :6] @ real.T + constants["b"] * 0.125
    weight = np.clip(np.rint(constants["f"] / np.float32(0.03)), 0, 255) * np.float32(0.03)
    np.testing.assert_allclose(found, hidden @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantisation_saturates_and_rounds_half_to_even(dtype: str) -> None:
    x = np.array([-1e30, -9, -0.1875, -0.0625, 0.0625, 0.1875, 9, 1e30], np.float32)
    nodes = [node("QuantizeLinear", "x s p", "q"), node("DequantizeLinear", "q s p")]
    model = quantised_model(nodes, {"p": np.array(5, dtype)})
    both(model, x.reshape(1, 2, 4))


def test_matrix_products_of_integers() -> None:
    """QLinearMatMul with a scale for every column; QGemm without a quantised result."""
    constants: dict[str, Array] = {
        "w": np.arange(-12, 0, dtype=np.int8).reshape(4, 3),
        "ws": np.array([0.5, 0.25, 1], np.float32),
        "wz": np.array([0, 3, -2], np.int8),
        "k": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "b": np.array([100, -200], np.int32),
        "r": ints(-1, 3),
        "l": scalar(4),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearMatMul", "q s z w ws wz l z", "h"),
        node("DequantizeLinear", "h l z"),
    ]
    _, found = both(quantised_model(nodes, constants))
    weight = (constants["w"] - constants["wz"].astype(int)) * constants["ws"]
    np.testing.assert_allclose(found, X @ weight, rtol=1e-4, atol=1e-3)
    nodes = [
        node("Slice", "x from to on", "a"),
        node("Flatten", "a", "f"),
        node("QuantizeLinear", "f t u", "q"),
        node("QGemm", "q t u k t v b", transB=1, alpha=0.5, domain="com.microsoft"),
    ]
    constants |= {"from": ints(0), "to": ints(1), "on": ints(1), "k": constants["k"][:, :2]}
    constants["k"] = np.arange(8, dtype=np.uint8).reshape(2, 4)
    _, found = both(quantised_model(nodes, constants), np.abs(X))
    weight = (constants["k"].astype(int) - 7) / 16
    expected = 0.5 * (np.abs(X[:, 0]) @ weight.T + constants["b"] / 256)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.2)


def test_problems_are_listed_together() -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q t z", "a"),  # another scale
        node("Add", "q q", "b", name="sum"),
        node("DequantizeLinear", "b s z", "c"),
        node("QuantizeLinear", "x t z", "r"),
        node("Concat", "q r", "e", axis=1, name="joint"),
        node("DequantizeLinear", "e s z", "f"),
        node("QuantizeLinear", "x n z", "g", name="negative"),
        node("DequantizeLinear", "g n z", "h"),
        node("QuantizeLinear", "x k p", "i", axis=1),
        node("Reshape", "i w", "j", name="shape"),
        node("DequantizeLinear", "j s z", "l"),
        node("Add", "a c", "y"),
        node("Concat", "f h l", "y2", axis=1),
    ]
    constants = {
        "n": scalar(-1),
        "k": np.array([0.5, 1], np.float32),
        "p": np.zeros(2, np.int8),
        "w": ints(0, 2, 4),
    }
    model = quantised_model(nodes, constants)
    model.graph.output.append(helper.make_tensor_value_info("y2", TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match="^m.onnx: ") as caught:
        unquantised(import_model(model), "m.onnx")
    apart = "its operands differ in scale or zero point"
    assert caught.value.problems == (
        "node 'DequantizeLinear_1' (DequantizeLinear): its scale or zero point is not that of its "
        "operand's QuantizeLinear",
        "node 'sum' (Add): computes with quantised values, which is not supported",
        f"node 'joint' (Concat): {apart}",
        "node 'negative' (QuantizeLinear): its scale is not positive",
        f"node 'shape' (Reshape): {apart}",
    )


def test_scales_computed_at_run_time() -> None:
    """Import refuses such models before; graphs made otherwise are refused here."""
    axis = {"axis": 1}
    nodes = [
        Node("k", "ReduceMax", ("x",), ("k",), {"axes": (0, 1), "keepdims": 0}),
        Node("q", "QuantizeLinear", ("x", "k"), ("q",), {**axis, "dtype": "uint8"}),
        Node("d", "DequantizeLinear", ("q", "k"), ("d",), axis),
        Node("e", "Relu", ("d",), ("e",)),
    ]
    graph = Graph.build("net", {"x": TensorType((2, 3))}, ["e"], nodes, {})
    with pytest.raises(ModelError) as caught:
        unquantised(graph)
    assert caught.value.problems == (
        "node 'q' (QuantizeLinear): its scale or zero point is computed at run time",
    )


def test_a_compiled_model_has_a_row_for_every_node(tmp_path: Path) -> None:
    """An operator that was imported as several is placed as what it is about."""
    nodes = [
        node("Flatten", "x", "f"),
        node("QuantizeLinear", "f s z", "q", name="in"),
        node("QGemm", "q s z w t m - l m", "g", name="layer", domain="com.microsoft"),
        node("QLinearSigmoid", "g l m t m", "p", name="host", domain="com.microsoft"),
        node("DequantizeLinear", "p t m", name="out"),
    ]
    constants = {
        "w": np.arange(-12, 12, dtype=np.int8).reshape(8, 3),
        "m": np.array(0, np.int8),
        "l": scalar(0.25),
    }
    onnx.save(quantised_model(nodes, constants), tmp_path / "m.onnx")
    compiled = compile(tmp_path / "m.onnx", "sim", X)
    placed = compiled.artifact.manifest["placement"]
    assert len(placed) == len(nodes)
    assert {row["node"]: (row["op"], row["device"]) for row in placed} == {
        "Flatten_0": ("Flatten", "host"),
        "in": ("QuantizeLinear", "none"),
        "layer": ("Gemm", "vta"),
        "host": ("Sigmoid", "host"),
        "out": ("DequantizeLinear", "none"),
    }
    assert not compiled.warnings
    scale = compiled.integer.types["f.int8"].scale
    assert scale is not None and round(scale * 127, 4) == 18.375  # as the model says


REFUSED = {
    "dynamic quantisation": (
        [node("DynamicQuantizeLinear", "x", "q a b"), node("DequantizeLinear", "q a b")],
        "(DynamicQuantizeLinear): quantises at run time, which is not supported (export the "
        "float model)",
    ),
    "blocked scales": (
        [node("QuantizeLinear", "x s z", "q", block_size=2), node("DequantizeLinear", "q s z")],
        "(QuantizeLinear): block_size is not supported",
    ),
    "unknown microsoft operator": (
        [node("QLinearReduceMean", "x s z s z", domain="com.microsoft")],
        "(com.microsoft::QLinearReduceMean): domain 'com.microsoft' is not supported",
    ),
    "missing attribute": (
        [node("QLinearConcat", "s z x s z", domain="com.microsoft")],
        "(com.microsoft::QLinearConcat): attribute 'axis' is missing",
    ),
    "unknown attribute": (
        [node("QLinearAdd", "x s z x s z s z", domain="com.microsoft", alpha=1.0)],
        "(com.microsoft::QLinearAdd): attribute 'alpha' is not one of its attributes",
    ),
    "no triples": (
        [node("QLinearConcat", "s z x s z x", axis=1, domain="com.microsoft")],
        "(com.microsoft::QLinearConcat): has operands that are no value, scale and zero point",
    ),
    "channels last": (
        [node("QLinearGlobalAveragePool", "x s z s z", channels_last=1, domain="com.microsoft")],
        "(com.microsoft::QLinearGlobalAveragePool): channels_last is not supported",
    ),
    "floats for integers": (
        [node("DequantizeLinear", "x s")],
        "(DequantizeLinear): takes int8, uint8, int16, uint16, int32, not float32",
    ),
    "another zero point": (
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s u")],
        "(DequantizeLinear): the zero point is uint8, x is int8",
    ),
    "scales that do not fit": (
        [node("QuantizeLinear", "x k", "q", axis=1), node("DequantizeLinear", "q s u")],
        "(QuantizeLinear): scales [3] do not fit axis 1 of [1,2,4]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    nodes, expected = REFUSED[name]
    model = quantised_model(nodes, {"k": np.ones(3, np.float32)})
    if "block_size" in expected:
        model.opset_import[0].version = 21
    (problem,) = problems_of(model)
    assert expected in problem


@pytest.mark.parametrize("op", ["Sum", "Mean"])
@pytest.mark.parametrize("many", [1, 2, 3])
def test_sums_of_many(many: int, op: str) -> None:
    nodes = [node("Tanh", "x", "a"), node("Relu", "x", "b")]
    nodes.append(node(op, " ".join("xab"[:many])))
    imported, _ = both(quantised_model(nodes, {}))
    assert {each.origin for each in imported.graph.nodes[many - 1 :]} <= {
        ("Tanh_0",), ("Relu_1",), (f"{op}_2",),
    }  # fmt: skip
