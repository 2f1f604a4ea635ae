"""Random multi-layer perceptrons from ONNX to bytes: the simulator computes the integer graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtaflow.backend.profile import DESIGNS
from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, CompileOptions, compile
from vtaflow.graph.interpret import interpret
from vtaflow.ops.types import Array
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .onnx_models import build, node
from .targets import PYNQ, geometries

TARGETS = geometries(least_inputs=11)
ACTIVATIONS = ("none", "Relu", "Clip", "Sigmoid", "Tanh")


@dataclass(frozen=True)
class Perceptron:
    """Widths from input to output, one activation and one choice of bias a layer."""

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    biases: tuple[bool, ...]
    batch: int
    seed: int

    def model(self) -> onnx.ModelProto:
        """The network in ONNX, from `x` to `y`."""
        random = np.random.default_rng(self.seed)
        nodes, value = [], "x"
        constants: dict[str, Array] = {
            "low": np.asarray(-0.5, np.float32),
            "high": np.asarray(1.5, np.float32),
        }
        layers = zip(
            self.widths[:-1], self.widths[1:], self.activations, self.biases, strict=True
        )
        for index, (inputs, outputs, activation, bias) in enumerate(layers):
            weight = random.standard_normal((inputs, outputs)) / np.sqrt(inputs)
            constants[f"w{index}"] = weight.astype(np.float32)
            nodes.append(node("MatMul", f"{value} w{index}", f"product{index}"))
            value = f"product{index}"
            if bias:
                constants[f"b{index}"] = random.standard_normal(outputs).astype(np.float32)
                nodes.append(node("Add", f"{value} b{index}", f"sum{index}"))
                value = f"sum{index}"
            if activation != "none":
                more = " low high" if activation == "Clip" else ""
                nodes.append(node(activation, value + more, f"active{index}"))
                value = f"active{index}"
        nodes.append(node("Identity", value, "y"))
        return build(
            nodes, constants, {"x": ("N", self.widths[0])}, {"y": ("N", self.widths[-1])}
        )


@st.composite
def perceptrons(draw: st.DrawFn) -> Perceptron:
    depth = draw(st.integers(1, 4))
    return Perceptron(
        tuple(draw(st.lists(st.integers(1, 300), min_size=depth + 1, max_size=depth + 1))),
        tuple(draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=depth, max_size=depth))),
        tuple(draw(st.lists(st.booleans(), min_size=depth, max_size=depth))),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 9999)),
    )


def compiled(folder: Path, network: Perceptron, target: Target) -> CompiledModel:
    path = folder / "network.onnx"
    onnx.save(network.model(), path)
    random = np.random.default_rng(network.seed + 1)
    samples = random.standard_normal((16, network.widths[0])).astype(np.float32)
    return compile(path, target, samples, CompileOptions(batch=network.batch))


def samples_of(network: Perceptron) -> Array:
    """One compiled batch and a part of the next."""
    random = np.random.default_rng(network.seed + 2)
    count = network.batch + max(1, network.batch - 1)
    return random.standard_normal((count, network.widths[0])).astype(np.float32)


def expected_of(model: CompiledModel, x: Array) -> Array:
    """What the integer graph says, one compiled batch at a time."""
    batch = model.integer.batch
    filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % batch, axis=0)])
    parts = [
        interpret(model.integer, {"x": filled[start : start + batch]})["y"]
        for start in range(0, len(filled), batch)
    ]
    return np.concatenate(parts)[: len(x)]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(network=perceptrons(), name=st.sampled_from(sorted(TARGETS)))
def test_random_perceptrons(tmp_path: Path, network: Perceptron, name: str) -> None:
    model = compiled(tmp_path, network, TARGETS[name])
    x = samples_of(network)
    found = InferenceSession(model.artifact).run(None, {"x": x})[0]
    assert np.array_equal(found, expected_of(model, x))


NETWORKS: dict[str, Perceptron] = {
    "one launch": Perceptron((70, 100, 33, 10), ("Relu", "Clip", "none"), (True,) * 3, 1, 5),
    "two launches": Perceptron((40, 60, 20), ("Sigmoid", "none"), (True, False), 3, 6),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_interleaving_on_every_design(
    tmp_path: Path, network: Perceptron, design: str, order: str
) -> None:
    target = replace(PYNQ, name=f"as_{design}", design=design)
    model = compiled(tmp_path, network, target)
    x = samples_of(network)
    session = InferenceSession(model.artifact, SimDevice(target, order))
    assert np.array_equal(session.run(None, {"x": x})[0], expected_of(model, x))


def launches(model: CompiledModel) -> Sequence[object]:
    return model.artifact.manifest["launches"]  # type: ignore[no-any-return]


def test_layers_share_a_launch_unless_the_host_stands_between(tmp_path: Path) -> None:
    assert len(launches(compiled(tmp_path, NETWORKS["one launch"], PYNQ))) == 1
    assert len(launches(compiled(tmp_path, NETWORKS["two launches"], PYNQ))) == 2


def test_an_oracle_that_can_fail(tmp_path: Path) -> None:
    """One flipped weight bit shows in the bytes."""
    network = NETWORKS["one launch"]
    model = compiled(tmp_path, network, PYNQ)
    members = dict(model.artifact.members)
    constants = bytearray(members["constants.bin"])
    constants[100] ^= 0x40
    members["constants.bin"] = bytes(constants)
    changed = type(model.artifact).create(model.artifact.manifest, members)
    x = samples_of(network)
    assert not np.array_equal(
        InferenceSession(changed).run(None, {"x": x})[0], expected_of(model, x)
    )
