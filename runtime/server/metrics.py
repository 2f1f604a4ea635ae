"""Metrics in Prometheus text format: what the server counted, and what it is right now.

Labels come from small fixed sets: routes, status codes, and names of models that are loaded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from .models import LoadedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


class Counters:
    """Requests by route and status; counted by the thread that answers."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.received = self.sent = 0

    def count(self, route: str, status: int, seconds: float, received: int, sent: int) -> None:
        """One request was answered."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds
        self.received += received
        self.sent += sent


def render(
    counters: Counters, gauges: Mapping[str, tuple[str, float]], models: Mapping[str, LoadedModel]
) -> str:
    """The text; `gauges` are name -> (help, value)."""
    lines: list[str] = []
    requests = [
        ({"route": route, "code": str(code)}, float(count))
        for (route, code), count in sorted(counters.requests.items())
    ]
    lines += _family("http_requests_total", "counter", "Requests answered.", requests)
    routes = [({"route": route}, found) for route, found in sorted(counters.seconds.items())]
    lines += _family("http_request_seconds_total", "counter", "Seconds spent on them.", routes)
    numbers = {
        "received_bytes_total": ("Bytes of request bodies.", float(counters.received)),
        "sent_bytes_total": ("Bytes of answers.", float(counters.sent)),
        **gauges,
    }
    for name, (text, value) in numbers.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += _family(name, kind, text, [({}, value)])
    by_model = sorted(models.items())
    for name, text, found in (
        ("inferences_total", "Inference requests run.", [one.runs for _, one in by_model]),
        ("samples_total", "Samples run.", [one.samples for _, one in by_model]),
    ):
        rows = [({"model": key}, float(x)) for (key, _), x in zip(by_model, found, strict=True)]
        lines += _family(name, "counter", text, rows)
    stages = [
        ({"model": key, "stage": stage}, seconds)
        for key, model in by_model
        for stage, seconds in asdict(model.seconds).items()
    ]
    lines += _family("inference_seconds_total", "counter", "Seconds by stage.", stages)
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    """One metric with its help and type."""
    name = f"vtaflow_{name}"
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
        lines.append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:.17g}")
    return lines


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
