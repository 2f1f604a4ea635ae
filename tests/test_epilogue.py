"""Integer operators: the epilogue, VtaDense, Quantize, Dequantize, Pack, Unpack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import mul
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.ops import epilogue, operator, vta_dense
from vtaflow.ops.epilogue import Step, Steps
from vtaflow.ops.layout import PLAIN, Layout
from vtaflow.ops.types import Array, TensorType

Case = tuple[list[Array], dict[str, Any]]

CLIP = (("max", -128), ("min", 127))
INT32 = st.integers(-(2**31), 2**31 - 1)


def wrap(value: int) -> int:
    """A Python integer as 32-bit two's complement."""
    return (value + 2**31) % 2**32 - 2**31


def oracle(acc: int, steps: Steps, vectors: Sequence[Any], residual: int, channel: int) -> int:
    """The epilogue of one scalar in Python's unbounded integers."""
    for kind, *rest in steps:
        if kind == "add":
            acc = wrap(acc + int(vectors[rest[0]][channel]))
        elif kind == "shr":
            acc = acc >> rest[0]
        elif kind == "shr_vector":
            acc = acc >> int(vectors[rest[0]][channel])
        elif kind == "residual":
            acc = wrap(acc + residual * 2 ** rest[1])
        elif kind == "max":
            acc = max(acc, rest[0])
        elif kind == "min":
            acc = min(acc, rest[0])
    return acc


@st.composite
def epilogues(draw: st.DrawFn) -> tuple[Array, Steps, list[Array]]:
    """acc, steps and the operands [bias, shifts, residual]."""
    rows, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    acc = np.array(draw(st.lists(INT32, min_size=rows * channels, max_size=rows * channels)))
    bias = np.array(draw(st.lists(INT32, min_size=channels, max_size=channels)), np.int32)
    shift = st.integers(0, 15)
    shifts = np.array(draw(st.lists(shift, min_size=channels, max_size=channels)), np.int32)
    size = rows * channels
    residual = np.array(draw(st.lists(st.integers(-128, 127), min_size=size, max_size=size)))
    body: list[Step] = [("add", 0), ("shr_vector", 1), ("shr", draw(shift))]
    body.append(("residual", 2, draw(st.integers(0, 6))))
    chosen = tuple(step for step in body if draw(st.booleans()))
    low, high = sorted((draw(st.integers(-128, 127)), draw(st.integers(-128, 127))))
    steps = (*chosen, ("max", low), ("min", high))
    shape = (rows, channels)
    operands: list[Array] = [bias, shifts, residual.astype(np.int8).reshape(shape)]
    return acc.astype(np.int32).reshape(shape), steps, operands


@given(epilogues())
@settings(deadline=None)
def test_epilogue_equals_unbounded_integers(case: tuple[Array, Steps, list[Array]]) -> None:
    acc, steps, operands = case
    result = epilogue.apply(acc, steps, operands)
    expected = [
        [
            oracle(int(value), steps, operands, int(operands[2][n, c]), c)
            for c, value in enumerate(row)
        ]
        for n, row in enumerate(acc)
    ]
    assert result.dtype == np.int8
    assert np.array_equal(result, expected)
    json_steps = json.loads(json.dumps(steps))
    assert np.array_equal(epilogue.apply(acc, json_steps, operands), expected)


def test_the_oracle_refuses_a_wrong_answer() -> None:
    acc = np.array([[5]], np.int32)
    assert oracle(5, (("shr", 1), *CLIP), [], 0, 0) == 2
    assert not np.array_equal(epilogue.apply(acc, CLIP, []), [[2]])


def test_vectors_belong_to_axis_1_of_images() -> None:
    acc = np.zeros((1, 2, 3, 3), np.int32)
    result = epilogue.apply(acc, (("add", 0), *CLIP), [np.array([1, 2], np.int32)])
    assert (result[0, 0] == 1).all() and (result[0, 1] == 2).all()


def test_accumulator_wraps() -> None:
    acc = np.array([[2**31 - 1]], np.int32)
    assert epilogue.apply(acc, (("add", 0), *CLIP), [np.array([1], np.int32)])[0, 0] == -128


