"""What the quantiser does beyond rounding to the nearest: every step helps."""

from __future__ import annotations

import numpy as np
import pytest

from vtaflow.graph.calibration import calibrate
from vtaflow.graph.graph import Graph
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.equalise import _histograms, _spans, equalise
from vtaflow.graph.passes.quantise import quantise
from vtaflow.graph.saturation import saturating
from vtaflow.graph.weight_rounding import _upper_inverse
from vtaflow.ops.types import Array

from .networks import LINEAR, RELU, Builder

SAMPLES = 2048


def correlated(features: int, samples: int = SAMPLES, seed: int = 3) -> dict[str, Array]:
    """Inputs whose features go together, as those of pictures do."""
    random = np.random.default_rng(seed)
    few = random.standard_normal((samples, features // 4))
    mixed = few @ random.standard_normal((features // 4, features))
    mixed += random.standard_normal(mixed.shape) / 4
    return {"x": (mixed / 4).astype(np.float32)}


def two_layers(spread: float = 1.0) -> Graph:
    """Hidden channels whose sizes differ by up to `spread`, which the second layer evens out."""
    builder = Builder(32, seed=5)
    random = np.random.default_rng(6)
    sizes = spread ** random.uniform(-0.5, 0.5, 48)
    first = random.standard_normal((48, 32)) * sizes[:, None] / 6
    second = random.standard_normal((24, 48)) / sizes / 7
    hidden = builder.dense("x", first, random.standard_normal(48) * sizes / 5, RELU)
    return builder.build(builder.dense(hidden, second, None, LINEAR))


def noise(graph: Graph, quantised: Graph, data: dict[str, Array]) -> float:
    """The power of the quantised graph's error over the power of the result."""
    count = len(data["x"])
    (wanted,) = interpret(graph.rebatch(count), data).values()
    (found,) = interpret(quantised.rebatch(count), data).values()
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


def test_equalisation_keeps_the_function() -> None:
    graph, data = two_layers(spread=64), correlated(32)
    changed = equalise(graph, data)
    assert changed.constants.keys() != graph.constants.keys()
    (wanted,) = interpret(graph.rebatch(SAMPLES), data).values()
    (found,) = interpret(changed.rebatch(SAMPLES), data).values()
    # Two float32 roundings of every weight, summed over 48 channels.
    assert np.abs(found - wanted).max() <= 48 * 2**-22 * np.abs(wanted).max()


def test_equalisation_lessens_the_noise_of_unequal_channels() -> None:
    graph, data = two_layers(spread=64), correlated(32)
    changed = equalise(graph, data)
    plain, even = (quantise(each, calibrate(each, data)) for each in (graph, changed))
    assert noise(graph, even, data) < 0.5 * noise(graph, plain, data)


def test_a_channel_does_not_pay_for_a_few_large_values() -> None:
    rows = np.random.default_rng(9).uniform(-1, 1, (3, 400_000))
    rows[1, 0] = 4.0
    rows[2] = 0.0
    plain, peaked, empty = _spans(_histograms(rows))
    assert 1.0 <= plain <= 2.0 ** (1 / 8)
    assert peaked < 2.0
    assert empty == 0.0


def test_equalisation_needs_samples() -> None:
    graph, data = two_layers(spread=64), correlated(32, samples=100)
    for name, array in equalise(graph, data).constants.items():
        assert np.array_equal(array, graph.constants[name])


@pytest.mark.parametrize("samples", [SAMPLES, 100])
def test_compensated_rounding_lessens_the_noise_if_samples_tell_how(samples: int) -> None:
    builder = Builder(32, seed=8)
    graph = builder.build(builder.random_dense("x", 32, 40))
    data = correlated(32, samples)
    limits = calibrate(graph, data)
    nearest, compensated = (
        quantise(graph, limits, weight_rounding=way) for way in ("nearest", "compensated")
    )
    (name,) = (name for name in nearest.constants if nearest.constants[name].ndim == 2)
    same = np.array_equal(nearest.constants[name], compensated.constants[name])
    assert same == (samples == 100)
    fresh = correlated(32, samples)
    if not same:
        limit = 0.9 * noise(graph, nearest, fresh)  # other roundings stay
        assert noise(graph, compensated, fresh) < limit


def test_triangular_matrices_are_inverted_by_quarters() -> None:
    random = np.random.default_rng(0)
    upper = np.triu(random.standard_normal((2, 150, 150))) / 150 + np.eye(150)
    found = _upper_inverse(upper)
    assert np.array_equal(found, np.triu(found))
    # Conditioned well: float64 rounding times the number of terms.
    assert np.abs(found @ upper - np.eye(150)).max() < 150 * 2**-44


def test_activations_that_are_never_negative_have_twice_the_steps() -> None:
    graph, data = two_layers(), correlated(32)
    limits = calibrate(graph, data, "minmax")
    offset, centred = (
        quantise(graph, limits, weight_rounding="nearest", activation_offsets=way)
        for way in (True, False)
    )
    kinds = [
        next(each.types[node.outputs[0]] for node in each.nodes if node.name == "dense0")
        for each in (offset, centred)
    ]
    assert [kind.zero_point for kind in kinds] == [-128, 0]
    assert kinds[0].scale and kinds[1].scale
    assert kinds[0].scale / kinds[1].scale == pytest.approx(127 / 255)
    assert noise(graph, offset, data) < 0.9 * noise(graph, centred, data)  # other roundings stay


def squashed(*readers: str, output: bool = False) -> Graph:
    """A layer whose result is flattened and read by host operators."""
    builder = Builder(8, seed=1)
    y = builder.random_dense("x", 8, 4)
    flat = builder.host("Flatten", y, axis=1)
    results = [builder.host(op, flat) for op in readers]
    return builder.build(*results, *((y,) if output else ()))


def test_what_only_a_sigmoid_reads_is_limited() -> None:
    assert saturating(squashed("Sigmoid")) == {"dense0.y": 8.0, "flatten1.y": 8.0}
    assert saturating(squashed("Tanh")) == {"dense0.y": 4.5, "flatten1.y": 4.5}
    assert saturating(squashed("Tanh", "Sigmoid"))["dense0.y"] == 8.0
    assert saturating(squashed("Sigmoid", "Relu")) == {}
    assert "dense0.y" not in saturating(squashed("Sigmoid", output=True))


def test_a_limit_of_what_a_sigmoid_reads() -> None:
    graph = squashed("Sigmoid")
    data = {"x": 100 * correlated(8)["x"]}
    assert calibrate(graph, data, "minmax").limits["dense0.y"] == 8.0
    assert calibrate(graph, {"x": data["x"] / 1e4}, "minmax").limits["dense0.y"] < 1


def test_a_limit_that_is_stated_wins() -> None:
    graph, data = two_layers(), correlated(32)
    found = calibrate(graph, data).with_limits({"dense0.y": 3.0})
    assert found.limit("dense0.y") == found.limit("dense0.y", 255) == 3.0
    assert found.limit("dense1.y") == calibrate(graph, data).limits["dense1.y"]
