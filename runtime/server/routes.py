"""What can be asked of the server: one table of routes, each with the function that answers.

Public source of the protocol's part: https://github.com/kserve/open-inference-protocol and
Triton's extensions model_repository, binary_tensor_data and statistics. `openapi.json` beside
this module describes the same routes; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.resources import files
from typing import Any

from ... import __version__
from ...errors import FeedError
from ..openinference import DATATYPE_OF, HEADER_LENGTH, header_length, parameters, parse_json
from ..tensors import TensorInfo
from . import metrics, page
from .models import LoadedModel, Reply
from .problems import BAD_REQUEST, UNREADY, Problem
from .state import Server, last_run
from .store import SHA256, Upload

EXTENSIONS = ("model_repository", "binary_tensor_data", "statistics")
PLATFORM = "vtaflow_vta"
DIGEST_HEADER = "X-Content-SHA256"

NAME = "(?P<model>[A-Za-z0-9][A-Za-z0-9_.-]{0,99})"
VERSION = "(?:/versions/(?P<version>[0-9a-f]{1,64}))?"

Json = dict[str, Any]


class Body(Enum):
    """What a route takes as body."""

    CONTROL = "a little JSON, or nothing"
    INFERENCE = "tensors"
    UPLOAD = "an artifact"


@dataclass
class Call:
    """One request as its route sees it; `note` is shown in the log."""

    server: Server
    model: str
    version: str | None
    query: Callable[[str], str | None]
    headers: Mapping[str, str]
    body: bytes
    upload: Upload | None
    note: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """`method` on paths that match `pattern`; `open` ones need no token."""

    method: str
    name: str
    pattern: str
    answer: Callable[[Call], Coroutine[None, None, Answer]]
    body: Body = Body.CONTROL
    open: bool = False


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value, allow_nan=False).encode(), status)


async def live(call: Call) -> Answer:
    """The process answers."""
    return as_json({"live": True})


async def ready(call: Call) -> Answer:
    """Inference requests are taken, and the device can run."""
    fine = call.server.ready and call.server.accelerator.usable
    return as_json({"ready": fine}, 200 if fine else UNREADY)


async def server_metadata(call: Call) -> Answer:
    """What the server is."""
    return as_json({"name": "vtaflow", "version": __version__, "extensions": list(EXTENSIONS)})


async def model_metadata(call: Call) -> Answer:
    """A loaded model's inputs and outputs."""
    model = call.server.model(call.model, call.version)
    return as_json(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": PLATFORM,
            "inputs": [_tensor(one) for one in model.session.get_inputs()],
            "outputs": [_tensor(one) for one in model.session.get_outputs()],
        }
    )


async def model_ready(call: Call) -> Answer:
    """Whether a model is loaded."""
    fine = call.server.model_ready(call.model, call.version)
    return as_json({"name": call.model, "ready": fine}, 200 if fine else UNREADY)


async def infer(call: Call) -> Answer:
    """Run a model."""
    length = header_length(call.headers.get(HEADER_LENGTH), len(call.body))
    reply = await call.server.infer(call.model, call.version, call.body, length)
    timing = reply.timing
    call.note = {
        "samples": str(reply.samples),
        "queue": _ms(timing.queue),
        "packing": _ms(timing.packing),
        "device": _ms(timing.device),
        "unpacking": _ms(timing.unpacking),
    }
    return _reply(reply)


async def intermediate(call: Call) -> Answer:
    """A tensor that VTA kept from the last run."""
    region, run = call.query("region"), call.query("run")
    if region is None or run is None or not (run.isascii() and run.isdigit()) or len(run) > 15:
        raise Problem(BAD_REQUEST, "ask for ?region=NAME&run=NUMBER")
    return _reply(await call.server.intermediate(call.model, call.version, region, int(run)))


async def model_last_run(call: Call) -> Answer:
    """Timing and counters of the last run."""
    return as_json(last_run(call.server.model(call.model, call.version)))


async def model_statistics(call: Call) -> Answer:
    """The statistics extension's numbers."""
    return as_json({"model_stats": [_statistics(call.server.model(call.model, call.version))]})


async def index(call: Call) -> Answer:
    """The repository."""
    only_ready = _control(call).get("ready", False)
    if type(only_ready) is not bool:
        raise FeedError("ready is true or false")
    models = call.server.index()
    return as_json([one for one in models if one["state"] == "READY" or not only_ready])


