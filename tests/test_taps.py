"""Taps against the plain definition of a convolution, index by index."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vtaflow.ops.convolution import convolve, convolve_integers, output_shape
from vtaflow.ops.taps import SECTIONS, Window, windows
from vtaflow.ops.types import Array

WINDOWS = st.builds(
    Window,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    pad_begin=st.integers(0, 4),
    pad_end=st.integers(0, 4),
    dilation=st.integers(1, 3),
    transposed=st.booleans(),
    output_padding=st.integers(0, 1),
)


def pairs_by_definition(window: Window, inputs: int) -> set[tuple[int, int, int]]:
    """(kernel element, output, input) of every product, straight from ONNX's formulas."""
    found = set()
    for out in range(window.outputs(inputs)):
        for element in range(window.kernel):
            for inp in range(inputs):
                offset = element * window.dilation - window.pad_begin
                if window.transposed and out == inp * window.stride + offset:
                    found.add((element, out, inp))
                if not window.transposed and inp == out * window.stride + offset:
                    found.add((element, out, inp))
    return found


@given(WINDOWS, st.integers(1, 12))
def test_taps_are_the_products(window: Window, inputs: int) -> None:
    assume(window.outputs(inputs) > 0)
    found = {
        (tap.kernel, tap.out + i * tap.out_step, tap.inp + i * tap.inp_step)
        for tap in window.taps(inputs)
        for i in range(tap.count)
    }
    assert found == pairs_by_definition(window, inputs)


@given(WINDOWS, st.integers(1, 12), st.sets(st.integers(1, 8), max_size=3))
def test_sections_have_a_weight_for_their_outputs(
    window: Window, inputs: int, firsts: set[int]
) -> None:
    outputs = window.outputs(inputs)
    assume(outputs > 0)
    sections = (0, *sorted(first for first in firsts if first < outputs))
    divided = replace(window, sections=sections)
    found = sorted(
        (tap.kernel, tap.out + i * tap.out_step, tap.inp + i * tap.inp_step)
        for tap in divided.taps(inputs)
        for i in range(tap.count)
    )
    expected = sorted(
        (bisect_right(sections, out) - 1, out, inp)
        for _, out, inp in pairs_by_definition(window, inputs)
    )
    assert found == expected


@pytest.mark.parametrize("weights", [(3, 3), (1, 2)])
def test_weights_that_fit_no_sections(weights: tuple[int, int]) -> None:
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "kernel_shape": (3, 3)}
    with pytest.raises(ValueError, match="sections do not fit"):
        windows({**attrs, SECTIONS: ((0, 1, 9), (0,))}, weights)


@given(WINDOWS, st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_within_keeps_what_lies_there(window: Window, inputs: int, low: int, count: int) -> None:
    assume(window.outputs(inputs) > 0)
    for tap in window.taps(inputs):
        kept = tap.within(low, low + count)
        outs = {tap.out + i * tap.out_step for i in range(tap.count)} & set(
            range(low, low + count)
        )
        mine = {kept.out + i * kept.out_step for i in range(kept.count)} if kept else set()
        assert mine == outs


def test_ceil_mode_leaves_out_windows_in_the_padding() -> None:
    assert Window(3, 2, ceil_mode=True).outputs(6) == 3
    assert Window(3, 2, ceil_mode=False).outputs(6) == 2
    assert Window(2, 2, pad_end=1, ceil_mode=True).outputs(4) == 2


def scalar_convolution(x: Array, weight: Array, rows: Window, columns: Window) -> Array:
    shape = output_shape(x.shape, weight.shape[0], (rows, columns))
    out = np.zeros(shape, np.int64)
    for ky, oy, iy in pairs_by_definition(rows, x.shape[2]):
        for kx, ox, ix in pairs_by_definition(columns, x.shape[3]):
            products = x[:, :, iy, ix].astype(np.int64) @ weight[:, :, ky, kx].T.astype(np.int64)
            out[:, :, oy, ox] += products
    return out


@given(WINDOWS, WINDOWS, st.integers(0, 99))
def test_integers_are_exact(rows: Window, columns: Window, seed: int) -> None:
    assume(rows.outputs(6) > 0 and columns.outputs(5) > 0)
    random = np.random.default_rng(seed)
    x = random.integers(-128, 128, (2, 3, 6, 5), np.int8)
    weight = random.integers(-128, 128, (4, 3, rows.kernel, columns.kernel), np.int8)
    found = convolve_integers(x, weight, (rows, columns))
    expected = scalar_convolution(x, weight, rows, columns)
    assert np.array_equal(found, expected)
    floats = convolve(x.astype(np.float64), weight.astype(np.float64), (rows, columns))
    assert np.array_equal(floats, expected)


@pytest.mark.parametrize("channels", [300, 1024, 1100])
def test_long_sums_are_exact(channels: int) -> None:
    """The extreme: every product is 2^14, sums reach beyond what float32 holds."""
    x = np.full((1, channels, 4, 4), -128, np.int8)
    weight = np.full((1, channels, 3, 3), -128, np.int8)
    found = convolve_integers(x, weight, (Window(3), Window(3)))
    assert (found == 9 * channels * (1 << 14)).all()
    assert found.dtype == np.int32


def test_groups() -> None:
    random = np.random.default_rng(5)
    x = random.integers(-128, 128, (1, 6, 5, 5), np.int8)
    weight = random.integers(-128, 128, (4, 3, 1, 1), np.int8)
    window = (Window(1), Window(1))
    parts = [
        scalar_convolution(x[:, 3 * g : 3 * g + 3], weight[2 * g : 2 * g + 2], *window)
        for g in range(2)
    ]
    assert np.array_equal(convolve_integers(x, weight, window, 2), np.concatenate(parts, axis=1))


def test_a_kernel_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="the kernel does not fit the input of 2x2"):
        output_shape((1, 1, 2, 2), 1, (Window(3), Window(1)))
