"""Quantisation: the shift grid, the pass, bias correction, and quality against float."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.compiler import compile
from vtaflow.errors import ModelError
from vtaflow.graph import shift_grid
from vtaflow.graph.calibration import Calibration, calibrate
from vtaflow.graph.estimators import ESTIMATORS
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.pack import pack
from vtaflow.graph.passes.quantise import quantise
from vtaflow.graph.predicates import PLACED, QUANTISED
from vtaflow.graph.quality import Quality, layer_quality, quality
from vtaflow.graph.shift_grid import IntegerLayer
from vtaflow.ops.types import Array

from .networks import LINEAR, RELU, Bounds, Builder, mlp, normal
from .onnx_models import RNG, build, node

# --- the shift grid --------------------------------------------------------------------------


def vector(*values: float) -> Array:
    return np.array(values)


def shifts(weight: Array, bias: Array | None = None, out_scale: float = 1.0) -> list[int]:
    bias = np.zeros(len(weight)) if bias is None else bias
    chosen: list[int] = shift_grid.choose(weight, bias, 1.0, out_scale).shifts.tolist()
    return chosen


def column(*values: float) -> Array:
    return vector(*values).reshape(-1, 1)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    st.floats(1e-4, 1e2),
    st.floats(1e-4, 1e2),
)
@settings(deadline=None)
def test_shifts_are_the_largest_that_hold_the_weights(
    peaks: list[float], in_scale: float, wanted: float
) -> None:
    weight = column(*peaks)
    out_scale = shift_grid.output_scale(weight, in_scale, wanted)
    assert out_scale >= wanted
    grid = shift_grid.choose(weight, np.zeros(len(weight)), in_scale, out_scale)
    steps = weight[:, 0] * in_scale * np.exp2(grid.shifts) / out_scale
    assert (steps <= 127 * (1 + 1e-9)).all()
    assert (grid.shifts >= 0).all() and np.ptp(grid.shifts) <= 15
    capped = (grid.shifts == grid.shifts.max()) & (grid.shifts >= 15)
    assert ((2 * steps > 127 * (1 - 1e-9)) | capped).all()
    assert np.array_equal(np.abs(grid.weights(weight)[:, 0]), np.rint(steps).clip(0, 127))


def test_an_exact_power_of_two_uses_the_whole_range() -> None:
    assert shifts(column(127, 127 / 2, 127 / 1024, 126 / 1024)) == [0, 1, 10, 10]
    grid = shift_grid.choose(column(127, 127 / 2), vector(0, 0), 1.0, 1.0)
    assert grid.weights(column(127, 127 / 2)).tolist() == [[127], [127]]


def test_the_output_scale_rises_until_no_shift_is_negative() -> None:
    weight = column(5, 1000)
    assert shift_grid.output_scale(weight, 0.5, 100.0) == 100.0
    assert shift_grid.output_scale(weight, 0.5, 1.0) == 500 / 127
    assert shift_grid.choose(weight, vector(0, 0), 0.5, 500 / 127).shifts.tolist() == [7, 0]


def test_one_shift_ends_at_15() -> None:
    assert shifts(column(1, 1e-3, 1e-5, 1e-7)) == [6, 15, 15, 15]


def test_a_part_above_15_common_to_all_is_a_second_shift() -> None:
    peaks = 127 * np.exp2([-17.0, -20.0, -40.0])
    assert shifts(column(*peaks)) == [17, 20, 30]
    assert shifts(column(127 * 2.0**-60)) == [30]


def test_dead_channels_follow_the_others() -> None:
    assert shifts(column(0, 1, 0)) == [6, 6, 6]
    assert shifts(column(0, 0)) == [0, 0]


def test_a_shift_leaves_room_for_the_bias() -> None:
    weight = column(127 * 2.0**-20)
    assert shifts(weight) == [20]
    assert shifts(weight, vector(2.0**20)) == [10]
    assert shifts(column(1, 0), vector(0, 2.0**28)) == [6, 2]


def layer(
    weight: Array, bias: Array, bounds: Bounds = LINEAR, in_scale: float = 1, out_scale: float = 1
) -> IntegerLayer:
    grid = shift_grid.choose(weight, bias, in_scale, out_scale)
    return IntegerLayer.of(grid, weight, bias, *bounds)


CLIP = (("max", -128), ("min", 127))


@pytest.mark.parametrize(
    "peaks, bias, steps, vectors",
    [
        ([127, 127], [0, 0], CLIP, {}),
        ([127, 127], [3, 0], (("add", 2), *CLIP), {"bias.int32": [3, 0]}),
        ([63.5, 63.5], [0, 3], (("add", 2), ("shr", 1), *CLIP), {"bias.int32": [1, 7]}),
        (
            [127, 127 / 8],
            [1, 1],
            (("add", 2), ("shr_vector", 3), *CLIP),
            {"bias.int32": [1, 12], "shift.int32": [0, 3]},
        ),
        (
            [127 / 2.0**18, 127 / 2.0**17],
            [0, 0],
            (("add", 2), ("shr_vector", 3), ("shr", 3), *CLIP),
            {"bias.int32": [2**17, 2**16], "shift.int32": [15, 14]},
        ),
        (
            [127 / 2.0**17, 127 / 2.0**17],
            [0, 0],
            (("add", 2), ("shr", 15), ("shr", 2), *CLIP),
            {"bias.int32": [2**16, 2**16]},
        ),
    ],
)
def test_epilogue_steps(
    peaks: list[float], bias: list[float], steps: object, vectors: dict[str, list[int]]
) -> None:
    made, given_vectors = layer(column(*peaks), vector(*bias)).epilogue(first=2)
    assert made == steps
    assert {name: array.tolist() for name, array in given_vectors.items()} == vectors
    assert all(array.dtype == np.int32 for array in given_vectors.values())


@pytest.mark.parametrize(
    "bounds, expected",
    [
        (LINEAR, (-128, 127)),
        (RELU, (0, 127)),
        ((0.0, 6.0), (0, 60)),
        ((-0.26, 1e9), (-3, 127)),
        ((-inf, inf), (-128, 127)),
        ((5.0, 1.0), (10, 10)),
    ],
)
def test_bounds_are_integers(bounds: Bounds, expected: tuple[int, int]) -> None:
    made = layer(column(1), vector(0), bounds, out_scale=0.1)
    assert (made.low, made.high) == expected


def test_rounding_is_half_up() -> None:
    made = layer(column(127 / 2), vector(0))  # shift 1
    products = np.array([[1], [-1], [3], [-3], [2]], np.int32)
    assert made.output(products)[:, 0].tolist() == [1, 0, 2, -1, 1]


def test_biases_saturate_before_the_accumulator_can_wrap() -> None:
    made = layer(column(100, 100), vector(2.0**40, -(2.0**40)))
    assert made.saturated.tolist() == [True, True]
    for x in (-128, 127):
        products = np.full((1, 2), x, np.int32) * made.weights[:, 0].astype(np.int32)
        assert made.output(products).tolist() == [[127, -128]]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_layer_is_within_rounding_of_its_real_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    outputs, inputs = random.integers(1, 20, 2)
    weight = random.standard_normal((outputs, inputs)) * random.uniform(0.01, 3, (outputs, 1))
    bias = random.standard_normal(outputs)
    x = random.integers(-128, 128, (10, inputs))
    in_scale = float(random.uniform(0.001, 1))
    real = x * in_scale @ weight.T + bias
    out_scale = shift_grid.output_scale(weight, in_scale, float(np.abs(real).max()) / 127)
    made = layer(weight, bias, LINEAR, in_scale, out_scale)
    output = made.output((x @ made.weights.T.astype(np.int64)).astype(np.int32))
    # Half a step of the output, half a step of every weight and of the bias.
    steps = made.grid.accumulator_scales
    bound = out_scale / 2 + (np.abs(x).sum(axis=1, keepdims=True) + 1) * steps / 2
    assert (np.abs(output * out_scale - real) <= bound * (1 + 1e-9)).all()


def test_grids_serve_convolution_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3, 2, 2))
    grid = shift_grid.choose(weight, np.zeros(5), 1.0, 1.0)
    flat = weight.reshape(5, -1)
    flat_grid = shift_grid.choose(flat, np.zeros(5), 1.0, 1.0)
    assert np.array_equal(grid.shifts, flat_grid.shifts)
    assert np.array_equal(grid.weights(weight).reshape(5, -1), flat_grid.weights(flat))


# --- the pass --------------------------------------------------------------------------------


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def quantised(graph: Graph, data: Mapping[str, Array], correct: bool = True) -> Graph:
    """Quantised with minmax, to the nearest, checked against the stage's predicates."""
    limits = calibrate(graph, data, "minmax")
    result = quantise(graph, limits, correct, weight_rounding="nearest")
    assert [problem for promise in (*PLACED, *QUANTISED) for problem in promise(result)] == []
    return result


