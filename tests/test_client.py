"""The client: addresses, retries, what failures say, and a session behind a URL."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow import InferenceSession, cli
from vtaflow.errors import DeviceError, FeedError
from vtaflow.runtime.client import Client, model_name, server_url

from .servers import TOKEN, Running, network, rows, serving, write_network

from vtaflow.runtime.server.limits import Limits  # isort: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("store"), "emulator") as one:
        yield one


# --- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "environment", "url"),
    [
        (None, {}, None),
        (None, {"VTA_RPC_HOST": "board"}, "http://board:8000"),
        (None, {"VTA_RPC_HOST": "board", "VTA_RPC_PORT": "9091"}, "http://board:9091"),
        ("pynq", {"VTA_RPC_HOST": "board"}, "http://pynq:8000"),
        ("pynq", {"VTA_RPC_PORT": "9091"}, "http://pynq:9091"),
        ("pynq:80", {"VTA_RPC_PORT": "9091"}, "http://pynq:80"),
        ("http://pynq", {}, "http://pynq"),
        ("https://pynq:1", {}, "https://pynq:1"),
        ("::1", {}, "http://[::1]:8000"),
        ("[::1]:9", {}, "http://[::1]:9"),
    ],
)
def test_where_the_server_is(host: str | None, environment: dict[str, str], url: str) -> None:
    assert server_url(host, environment) == url


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://a/b", "http://a:99999", "http://[a"])
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(DeviceError, match="is no server's URL"):
        Client(url)


def test_a_port_in_the_environment_that_is_none() -> None:
    for port in ("x", "65536", "-1"):
        with pytest.raises(DeviceError, match=f"VTA_RPC_PORT is '{port}', expected a port"):
            server_url("board", {"VTA_RPC_PORT": port})


def test_a_server_that_never_answers() -> None:
    """It takes connections, says nothing, and is no TLS server either."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DeviceError, match="no answer within 0.2 s: is the board on"):
            Client(f"http://127.0.0.1:{port}", seconds=0.2).status()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vtaflow.runtime.client.CONNECT_SECONDS", 0.2)
            with pytest.raises(DeviceError, match="within 0.2 s.* itself speaks http"):
                Client(f"https://127.0.0.1:{port}").status()


def test_names_that_a_server_takes() -> None:
    assert model_name("resnet-8_v1.0") == "resnet-8_v1.0"
    assert model_name("my net (2)") == "my_net__2_"
    assert model_name("../../etc") == "m.._.._etc"
    assert len(model_name("." * 300)) == 100


# --- failures ----------------------------------------------------------------------------------


