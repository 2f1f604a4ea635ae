"""Ships schedule decisions: tunes well-known networks and writes schedules/shipped.log anew.

    python -m vtaflow.ship_schedules [MODEL.onnx ...] [--trials N] [--processes P]

Networks are those of `vtaflow.models`, built or trained, and any others that are named. Nothing
that was decided before counts, so the same command gives the same file. Run it when templates or
timing change, after raising `VERSION` in schedules/search.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from .backend.target import Target
from .compiler import CompileOptions, moving_to_host, prepare
from .models import BUILDERS
from .models.onnx_writer import write_model
from .schedules.log_file import SHIPPED
from .schedules.search import ScheduleLog, lines
from .tuning import RANDOM_SAMPLES, Tuning
from .workers import Workers, workers

TRIALS = 16
TARGET = "pynq"
DRAM_BYTES = 1 << 30
"""Enough for every network; schedules do not depend on it."""

MODELS = Path(__file__).parent / "models"
HEADING = "# Written by python -m vtaflow.ship_schedules: " \
          "version, target, layer, trials, default cycles, cycles, schedule\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune everything, then write the file."""
    parser = argparse.ArgumentParser(prog="python -m vtaflow.ship_schedules")
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N")
    parser.add_argument("--processes", type=int, metavar="P")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED, metavar="FILE")
    options = parser.parse_args(arguments)
    log = ScheduleLog()
    with TemporaryDirectory() as folder, workers(options.processes) as crew:
        for path in (*_own(Path(folder)), *options.models):
            _tune(path, log, options.trials, crew)
    options.output.write_text(HEADING + "".join(f"{line}\n" for line in lines(log.entries)))


def _own(folder: Path) -> Iterator[Path]:
    """The networks of vtaflow.models, those of BUILDERS written to `folder`."""
    for name, build in BUILDERS:
        path = folder / f"{name}.onnx"
        write_model(build(), path)
        yield path
    yield from sorted(MODELS.glob("*.onnx"))


def _tune(path: Path, log: ScheduleLog, trials: int, crew: Workers) -> None:
    """Add the decisions of one network."""
    target = replace(Target.load(TARGET), dram_bytes=DRAM_BYTES)
    options = CompileOptions(random_samples=RANDOM_SAMPLES, bias_correction=False)

    def attempt(too_large: Mapping[str, str]) -> None:
        graph = prepare(path, target, None, options, too_large).integer
        tuning = Tuning.of(graph, target, log, trials)
        with tqdm(total=tuning.left, desc=path.stem) as bar:
            tuning.run(crew, progress=bar.update)

    moving_to_host(attempt)


if __name__ == "__main__":
    main()