def test_layers_in_a_row_stay_in_integers() -> None:
    graph = quantised(mlp([8, 6, 5, 4]), normal(8, 20))
    assert ops(graph) == ["Quantize", "VtaDense", "VtaDense", "VtaDense", "Dequantize"]
    layers = [node for node in graph.nodes if node.device == "vta"]
    assert [node.name for node in layers] == ["dense0", "dense1", "dense2"]
    assert layers[0].attrs["zero_point"] == -128  # where its Relu cuts off
    assert layers[0].attrs["epilogue"][-2:] == (("max", -128), ("min", 127))
    assert "zero_point" not in layers[2].attrs
    assert layers[2].attrs["epilogue"][-2:] == (("max", -128), ("min", 127))
    assert graph.outputs == ("dense2.y",) and graph.types["dense2.y"].dtype == "float32"
    assert layers[0].origin == ("onnx_dense0",) and layers[0].reason == "dense template"


def test_a_host_operator_between_layers_works_in_float() -> None:
    builder = Builder(8)
    hidden = builder.host("Sigmoid", builder.random_dense("x", 8, 6))
    graph = builder.build(builder.random_dense(hidden, 6, 4))
    result = quantised(graph, normal(8, 20))
    assert ops(result) == [
        "Quantize",
        "VtaDense",
        "Dequantize",
        "Sigmoid",
        "Quantize",
        "VtaDense",
        "Dequantize",
    ]
    made = {node.op: node for node in result.nodes}
    assert made["Sigmoid"].device == "host" and made["Quantize"].device == "host"