@pytest.mark.parametrize("shifts", [[-1], [16]])
def test_shifts_beyond_the_hardware_are_refused(shifts: list[int]) -> None:
    acc = np.zeros((1, 1), np.int32)
    with pytest.raises(ValueError, match="not within 0..15"):
        epilogue.apply(acc, (("shr_vector", 0), *CLIP), [np.array(shifts, np.int32)])


VECTOR = TensorType((4,), "int32")


@pytest.mark.parametrize(
    "steps, reason",
    [
        ((), "must end"),
        ((("min", 127), ("max", 0)), "must end"),
        ((("max", -129), ("min", 127)), "clips to -129..127"),
        ((("max", 5), ("min", 4)), "clips to 5..4"),
        ((("max", 0), ("min", 128)), "clips to 0..128"),
        ((("shr", 16), *CLIP), "shifts by 16"),
        ((("shr", -1), *CLIP), "shifts by -1"),
        ((("mul", 3), *CLIP), "'mul' is unknown"),
        ((("max", 3), *CLIP), "wrong place"),
        ((("add", 5), *CLIP), "reads input 5 of 2"),
        ((("add", 1), *CLIP), r"'add' takes int32\[4\], got int8\[2,4\]"),
        ((("residual", 0, 0), *CLIP), r"'residual' takes int8\[2,4\], got int32\[4\]"),
        ((("residual", 1, 7), *CLIP), "shifts by 7"),
    ],
)
def test_illegal_epilogues_are_refused(steps: Steps, reason: str) -> None:
    output = TensorType((2, 4), "int8")
    with pytest.raises(ValueError, match=reason):
        epilogue.check(steps, [VECTOR, output], output)


def test_a_residual_must_share_the_layout() -> None:
    output = TensorType((2, 4), "int8", Layout("NC", 1, 16))
    epilogue.check((("residual", 0, 6), *CLIP), [output], output)
    with pytest.raises(ValueError, match="NC1n16c"):
        epilogue.check((("residual", 0, 6), *CLIP), [TensorType((2, 4), "int8")], output)


