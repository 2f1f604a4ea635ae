"""Evaluation: a compiled model on a device beside its float reference on the CPU."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from .compiler import CompiledModel
from .errors import DataError, ModelError
from .frontend.reference import cpu_reference
from .graph.graph import Graph
from .graph.interpret import interpret
from .graph.quality import layer_quality
from .ops.types import Array
from .runtime.client import Client
from .runtime.comparison import (
    Accuracy,
    Comparison,
    TensorComparison,
    accuracy,
    compare_tensors,
    first_difference,
)
from .runtime.device import Device
from .runtime.session import InferenceSession
from .runtime.spread import Spread
from .workers import workers

LAYER_SAMPLES = 32
"""Samples on which layers are compared: every value of the model is held for a part of them."""

EXACT_SAMPLES = 4
"""Compiled batches whose outputs are compared byte for byte with the integer graph."""


def compare(
    compiled: CompiledModel,
    feeds: Mapping[str, Array],
    labels: Array | None = None,
    device: str | Device | Client = "sim",
    progress: Callable[[int], object] = lambda samples: None,
    scheduler: str | None = None,
) -> Comparison:
    """Run `feeds` (name -> (n, ...), as they enter the model) on the device and on the CPU.

    `labels` are n class numbers for the first output. On any device but the simulator, what
    leaves VTA is compared with the simulator's bytes too. The samples may be spread over
    simulators on the Dask cluster at `scheduler`. Raises FeedError or DataError when the data do
    not fit the model, WorkerError when the cluster cannot be used.
    """
    with InferenceSession(compiled.artifact, device) as session:
        comparison, found = _beside_cpu(
            session, compiled.source, feeds, labels, progress, scheduler
        )
        mismatch = _mismatch(compiled.integer, feeds, found)
        if mismatch is None and device != "sim":
            comparison = _beside_simulator(session, feeds, comparison)
            mismatch = comparison.mismatch
    return replace(comparison, layers=_layers(compiled, feeds), mismatch=mismatch)


def compare_artifact(
    session: InferenceSession,
    model: str | os.PathLike[str],
    feeds: Mapping[str, Array],
    labels: Array | None = None,
    progress: Callable[[int], object] = lambda samples: None,
    simulated: bool = True,
    scheduler: str | None = None,
) -> Comparison:
    """As `compare`, for an artifact that was compiled from the ONNX file `model` before.

    Nothing is compiled, so there are no graphs to compare layers with; bytes are compared with
    the simulator's unless the session is `simulated`. Raises DataError if the artifact was
    compiled from another file.
    """
    try:
        digest = hashlib.sha256(Path(model).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(os.fspath(model), [f"cannot be read: {error.strerror}"]) from None
    if session.artifact.manifest["model"]["sha256"] != digest:
        raise DataError(f"{session.artifact.source}: was not compiled from {os.fspath(model)}")
    comparison, _ = _beside_cpu(session, Path(model), feeds, labels, progress, scheduler)
    return comparison if simulated else _beside_simulator(session, feeds, comparison)


def _beside_cpu(
    session: InferenceSession,
    model: Path,
    feeds: Mapping[str, Array],
    labels: Array | None,
    progress: Callable[[int], object],
    scheduler: str | None,
) -> tuple[Comparison, dict[str, Array]]:
    """Outputs on the device beside those on the CPU, and the device's outputs by name."""
    if scheduler is None:
        outputs = session.run(None, feeds, progress)
    else:
        with workers(scheduler=scheduler) as crew:
            artifact = crew.share(session.artifact.to_bytes())
            outputs = session.run(
                None, feeds, progress, Spread(crew.executor, artifact, 2 * crew.width)
            )
    names = [tensor.name for tensor in session.get_outputs()]
    statistics = session.last_run
    assert statistics is not None
    found = dict(zip(names, outputs, strict=True))
    reference = cpu_reference(model)
    began = time.perf_counter()
    wanted = reference.run(feeds)
    cpu_seconds = time.perf_counter() - began
    rates = None
    if labels is not None:
        first = names[0]
        rates = Accuracy(accuracy(wanted[first], labels), accuracy(found[first], labels))
    comparison = Comparison(
        outputs=tuple(compare_tensors(name, wanted[name], found[name]) for name in names),
        layers=(),
        accuracy=rates,
        counters=statistics.counters,
        launches=statistics.launches,
        samples=statistics.samples,
        run_seconds=statistics.seconds,
        cpu_seconds=cpu_seconds,
        reference=reference.name,
        arithmetic=reference.arithmetic,
    )
    return comparison, found


def random_feeds(graph: Graph, samples: int, seed: int) -> dict[str, Array]:
    """Seeded normal inputs for a model without test data; integers are 0 or 1."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        kind = graph.types[name]
        values = generator.standard_normal((samples, *kind.shape[1:]))
        whole = not np.issubdtype(np.dtype(kind.dtype), np.floating)
        feeds[name] = (values > 0 if whole else values).astype(kind.dtype)
    return feeds


def _layers(compiled: CompiledModel, feeds: Mapping[str, Array]) -> tuple[TensorComparison, ...]:
    """Every VTA layer's dequantised output beside the float layer's."""
    some = {name: array[:LAYER_SAMPLES] for name, array in feeds.items()}
    qualities = layer_quality(compiled.placed, compiled.integer, some)
    return tuple(
        TensorComparison(name, one.max_abs_error, one.cosine, one.sqnr_db, None, None)
        for name, one in qualities.items()
    )


def _beside_simulator(
    session: InferenceSession, feeds: Mapping[str, Array], comparison: Comparison
) -> Comparison:
    """What leaves VTA on the device beside what leaves it on the simulator, byte for byte."""
    names = session.get_device_outputs()
    some = {name: array[: EXACT_SAMPLES * session.artifact.batch] for name, array in feeds.items()}
    if not names:
        return comparison
    with InferenceSession(session.artifact) as simulator:
        wanted, found = simulator.run(names, some), session.run(names, some)
    for name, one, other in zip(names, wanted, found, strict=True):
        difference = first_difference(one, other)
        if difference:
            return replace(comparison, mismatch=f"{name!r}, as it leaves VTA, {difference}")
    return replace(
        comparison,
        compared_samples=len(wanted[0]),
        compared_bytes=sum(array.nbytes for array in wanted),
    )


def _mismatch(
    graph: Graph, feeds: Mapping[str, Array], found: Mapping[str, Array]
) -> str | None:
    """The first output element where the device and the integer graph differ, or None."""
    samples = len(next(iter(feeds.values())))
    for start in range(0, min(samples, EXACT_SAMPLES * graph.batch), graph.batch):
        rows = np.minimum(np.arange(start, start + graph.batch), samples - 1)
        expected = interpret(graph, {name: array[rows] for name, array in feeds.items()})
        for name in graph.outputs:
            count = min(graph.batch, samples - start)
            difference = first_difference(
                expected[name][:count], found[name][start : start + count]
            )
            if difference:
                return f"{name!r} of sample {start + difference.index[0]} {difference}"
    return None