class Pauses:
    """Takes note of pauses in place of making them."""

    def __init__(self) -> None:
        self.made: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.made.append(seconds)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_refused() -> None:
    pauses = Pauses()
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(DeviceError, match="refused: no server listens there, start it with"):
        Client(url, sleep=pauses).status()
    assert pauses.made == [0.1, 0.2, 0.4, 0.8, 1.6]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route: is the board on"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route"),
        (socket.gaierror(-2, "Name or service not known"), "no such host"),
        (TimeoutError("timed out"), "no answer within 10 s"),
        (OSError(errno.EACCES, "Permission denied"), "cannot be reached .Permission denied"),
    ],
)
def test_no_way_there(
    monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    pauses = Pauses()
    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(DeviceError, match=message) as caught:
        Client("http://192.168.2.99:8000", sleep=pauses).status()
    assert str(caught.value).startswith("http://192.168.2.99:8000: ")
    assert "\n" not in str(caught.value)
    assert len(pauses.made) == (5 if error.errno == errno.EACCES else 0)


Reply = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def scripted(*replies: Reply) -> Iterator[tuple[str, list[str]]]:
    """A server that answers each request as told, the last way for ever, and notes requests."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(f"{self.command} {self.path}")
            replies[min(len(seen), len(replies)) - 1](self)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(status: int, value: object, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return reply


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def test_busy_is_tried_again_as_the_server_wishes() -> None:
    busy = says(429, {"error": "busy"}, Retry_After="2")
    pauses = Pauses()
    with scripted(busy, says(503, {}), hangs_up, says(200, {"a": 1})) as (url, seen):
        assert Client(url, sleep=pauses).json("GET", "/v2") == {"a": 1}
        assert seen == ["GET /v2"] * 4
    assert pauses.made == [2.0, 0.2, 0.4]


def test_busy_for_ever() -> None:
    with (
        scripted(says(429, {"error": "busy: 32 requests"}, Retry_After="99")) as (url, seen),
        pytest.raises(DeviceError, match="server busy, tried 3 times: busy: 32 requests"),
    ):
        Client(url, attempts=3, sleep=(pauses := Pauses())).status()
    assert len(seen) == 3 and pauses.made == [5.0, 5.0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (says(404, {"error": "no\nsuch \x1b[1mthing"}), ": no such"),
        (says(418, b"<html>"), "HTTP status 418"),
        (says(200, b"<html>"), "no vtaflow server answers there"),
        (says(200, b"[1]"), "no vtaflow server answers there"),
        (says(401, {}), "unauthorised: the server wants a token, give it with --token-file FILE"),
        (says(403, {"error": "not you"}), "not you"),
    ],
)
def test_strange_answers(reply: Reply, message: str) -> None:
    with scripted(reply) as (url, _), pytest.raises(DeviceError, match=message) as caught:
        Client(url).status()
    assert str(caught.value).isprintable()


def test_bad_feeds_are_the_callers_mistake() -> None:
    with scripted(says(400, {"error": "no"})) as (url, _), pytest.raises(FeedError, match="no"):
        Client(url).infer("m", b"", None)


@pytest.mark.parametrize(
    "reply",
    [
        says(200, {"outputs": []}),
        says(200, {"outputs": [{"name": "y", "shape": [9], "datatype": "FP32", "data": [1]}]}),
        says(200, b"xx", Inference_Header_Content_Length="5"),
    ],
)
def test_damaged_tensors(reply: Reply) -> None:
    with scripted(reply) as (url, _), pytest.raises(DeviceError, match="the answer is damaged"):
        Client(url).infer("m", b"", None)


def test_a_server_of_another_kind() -> None:
    with (
        scripted(says(200, {"name": "triton"})) as (url, _),
        pytest.raises(DeviceError, match="no vtaflow server answers there"),
    ):
        InferenceSession(network(), url)
    status = {"target": network().target.to_json()}
    with (
        scripted(says(200, status)) as (url, _),
        pytest.raises(DeviceError, match="does not tell its limits"),
    ):
        InferenceSession(network(), url)


def test_answers_with_other_outputs() -> None:
    good = {"target": network().target.to_json(), "limits": {"body_bytes": 1 << 20}}
    tensor = {"name": "z", "shape": [1], "datatype": "FP32", "data": [1]}
    other = {"outputs": [tensor], "parameters": {}}
    with scripted(says(200, good), says(200, {}), says(200, other)) as (url, _):
        session = InferenceSession(network(), url)
        with pytest.raises(DeviceError, match="other outputs than asked for"):
            session.run(None, rows(1))


# --- a session behind a URL --------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_results_and_surface_as_here(running: Running, batch: int) -> None:
    artifact = network((12, 20, 5), batch=batch, keep=True)
    with (
        InferenceSession(artifact, running.url) as remote,
        InferenceSession(artifact) as local,
    ):
        assert [str(one) for one in remote.get_inputs()] == [str(x) for x in local.get_inputs()]
        assert remote.get_outputs() == local.get_outputs()
        assert remote.get_intermediates() == local.get_intermediates()
        assert remote.preprocessing == local.preprocessing
        names = ["y", *local.get_intermediates()]
        x = rows(7)
        for one, other in zip(remote.run(names, x), local.run(names, x), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)
        assert np.array_equal(remote.read(names[2]), local.read(names[2])[-len(
            remote.read(names[2])):])
        here, there = local.last_run, remote.last_run
        assert here is not None and there is not None
        assert there.counters == here.counters
        assert (there.launches, there.batches, there.samples) == (1, -(-7 // batch), 7)
        assert 0 < there.device_seconds < there.seconds
        with pytest.raises(FeedError, match="no input 'z'"):
            remote.run(None, {"z": x["x"]})


def test_requests_are_cut_to_the_servers_limit(tmp_path: Path) -> None:
    with (
        serving(tmp_path, limits=Limits(body=4000)) as small,
        InferenceSession(network(batch=4), small.url) as remote,
        InferenceSession(network(batch=4)) as local,
    ):
        done: list[int] = []
        found = remote.run(None, rows(300), done.append)
        assert np.array_equal(found[0], local.run(None, rows(300))[0])
        assert sum(done) == 300
        assert small.server.host.loaded["net"].runs > 5


def test_raw_samples_are_preprocessed_on_the_server(tmp_path: Path) -> None:
    from vtaflow.compiler import CompileOptions, compile
    from vtaflow.runtime.preprocessing import Preprocessing

    note = {"x": Preprocessing(scale=1 / 64, mean=(2.0,)).to_json()}
    model = write_network(tmp_path / "net.onnx", (12, 8, 5))
    artifact = compile(model, "pynq", rows(20), CompileOptions(preprocessing=note)).artifact
    raw = np.random.default_rng(0).integers(0, 255, (5, 12), np.uint8)
    with (
        serving(tmp_path / "store") as one,
        InferenceSession(artifact, one.url) as remote,
        InferenceSession(artifact) as local,
    ):
        wanted = local.run(None, {"x": raw.astype(np.float32) / 64 - 2})[0]
        assert np.array_equal(remote.run_raw(None, {"x": raw})[0], wanted)
        assert np.array_equal(remote.run_raw(None, {"x": raw.astype(">u2")})[0], wanted)
        with pytest.raises(FeedError, match="cannot be sent"):
            remote.run_raw(None, {"x": raw.astype(complex)})
        with pytest.raises(FeedError, match="samples have shape"):
            remote.run_raw(None, {"x": raw[:, :5]})


def test_a_token_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    with serving(tmp_path / "store", token=TOKEN) as one:
        monkeypatch.setenv("VTAFLOW_TOKEN_FILE", str(path))
        with InferenceSession(network(), one.url) as session:
            session.run(None, rows(1))
    monkeypatch.setenv("VTAFLOW_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="token file .*none: cannot read"):
        Client("http://board:8000")


# --- the command line --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").touch(0o600)
    (tmp_path / "tok").write_text("0123456789abcdef")
    write_network(tmp_path / "my net.onnx", (12, 20, 5))
    np.savez(tmp_path / "d.npz", calib=rows(32)["x"], test=rows(24, seed=2)["x"])
    (tmp_path / "my net.json").write_text('{"calibration": "d.npz#calib", "test": "d.npz#test"}')
    return tmp_path


def deploy(*arguments: str) -> int:
    return cli.main(list(arguments))


def test_deploy_to_a_server(
    running: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = deploy("my net.onnx", "--target", "pynq", "--host", running.url, "-o", "n.vta")
    out = capsys.readouterr().out
    assert code == 0
    note = f"Ran on {running.url} (device emulator, target pynq), where the model stays loaded"
    assert note in out and "as 'my_net'" in out and "ran on the simulator" not in out
    assert running.client.request("GET", "/v2/models/my_net/ready").status == 200
    assert deploy("run", "n.vta", "--host", running.url, "--input", "d.npz#test", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 24 and found["notes"][0].startswith("Ran on http")
    assert deploy("compare", "my net.onnx", "n.vta", "--host", running.url) == 0
    out = capsys.readouterr().out
    assert "Ran on http" in out and "bytes of 4 samples, all equal to the simulator's" in out


def test_the_reference_systems_variables_name_the_server(
    running: Running,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VTA_RPC_HOST", "127.0.0.1")
    monkeypatch.setenv("VTA_RPC_PORT", str(running.port))
    assert deploy("my net.onnx", "--target", "pynq") == 0
    assert f"Ran on {running.url}" in capsys.readouterr().out
    for arguments in (("--target", "sim"), ("--target", "pynq", "--device", "sim")):
        assert deploy("my net.onnx", *arguments) == 0
        assert "Ran on http" not in capsys.readouterr().out


def test_target_emulator_is_short_for_pynq_on_the_emulator(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy("my net.onnx", "--target", "emulator") == 0
    out = capsys.readouterr().out
    assert "for target pynq" in out and "ran on the simulator" not in out


def test_an_artifact_is_compared_on_its_own_target(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy("compile", "my net.onnx", "--target", "pynq", "-o", "n.vta") == 0
    for device in ("emulator", "sim"):
        assert deploy("compare", "my net.onnx", "n.vta", "--device", device) == 0
        assert ("all equal to the simulator's" in capsys.readouterr().out) == (device != "sim")
    assert deploy("compare", "my net.onnx", "--device", "emulator") == 2
    assert "target 'sim' has design fsim" in capsys.readouterr().err


def test_layers_compared(
    running: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("my net.onnx", "--target", "pynq", "--host", running.url, "--layers")
    assert deploy("compare", *arguments) == 0
    out = capsys.readouterr().out
    assert out.count("equal") == 4 and "DIFFERS" not in out
    assert deploy("compile", "my net.onnx", "--target", "pynq", "-o", "n.vta") == 0
    assert deploy("compare", "n.vta", "--host", running.url, "--layers") == 2
    assert "keeps no layers, compile it with --keep-intermediates" in capsys.readouterr().err


def test_a_layer_that_differs_is_named(
    running: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vtaflow.runtime.faults import Faults

    arguments = ("my net.onnx", "--target", "pynq", "--host", running.url)
    transport: Any = running.server.accelerator.board._transport  # type: ignore[attr-defined]
    transport.faults = Faults(flip_store=0)
    try:
        assert deploy("compare", *arguments, "--layers") == 1
        out = capsys.readouterr().out
        assert "First difference: tensor " in out and "DIFFERS" in out
        assert "Written by instruction " in out and "(gemm0, relu0): STORE" in out
        assert deploy("compare", *arguments, "--layers", "--json") == 1
        found = json.loads(capsys.readouterr().out)
        wrong = [one for one in found["tensors"] if not one["equal"]]
        assert wrong[0]["instruction"]["nodes"] == ["gemm0", "relu0"]
        assert deploy(*arguments) == 1
        assert "deploy: failed: " in capsys.readouterr().err
        assert deploy("compile", *arguments[:3], "-o", "n.vta", "-q") == 0
        assert deploy("compare", arguments[0], "n.vta", *arguments[1:]) == 1
        assert ", as it leaves VTA, " in capsys.readouterr().err
    finally:
        transport.faults = Faults()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("my net.onnx", "--target", "pynq", "--host", "http://a/b"), "is no server's URL"),
        (("my net.onnx", "--host", "x", "--device", "sim"), "leave --device out"),
        (("my net.onnx", "--host", "x", "--token-file", "none"), "token file none: cannot read"),
        (("serve", "--target", "pynq", "--device", "sim", "--port", "x"), "a port from 0 to"),
        (("serve", "--target", "pynq", "--device", "sim", "--bind", "0.0.0.0"), "token is needed"),
        (("serve", "--target", "pynq", "--device", "x"), "there is no device 'x'"),
        (("serve", "--target", "pynq", "--device", "sim", "--inject", "slow=2"), "emulator only"),
        (("serve", "--target", "emulator", "--inject", "nonsense"), "is no fault"),
        (("serve", "--target", "nothing"), "nothing"),
        (("serve", "--target", "pynq", "--device", "sim", "--bitstream", "x"), "no bitstream"),
        (("serve", "--target", "emulator", "--bind", "no.such.host.invalid", "--token-file", "tok"),
         "cannot listen on no.such.host.invalid port 8000: no such address"),
        (("my net.onnx", "--bitstream", "x.bit"), "--bitstream is for --device board"),
        (("my net.onnx", "--host", "x", "--bitstream", "x.bit"), "a server has its own"),
        (("my net.onnx", "--host", "ftp://x"), "'ftp://x' is no server's URL, expected http://"),
    ],
)
def test_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert deploy(*arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_port_in_use(
    running: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(running.port)
    assert deploy("serve", "--target", "emulator", "--port", port, "--store", "s") == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in (
        capsys.readouterr().err
    )


def test_serving_without_the_web_stack(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for name in [one for one in sys.modules if one.startswith("vtaflow.runtime.server.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tornado", None)
    monkeypatch.setitem(sys.modules, "tornado.httpserver", None)
    assert deploy("serve", "--target", "emulator") == 2
    assert "deploy serve needs tornado: pip install 'vtaflow[serve]'" in capsys.readouterr().err