# --- VtaDense --------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn) -> Case:
    """Arrays and attributes of a plain VtaDense with bias, shifts and a residual."""
    rows, inputs, outputs = (draw(st.integers(1, most)) for most in (5, 40, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays: list[Array] = [
        random.integers(-128, 128, (rows, inputs)).astype(np.int8),
        random.integers(-127, 128, (outputs, inputs)).astype(np.int8),
        random.integers(-5000, 5000, outputs).astype(np.int32),
        random.integers(0, 16, outputs).astype(np.int32),
        random.integers(-128, 128, (rows, outputs)).astype(np.int8),
    ]
    steps = (("add", 2), ("shr_vector", 3), ("residual", 4, 2), ("max", -100), ("min", 90))
    return arrays, {"epilogue": steps, "scale": 0.5, "layout": PLAIN}


def packed(arrays: list[Array], attrs: dict[str, Any], layout: Layout) -> Case:
    """The same layer in a layout."""
    activations = {0: layout, 1: vta_dense.weight_layout(layout), 4: layout}
    stored = [activations.get(place, PLAIN).pack(each) for place, each in enumerate(arrays)]
    return stored, {**attrs, "layout": layout, "features": arrays[1].shape}


@given(layers())
@settings(deadline=None)
def test_dense_equals_unbounded_integers(layer: Case) -> None:
    arrays, attrs = layer
    x, weight, bias, shifts, residual = (array.tolist() for array in arrays)
    (result,) = operator("VtaDense").evaluate(arrays, attrs)
    products = [[sum(map(mul, row, column)) for column in weight] for row in x]
    expected = [
        [
            oracle(wrap(acc), attrs["epilogue"], [0, 0, bias, shifts], residual[n][c], c)
            for c, acc in enumerate(row)
        ]
        for n, row in enumerate(products)
    ]
    assert np.array_equal(result, expected)


@given(layers(), st.sampled_from([(1, 16), (2, 8), (4, 4), (3, 32)]))
@settings(deadline=None)
def test_packing_changes_no_value(layer: Case, tile: tuple[int, int]) -> None:
    layout = Layout("NC", *tile)
    (expected,) = operator("VtaDense").evaluate(*layer)
    stored, attrs = packed(*layer, layout)
    (result,) = operator("VtaDense").evaluate(stored, attrs)
    assert result.shape == layout.storage_shape(expected.shape)
    assert np.array_equal(layout.unpack(result, expected.shape), expected)


def test_padding_lanes_hold_what_the_hardware_computes() -> None:
    layout = Layout("NC", 2, 4)
    arrays: list[Array] = [
        np.full((1, 3), 1, np.int8),
        np.full((3, 3), 1, np.int8),
        np.array([7, 7, 7], np.int32),
    ]
    steps = (("add", 2), ("max", 5), ("min", 127))
    stored, attrs = packed(arrays, {"epilogue": steps, "scale": 1.0}, layout)
    (result,) = operator("VtaDense").evaluate(stored, attrs)
    # A padding row has x = 0 and so the bias, a padding channel has nothing but the clip.
    assert np.array_equal(result[0, 0], [[10, 10, 10, 5], [7, 7, 7, 5]])


@pytest.mark.parametrize("inputs", [1024, 1025, 140_000])
def test_long_sums_are_exact_and_wrap(inputs: int) -> None:
    x = np.full((1, inputs), -128, np.int8)
    weight = np.full((1, inputs), -128, np.int8)
    x[0, 0], weight[0, 0] = 1, 1  # an odd sum, which a rounding float would lose
    expected = wrap((inputs - 1) * 2**14 + 1)
    assert vta_dense.accumulate(x, weight)[0, 0] == expected


def dense_types(layout: Layout = PLAIN) -> tuple[list[TensorType], dict[str, Any]]:
    features = (20, 30)
    storage = vta_dense.weight_layout(layout).storage_shape(features)
    attrs = {"epilogue": CLIP, "scale": 0.25, "layout": layout, "features": features}
    return [TensorType((2, 30), "int8", layout), TensorType(storage, "int8")], attrs


@pytest.mark.parametrize("layout", [PLAIN, Layout("NC", 1, 16), Layout("NC", 2, 8)])
def test_dense_has_the_layout_of_its_input(layout: Layout) -> None:
    kinds, attrs = dense_types(layout)
    expected = TensorType((2, 20), "int8", layout, 0.25)
    assert list(operator("VtaDense").infer(kinds, attrs)) == [expected]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({0: TensorType((2, 30))}, "takes int8"),
        ({0: TensorType((2, 3, 30), "int8")}, "takes int8"),
        ({1: TensorType((20, 30), "float32")}, "takes int8"),
        ({0: TensorType((2, 30), "int8", Layout("NC", 1, 16))}, "takes x in layout plain"),
        ({1: TensorType((20,), "int8")}, "do not hold features"),
        ({1: TensorType((20, 31), "int8")}, "x has 30 features, the weights take 31"),
    ],
)
def test_dense_refuses_what_does_not_fit(change: dict[int, TensorType], reason: str) -> None:
    kinds, attrs = dense_types()
    kinds = [change.get(place, kind) for place, kind in enumerate(kinds)]
    with pytest.raises(ValueError, match=reason):
        operator("VtaDense").infer(kinds, attrs)


def test_packed_dense_refuses_unpacked_weights() -> None:
    kinds, attrs = dense_types(Layout("NC", 1, 16))
    kinds[1] = TensorType((20, 30), "int8")
    with pytest.raises(ValueError, match="do not hold features"):
        operator("VtaDense").infer(kinds, attrs)


# --- conversions -----------------------------------------------------------------------------


def test_quantize_rounds_half_to_even_and_clips() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 1e38, -1e38, -0.0], np.float32)
    (result,) = operator("Quantize").evaluate([x], {"scale": 1.0})
    assert result.dtype == np.int8
    assert np.array_equal(result, [0, 2, 2, 0, -2, 127, 127, -128, 0])


