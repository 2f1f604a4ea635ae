"""Servers for tests: in a thread of this process, or as a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tornado", reason="the server needs tornado: pip install 'vtaflow[serve]'")

from tornado.netutil import bind_sockets

from vtaflow.backend.artifact import Artifact
from vtaflow.backend.target import Target
from vtaflow.compiler import CompileOptions, compile
from vtaflow.ops.types import Array
from vtaflow.runtime.client import Client
from vtaflow.runtime.server.accelerator import Accelerator, open_accelerator
from vtaflow.runtime.server.limits import Limits
from vtaflow.runtime.server.state import Server
from vtaflow.runtime.server.web import http_server

TOKEN = "0123456789abcdef0123456789abcdef"


def write_network(path: Path, widths: tuple[int, ...]) -> Path:
    """An ONNX file x -> Gemm, Relu, Gemm ... -> y with seeded weights."""
    random = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        last = index == len(widths) - 2
        weight = random.standard_normal((outputs, inputs)) / inputs**0.5
        bias = random.standard_normal(outputs) / 9
        tensors += [
            numpy_helper.from_array(weight.astype("f4"), f"w{index}"),
            numpy_helper.from_array(bias.astype("f4"), f"b{index}"),
        ]
        made = "y" if last else f"h{index}"
        names = [value, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Gemm", names, [made], f"gemm{index}", transB=1))
        value = made
        if not last:
            nodes.append(helper.make_node("Relu", [made], [f"r{index}"], f"relu{index}"))
            value = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", widths[-1]])],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@cache
def network(
    widths: tuple[int, ...] = (12, 20, 5), target: str = "pynq", batch: int = 1, keep: bool = False
) -> Artifact:
    """A small compiled network with input x and output y."""
    options = CompileOptions(keep_intermediates=keep, batch=batch)
    samples = np.random.default_rng(0).standard_normal((32, widths[0])).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = write_network(Path(folder) / "net.onnx", widths)
        return compile(path, target, samples, options).artifact


def rows(count: int, features: int = 12, seed: int = 1) -> dict[str, Array]:
    """Samples for `network`."""
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((count, features)).astype(np.float32)}


@dataclass
class Running:
    """A server in a thread: where it is, and its inside."""

    url: str
    server: Server
    loop: asyncio.AbstractEventLoop
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.url, attempts=1)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(
    folder: Path,
    accelerator: Accelerator | str = "sim",
    limits: Limits | None = None,
    token: str | None = None,
) -> Iterator[Running]:
    """A server for target pynq that listens on loopback, ready."""
    limits = limits or Limits()
    if isinstance(accelerator, str):
        accelerator = open_accelerator(accelerator, Target.load("pynq"), limits)
    server = Server(accelerator, folder, limits)
    ready = threading.Event()
    found: list[Running] = []
    stop = asyncio.Event()

    async def live() -> None:
        http = http_server(server, token)
        sockets = bind_sockets(0, "127.0.0.1")
        http.add_sockets(sockets)
        await server.start()
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        found.append(Running(url, server, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        http.stop()
        await server.stop()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(http.close_all_connections(), 5)

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        found[0].client.close()
        found[0].loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


@dataclass
class Process:
    """A server as `deploy serve` starts it."""

    url: str
    popen: subprocess.Popen[str]
    log: Path

    def kill(self) -> None:
        """End it as a power failure would."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(30)


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    """`deploy serve` on a free port of loopback, with its store in `folder`."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "vtaflow", "serve", "--port", "0", *options]
    command += ["--store", str(folder / "store")]
    with open(log, "w") as stream:
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, text=True, env=dict(os.environ)
        )
    try:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        match = re.search(r" on (http://\S+)", line)
        assert match, line + log.read_text()
        yield Process(match[1], popen, log)
    finally:
        popen.terminate()
        try:
            popen.wait(30)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait(30)
        if popen.stdout is not None:
            popen.stdout.close()


def json_request(features: int = 12, **changes: Any) -> dict[str, Any]:
    """A legal inference request in JSON."""
    x = rows(1, features)["x"]
    tensor = {"name": "x", "shape": [1, features], "datatype": "FP32", "data": x[0].tolist()}
    return {"inputs": [{**tensor, **changes}]}


def wait_for(condition: Callable[..., bool], seconds: float = 10) -> None:
    """Return once `condition` holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