def test_moves_between_layers_stay_in_integers() -> None:
    builder = Builder(8)
    hidden = builder.host("Reshape", builder.random_dense("x", 8, 6), shape=(0, 2, 3))
    flat = builder.host("Flatten", hidden, axis=1)
    graph = builder.build(builder.random_dense(flat, 6, 4), hidden)
    result = quantised(graph, normal(8, 20))
    assert ops(result).count("Quantize") == 1
    # The output is asked for in float, whatever happens to the integers.
    assert ops(result).count("Dequantize") == 2
    assert result.types[hidden].dtype == "float32"
    assert layer_quality(graph, result, normal(8, 20))["dense3"].sqnr_db > 25


def test_moves_of_float_values_stay_in_float() -> None:
    builder = Builder(8)
    soft = builder.host("Tanh", "x")
    first = builder.random_dense(soft, 8, 4)
    flat = builder.host("Flatten", soft, axis=1)
    graph = builder.build(first, builder.host("Sigmoid", flat))
    result = quantised(graph, normal(8, 20))
    values = interpret(result, normal(8, 1), keep=[flat])
    assert np.array_equal(values[flat], interpret(graph, normal(8, 1), keep=[flat])[flat])


def test_every_value_is_converted_once() -> None:
    builder = Builder(8)
    hidden = builder.random_dense("x", 8, 6)
    first, second = (builder.random_dense(hidden, 6, 4) for _ in range(2))
    graph = builder.build(
        hidden, first, second, builder.host("Sigmoid", hidden), builder.random_dense("x", 8, 3)
    )
    result = quantised(graph, normal(8, 20))
    assert ops(result).count("Quantize") == 1
    assert sorted(node.inputs[0] for node in result.nodes if node.op == "Dequantize") == sorted(
        f"{value}.int8" for value in (hidden, first, second, "dense4.y")
    )


