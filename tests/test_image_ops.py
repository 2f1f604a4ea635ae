"""Operators of images and the like: by definition in plain loops, and what each refuses.

How they agree with onnxruntime is in test_onnx_operators.py.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.ops import operator
from vtaflow.ops.layout import Layout
from vtaflow.ops.types import Array, TensorType

from .test_float_ops import floats, kind, run

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
POOL: dict[str, Any] = {"kernel_shape": (2, 2), "ceil_mode": 0, **WINDOW}
CONV: dict[str, Any] = {"group": 1, **WINDOW}
TRANSPOSED: dict[str, Any] = {"output_padding": (0, 0), **CONV}
RESIZE: dict[str, Any] = {
    "axes": (2,),
    "sizes": (4,),
    "scales": (2.0,),
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


ALL = slice(None)


def at(*parts: Any) -> Any:
    """An index of an array, which mypy need not follow."""
    return parts


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]:
    """Spatial sizes, attributes and kernel along one axis or two."""
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    kernel = each(1, 3)
    attrs = {"strides": each(1, 3), "pads": each(0, 2, 2 * rank), "dilations": each(1, 2)}
    return each(5, 7), attrs, kernel


def taps(
    place: tuple[int, ...], kernel: tuple[int, ...], attrs: dict[str, Any]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(tap, position in the input) of every tap of the window for an output."""
    return [
        (
            tap,
            tuple(
                place[axis] * attrs["strides"][axis]
                - attrs["pads"][axis]
                + tap[axis] * attrs["dilations"][axis]
                for axis in range(len(kernel))
            ),
        )
        for tap in itertools.product(*map(range, kernel))
    ]


