"""How long tuning takes with one process, two, and a Dask cluster; and what it is worth.

    python benchmarks/tune.py [--model NAME] [--trials N] [--target T]

Every run starts from an empty log: nothing shipped, nothing in the user's cache. Ratios are
against one process in the same run; two workers share the machine with whatever else runs on it.
Then the model is compiled with an empty log, with the shipped one, and with what was tuned.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, CompileOptions, compile, prepare
from vtaflow.graph.graph import Graph
from vtaflow.models import BUILDERS
from vtaflow.models.onnx_writer import write_model
from vtaflow.schedules import log_file
from vtaflow.schedules.search import ScheduleLog, lines
from vtaflow.tuning import RANDOM_SAMPLES, Tuning
from vtaflow.workers import Workers, workers

SHIPPED = log_file.SHIPPED
NOTHING = Path(os.devnull)
DRAM_BYTES = 1 << 30

Crew = Callable[[], AbstractContextManager[Workers]]


@contextmanager
def dask() -> Iterator[Workers]:
    """A cluster of two worker processes on this machine."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        with workers(scheduler=cluster.scheduler_address) as crew:
            yield crew


def tuned(graph: Graph, target: Target, trials: int, crew: Crew) -> tuple[float, ScheduleLog]:
    """Seconds of a whole search, starting the workers apart, and what it found."""
    with crew() as made:
        # The first piece of work starts and fills a process; that is not what scales.
        for future in [made.executor.submit(_imported) for _ in range(2 * made.width)]:
            future.result()
        began = time.perf_counter()
        work = Tuning.of(graph, target, ScheduleLog(), trials)
        work.run(made)
        return time.perf_counter() - began, work.log


def _imported() -> None:
    import vtaflow.schedules.trials  # noqa: F401


def compiled(model: Path, target: Target, shipped: Path, log: Path) -> CompiledModel:
    """The model, with these two logs."""
    log_file.SHIPPED = shipped
    return compile(model, target, options=CompileOptions(log=log))


def report(name: str, found: CompiledModel, first: CompiledModel) -> None:
    """One line about a compilation beside the first one."""
    cycles, base = (
        sum(launch["estimated_cycles"] for launch in one.artifact.manifest["launches"])
        for one in (found, first)
    )
    print(f"{name:24}{found.compile_seconds:9.1f} s{cycles:12} cycles{cycles / base:9.4f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18", choices=sorted(dict(BUILDERS)))
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--target", default="pynq")
    options = parser.parse_args(arguments)
    target = replace(Target.load(options.target), dram_bytes=DRAM_BYTES)
    with TemporaryDirectory() as folder:
        model, empty, log = (Path(folder) / name for name in ("m.onnx", "empty.log", "tuned.log"))
        write_model(dict(BUILDERS)[options.model](), model)
        compiling = CompileOptions(random_samples=RANDOM_SAMPLES, bias_correction=False)
        graph = prepare(model, target, None, compiling).integer
        crews: dict[str, Crew] = {
            "1 process": lambda: workers(1),
            "2 processes": lambda: workers(2),
            "Dask, 2 workers": dask,
        }
        print(f"Tuning {options.model} for {options.target}, {options.trials} trials a layer")
        one = 0.0
        decisions = set()
        for name, crew in crews.items():
            seconds, found = tuned(graph, target, options.trials, crew)
            one = one or seconds
            decisions.add("\n".join(lines(found.entries)))
            print(f"{name:24}{seconds:9.1f} s{one / seconds:9.2f} times as fast", flush=True)
        print(f"all decide alike: {len(decisions) == 1}")
        log.write_text(decisions.pop())
        print(f"Compiling {options.model} for {options.target}")
        first = compiled(model, target, NOTHING, empty)
        report("empty log", first, first)
        report("with what was searched", compiled(model, target, NOTHING, empty), first)
        report("shipped log", compiled(model, target, SHIPPED, NOTHING), first)
        report("tuned log", compiled(model, target, NOTHING, log), first)


if __name__ == "__main__":
    main()
