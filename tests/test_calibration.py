"""Calibration: the data's checks, histograms, estimators, and the pass over the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from vtaflow.errors import DataError
from vtaflow.graph import calibration
from vtaflow.graph.calibration import (
    batches,
    calibrate,
    check_data,
    quantised_values,
    random_calibration,
)
from vtaflow.graph.estimators import (
    BINS,
    CLIPPED,
    ESTIMATORS,
    Histogram,
    entropy,
    minmax,
    mse,
    percentile,
)
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.ops.types import Array, TensorType

from .networks import Builder, mlp, normal


def seen(*parts: ArrayLike, clipped: float = 1.0) -> Histogram:
    result = Histogram(clipped)
    for part in parts:
        result.add(np.asarray(part, np.float32))
    return result


def noise(values: Array, limit: float, clipped: float = 1.0) -> float:
    """Mean squared error of int8 quantisation with a limit, by the values themselves.

    What the limit clips counts `clipped` times.
    """
    step = limit / 127
    errors = (values - np.clip(np.rint(values / step), -127, 127) * step) ** 2
    return float((errors * np.where(np.abs(values) > limit, clipped, 1.0)).mean())


# --- histograms and estimators ---------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), st.integers(1, 5))
@settings(deadline=None)
def test_histograms_count_every_value_whatever_the_batches(values: list[float], parts: int) -> None:
    histogram = seen(*np.array_split(np.array(values), parts))
    sizes = np.abs(np.array(values, np.float32))
    tiny = sizes <= np.float32(1e-30)
    assert histogram.zeros == np.count_nonzero(tiny)
    assert histogram.counts.sum() == np.count_nonzero(~tiny)
    assert histogram.peak == (sizes[~tiny].max() if not tiny.all() else 0)
    assert histogram.peak <= histogram.reach <= max(2 * histogram.peak, sizes.max())


def test_histogram_bins_stay_in_place_as_the_reach_doubles() -> None:
    histogram = seen([1.0, 0.3], [3.9], [0.3])
    assert histogram.reach == 4.0
    bins = np.flatnonzero(histogram.counts)
    assert np.allclose(histogram.centres[bins], [0.3, 1.0, 3.9], atol=4 / BINS)
    assert histogram.counts[bins].tolist() == [2, 1, 1]


def test_minmax_and_percentile() -> None:
    values = np.concatenate([np.linspace(-1, 1, 99_999), [50.0]])
    assert minmax(seen(values)) == 50.0
    assert percentile(seen(values)) == pytest.approx(1.0, abs=2 * 64 / BINS)
    assert percentile(seen(np.zeros(10**6), [3.0])) <= 3.0 * 2 / BINS
    assert percentile(seen([0.1, -2.0])) == 2.0


@pytest.mark.parametrize("clipped", [1.0, CLIPPED])
@pytest.mark.parametrize("kind", ["standard_normal", "standard_cauchy", "random", "laplace"])
def test_mse_finds_the_best_limit(kind: str, clipped: float) -> None:
    values = getattr(np.random.default_rng(3), kind)(size=20_000).astype(np.float32)
    histogram = seen(values, clipped=clipped)
    limits = np.geomspace(histogram.peak / 30, histogram.peak)
    errors = [noise(values, limit, clipped) for limit in limits]
    assert noise(values, mse(histogram), clipped) <= 1.05 * min(errors)


@pytest.mark.parametrize("samples, decibels", [(2_000, 30), (20_000, 36), (200_000, 36)])
def test_entropy_is_sane_for_few_and_many_normal_values(samples: int, decibels: float) -> None:
    values = np.random.default_rng(4).standard_normal(samples).astype(np.float32)
    assert -10 * np.log10(noise(values, entropy(seen(values)))) >= decibels


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
@settings(max_examples=30, deadline=None)
def test_estimates_are_positive_and_within_the_peak(values: list[float]) -> None:
    histogram = seen(np.array(values))
    for estimate in ESTIMATORS.values():
        if histogram.peak:
            assert 0 < estimate(histogram) <= histogram.peak


# --- the pass over the data ------------------------------------------------------------------


def test_limits_are_those_of_all_values() -> None:
    graph, data = mlp([5, 7, 3], batch=2), normal(5, 11)
    limits = calibrate(graph, data, "minmax").limits
    values = interpret(graph.rebatch(11), data, keep=limits)
    assert set(limits) == {"x", "dense0.y", "dense1.y"} == set(quantised_values(graph))
    for name, limit in limits.items():
        assert limit == pytest.approx(np.abs(values[name]).max(), rel=1e-5)


def test_bounded_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = mlp([5, 7, 3]), normal(5, 10)
    whole = calibrate(graph, data)
    monkeypatch.setattr(calibration, "_BATCH_BYTES", 4 * 4 * (5 + 5 + 7 + 3))
    monkeypatch.setattr(calibration, "_SAMPLE_BYTES", 6 * 4 * (5 + 5 + 7 + 3))
    done: list[int] = []
    parts = calibrate(graph, data, progress=done.append)
    assert done == [4, 4, 2]
    assert 1 <= len(parts.samples["x"]) < 10 and len(whole.samples["x"]) == 10
    # Another batch size may round a float product differently.
    assert parts.limits == pytest.approx(whole.limits, rel=0.03)


def test_batches_cover_the_data_in_order() -> None:
    graph, data = mlp([5, 3]), normal(5, 7)
    parts = list(batches(graph, data, (), 3 * 4 * 5))
    assert [part.batch for part, _ in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate([feeds["x"] for _, feeds in parts]), data["x"])


def test_a_value_that_is_always_zero_has_a_limit() -> None:
    builder = Builder(3)
    graph = builder.build(builder.dense("x", np.zeros((2, 3))))
    assert calibrate(graph, normal(3, 4)).limits["dense0.y"] == 1.0


def two_inputs() -> Graph:
    inputs = {"image": TensorType((1, 4)), "mask": TensorType((1, 4), "int64")}
    nodes = [
        Node("cast", "Cast", ("mask",), ("m",), {"to": "float32"}),
        Node("mul", "Mul", ("image", "m"), ("y",)),
    ]
    return Graph.build("pair", inputs, ["y"], nodes, {})


def test_random_calibration_is_seeded_and_fits() -> None:
    graph = two_inputs()
    first, again, other = (random_calibration(graph, 50, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in graph.inputs)
    assert not np.array_equal(first["image"], other["image"])
    assert first["image"].shape == (50, 4) and first["image"].dtype == np.float32
    assert set(first["mask"].ravel().tolist()) == {0, 1} and first["mask"].dtype == np.int64
    check_data(graph, first)


def test_data_are_converted_to_the_inputs_dtypes() -> None:
    data: dict[str, Array] = {"mask": np.ones((2, 4), np.uint8), "image": np.ones((2, 4))}
    check_data(two_inputs(), data)
    ((_, feeds),) = batches(two_inputs(), data, (), 2**20)
    dtypes = {name: array.dtype.name for name, array in feeds.items()}
    assert dtypes == {"image": "float32", "mask": "int64"}
    cast = calibrate(mlp([4, 3]), {"x": np.ones((2, 4), np.uint8)})
    assert cast.samples["x"].dtype == np.float32


ONES = np.ones((2, 4), np.float32)
MASK = np.ones((2, 4), np.int64)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"image": ONES}, "data are for 'image', the model's inputs are 'image', 'mask'"),
        ({}, "data are for no input"),
        ({"image": ONES, "mask": MASK, "more": ONES}, "'more'"),
        (
            {"image": ONES[:, :3], "mask": MASK},
            r"input 'image' have shape \(2, 3\); expected float32 of shape \(n, 4\)",
        ),
        ({"image": ONES[0], "mask": MASK}, r"have shape \(4,\); expected"),
        ({"image": np.float32(3), "mask": MASK}, r"have shape \(\); expected"),
        ({"image": ONES[:0], "mask": MASK}, "'image' are empty; .* with n at least 1"),
        ({"image": ONES * [1, np.nan, np.inf, 1], "mask": MASK}, "'image' hold 4 NaN or inf"),
        ({"image": ONES.astype(np.float64) * 1e300, "mask": MASK}, "hold 8 NaN or infinite"),
        ({"image": ONES, "mask": ONES}, "'mask' are float32; expected int64"),
        ({"image": ONES.astype(str), "mask": MASK}, "'image' are <U32; expected float32"),
        ({"image": ONES, "mask": MASK[:1]}, "as many samples .* 'image': 2, 'mask': 1"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_data(two_inputs(), data)
    assert "\n" not in str(caught.value)


def test_unknown_methods_are_refused() -> None:
    known = "mse, minmax, percentile, entropy"
    with pytest.raises(DataError, match=f"'magic' is unknown; known are {known}"):
        calibrate(mlp([3, 2]), normal(3, 2), "magic")


def test_values_that_overflow_are_refused() -> None:
    builder = Builder(2)
    graph = builder.build(builder.dense("x", [[3e38, 3e38]]))
    with pytest.raises(DataError, match="value 'dense0.y' becomes NaN or infinite"):
        calibrate(graph, {"x": np.full((1, 2), 9, np.float32)})