def inside(position: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    return all(0 <= at < size for at, size in zip(position, sizes, strict=True))


@settings(max_examples=60, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 2))
def test_convolutions_sum_products(
    window: tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]], group: int, width: int
) -> None:
    sizes, attrs, kernel = window
    x = floats(2, 2 * group, *sizes, dtype="float64")
    weight = floats(width * group, 2, *kernel, dtype="float64")
    bias = floats(width * group, dtype="float64")
    result = run("Conv", x, weight, bias, group=group, **attrs)
    expected: Array = np.zeros(result.shape)
    for place in itertools.product(*map(range, result.shape[2:])):
        for channel in range(width * group):
            first = channel // width * 2
            total = np.full(2, bias[channel])
            for tap, position in taps(place, kernel, attrs):
                if inside(position, sizes):
                    values = x[at(ALL, slice(first, first + 2), *position)]
                    total += values @ weight[at(channel, ALL, *tap)]
            expected[at(ALL, channel, *place)] = total
    np.testing.assert_allclose(result, expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(windows(), st.integers(1, 3), st.data())
def test_transposed_convolutions_spread_products(
    window: tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]], group: int, data: st.DataObject
) -> None:
    sizes, attrs, kernel = window
    extra = tuple(data.draw(st.integers(0, stride - 1)) for stride in attrs["strides"])
    x = floats(1, 2 * group, *sizes, dtype="float64")
    weight = floats(2 * group, 3, *kernel, dtype="float64")
    result = run("ConvTranspose", x, weight, group=group, output_padding=extra, **attrs)
    expected: Array = np.zeros(result.shape)
    for place in itertools.product(*map(range, sizes)):
        for tap, position in taps(place, kernel, attrs):
            if inside(position, result.shape[2:]):
                for channel in range(2 * group):
                    first = channel // 2 * 3
                    outputs = at(0, slice(first, first + 3), *position)
                    products = x[at(0, channel, *place)] * weight[at(channel, ALL, *tap)]
                    expected[outputs] += products
    np.testing.assert_allclose(result, expected, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(windows(), st.sampled_from(["float32", "int8", "uint8"]), st.integers(0, 1))
def test_pools_take_the_largest_or_the_mean(
    window: tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]], dtype: str, ceil_mode: int
) -> None:
    sizes, attrs, kernel = window
    attrs = {**attrs, "kernel_shape": kernel, "ceil_mode": ceil_mode}
    x = (np.abs(floats(1, 2, *sizes)) * 50).astype(dtype)
    largest = run("MaxPool", x, **attrs)
    means = {
        include: run("AveragePool", x.astype(np.float64), count_include_pad=include, **attrs)
        for include in (0, 1)
    }
    rank = len(sizes)
    padded = tuple(sizes[axis] + attrs["pads"][rank + axis] for axis in range(rank))
    for place in itertools.product(*map(range, largest.shape[2:])):
        positions = [position for _, position in taps(place, kernel, attrs)]
        seen = [x[at(0, ALL, *each)].astype(float) for each in positions if inside(each, sizes)]
        counted = sum(all(each[i] < padded[i] for i in range(rank)) for each in positions)
        output = at(0, ALL, *place)
        if seen:
            assert np.array_equal(largest[output], np.max(seen, axis=0))
            np.testing.assert_allclose(means[0][output], np.mean(seen, axis=0))
            np.testing.assert_allclose(means[1][output], np.sum(seen, axis=0) / counted)
        else:
            assert np.array_equal(means[0][output], np.zeros(2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "attrs", "formula"),
    [
        ("Elu", {"alpha": 0.5}, lambda x: x if x >= 0 else 0.5 * math.expm1(x)),
        ("Erf", {}, math.erf),
        ("Gelu", {"approximate": "none"}, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, lambda x: min(max(x / 2 + 0.25, 0), 1)),
        ("HardSwish", {}, lambda x: x * min(max(x / 6 + 0.5, 0), 1)),
        ("LeakyRelu", {"alpha": 0.25}, lambda x: x if x >= 0 else x / 4),
        ("Mish", {}, lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        ("Reciprocal", {}, lambda x: 1 / x),
        ("Softplus", {}, lambda x: math.log1p(math.exp(x))),
        ("Softsign", {}, lambda x: x / (1 + abs(x))),
        ("Swish", {"alpha": 2.0}, lambda x: x / (1 + math.exp(-2 * x))),
    ],
)
def test_activations(name: str, attrs: dict[str, Any], formula: Any, dtype: str) -> None:
    x = (floats(3, 7) * 3).astype(dtype)
    expected = np.vectorize(formula, otypes=[float])(x.astype(np.float64))
    bound = 32 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(run(name, x, **attrs), expected, rtol=bound, atol=bound)


def test_extremes_do_not_overflow() -> None:
    x = np.array([-1e30, 1e30], np.float32)
    assert run("Softplus", x).tolist() == [0, np.float32(1e30)]
    assert run("Swish", x, alpha=1.0).tolist() == [0, np.float32(1e30)]
    assert np.isinf(run("Exp", x)).tolist() == [False, True]
    assert np.isnan(run("Log", x)).tolist() == [True, False]


def test_movement_of_any_dtype_keeps_the_scale() -> None:
    quantised = TensorType((1, 4, 2, 6), "int8", scale=0.5)
    cases: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("DepthToSpace", {"blocksize": 2, "mode": "DCR"}, (1, 1, 4, 12)),
        ("SpaceToDepth", {"blocksize": 2}, (1, 16, 1, 3)),
        ("Expand", {"shape": (3, 1, 1, 1)}, (3, 4, 2, 6)),
        ("Tile", {"repeats": (1, 2, 1, 1)}, (1, 8, 2, 6)),
        ("Pad", {"pads": (0,) * 7 + (1,), "mode": "edge", "value": 0}, (1, 4, 2, 7)),
        ("Resize", RESIZE, (1, 4, 4, 6)),
    ]
    for name, attrs, shape in cases:
        expected = TensorType(shape, "int8", scale=0.5)
        assert operator(name).infer([quantised], attrs) == [expected]
    pieces = operator("Split").infer([quantised], {"axis": -1, "split": (1, 5)})
    assert [piece.shape for piece in pieces] == [(1, 4, 2, 1), (1, 4, 2, 5)]


def test_blocks_there_and_back() -> None:
    x = floats(2, 12, 4, 6)
    deeper = run("SpaceToDepth", x, blocksize=2)
    assert np.array_equal(run("DepthToSpace", deeper, blocksize=2, mode="DCR"), x)
    swapped = deeper.reshape(2, 4, 12, 2, 3).swapaxes(1, 2).reshape(2, 48, 2, 3)
    assert np.array_equal(run("DepthToSpace", swapped, blocksize=2, mode="CRD"), x)


def test_local_response_of_an_even_size() -> None:
    """onnxruntime takes odd sizes only; ONNX puts the larger half behind."""
    x = floats(1, 5, 2)
    result = run("LRN", x, size=4, alpha=2.0, beta=0.5, bias=1.0)
    for channel in range(5):
        around = (x[:, max(0, channel - 1) : channel + 3] ** 2).sum(axis=1)
        expected = x[:, channel] / np.sqrt(1 + 0.5 * around)
        np.testing.assert_allclose(result[:, channel], expected, rtol=1e-5)


IMAGE = kind(1, 4, 6, 5)
PLAIN = TensorType((1, 16), layout=Layout("NC", 1, 16))
QUANTISE = {"axis": 1, "dtype": "int8"}
NORM = {"epsilon": 1e-5, "axes": (1,)}

