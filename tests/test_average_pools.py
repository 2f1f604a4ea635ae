"""Average pools whose windows hold fewer values at the border: sections of a convolution.

The float layers of the device form are compared with ONNX's own formula in onnxruntime, within the
bound of oracles.py; the bytes of the simulator with the integer graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend.profile import DESIGNS
from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, compile
from vtaflow.evaluate import compare
from vtaflow.graph.interpret import interpret
from vtaflow.ops.taps import SECTIONS
from vtaflow.ops.types import Array
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .onnx_models import build, node
from .oracles import close, onnxruntime_says
from .targets import PYNQ, geometries

TARGETS = geometries(least_inputs=13)

POOLS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "same": ((9, 12), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    "one side": ((9, 12), {"kernel_shape": (2, 2), "pads": (0, 1, 0, 0)}),
    "asymmetric": ((11, 8), {"kernel_shape": (4, 3), "pads": (0, 2, 3, 1), "strides": (2, 1)}),
    "cut off": ((9, 13), {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}),
    "padding counted and cut off": (
        (9, 12),
        {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": 1,
         "count_include_pad": 1},
    ),
    "five": ((14, 9), {"kernel_shape": (5, 5), "pads": (2, 2, 2, 2)}),
    "in two steps": ((14, 9), {"kernel_shape": (7, 7), "pads": (3, 3, 3, 3)}),
    "rows that differ": ((5, 12), {"kernel_shape": (5, 3), "pads": (4, 0, 4, 0)}),
    "larger than the image": ((4, 3), {"kernel_shape": (6, 5), "pads": (4, 2, 3, 4)}),
}


def pool_of(size: tuple[int, int], channels: int = 20, **attrs: Any) -> onnx.ModelProto:
    nodes = [node("AveragePool", "x", "y", name="pool", **attrs)]
    return build(nodes, {}, {"x": ("N", channels, *size)})


def samples(model: onnx.ModelProto, count: int = 8) -> Array:
    """Smooth pictures that are far from centred."""
    shape = [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim][1:]
    random = np.random.default_rng(3)
    return (random.standard_normal((count, *shape)) + 2).astype(np.float32)


def compiled(folder: Path, model: onnx.ModelProto, target: Target = PYNQ) -> CompiledModel:
    onnx.save(model, folder / "m.onnx")
    return compile(folder / "m.onnx", target, samples(model))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", POOLS)
def test_on_vta(tmp_path: Path, name: str, target: Target) -> None:
    """The pool is on VTA, in the same bytes under every order of every design, and near float."""
    size, attrs = POOLS[name]
    model = pool_of(size, **attrs)
    found = compiled(tmp_path, model, target)
    assert [row["device"] for row in found.artifact.manifest["placement"]] == ["vta"]
    x = samples(model, count=1)
    expected = interpret(found.integer, {"x": x})["y"]
    for design in DESIGNS if target.is_default_geometry else ("fsim", "hls"):
        for order in ORDERS:
            device = SimDevice(replace(target, design=design), order)
            (y,) = InferenceSession(found.artifact, device).run(None, {"x": x})
            assert np.array_equal(y, expected), (design, order)
    report = compare(found, {"x": samples(model)})
    assert (report.launches, report.mismatch) == (1, None)
    assert report.outputs[0].sqnr_db > 30


def test_two_steps_beyond_25_sections(tmp_path: Path) -> None:
    for name, layers in (("five", 1), ("in two steps", 2)):
        size, attrs = POOLS[name]
        made = compiled(tmp_path, pool_of(size, **attrs)).placed
        assert [node.op for node in made.nodes] == ["FusedConv"] * layers
        assert all(SECTIONS in node.attrs for node in made.nodes)


def test_every_step_has_its_own_cycles(tmp_path: Path) -> None:
    size, attrs = POOLS["in two steps"]
    manifest = compiled(tmp_path, pool_of(size, **attrs)).artifact.manifest
    cycles = [layer["estimated_cycles"] for layer in manifest["layers"]]
    assert len(cycles) == 2 and min(cycles) > 0
    assert sum(cycles) == manifest["launches"][0]["estimated_cycles"]


def test_windows_that_hold_as_many_need_no_sections(tmp_path: Path) -> None:
    for attrs in ({"strides": (3, 3)}, {"pads": (1, 1, 1, 1), "count_include_pad": 1}):
        made = compiled(tmp_path, pool_of((9, 9), kernel_shape=(3, 3), **attrs)).placed
        assert [SECTIONS in node.attrs for node in made.nodes] == [False]


@pytest.mark.parametrize("behind", ["MaxPool", "Relu", "Add", "AveragePool"])
def test_between_other_layers(tmp_path: Path, behind: str) -> None:
    """A max-pool is not taken into it; an activation and a sum are."""
    pool = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    weight = np.random.default_rng(5).standard_normal((20, 20, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", "x w", "c", **pool),
        node("AveragePool", "c", "a", **pool),
        node(behind, "a c" if behind == "Add" else "a", "y", **({} if behind in ("Relu", "Add") else
             {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1})),
    ]
    model = build(nodes, {"w": weight}, {"x": ("N", 20, 9, 11)})
    found = compiled(tmp_path, model)
    report = compare(found, {"x": samples(model)})
    assert (report.launches, report.mismatch) == (1, None)
    assert report.outputs[0].sqnr_db > 25


@st.composite
def any_pools(draw: st.DrawFn) -> onnx.ModelProto:
    """A pool with any attributes whose windows all hold a value."""
    size = draw(st.tuples(st.integers(3, 12), st.integers(3, 12)))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    kernel = (min(kernel[0], size[0]), min(kernel[1], size[1]))
    pads = tuple(draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4))
    return pool_of(
        size, draw(st.integers(1, 20)), kernel_shape=kernel, pads=pads,
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        ceil_mode=draw(st.integers(0, 1)), count_include_pad=draw(st.integers(0, 1)),
    )


@settings(max_examples=25, derandomize=True, deadline=None)
@given(any_pools())
def test_any_pool(tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto) -> None:
    any_pool(tmp_path_factory.mktemp("pool"), model)


@pytest.mark.slow
@settings(max_examples=250, derandomize=True, deadline=None)
@given(any_pools())
def test_any_pool_at_length(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto
) -> None:
    any_pool(tmp_path_factory.mktemp("pool"), model)


def any_pool(folder: Path, model: onnx.ModelProto) -> None:
    """The float layers are ONNX's pool, the bytes are those of the integer graph."""
    found, x = compiled(folder, model), samples(model, count=1)
    assert {node.device for node in found.placed.nodes} == {"vta"}
    close(interpret(found.placed, {"x": x})["y"], *onnxruntime_says(model, {"x": x}))
    (y,) = InferenceSession(found.artifact).run(None, {"x": x})
    assert np.array_equal(y, interpret(found.integer, {"x": x})["y"])
