"""`deploy` to a `deploy serve --target emulator` that is a process of its own: every byte right."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vtaflow import cli
from vtaflow.runtime.client import Client

from .boards import MODELS
from .servers import Process, process

THIRD_PARTY = os.environ.get("VTAFLOW_MODELS")
RESIDUAL = ("resnet8_cifar10_mlperftiny", "resnet20_cifar10")
LEAST_LAYERS = {"fashion_mlp": 3, "resnet8_cifar10_mlperftiny": 10, "resnet20_cifar10": 20}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with process(tmp_path_factory.mktemp("board"), "--target", "emulator") as found:
        yield found


def model(stem: str) -> str:
    """The file of a model; the test is skipped where it is not."""
    if stem not in RESIDUAL:
        return str(MODELS / f"{stem}.onnx")
    if THIRD_PARTY is None:
        pytest.skip("VTAFLOW_MODELS names no folder of models")
    return str(Path(THIRD_PARTY) / f"{stem}.onnx")


def deploy(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command that succeeds reports."""
    code = cli.main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize("stem", LEAST_LAYERS)
def test_a_model_is_put_on_the_board_and_compared(
    board: Process, stem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = deploy(capsys, model(stem), "--target", "pynq", "--host", board.url)
    assert found["mismatch"] is None and found["compared_bytes"] == 10 * found["compared_samples"]
    assert found["outputs"] and min(one["sqnr_db"] for one in found["outputs"].values()) > 20
    with Client(board.url) as client:
        assert client.request("GET", f"/v2/models/{stem}/ready").status == 200


@pytest.mark.parametrize("stem", LEAST_LAYERS)
def test_every_layer_is_that_of_the_simulator(
    board: Process, stem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, kept = model(stem), str(tmp_path / f"{stem}.vta")
    deploy(capsys, "compile", path, "--target", "pynq", "--keep-intermediates", "-o", kept)
    found = deploy(capsys, "compare", path, kept, "--host", board.url, "--layers")
    assert len(found["tensors"]) >= LEAST_LAYERS[stem]
    assert all(one["equal"] for one in found["tensors"])


def test_the_same_model_is_sent_once_and_a_restart_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[int] = []
    for ending in ("kill", "terminate"):
        with process(tmp_path, "--target", "emulator") as found:
            if sent:  # it is there, and loaded, before anybody asks for it
                with Client(found.url) as client:
                    assert client.request("GET", "/v2/models/fashion_mlp/ready").status == 200
            for _ in range(2):
                deploy(capsys, model("fashion_mlp"), "--target", "pynq", "--host", found.url)
            sent.append(found.log.read_text().count(" PUT "))
            if ending == "kill":
                found.kill()
    assert sent == [1, 0]
