"""Scales: which integer values share one, and what each one is.

A value that is only moved or pooled keeps its scale, and the inputs of a Concat that nobody else
reads take that of the result. A residual and the sum it joins are a power of two apart. Every other
scale is free. Where values that should share a scale cannot, one of them is requantised: the
reader gets a copy.

Zero is the integer 0, since that is what padding inserts. What nobody pads may have another zero
point: a value that is never negative has the least integer for zero, and so twice the steps. The
zero point of a layer's operand goes into its bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..ops.epilogue import HIGHEST, LOWEST, MAX_RESIDUAL_SHIFT
from ..ops.shortcut import MOST_SHIFT
from ..ops.taps import SECTIONS
from ..ops.types import Array
from .calibration import Calibration
from .estimators import Histogram, relative_noise
from .graph import Graph, Node
from .layers import LAYERS, MOVES, device_layers, residual_of, shortcut_of
from .shift_grid import WEIGHT_LIMIT, Meeting, room_for_fraction
from .signs import non_negative

_KEEP = ("MaxPool", "Flatten")  # device operators whose result has the scale of its operand
_SMALLEST_SCALE = 1e-30  # float32 can still multiply by its inverse
_BASES = 24  # positions within an octave that are tried for scales a power of two apart
_ROUNDS = 40
_GAIN = 0.5  # an input offset must leave at most this part of the noise

Port = tuple[str, int]
"""Name of a node and the position of one of its inputs."""


@dataclass(frozen=True)
class Scales:
    """The scale of every value that is an integer somewhere, by its float name.

    `zero_points` has the values whose zero is not 0. `copies` maps the inputs of nodes that read
    a requantised copy to the copy's scale and zero point.
    """

    of: Mapping[str, float]
    zero_points: Mapping[str, int]
    copies: Mapping[Port, tuple[float, int]]


def plan_scales(
    graph: Graph,
    calibration: Calibration,
    input_offset: bool = True,
    activation_offsets: bool = True,
) -> Scales:
    """Scales for the placed float graph, near those that calibration found.

    `input_offset` lets lopsided inputs of the model have a zero point other than 0, and
    `activation_offsets` what layers make.
    """
    plan = _Plan(graph, calibration)
    if activation_offsets:
        plan.find_offsets()
    for round_number in range(_ROUNDS):
        if round_number == _ROUNDS // 2:  # scales that drive each other up are set apart
            plan.apart.update(port for port, _, _ in plan.residuals)
        scales = plan.solve()
        if not plan.raise_floors(scales) and not plan.part_residuals(scales):
            break
    zero_points = {value: LOWEST for value in scales if plan.root(value) in plan.offset}
    if input_offset:
        for value in _offset_inputs(graph):
            found = _offset(calibration, value, scales[value])
            if found is not None:
                scales[value], zero_points[value] = found
    return Scales(scales, zero_points, plan.copies(scales))


@dataclass
class _Plan:
    """What is tied to what, and how low each scale may be; grows until the scales fit."""

    graph: Graph
    calibration: Calibration
    ties: dict[str, str] = field(default_factory=dict)  # value -> value whose scale it shares
    residuals: list[tuple[Port, str, str]] = field(default_factory=list)  # port, result, residual
    copied: dict[Port, tuple[str, str]] = field(default_factory=dict)  # -> value, Concat's result
    apart: set[Port] = field(default_factory=set)  # residuals that are requantised
    floors: dict[str, float] = field(default_factory=dict)
    offset: set[str] = field(default_factory=set)  # roots whose zero is the least integer

    def __post_init__(self) -> None:
        born: set[str] = set()  # float values that come from VTA as integers
        readers = self.graph.consumers()
        for node in self.graph.nodes:
            result = node.outputs[0]
            if node.device == "vta":
                born.update(node.outputs)
                if node.op == "MaxPool" and self._only_pooled(node, readers):
                    self._tie(node.inputs[0], result)
                elif node.op in _KEEP:
                    self._tie(result, node.inputs[0])
                elif node.op == "Concat":
                    self._tie_concat(node, readers)
                elif residual_of(node):
                    self.residuals.append(((node.name, 3), result, node.inputs[3]))
            elif node.op in MOVES and node.inputs[0] in born:
                born.update(node.outputs)
                self._tie(result, node.inputs[0])

    def _only_pooled(self, pool: Node, readers: Mapping[str, tuple[Node, ...]]) -> bool:
        """Whether of the operand only the maxima count, so that their range is what matters.

        Not where the model states the operand's range.
        """
        value = pool.inputs[0]
        alone = readers[value] == (pool,) and value not in self.graph.outputs
        return alone and value in self.calibration.seen

    def _tie_concat(self, node: Node, readers: Mapping[str, tuple[Node, ...]]) -> None:
        """Inputs that have no other way out take the scale of the result."""
        result = node.outputs[0]
        for position, value in enumerate(node.inputs):
            if self._leads_only_here(value, node, readers):
                self._tie(value, result)
            else:
                self.copied[node.name, position] = value, result

    def _leads_only_here(
        self, value: str, node: Node, readers: Mapping[str, tuple[Node, ...]]
    ) -> bool:
        """Whether `node` alone reads `value`, and whatever shares the scale of `value`."""
        if node.inputs.count(value) > 1 or readers[value] != (node,) or value in self.graph.outputs:
            return False
        producer = self.graph.producers().get(value)
        if producer is None or producer.op not in _KEEP:
            return True
        return self._leads_only_here(producer.inputs[0], producer, readers)

    def find_offsets(self) -> None:
        """Find the roots of values that are never negative and never padded."""
        producers, readers = self.graph.producers(), self.graph.consumers()
        positive = non_negative(self.graph)
        barred = set()
        values = dict.fromkeys((*self.calibration.limits, *self.ties))
        for value in values:
            maker, after = producers.get(value), readers.get(value, ())
            made = maker is not None and maker.device == "vta" and value in positive
            taken = all(_takes_offset(one) for one in after)
            if not made or not taken or value in self.graph.outputs:
                barred.add(self.root(value))
        self.offset = {self.root(value) for value in values} - barred

    def root(self, value: str) -> str:
        """The value that stands for all that share the scale of `value`."""
        while value in self.ties:
            value = self.ties[value]
        return value

    def _tie(self, value: str, other: str) -> None:
        value, other = self.root(value), self.root(other)
        if value != other:
            self.ties[value] = other

    def solve(self) -> dict[str, float]:
        """The scale of every value, by the floors and ties as they are."""
        found: dict[str, float] = {}
        for members in self._classes():
            if len(members) == 1:
                found[members[0]] = self._lowest(members[0])
            else:
                found.update(self._in_octaves(members))
        self._make_exact(found)
        values = dict.fromkeys((*self.calibration.limits, *self.ties))
        return {value: found[self.root(value)] for value in values}

    def _classes(self) -> list[list[str]]:
        """Roots in groups whose scales are a power of two apart."""
        values = dict.fromkeys((*self.calibration.limits, *self.ties))
        groups = {root: [root] for root in dict.fromkeys(map(self.root, values))}
        for port, result, residual in self.residuals:
            one, other = groups[self.root(result)], groups[self.root(residual)]
            if port not in self.apart and one is not other:
                one.extend(other)
                groups.update(dict.fromkeys(other, one))
        return list({id(group): group for group in groups.values()}.values())

    def _wanted(self, root: str) -> float:
        steps = self._steps(root)
        return max(self.calibration.limit(root, steps) / steps, _SMALLEST_SCALE)

    def _steps(self, root: str) -> int:
        """Steps between zero and the greatest integer."""
        return HIGHEST - LOWEST if root in self.offset else HIGHEST

    def _lowest(self, root: str) -> float:
        return max(self._wanted(root), self.floors.get(root, 0.0))

    def _in_octaves(self, roots: list[str]) -> dict[str, float]:
        """One base for all, times the power of two that adds the least noise to each."""
        best: dict[str, float] = {}
        least = np.inf
        for position in range(_BASES):
            base = self._wanted(roots[0]) * 2.0 ** (position / _BASES)
            scales, total = {}, 0.0
            for root in roots:
                noise, scales[root] = min(self._octaves(root, base))
                total += noise
            if total < least:
                best, least = scales, total
        return best

    def _octaves(self, root: str, base: float) -> Iterable[tuple[float, float]]:
        """Scales worth a look for a root, each after the noise that it adds."""
        floor = self.floors.get(root, 0.0)
        nearest = int(np.floor(np.log2(max(self._wanted(root), floor) / base)))
        if base * 2.0**nearest < floor:
            nearest += 1
        for power in (nearest, nearest + 1):
            scale = base * 2.0**power
            yield self._noise(root, scale), scale

    def _noise(self, root: str, scale: float) -> float:
        seen = self.calibration.seen.get(root)
        if seen is not None:
            steps = self._steps(root)
            return relative_noise(seen, scale * steps, steps)
        ratio = scale / self._wanted(root)
        return ratio**2 if ratio >= 1 else ratio**-4

    def _make_exact(self, found: dict[str, float]) -> None:
        """Raise free scales a little where that puts a layer's only weight on its grid."""
        layers = device_layers(self.graph)
        made = Counter(self.root(node.outputs[0]) for node in layers)
        fixed = {self.root(value) for _, *pair in self.residuals for value in pair}
        for node in layers:
            root = self.root(node.outputs[0])
            sizes = np.unique(np.abs(self.graph.constants[node.inputs[1]]))
            if len(sizes) > 1 or not sizes[0] or root in fixed or made[root] > 1:
                continue
            ratio = float(sizes[0]) * found[self.root(node.inputs[0])] / found[root]
            steps = ratio * 2.0 ** np.floor(np.log2(WEIGHT_LIMIT / ratio))
            found[root] *= steps / np.floor(steps)

    def raise_floors(self, scales: Mapping[str, float]) -> bool:
        """Note results too fine for their layer's largest weight; whether there were any."""
        raised = False
        for result, needed in self._least_scales(scales):
            root = self.root(result)
            if scales[result] < needed * (1 - 1e-9) and self.floors.get(root, 0.0) < needed:
                self.floors[root] = needed
                raised = True
        return raised

    def _least_scales(self, scales: Mapping[str, float]) -> Iterable[tuple[str, float]]:
        for node in device_layers(self.graph):
            peak = float(np.abs(self.graph.constants[node.inputs[1]]).max(initial=0.0))
            yield node.outputs[0], scales[node.inputs[0]] * peak / WEIGHT_LIMIT
            taken = shortcut_of(node)
            if taken is not None:
                peak = float(np.abs(self.graph.constants[taken[1]]).max(initial=0.0))
                yield node.outputs[0], scales[taken[0]] * peak / (WEIGHT_LIMIT << MOST_SHIFT)
        for value, result in self.copied.values():
            yield result, scales[value] / WEIGHT_LIMIT
        for port, result, residual in self.residuals:
            if port in self.apart:
                yield result, scales[residual] / (WEIGHT_LIMIT << MAX_RESIDUAL_SHIFT)

    def part_residuals(self, scales: Mapping[str, float]) -> bool:
        """Note residuals that cannot meet their result; whether there were any."""
        nodes = {node.name: node for node in self.graph.nodes}
        before = len(self.apart)
        for port, result, residual in self.residuals:
            if port in self.apart:
                continue
            node = nodes[port[0]]
            meeting = Meeting.of(scales[residual], scales[result])
            weight: Array = self.graph.constants[node.inputs[1]]
            room = room_for_fraction(weight, scales[node.inputs[0]], scales[result])
            fits = meeting and meeting.shift <= MAX_RESIDUAL_SHIFT and meeting.fraction <= room
            if not fits:
                self.apart.add(port)
        return len(self.apart) > before

    def copies(self, scales: Mapping[str, float]) -> dict[Port, tuple[float, int]]:
        """Scale and zero point of every requantised copy."""
        found = {
            port: (scales[result], LOWEST if self.root(result) in self.offset else 0)
            for port, (_, result) in self.copied.items()
        }
        for port, result, residual in self.residuals:
            if port in self.apart:
                power = np.ceil(np.log2(scales[residual] / scales[result]))
                power = float(np.clip(power, 0, MAX_RESIDUAL_SHIFT))
                found[port] = scales[result] * 2.0**power, 0
        return found


