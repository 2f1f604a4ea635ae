"""A Dask cluster does the work of processes here, and every byte comes out the same.

What needs no cluster, such as the parts that samples are cut into, is tested without one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow.compiler import compile
from vtaflow.errors import WorkerError
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.spread import Spread
from vtaflow.workers import workers

from .test_cli import Deploy, deploy, refused, write_model

__all__ = ["deploy"]

TIMES = ("seconds", "workers", "compile_seconds", "run_seconds", "cpu_seconds")
NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers in threads."""
    distributed = pytest.importorskip(
        "distributed", reason="distributed is not installed: pip install 'vtaflow[cluster]'"
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://",
        dashboard_address=":0", silence_logs=50,
    ) as made:
        yield made.scheduler_address


def timeless(outcome: Any) -> Any:
    """A result in JSON without what differs from run to run."""
    assert (outcome.code, outcome.err) == (0, "")
    return {key: value for key, value in json.loads(outcome.out).items() if key not in TIMES}


def test_tuning_finds_the_same(deploy: Deploy, cluster: str) -> None:
    arguments = ("tune", "net.onnx", "--trials", "6", "--json", "--log")
    here = timeless(deploy(*arguments, "here.log", "--processes", "1"))
    there = timeless(deploy(*arguments, "there.log", "--scheduler", cluster))
    assert there == here
    logs = [sorted(Path(name).read_text().splitlines()) for name in ("here.log", "there.log")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("artifact", [False, True])
def test_comparing_finds_the_same(deploy: Deploy, cluster: str, artifact: bool) -> None:
    deploy("compile", "net.onnx", "-o", "net.vta")
    arguments = ("compare", "net.onnx", *["net.vta"] * artifact, "--json")
    here = timeless(deploy(*arguments))
    there = timeless(deploy(*arguments, "--scheduler", cluster))
    assert there == here
    assert there["samples"] == 80


def test_what_is_shared_arrives(cluster: str) -> None:
    with workers(scheduler=cluster) as crew:
        assert crew.width == 2
        shared = crew.share(b"12345678")
        assert crew.executor.submit(len, shared).result() == 8


def test_what_goes_wrong_on_a_worker_is_raised_here(cluster: str) -> None:
    with workers(scheduler=cluster) as crew, pytest.raises(ZeroDivisionError):
        crew.executor.submit(divmod, 1, 0).result()


def test_a_worker_with_another_version_is_refused(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtaflow.workers.version", lambda: "0.0.0")
    with pytest.raises(WorkerError, match="has vtaflow 0.0.0"):
        with workers(scheduler=cluster):
            pass


def test_a_cluster_without_workers_is_refused(deploy: Deploy, cluster: str) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0", silence_logs=50
    ) as empty:
        refused(
            deploy("tune", "net.onnx", "--scheduler", empty.scheduler_address), "has no workers"
        )


@pytest.mark.parametrize("address", [NOBODY, "tcp://", "nonsense", "http://127.0.0.1:9"])
@pytest.mark.parametrize("verb", ["tune", "compare"])
def test_a_scheduler_that_does_not_answer(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, verb: str, address: str
) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr("vtaflow.workers.SECONDS", 0.5)
    refused(deploy(verb, "net.onnx", "--scheduler", address), address, "no Dask scheduler answers")


def test_the_extra_is_named_when_it_is_missing(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(deploy("tune", "net.onnx", "--scheduler", NOBODY), "pip install 'vtaflow[cluster]'")


@pytest.mark.parametrize(
    "option", [("--layers",), ("--device", "emulator"), ("--host", "http://h:1")]
)
def test_only_simulators_share_the_work(deploy: Deploy, option: tuple[str, ...]) -> None:
    refused(deploy("compare", "net.onnx", "--scheduler", NOBODY, *option), f"leave {option[0]} out")


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_parts_come_back_in_order(tmp_path: Path, ahead: int) -> None:
    artifact = compile(write_model(tmp_path / "net.onnx")).artifact
    x = np.random.default_rng(2).standard_normal((150, 12)).astype(np.float32)
    done: list[int] = []
    with InferenceSession(artifact) as session, ThreadPoolExecutor(3) as executor:
        (here,) = session.run(None, {"x": x})
        wanted = session.last_run
        spread = Spread(executor, artifact.to_bytes(), ahead)
        (there,) = session.run(None, {"x": x}, done.append, spread)
        found = session.last_run
    assert here.tobytes() == there.tobytes()
    assert len(done) > 1 and sum(done) == 150
    assert wanted is not None and found is not None
    assert (found.counters, found.samples, found.batches) == (wanted.counters, 150, 150)
