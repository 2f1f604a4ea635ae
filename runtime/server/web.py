"""HTTP for the server: who may ask, how much they may send, and one line in the log for each.

The web stack is tornado: it is on every PYNQ image (Jupyter needs it), has no dependencies,
installs without a compiler, and hands over a request before its body, so that a stranger's
body is refused before it is read.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from ...errors import VtaflowError
from .limits import Limits
from .problems import (
    BAD_REQUEST,
    BUSY,
    FORBIDDEN,
    LENGTH_REQUIRED,
    NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    UNAUTHORISED,
    UNREADY,
    Problem,
    status_of,
)
from .routes import DIGEST_HEADER, ROUTES, Answer, Body, Call, Route
from .state import Server
from .store import SHA256, Upload

DRAIN_BYTES = 1 << 20
"""A refused body up to this size is read all the same, so that its sender sees the answer."""

RETRY_SECONDS = 1

log = logging.getLogger("vtaflow.server")


@stream_request_body
class Endpoint(RequestHandler):
    """All methods of one path pattern."""

    def initialize(self, server: Server, token: str | None, routes: Mapping[str, Route]) -> None:
        self._server, self._token, self._routes = server, token, routes
        self._problem: Problem | None = None
        self._upload: Upload | None = None
        self._body = bytearray()
        self._unread = False
        self._held = 0
        self._task: asyncio.Task[Any] | None = None
        self.began = time.perf_counter()
        self.sent = 0
        self.note: Mapping[str, str] = {}

    @property
    def route(self) -> Route | None:
        """The route asked for, if there is one for the method."""
        return self._routes.get(self.request.method or "")

    def set_default_headers(self) -> None:
        self.set_header("Server", "vtaflow")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/json")

    def prepare(self) -> None:
        """Headers are here, the body is not: decide whether it is wanted."""
        try:
            self._admit()
        except Problem as problem:
            self._problem = problem
            if self._announced() > DRAIN_BYTES or problem.status == LENGTH_REQUIRED:
                self._unread = True
                raise

    def data_received(self, chunk: bytes) -> None:
        """A part of the body."""
        if self._problem is not None:
            return
        try:
            if self._upload is not None:
                self._upload.write(chunk)
            else:
                self._body += chunk
        except Problem as problem:
            self._problem = problem
        except OSError as error:
            log.error("upload: %s", error)
            self._problem = Problem(UNREADY, f"the store cannot be written: {error.strerror}")

    async def get(self, **names: str | None) -> None:
        await self._respond(names)

    async def post(self, **names: str | None) -> None:
        await self._respond(names)

    async def put(self, **names: str | None) -> None:
        await self._respond(names)

    async def delete(self, **names: str | None) -> None:
        await self._respond(names)

    def on_finish(self) -> None:
        """Whatever became of it, give back what it held."""
        self._release()

    def on_connection_close(self) -> None:
        """The client went away: what waits is not run any more."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._release()

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Users' mistakes are in the answer; anything else is ours."""
        if not isinstance(value, (VtaflowError, HTTPError)):
            log.error("internal error", exc_info=(kind, value, trace))

    def write_error(self, status_code: int, **details: Any) -> None:
        """Every error is JSON with one field."""
        error = details.get("exc_info", (None, None, None))[1]
        message = self._reason
        if isinstance(error, VtaflowError):
            self.set_status(status_of(error))
            message = " ".join(str(error).split())
        if self.get_status() == UNAUTHORISED:
            scheme = "Basic" if self.request.path == "/" else "Bearer"
            self.set_header("WWW-Authenticate", f'{scheme} realm="vtaflow"')
        if self.get_status() in (BUSY, UNREADY):
            self.set_header("Retry-After", str(RETRY_SECONDS))
        if self.get_status() == NOT_ALLOWED:
            self.set_header("Allow", ", ".join(sorted(self._routes)))
        if self._unread:
            self.set_header("Connection", "close")
        self._end(json.dumps({"error": message}).encode())

    async def _respond(self, names: Mapping[str, str | None]) -> None:
        """The route's answer; a client that has gone away gets none."""
        if self._problem is not None:
            raise self._problem
        route = self.route
        assert route is not None
        call = Call(
            server=self._server,
            model=names.get("model") or "",
            version=names.get("version"),
            query=lambda name: self.get_query_argument(name, None),
            headers=self.request.headers,
            body=bytes(self._body),
            upload=self._upload,
        )
        self._body.clear()
        self._task = asyncio.ensure_future(route.answer(call))
        try:
            answer = await self._task
        except asyncio.CancelledError:
            self._release()
            return
        finally:
            self.note = call.note
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.set_status(answer.status)
        self.set_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        if answer.status == UNREADY:
            self.set_header("Retry-After", str(RETRY_SECONDS))
        self._end(answer.body)

    def _end(self, body: bytes) -> None:
        self.sent = len(body)
        self.finish(body)

    def _admit(self) -> None:
        """Who asks, and how much they announce; raises Problem."""
        route = self.route
        if route is None or not route.open:
            self._authorise()
        if route is None:
            raise self._nowhere()
        if "Transfer-Encoding" in self.request.headers:
            raise Problem(LENGTH_REQUIRED, "say Content-Length; chunked bodies are not taken")
        size, limits = self._announced(), self._server.limits
        connection: Any = self.request.connection
        if route.body is Body.UPLOAD:
            digest = self.request.headers.get(DIGEST_HEADER, "")
            if not SHA256.fullmatch(digest):
                raise Problem(BAD_REQUEST, f"{DIGEST_HEADER} is the artifact's sha256, 64 digits")
            self._upload = self._server.begin_upload(digest, size)
            connection.set_max_body_size(limits.upload)
            connection.set_body_timeout(limits.upload_seconds)
            return
        most = limits.body if route.body is Body.INFERENCE else limits.control
        if size > most:
            raise Problem(TOO_LARGE, f"a body of {size:,} bytes, the limit here is {most:,}")
        if self._server.held_bytes + size > limits.bodies:
            raise Problem(BUSY, "too many requests are arriving at once, try again later")
        self._held = size
        self._server.held_bytes += size

    def _nowhere(self) -> Problem:
        """The path is known, the method is not."""
        allowed = ", ".join(sorted(self._routes))
        return Problem(NOT_ALLOWED, f"{self.request.method} is not for this path, {allowed} is")

    def _authorise(self) -> None:
        """With a token, whoever has it; without one, this machine's own programs."""
        if self._token is None:
            _require_local(self.request.host, self.request.headers.get("Origin"))
            return
        given = _credentials(self.request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            raise Problem(UNAUTHORISED, "a bearer token is needed: Authorization: Bearer TOKEN")

    def _announced(self) -> int:
        """The body's length as the headers tell it."""
        text = self.request.headers.get("Content-Length", "0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 1 << 62

    def _release(self) -> None:
        self._server.held_bytes -= self._held
        self._held = 0
        if self._upload is not None:
            self._server.end_upload(self._upload)
            self._upload = None


class Unknown(Endpoint):
    """Paths that are none."""

    def _nowhere(self) -> Problem:
        return Problem(NOT_FOUND, "there is nothing at this path, see /openapi.json")


class BoundedServer(HTTPServer):
    """An HTTP server that holds a limited number of connections."""

    def initialize(self, *arguments: Any, most: int = 128, **named: Any) -> None:
        super().initialize(*arguments, **named)
        self._most, self._open = most, 0

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        if self._open >= self._most:
            stream.close()
            return
        self._open += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        self._open -= 1
        super().on_close(server_conn)


def http_server(server: Server, token: str | None) -> BoundedServer:
    """The HTTP side of `server`, not listening yet."""
    limits: Limits = server.limits
    by_pattern: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_pattern.setdefault(route.pattern, {})[route.method] = route
    shared = {"server": server, "token": token}
    handlers = [
        (f"{pattern}$", Endpoint, {**shared, "routes": routes})
        for pattern, routes in by_pattern.items()
    ]
    application = Application(
        handlers,
        default_handler_class=Unknown,
        default_handler_args={**shared, "routes": {}},
        log_function=_log,
    )
    return BoundedServer(
        application,
        most=limits.connections,
        max_header_size=16 << 10,
        max_body_size=max(limits.body, limits.control, DRAIN_BYTES),
        body_timeout=limits.body_seconds,
        idle_connection_timeout=limits.idle_seconds,
        chunk_size=1 << 16,
    )


def _log(handler: RequestHandler) -> None:
    """One line a request."""
    assert isinstance(handler, Endpoint)
    request, route = handler.request, handler.route
    seconds = time.perf_counter() - handler.began
    received = int(re.sub("[^0-9]", "", request.headers.get("Content-Length", "")[:15]) or 0)
    name = route.name if route is not None else "other"
    handler._server.counters.count(name, handler.get_status(), seconds, received, handler.sent)
    extra = "".join(f" {key}={value}" for key, value in handler.note.items())
    path = request.path[:200].encode("unicode_escape").decode()
    log.info(
        "%s %s %s %d %.2fms in=%d out=%d%s",
        request.remote_ip, request.method, path, handler.get_status(),
        1000 * seconds, received, handler.sent, extra,
    )


def _credentials(header: str) -> str:
    """The secret in an Authorization header: a bearer token, or a browser's password."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def _require_local(host: str, origin: str | None) -> None:
    """Refuse a web page elsewhere that uses this machine's browser to reach the server."""
    if not is_local(_name(host)):
        raise Problem(FORBIDDEN, "without a token the server is known as localhost only")
    if origin is not None and urlsplit(origin).netloc != host:
        raise Problem(FORBIDDEN, "requests of another site's pages are refused")


def is_local(name: str) -> bool:
    """Whether a host name or address is this machine and nothing else."""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