def _takes_offset(reader: Node) -> bool:
    """Whether a node on VTA takes any zero point of what it reads."""
    if reader.device != "vta" or not _reads_alike(reader):
        return False
    return reader.op not in LAYERS or max(reader.attrs.get("pads", (0,))) <= 0


def _reads_alike(reader: Node) -> bool:
    """Whether all outputs have the same weights, and so the same share of a zero point."""
    return not reader.attrs.get("transposed", False) and SECTIONS not in reader.attrs


def _offset_inputs(graph: Graph) -> list[str]:
    """Inputs of the model that VTA reads as the data of layers and in no other way."""
    readers = graph.consumers()
    found = []
    for value in graph.inputs:
        on_device = [node for node in readers.get(value, ()) if node.device == "vta"]
        layers = device_layers(graph)
        if on_device and all(
            node in layers and node.inputs.count(value) == 1 and node.inputs[0] == value
            and _reads_alike(node)
            for node in on_device
        ):
            found.append(value)
    return found


def _offset(
    calibration: Calibration, value: str, scale: float
) -> tuple[float, int] | None:
    """A scale and a zero point for the whole range of `value`, if that is much finer."""
    seen: Histogram | None = calibration.seen.get(value)
    if seen is None or seen.highest <= seen.lowest:
        return None
    finer = (seen.highest - seen.lowest) / (HIGHEST - LOWEST)
    power = float(seen.counts @ seen.centres**2) / max(float(seen.counts.sum()), 1.0)
    if finer**2 / 12 > _GAIN * relative_noise(seen, scale * HIGHEST) * power:
        return None
    return finer, round(LOWEST - seen.lowest / finer)
