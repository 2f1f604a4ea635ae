"""The status page: what a browser shows of the server. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;"
    "color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25em .8em .25em 0;"
    "border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.bad{color:#b00020;font-weight:600}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}"
    "th,td{border-color:#444}}"
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
REFRESH_SECONDS = 5


def render(status: Mapping[str, Any]) -> str:
    """The page for what `GET /v2/status` says."""
    device, queue = status["device"], status["queue"]
    state = escape(device["state"])
    facts = [
        ("device", f"{escape(device['name'])}, target {escape(status['target']['TARGET'])}"),
        ("state", state if device["usable"] else f"<span class=bad>{state}</span>"),
        ("bitstream", escape(device["bitstream"] or "none")),
        ("queue", f"{queue['length']} of {queue['capacity']}"),
        ("failures", f"{device['failures']}, recovered {device['recoveries']} times"),
        ("up", f"{status['uptime_seconds']:.0f} s"),
        ("version", escape(status["version"])),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<meta http-equiv=refresh content={REFRESH_SECONDS}><title>vtaflow</title>"
        f"<style>{STYLE}</style></head><body><h1>vtaflow server</h1>"
        + _table((), facts)
        + "<h2>Models</h2>"
        + _models(status["models"])
        + "<p><a href=/openapi.json>openapi.json</a> &middot; <a href=/metrics>metrics</a> &middot;"
        " <a href=/v2/status>status as JSON</a></p></body></html>"
    )


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    if not models:
        return "<p>None yet: <code>deploy MODEL.onnx --target ... --host ...</code></p>"
    rows = []
    for model in models:
        last = model["last_run"] or {}
        counters = last.get("counters", {})
        rows.append(
            (
                escape(model["name"]),
                escape(model["version"]),
                "loaded" if model["loaded"] else "stored",
                str(model["runs"]),
                *(_milliseconds(last.get(f"{part}_seconds")) for part in _PARTS),
                ", ".join(f"{escape(key)} {value:,}" for key, value in counters.items()),
            )
        )
    titles = ("model", "version", "", "runs", *(f"{part} ms" for part in _PARTS), "counters")
    return _table(titles, rows) + "<p>Times and counters are those of the last run.</p>"


_PARTS = ("queue", "packing", "device", "unpacking")


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of HTML."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td{_numeric(cell)}>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if titles else ''}{body}</table>"


def _numeric(cell: str) -> str:
    return " class=n" if cell.replace(".", "", 1).isdigit() or cell == "-" else ""