def test_host_graphs_stay_as_they_are() -> None:
    builder = Builder(4)
    graph = builder.build(builder.host("Sigmoid", "x"))
    assert quantised(graph, normal(4, 3)) == graph


def test_new_names_avoid_old_ones() -> None:
    graph = mlp([4, 3])
    taken = Node("x.quantize", "Sigmoid", ("x",), ("x.int8",), device="host", reason="test")
    graph = graph.rebuild(nodes=[*graph.nodes, taken], outputs=[*graph.outputs, "x.int8"])
    result = quantised(graph, normal(4, 5))
    assert result.types["x.int8"].dtype == "float32"


def test_quantisation_keeps_the_batch_free() -> None:
    result = quantised(mlp([5, 4, 3]), normal(5, 20))
    many, one = normal(5, 3), result.rebatch(3)
    together = interpret(one, many)["dense1.y"]
    alone = [interpret(result, {"x": many["x"][n : n + 1]})["dense1.y"][0] for n in range(3)]
    assert np.array_equal(together, alone)


def test_a_saturating_bias_is_reported() -> None:
    builder = Builder(3)
    weight = [[1e-6, 1e-6, 1e-6], [1.0, 1, 1]]
    graph = builder.build(builder.dense("x", weight, [1e12, 0], bounds=(0.0, 1.0)))
    heard: list[str] = []
    result = quantise(graph, calibrate(graph, normal(3, 9)), warn=heard.append)
    assert heard == [
        "node 'dense0': the bias of 1 of 2 channels does not fit 32 bits and saturates"
    ]
    assert interpret(result, normal(3, 1))["dense0.y"][0, 0] == pytest.approx(1.0)


def test_warnings_are_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    builder = Builder(1)
    graph = builder.build(builder.dense("x", [[1e-6]], [1e12], bounds=(0.0, 1.0)))
    quantise(graph, calibrate(graph, normal(1, 9)))
    assert "does not fit 32 bits" in caplog.text


@pytest.mark.parametrize("weight, bias", [([[np.nan]], [0]), ([[1]], [np.inf])])
def test_constants_that_are_not_finite_are_refused(weight: Array, bias: Array) -> None:
    builder = Builder(1)
    graph = builder.build(builder.dense("x", weight, bias))
    limits = Calibration({"x": 1.0, "dense0.y": 1.0}, {})
    with pytest.raises(ModelError, match=r"node 'dense0': constant 'dense0\..' holds NaN or inf"):
        quantise(graph, limits)


def test_limits_alone_suffice() -> None:
    graph = mlp([4, 3])
    result = quantise(graph, Calibration({"x": 12.7, "dense0.y": 127e-40}, {}))
    assert result.types["x.int8"].scale == pytest.approx(0.1)
    assert ops(result) == ["Quantize", "VtaDense", "Dequantize"]


# --- quality ---------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(ESTIMATORS)))
@settings(max_examples=40, deadline=None)
def test_random_networks_keep_their_signal(seed: int, method: str) -> None:
    """The stated bound, on the data calibrated with: every layer keeps 24 dB, 12 by entropy."""
    random = np.random.default_rng(seed)
    widths = [int(width) for width in random.integers(8, 80, random.integers(2, 5))]
    hidden: Bounds = [RELU, (0.0, 6.0), (-0.5, 1.0), LINEAR][random.integers(4)]
    graph = mlp(widths, seed=seed, hidden=hidden)
    data = normal(widths[0], 300, seed=seed)
    result = quantise(graph, calibrate(graph, data, method), bool(random.integers(2)))
    bound = 12 if method == "entropy" else 24
    for name, found in layer_quality(graph, result, data).items():
        assert found.sqnr_db >= bound, (name, widths, hidden)


