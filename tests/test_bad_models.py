"""Bad models: every problem is named once, in one line, and only ModelError escapes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vtaflow.errors import ModelError
from vtaflow.frontend.converters import CONVERTERS
from vtaflow.frontend.onnx_import import import_model, import_onnx
from vtaflow.frontend.quantised import unquantised
from vtaflow.frontend.tensors import to_array
from vtaflow.graph.passes.simplify import simplify
from vtaflow.ops.types import Array

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
    problems_of,
)


def value(name: str, kind: int, shape: Dims | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def raw_tensor(
    name: str, dims: Sequence[int], data: bytes, kind: int = TensorProto.FLOAT
) -> TensorProto:
    return TensorProto(name=name, data_type=kind, dims=dims, raw_data=data)


def with_weight(tensor: TensorProto) -> onnx.ModelProto:
    """x times the initialiser `tensor`, called w."""
    tensor.name = "w"
    model = build([node("MatMul", "x w")])
    model.graph.initializer.append(tensor)
    return model


def test_everything_unsupported_is_reported_at_once() -> None:
    then = helper.make_graph([], "then", [], [value("y", TensorProto.FLOAT, None)])
    nodes = [
        node("LSTM", "x w", "a", name="rnn"),
        node("FusedGemm", "a w", "b", name="fused", domain="com.microsoft"),
        node("Clip", "x h", "c", name="bounded"),
        node("If", "b", "d", name="branch", then_branch=then, else_branch=then),
        node("DynamicQuantizeLinear", "x", "e es ez"),
        node("Relu", "e", "y"),
        node("Dropout", "x r t", "h g"),
        node("Relu", "g", "k"),
    ]
    outputs: dict[str, Dims | None] = {"y": None, "k": None, "c": None}
    constants = {**SQUARE, "t": np.asarray(np.bool_(True)), "r": np.asarray(np.float32(0.1))}
    nodes[2].input[1] = "s"
    nodes.insert(2, node("Relu", "x", "s"))
    host = "; the host cannot run it either"
    assert problems_of(build(nodes, constants, outputs=outputs)) == (
        "node 'rnn' (LSTM): operator is not supported" + host,
        "node 'fused' (com.microsoft::FusedGemm): domain 'com.microsoft' is not supported" + host,
        "node 'bounded' (Clip): min is computed at run time" + host,
        "node 'branch' (If): holds subgraphs, which are not supported" + host,
        "node 'DynamicQuantizeLinear_5' (DynamicQuantizeLinear): quantises at run time, which is "
        "not supported (export the float model)" + host,
        "node 'Dropout_7' (Dropout): its second result 'g' is used, which is not supported" + host,
    )


def test_whether_the_host_could_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that `ops` can evaluate but the frontend has no converter for."""
    converters = {**CONVERTERS}
    del converters["Relu"]
    monkeypatch.setattr("vtaflow.frontend.walk.CONVERTERS", converters)
    assert problems_of(build([node("Relu", "x")])) == (
        "node 'Relu_0' (Relu): operator is not supported; the host could run it",
    )


IMAGE: dict[str, Dims] = {"x": ("N", 4, 6, 5)}
KERNEL = {"w": floats(4, 4, 3, 3)}


def image(
    *nodes: onnx.NodeProto, opset: int = 13, dims: Dims = IMAGE["x"], **constants: Array
) -> onnx.ModelProto:
    """A model of images with a 3x3 kernel `w`."""
    return build(nodes, {**KERNEL, **constants}, {"x": dims}, opset=opset)


def resize(names: str, opset: int = 13, **more: Any) -> onnx.ModelProto:
    """A Resize with a choice of operands."""
    constants: dict[str, Any] = {
        "e": np.zeros(0, np.float32),
        "f": np.array([1, 1, 2, 2], np.float32),
        "g": np.array([1, 1, 2, -2], np.float32),
        "h": np.array([2, 1, 2, 2], np.float32),
        "i": ints(1, 4, 0, 5),
        "j": ints(1, 4, 12),
        "r": np.zeros(3, np.float32),
    }
    return image(node("Resize", names, **more), opset=opset, **constants)


