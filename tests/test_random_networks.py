"""Random convolutional networks from ONNX to bytes: the simulator computes the integer graph.

The same cases every time. The float graph is compared with onnxruntime within the bound of
oracles.py, 1e-5 of the largest magnitude, and the layers of the integer graph with those of the
float graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from vtaflow.backend.profile import DESIGNS
from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, CompileOptions, compile
from vtaflow.graph.interpret import interpret
from vtaflow.graph.quality import layer_quality
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .oracles import check, onnxruntime_says
from .random_networks import Network, networks, numbered
from .targets import geometries

TARGETS = geometries(least_inputs=14)
CALIBRATION_SAMPLES = 6
LEAST_SQNR_DB = 15.0
"""Of every layer beside the float layer, on the samples that calibrated it."""


def compiled(folder: Path, network: Network, target: Target, real: bool) -> CompiledModel:
    """The network calibrated with a few samples or, if they are not `real`, with random ones."""
    path = folder / "network.onnx"
    onnx.save(network.model, path)
    samples = network.samples(CALIBRATION_SAMPLES, 1) if real else None
    return compile(path, target, samples, CompileOptions(batch=network.batch))


def designs(target: Target) -> list[str]:
    """The designs that can have the target's geometry; Chisel knows the default one alone."""
    return [one for one in DESIGNS if one != "chisel" or target.is_default_geometry]


def same_bytes_everywhere(model: CompiledModel, network: Network, target: Target) -> None:
    """Every design under every interleaving gives what the integer graph gives."""
    x = network.samples(network.batch)
    expected = interpret(model.integer, {"x": x})["y"]
    for design in designs(target):
        for order in ORDERS:
            device = SimDevice(replace(target, design=design), order)
            (found,) = InferenceSession(model.artifact, device).run(None, {"x": x})
            assert np.array_equal(found, expected), (design, order)


def layers_keep_their_quality(model: CompiledModel, network: Network) -> None:
    samples = {"x": network.samples(CALIBRATION_SAMPLES, 1)}
    qualities = layer_quality(model.placed, model.integer, samples)
    assert min(one.sqnr_db for one in qualities.values()) >= LEAST_SQNR_DB


def numbers(count: int, longer: int) -> list[object]:
    """The first cases are always run, the longer rest only if that is asked for."""
    rest = range(count, count + longer)
    return [*range(count), *(pytest.param(one, marks=pytest.mark.slow) for one in rest)]


@pytest.mark.parametrize("number", numbers(6, 60))
def test_random_networks(tmp_path: Path, number: int) -> None:
    """The targets in turn; every second network is calibrated with samples of its own."""
    network, target = numbered(number), list(TARGETS.values())[number % len(TARGETS)]
    model = compiled(tmp_path, network, target, real=number % 2 == 0)
    assert [node.name for node in model.placed.nodes if node.device == "host"] == []
    same_bytes_everywhere(model, network, target)
    if number % 2 == 0:
        layers_keep_their_quality(model, network)


def float_graph_is_right(network: Network) -> None:
    check(network.model, {"x": network.samples(network.batch)}, [onnxruntime_says])


@settings(max_examples=6, derandomize=True, deadline=None)
@given(networks())
def test_their_float_graphs(network: Network) -> None:
    float_graph_is_right(network)


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None)
@given(networks())
def test_their_float_graphs_at_length(network: Network) -> None:
    float_graph_is_right(network)
