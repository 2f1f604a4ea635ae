"""Calibration: what the float graph's values look like on sample data.

Owns the checks of calibration data, random data for want of real ones, and the pass over the
data that finds the limit of every value that VTA reads or writes. Memory is bounded: batches
are sized by what they produce, and only histograms outlive them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ..errors import DataError
from ..ops.types import Array, TensorType, bytes_of
from .estimators import CLIPPED, ESTIMATORS, STEPS, Histogram
from .graph import Graph
from .interpret import interpret
from .layers import device_layers
from .sampling import rows_of
from .saturation import saturating

_BATCH_BYTES = 2**26  # of kept values at a time
_SAMPLE_BYTES = 2**29  # of the integers that quantisation holds of all its samples at once


@dataclass(frozen=True)
class Calibration:
    """What quantisation has to know about the data.

    `limits` maps a value's name to the absolute real value that its quantiser clips at.
    `samples` maps each graph input to an array (n, ...), few enough that the integers of a layer
    may be held for all of them; empty where there are none. `references` maps every layer's result
    to what it is on these samples at sampled positions, (rows, channels), and `seen` every value
    to its histogram; both may be missing. `method` is the one of ESTIMATORS that found the limits.
    """

    limits: Mapping[str, float]
    samples: Mapping[str, Array]
    references: Mapping[str, Array] = field(default_factory=dict)
    seen: Mapping[str, Histogram] = field(default_factory=dict)
    method: str = "mse"

    def limit(self, value: str, steps: int = STEPS) -> float:
        """The limit of `value` where its integers reach up to `steps`."""
        if steps == STEPS or value not in self.seen:
            return self.limits[value]
        seen = self.seen[value]
        return ESTIMATORS[self.method](seen, steps) if seen.peak else self.limits[value]

    def with_limits(self, stated: Mapping[str, float]) -> Calibration:
        """The same with the `stated` limits in place of those that were found."""
        limits = {name: stated.get(name, limit) for name, limit in self.limits.items()}
        seen = {
            name: each
            for name, each in self.seen.items()
            if name not in stated or name in self.samples
        }
        return replace(self, limits=limits, seen=seen)


def calibrate(
    graph: Graph,
    data: Mapping[str, Array],
    method: str = "mse",
    progress: Callable[[int], None] = lambda samples: None,
) -> Calibration:
    """Run the placed float graph over `data` and find its limits with one of ESTIMATORS.

    `data` maps each graph input to an array (n, ...), n being any number of samples. `progress`
    is called with the number of samples of each batch done. Raises DataError for data that do
    not fit the graph or that it has no finite values for, and for an unknown method.
    """
    if method not in ESTIMATORS:
        raise DataError(
            f"calibration method {method!r} is unknown; known are {', '.join(ESTIMATORS)}"
        )
    check_data(graph, data)
    seen = {name: _histogram(graph.types[name]) for name in quantised_values(graph)}
    few = min(_most_samples(graph, _SAMPLE_BYTES), len(next(iter(data.values()))))
    rows: dict[str, list[Array]] = {node.outputs[0]: [] for node in device_layers(graph)}
    start = 0
    for part, feeds in batches(graph, data, tuple(seen), _BATCH_BYTES):
        values = interpret(part, feeds, keep=seen)
        for name, histogram in seen.items():
            if not np.isfinite(values[name]).all():
                raise DataError(f"value {name!r} becomes NaN or infinite on the calibration data")
            histogram.add(values[name])
        for name, parts in rows.items():
            if start < few:
                parts.append(rows_of(values[name][: few - start], start, few))
        start += part.batch
        progress(part.batch)
    estimate = ESTIMATORS[method]
    limits = {name: estimate(each) if each.peak else 1.0 for name, each in seen.items()}
    references = {name: np.concatenate(parts) for name, parts in rows.items()}
    found = Calibration(limits, _feeds(graph, data, 0, few), references, seen, method)
    bounds = saturating(graph).items()
    return found.with_limits(
        {name: bound for name, bound in bounds if limits.get(name, 0.0) > bound}
    )


def _histogram(kind: TensorType) -> Histogram:
    """An empty one for values of a type."""
    return Histogram(CLIPPED if len(kind.shape) == 4 else 1.0)


def quantised_values(graph: Graph) -> tuple[str, ...]:
    """Activations that a VTA node reads or writes, in order."""
    on_device = (node for node in graph.nodes if node.device == "vta")
    names = (name for node in on_device for name in (*node.inputs, *node.outputs))
    return tuple(dict.fromkeys(name for name in names if name and name not in graph.constants))


def random_calibration(graph: Graph, samples: int, seed: int) -> dict[str, Array]:
    """Seeded normal inputs, for want of real ones; integers are 0 or 1."""
    random = np.random.default_rng(seed)
    data: dict[str, Array] = {}
    for name in graph.inputs:
        kind = graph.types[name]
        normal = random.standard_normal((samples, *kind.shape[1:]))
        floating = np.issubdtype(np.dtype(kind.dtype), np.floating)
        data[name] = (normal if floating else normal > 0).astype(kind.dtype)
    return data


def check_data(graph: Graph, data: Mapping[str, Array]) -> None:
    """Raise DataError unless `data` are samples of the graph's inputs.

    The message names the input and what was expected when an array is missing, is too many, is
    empty, has another shape or a dtype that does not convert, or holds NaN or infinity.
    """
    unknown = [name for name in data if name not in graph.inputs]
    missing = [name for name in graph.inputs if name not in data]
    if unknown or missing:
        raise DataError(
            f"calibration data are for {_names(data)}, the model's inputs are "
            f"{_names(graph.inputs)}"
        )
    for name in graph.inputs:
        _check_array(name, graph.types[name], np.asarray(data[name]))
    counts = {name: len(data[name]) for name in graph.inputs}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise DataError(f"calibration data need as many samples for every input, got {listed}")


def batches(
    graph: Graph, data: Mapping[str, Array], keep: tuple[str, ...], limit: int
) -> Iterator[tuple[Graph, dict[str, Array]]]:
    """`data` in batches of the graph's dtypes, each with the graph for that batch size.

    A batch is as large as it can be with at most `limit` bytes of the values `keep`.
    """
    samples = len(next(iter(data.values())))
    size = min(_fit(graph, (*graph.inputs, *keep), limit), samples)
    part = graph.rebatch(size)
    for start in range(0, samples, size):
        count = min(size, samples - start)
        feeds = _feeds(graph, data, start, start + count)
        yield (part if count == size else graph.rebatch(count)), feeds


def _fit(graph: Graph, values: tuple[str, ...], limit: int) -> int:
    """Samples whose `values` take at most `limit` bytes, at least 1."""
    total = sum(bytes_of(graph.types[name]) for name in values)
    return max(1, limit * graph.batch // max(total, 1))


def _most_samples(graph: Graph, limit: int) -> int:
    """Samples of which quantisation may hold the integers: all int8 ones, a layer's int32."""
    sizes = [prod(graph.types[name].shape) for name in quantised_values(graph)]
    inputs = sum(bytes_of(graph.types[name]) for name in graph.inputs)
    total = inputs + sum(sizes) + 4 * max(sizes, default=0)
    return max(1, limit * graph.batch // max(total, 1))


def _feeds(graph: Graph, data: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    return {name: _part(graph.types[name], data[name], start, stop) for name in graph.inputs}


def _part(kind: TensorType, array: Array, start: int, stop: int) -> Array:
    """Some samples, converted: the whole array may be too large to convert at once."""
    with np.errstate(over="ignore"):
        return np.asarray(array[start:stop]).astype(kind.dtype, copy=False)


def _check_array(name: str, kind: TensorType, array: Array) -> None:
    expected = f"expected {kind.dtype} of shape (n, {', '.join(map(str, kind.shape[1:]))})"
    given = f"calibration data for input {name!r}"
    if array.shape[1:] != kind.shape[1:] or array.ndim != len(kind.shape):
        raise DataError(f"{given} have shape {array.shape}; {expected}")
    if not array.size:
        raise DataError(f"{given} are empty; {expected} with n at least 1")
    if not np.can_cast(array.dtype, kind.dtype, "same_kind"):
        raise DataError(f"{given} are {array.dtype}; {expected}")
    finite = sum(
        np.count_nonzero(np.isfinite(_part(kind, array, start, start + 1)))
        for start in range(len(array))
    )
    if finite < array.size:
        raise DataError(
            f"{given} hold {array.size - finite} NaN or infinite values; {expected}, all finite"
        )


def _names(names: Mapping[str, Array] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "no input"