Refusal = tuple[onnx.ModelProto, str]
SCALAR = np.asarray(np.float32(1))
REFUSALS: dict[str, Refusal] = {
    "training dropout": (
        build([node("Dropout", "x r t")], {"r": SCALAR, "t": np.asarray(np.bool_(True))}),
        "node 'Dropout_0' (Dropout): training_mode is not supported; the host cannot run it either",
    ),
    "training batch normalization": (
        build(
            [node("BatchNormalization", "x c c c c", training_mode=1)], VECTOR, opset=14
        ),
        "(BatchNormalization): training_mode is not supported; the host",
    ),
    "spatial batch normalization": (
        build(
            [node("BatchNormalization", "x c c c c", spatial=0)],
            {"c": floats(2)},
            CUBE,
            opset=7,
        ),
        "(BatchNormalization): spatial=0 is not supported; the host",
    ),
    "clip vector": (
        build([node("Clip", "x c")], VECTOR),
        "(Clip): min is no scalar; the host",
    ),
    "clip to nan": (
        build([node("Clip", "x c")], {"c": SCALAR * np.float32(np.nan)}),
        "(Clip): min is nan; the host",
    ),
    "clip below minus infinity": (
        build([node("Clip", "x - c")], {"c": np.asarray(np.float32(-np.inf))}),
        "(Clip): max is -inf; the host",
    ),
    "reshape to data": (
        build([node("Cast", "x", "i", to=7), node("Reshape", "x i")]),
        "(Reshape): shape is computed at run time; the host",
    ),
    "reshape to floats": (
        build([node("Reshape", "x c")], VECTOR),
        "(Reshape): shape is no vector of int64; the host",
    ),
    "reshape allowzero": (
        build([node("Reshape", "x s", allowzero=1)], {"s": ints(0, 6)}, opset=14),
        "(Reshape): a size of 0 (allowzero) is not supported; the host",
    ),
    "reshape puts the batch last": (
        build(
            [
                node("Shape", "x", "s"),
                node("Gather", "s i", "n"),
                node("Concat", "r n", "t", axis=0),
                node("Reshape", "x t"),
            ],
            {"i": ints(0), "r": ints(-1)},
        ),
        "(Reshape): shape depends on the batch beyond axis 0; the host",
    ),
    "reshape of a constant to the batch": (
        build(
            [
                node("Shape", "x", "s"),
                node("Gather", "s i", "n"),
                node("Mul", "n n", "t"),
                node("Reshape", "c t", "d"),
                node("Add", "x d"),
            ],
            {"i": ints(0), "c": floats(1, 1)},
        ),
        "(Reshape): shape has the batch on axis 0, where the operand has none; the host",
    ),
    "slice up to the batch": (
        build(
            [node("Shape", "x", "s"), node("Slice", "x z s")], {"z": ints(0, 0)}
        ),
        "(Slice): ends depends on the batch; the host",
    ),
    "slice by floats": (
        build([node("Slice", "x c c")], VECTOR),
        "(Slice): starts is no vector of integers; the host",
    ),
    "string constant": (
        build([node("Constant", "", "y", value_string="a")]),
        "(Constant): value_string is not supported; the host",
    ),
    "constant of nothing": (
        build([node("Constant", "", "y")]),
        "(Constant): gives not exactly one value",
    ),
    "half constant": (
        build([node("Constant", "", "y", value=raw_tensor("", [1], b"ab", TensorProto.FLOAT16))]),
        "(Constant): has element type FLOAT16, which is not supported (export in float32)",
    ),
    "cast to half": (
        build([node("Cast", "x", to=TensorProto.FLOAT16)]),
        "(Cast): has element type FLOAT16, which is not supported (export in float32)",
    ),
    "gather out of range": (
        build([node("Shape", "x", "s"), node("Gather", "s i", "n"), node("Add", "x n")],
              {"i": ints(5)}),
        "(Gather): an index is outside -2..1",
    ),
    "wrong inner size": (
        build([node("MatMul", "x w")], {"w": floats(7, 4)}),
        "(MatMul): inner sizes of [1,6] and [7,4] differ",
    ),
    "mixed types": (
        build([node("Add", "x i")], {"i": ints(1)}),
        "(Add): mixes float32 and int64",
    ),
    "unknown attribute": (
        build([node("Relu", "x", slope=1.0)]),
        "(Relu): attribute 'slope' is not one of its attributes at this opset",
    ),
    "attribute of another type": (
        build([node("Softmax", "x", axis=1.0)]),
        "(Softmax): attribute 'axis' is FLOAT, which the operator does not take",
    ),
    "missing attribute": (
        build([node("Concat", "x x")]),
        "(Concat): attribute 'axis' is missing",
    ),
    "too many operands": (build([node("Relu", "x x")]), "(Relu): has 2 operands, takes 1 to 1"),
    "too few operands": (build([node("MatMul", "x")]), "(MatMul): has 1 operands, takes 2 to 2"),
    "absent operand": (build([node("MatMul", "- x")]), "(MatMul): a required operand is absent"),
    "absent operand between": (
        build([node("Concat", "x - x", axis=1)]),
        "(Concat): an operand between others is absent; the host",
    ),
    "no result": (build([node("Relu", "x", "y"), node("Relu", "x", "")]), "(Relu): makes no value"),
    "empty result": (
        build([node("Slice", "x from to on")], {"from": ints(4), "to": ints(2), "on": ints(1)}),
        "(Slice): its result [1, 0] has a size of 0",
    ),
    "huge broadcast": (
        build([node("Reshape", "x s", "h"), node("MatMul", "x h")], {"s": ints(0, 1, -1)},
              {"x": ("N", 2**20, 1)}),
        "(MatMul): its result of shape [1, 1048576, 1048576] has 4398046511104 bytes",
    ),
    "missing value": (
        build([node("Add", "x w")]),
        "node 'Add_0' (Add): input 'w' is made by no node and is no input or initialiser",
    ),
    "missing output": (
        build([node("Relu", "x", "h")]),
        "output 'y' is made by no node",
    ),
    "constant output": (
        build([node("Relu", "x", "h")], {"y": floats(3)}),
        "output 'y' has no batch axis: it does not follow the input",
    ),
    "no outputs": (build([node("Relu", "x")], outputs={}), "the model has no outputs"),
    "cycle": (
        build([node("Add", "x c", "a", name="first"), node("Relu", "a", "b", name="second"),
               node("Tanh", "b", "c", name="third"), node("Relu", "c", "y", name="behind")]),
        "nodes form a cycle: first -> second -> third -> first",
    ),
    "two values": (
        build([node("Relu", "x"), node("Tanh", "x")]),
        "two results of nodes are named 'y'",
    ),
    "two nodes": (
        build([node("Relu", "x", "h", name="n"), node("Tanh", "h", name="n")]),
        "two nodes are named 'n'",
    ),
    "value made and given": (
        build([node("Relu", "x", "c"), node("Add", "x c")], VECTOR),
        "value 'c' is an input or initialiser and also made by a node",
    ),
    "value made and given, in another shape": (
        image(node("Abs", "x", "b"), node("MaxPool", "b", kernel_shape=[2, 2]), b=floats(3)),
        "value 'b' is an input or initialiser and also made by a node",
    ),
    "declared shape": (
        build([node("MatMul", "x w", "h"), node("Relu", "h")], SQUARE,
              value_info=[value("h", TensorProto.FLOAT, ("N", 5))]),
        "value 'h' is declared float32[N,5] but is float32[1,4]",
    ),
    "declared rank": (
        build([node("MatMul", "x w")], SQUARE, outputs={"y": ("N", 4, 1)}),
        "value 'y' is declared float32[N,4,1] but is float32[1,4]",
    ),
    "declared batch": (
        build([node("MatMul", "x w")], SQUARE, outputs={"y": (2, 4)}),
        "value 'y' is declared float32[2,4] but is float32[1,4]",
    ),
    "declared dtype": (
        build([node("Relu", "x", "h"), node("Relu", "h")],
              value_info=[value("h", TensorProto.INT64, None)]),
        "value 'h' is declared int64 but is float32[1,6]",
    ),
    "declared half": (
        build([node("Relu", "x", "h"), node("Relu", "h")],
              value_info=[value("h", TensorProto.FLOAT16, None)]),
        "value 'h' has element type FLOAT16, which is not supported (export in float32)",
    ),
    "dynamic size": (
        build([node("Relu", "x")], inputs={"x": ("N", "length", None)}),
        "input 'x' has no fixed size on axis 1 (length); only axis 0, the batch, may be dynamic: "
        "export the model with a fixed size there",
    ),
    "unnamed size": (
        build([node("Relu", "x")], inputs={"x": (1, 3, None)}),
        "input 'x' has no fixed size on axis 2 (?); only axis 0",
    ),
    "zero size": (
        build([node("Relu", "x")], inputs={"x": ("N", 0)}),
        "input 'x' has a size of 0 on axis 1",
    ),
    "scalar input": (
        build([node("Relu", "x")], inputs={"x": ()}),
        "input 'x' is a scalar; axis 0 has to be the batch",
    ),
    "huge input": (
        build([node("Relu", "x")], inputs={"x": ("N", 2**62, 2**62)}),
        "input 'x' of shape [1, 4611686018427387904, 4611686018427387904] has 8507059173023461586",
    ),
    "huge weight": (
        with_weight(raw_tensor("w", [2**62, 6], b"abcd")),
        "initialiser 'w' of shape [4611686018427387904, 6] has 110680464442257309696 bytes, "
        "2147483648 are the limit",
    ),
    "negative weight": (
        with_weight(raw_tensor("w", [6, -4], b"")),
        "initialiser 'w' has a negative size among [6, -4]",
    ),
    "deep weight": (
        with_weight(raw_tensor("w", [1] * 33, b"abcd")),
        "initialiser 'w' has rank 33, at most 32 is supported",
    ),
    "short weight": (
        with_weight(raw_tensor("w", [6, 4], b"abcd")),
        "initialiser 'w' has 4 bytes of data, its shape and dtype need 96",
    ),
    "few values": (
        with_weight(TensorProto(dims=[6, 4], data_type=TensorProto.FLOAT, float_data=[1.0])),
        "initialiser 'w' has 1 values, its shape needs 24",
    ),
    "weight in segments": (
        with_weight(TensorProto(dims=[1], data_type=1, segment=TensorProto.Segment(begin=0))),
        "initialiser 'w' is stored in segments, which is not supported",
    ),
    "half weight": (
        with_weight(raw_tensor("w", [6, 4], b"ab" * 24, TensorProto.BFLOAT16)),
        "initialiser 'w' has element type BFLOAT16, which is not supported (export in float32)",
    ),
    "unknown weight": (
        with_weight(raw_tensor("w", [6, 4], b"ab" * 24, 99)),
        "initialiser 'w' has element type 99, which is not supported (export in float32)",
    ),
    "three spatial axes": (
        image(node("Conv", "x v"), v=floats(4, 4, 1, 1, 1), dims=("N", 4, 2, 2, 2)),
        "(Conv): has 3 spatial axes, at most 2 are supported; the host",
    ),
    "no spatial axes": (
        image(node("MaxPool", "x", kernel_shape=[2]), dims=("N", 4)),
        "(MaxPool): takes a batch, a channel and spatial axes, not [1,4]",
    ),
    "kernel of another size": (
        image(node("Conv", "x w", kernel_shape=[3, 5])),
        "(Conv): kernel_shape [3,5] differs from the weight's [3,3]",
    ),
    "kernel of another rank": (
        image(node("Conv", "x v"), v=floats(4, 4, 3)),
        "(Conv): a kernel [3] does not slide over [1,4,6,5]",
    ),
    "pool without a kernel": (
        image(node("MaxPool", "x")),
        "(MaxPool): attribute 'kernel_shape' is missing",
    ),
    "kernel larger than the image": (
        image(node("Conv", "x v"), v=floats(4, 4, 9, 9)),
        "(Conv): the kernel does not fit [1,4,6,5], padded",
    ),
    "unknown padding": (
        image(node("Conv", "x w", auto_pad="SAME")),
        "(Conv): auto_pad 'SAME' is not supported; the host",
    ),
    "pads of another rank": (
        image(node("Conv", "x w", pads=[1, 1])),
        "(Conv): pads [1,1] has 2 entries, needs 4",
    ),
    "pads that cut off": (
        image(node("Conv", "x w", pads=[-1, 0, 0, 0])),
        "(Conv): pads [-1,0,0,0] has an entry below 0",
    ),
    "strides of another rank": (
        image(node("Conv", "x w", strides=[1])),
        "(Conv): strides [1] has 1 entries, needs 2",
    ),
    "strides of zero": (
        image(node("AveragePool", "x", kernel_shape=[2, 2], strides=[0, 1])),
        "(AveragePool): strides [0,1] has an entry below 1",
    ),
    "strides of zero, padded": (
        image(node("MaxPool", "x", kernel_shape=[2, 2], strides=[0, 1], auto_pad="SAME_UPPER")),
        "(MaxPool): strides [0,1] has an entry below 1",
    ),
    "groups that do not divide": (
        image(node("Conv", "x w", group=3)),
        "(Conv): weight [4,4,3,3] in 3 groups does not fit [1,4,6,5]",
    ),
    "bias that does not fit": (
        image(node("Conv", "x w b"), b=floats(3)),
        "(Conv): bias [3] does not fit 4 channels",
    ),
    "weights per image": (
        image(node("Conv", "x x"), dims=(1, 1, 1, 1)),
        "(Conv): moves or mixes the batch axis (axis 0 of the model's inputs)",
    ),
    "output larger than the kernel makes it": (
        image(node("ConvTranspose", "x w", output_shape=[9, 9])),
        "(ConvTranspose): output_shape [9,9] is larger than 8 on an axis",
    ),
    "output of another rank": (
        image(node("ConvTranspose", "x w", output_shape=[7])),
        "(ConvTranspose): output_shape [7] has an entry for not every axis",
    ),
    "huge padding": (
        image(node("Conv", "x w", pads=[2**40, 0, 0, 0])),
        "(Conv): its result of shape [1, 4, 1099511627780, 3] has 52776558133440 bytes, "
        "2147483648 are the limit",
    ),
    "indices of a pool": (
        image(node("MaxPool", "x", "y i", kernel_shape=[2, 2]), node("Identity", "i", "k")),
        "(MaxPool): its second result 'i' is used, which is not supported; the host",
    ),
    "pad by data": (
        image(node("Cast", "x", "i", to=7), node("Pad", "x i")),
        "(Pad): pads is computed at run time; the host",
    ),
    "pad with a vector": (
        image(node("Pad", "x p v"), p=ints(*[0] * 8), v=floats(2)),
        "(Pad): constant_value is no scalar; the host",
    ),
    "pad other axes": (
        image(node("Pad", "x p"), p=ints(0, 1)),
        "(Pad): has 2 pads for 4 axes",
    ),
    "pad the batch": (
        image(node("Pad", "x p"), p=ints(1, 0, 0, 0, 0, 0, 0, 0)),
        "(Pad): moves or mixes the batch axis",
    ),
    "cut everything off": (
        image(node("Pad", "x p"), p=ints(0, 0, 0, -3, 0, 0, 0, -2)),
        "(Pad): its result [1, 4, 6, 0] has a size of 0",
    ),
    "resize to nothing": (
        resize("x e e e"),
        "(Resize): needs either scales or sizes",
    ),
    "resize to both": (resize("x e f i"), "(Resize): needs either scales or sizes"),
    "resize by a negative scale": (resize("x e g"), "(Resize): scale -2.0 is not positive"),
    "resize to zero": (
        resize("x e e i"),
        "(Resize): [1,4,6,5] cannot become [0] on axes [2]",
    ),
    "resize other axes": (resize("x e e j"), "(Resize): has sizes for 3 axes of 4"),
    "resize the batch": (resize("x e h"), "(Resize): moves or mixes the batch axis"),
    "resize cubically": (
        resize("x e f", mode="cubic"),
        "(Resize): mode 'cubic' is not supported; the host",
    ),
    "resize without aliases": (
        resize("x e f", 18, antialias=1, mode="linear"),
        "(Resize): antialias=1 is not supported; the host",
    ),
    "resize and crop": (
        resize("x r f", coordinate_transformation_mode="tf_crop_and_resize"),
        "(Resize): roi has 3 entries, needs 8",
    ),
    "resize to the batch": (
        image(
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Concat", "n c n n", "t", axis=0),
            node("Resize", "x e e t"),
            i=ints(0),
            c=ints(4),
            e=np.zeros(0, np.float32),
        ),
        "(Resize): sizes depend on the batch beyond axis 0; the host",
    ),
    "expand the batch": (
        image(node("Expand", "x s"), s=ints(3, 1, 1, 1)),
        "(Expand): moves or mixes the batch axis",
    ),
    "expand to the batch": (
        image(
            node("Shape", "x", "s"),
            node("Expand", "c s", "d"),
            node("Add", "x d"),
            c=floats(1, 4, 1, 1),
        ),
        "(Expand): shape has the batch on axis 0, where the operand has none; the host",
    ),
    "expand beyond the batch": (
        image(
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Concat", "o n", "t", axis=0),
            node("Expand", "x t"),
            i=ints(0),
            o=ints(1, 1, 1),
        ),
        "(Expand): shape depends on the batch beyond axis 0; the host",
    ),
    "tile the batch": (
        image(node("Tile", "x r"), r=ints(2, 1, 1, 1)),
        "(Tile): moves or mixes the batch axis",
    ),
    "huge tile": (
        image(node("Tile", "x r"), r=ints(1, 2**31, 2**31, 2**31)),
        "(Tile): its result of shape [1, 8589934592, 12884901888, 10737418240] has",
    ),
    "split into unequal pieces": (
        image(node("Split", "x", "y b c", axis=1)),
        "(Split): 4 cannot be split into 3 equal pieces",
    ),
    "split into other pieces": (
        image(node("Split", "x l", "y b", axis=1), l=ints(1, 1, 2)),
        "(Split): has 2 results, but 3 lengths",
    ),
    "split without a result": (
        image(helper.make_node("Split", ["x"], ["y", ""], axis=1)),
        "(Split): a result between others is absent; the host",
    ),
    "split the batch": (
        image(node("Split", "x", "y"), dims=(1, 2)),
        "(Split): moves or mixes the batch axis",
    ),
    "reduce the batch": (
        image(node("ReduceMean", "x")),
        "(ReduceMean): moves or mixes the batch axis",
    ),
    "largest of the batch": (
        image(node("ArgMax", "x")),
        "(ArgMax): moves or mixes the batch axis",
    ),
    "constant of several values": (
        image(
            node("ConstantOfShape", "s", "c", value=raw_tensor("", [2], bytes(8))),
            node("Add", "x c"),
            s=ints(5),
        ),
        "(ConstantOfShape): value is no single number",
    ),
    "constant of the batch's shape": (
        image(node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c")),
        "(ConstantOfShape): shape depends on the batch; the host",
    ),
    "unknown order of channels": (
        image(node("DepthToSpace", "x", blocksize=2, mode="DRC")),
        "(DepthToSpace): mode 'DRC' is not supported; the host",
    ),
    "unknown approximation": (
        image(node("Gelu", "x", approximate="erf"), opset=20),
        "(Gelu): approximate 'erf' is not supported; the host",
    ),
    "operator of a newer opset": (
        image(node("Mish", "x"), opset=13),
        "(Mish): operator is not in opset 13; the host",
    ),
    "negative size of a constant": (
        image(node("ConstantOfShape", "s", "c"), node("Add", "x c"), s=ints(-5)),
        "(ConstantOfShape): its result has a negative size among [-5]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    """The problem is named, and named once: nothing that follows from it is reported."""
    model, expected = REFUSALS[name]
    problems = problems_of(model)
    assert len(problems) == 1
    assert expected in problems[0]


def test_bad_networks_answer_with_everything_at_once() -> None:
    """A cycle, a missing weight, a contradiction, a huge and an empty value, unknown operators."""
    nodes = [
        node("Conv", "x w", "a", name="stem"),
        node("MysteryPool", "a", "b", name="mystery"),
        node("Conv", "b w", "c", name="behind"),  # its operand is lost: nothing to say
        node("Add", "a loop", "d", name="forth"),
        node("Relu", "d", "loop", name="back"),
        node("Conv", "a missing", "e", name="orphan"),
        node("Conv", "a short", "f", name="narrow"),
        node("Upsample", "a s", "g", name="old"),
        node("Tile", "a many", "h", name="wide"),
        node("Slice", "a end start", "i", name="empty"),
        node("Relu", "a", "j", name="fine"),
        node("GridSample", "j j", "k", name="sampler"),
        node("Sigmoid", "j", "y"),
    ]
    constants = {
        **KERNEL,
        "short": floats(4, 3, 3, 3),
        "s": floats(4),
        "many": ints(1, 2**40, 1, 1),
        "start": ints(0, 1),
        "end": ints(0, 9),
    }
    outputs: dict[str, Dims | None] = dict.fromkeys("cefghky")
    model = build(nodes, constants, {**IMAGE, "z": ("N", 0)}, outputs, opset=13, value_info=[
        value("a", TensorProto.FLOAT, ("N", 4, 5, 5)),
    ])  # fmt: skip
    model.graph.initializer.append(raw_tensor("torn", [4], b"abc"))
    host = "; the host cannot run it either"
    assert set(problems_of(model)) == {
        "initialiser 'torn' has 3 bytes of data, its shape and dtype need 16",
        "input 'z' has a size of 0 on axis 1",
        "nodes form a cycle: forth -> back -> forth",
        "node 'mystery' (MysteryPool): operator is not supported" + host,
        "node 'orphan' (Conv): input 'missing' is made by no node and is no input or initialiser",
        "node 'narrow' (Conv): weight [4,3,3,3] in 1 groups does not fit [1,4,4,3]",
        "node 'old' (Upsample): operator is not in opset 13" + host,
        "node 'wide' (Tile): its result of shape [1, 4398046511104, 4, 3] has 211106232532992 "
        "bytes, 2147483648 are the limit",
        "node 'empty' (Slice): its result [0, 0, 4, 3] has a size of 0",
        "node 'sampler' (GridSample): operator is not supported" + host,
        "value 'a' is declared float32[N,4,5,5] but is float32[1,4,4,3]",
    }


def test_a_model_without_inputs() -> None:
    assert problems_of(build([node("Relu", "c")], VECTOR, inputs={})) == (
        "the model has no inputs",
        "output 'y' has no batch axis: it does not follow the input",
    )


def test_other_declarations() -> None:
    model = build([node("Relu", "x")])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert problems_of(model) == ("input 'x' declares no shape",)
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    assert problems_of(model) == ("input 'x' is not a tensor",)
    model = build([node("Relu", "x")])
    model.graph.node[0].attribute.extend([helper.make_attribute("alpha", 1.0)] * 2)
    assert problems_of(model) == ("node 'Relu_0' (Relu): gives an attribute twice",)
    model = build([node("Softmax", "x")])
    reference = onnx.AttributeProto(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="a")
    model.graph.node[0].attribute.append(reference)
    assert "refers to a function's attribute" in problems_of(model)[0]
    model = build([node("MatMul", "x w")])
    sparse = onnx.SparseTensorProto(values=raw_tensor("w", [1], b"abcd"), dims=[6, 4])
    model.graph.sparse_initializer.append(sparse)
    assert problems_of(model) == ("initialiser 'w' is sparse, which is not supported",)


@pytest.mark.parametrize("opset", [6, NEWEST + 1])
def test_opsets_that_are_not_known(opset: int) -> None:
    (problem,) = problems_of(build([node("Relu", "x")], opset=opset))
    assert f"uses opset {opset}; 7 to {NEWEST} are supported" in problem


def test_models_of_two_opsets() -> None:
    model = build([node("Relu", "x")])
    model.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    assert problems_of(model) == ("imports 2 versions of the ONNX operator set, not one",)


def test_rebatching_beyond_what_fits() -> None:
    model = build([node("Relu", "x")], inputs={"x": (1, 2**20)})
    problems = problems_of(model, 2**20)
    assert problems[0].startswith("value 'x' at batch 1048576 of shape [1048576, 1048576] has")


@pytest.mark.parametrize(
    "kind",
    ["DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL"],
)
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_type(kind: str, raw: bool) -> None:
    code = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    if dtype.kind in "iu":
        array = np.array([[0, np.iinfo(dtype).min], [1, np.iinfo(dtype).max]], dtype)
    else:
        array = np.array([[0, 1], [0.5, 3]], dtype)
    values = array.tobytes() if raw else array.reshape(-1).tolist()
    tensor = helper.make_tensor("t", code, array.shape, values, raw=raw)
    result = to_array(tensor, None)
    assert result.dtype == dtype
    assert np.array_equal(result, array)


def test_fixed_batches_that_cannot_change() -> None:
    problems = problems_of(build([layer()], SQUARE, {"x": (5, 6)}), 2)
    assert problems == (
        "input 'x' has a fixed batch of 5, not 2: compile for batch 5, or export the model with a "
        "dynamic batch",
    )
    inputs: dict[str, Dims] = {"x": (1, 6), "z": (2, 6)}
    problems = problems_of(build([node("Add", "x z")], {}, inputs), 2)
    assert problems == ("input 'x' has a batch (axis 0) of 1, where others have 2",)
    assert problems_of(build([layer()], SQUARE), 0) == ("batch is 0, has to be at least 1",)


@pytest.mark.parametrize(
    ("nodes", "constants", "inputs"),
    [
        ([node("Transpose", "x")], {}, None),
        ([node("Softmax", "x", axis=0)], {}, None),
        ([node("Flatten", "x", axis=0)], {}, None),
        ([node("Reshape", "x s")], {"s": ints(6, -1)}, None),
        ([node("Reshape", "x s")], {"s": ints(-1)}, None),
        ([node("Unsqueeze", "x a")], {"a": ints(0)}, None),
        ([node("Squeeze", "x")], {}, {"x": ("N", 6, 1)}),
        ([node("Concat", "x x", axis=0)], {}, None),
        ([node("Concat", "x c", axis=1)], {"c": floats(3, 2)}, None),
        ([node("Gather", "x i")], {"i": ints(0)}, None),
        ([node("Slice", "x from to")], {"from": ints(0), "to": ints(1)}, None),
        ([node("Slice", "x from to")], {"from": ints(-1), "to": ints(2**31)}, None),
        ([node("Slice", "x a b c a")], {"a": ints(-1), "b": ints(-9), "c": ints(0)}, None),
        ([node("Gemm", "x w", transA=1)], {"w": floats(3, 4)}, None),
        ([node("Gemm", "w x")], {"w": floats(4, 3)}, None),
        ([node("Gemm", "x w b")], {**SQUARE, "b": floats(3, 4)}, None),
        ([node("MatMul", "w x")], {"w": floats(4, 3)}, None),
        ([node("MatMul", "x x")], {}, {"x": ("N", 3)}),
        ([node("MatMul", "v x")], {"v": floats(3)}, None),
        ([node("MatMul", "x w")], {"w": floats(3, 6, 4)}, None),
        ([node("MatMul", "x w")], {"w": floats(3, 3, 4)}, CUBE),
        ([node("Add", "x c")], {"c": floats(3, 6)}, None),
        ([node("Add", "x c")], {"c": floats(2, 3, 6)}, None),
        ([node("BatchNormalization", "c x x x x")], {"c": floats(1, 3)}, {"x": ("N",)}),
    ],
)  # fmt: skip
def test_what_moves_or_mixes_the_batch_is_refused(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], inputs: dict[str, Dims] | None
) -> None:
    batch = 1 if nodes[0].op_type == "Squeeze" else 3
    problems = problems_of(build(nodes, constants, inputs), batch)
    assert problems == (
        f"node '{nodes[0].op_type}_0' ({nodes[0].op_type}): moves or mixes the batch axis (axis 0 "
        "of the model's inputs)",
    )


def refuse_file(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(path)
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)
    return "; ".join(caught.value.problems)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert refuse_file(path) == "cannot be read: No such file or directory"
    path.touch()
    assert refuse_file(path) == "the file is empty"
    path.write_text("This is no model.\n" * 20)
    assert "is no ONNX model, or a truncated one" in refuse_file(path)
    path.write_bytes(numpy_helper.from_array(floats(64)).SerializeToString())
    assert "is no ONNX model, or a truncated one" in refuse_file(path)
    assert refuse_file(tmp_path) == "is not a file"
    os.mkfifo(tmp_path / "pipe")
    assert refuse_file(tmp_path / "pipe") == "is not a file"
    with open(path, "wb") as file:
        file.truncate(2**31 + 1)
    assert refuse_file(path).startswith("has 2147483649 bytes, 2147483648 are the limit")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for name in (b"fully", b"fc.weight"):
        model = build([node("MatMul", "x fc.weight", name="fully")], {"fc.weight": floats(6, 4)})
        path.write_bytes(model.SerializeToString().replace(name, b"\xff" + name[1:]))
        problem = "is no ONNX model, or a damaged one: a name is no UTF-8 text"
        assert refuse_file(path) == problem


def test_strange_names_stay_on_one_line() -> None:
    model = build([node("Bad\nOp", "x")], inputs={"x": ("N", "a\nb", 3)})
    assert problems_of(model) == (
        "input 'x' has no fixed size on axis 1 (?); only axis 0, the batch, may be dynamic: "
        "export the model with a fixed size there",
        "node 'Bad\\nOp_0' ('Bad\\nOp'): operator is not supported; the host cannot run it either",
    )


def test_truncated_files(tmp_path: Path) -> None:
    whole = build([layer()], SQUARE).SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        refuse_file(path)


SMALL = build(
    [
        node("Shape", "x", "s"),
        node("Gather", "s i", "n"),
        node("Concat", "n r", "t", axis=0),
        node("Reshape", "x t", "f"),
        node("Gemm", "f w", "g", name="fc"),
        node("Relu", "g"),
    ],
    {**SQUARE, "i": ints(0), "r": ints(-1)},
    {"x": ("N", 2, 3)},
    {"y": ("N", 4)},
).SerializeToString()


def damaged(data: bytes, changes: list[tuple[int, int]]) -> None:
    """Importing what is left of a model ends well or with a ModelError."""
    changed = bytearray(data)
    for position, byte in changes:
        changed[position % len(data)] = byte
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(changed))
        simplify(unquantised(import_model(model)).graph)
    except (ModelError, DecodeError):
        pass


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_damaged_models_are_imported_or_refused(changes: list[tuple[int, int]]) -> None:
    damaged(SMALL, changes)


PICTURE = build(
    [
        node("Pad", "x p v", "a"),
        node("Conv", "a w", "b", strides=[2, 1], dilations=[1, 2], auto_pad="SAME_LOWER"),
        node("QuantizeLinear", "b s z", "q"),
        node("MaxPool", "q", "m", kernel_shape=[2, 2], ceil_mode=1, pads=[1, 0, 0, 1]),
        node("DequantizeLinear", "m s z", "c"),
        node("AveragePool", "c", "d", kernel_shape=[1, 2], count_include_pad=1),
        node("Resize", "d e f", "g", coordinate_transformation_mode="asymmetric"),
        node("Split", "g l", "h i", axis=1),
        node("ConvTranspose", "h k", "j", strides=[2, 2], output_padding=[1, 0]),
        node("Sum", "j j t", "n"),
        node("ReduceMean", "n", "o", axes=[2, 3], keepdims=0),
        node("LeakyRelu", "o"),
    ],
    {
        "p": ints(0, 0, 1, 1, 0, 0, 0, 1),
        "v": np.asarray(np.float32(0)),
        "w": floats(2, 1, 2, 2),
        "s": np.asarray(np.float32(0.1)),
        "z": np.asarray(np.uint8(3)),
        "e": np.zeros(0, np.float32),
        "f": np.array([1, 1, 2, 1.5], np.float32),
        "l": ints(1, 1),
        "k": floats(1, 2, 1, 2),
        "t": floats(2, 1, 1),
    },
    {"x": ("N", 1, 4, 3)},
    opset=17,
).SerializeToString()


def test_the_picture_is_fine() -> None:
    model = onnx.ModelProto()
    model.ParseFromString(PICTURE)
    simplify(unquantised(import_model(model)).graph)


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_damaged_image_models_are_imported_or_refused(changes: list[tuple[int, int]]) -> None:
    damaged(PICTURE, changes)


EXTREMES = (-(2**63), -(2**31), -1, 0, 1, 7, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)


def with_integer(model: onnx.ModelProto, place: int, number: int) -> None:
    """Put `number` in place of one of the integers in attributes and initialisers."""
    attributes = [each for part in model.graph.node for each in part.attribute]
    lists = [each.ints for each in attributes if each.ints]
    tensors = [each for each in model.graph.initializer if each.data_type == TensorProto.INT64]
    places: list[Any] = [*attributes, *lists, *tensors]
    chosen = places[place % len(places)]
    if isinstance(chosen, onnx.AttributeProto):
        chosen.i = number
    elif isinstance(chosen, TensorProto):
        values = np.array(numpy_helper.to_array(chosen))
        values[place % len(values)] = number
        chosen.CopyFrom(numpy_helper.from_array(values, chosen.name))
    else:
        chosen[place % len(chosen)] = number


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**16), st.sampled_from(EXTREMES)), min_size=1, max_size=3
    )
)
def test_extreme_sizes_are_imported_or_refused(changes: list[tuple[int, int]]) -> None:
    model = onnx.ModelProto()
    model.ParseFromString(PICTURE)
    for place, number in changes:
        with_integer(model, place, number)
    damaged(model.SerializeToString(), [])


# External data


def external(folder: Path, array: Array, **entries: str) -> onnx.ModelProto:
    """A model whose weight lies in w.bin, 8 bytes into it, unless `entries` say otherwise."""
    (folder / "w.bin").write_bytes(b"padding." + array.tobytes() + b"behind")
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    given = {"location": "w.bin", "offset": "8", "length": str(array.nbytes), **entries}
    for key, text in given.items():
        if text:
            tensor.external_data.add(key=key, value=text)
    return with_weight(tensor)


def test_external_data(tmp_path: Path) -> None:
    array = floats(6, 4)
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    for entries in ({}, {"length": ""}):
        graph = import_model(external(folder, array, **entries), folder=folder)
        assert np.array_equal(graph.constants["w"], array)
    (folder / "w.bin").rename(folder / "deep" / "data")
    (folder / "deep" / "link").symlink_to("data")
    graph = import_model(external(folder, array, location="deep/link"), folder=folder)
    assert np.array_equal(graph.constants["w"], array)
    onnx.save(external(folder, array), folder / "m.onnx")
    assert np.array_equal(import_onnx(folder / "m.onnx").constants["w"], array)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"location": ""}, "external data names no file"),
        ({"location": "/etc/passwd"}, "external file '/etc/passwd' is outside the model's folder"),
        ({"location": "C:\\w.bin"}, "is outside the model's folder"),
        ({"location": "../w.bin"}, "external file '../w.bin' is outside the model's folder"),
        ({"location": "deep/../../w.bin"}, "is outside the model's folder"),
        ({"location": "deep\\..\\w.bin"}, "is outside the model's folder"),
        ({"location": "out"}, "external file 'out' leads outside the model's folder"),
        ({"location": "up/w.bin"}, "external file 'up/w.bin' leads outside the model's folder"),
        ({"location": "."}, "external file '.' leads outside the model's folder"),
        ({"location": "deep"}, "external file 'deep' is missing or not a file"),
        ({"location": "pipe"}, "external file 'pipe' is missing or not a file"),
        ({"location": "none.bin"}, "external file 'none.bin' is missing or not a file"),
        ({"location": "loop"}, "external file 'loop' "),
        ({"location": "w" * 5000}, "cannot be read"),
        ({"offset": "15"}, "external file 'w.bin' has 110 bytes, not 96 from 15 on"),
        ({"offset": "-8"}, "external offset '-8' is no position in a file"),
        ({"offset": "9" * 30}, "is no position in a file"),
        ({"length": "95"}, "has 95 bytes of external data, its shape and dtype need 96"),
        ({"length": "1e9"}, "external length '1e9' is no position in a file"),
    ],
)
def test_external_data_that_is_refused(
    entries: dict[str, str], problem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(bytes(200))
    (folder / "out").symlink_to(tmp_path / "w.bin")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (found,) = problems_of(external(folder, floats(6, 4), **entries), folder=folder)
    assert found.startswith("initialiser 'w' ")
    assert problem in found


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    (problem,) = problems_of(external(tmp_path, floats(6, 4)))
    assert problem.endswith("has external data, but the model was not read from a file")