REFUSALS: list[tuple[str, list[TensorType], dict[str, Any], str]] = [
    ("Conv", [kind(1, 4), kind(4, 4)], CONV, r"takes one or two spatial axes, not \[1,4\]"),
    ("Conv", [kind(1, 4, 2, 2, 2), kind(4, 4, 1, 1, 1)], CONV, "takes one or two spatial axes"),
    ("Conv", [IMAGE, kind(4, 4, 3)], CONV, r"a kernel \[3\] does not slide over \[1,4,6,5\]"),
    ("Conv", [IMAGE, kind(4, 4, 0, 3)], CONV, r"a kernel \[0,3\] does not slide"),
    ("Conv", [IMAGE, kind(4, 4, 7, 3)], CONV, r"the kernel does not fit \[1,4,6,5\], padded"),
    ("Conv", [IMAGE, kind(4, 3, 3, 3)], CONV, r"weight \[4,3,3,3\] in 1 groups does not fit"),
    ("Conv", [IMAGE, kind(3, 2, 3, 3)], {**CONV, "group": 2}, "in 2 groups does not fit"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3)], {**CONV, "group": 0}, "in 0 groups does not fit"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3), kind(3)], CONV, r"bias \[3\] does not fit 4 channels"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3)], {**CONV, "strides": (0, 1)}, "an entry below 1"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3)], {**CONV, "strides": (1,)}, "has 1 entries, needs 2"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3)], {**CONV, "dilations": (1, 0)}, "an entry below 1"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3)], {**CONV, "pads": (0, 0, -1, 0)}, "an entry below 0"),
    ("Conv", [IMAGE, kind(4, 4, 3, 3, dtype="float64")], CONV, "mixes float32 and float64"),
    ("ConvTranspose", [IMAGE, kind(3, 4, 2, 2)], TRANSPOSED, "in 1 groups does not fit"),
    ("ConvTranspose", [IMAGE, kind(4, 4, 2, 2), kind(3)], TRANSPOSED, "does not fit 4 channels"),
    (
        "ConvTranspose",
        [IMAGE, kind(4, 4, 2, 2)],
        {**TRANSPOSED, "output_padding": (-1, 0)},
        "an entry below 0",
    ),
    (
        "ConvTranspose",
        [IMAGE, kind(4, 4, 1, 1)],
        {**TRANSPOSED, "pads": (3, 3, 3, 3)},
        "the kernel does not fit",
    ),
    ("MaxPool", [kind(1, 4, 6, 5, dtype="bool")], POOL, "takes numbers, not bool"),
    ("MaxPool", [IMAGE], {**POOL, "kernel_shape": (9, 1)}, "the kernel does not fit"),
    ("AveragePool", [kind(1, 4, 6, 5, dtype="int8")], POOL, "takes float32 or float64, not int8"),
    ("GlobalAveragePool", [kind(1, 4)], {}, "takes a batch, a channel and spatial axes"),
    ("InstanceNormalization", [kind(1, 4)] + [kind(4)] * 2, NORM, "a channel and spatial axes"),
    ("InstanceNormalization", [IMAGE, kind(4), kind(3)], NORM, r"B \[3\] does not fit 4 channels"),
    ("LayerNormalization", [kind(2, 4), kind(3)], NORM, r"do not broadcast"),
    ("LayerNormalization", [kind(2, 4), kind(3, 1, 4)], NORM, r"scale \[3,1,4\] does not broad"),
    ("LRN", [IMAGE], {"size": 0}, "a size of 0 does not fit"),
    ("PRelu", [kind(2, 4), kind(3, 1, 4)], {}, r"slope \[3,1,4\] does not broadcast to \[2,4\]"),
    ("Pow", [kind(2, dtype="int64"), kind(2)], {}, "takes float32 or float64, not int64"),
    ("Where", [kind(2), kind(2), kind(2)], {}, "the condition is float32, not bool"),
    ("Where", [kind(2, dtype="bool"), kind(2), kind(2, dtype="int8")], {}, "mixes float32"),
    ("Equal", [kind(2, dtype="bool"), kind(2)], {}, "takes numbers, not bool"),
    ("ReduceMean", [IMAGE], {"axes": (4,), "keepdims": 0}, "axis 4 is outside"),
    ("ArgMax", [kind(2, dtype="bool")], {"axis": 0, "keepdims": 0}, "takes numbers"),
    ("Split", [IMAGE], {"axis": 1, "split": (1, 2)}, r"lengths \[1,2\] do not make up axis 1"),
    ("Split", [IMAGE], {"axis": 1, "split": ()}, "do not make up axis 1"),
    ("Split", [IMAGE], {"axis": 1, "split": (5, -1)}, "do not make up axis 1"),
    ("Expand", [IMAGE], {"shape": (2,)}, "do not broadcast"),
    ("Tile", [IMAGE], {"repeats": (1, 2)}, r"repeats \[1,2\] do not fit"),
    ("Tile", [IMAGE], {"repeats": (1, 2, 1, -1)}, "do not fit"),
    ("DepthToSpace", [IMAGE], {"blocksize": 3}, r"blocks of 3 x 3 do not fit \[1,4,6,5\]"),
    ("DepthToSpace", [kind(1, 4)], {"blocksize": 2}, "do not fit"),
    ("SpaceToDepth", [IMAGE], {"blocksize": 2}, r"blocks of 2 x 2 do not fit \[1,4,6,5\]"),
    ("SpaceToDepth", [IMAGE], {"blocksize": 0}, "do not fit"),
    ("Pad", [kind(2)], {"pads": (1,), "mode": "edge"}, r"pads \[1\] do not fit \[2\]"),
    ("Pad", [kind(2)], {"pads": (1, 1), "mode": "mirror"}, "mode 'mirror' is none of constant"),
    ("Pad", [kind(2)], {"pads": (-1, 1), "mode": "edge"}, "cut off, which mode 'edge' cannot"),
    ("Pad", [kind(2)], {"pads": (2, 0), "mode": "reflect"}, "are too wide"),
    ("Pad", [kind(2)], {"pads": (0, 3), "mode": "wrap"}, "are too wide"),
    ("Pad", [kind(0)], {"pads": (0, 1), "mode": "edge"}, "are too wide"),
    ("Pad", [kind(2)], {"pads": (-1, -2), "mode": "constant"}, "cut off more"),
    ("Resize", [IMAGE], {**RESIZE, "axes": (4,)}, "axis 4 is outside"),
    ("Resize", [IMAGE], {**RESIZE, "sizes": (4, 4)}, r"sizes \[4,4\] do not fit axes \[2\]"),
    ("Resize", [IMAGE], {**RESIZE, "sizes": (0,)}, r"cannot become \[0\] on axes \[2\]"),
    ("Resize", [IMAGE], {**RESIZE, "scales": (math.inf,)}, "cannot become"),
    ("Resize", [kind(1, 4, 6, 5, dtype="int8")], {**RESIZE, "mode": "linear"}, "takes float32"),
    ("Resize", [PLAIN], {**RESIZE, "axes": (1,)}, "takes plain values"),
    ("QuantizeLinear", [IMAGE, kind()], {**QUANTISE, "dtype": "int4"}, "dtype int4 is none of"),
    ("QuantizeLinear", [IMAGE, kind(), kind(dtype="uint8")], QUANTISE, "is uint8, not int8"),
    ("QuantizeLinear", [IMAGE, kind(5)], QUANTISE, r"scales \[5\] do not fit axis 1"),
    ("QuantizeLinear", [IMAGE, kind(2, 2)], QUANTISE, r"scales \[2,2\] do not fit axis 1"),
    ("QuantizeLinear", [kind(2), kind(2)], QUANTISE, "axis 1 is outside a tensor of rank 1"),
    ("DequantizeLinear", [IMAGE, kind()], QUANTISE, "takes int8, uint8"),
    (
        "DequantizeLinear",
        [kind(2, dtype="int8"), kind(), kind(dtype="uint8")],
        QUANTISE,
        "the zero point is uint8, x is int8",
    ),
]


@pytest.mark.parametrize(("name", "kinds", "attrs", "reason"), REFUSALS)
def test_refusals(name: str, kinds: list[TensorType], attrs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        operator(name).infer(kinds, attrs)


def test_everything_is_silent() -> None:
    """Floating-point faults are the model's business: nothing warns."""
    x = np.array([[[[-np.inf, 0, np.nan, 1e38]]]], np.float32)
    zero = np.zeros((1, 1, 1, 1), np.float32)
    run("Conv", x, zero, **CONV)
    run("GlobalAveragePool", x)
    run("AveragePool", x, **{**POOL, "kernel_shape": (1, 2), "count_include_pad": 0})
    run("InstanceNormalization", x, zero[0, 0, 0], zero[0, 0, 0], epsilon=0.0)
    run("ReduceMean", x, axes=(3,), keepdims=0)
    run("Pow", x, x)
    run("Reciprocal", x)
    run("Resize", x, **{**RESIZE, "mode": "linear", "axes": (3,), "sizes": (8,)})
    values: Array = run("QuantizeLinear", x, zero.reshape(-1), **QUANTISE)
    assert values.ravel()[2] == 0  # NaN
