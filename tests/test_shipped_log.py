"""The decisions that ship: readable, small, legal, and made by the templates as they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtaflow import ship_schedules
from vtaflow.backend.target import Target
from vtaflow.compiler import CompileOptions, prepare
from vtaflow.schedules.log_file import SHIPPED
from vtaflow.schedules.model import distinct_layers
from vtaflow.schedules.search import SHORTLIST, ScheduleLog, known, layer_key, measure
from vtaflow.schedules.trials import templates_of
from vtaflow.tuning import RANDOM_SAMPLES

from .test_tuning import write_net

OWN = Path(__file__).parent.parent / "models"
PYNQ = Target.load("pynq")
AGAIN = "run python -m vtaflow.ship_schedules again, and see VERSION in schedules/search.py"


def shipped() -> ScheduleLog:
    log = ScheduleLog()
    log.read(SHIPPED.read_text(encoding="utf-8"))
    return log


def test_every_line_is_a_decision_of_this_version() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    assert len(shipped().entries) == len(lines) - 1 > 100, AGAIN
    assert lines[0].startswith("#")
    assert SHIPPED.stat().st_size < 300_000


def test_they_come_from_more_than_a_compilation_tries() -> None:
    for (_, layer), entry in shipped().entries.items():
        assert entry.trials > SHORTLIST, layer
        assert entry.cycles <= entry.first, layer


@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_mlp_odd", "fashion_resnet"])
def test_they_take_the_cycles_that_they_say(name: str) -> None:
    options = CompileOptions(random_samples=RANDOM_SAMPLES, bias_correction=False)
    graph = prepare(OWN / f"{name}.onnx", PYNQ, None, options).integer
    for (layer, *_) in distinct_layers(graph).values():
        (template,) = templates_of(layer)
        found = known(template, layer, PYNQ, shipped())
        assert found is not None, f"{layer_key(layer)}: {AGAIN}"
        schedule, entry = found
        assert measure(template, layer, schedule, PYNQ) == entry.cycles, AGAIN


def test_the_command_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship_schedules, "BUILDERS", ())
    monkeypatch.setattr(ship_schedules, "MODELS", tmp_path / "own")
    model, outputs = write_net(tmp_path / "net.onnx"), [tmp_path / "a", tmp_path / "b"]
    for output in outputs:
        arguments = (str(model), "--trials", "2", "--processes", "1", "-o", str(output))
        ship_schedules.main(arguments)
    first, second = (output.read_text() for output in outputs)
    assert first == second
    assert len(first.splitlines()) == 3