def test_quantize_survives_overflow() -> None:
    (result,) = operator("Quantize").evaluate([np.array([3e38], np.float32)], {"scale": 1e-20})
    assert np.array_equal(result, [127])


def test_quantize_is_one_float32_multiplication() -> None:
    scale = 0.1
    factor = np.float32(1 / scale)
    x = np.random.default_rng(0).uniform(-20, 20, 10_000).astype(np.float32)
    expected = [max(-128, min(127, round(float(np.float32(v * factor))))) for v in x]
    assert np.array_equal(operator("Quantize").evaluate([x], {"scale": scale})[0], expected)


def test_dequantize_is_one_float32_multiplication() -> None:
    x = np.arange(-128, 128).astype(np.int8)
    (result,) = operator("Dequantize").evaluate([x], {"scale": 0.1})
    assert result.dtype == np.float32
    assert np.array_equal(result, np.array([np.float32(v) * np.float32(0.1) for v in x]))


def test_conversion_types() -> None:
    real, integer = TensorType((2, 3)), TensorType((2, 3), "int8", scale=0.5)
    assert list(operator("Quantize").infer([real], {"scale": 0.5})) == [integer]
    assert list(operator("Dequantize").infer([integer], {"scale": 0.5})) == [real]


@pytest.mark.parametrize(
    "op, kind, scale, reason",
    [
        ("Quantize", TensorType((2,)), 0.0, "scale 0 is not within"),
        ("Quantize", TensorType((2,)), float("nan"), "scale nan"),
        ("Dequantize", TensorType((2,), "int8"), 1e38, "scale 1e.38"),
        ("Quantize", TensorType((2,), "float64"), 1.0, "plain float32"),
        ("Quantize", TensorType((2, 2), layout=Layout("NC", 1, 4)), 1.0, "plain float32"),
        ("Dequantize", TensorType((2,), "int32"), 1.0, "plain int8"),
        ("Dequantize", TensorType((2, 2), "int8", Layout("NC", 1, 4)), 1.0, "plain int8"),
        ("Dequantize", TensorType((2,), "int8", scale=0.5), 1.0, "not the tensor's scale"),
    ],
)
def test_conversions_refuse_what_does_not_fit(
    op: str, kind: TensorType, scale: float, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        operator(op).infer([kind], {"scale": scale})


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([(1, 16), (2, 8), (4, 4)]))
@settings(deadline=None)
def test_unpack_inverts_pack(rows: int, columns: int, tile: tuple[int, int]) -> None:
    attrs = {"layout": Layout("NC", *tile), "shape": (rows, columns)}
    x = np.random.default_rng(rows * columns).integers(-128, 128, (rows, columns)).astype(np.int8)
    (stored,) = operator("Pack").evaluate([x], attrs)
    kind = TensorType((rows, columns), "int8", scale=2.0)
    (packed_kind,) = operator("Pack").infer([kind], attrs)
    assert stored.shape == packed_kind.storage_shape
    assert stored.astype(np.int64).sum() == x.astype(np.int64).sum()  # the padding is zero
    assert list(operator("Unpack").infer([packed_kind], attrs)) == [kind]
    assert np.array_equal(operator("Unpack").evaluate([stored], attrs)[0], x)


TILED = Layout("NC", 1, 16)


@pytest.mark.parametrize(
    "op, kind, layout, reason",
    [
        ("Pack", TensorType((2, 4), "int8", TILED), TILED, "packs a plain"),
        ("Pack", TensorType((3, 4), "int8"), TILED, "packs a plain"),
        ("Pack", TensorType((2, 4), "int8"), PLAIN, "into plain"),
        ("Unpack", TensorType((2, 4), "int8"), TILED, "unpacks"),
        ("Unpack", TensorType((3, 4), "int8", TILED), TILED, "unpacks"),
        ("Unpack", TensorType((2, 4), "int8"), PLAIN, "from plain"),
    ],
)
def test_packing_refuses_what_does_not_fit(
    op: str, kind: TensorType, layout: Layout, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        operator(op).infer([kind], {"layout": layout, "shape": (2, 4)})
