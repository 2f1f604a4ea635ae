"""The client of a vtaflow server: how a session runs a model on a board across the network.

`Client` owns the connection: addresses, the token, retries, and what a failure means for the
user. `RemoteRunner` puts a model on the server and runs samples there. The standard library is
all it needs. The server's side is in `server`, the form of bodies in `openinference`.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from ..backend.artifact import Artifact
from ..backend.target import Target
from ..errors import ArtifactError, DeviceError, FeedError
from ..ops.types import Array
from .bearer import TOKEN_FILE, read_token
from .openinference import DATATYPE_OF, HEADER_LENGTH, decode, encode, header_length, parse_json
from .runner import Record, sample_bytes

DEFAULT_PORT = 8000
HOST_VARIABLE, PORT_VARIABLE = "VTA_RPC_HOST", "VTA_RPC_PORT"

ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0
MAX_ANSWER_BYTES = 512 << 20
VERSION_DIGITS = 12
"""Digits of an artifact's sha256 that are a model's version."""

SAMPLES_AT_ONCE = 64
BUSY = (429, 503)

_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_SCHEMES = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A response: its status, headers by lower-case name, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Unconnected(TimeoutError):
    """No connection within CONNECT_SECONDS."""


class Client:
    """A server at `url`, such as http://192.168.2.99:8000; safe to use from several threads.

    `token` is the secret that the server may want, by default that in the file that
    VTAFLOW_TOKEN_FILE names. Requests that may be sent twice are tried up to `attempts` times,
    with growing pauses. Everything raises DeviceError, one line, where the server is not
    reachable or refuses.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._scheme, self._host, self._port = _place(self.url)
        if token is None and os.environ.get(TOKEN_FILE):
            token = read_token(os.environ[TOKEN_FILE])
        self._token = token
        self._seconds, self._attempts, self._sleep = seconds, attempts, sleep
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """One request, tried again while the server is busy; any status in `accept` is fine."""
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                with self._lock:
                    answer = self._exchange(method, path, body, headers or {})
            except (OSError, http.client.HTTPException) as error:
                if last or not _passing(error):
                    hint = "; deploy serve itself speaks http" if self._scheme == "https" else ""
                    raise DeviceError(
                        f"{self.url}: {_explain(error, self._seconds)}{hint}"
                    ) from None
                wanted = 0.0
            else:
                if answer.status in accept:
                    return answer
                if last or answer.status not in BUSY:
                    raise self._refusal(answer)
                wanted = _retry_after(answer)
            self._sleep(min(max(pause, wanted), LONGEST_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError("unreachable")

    def json(self, method: str, path: str, body: Json | None = None) -> Json:
        """A request with JSON both ways."""
        raw = b"" if body is None else json.dumps(body).encode()
        return self._parsed(self.request(method, path, raw, {"Content-Type": "application/json"}))

    def status(self) -> Json:
        """What the server is: device, target, limits, models."""
        return self.json("GET", "/v2/status")

    def install(self, artifact: Artifact, name: str) -> bool:
        """Load `artifact` as model `name`; whether it had to be sent."""
        load, asked = _path(name) + "/load", {"parameters": {"sha256": artifact.digest}}
        raw = json.dumps(asked).encode()
        if self.request("POST", load, raw, accept=(200, 404)).status == 200:
            return False
        data = artifact.to_bytes()
        self.request("PUT", _path(name), data, {"X-Content-SHA256": artifact.digest})
        self.request("POST", load, raw)
        return True

    def unload(self, name: str) -> None:
        """Take a model off the device; it stays in the server's store."""
        self.request("POST", _path(name) + "/unload")

    def remove(self, name: str) -> None:
        """Take a model off the device and out of the server's store."""
        self.request("DELETE", _path(name))

    def infer(self, model: str, body: bytes, length: int | None) -> tuple[Json, dict[str, Array]]:
        """An inference request as `encode` made it, to `NAME` or `NAME/versions/VERSION`."""
        headers = {"Content-Type": "application/octet-stream"}
        if length is not None:
            headers[HEADER_LENGTH] = str(length)
        answer = self.request("POST", f"/v2/models/{model}/infer", body, headers)
        return self._tensors(answer)

    def intermediate(self, model: str, region: str, run: int) -> Array:
        """A kept intermediate of run number `run`, which must be the model's last one."""
        query = urlencode({"region": region, "run": run})
        answer = self.request("GET", f"/v2/models/{model}/intermediate?{query}")
        return self._tensors(answer)[1][region]

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """One request on the open connection, or a new one."""
        sent = {"Content-Length": str(len(body)), **headers}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection = self._connect()
            try:
                connection.request(method, path, body, sent)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have been refused before it was read: the answer says why
            with connection.getresponse() as response:
                data = response.read(MAX_ANSWER_BYTES + 1)
                if len(data) > MAX_ANSWER_BYTES:
                    raise http.client.HTTPException(f"more than {MAX_ANSWER_BYTES} bytes")
                if response.will_close:
                    self._drop()
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, data)
        except BaseException:
            self._drop()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            made = _SCHEMES[self._scheme](self._host, self._port, timeout=CONNECT_SECONDS)
            try:
                made.connect()
            except TimeoutError:
                raise _Unconnected from None
            made.sock.settimeout(self._seconds)
            made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = made
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _parsed(self, answer: Answer) -> Json:
        try:
            return parse_json(answer.body)
        except FeedError as error:
            raise DeviceError(f"{self.url}: no vtaflow server answers there: {error}") from None

    def _tensors(self, answer: Answer) -> tuple[Json, dict[str, Array]]:
        try:
            length = header_length(answer.headers.get(HEADER_LENGTH.lower()), len(answer.body))
            return decode(answer.body, length, "outputs")
        except FeedError as error:
            raise DeviceError(f"{self.url}: the answer is damaged: {error}") from None

    def _refusal(self, answer: Answer) -> Exception:
        """What a status means for the user."""
        try:
            said = str(parse_json(answer.body).get("error", ""))[:2000]
        except FeedError:
            said = ""
        said = "".join(one if one.isprintable() else " " for one in said)
        said = " ".join(said.split()) or f"HTTP status {answer.status}"
        if answer.status == 401:
            hint = "the token is not the server's" if self._token else "the server wants a token"
            return DeviceError(f"{self.url}: unauthorised: {hint}, give it with --token-file FILE")
        if answer.status in BUSY:
            return DeviceError(f"{self.url}: server busy, tried {self._attempts} times: {said}")
        if answer.status == 400:
            return FeedError(f"{self.url}: {said}")
        return DeviceError(f"{self.url}: {said}")


class RemoteRunner:
    """Runs an artifact on a server (see `Runner`), which keeps it as model `name`.

    `name` is by default the artifact's. Raises DeviceError, also if the server's hardware is not
    what the artifact was compiled for.
    """

    def __init__(self, artifact: Artifact, client: Client, name: str | None = None) -> None:
        self._artifact, self._client = artifact, client
        self.name = model_name(name or artifact.name)
        status = client.status()
        _require_target(artifact, status, client.url)
        self._limit = _limit(status, client.url)
        self.sent = client.install(artifact, self.name)
        self.samples = SAMPLES_AT_ONCE * artifact.batch
        self._model = f"{self.name}/versions/{artifact.digest[:VERSION_DIGITS]}"
        self._run = 0

    def run(self, names: Sequence[str], part: Mapping[str, Array], record: Record) -> list[Array]:
        """The values `names` for the samples in `part`; adds to `record`."""
        return self._all(names, part, record, raw=False)

    def run_raw(
        self, names: Sequence[str], part: Mapping[str, Array], record: Record
    ) -> list[Array]:
        """As `run`, for raw samples, which the server preprocesses."""
        return self._all(names, part, record, raw=True)

    def read(self, region: str) -> Array:
        """A kept intermediate of the last request, as long as nobody else has run the model."""
        return self._client.intermediate(self._model, region, self._run)

    def reload(self) -> None:
        """Put the model on the server again."""
        self.sent = self._client.install(self._artifact, self.name)

    def close(self) -> None:
        """Close the connection. The model stays loaded."""
        self._client.close()

    def _all(
        self, names: Sequence[str], part: Mapping[str, Array], record: Record, raw: bool
    ) -> list[Array]:
        """As many requests as the server's limit on their size asks for."""
        count = len(next(iter(part.values())))
        size = self._fitting(names, part, count)
        rows = []
        for start in range(0, count, size):
            some = {name: array[start : start + size] for name, array in part.items()}
            rows.append(self._one(names, some, record, raw))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def _fitting(self, names: Sequence[str], part: Mapping[str, Array], count: int) -> int:
        """Samples whose request and answer both stay within the server's limit."""
        asked = sum(array.nbytes for array in part.values()) // count
        told = sum(sample_bytes(self._artifact, name) for name in names)
        size = min(count, max(1, self._limit // (max(asked, told) + 1)))
        batch = self._artifact.batch
        return size - size % batch if batch < size < count else size

    def _one(
        self, names: Sequence[str], part: Mapping[str, Array], record: Record, raw: bool
    ) -> list[Array]:
        head = {
            "parameters": {"raw": raw, "statistics": True},
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in names],
        }
        body, length = encode(head, "inputs", _sendable(part), list(part))
        found, tensors = self._client.infer(self._model, body, length)
        told = found.get("parameters")
        if set(names) != set(tensors) or not isinstance(told, dict):
            raise DeviceError(f"{self._client.url}: the answer has other outputs than asked for")
        self._run = int(told.get("run", 0))
        record.counters = {
            key.partition(".")[2]: int(value)
            for key, value in told.items()
            if key.startswith("counter.")
        }
        record.device_seconds += float(told.get("device_seconds", 0))
        record.packing_seconds += float(told.get("packing_seconds", 0))
        record.unpacking_seconds += float(told.get("unpacking_seconds", 0))
        return [tensors[name] for name in names]


def is_url(text: str) -> bool:
    """Whether a device's name is the URL of a server."""
    return text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def server_url(
    host: str | None, environment: Mapping[str, str] | None = None
) -> str | None:
    """The server that `--host` or VTA_RPC_HOST names, as a URL; None if neither does.

    Without a scheme, the port is VTA_RPC_PORT or 8000 unless the host names one. Raises
    DeviceError if that variable is no port.
    """
    environment = os.environ if environment is None else environment
    host = host or environment.get(HOST_VARIABLE)
    if not host or "://" in host:
        return host or None
    port = environment.get(PORT_VARIABLE) or str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise DeviceError(f"{PORT_VARIABLE} is {port!r}, expected a port from 0 to 65535")
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    named = re.fullmatch(r"(\[[^\]]*\]|[^:]*):\d+", host)
    return f"http://{host}" if named else f"http://{host}:{port}"


def model_name(text: str) -> str:
    """The name under which a server keeps the model of a file with that stem."""
    name = re.sub("[^A-Za-z0-9_.-]", "_", text)[:100]
    return name if re.match("[A-Za-z0-9]", name) else f"m{name}"[:100]


def _path(name: str) -> str:
    return f"/v2/repository/models/{quote(name, safe='')}"


def _place(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL; raises DeviceError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DeviceError(f"{url!r} is no server's URL: {error}") from None
    if parts.scheme not in _SCHEMES or not host or parts.path or parts.query or parts.username:
        raise DeviceError(f"{url!r} is no server's URL, expected http://HOST:PORT")
    return parts.scheme, host, port


def _passing(error: Exception) -> bool:
    """Whether the same request may go through a moment later."""
    return not isinstance(error, (TimeoutError, socket.gaierror)) and (
        getattr(error, "errno", None) not in _NO_ROUTE
    )


def _explain(error: Exception, seconds: float) -> str:
    """Why there was no answer, and what to look at."""
    if isinstance(error, socket.gaierror):
        return f"no such host ({error.strerror}): give the board's address in its place"
    if isinstance(error, TimeoutError):
        seconds = CONNECT_SECONDS if isinstance(error, _Unconnected) else seconds
        return f"no answer within {seconds:g} s: is the board on, and the address right?"
    if isinstance(error, ConnectionRefusedError):
        return "refused: no server listens there, start it with: deploy serve --target pynq"
    if getattr(error, "errno", None) in _NO_ROUTE:
        return "no route: is the board on, and in this network?"
    if isinstance(error, ConnectionError):
        return f"the connection was lost ({error or type(error).__name__})"
    if isinstance(error, http.client.HTTPException):
        return f"no vtaflow server answers there ({type(error).__name__}: {str(error)[:100]})"
    return f"cannot be reached ({getattr(error, 'strerror', None) or error})"


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdigit() and len(text) < 5 else 0.0


def _require_target(artifact: Artifact, status: Json, url: str) -> None:
    """Refuse, before anything is sent, what the server's hardware cannot run."""
    try:
        artifact.require_target(Target.from_json(status["target"], url))
    except KeyError:
        raise DeviceError(f"{url}: no vtaflow server answers there") from None
    except ArtifactError as error:
        raise DeviceError(f"{url}: wrong target: {error}") from None


def _limit(status: Json, url: str) -> int:
    """The largest body that the server takes and gives, less what its JSON needs."""
    limits = status.get("limits")
    found = limits.get("body_bytes") if isinstance(limits, dict) else None
    if type(found) is not int or found < 1:
        raise DeviceError(f"{url}: the server does not tell its limits")
    return max(1, found - min(found // 2, 1 << 16))


def _sendable(part: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays in this machine's byte order; raises FeedError for what the protocol lacks."""
    for name, array in part.items():
        if array.dtype.newbyteorder("=").name not in DATATYPE_OF:
            raise FeedError(f"input {name!r}: {array.dtype} cannot be sent")
    return {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        for name, array in part.items()
    }
