"""Decisions about schedules: whose count, how a file keeps them, and that none can do harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from vtaflow import compiler
from vtaflow.backend import program
from vtaflow.backend.target import Target
from vtaflow.compiler import CompileOptions, compile
from vtaflow.errors import StreamError
from vtaflow.schedules import search
from vtaflow.schedules.log_file import append, keep, load
from vtaflow.schedules.model import distinct_layers, lower
from vtaflow.schedules.search import Entry, ScheduleLog, known, layer_key, lines, target_key
from vtaflow.schedules.template import Layer
from vtaflow.schedules.trials import templates_of

from . import execution
from .image_layers import ConvCase
from .onnx_models import build

PYNQ = Target.load("pynq")
LEGAL = {"tile_o": 1, "tile_i": 1, "tile_h": 4, "tile_w": 8, "order": "inputs", "bias": "add"}


def layer_of(case: ConvCase | None = None) -> Layer:
    ((layer,),) = distinct_layers((case or ConvCase()).graph(PYNQ)).values()
    return layer


def log_of(entry: Entry, layer: Layer | None = None) -> ScheduleLog:
    log = ScheduleLog()
    log.add(PYNQ, layer or layer_of(), entry)
    return log


def text_of(*entries: Entry) -> str:
    return "\n".join(line for entry in entries for line in lines(log_of(entry).entries))


# --- keys -----------------------------------------------------------------------------------------


def test_simulator_and_board_share_decisions() -> None:
    keys = {name: target_key(Target.load(name)) for name in ("sim", "pynq", "ultra96", "tsim")}
    assert keys["sim"] == keys["pynq"]
    assert len(set(keys.values())) == 3
    slower = replace(PYNQ, timing=replace(PYNQ.timing, read_latency=99))
    assert target_key(slower) != keys["pynq"]


def test_a_layer_is_the_same_whatever_its_numbers() -> None:
    key = layer_key(layer_of())
    assert layer_key(layer_of(ConvCase(seed=5))) == key
    assert layer_key(layer_of(ConvCase(bias=50_000))) == key
    assert layer_key(layer_of(ConvCase(bias=1 << 30))) != key
    assert layer_key(layer_of(ConvCase(strides=(2, 1)))) != key


# --- lines ----------------------------------------------------------------------------------------


def test_a_log_is_read_as_it_was_written() -> None:
    log, again = log_of(Entry(LEGAL, 70, 16, 90)), ScheduleLog()
    again.read("\n".join(lines(log.entries)))
    assert again.entries == log.entries
    assert again.fresh == {}


@pytest.mark.parametrize(
    ("first", "second", "counts"), [((4, 9), (64, 8), 8), ((64, 8), (4, 9), 8), ((4, 9), (4, 8), 8)]
)
def test_more_trials_count_then_the_later_line(
    first: tuple[int, int], second: tuple[int, int], counts: int
) -> None:
    log = ScheduleLog()
    log.read(text_of(*(Entry(LEGAL, cycles, trials) for trials, cycles in (first, second))))
    (entry,) = log.entries.values()
    assert entry.cycles == counts


def test_lines_of_other_versions_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(Entry(LEGAL, 70))
    version, target, layer, *_ = text.split("\t")
    log = ScheduleLog()
    log.read(f'{target}\t{layer}\t70\t{{"tile_n":1}}')  # as it was before versions
    monkeypatch.setattr(search, "VERSION", search.VERSION + 1)
    log.read(text)
    assert log.entries == {}


@settings(max_examples=40)
@given(st.text(st.sampled_from("\t\t\n1{}[]\":,a-#"), max_size=60) | st.text(max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    log = ScheduleLog()
    log.read(text)
    log.read(text_of(Entry(LEGAL, 70)) + "\t" + text)
    log.read(text_of(Entry(LEGAL, 70))[: -len(text) or None] + text)


# --- files ----------------------------------------------------------------------------------------


def test_a_line_that_was_cut_short_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "s.log"
    append(log_of(Entry(LEGAL, 70)), path)
    path.write_bytes(path.read_bytes()[:-9])
    assert load(path).find(PYNQ, layer_of()) is None
    append(log_of(Entry(LEGAL, 71)), path)
    found = load(path).find(PYNQ, layer_of())
    assert found is not None and found.cycles == 71


def test_only_a_file_that_was_asked_for_must_be_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTAFLOW_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    log = log_of(Entry(LEGAL, 70))
    assert load().find(PYNQ, layer_of()) is None
    keep(log)
    assert log.fresh
    with pytest.raises(OSError):
        load(tmp_path)
    with pytest.raises(OSError):
        keep(log, tmp_path)


# --- decisions that do not fit --------------------------------------------------------------------

SMALL = st.integers(-1, 18)
ODD = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.lists(SMALL, max_size=2)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{key: SMALL | ODD for key in ("tile_o", "tile_i", "tile_h", "tile_w")},
    "order": st.sampled_from(("weights", "inputs")) | ODD,
    "bias": st.sampled_from(("gemm", "add", "none")) | ODD,
}
CASES = (
    ConvCase(channels=40, outputs=70),
    ConvCase(channels=36, outputs=48, group=3),
    ConvCase(channels=50, outputs=50, group=50),
    ConvCase(outputs=40, residual=2, n=2, bias=1 << 30),
)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(CASES),
    st.fixed_dictionaries({}, optional={**FIELDS, "tile_x": SMALL}),
)
def test_a_decision_is_legal_or_not_used(case: ConvCase, fields: dict[str, Any]) -> None:
    graph, layer = case.graph(PYNQ), layer_of(case)
    fields = json.loads(json.dumps(fields))
    log = log_of(Entry(fields, 1), layer)
    (template,) = templates_of(layer)
    used = known(template, layer, PYNQ, log)
    lowered = lower(graph, PYNQ, log=log)
    if used is not None:
        schedule = used[0].to_json()
        assert lowered.layers[0].schedule == schedule
        assert all(schedule[key] == value for key, value in fields.items())
    code = program.assemble(PYNQ, lowered.launches, lowered.buffers)
    assert execution.findings(PYNQ, code, graph.inputs) == []


def transposed() -> ModelProto:
    """A convolution whose smallest tiles overflow a token queue."""
    weight = np.random.default_rng(0).standard_normal((20, 9, 3, 3)).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, output_padding=[1, 0]
    )
    return build([node], {"w": weight}, {"x": ("N", 20, 8, 8)})


def test_a_decision_that_breaks_a_rule_does_not_keep_a_model_from_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = tmp_path / "t.onnx", tmp_path / "s.log"
    model.write_bytes(transposed().SerializeToString())
    options = CompileOptions(log=path)
    right = compile(model, "pynq", options=options)
    (layer,) = right.lowered.layers
    ones = dict.fromkeys(("tile_o", "tile_i", "tile_h", "tile_w"), 1)
    smallest = {**ones, "order": "inputs", "bias": "add"}
    text = path.read_text()
    path.write_text(text[: text.index("{")] + json.dumps(smallest) + "\n")
    refused = []
    check = compiler.check

    def watched(*arguments: Any) -> None:
        try:
            check(*arguments)
        except StreamError as error:
            refused.append(str(error))
            raise

    monkeypatch.setattr(compiler, "check", watched)
    again = compile(model, "pynq", options=options)
    assert len(refused) == 1 and "token-overflow" in refused[0]
    assert again.lowered.layers == right.lowered.layers
    compile(model, "pynq", options=options)
    assert len(refused) == 1, "the new decision replaces the other"
