"""Workers: where independent pieces of work run: this process, processes here, a Dask cluster.

All take work by the interface of concurrent.futures, so that nothing else knows which it is.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

from . import __version__
from .errors import WorkerError

SECONDS = 10
"""How long a scheduler may take to answer."""


@dataclass(frozen=True)
class Workers:
    """An executor and how many pieces it works on at a time.

    `share` takes a value that many pieces need to where they run; what it returns is their
    argument.
    """

    executor: Executor
    width: int
    share: Callable[[Any], Any] = lambda value: value


def workers(
    processes: int | None = None, scheduler: str | None = None
) -> AbstractContextManager[Workers]:
    """Those of the Dask cluster at `scheduler`, else `processes` here (default: one a CPU).

    Raises WorkerError if the cluster cannot be used, or if workers die.
    """
    return _cluster(scheduler) if scheduler else _local(processes or os.cpu_count() or 1)


@contextmanager
def _local(processes: int) -> Iterator[Workers]:
    if processes == 1:
        yield Workers(_Inline(), 1)
        return
    # A forked child may hang on a lock that another thread held, so processes start afresh.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _ignore_interrupts)
    try:
        yield Workers(pool, processes)
    except BrokenExecutor as error:
        raise WorkerError(f"a worker process ended: {error}") from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Inline(Executor):
    """Does the work at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the one that owns the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _cluster(address: str) -> Iterator[Workers]:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise WorkerError(
            "a Dask cluster needs distributed: pip install 'vtaflow[cluster]'"
        ) from None
    try:
        _knock(address)
        client = Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(f"{address}: no Dask scheduler answers: {error}") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise WorkerError(f"{address}: the Dask scheduler has no workers")
        _require_version(client, address)
        executor = client.get_executor(pure=False)
        try:
            yield Workers(executor, threads, lambda value: client.scatter(value, broadcast=True))
        finally:
            executor.shutdown(wait=False)


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless something listens there: cheaper than a client of Dask."""
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise ValueError("an address is tcp://HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), SECONDS).close()


def _require_version(client: Any, address: str) -> None:
    """Raise WorkerError unless every worker has this very vtaflow."""
    try:
        found = client.run(version)
    except ModuleNotFoundError as error:
        raise WorkerError(f"{address}: a worker lacks {error.name}") from None
    for worker, other in found.items():
        if other != __version__:
            raise WorkerError(f"{worker} has vtaflow {other}, this is {__version__}")


def version() -> str:
    """That of the process that is asked."""
    return __version__
