"""The server as a process: what it is told, where it listens, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tornado.httpserver import HTTPServer

from ...backend.target import Target
from ...errors import DeviceError
from ..bearer import read_token
from ..client import DEFAULT_PORT
from ..faults import Faults
from .accelerator import Accelerator, open_accelerator
from .limits import Limits
from .state import Server
from .web import http_server, is_local

LOOPBACK = "127.0.0.1"

log = logging.getLogger("vtaflow.server")


@dataclass(frozen=True)
class Settings:
    """What `deploy serve` is told; port 0 takes any free one, `faults` are for the emulator."""

    target: str = "pynq"
    device: str = "board"
    bind: str = LOOPBACK
    port: int = DEFAULT_PORT
    token_file: str | None = None
    store: str | None = None
    bitstream: str | None = None
    faults: str = ""
    limits: Limits = field(default_factory=Limits)


def default_store() -> Path:
    """Where models are kept: $XDG_DATA_HOME/vtaflow/models, or ~/.local/share/vtaflow/models."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(home) / "vtaflow" / "models"


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told the address. Raises DeviceError."""
    with _log_to_stderr():
        asyncio.run(_serve(settings, say))


async def _serve(settings: Settings, say: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running(settings) as (server, url):
        say(url)
        await server.start()
        log.info("ready: %d models loaded", len(server.host.loaded))
        await stopped.wait()
        log.info("stopping: no new requests, %d under way", server.queue.length)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Server, str]]:
    """A server that listens, and its URL; `start` it to make it ready."""
    token = _token(settings)
    accelerator = _accelerator(settings)
    try:
        folder = Path(settings.store) if settings.store else default_store()
        server = Server(accelerator, folder, settings.limits)
    except BaseException:
        accelerator.close()
        raise
    http = http_server(server, token)
    try:
        port = _listen(http, settings)
        shown = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        yield server, f"http://{shown}:{port}"
    finally:
        server.ready = False
        http.stop()
        await server.stop()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(http.close_all_connections(), 5)


def _listen(http: HTTPServer, settings: Settings) -> int:
    """Listen; the port. Raises DeviceError."""
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    try:
        listening = socket.create_server((settings.bind, settings.port), family=family)
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else "no such address"
        raise DeviceError(
            f"cannot listen on {settings.bind} port {settings.port}: {reason}"
        ) from None
    listening.setblocking(False)
    http.add_socket(listening)
    return int(listening.getsockname()[1])


def _accelerator(settings: Settings) -> Accelerator:
    faults = Faults.parse(settings.faults) if settings.faults else None
    if faults is not None and settings.device != "emulator":
        raise DeviceError("faults can be injected into the emulator only")
    if settings.bitstream is not None and settings.device == "sim":
        raise DeviceError("a simulator takes no bitstream: leave --bitstream out")
    target = Target.load(settings.target)
    return open_accelerator(
        settings.device, target, settings.limits, settings.bitstream, faults
    )


def _token(settings: Settings) -> str | None:
    """The token, which everything but loopback needs."""
    if settings.token_file is not None:
        return read_token(settings.token_file, private=True)
    if not is_local(settings.bind):
        raise DeviceError(
            f"--bind {settings.bind} lets other machines in, so a token is needed: "
            "(umask 077; openssl rand -hex 32 > token) and --token-file token"
        )
    return None


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """One line an event, with the time, meanwhile."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("vtaflow.server", "tornado")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
