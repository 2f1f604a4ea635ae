"""Tuning: a harder search for schedules than a compilation makes, spread over workers.

Every distinct layer of a model has its best schedules by cost assembled and timed. A layer that
is decided goes to the log at once, so that a search that was broken off continues from there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .backend.target import Target
from .compiler import CompileOptions, prepare
from .errors import ScheduleError
from .graph.graph import Graph, Node
from .graph.passes.fuse_pools import fuse_pools
from .ops import fused_pool
from .ops.types import Array
from .schedules import fusion, log_file
from .schedules.model import distinct_layers
from .schedules.search import (
    Entry,
    ScheduleLog,
    entry_of,
    fastest_first,
    known,
    shortlist,
)
from .schedules.template import Layer
from .schedules.trials import Outline, Ranking, no_tile, rank, settle, templates_of, time_all
from .workers import Workers

CHUNK = 4
"""Trials of one piece of work."""

FINALISTS = 4
"""Schedules that are looked at closely in the end, the default's one of them."""

RANDOM_SAMPLES = 2
"""That stand in for calibration data."""


@dataclass(frozen=True)
class Tuned:
    """What was found for the layers `names`; `searched` now, or earlier.

    Of a pool and the convolution before it both ways are searched; `used` counts the layers that
    a compilation then has.
    """

    names: tuple[str, ...]
    entry: Entry
    searched: bool
    used: int


@dataclass
class Tuning:
    """A model's distinct layers, each group by its nodes, and what is decided about them.

    `graph` is the packed model with pools apart; the groups have both ways. A decision of the log
    counts if it is legal and comes from at least `trials` schedules.
    """

    graph: Graph
    target: Target
    log: ScheduleLog
    trials: int
    groups: list[list[Layer]]
    decided: dict[int, Entry]

    @classmethod
    def of(
        cls, graph: Graph, target: Target, log: ScheduleLog, trials: int, apart: bool = False
    ) -> Tuning:
        """The tuning of a packed graph and of what becomes of it with pools fused.

        `apart` as for schedules.model.lower.
        """

        def fits(before: Graph, pair: tuple[Node, Node], after: Graph, joined: Node) -> bool:
            return fusion.fits(after, joined, target)

        fused = fuse_pools(graph, fits)
        layers = {**distinct_layers(graph, apart), **distinct_layers(fused, apart)}
        groups = list(layers.values())
        found = (_decided(group[0], target, log, trials) for group in groups)
        decided = {index: entry for index, entry in enumerate(found) if entry is not None}
        return cls(graph, target, log, trials, groups, decided)

    @property
    def left(self) -> int:
        """Trials to do."""
        return self.trials * (len(self.groups) - len(self.decided))

    def run(
        self,
        workers: Workers,
        keep: Callable[[], object] = lambda: None,
        progress: Callable[[int], object] = lambda trials: None,
    ) -> list[Tuned]:
        """Decide the other layers. `keep` is called after each, `progress` with trials done.

        Raises NoTileError for a layer that no schedule fits, which shows early, and ScheduleError
        for one whose schedules the checker refuses.
        """
        rest = [index for index in range(len(self.groups)) if index not in self.decided]
        layers = [self.groups[index][0] for index in rest]
        for position, entry in search(layers, self.target, self.trials, workers, progress):
            self.log.add(self.target, layers[position], entry)
            self.decided[rest[position]] = entry
            keep()
        faster = partial(fusion.is_faster, target=self.target, log=self.log)
        used = {_label(node) for node in fuse_pools(self.graph, faster).nodes}
        found = []
        for index, group in enumerate(self.groups):
            names = tuple(_label(one.node) for one in group)
            found.append(
                Tuned(names, self.decided[index], index in rest, len(used.intersection(names)))
            )
        return found


def _label(node: Node) -> str:
    """A layer's name, and that of a pool which it took in."""
    pool = node.attrs.get(fused_pool.NAME)
    return node.name if pool is None else f"{node.name} with {pool}"


def _decided(layer: Layer, target: Target, log: ScheduleLog, trials: int) -> Entry | None:
    """The log's decision if it is legal and comes from enough trials."""
    for template in templates_of(layer):
        legal = known(template, layer, target, log)
        if legal is not None and legal[1].trials >= trials:
            return legal[1]
    return None


def open_tuning(
    model: str | os.PathLike[str],
    target: Target,
    calibration: Mapping[str, Array] | None,
    options: CompileOptions,
    trials: int,
    too_large: Mapping[str, str] | None = None,
) -> tuple[Tuning, Callable[[], None]]:
    """The tuning of an ONNX file with the log of `options`, and what appends to that log.

    `too_large` is that of `compiler.prepare`.

    Without calibration data a few random samples tell the layers: their numbers do not matter.
    Raises a VtaflowError for whatever the user can mend, OSError for a log that is of no use.
    """
    path = options.log or log_file.cache_path()
    log = log_file.load(path)
    log_file.append(log, path)  # an hour's search should not end with a file that cannot be written
    if calibration is None:
        options = replace(options, random_samples=RANDOM_SAMPLES, bias_correction=False)
    graph = prepare(model, target, calibration, options, too_large).integer
    tuning = Tuning.of(graph, target, log, trials, options.keep_intermediates)
    return tuning, partial(log_file.append, log, path)


