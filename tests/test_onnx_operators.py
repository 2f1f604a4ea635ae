"""Every operator beyond the multi-layer perceptron's, imported at every opset, beside onnxruntime.

The bound is that of oracles.py: 1e-5 of the largest magnitude.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from vtaflow.errors import ModelError
from vtaflow.frontend.converters import CONVERTERS
from vtaflow.frontend.onnx_import import import_model
from vtaflow.ops.types import Array

from .onnx_models import NEWEST, Dims, build, floats, ints, node, scalar
from .oracles import check, onnx_says, onnxruntime_says

OPSETS = tuple(range(7, NEWEST + 1))
SEQUENCE: dict[str, Dims] = {"x": ("N", 4, 7)}
IMAGE: dict[str, Dims] = {"x": ("N", 4, 6, 5)}


def since(first: int, last: int = NEWEST) -> list[int]:
    return [opset for opset in OPSETS if first <= opset <= last]


def tensor(array: Array) -> TensorProto:
    return onnx.numpy_helper.from_array(array)


SIMPLE: list[tuple[str, int, dict[str, Any]]] = [
    ("Abs", 7, {}),
    ("Ceil", 7, {}),
    ("Elu", 7, {"alpha": 1.5}),
    ("Erf", 9, {}),
    ("Exp", 7, {}),
    ("Floor", 7, {}),
    ("Gelu", 20, {}),
    ("GlobalAveragePool", 7, {}),
    ("GlobalMaxPool", 7, {}),
    ("HardSigmoid", 7, {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", 14, {}),
    ("LRN", 7, {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 2.0}),
    ("LeakyRelu", 7, {"alpha": 0.125}),
    ("Mish", 18, {}),
    ("Neg", 7, {}),
    ("Reciprocal", 7, {}),
    ("Selu", 7, {}),
    ("Softplus", 7, {}),
    ("Softsign", 7, {}),
]
REDUCED: list[tuple[str, str, dict[str, Any], dict[str, Array]]] = [
    ("attribute", "x", {"axes": [2, 3], "keepdims": 0}, {}),
    ("negative", "x", {"axes": [-1]}, {}),
    ("operand", "x a", {"keepdims": 0}, {"a": ints(-1, 2)}),
    ("no operation", "x", {"noop_with_empty_axes": 1}, {}),
]
Case = tuple[Sequence[int], list[onnx.NodeProto], dict[str, Array], dict[str, Dims]]
CASES: dict[str, Case] = {
    **{
        op.lower(): (since(first), [node(op, "x", **attributes)], {}, IMAGE)
        for op, first, attributes in SIMPLE
    },
    "gelu by tanh": (since(20), [node("Gelu", "x", approximate="tanh")], {}, IMAGE),
    "global pool of a sequence": (since(7), [node("GlobalAveragePool", "x")], {}, SEQUENCE),
    "log and root": (
        since(7),
        [node("Abs", "x", "a"), node("Log", "a", "l"), node("Sqrt", "a", "r"), node("Add", "l r")],
        {},
        IMAGE,
    ),
    "power": (
        since(7),
        [node("Abs", "x", "a"), node("Pow", "a e")],
        {"e": floats(5)},
        IMAGE,
    ),
    "integer power": (since(12), [node("Pow", "x e")], {"e": ints(2)}, IMAGE),
    "prelu": (since(7), [node("PRelu", "x s")], {"s": floats(4, 1, 1)}, IMAGE),
    **{
        op.lower(): (since(8), [node("Exp", "x", "e"), node(op, "x c e")], {"c": floats(5)}, IMAGE)
        for op in ("Max", "Min", "Sum", "Mean")
    },
    "sum of one": (since(7), [node("Sum", "x")], {}, IMAGE),
    **{
        f"{op.lower()} {note}": (
            since(11, changed - 1) if "axes" in attributes else since(changed),
            [node(op, names, **attributes)],
            constants,
            IMAGE,
        )
        for op, changed in (
            ("ReduceMean", 18), ("ReduceSum", 13), ("ReduceMax", 18), ("ReduceMin", 18),
        )
        for note, names, attributes, constants in REDUCED
    },
    "old mean": (since(7, 10), [node("ReduceMean", "x", axes=[1, 3])], {}, IMAGE),
    **{
        f"{op.lower()} {axis}": (since(7 if axis > 0 else 11), [
            node(op, "x", "i", axis=axis, keepdims=keep),
            node("Cast", "i", to=TensorProto.FLOAT),
        ], {}, IMAGE)
        for op in ("ArgMax", "ArgMin")
        for axis, keep in ((1, 1), (3, 0), (-2, 0))
    },
    "argmax of equals": (
        since(12),
        [
            node("Floor", "x", "f"),
            node("ArgMax", "f", "i", axis=2, select_last_index=1),
            node("Cast", "i", to=TensorProto.FLOAT),
        ],
        {},
        IMAGE,
    ),
    "split attribute": (
        since(7, 12),
        [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Mul", "a b")],
        {},
        IMAGE,
    ),
    "split operand": (
        since(13),
        [node("Split", "x s", "a b", axis=-3), node("Mul", "a b")],
        {"s": ints(1, 3)},
        IMAGE,
    ),
    "split equally": (
        since(7, 17),
        [node("Split", "x", "a b", axis=1), node("Mul", "a b")],
        {},
        IMAGE,
    ),
    "split by number": (
        since(18),
        [node("Split", "x", "a b c", axis=3, num_outputs=3), node("Mul", "a b", "d"),
         node("Mul", "d c")],
        {},
        IMAGE,
    ),
    "split of a shape": (
        since(13),
        [
            node("Shape", "x", "s"),
            node("Split", "s l", "n r"),
            node("Concat", "n t", "u", axis=0),
            node("Reshape", "x u", "f"),
            node("Concat", "n r", "v", axis=0),
            node("Reshape", "f v"),
        ],
        {"l": ints(1, 3), "t": ints(-1)},
        IMAGE,
    ),
    "expand": (since(8), [node("Expand", "x s")], {"s": ints(1, 1, 6, 1)}, {"x": ("N", 3, 1, 5)}),
    "expand by less": (since(8), [node("Expand", "x s")], {"s": ints(5)}, {"x": ("N", 3, 1)}),
    "expand to the batch": (
        since(9),
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Concat", "n r", "t", axis=0),
            node("Shape", "t", "k"),
            node("ConstantOfShape", "k", "o", value=tensor(ints(1))),
            node("Mul", "o m", "p"),
            node("Cast", "t", "c", to=TensorProto.INT32),
            node("Cast", "p", "d", to=TensorProto.INT32),
            node("Equal", "c d", "e"),
            node("Where", "e o t", "w"),
            node("Expand", "x w"),
        ],
        {"i": ints(0), "r": ints(-1, 6, 5), "m": ints(-1)},
        IMAGE,
    ),
    "tile": (since(7), [node("Tile", "x r")], {"r": ints(1, 2, 1, 3)}, IMAGE),
    "constant of shape": (
        since(9),
        [node("ConstantOfShape", "s", "c", value=tensor(floats(1))), node("Add", "x c")],
        {"s": ints(6, 5)},
        IMAGE,
    ),
    "constant of no shape": (
        since(9),
        [node("ConstantOfShape", "s", "c"), node("Add", "x c")],
        {"s": np.zeros(0, np.int64)},
        IMAGE,
    ),
    **{
        op.lower(): (
            since(first),
            [node(op, "x c", "m"), node("Where", "m x c")],
            {"c": scalar(0.2)},
            IMAGE,
        )
        for op, first in (("Greater", 9), ("Less", 9), ("Equal", 11))
    },
    "depth to space": (
        since(7),
        [node("DepthToSpace", "x", blocksize=2)],
        {},
        {"x": ("N", 12, 2, 3)},
    ),
    "depth to space, channels first": (
        since(11),
        [node("DepthToSpace", "x", blocksize=2, mode="CRD")],
        {},
        {"x": ("N", 12, 2, 3)},
    ),
    "space to depth": (
        since(7),
        [node("SpaceToDepth", "x", blocksize=2)],
        {},
        {"x": ("N", 3, 4, 6)},
    ),
    "instance normalization": (
        since(7),
        [node("InstanceNormalization", "x s b", epsilon=0.01)],
        {"s": floats(4), "b": floats(4)},
        IMAGE,
    ),
    "layer normalization": (
        since(17),
        [node("LayerNormalization", "x s b", axis=-1)],
        {"s": floats(5), "b": floats(5)},
        IMAGE,
    ),
    "layer normalization without shift": (
        since(17),
        [node("LayerNormalization", "x s", axis=2)],
        {"s": floats(6, 5)},
        IMAGE,
    ),
    "batch normalization": (
        since(7),
        [node("BatchNormalization", "x s b m v", epsilon=0.01)],
        {"s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 0.1},
        IMAGE,
    ),
    "pad attribute": (
        since(7, 10),
        [node("Pad", "x", pads=[0, 0, 1, 2, 0, 1, 0, 3], value=0.5)],
        {},
        IMAGE,
    ),
    "pad operand": (
        since(11),
        [node("Pad", "x p v")],
        {"p": ints(0, 0, 1, -2, 0, 1, -1, 3), "v": scalar(0.5)},
        IMAGE,
    ),
    "pad some axes": (
        since(18),
        [node("Pad", "x p - a", mode="edge")],
        {"p": ints(1, 2, 0, 1), "a": ints(3, -2)},
        IMAGE,
    ),
    "upsample attribute": (
        [7, 8],
        [node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0])],
        {},
        IMAGE,
    ),
    "upsample operand": (
        [9],
        [node("Upsample", "x s", mode="linear")],
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
        IMAGE,
    ),
    **{
        f"resize {mode} by {down} and {up}": (
            [10],
            [node("Resize", "x s", mode=mode)],
            {"s": np.array([1, 1, down, up], np.float32)},
            IMAGE,
        )
        for mode in ("nearest", "linear")
        for down, up in ((0.5, 2), (0.6, 1.7))
    },
    "resize to the size of another": (
        since(11),
        [
            node("Shape", "x", "s"),
            node("Slice", "s from to", "n"),
            node("Concat", "n h", "t", axis=0),
            node("Resize", "x r r t", mode="nearest"),
        ],
        {"from": ints(0), "to": ints(2), "h": ints(9, 11), "r": np.zeros(0, np.float32)},
        IMAGE,
    ),
    "resize some axes": (
        since(18),
        [node("Resize", "x - s", axes=[3, 2], mode="linear")],
        {"s": np.array([2, 0.5], np.float32)},
        IMAGE,
    ),
    "matmul of a sequence": (since(7), [node("MatMul", "x w")], {"w": floats(7, 3)}, SEQUENCE),
}  # fmt: skip


def feeds_for(inputs: dict[str, Dims], batch: int) -> dict[str, Array]:
    (shape,) = inputs.values()
    return {"x": floats(batch, *(size for size in shape[1:] if isinstance(size, int)))}


def different(opsets: Sequence[int], nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """The opsets at which one of the operators is not that of the opset before; and the newest."""
    found: dict[tuple[int, ...], int] = {}
    for opset in opsets:
        schemas = (onnx.defs.get_schema(each.op_type, opset, "") for each in nodes)
        found.setdefault(tuple(schema.since_version for schema in schemas), opset)
    return sorted({*found.values(), opsets[-1]})


@pytest.mark.parametrize(
    ("name", "opset"),
    [(name, opset) for name, case in CASES.items() for opset in different(case[0], case[1])],
)
def test_operators_agree(name: str, opset: int) -> None:
    _, nodes, constants, inputs = CASES[name]
    model = build(nodes, constants, inputs, opset=opset)
    for batch in (1, 3):
        check(model, feeds_for(inputs, batch), [onnxruntime_says])


@st.composite
def slid(draw: st.DrawFn) -> tuple[list[int], dict[str, Any], list[int]]:
    """Spatial sizes, attributes of a sliding kernel, and the kernel."""
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int, count: int = rank) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel = each(1, 4)
    attributes: dict[str, Any] = {}
    if draw(st.booleans()):
        attributes["strides"] = each(1, 3)
    autos = ["", "", "NOTSET", "VALID"]
    if all(step <= taps for step, taps in zip(attributes.get("strides", ()), kernel, strict=False)):
        autos += ["SAME_UPPER", "SAME_LOWER"]  # onnxruntime refuses pools that leave gaps
    auto = draw(st.sampled_from(autos))
    if auto:
        attributes["auto_pad"] = auto
    if auto in ("", "NOTSET") and draw(st.booleans()):
        wide = each(0, 3, 2 * rank)
        attributes["pads"] = [min(pad, kernel[i % rank] - 1) for i, pad in enumerate(wide)]
    return each(3, 9), attributes, kernel


def image_model(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], shape: Sequence[int], opset: int
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    batch, *rest = shape
    model = build(nodes, constants, {"x": ("N", *rest)}, opset=opset)
    return model, {"x": floats(*shape)}


def agree_if_legal(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    """As `check`; where the kernel is too large for us, it is for onnxruntime."""
    try:
        import_model(model)
    except ModelError as error:
        assert "kernel does not fit" in str(error)
        with contextlib.suppress(Exception):  # its errors have no common type
            assert not any(array.size for array in onnxruntime_says(model, feeds))
        return
    check(model, feeds, [onnxruntime_says])


@settings(max_examples=120, deadline=None)
@given(st.data(), slid())
def test_convolutions_agree(
    data: st.DataObject, window: tuple[list[int], dict[str, Any], list[int]]
) -> None:
    sizes, attributes, kernel = window
    group = data.draw(st.integers(1, 3))
    depth, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    if data.draw(st.booleans()) and "auto_pad" not in attributes:  # onnxruntime takes not both
        attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in kernel]
    if data.draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    constants = {"w": floats(group * width, depth, *kernel), "b": floats(group * width)}
    operands = data.draw(st.sampled_from(["x w", "x w b"]))
    batch = data.draw(st.integers(1, 2))
    opset = data.draw(st.sampled_from(OPSETS))
    nodes = [node("Conv", operands, group=group, **attributes)]
    agree_if_legal(*image_model(nodes, constants, (batch, group * depth, *sizes), opset))


@settings(max_examples=120, deadline=None)
@given(st.data(), slid())
def test_transposed_convolutions_agree(
    data: st.DataObject, window: tuple[list[int], dict[str, Any], list[int]]
) -> None:
    sizes, attributes, kernel = window
    group = data.draw(st.integers(1, 2))
    depth, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    strides = attributes.get("strides", [1] * len(kernel))
    if data.draw(st.booleans()):
        attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in kernel]
    if data.draw(st.booleans()):
        extra = [data.draw(st.integers(0, stride - 1)) for stride in strides]
        attributes["output_padding"] = extra
    if data.draw(st.integers(0, 3)) == 0 and attributes.get("auto_pad") != "VALID":
        attributes.pop("pads", None)
        attributes["output_shape"] = [
            (size - 1) * stride + 1 + data.draw(st.integers(0, taps - 1))
            for size, stride, taps in zip(sizes, strides, kernel, strict=True)
        ]
    constants = {"w": floats(group * depth, width, *kernel), "b": floats(group * width)}
    operands = data.draw(st.sampled_from(["x w", "x w b"]))
    batch = data.draw(st.integers(1, 2))
    opset = data.draw(st.sampled_from(OPSETS))
    nodes = [node("ConvTranspose", operands, group=group, **attributes)]
    agree_if_legal(*image_model(nodes, constants, (batch, group * depth, *sizes), opset))


@settings(max_examples=160, deadline=None)
@given(st.data(), slid())
def test_pools_agree(
    data: st.DataObject, window: tuple[list[int], dict[str, Any], list[int]]
) -> None:
    sizes, attributes, kernel = window
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    opset = data.draw(st.sampled_from(OPSETS))
    attributes["kernel_shape"] = kernel
    if opset >= 10 and data.draw(st.booleans()):
        attributes["ceil_mode"] = 1
    dilates = opset >= (10 if op == "MaxPool" else 19) and "auto_pad" not in attributes
    if dilates and data.draw(st.booleans()):  # onnxruntime forgets them in auto_pad
        attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in kernel]
    if op == "AveragePool" and data.draw(st.booleans()):
        attributes["count_include_pad"] = 1
    batch, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    nodes = [node(op, "x", **attributes)]
    agree_if_legal(*image_model(nodes, {}, (batch, channels, *sizes), opset))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_pads_agree(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, 5)) for _ in range(data.draw(st.integers(1, 3)))]
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
    low = {"constant": -1}.get(mode, 0)

    def end(size: int) -> int:
        high = {"reflect": size - 1, "wrap": size}.get(mode, 3)
        return data.draw(st.integers(low if size > 2 else 0, high))

    pads = [0, *map(end, sizes), 0, *map(end, sizes)]
    opset = data.draw(st.sampled_from(since(19) if mode == "wrap" else OPSETS))
    constants = {"p": ints(*pads), "v": scalar(-0.5)}
    nodes = [node("Pad", "x p v" if mode == "constant" else "x p", mode=mode)]
    if opset < 11:
        nodes = [node("Pad", "x", pads=pads, mode=mode, value=-0.5)]
        constants = {}
    check(*image_model(nodes, constants, (2, *sizes), opset), [onnxruntime_says])


TRANSFORMATIONS = (
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_resizes_agree(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, 7)) for _ in range(2)]
    opset = data.draw(st.sampled_from(since(11)))
    late = {"half_pixel_symmetric"} if opset >= 19 else set()
    early = {"tf_half_pixel_for_nn"} if opset < 13 else set()
    how = data.draw(st.sampled_from(sorted({*TRANSFORMATIONS, *late, *early})))
    modes = ["linear"]
    if how != "half_pixel_symmetric":  # whose exact ties onnxruntime rounds now up, now down
        modes.append("nearest")
    attributes: dict[str, Any] = {
        "coordinate_transformation_mode": how,
        "mode": data.draw(st.sampled_from(modes)),
        "nearest_mode": data.draw(
            st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        ),
        "extrapolation_value": 2.5,
    }
    constants = {"r": np.array([0, 0, -0.25, 0.25, 1, 1, 0.75, 1.5], np.float32)}
    if data.draw(st.booleans()):
        scales = [data.draw(st.sampled_from([0.4, 0.5, 0.75, 1, 1.5, 2, 3])) for _ in sizes]
        assume(all(size * scale >= 1 for size, scale in zip(sizes, scales, strict=True)))
        constants["s"] = np.array([1, 1, *scales], np.float32)
        nodes = [node("Resize", "x r s", **attributes)]
    else:
        wanted = [data.draw(st.integers(1, 12)) for _ in sizes]
        constants["e"] = np.zeros(0, np.float32)
        constants["s"] = ints(2, 3, *wanted)
        nodes = [node("Resize", "x r e s", **attributes)]
    model = build(nodes, constants, {"x": (2, 3, *sizes)}, opset=opset)
    if how == "tf_crop_and_resize":  # onnxruntime does not crop an axis whose size stays
        after = import_model(model, 2).types["y"].shape
        assume(all(size != old for size, old in zip(after[2:], sizes, strict=True)))
    check(model, {"x": floats(2, 3, *sizes)}, [onnxruntime_says])


def test_swish_agrees() -> None:
    """onnxruntime has none."""
    model = build([node("Swish", "x", alpha=1.5)], opset=24)
    check(model, {"x": floats(2, 6)}, [onnx_says])


def test_every_converter_is_tested() -> None:
    from . import test_onnx_import

    used = {
        each.op_type
        for cases in (CASES, test_onnx_import.CASES)
        for case in cases.values()
        for each in case[1]
    }
    drawn = {"AveragePool", "Conv", "ConvTranspose", "MaxPool", "Swish"}
    quantised = {"DequantizeLinear", "QuantizeLinear"}
    assert set(CONVERTERS) <= used | drawn | quantised
