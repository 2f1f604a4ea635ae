"""The server: its routes, who may ask, its limits, its store, its queue, its end."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow import InferenceSession
from vtaflow.errors import DeviceError, FeedError
from vtaflow.runtime.bearer import read_token
from vtaflow.runtime.client import Answer, Client
from vtaflow.runtime.openinference import encode
from vtaflow.runtime.runner import LocalRunner

from .servers import (
    TOKEN,
    Running,
    json_request,
    network,
    process,
    rows,
    serving,
    wait_for,
)

from vtaflow.runtime.server.command import Settings, _token  # isort: skip
from vtaflow.runtime.server.limits import Limits  # isort: skip
from vtaflow.runtime.server.routes import ROUTES, openapi_text  # isort: skip
from vtaflow.runtime.server.store import ModelStore  # isort: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with model `net` loaded, for tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("store")) as running:
        running.client.install(network(), "net")
        yield running


def ask(
    running: Running,
    method: str,
    path: str,
    body: bytes = b"",
    **headers: str,
) -> tuple[int, Any]:
    """Status and JSON of an answer, whatever it is."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = running.client.request(method, path, body, sent, accept=range(100, 600))
    return answer.status, json.loads(answer.body)


def expected(count: int) -> Any:
    with InferenceSession(network()) as session:
        return session.run(None, rows(count))[0]


# --- the protocol ------------------------------------------------------------------------------


def test_health_and_metadata(shared: Running) -> None:
    assert ask(shared, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask(shared, "GET", "/v2/health/ready") == (200, {"ready": True})
    status, found = ask(shared, "GET", "/v2")
    assert status == 200 and found["name"] == "vtaflow"
    assert {"binary_tensor_data", "model_repository"} <= set(found["extensions"])
    status, found = ask(shared, "GET", "/v2/models/net")
    version = network().digest[:12]
    assert (status, found) == (
        200,
        {
            "name": "net",
            "versions": [version],
            "platform": "vtaflow_vta",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 12]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}],
        },
    )
    assert ask(shared, "GET", f"/v2/models/net/versions/{version}")[0] == 200
    assert ask(shared, "GET", f"/v2/models/net/versions/{version}/ready")[0] == 200
    assert ask(shared, "GET", "/v2/models/net/versions/0123456789ab") == (
        404,
        {"error": f"'net' is version {version}, not 0123456789ab"},
    )
    assert ask(shared, "GET", "/v2/models/net/versions/0/ready")[0] == 404
    assert ask(shared, "GET", "/v2/models/other/ready")[0] == 404
    status, found = ask(shared, "POST", "/v2/repository/index", b'{"ready": true}')
    assert found == [{"name": "net", "version": version, "state": "READY", "reason": ""}]


def test_inference_in_json(shared: Running) -> None:
    request = {"id": "seven", **json_request()}
    status, found = ask(shared, "POST", "/v2/models/net/infer", json.dumps(request).encode())
    assert status == 200
    assert (found["id"], found["model_name"]) == ("seven", "net")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, 5])
    assert np.array_equal(np.array(output["data"], np.float32).reshape(1, 5), expected(1))


def test_nested_data_and_binary_data_say_the_same(shared: Running) -> None:
    x = rows(3)
    body, length = encode({"parameters": {"binary_data_output": True}}, "inputs", x, ["x"])
    assert length is not None
    answer = shared.client.request(
        "POST", "/v2/models/net/infer", body, {"Inference-Header-Content-Length": str(length)}
    )
    size = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.body[:size])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 60}
    binary = np.frombuffer(answer.body[size:], "<f4").reshape(3, 5)
    assert np.array_equal(binary, expected(3))
    nested = json_request(shape=[3, 12], data=x["x"].tolist())
    status, found = ask(shared, "POST", "/v2/models/net/infer", json.dumps(nested).encode())
    assert status == 200
    assert np.array_equal(np.array(found["outputs"][0]["data"], "f4"), expected(3).ravel())


