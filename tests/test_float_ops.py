"""Float operators: what each means, by its own definition in float64, and what each refuses."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow import ops
from vtaflow.ops import OPERATORS, operator
from vtaflow.ops.layout import Layout
from vtaflow.ops.types import Array, TensorType, bytes_of, type_of

RNG = np.random.default_rng(7)


def floats(*shape: int, dtype: str = "float32") -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def run(name: str, *arrays: Array, **attrs: Any) -> Array:
    """Evaluate one operator and see that it keeps to its own type rule."""
    meaning = operator(name)
    (kind,) = meaning.infer([type_of(array) for array in arrays], attrs)
    (result,) = meaning.evaluate(arrays, attrs)
    assert isinstance(result, np.ndarray)
    assert (result.shape, str(result.dtype)) == (kind.shape, kind.dtype)
    return result


def test_registry_lists_every_operator_file_once() -> None:
    folder = Path(ops.__file__).parent
    modules = [importlib.import_module(f"vtaflow.ops.{path.stem}") for path in folder.glob("*.py")]
    defined = [module.OPERATOR.name for module in modules if hasattr(module, "OPERATOR")]
    assert sorted(defined) == [each.name for each in sorted(OPERATORS, key=lambda o: o.name)]
    assert len(set(defined)) == len(defined)


def test_unknown_operator() -> None:
    with pytest.raises(KeyError, match="Lstm"):
        operator("Lstm")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("Relu", lambda x: np.where(x > 0, x, 0)),
        ("Tanh", np.tanh),
        ("Sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_unary(name: str, formula: Any, dtype: str) -> None:
    for shape in [(), (1,), (2, 3), (2, 1, 4)]:
        x = (floats(*shape) * 5).astype(dtype)
        expected = formula(x.astype(np.float64))
        tolerance = 4 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(run(name, x), expected, rtol=tolerance)


def test_sigmoid_saturates_without_overflow() -> None:
    extremes = np.array([-1e30, -100, 0, 100, 1e30], np.float32)
    result = run("Sigmoid", extremes)
    np.testing.assert_allclose(result, [0, np.exp(-100.0), 0.5, 1, 1], rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shapes", [((), ()), ((2, 3), (3,)), ((2, 1), (4, 1, 5)), ((1,), (0, 2))])
def test_binary_floats(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    left, right = (floats(*shape) for shape in shapes)
    formula = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[name]
    assert np.array_equal(run(name, left, right), formula(left, right))


def test_binary_integers_wrap_and_divide_towards_zero() -> None:
    big = np.array([2**31 - 1], np.int32)
    assert run("Add", big, np.array([1], np.int32)).tolist() == [-(2**31)]
    pairs = list(itertools.product([-7, -6, 0, 6, 7], [-3, -1, 2, 3]))
    left, right = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    assert run("Div", left, right).tolist() == [int(a / b) for a, b in pairs]


def test_division_by_zero_is_silent() -> None:
    zero = np.zeros(1, np.float32)
    assert np.isnan(run("Div", zero, zero)).all()
    run("Div", np.ones(1, np.int64), np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (None, None, [-9, -1, 0, 1, 9]),
        (0.0, 6.0, [0, 0, 0, 1, 6]),
        (None, -1.0, [-9, -1, -1, -1, -1]),
        (5.0, 2.0, [2, 2, 2, 2, 2]),
    ],
)
def test_clip(low: float | None, high: float | None, expected: list[float]) -> None:
    x = np.array([-9, -1, 0, 1, 9], np.float32)
    assert run("Clip", x, min=low, max=high).tolist() == expected
    assert run("Clip", x.astype(np.int64), min=low, max=high).tolist() == expected


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2), [0, 1, 2]])
def test_softmax_and_log_softmax(axes: tuple[int, ...]) -> None:
    x = floats(2, 3, 4) * 10
    powers = np.exp(x.astype(np.float64))
    expected = powers / powers.sum(axis=tuple(axes), keepdims=True)
    np.testing.assert_allclose(run("Softmax", x, axes=axes), expected, rtol=1e-5)
    logs = run("LogSoftmax", x, axes=axes)
    np.testing.assert_allclose(logs, np.log(expected), rtol=1e-5, atol=1e-6)


def test_softmax_of_large_values_does_not_overflow() -> None:
    x = np.array([[1e30, 1e30, -1e30]], np.float32)
    assert run("Softmax", x, axes=(1,)).tolist() == [[0.5, 0.5, 0]]
    np.testing.assert_allclose(run("LogSoftmax", x, axes=(1,))[0, :2], np.log(0.5), rtol=1e-6)
    assert np.isnan(run("Softmax", np.full((1, 2), -np.inf, np.float32), axes=(1,))).all()


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3), (3, 4)), ((3,), (3,)), ((5, 2, 3), (3,)), ((3,), (3, 4)), ((5, 1, 2, 3), (4, 3, 2))],
)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = floats(*left), floats(*right)
    expected = np.matmul(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(run("MatMul", a, b), expected, atol=1e-5)


@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
@pytest.mark.parametrize("offset", [None, (), (4,), (1, 4), (2, 1), (2, 4)])
def test_gemm(transA: int, transB: int, offset: tuple[int, ...] | None) -> None:
    a = floats(3, 2) if transA else floats(2, 3)
    b = floats(4, 3) if transB else floats(3, 4)
    c = [] if offset is None else [floats(*offset)]
    result = run("Gemm", a, b, *c, alpha=0.5, beta=-2.0, transA=transA, transB=transB)
    expected = 0.5 * np.einsum("nk,ko->no", a.T if transA else a, b.T if transB else b)
    np.testing.assert_allclose(result, expected + (-2.0 * c[0] if c else 0), atol=1e-5)


def test_dense_is_a_clipped_product() -> None:
    x, weight, bias = floats(3, 5), floats(4, 5), floats(4)
    exact = np.einsum("ni,oi->no", x.astype(np.float64), weight) + bias
    result = run("Dense", x, weight, bias, min=-0.5, max=0.5)
    np.testing.assert_allclose(result, np.clip(exact, -0.5, 0.5), atol=1e-5)
    np.testing.assert_allclose(run("Dense", x, weight, bias, min=None, max=None), exact, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_batch_normalization(shape: tuple[int, ...]) -> None:
    x, scale, offset, mean = floats(*shape), floats(3), floats(3), floats(3)
    var = np.abs(floats(3)) + 0.1
    moved = np.moveaxis(x.astype(np.float64), 1, -1)
    expected = np.moveaxis((moved - mean) / np.sqrt(var + 1e-3) * scale + offset, -1, 1)
    result = run("BatchNormalization", x, scale, offset, mean, var, epsilon=1e-3)
    np.testing.assert_allclose(result, expected, atol=1e-5)


X = np.arange(24, dtype=np.int64).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("Identity", {}, X),
        ("Dropout", {}, X),
        ("Cast", {"to": "float32"}, X.astype(np.float32)),
        ("Flatten", {"axis": 0}, X.reshape(1, 24)),
        ("Flatten", {"axis": 2}, X.reshape(6, 4)),
        ("Flatten", {"axis": -1}, X.reshape(6, 4)),
        ("Flatten", {"axis": 3}, X.reshape(24, 1)),
        ("Reshape", {"shape": (0, -1)}, X.reshape(2, 12)),
        ("Reshape", {"shape": [4, 0, -1, 1]}, X.reshape(4, 3, 2, 1)),
        ("Unsqueeze", {"axes": (0, -1)}, X[None, ..., None]),
        ("Unsqueeze", {"axes": (2,)}, X[:, :, None]),
        ("Transpose", {"perm": (0, 2, 1)}, X.transpose(0, 2, 1)),
        ("Shape", {"start": 0, "end": None}, np.array([2, 3, 4])),
        ("Shape", {"start": -2, "end": 2}, np.array([3])),
        ("Slice", {"starts": [1], "ends": [2**63 - 1], "axes": [2], "steps": [2]}, X[..., 1::2]),
        (
            "Slice",
            {"starts": (-1, 0), "ends": (-(2**63), 1), "axes": (1, 0), "steps": (-1, 1)},
            X[:1, ::-1],
        ),
        ("Slice", {"starts": (3,), "ends": (1,), "axes": (2,), "steps": (1,)}, X[..., 3:1]),
    ],
)
def test_movement(name: str, attrs: dict[str, Any], expected: Array) -> None:
    result = run(name, X, **attrs)
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


def test_squeeze_gather_concat() -> None:
    x = X[:, None, :, :1]
    assert np.array_equal(run("Squeeze", x, axes=(1, -1)), X[:, :, 0])
    indices = np.array([[0, -1]], np.int32)
    assert np.array_equal(run("Gather", X, indices, axis=1), X[:, [[0, 2]]])
    assert np.array_equal(run("Gather", X, np.array(1, np.int64), axis=2), X[:, :, 1])
    expected = np.concatenate([X, X[:, :1]], 1)
    assert np.array_equal(run("Concat", X, X[:, :1], axis=1), expected)


@pytest.mark.parametrize("name", ["Identity", "Transpose", "Slice"])
def test_scalars_stay_scalars(name: str) -> None:
    attrs: dict[str, Any] = {"perm": (), "starts": (), "ends": (), "axes": (), "steps": ()}
    assert run(name, np.array(3.0, np.float32), **attrs).shape == ()


def test_casts_of_what_does_not_fit_are_silent() -> None:
    x = np.array([np.nan, 1e30, -2.7], np.float32)
    assert run("Cast", x, to="int64")[2] == -2
    assert run("Cast", x, to="bool").tolist() == [True, True, True]


def test_movement_keeps_the_scale_of_quantised_values() -> None:
    kind = TensorType((2, 1, 4), "int8", scale=0.5)
    cases: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("Reshape", {"shape": (0, -1)}, (2, 4)),
        ("Flatten", {"axis": 1}, (2, 4)),
        ("Squeeze", {"axes": (1,)}, (2, 4)),
        ("Transpose", {"perm": (0, 2, 1)}, (2, 4, 1)),
    ]
    for name, attrs, shape in cases:
        assert operator(name).infer([kind], attrs) == [TensorType(shape, "int8", scale=0.5)]


def test_bytes_of_a_huge_type_do_not_wrap() -> None:
    assert bytes_of(TensorType((2**40, 2**40))) == 2**82


def kind(*shape: int, dtype: str = "float32", **more: Any) -> TensorType:
    return TensorType(shape, dtype, **more)


PACKED = kind(1, 16, layout=Layout("NC", 1, 16))
INT = {"dtype": "int64"}


@pytest.mark.parametrize(
    ("name", "kinds", "attrs", "reason"),
    [
        ("Add", [kind(2), kind(3)], {}, r"shapes \[2\] and \[3\] do not broadcast"),
        ("Add", [kind(2), kind(2, **INT)], {}, "mixes float32 and int64"),
        ("Add", [kind(2, dtype="bool")] * 2, {}, "takes numbers, not bool"),
        ("Add", [kind(2, dtype="int8", scale=0.5)] * 2, {}, "takes unquantised values"),
        ("Add", [PACKED, PACKED], {}, "takes plain values, not layout NC1n16c"),
        ("Relu", [kind(2, **INT)], {}, "takes float32 or float64, not int64"),
        ("Softmax", [kind(2, 3)], {"axes": (2,)}, "axis 2 is outside a tensor of rank 2"),
        ("Softmax", [kind(2, 3)], {"axes": (1, -1)}, r"axes \[1,-1\] name an axis twice"),
        ("MatMul", [kind(), kind(2)], {}, "takes no scalars"),
        ("MatMul", [kind(2, 3), kind(4, 3)], {}, r"inner sizes of \[2,3\] and \[4,3\] differ"),
        ("Dense", [kind(2, 3), kind(4, 2), kind(4)], {}, r"are not \[N,I\], \[O,I\], \[O\]"),
        ("Dense", [kind(2, 3, dtype="float64")] * 3, {}, "takes float32, not float64"),
        ("BatchNormalization", [kind(3)] * 5, {}, r"a batch and a channel axis, not \[3\]"),
        ("BatchNormalization", [kind(2, 3)] + [kind(3)] * 3 + [kind(2)], {}, r"var \[2\] does not"),
        ("Flatten", [kind(2, 3)], {"axis": 3}, "axis 3 is outside a tensor of rank 2"),
        ("Reshape", [kind(2, 3)], {"shape": (4,)}, r"\[2,3\] cannot become \[4\]"),
        ("Reshape", [kind(2, 3)], {"shape": (-1, -1)}, "cannot become"),
        ("Reshape", [kind(2, 3)], {"shape": (-2, -3)}, "cannot become"),
        ("Reshape", [kind(2, 3)], {"shape": (4, -1)}, "cannot become"),
        ("Reshape", [kind(6)], {"shape": (6, 0)}, "cannot become"),
        ("Squeeze", [kind(2, 1)], {"axes": (0, 1)}, "are not all of size 1"),
        ("Unsqueeze", [kind(2)], {"axes": (2,)}, "axis 2 is outside a tensor of rank 2"),
        ("Transpose", [kind(2, 3)], {"perm": (0, 0)}, "is no order of the axes"),
        ("Gather", [kind(2), kind(2)], {"axis": 0}, "indices are float32"),
        ("Gather", [kind(), kind(2, **INT)], {"axis": 0}, "axis 0 is outside a tensor of rank 0"),
        ("Concat", [kind(2), kind(2, **INT)], {"axis": 0}, "mixes float32"),
        ("Concat", [kind(2, 3), kind(2, 4)], {"axis": 0}, "differ beside axis 0"),
        ("Concat", [kind(2, 3), kind(2)], {"axis": 1}, "differ beside axis 1"),
        ("Concat", [kind(2), kind(2, 3)], {"axis": 0}, "differ beside axis 0"),
        (
            "Slice",
            [kind(2)],
            {"starts": (0, 1), "ends": (1,), "axes": (0,), "steps": (1,)},
            "have different lengths",
        ),
        (
            "Slice",
            [kind(2)],
            {"starts": (0,), "ends": (1,), "axes": (0,), "steps": (0,)},
            "a step is 0",
        ),
    ],
)
def test_refusals(name: str, kinds: list[TensorType], attrs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        operator(name).infer(kinds, attrs)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(2,), (2, 3)], r"takes matrices, not \[2\]"),
        ([(2, 3), (2, 3)], r"inner sizes of \[2,3\] and \[2,3\] differ"),
        ([(2, 3), (3, 4), (3,)], "do not broadcast"),
        ([(1, 3), (3, 4), (2, 4)], r"C \[2,4\] does not broadcast to \[1,4\]"),
    ],
)
def test_gemm_refusals(shapes: list[tuple[int, ...]], reason: str) -> None:
    attrs = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    with pytest.raises(ValueError, match=reason):
        operator("Gemm").infer([kind(*shape) for shape in shapes], attrs)


@pytest.mark.parametrize("index", [3, -4])
def test_gather_out_of_range(index: int) -> None:
    with pytest.raises(ValueError, match=r"an index is outside -3\.\.2"):
        operator("Gather").evaluate([X, np.array([0, index])], {"axis": 1})