async def load(call: Call) -> Answer:
    """Put a model on the device."""
    asked = parameters(_control(call), "request")
    sha256 = asked.get("sha256")
    unknown = asked.keys() - {"sha256"}
    if unknown:
        raise FeedError(f"the parameter {min(unknown)[:60]!r} is not supported")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise FeedError("the parameter sha256 has 64 hexadecimal digits")
    await call.server.load(call.model, sha256)
    return as_json({"name": call.model})


async def unload(call: Call) -> Answer:
    """Take a model off the device."""
    _control(call)
    await call.server.unload(call.model)
    return as_json({"name": call.model})


async def upload(call: Call) -> Answer:
    """Keep an artifact as a model."""
    assert call.upload is not None
    stored = await call.server.accept(call.model, call.upload)
    return as_json({"name": stored.name, "sha256": stored.sha256})


async def remove(call: Call) -> Answer:
    """Forget a model."""
    await call.server.remove(call.model)
    return as_json({"name": call.model})


async def status(call: Call) -> Answer:
    """Everything that the status page shows."""
    return as_json(call.server.status())


async def status_page(call: Call) -> Answer:
    """The status page."""
    headers = {"Content-Security-Policy": page.POLICY}
    text = page.render(call.server.status()).encode()
    return Answer(text, content_type="text/html; charset=utf-8", headers=headers)


async def prometheus(call: Call) -> Answer:
    """Metrics."""
    server = call.server
    text = metrics.render(server.counters, server.gauges(), server.host.loaded)
    return Answer(text.encode(), content_type=metrics.CONTENT_TYPE)


async def openapi(call: Call) -> Answer:
    """This table, described."""
    return Answer(openapi_text())


def openapi_text() -> bytes:
    """The description of the REST interface."""
    return files(__package__).joinpath("openapi.json").read_bytes()


_MODEL, _STORED = f"/v2/models/{NAME}{VERSION}", f"/v2/repository/models/{NAME}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "page", "/", status_page),
    Route("GET", "openapi", "/openapi.json", openapi),
    Route("GET", "metrics", "/metrics", prometheus),
    Route("GET", "live", "/v2/health/live", live, open=True),
    Route("GET", "ready", "/v2/health/ready", ready, open=True),
    Route("GET", "server", "/v2/?", server_metadata),
    Route("GET", "status", "/v2/status", status),
    Route("GET", "model", _MODEL, model_metadata),
    Route("GET", "model_ready", f"{_MODEL}/ready", model_ready),
    Route("GET", "statistics", f"{_MODEL}/stats", model_statistics),
    Route("GET", "last_run", f"{_MODEL}/last_run", model_last_run),
    Route("GET", "intermediate", f"{_MODEL}/intermediate", intermediate),
    Route("POST", "infer", f"{_MODEL}/infer", infer, Body.INFERENCE),
    Route("POST", "index", "/v2/repository/index", index),
    Route("POST", "load", f"{_STORED}/load", load),
    Route("POST", "unload", f"{_STORED}/unload", unload),
    Route("PUT", "upload", _STORED, upload, Body.UPLOAD),
    Route("DELETE", "remove", _STORED, remove),
)
"""Every route; patterns match whole paths."""


def _control(call: Call) -> Json:
    """A small JSON body; none is an empty one."""
    return parse_json(call.body, call.server.limits.control) if call.body else {}


def _reply(reply: Reply) -> Answer:
    if reply.length is None:
        return Answer(reply.body)
    headers = {HEADER_LENGTH: str(reply.length)}
    return Answer(reply.body, content_type="application/octet-stream", headers=headers)


def _tensor(tensor: TensorInfo) -> Json:
    """The protocol's description of a tensor; the batch is free."""
    return {
        "name": tensor.name,
        "datatype": DATATYPE_OF[tensor.dtype],
        "shape": [-1, *tensor.sample],
    }


def _statistics(model: LoadedModel) -> Json:
    """One entry of the statistics extension: totals in nanoseconds."""
    total = model.seconds

    def spent(seconds: float) -> Json:
        return {"count": model.runs, "ns": round(seconds * 1e9)}

    whole = total.queue + total.packing + total.device + total.unpacking
    return {
        "name": model.name,
        "version": model.version,
        "inference_count": model.samples,
        "execution_count": model.runs,
        "inference_stats": {
            "success": spent(whole),
            "fail": {"count": 0, "ns": 0},
            "queue": spent(total.queue),
            "compute_input": spent(total.packing),
            "compute_infer": spent(total.device),
            "compute_output": spent(total.unpacking),
        },
        "batch_stats": [],
    }


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}ms"