@dataclass
class _Search:
    """One layer's search: what was ranked, and the cycles found so far by position."""

    layer: Layer
    outline: Outline
    ranking: Ranking = Ranking("", ())
    cycles: dict[int, int] = field(default_factory=dict)

    @property
    def timed(self) -> list[int]:
        """The cycles of all schedules, once they are known."""
        return [self.cycles[index] for index in range(len(self.cycles))]

    def finalists(self) -> tuple[list[int], int]:
        """Positions of the schedules in the order in which they come into question, and how many
        do at first: the fastest and the default, which is the fastest of the first by cost.

        The others follow in case the checker refuses all of those.
        """
        order = fastest_first(self.timed)
        default = fastest_first(self.timed[: shortlist(self.layer)])[0]
        ahead = order[: min(order.index(default), FINALISTS - 1)]
        rest = [one for one in order if one != default and one not in ahead]
        return [*ahead, default, *rest], len(ahead) + 1

    def settled(self, position: int | None, trials: int) -> Entry:
        """The decision, `position` being that of the best among `finalists`."""
        if position is None:
            node = self.layer.node
            raise ScheduleError(
                f"layer {node.name!r} ({node.op}): the checker refuses every schedule tried"
            )
        chosen = self.finalists()[0][position]
        return entry_of(self.layer, self.ranking.schedules, self.timed, chosen, trials)


@dataclass(frozen=True)
class _Work:
    """One piece: the layer's position, what to do, and from which schedule on."""

    index: int
    step: str
    first: int = 0


RANK, TIME, SETTLE = "rank", "time", "settle"
"""Steps of a search: list the schedules, time them in chunks, look at the fastest closely."""


def search(
    layers: Sequence[Layer],
    target: Target,
    trials: int,
    workers: Workers,
    progress: Callable[[int], object],
) -> Iterator[tuple[int, Entry]]:
    """The decision for each layer by its position, as soon as it is known.

    Raises NoTileError. All layers are ranked first, so that this comes before the long work.
    """
    searches = [_Search(layer, Outline.of(layer)) for layer in layers]
    waiting = deque(_Work(index, RANK) for index in range(len(layers)))
    running: dict[Future[Any], _Work] = {}
    # Twice as many pieces as workers: none is idle, and layers still finish one after the other.
    while waiting or running:
        while waiting and len(running) < 2 * workers.width:
            work = waiting.popleft()
            running[_submit(searches[work.index], work, target, trials, workers)] = work
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            work, result = running.pop(future), future.result()
            one = searches[work.index]
            if work.step == SETTLE:
                yield work.index, one.settled(result, trials)
                continue
            progress(_note(one, work, result, trials))
            if work.step == RANK:
                chunks = range(0, len(one.ranking.schedules), CHUNK)
                waiting.extend(_Work(work.index, TIME, first) for first in chunks)
            elif len(one.cycles) == len(one.ranking.schedules):
                waiting.appendleft(_Work(work.index, SETTLE))


def _note(one: _Search, work: _Work, result: Any, trials: int) -> int:
    """Keep what a piece found; the trials that it did, or that there is nothing for.

    Raises NoTileError for a layer without a schedule.
    """
    if work.step == RANK:
        if not result.schedules:
            raise no_tile(one.layer)
        one.ranking = result
        return trials - len(result.schedules)
    one.cycles |= dict(enumerate(result, work.first))
    return len(result)


def _submit(
    one: _Search, work: _Work, target: Target, trials: int, workers: Workers
) -> Future[Any]:
    """Hand a piece out."""
    submit, ranking = workers.executor.submit, one.ranking
    if work.step == RANK:
        return submit(rank, one.outline, target, trials)
    if work.step == TIME:
        some = ranking.schedules[work.first : work.first + CHUNK]
        return submit(time_all, one.outline, target, ranking.template, some)
    order, count = one.finalists()
    some = tuple(ranking.schedules[index] for index in order)
    return submit(settle, one.outline, target, ranking.template, some, count)


def rows(found: Iterable[Tuned]) -> list[dict[str, Any]]:
    """A row for every distinct layer, for reports."""
    return [
        {
            "layer": one.names[0],
            "layers": list(one.names),
            "default_cycles": one.entry.first,
            "tuned_cycles": one.entry.cycles,
            "trials": one.entry.trials,
            "searched": one.searched,
            "used": one.used,
            "schedule": dict(one.entry.schedule),
        }
        for one in found
    ]
