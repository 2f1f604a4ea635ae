"""Random convolutional networks from ONNX to bytes: the simulator computes the integer graph.

The same cases every time. The float graph is compared with onnxruntime within the bound of
oracles.py, 1e-5 of the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .oracles import check, onnxruntime_says
from .random_networks import Network, networks

PYNQ = Target.load("pynq")
TARGETS = {
    "default": PYNQ,
    "batch 2": replace(PYNQ, log_batch=1),
    "batch 4, block 8": replace(
        PYNQ, log_batch=2, log_block=3, log_inp_buff_size=16, log_wgt_buff_size=16,
        log_acc_buff_size=18,
    ),
    "block 32": replace(PYNQ, log_block=5, log_inp_buff_size=16, log_wgt_buff_size=19),
    "small memories": replace(
        PYNQ, log_uop_buff_size=12, log_inp_buff_size=11, log_wgt_buff_size=14,
        log_acc_buff_size=12,
    ),
}
CALIBRATION_SAMPLES = 6


def cases(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings of that many cases, always the same ones."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


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


def simulator_is_exact(folder: Path, network: Network, name: str, real: bool) -> None:
    model = compiled(folder, network, TARGETS[name], real)
    left_out = {node.op for node in model.placed.nodes if node.device == "host"}
    assert not left_out or "AveragePool" in left_out  # one whose counts differ at the border
    same_bytes_everywhere(model, network, TARGETS[name])


@cases(6)
@given(network=networks(), name=st.sampled_from(sorted(TARGETS)), real=st.booleans())
def test_random_networks(tmp_path: Path, network: Network, name: str, real: bool) -> None:
    simulator_is_exact(tmp_path, network, name, real)


@pytest.mark.slow
@cases(60)
@given(network=networks(), name=st.sampled_from(sorted(TARGETS)), real=st.booleans())
def test_random_networks_at_length(
    tmp_path: Path, network: Network, name: str, real: bool
) -> None:
    simulator_is_exact(tmp_path, network, name, real)


def float_graph_is_right(network: Network) -> None:
    check(network.model, {"x": network.samples(network.batch)}, [onnxruntime_says])


@cases(6)
@given(network=networks())
def test_their_float_graphs(network: Network) -> None:
    float_graph_is_right(network)


@pytest.mark.slow
@cases(60)
@given(network=networks())
def test_their_float_graphs_at_length(network: Network) -> None:
    float_graph_is_right(network)
