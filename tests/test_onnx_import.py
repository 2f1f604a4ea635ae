"""Importing ONNX gives graphs that agree with onnxruntime and with onnx's own evaluator.

Float results are compared within 1e-5 of the largest magnitude: both sides sum at most a few
hundred float32 products of numbers near 1, in an order of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from vtaflow.frontend.onnx_import import import_model, import_onnx
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.simplify import simplify
from vtaflow.ops.types import Array, TensorType

from .onnx_models import (
    CUBE,
    NEWEST,
    SQUARE,
    VECTOR,
    Dims,
    build,
    floats,
    ints,
    layer,
    node,
    scalar,
)
from .oracles import check, close, onnx_says, onnxruntime_says

OPSETS = (7, 9, 10, 11, 12, 13, 14, 18, 21, NEWEST)


def test_close_refuses_what_differs() -> None:
    with pytest.raises(AssertionError):
        close(floats(2) + 1, floats(2))
    with pytest.raises(AssertionError):
        close(floats(2), floats(2, 1))
    with pytest.raises(AssertionError):
        close(ints(1), ints(2))


LATE = (13, 18, 21, NEWEST)

# name: (opsets, nodes, constants, inputs, oracles other than both)
Case = tuple[Sequence[int], list[onnx.NodeProto], dict[str, Array], dict[str, Dims] | None]
CASES: dict[str, Case] = {
    "gemm": (OPSETS, [node("Gemm", "x w b")], {**SQUARE, "b": floats(4)}, None),
    "gemm scaled": (
        OPSETS,
        [node("Gemm", "x w b", alpha=0.3, beta=-2.0, transB=1)],
        {"w": floats(4, 6), "b": floats(1, 4)},
        None,
    ),
    "gemm scalar c": (OPSETS, [node("Gemm", "x w b")], {**SQUARE, "b": floats(1)}, None),
    "gemm without c": (OPSETS[3:], [node("Gemm", "x w", alpha=2.0)], SQUARE, None),
    "gemm absent c": (OPSETS[3:], [node("Gemm", "x w -")], SQUARE, None),
    "gemm two steps": (
        OPSETS,
        [node("MatMul", "x w", "h"), node("Gemm", "x w h", beta=0.5)],
        SQUARE,
        None,
    ),
    "matmul": (OPSETS, [node("MatMul", "x w")], SQUARE, None),
    "matmul by vector": (OPSETS, [node("MatMul", "x c")], VECTOR, None),
    "matmul stacked": (OPSETS, [node("MatMul", "x w")], {"w": floats(3, 4)}, CUBE),
    "matmul stacked both": (
        OPSETS,
        [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")],
        {},
        CUBE,
    ),
    "matmul from the left": (OPSETS, [node("MatMul", "w x")], {"w": floats(5, 2)}, CUBE),
    **{
        f"{op.lower()} constant {side}": (OPSETS, [node(op, operands)], VECTOR, None)
        for op in ("Add", "Sub", "Mul", "Div")
        for side, operands in (("right", "x c"), ("left", "c x"))
        if (op, side) != ("Div", "left")
    },
    "add two": (OPSETS, [node("Relu", "x", "h"), node("Add", "x h")], {}, None),
    **{op.lower(): (OPSETS, [node(op, "x")], {}, None) for op in ("Relu", "Sigmoid", "Tanh")},
    "clip attributes": (OPSETS[:3], [node("Clip", "x", min=-0.5, max=0.5)], {}, None),
    "clip default": (OPSETS, [node("Clip", "x")], {}, None),
    "clip operands": (
        OPSETS[3:],
        [node("Clip", "x low high")],
        {"low": scalar(-0.5), "high": scalar(0.7)},
        None,
    ),
    "clip below only": (OPSETS[3:], [node("Clip", "x low")], {"low": scalar(0.1)}, None),
    "clip above only": (OPSETS[3:], [node("Clip", "x - top")], {"top": scalar(0.1)}, None),
    "clip computed bound": (
        OPSETS[4:],
        [node("Sub", "one six", "low"), node("Clip", "x low one")],
        {"one": scalar(1), "six": scalar(6)},
        None,
    ),
    "softmax": (OPSETS, [node("Softmax", "x")], {}, None),
    "log softmax": (OPSETS, [node("LogSoftmax", "x")], {}, None),
    "softmax cube": (OPSETS, [node("Softmax", "x", axis=2)], {}, CUBE),
    "softmax cube axis 1": (OPSETS, [node("Softmax", "x", axis=1)], {}, CUBE),
    "log softmax cube": (OPSETS, [node("LogSoftmax", "x")], {}, CUBE),
    "softmax last": (OPSETS[3:], [node("Softmax", "x", axis=-1)], {}, CUBE),
    "flatten": (OPSETS, [node("Flatten", "x")], {}, CUBE),
    "flatten negative": (OPSETS[3:], [node("Flatten", "x", axis=-2)], {}, CUBE),
    "reshape": (OPSETS, [node("Reshape", "x s")], {"s": ints(-1, 6)}, CUBE),
    "reshape copies": (OPSETS, [node("Reshape", "x s")], {"s": ints(0, -1, 1)}, CUBE),
    "reshape allowzero": (
        LATE[1:],
        [node("Reshape", "x s", allowzero=1)],
        {"s": ints(-1, 6)},
        CUBE,
    ),
    "squeeze attribute": (
        OPSETS[:5],
        [node("Unsqueeze", "x", "h", axes=[1, 3]), node("Squeeze", "h", axes=[3])],
        {},
        None,
    ),
    "squeeze operand": (
        OPSETS[5:],
        [node("Unsqueeze", "x a", "h"), node("Squeeze", "h b")],
        {"a": ints(1, -1), "b": ints(-1)},
        None,
    ),
    "transpose": (OPSETS, [node("Transpose", "x", perm=[0, 2, 1])], {}, CUBE),
    "identity": (OPSETS, [node("Identity", "x")], {}, None),
    "dropout attribute": (OPSETS[:4], [node("Dropout", "x", ratio=0.7)], {}, None),
    "dropout operand": (
        OPSETS[4:],
        [node("Dropout", "x r t", "y mask")],
        {"r": scalar(0.7), "t": np.asarray(False)},
        None,
    ),
    "cast": (
        OPSETS,
        [node("Cast", "x", "i", to=TensorProto.INT64), node("Cast", "i", to=TensorProto.FLOAT)],
        {},
        None,
    ),
    "batch normalization": (
        OPSETS,
        [node("BatchNormalization", "x s b m v", epsilon=0.01)],
        {"s": floats(2), "b": floats(2), "m": floats(2), "v": np.abs(floats(2)) + 0.1},
        CUBE,
    ),
    "gather": (OPSETS, [node("Gather", "x i", axis=2)], {"i": ints(2, 0)}, CUBE),
    "gather scalar": (OPSETS, [node("Gather", "x i", axis=1)], {"i": np.asarray(1)}, CUBE),
    "embedding": (
        OPSETS[3:],
        [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "t i")],
        {"t": floats(9, 2)},
        None,
    ),
    "concat": (OPSETS, [node("Relu", "x", "h"), node("Concat", "x h x", axis=1)], {}, CUBE),
    "slice attributes": (
        OPSETS[:2],
        [node("Slice", "x", starts=[-2, 0], ends=[2**31 - 1, 1], axes=[2, 1])],
        {},
        CUBE,
    ),
    "slice operands": (
        OPSETS[2:],
        [node("Slice", "x from to on by")],
        {"from": ints(0, -1), "to": ints(2**63 - 1, -9), "on": ints(0, 2), "by": ints(1, -2)},
        CUBE,
    ),
    "slice default axes": (
        OPSETS[2:],
        [node("Slice", "x from to")],
        {"from": ints(0, 1), "to": ints(2**31 - 1, 2)},
        CUBE,
    ),
    "constant": (
        OPSETS,
        [
            node("Constant", "", "c", value=numpy_helper.from_array(floats(6))),
            node("Add", "x c"),
        ],
        {},
        None,
    ),
    "constant numbers": (
        OPSETS[4:],
        [
            node("Constant", "", "c", value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            node("Constant", "", "d", value_float=3.0),
            node("Constant", "", "s", value_ints=[-1, 6]),
            node("Constant", "", "i", value_int=2),
            node("Gather", "c i", "e"),
            node("Mul", "x d", "h"),
            node("Add", "h c", "k"),
            node("Sub", "k e", "l"),
            node("Reshape", "l s"),
        ],
        {},
        None,
    ),
    "flatten by shape": (
        OPSETS,
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Concat", "n rest", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"zero": ints(0), "rest": ints(-1)},
        CUBE,
    ),
    "flatten by product": (
        OPSETS[5:],
        [
            node("Shape", "x", "s"),
            node("Slice", "s one end", "rest"),
            node("Slice", "s zero one", "n"),
            node("Gather", "rest zero", "a"),
            node("Gather", "rest one", "b"),
            node("Mul", "a b", "ab"),
            node("Cast", "ab", "f", to=TensorProto.FLOAT),
            node("Cast", "f", "i", to=TensorProto.INT64),
            node("Concat", "n i", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"zero": ints(0), "one": ints(1), "end": ints(9)},
        CUBE,
    ),
}


# onnx's evaluator gives old models the newest Softmax, and batch statistics.
ONNX_IS_WRONG_BEFORE = {
    "softmax cube axis 1": 13,
    "log softmax cube": 13,
    "batch normalization": 14,
}


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, case in CASES.items() for opset in case[0]]
)
def test_operators_agree(name: str, opset: int) -> None:
    _, nodes, constants, inputs = CASES[name]
    arrays = {key: np.asarray(array) for key, array in constants.items()}
    model = build(nodes, arrays, inputs, opset=opset)
    shape = next(iter(inputs.values())) if inputs else ("N", 6)
    wrong = opset < ONNX_IS_WRONG_BEFORE.get(name, 0)
    oracles = [onnxruntime_says] if wrong else [onnxruntime_says, onnx_says]
    for batch in (1, 3):
        feeds = {"x": floats(batch, *(size for size in shape[1:] if isinstance(size, int)))}
        check(model, feeds, oracles)


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, int, int]:
    """A random multi-layer perceptron, its batch and its number of input features."""
    opset = draw(st.integers(7, NEWEST))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    value = "x"

    def add(op: str, *operands: Array, **attributes: Any) -> None:
        nonlocal value
        names = [f"c{len(constants) + index}" for index in range(len(operands))]
        constants.update(zip(names, operands, strict=True))
        result = f"v{len(nodes)}"
        nodes.append(node(op, " ".join([value, *names]), result, **attributes))
        value = result

    def normal(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    for width, features in zip(widths, widths[1:], strict=False):
        weight = normal(width, features) / np.float32(np.sqrt(width))
        if draw(st.booleans()):
            transposed = draw(st.integers(0, 1))
            offset = draw(st.sampled_from([(features,), (1, features), (1,), ()]))
            scales = {
                "alpha": draw(st.sampled_from([1.0, 0.7])),
                "beta": draw(st.sampled_from([1.0, -2.0])),
            }
            add(
                "Gemm",
                weight.T if transposed else weight,
                normal(*offset),
                transB=transposed,
                **scales,
            )
        else:
            add("MatMul", weight)
            if draw(st.booleans()):
                add("Add", normal(features))
        if draw(st.booleans()):
            add(
                "BatchNormalization",
                *(normal(features) for _ in range(3)),
                np.abs(normal(features)) + 1,
            )
        activation = draw(
            st.sampled_from(["", "Relu", "Clip", "Sigmoid", "Tanh", "Identity", "Dropout"])
        )
        if activation == "Clip":
            bounds = {"min": -0.5, "max": 0.75}
            if opset < 11:
                add("Clip", **bounds)
            else:
                add("Clip", *(scalar(bound) for bound in bounds.values()))
        elif activation:
            add(activation)
    if draw(st.booleans()):
        add(draw(st.sampled_from(["Softmax", "LogSoftmax"])))
    if not nodes or draw(st.booleans()):
        add("Identity")
    batch = draw(st.integers(1, 4))
    declared = draw(st.sampled_from(["N", None, batch]))
    inputs: dict[str, Dims] = {"x": (declared, widths[0])}
    return build(nodes, constants, inputs, {value: None}, opset), batch, widths[0]


@settings(max_examples=120, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1))
def test_random_networks_agree(drawn: tuple[onnx.ModelProto, int, int], seed: int) -> None:
    model, batch, features = drawn
    x = np.random.default_rng(seed).standard_normal((batch, features)).astype(np.float32)
    old = model.opset_import[0].version < 14
    statistics = any(each.op_type == "BatchNormalization" for each in model.graph.node)
    check(
        model, {"x": x}, [onnxruntime_says] if old and statistics else [onnxruntime_says, onnx_says]
    )


def test_names_order_and_origin_are_the_models_own() -> None:
    nodes = [
        node("Relu", "b", "r"),
        node("Gemm", "a w", "g", name="/fc/Gemm"),
        node("Add", "g r", "s", name="Relu_0"),
    ]
    inputs: dict[str, Dims] = {"b": ("N", 4), "a": ("M", 6)}
    outputs: dict[str, Dims | None] = {"s": None, "r": ("N", 4), "g": None}
    graph = import_model(build(nodes, SQUARE, inputs, outputs), 2)
    assert (graph.inputs, graph.outputs, graph.batch) == (("b", "a"), ("s", "r", "g"), 2)
    assert [each.name for each in graph.nodes] == ["Relu_0_", "/fc/Gemm", "Relu_0"]
    assert [each.origin for each in graph.nodes] == [("Relu_0_",), ("/fc/Gemm",), ("Relu_0",)]
    simple = simplify(graph)
    assert (simple.inputs, simple.outputs) == (graph.inputs, graph.outputs)


def test_nodes_out_of_order_are_sorted() -> None:
    model = build([node("Relu", "h"), node("MatMul", "x w", "h")], SQUARE)
    assert [each.op for each in import_model(model).nodes] == ["MatMul", "Relu"]


def test_initialisers_may_be_inputs_too() -> None:
    model = build([layer()], SQUARE, {"x": ("N", 6), "w": (6, 4)})
    assert import_model(model).inputs == ("x",)


def test_the_files_name_is_the_graphs(tmp_path: Path) -> None:
    onnx.save(build([layer()], SQUARE), tmp_path / "tiny.onnx")
    graph = import_onnx(tmp_path / "tiny.onnx", batch=4)
    assert (graph.name, graph.batch) == ("tiny", 4)
    assert import_onnx(str(tmp_path / "tiny.onnx")).batch == 1


@pytest.mark.parametrize("dim", [1, 3, "N", None, -1])
def test_batches(dim: int | str | None) -> None:
    """A constant target of Reshape names batch 1 or 3 literally, and still keeps the batch free."""
    target = ints(dim if isinstance(dim, int) and dim > 0 else 3, 3, 2)
    model = build([node("Reshape", "x t")], {"t": target}, {"x": (dim, 6)}, {"y": (None, 3, 2)})
    graph = import_model(model, 3)
    assert graph.types["y"].shape == (3, 3, 2)
    assert graph.nodes[0].attrs == {"shape": (0, 3, 2)}
    assert graph.rebatch(5).types["y"].shape == (5, 3, 2)


def test_a_declared_batch_of_one_does_not_bind_a_dynamic_one() -> None:
    model = build([layer()], SQUARE, outputs={"y": (1, 4)})
    assert import_model(model, 3).types["y"] == TensorType((3, 4))


def test_batch_dependent_values_stay_nodes() -> None:
    """The mean over the batch's size needs that size whenever the graph is rebatched."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i", "n"),
        node("Cast", "n", "f", to=TensorProto.FLOAT),
        node("Div", "x f"),
    ]
    simple = simplify(import_model(build(nodes, {"i": np.asarray(np.int64(0))}), 2))
    assert [each.op for each in simple.nodes] == ["Shape", "Gather", "Cast", "Div"]
    x = floats(4, 6)
    assert np.array_equal(interpret(simple.rebatch(4), {"x": x})["y"], x / np.float32(4))