def channel_errors(graph: Graph, result: Graph, data: Mapping[str, Array]) -> float:
    """Sum over channels of the absolute error of the mean output."""
    samples = len(data["x"])
    (name,) = graph.outputs
    expected = interpret(graph.rebatch(samples), data)[name]
    given_values = interpret(result.rebatch(samples), data)[name]
    return float(np.abs((given_values - expected).mean(axis=0)).sum())


@pytest.mark.parametrize("last", [RELU, LINEAR, (0.0, 6.0)])
def test_bias_correction_matches_the_means(last: Bounds) -> None:
    builder = Builder(40, seed=7)
    hidden = builder.random_dense("x", 40, 50, RELU)
    graph = builder.build(builder.random_dense(hidden, 50, 30, last))
    data = {"x": np.abs(normal(40, 400)["x"])}  # a mean for the rounded weights to shift
    plain, corrected = (quantised(graph, data, correct) for correct in (False, True))
    before, after = (channel_errors(graph, each, data) for each in (plain, corrected))
    assert after < 0.35 * before


def test_bias_correction_leaves_a_dead_channel_alone() -> None:
    builder = Builder(3)
    graph = builder.build(builder.dense("x", np.eye(2, 3), [-1000, 0], RELU))
    result = quantised(graph, normal(3, 50))
    assert (interpret(result.rebatch(50), normal(3, 50))["dense0.y"][:, 0] == 0).all()


def test_quality_figures() -> None:
    found = quality(vector(3, 4, 0), vector(3, 4, 0.5))
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs_error == 0.5
    assert found.cosine == pytest.approx(5 / np.sqrt(25.25))


def test_quality_without_noise_or_signal() -> None:
    for reference, values, sqnr, cosine in [(1, 1, inf, 1), (0, 0, inf, 1), (0, 1, -inf, 0)]:
        found = quality(vector(reference), vector(values))
        assert (found.sqnr_db, found.cosine) == (sqnr, cosine)
    assert quality(np.zeros((0, 3)), np.zeros((0, 3))).max_abs_error == 0


def test_quality_adds_up_over_batches() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 10, 3))
    parts = Quality()
    for rows in (slice(0, 4), slice(4, 10)):
        parts.add(a[rows], b[rows])
    assert parts.sqnr_db == pytest.approx(quality(a, b).sqnr_db)
    assert parts.cosine == pytest.approx(quality(a, b).cosine)


def test_layer_quality_is_the_same_after_packing() -> None:
    graph, data = mlp([20, 9, 5]), normal(20, 7)
    plain = quantised(graph, data)
    packed = pack(plain.rebatch(3), batch=2, block=8)
    expected, found = (layer_quality(graph, each, data) for each in (plain, packed))
    assert expected.keys() == found.keys() == {"dense0", "dense1"}
    assert all(found[name] == expected[name] for name in expected)


@pytest.mark.parametrize("channels", [16, 20])
def test_layer_quality_leaves_a_flattening_out(tmp_path: Path, channels: int) -> None:
    """Its features are in another order once packed, though as many if the blocks are full."""
    constants = {
        "w": RNG.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "v": RNG.standard_normal((5, channels * 16)).astype(np.float32),
    }
    nodes = [node("Conv", "x w", "a"), node("Flatten", "a", "f"), node("Gemm", "f v", transB=1)]
    path = tmp_path / "flat.onnx"
    onnx.save(build(nodes, constants, {"x": ("N", 3, 6, 6)}), path)
    samples = RNG.standard_normal((8, 3, 6, 6)).astype(np.float32)
    model = compile(path, "pynq", samples)
    found = layer_quality(model.placed, model.integer, {"x": samples})
    assert found.keys() == {"Conv_0", "Gemm_2"}
    assert min(one.sqnr_db for one in found.values()) > 25
