"""The status page: what a browser shows of the server. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--panel:#fff;--ink:#1b2430;--soft:#566373;
--line:#dfe4ea;--good:#1a7f4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ground:#14181d;--panel:#1c2229;--ink:#e6ebf1;
--soft:#9aa7b5;--line:#303943;--good:#5cc98d;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 24px 40px}
h1{margin:0;font-size:26px;font-weight:650}
h2{margin:0 0 6px;font-size:17px;font-weight:650}
header p,footer,section>p{margin:4px 0 0;color:var(--soft)}
section{background:var(--panel);border:1px solid var(--line);border-radius:10px;
padding:16px 20px;margin-top:16px;overflow-x:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 24px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:550;text-align:left;vertical-align:bottom}
th,td{padding:5px 18px 5px 0;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
tr:last-child td{border-bottom:0}
.n{text-align:right}td.n{white-space:nowrap}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
code{font-size:13px;font-family:ui-monospace,monospace}
footer{margin-top:18px;font-size:14px}
a{color:inherit}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
REFRESH_SECONDS = 5

_PARTS = ("queue", "packing", "device", "unpacking")


def render(status: Mapping[str, Any]) -> str:
    """The page for what `GET /v2/status` says."""
    models, device = status["models"], status["device"]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<meta http-equiv=refresh content={REFRESH_SECONDS}><title>vtaflow</title>"
        f"<style>{STYLE}</style></head><body><main><header><h1>vtaflow server</h1>"
        f"<p>VTA for target {escape(status['target']['TARGET'])} on device "
        f"{escape(device['name'])}, version {escape(status['version'])}</p></header>"
        f"<section><h2>Device</h2>{_facts(status)}</section>"
        f"<section><h2>Models</h2>{_models(models)}</section>"
        + _counters(models)
        + "<footer><a href=/v2/status>Status as JSON</a> &middot; <a href=/metrics>metrics</a> "
        "&middot; <a href=/openapi.json>description of the interface</a></footer></main></body>"
        "</html>"
    )


def _facts(status: Mapping[str, Any]) -> str:
    """The device and its queue."""
    device, queue = status["device"], status["queue"]
    fine = device["usable"] and status["ready"]
    state = device["state"] if status["ready"] else f"{device['state']}; the server is not ready"
    facts = {
        "State": _word(state, fine),
        "Queue": f"{queue['length']} of {queue['capacity']} requests",
        "Failed runs": f"{device['failures']} (device recovered {_times(device['recoveries'])})",
        "Up": duration(status["uptime_seconds"]),
    }
    if device["bitstream"]:
        facts["Bitstream"] = escape(device["bitstream"])
        facts["sha256"] = f"<code>{escape(device['bitstream_sha256'])}</code>"
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>"


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    """One row a model; one that does not load says why."""
    if not models:
        return "<p>None yet: <code>deploy MODEL.onnx --target ... --host ...</code></p>"
    rows = []
    for model in models:
        last = model["last_run"] or {}
        state = _word("loaded", True) if model["loaded"] else "stored"
        if model["reason"]:
            state += f": {_word(model['reason'], False)}"
        times = [_milliseconds(last.get(f"{part}_seconds")) for part in _PARTS]
        rows.append((
            escape(model["name"]), f"<code>{escape(model['version'])}</code>", state,
            f"{model['runs']:,}", f"{model['samples']:,}", *times,
        ))
    titles = ("model", "version", "state", "requests", "samples", *(f"{p}, ms" for p in _PARTS))
    return _table(titles, rows, 3) + "<p>Times are those of the last request.</p>"


def _counters(models: Iterable[Mapping[str, Any]]) -> str:
    """VTA's counters of every model's last run, one column each."""
    runs = {one["name"]: one["last_run"]["counters"] for one in models if one["last_run"]}
    if not runs:
        return ""
    names = list(dict.fromkeys(name for counters in runs.values() for name in counters))
    rows = [
        (escape(model), *(f"{counters.get(name, 0):,}" for name in names))
        for model, counters in runs.items()
    ]
    titles = ("model", *(escape(name).replace("_", " ") for name in names))
    return (
        f"<section><h2>Counters</h2>{_table(titles, rows, 1)}"
        "<p>Those of one compiled batch in the last request.</p></section>"
    )


def duration(seconds: float) -> str:
    """A time for people: its two largest units."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (whole, "s"))
    first = next((at for at, (value, _) in enumerate(parts) if value), len(parts) - 1)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2])


def _word(text: str, good: bool) -> str:
    return f"<span class={'good' if good else 'bad'}>{escape(text)}</span>"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """Rows of HTML; the columns after the first `words` are numbers."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if at < words else " class=n" for at in range(len(cells))]
        joined = "".join(
            f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{joined}</tr>"

    return f"<table>{row('th', titles)}{''.join(row('td', cells) for cells in rows)}</table>"