def test_what_leaves_the_device_and_statistics_can_be_asked_for(shared: Running) -> None:
    region = InferenceSession(network()).get_device_outputs()[0]
    request = {
        **json_request(),
        "parameters": {"statistics": True},
        "outputs": [{"name": region}, {"name": "y"}],
    }
    status, found = ask(shared, "POST", "/v2/models/net/infer", json.dumps(request).encode())
    assert status == 200
    assert [one["datatype"] for one in found["outputs"]] == ["INT8", "FP32"]
    told = found["parameters"]
    assert told["counter.gemm_counter"] > 0 and told["device_seconds"] > 0
    status, last = ask(shared, "GET", "/v2/models/net/last_run")
    assert (last["run"], last["samples"], last["launches"]) == (told["run"], 1, 1)
    assert last["counters"]["gemm_counter"] == told["counter.gemm_counter"]
    status, found = ask(shared, "GET", "/v2/models/net/stats")
    (stats,) = found["model_stats"]
    assert stats["execution_count"] == told["run"]
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0


X = [0.5] * 12
HUGE = [1e39] + [0.5] * 11

BAD_REQUESTS: list[tuple[Any, str]] = [
    (b"", "not valid JSON"),
    (b"[]", "JSON list, expected an object"),
    (b"{", "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b"[" * 100_000, "nested too deeply|not valid JSON"),
    (b'{"inputs": [{"name": "x", "shape": [NaN]}]}', "NaN is not a JSON number"),
    (b'{"inputs": ' + b"9" * 5000 + b"}", "number of 5000 digits"),
    ({}, "'inputs' is a list of 1 to 256 tensors"),
    ({"inputs": []}, "'inputs' is a list"),
    ({"inputs": [3]}, r"inputs\[0\]: expected an object"),
    (json_request(name=5), r"inputs\[0\].name: expected text"),
    (json_request(shape=[1, 12.0]), "sizes from 1 on"),
    (json_request(shape=[True, 12]), "sizes from 1 on"),
    (json_request(shape=[-1, 12]), "sizes from 1 on"),
    (json_request(shape=[1 << 40, 12]), "sizes from 1 on"),
    (json_request(shape=[1 << 30, 1 << 30]), "expected 1152921504606846976 elements"),
    (json_request(shape=[]), "a list of 1 to 8 sizes"),
    (json_request(datatype="BYTES"), "expected one of BOOL"),
    (json_request(datatype=["FP32"]), "expected one of BOOL"),
    (json_request(data=X[:11]), r"expected 12 elements for the shape \[1, 12\]"),
    (json_request(data=[X, X]), "expected 12 elements"),
    (json_request(data=[X[:6], X[:6]]), "expected 12 elements"),
    (json_request(data=[[*X[:11], [0.5]]]), "an element is no float32"),
    (json_request(data=["a" * 100_000, *X[1:]]), "an element is no float32"),
    (json_request(data=[None, *X[1:]]), "an element is no float32"),
    (json_request(data=[True, *X[1:]]), "an element is no float32"),
    (json_request(data={"a": 1}), "expected 12 elements"),
    (json_request(data=HUGE), "expected finite values, found inf"),
    (json_request(datatype="INT8", data=[1000, *[0] * 11]), "does not fit int8"),
    (json_request(datatype="INT8", data=[0] * 12), r"expected float32\[batch, 12\], found int8"),
    (json_request(datatype="UINT64", data=[1 << 65, *[0] * 11]), "does not fit uint64"),
    (json_request(name="z"), "the model has no input 'z'"),
    (json_request(shape=[12], data=X), r"expected float32\[batch, 12\]"),
    (json_request(parameters={"binary_data_size": 48}), "binary_data_size is 48 for that shape"),
    (json_request(parameters=[]), "parameters is an object"),
    (json_request(parameters={"a": []}), "is no text, number or boolean"),
    ({"inputs": json_request()["inputs"] * 2}, "'x' is there twice"),
    ({**json_request(), "outputs": []}, "outputs is a list of 1 to 256"),
    ({**json_request(), "outputs": [{"name": "z"}]}, "no output 'z', it has y"),
    ({**json_request(), "outputs": [{"name": "y"}] * 2}, "'y' is there twice"),
    ({**json_request(), "outputs": [5]}, r"outputs\[0\] is an object with a name"),
    ({**json_request(), "id": 5}, "id is text"),
    ({**json_request(), "parameters": {"raw": 1}}, "the parameter raw is true or false"),
    (
        {**json_request(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        "classification is not supported",
    ),
]


@pytest.mark.parametrize(("body", "message"), BAD_REQUESTS)
def test_a_bad_request_is_told_so_in_one_line(shared: Running, body: Any, message: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, found = ask(shared, "POST", "/v2/models/net/infer", raw)
    assert (status, list(found)) == (400, ["error"]), found
    assert re.search(message, found["error"]), found
    assert "\n" not in found["error"] and len(found["error"]) < 500


BODY, LENGTH = encode({}, "inputs", rows(1), ["x"])


@pytest.mark.parametrize(
    ("length", "body", "message"),
    [
        ("x", BODY, "is no number"),
        ("-1", BODY, "is no number"),
        ("99999999999", BODY, "is no number of at most"),
        ("0", BODY, "not valid JSON"),
        (str(LENGTH), BODY[:-1], "the body ends before the tensor's 48 bytes"),
        (str(LENGTH), BODY + b"x", "1 bytes follow the last tensor"),
        (None, BODY, "not valid JSON"),
    ],
)
def test_a_bad_binary_body(shared: Running, length: str | None, body: bytes, message: str) -> None:
    headers = {} if length is None else {"Inference_Header_Content_Length": length}
    status, found = ask(shared, "POST", "/v2/models/net/infer", body, **headers)
    assert status == 400 and re.search(message, found["error"]), found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("PUT", "/v2/repository/models/.hidden", 404),
        ("PUT", "/v2/repository/models/a%00b", 404),
        ("PUT", "/v2/repository/models/" + "a" * 101, 404),
        ("PUT", "/v2/repository/models/net", 400),
        ("GET", "/v2/models/net/infer", 405),
        ("DELETE", "/v2/models/net", 405),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/repository/models/none/load", 404),
        ("POST", "/v2/repository/models/none/unload", 404),
        ("DELETE", "/v2/repository/models/none", 404),
        ("GET", "/v2/models/net/intermediate", 400),
        ("GET", "/v2/models/net/intermediate?region=y&run=x", 400),
        ("GET", "/v2/models/net/intermediate?region=y&run=999999", 409),
    ],
)
def test_paths_that_lead_nowhere(shared: Running, method: str, path: str, status: int) -> None:
    found, answer = ask(shared, method, path)
    assert (found, list(answer)) == (status, ["error"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"parameters": {"config": "{}"}}', "'config' is not supported"),
        (b'{"parameters": {"sha256": "../../x"}}', "64 hexadecimal digits"),
        (b'{"parameters": {"sha256": 5}}', "64 hexadecimal digits"),
        (b"[1]", "expected an object"),
    ],
)
def test_bad_loads(shared: Running, body: bytes, message: str) -> None:
    status, found = ask(shared, "POST", "/v2/repository/models/net/load", body)
    assert status == 400 and message in found["error"]


def test_an_unknown_artifact_is_to_be_uploaded(shared: Running) -> None:
    body = json.dumps({"parameters": {"sha256": "0" * 64}}).encode()
    status, found = ask(shared, "POST", "/v2/repository/models/net/load", body)
    assert status == 404 and "upload it" in found["error"]
    assert shared.client.status()["models"][0]["loaded"]


def test_status_page_metrics_and_log(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    line = re.compile(
        r"127.0.0.1 POST /v2/models/net/infer 200 \d+\.\d\dms in=\d+ out=\d+ samples=1 "
        r"queue=\S+ms packing=\S+ms device=\S+ms unpacking=\S+ms"
    )
    with caplog.at_level(logging.INFO, "vtaflow.server"):
        ask(shared, "POST", "/v2/models/net/infer", json.dumps(json_request()).encode())
        wait_for(lambda: any(line.fullmatch(one.message) for one in caplog.records))
    page = shared.client.request("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert "<td>net</td>" in text and "gemm counter" in text and "<script" not in text
    metrics = shared.client.request("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = dict(
        line.rsplit(" ", 1)
        for line in metrics.body.decode().splitlines()
        if not line.startswith("#")
    )
    assert float(samples['vtaflow_http_requests_total{route="infer",code="200"}']) >= 1
    assert float(samples['vtaflow_inference_seconds_total{model="net",stage="device"}']) > 0
    assert samples["vtaflow_queue_length"] == "0" and samples["vtaflow_ready"] == "1"
    assert all(re.fullmatch(r'vtaflow_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})?', k) for k in samples)


def test_the_description_lists_every_route(shared: Running) -> None:
    described = json.loads(openapi_text())
    assert json.loads(shared.client.request("GET", "/openapi.json").body) == described
    found = {(m.upper(), path) for path, methods in described["paths"].items() for m in methods}
    listed = set()
    for route in ROUTES:
        plain = route.pattern.replace("/v2/?", "/v2")
        plain = re.sub(r"\(\?P<model>.*?\}\)", "{model}", plain)
        version = re.search(r"\(\?:/versions/.*?\)\)\?", plain)
        listed.add((route.method, plain.replace(version[0], "") if version else plain))
        if version:
            listed.add((route.method, plain.replace(version[0], "/versions/{version}")))
    assert found == listed


# --- who may ask -------------------------------------------------------------------------------


def test_a_token_is_wanted_everywhere_but_for_health(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN) as running:
        for route in ROUTES:
            path = re.sub(r"\(\?P<model>.*?\}\)", "net", route.pattern.replace("/v2/?", "/v2"))
            path = re.sub(r"\(\?:/versions/.*?\)\)\?", "", path)
            status, found = ask(running, route.method, path)
            assert status == (200 if route.open else 401), route.name
        assert ask(running, "GET", "/nowhere")[0] == 401
        for wrong in ("Bearer x", "Bearer", "Bearer " + TOKEN + "x", "Basic !", "Basic eA=="):
            assert ask(running, "GET", "/v2", Authorization=wrong)[0] == 401
        assert ask(running, "GET", "/v2", Authorization=f"Bearer {TOKEN}")[0] == 200
        with pytest.raises(DeviceError, match="unauthorised: the server wants a token"):
            running.client.status()
        with (
            Client(running.url, "f" * 32) as other,
            pytest.raises(DeviceError, match="the token is not the server's"),
        ):
            other.status()
        client = Client(running.url, TOKEN)
        with InferenceSession(network(), client) as session:
            assert np.array_equal(session.run(None, rows(2))[0], expected(2))


def test_a_browser_gives_the_token_as_a_password(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="vtaflow"'
        import base64

        secret = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        connection.request("GET", "/", headers={"Authorization": f"Basic {secret}"})
        assert connection.getresponse().status == 200
        connection.close()


def test_without_a_token_other_sites_are_refused(shared: Running) -> None:
    """A page in a browser can reach loopback under a name of its own."""
    assert ask(shared, "GET", "/v2", Host="evil.example")[0] == 403
    assert ask(shared, "GET", "/v2", Host="127.0.0.1.evil.example:80")[0] == 403
    assert ask(shared, "GET", "/v2", Origin="http://evil.example")[0] == 403
    host = f"localhost:{shared.port}"
    assert ask(shared, "GET", "/v2", Host=host, Origin=f"http://{host}")[0] == 200


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    for address in ("0.0.0.0", "::", "192.168.2.99"):
        with pytest.raises(DeviceError, match="a token is needed"):
            _token(Settings(bind=address))
    assert _token(Settings(bind="127.0.0.1")) is None
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    with pytest.raises(DeviceError, match="others may read it, chmod 600 it"):
        _token(Settings(bind="0.0.0.0", token_file=str(path)))
    path.chmod(0o600)
    assert _token(Settings(bind="0.0.0.0", token_file=str(path))) == TOKEN


@pytest.mark.parametrize("text", ["", "short", "a b" * 10, "ä" * 20, "x" * 600])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(DeviceError, match="token"):
        read_token(path)
    with pytest.raises(DeviceError, match="cannot read: No such file"):
        read_token(tmp_path / "none")


# --- limits ------------------------------------------------------------------------------------


def test_bodies_are_bounded_before_they_are_read(shared: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=5)
    connection.putrequest("POST", "/v2/models/net/infer")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()  # nothing was sent
    assert answer.status == 413 and "the limit here is" in json.loads(answer.read())["error"]
    connection.close()
    connection.putrequest("PUT", "/v2/repository/models/net")
    connection.putheader("Content-Length", str(1 << 40))
    connection.putheader("X-Content-SHA256", "0" * 64)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    connection.putrequest("POST", "/v2/models/net/infer")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_limits_on_json_answers_and_bodies_held(tmp_path: Path) -> None:
    limits = Limits(json=2000, body=20_000, bodies=20_000)
    with serving(tmp_path, limits=limits) as running:
        running.client.install(network(), "net")
        many = json_request(shape=[40, 12], data=[0.5] * 480)
        status, found = ask(running, "POST", "/v2/models/net/infer", json.dumps(many).encode())
        assert status == 400 and "the limit is 2,000: send tensors as binary" in found["error"]
        body, length = encode({}, "inputs", rows(300), ["x"])
        status, found = ask(running, "POST", "/v2/models/net/infer", body,
                            Inference_Header_Content_Length=str(length))
        assert status == 413 and "the answer could have 36,000 bytes" in found["error"]
        with InferenceSession(network(), running.client) as session:  # the client knows the limit
            assert np.array_equal(session.run(None, rows(3000))[0], expected(3000))
        slow = socket.create_connection(("127.0.0.1", running.port))
        slow.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 19000\r\n\r\nx")
        wait_for(lambda: running.server.held_bytes == 19_000)
        status, found = ask(running, "POST", "/v2/models/net/infer", b"x" * 2000)
        assert status == 429 and "too many requests are arriving" in found["error"]
        slow.close()
        wait_for(lambda: running.server.held_bytes == 0)


def test_slow_and_idle_connections_are_closed(tmp_path: Path) -> None:
    limits = Limits(body_seconds=0.3, idle_seconds=0.3, connections=2)
    with serving(tmp_path, limits=limits) as running:
        address = ("127.0.0.1", running.port)
        slow, idle = socket.create_connection(address), socket.create_connection(address)
        slow.sendall(b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 9\r\n\r\nx")
        third = socket.create_connection(address)
        for one in (third, slow, idle):
            one.settimeout(5)
            assert one.recv(100) == b""
            one.close()
        assert running.client.status()["ready"]


class Gate:
    """Lets a server's runs wait until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.order = threading.Event(), list[float]()
        run = LocalRunner.run

        def waiting(runner: Any, names: Any, part: Any, record: Any) -> Any:
            self.opened.wait(30)
            self.order.append(float(part["x"][0, 0]))
            return run(runner, names, part, record)

        monkeypatch.setattr(LocalRunner, "run", waiting)


def send(running: Running, value: float, found: dict[float, Answer]) -> threading.Thread:
    """Start one request in a thread of its own."""

    def one() -> None:
        client = Client(running.url, attempts=1)
        body = json.dumps(json_request(data=[value] * 12)).encode()
        found[value] = client.request(
            "POST", "/v2/models/net/infer", body, accept=range(100, 600)
        )
        client.close()

    thread = threading.Thread(target=one)
    thread.start()
    return thread


def test_requests_wait_in_order_and_no_more_than_the_queue_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, limits=Limits(queue=4)) as running:
        running.client.install(network(), "net")
        gate = Gate(monkeypatch)
        found: dict[float, Answer] = {}
        threads = []
        for value in range(4):
            threads.append(send(running, value, found))
            wait_for(lambda wanted=value + 1: running.server.queue.length == wanted)
        threads.append(send(running, 9, found))
        wait_for(lambda: 9 in found)
        assert found[9].status == 429
        assert found[9].headers["retry-after"] == "1"
        assert "4 requests are waiting" in json.loads(found[9].body)["error"]
        assert running.client.status()["queue"] == {"length": 4, "capacity": 4}
        with pytest.raises(DeviceError, match="server busy, tried 1 times: busy"):
            running.client.infer("net", json.dumps(json_request()).encode(), None)
        gate.opened.set()
        for thread in threads:
            thread.join(30)
        assert [found[value].status for value in range(4)] == [200] * 4
        assert gate.order == [0, 1, 2, 3]


def test_a_request_that_takes_too_long_is_answered_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, limits=Limits(seconds=0.3)) as running:
        running.client.install(network(), "net")
        gate = Gate(monkeypatch)
        found: dict[float, Answer] = {}
        threads = [send(running, value, found) for value in range(3)]
        for thread in threads:
            thread.join(30)
        assert {answer.status for answer in found.values()} == {504}
        gate.opened.set()
        wait_for(lambda: running.server.queue.length == 0)
        assert len(gate.order) == 1  # who had given up was not run
        gate.order.clear()
        status, _ = ask(running, "POST", "/v2/models/net/infer",
                        json.dumps(json_request()).encode())
        assert status == 200


def test_a_request_of_many_samples_gives_the_device_back(tmp_path: Path) -> None:
    with serving(tmp_path, "emulator", Limits(seconds=0.5)) as running:
        running.client.install(network(), "net")
        body, length = encode({"parameters": {"binary_data_output": True}}, "inputs",
                              rows(20_000), ["x"])
        began = time.monotonic()
        status, _ = ask(running, "POST", "/v2/models/net/infer", body,
                        Inference_Header_Content_Length=str(length))
        assert status == 504
        wait_for(lambda: running.server.queue.length == 0)
        assert time.monotonic() - began < 5


def test_refused_bodies_are_not_kept(shared: Running) -> None:
    for path in ("/nowhere", "/v2/models/net"):
        connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=5)
        connection.request("POST", path, b"x" * 900_000)
        answer = connection.getresponse()
        assert answer.status in (404, 405) and "error" in json.loads(answer.read())
        assert (answer.status == 405) == (answer.headers["Allow"] == "GET")
        connection.close()


def test_who_hangs_up_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as running:
        running.client.install(network(), "net")
        gate = Gate(monkeypatch)
        found: dict[float, Answer] = {}
        thread = send(running, 1, found)
        wait_for(lambda: running.server.queue.length == 1)
        impatient = http.client.HTTPConnection("127.0.0.1", running.port)
        impatient.request("POST", "/v2/models/net/infer", json.dumps(json_request()))
        wait_for(lambda: running.server.queue.length == 2)
        assert impatient.sock is not None
        impatient.close()
        wait_for(lambda: running.server.queue.length == 1)
        gate.opened.set()
        thread.join(30)
        assert found[1].status == 200 and gate.order == [1]


def test_a_stopping_server_finishes_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[float, Answer] = {}
    with serving(tmp_path) as running:
        running.client.install(network(), "net")
        gate = Gate(monkeypatch)
        thread = send(running, 1, found)
        wait_for(lambda: running.server.queue.length == 1)
        running.server.ready = False
        assert ask(running, "GET", "/v2/health/ready") == (503, {"ready": False})
        status, answer = ask(running, "POST", "/v2/models/net/infer",
                             json.dumps(json_request()).encode())
        assert status == 503 and "starting or stopping" in answer["error"]
        threading.Timer(0.3, gate.opened.set).start()
    thread.join(30)
    assert found[1].status == 200


# --- the store ---------------------------------------------------------------------------------


def test_models_survive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        assert running.client.install(network(), "first")
        assert not running.client.install(network(), "first")
        assert not running.client.install(network(), "second")  # same bytes, another name
        assert running.client.install(network((12, 7)), "third")
        running.client.unload("second")
        assert ask(running, "GET", "/v2/models/second/ready") == (
            503,
            {"name": "second", "ready": False},
        )
        running.client.remove("third")
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [
        f"{network().digest}.vta"
    ]
    (tmp_path / "artifacts" / ".0123.tmp").write_bytes(b"half an upload")
    (tmp_path / "models" / "damaged.json").write_bytes(b"{")
    (tmp_path / "models" / "gone.json").write_text('{"sha256": "' + "0" * 64 + '", "loaded": true}')
    with serving(tmp_path) as running:
        index = ask(running, "POST", "/v2/repository/index")[1]
        assert [(one["name"], one["state"]) for one in index] == [
            ("first", "READY"),
            ("second", "UNAVAILABLE"),
        ]
        assert ask(running, "POST", "/v2/repository/index", b'{"ready": true}')[1] == index[:1]
        assert not (tmp_path / "artifacts" / ".0123.tmp").exists()
        with InferenceSession(network(), running.url) as session:  # under its own name
            assert np.array_equal(session.run(None, rows(2))[0], expected(2))


def test_a_model_that_does_not_load_any_more_says_why(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        running.client.install(network(), "net")
    path = tmp_path / "artifacts" / f"{network().digest}.vta"
    path.write_bytes(path.read_bytes()[:-9])
    with serving(tmp_path) as running:
        (found,) = ask(running, "POST", "/v2/repository/index")[1]
        assert found["state"] == "UNAVAILABLE" and "truncated" in found["reason"]
        assert ask(running, "POST", "/v2/repository/models/net/load")[0] == 422
        assert ask(running, "GET", "/v2/health/ready")[0] == 200
        assert "truncated" in running.client.request("GET", "/").body.decode()
        assert running.client.install(network(), "net")  # a client sends it again
        assert not running.client.install(network(), "net")
        running.client.unload("net")
        path.unlink()
        assert running.client.install(network(), "net")


def test_one_server_a_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, 1000, 10)
    with pytest.raises(DeviceError, match="another server uses this store"):
        ModelStore(tmp_path, 1000, 10)
    store.close()
    ModelStore(tmp_path, 1000, 10).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be used as a store"):
        ModelStore(tmp_path / "file" / "x", 1000, 10)


def test_limits_of_the_store_and_of_the_device(tmp_path: Path) -> None:
    size = len(network().to_bytes())
    limits = Limits(store=2 * size, models=2, loaded=1)
    with serving(tmp_path, limits=limits) as running:
        running.client.install(network(), "one")
        with pytest.raises(DeviceError, match="1 models are loaded already: unload one"):
            running.client.install(network(), "two")
        with pytest.raises(DeviceError, match="there are 2 models already: delete one"):
            running.client.install(network(), "three")
        running.client.unload("one")
        running.client.install(network((12, 7)), "one")  # another version in its place
        big = network((12, 200, 5))
        with pytest.raises(DeviceError, match="bytes in use: delete a model"):
            running.client.install(big, "one")
    with (
        serving(tmp_path / "small", limits=Limits(upload=size - 1)) as running,
        pytest.raises(DeviceError, match="the limit for an artifact is"),
    ):
        running.client.install(network(), "one")


def test_another_version_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        with InferenceSession(network(), running.url) as first:
            first.run(None, rows(1))
            InferenceSession(network((12, 7, 5)), running.url).close()
            with pytest.raises(DeviceError, match=r"'net' is version \w{12}, not"):
                first.run(None, rows(1))
            first.reload()
            assert np.array_equal(first.run(None, rows(1))[0], expected(1))


def test_kept_intermediates_are_those_of_the_last_run(tmp_path: Path) -> None:
    artifact = network(keep=True)
    with (
        serving(tmp_path) as running,
        InferenceSession(artifact, running.url) as remote,
        InferenceSession(artifact, running.url) as other,
        InferenceSession(artifact) as local,
    ):
        for session in (remote, local):
            session.run(None, rows(3))
        names = local.get_intermediates()
        assert len(names) > 2
        for name in names:
            assert np.array_equal(remote.read(name), local.read(name))
        other.run(None, rows(1))
        with pytest.raises(DeviceError, match="the last run was 2, not 1: run it again"):
            remote.read(names[0])


# --- the process -------------------------------------------------------------------------------


def test_the_process_ends_well_on_sigterm(tmp_path: Path) -> None:
    with process(tmp_path, "--target", "pynq", "--device", "sim") as found:
        client = Client(found.url)
        client.install(network(), "net")
        client.close()
        found.popen.terminate()
        assert found.popen.wait(20) == 0
        text = found.log.read_text()
    assert "ready: 0 models loaded" in text and "stopping: no new requests" in text
    assert "PUT /v2/repository/models/net 200" in text and "Traceback" not in text


def test_infinite_results_need_binary_data() -> None:
    with pytest.raises(FeedError, match="ask for binary data"):
        encode({}, "outputs", {"y": np.array([np.inf], "f4")}, [])
