"""A profile as one HTML page that needs nothing else: no network, no other file.

Charts are plotly's, whose script is part of the page; tables repeat their numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..backend.artifact import write_whole
from ..errors import DataError
from .activity import BUSY
from .palette import LIMITS
from .profile import Profile

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Json = Mapping[str, Any]

CONFIG = {"displayModeBar": False, "responsive": True}

TITLES = {
    "bars": (
        "Where the time goes",
        "Cycles of each layer by what the compute module did or waited for. The upright mark is "
        "the layer's lower bound: what compute, weight load, input load or store alone would take.",
    ),
    "timeline": (
        "Timeline",
        "What the three modules do. Where a band is empty, the module waits for a neighbour's "
        "token. Drag to zoom in, down to single instructions; double-click to zoom out.",
    ),
    "roofline": (
        "Roofline",
        "Speed of every layer over the DRAM traffic that it causes. The area of a point is its "
        "share of the time, its colour what limits it.",
    ),
}


def write_page(found: Profile, path: str | os.PathLike[str]) -> None:
    """Write the page completely or not at all. Raises DataError, also where plotly is missing."""
    text = page(found).encode()
    try:
        write_whole(path, lambda stream: stream.write(text))
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot write: {error.strerror or error}") from None


def page(found: Profile) -> str:
    """The page's HTML. Raises DataError if plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs

        from . import charts
    except ModuleNotFoundError as error:
        raise DataError(
            f'the page needs {error.name}: install it with pip install "vtaflow[report]"'
        ) from None
    report = found.report
    figures = {
        "bars": charts.layer_bars(report),
        "timeline": charts.timeline(found),
        "roofline": charts.roofline(report),
    }
    parts = [
        _header(report),
        *(_chart(name, figure) for name, figure in figures.items()),
        _section("Layers", _layer_note(report), _layers(report)),
        _section("Modules", "Shares of all cycles.", _modules(report)),
        *_host(report),
        *_placement(report),
        _footer(),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report['model'])} on {escape(report['target'])}: profile</title>",
            f"<style>\n{_file('page.css')}</style>",
            f"<script>{get_plotlyjs()}</script>",
            "</head>\n<body>\n<main>",
            *parts,
            "</main>",
            f"<script>var TIMELINE = {_json(charts.timeline_data(found))};",
            f"{_file('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


def _json(value: object) -> str:
    """JSON that may stand in a script: nothing in it ends the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _header(report: Json) -> str:
    port = "one shared memory port" if report["shared_port"] else "a memory port for each reader"
    cards = [
        (f"{report['ms']:.3f} ms", f"on VTA, batch {report['batch']}"),
        (f"{1000 * report['batch'] / report['ms']:.1f}", "samples a second on VTA"),
        (f"{100 * report['array_use']:.1f} %", "of the GEMM array"),
    ]
    if report["lower_bound_cycles"]:
        distance = report["cycles"] / report["lower_bound_cycles"]
        cards.append((f"{distance:.2f} ×", "of the layers' lower bounds"))
    if report["host"]["measured_on"]:
        cards.append((f"{report['host']['ms']:.2f} ms", "host steps, on this machine"))
    rates = report["comparison"] and report["comparison"]["accuracy"]
    if rates:
        cards.append(
            (f"{100 * rates['target']:.2f} %", f"top-1, {100 * rates['cpu']:.2f} % in float32")
        )
    worst = [row["sqnr_db"] for row in report["layers"] if row["sqnr_db"] is not None]
    if worst:
        cards.append((f"{min(worst):.1f} dB", "worst layer's SQNR"))
    boxes = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for value, what in cards
    )
    return (
        f"<header><h1>{escape(report['model'])}</h1><p>Profile for target "
        f"{escape(report['target'])}: design {escape(report['design'])}, {report['clock_mhz']} "
        f"MHz, read latency {report['read_latency']} and write latency {report['write_latency']} "
        f"cycles, {port}; {report['cycles']:,} cycles simulated.</p></header>"
        f'<div class="cards">{boxes}</div>'
    )


def _chart(name: str, figure: Figure) -> str:
    title, note = TITLES[name]
    body = figure.to_html(
        full_html=False, include_plotlyjs=False, config=CONFIG, div_id=f"chart-{name}"
    )
    return _section(title, note, body)


def _section(title: str, note: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{body}</section>"


class _Column:
    """A table's column: its title, its cell's HTML, whether it is set to the right."""

    def __init__(self, title: str, cell: Callable[[Json], str], kind: str = "n") -> None:
        self.title, self.cell, self.kind = title, cell, kind


def _table(columns: Sequence[_Column], rows: Iterable[Json], last: str = "") -> str:
    head = "".join(f'<th class="{one.kind}">{escape(one.title)}</th>' for one in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="{c.kind}">{c.cell(row)}</td>' for c in columns) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}{last}</tbody></table></div>"
    )


def _layer_note(report: Json) -> str:
    note = (
        "Bounds in milliseconds: what one resource alone would take; with ALU: compute together "
        "with shifts and clips. "
    )
    if report["comparison"]:
        note += "SQNR compares each layer's result with the float model's."
    else:
        note += "Quantisation quality appears where a comparison was made (--compare)."
    return note


def _layers(report: Json) -> str:
    def ms(cycles: float) -> float:
        return float(cycles * report["ms"] / report["cycles"])

    def bound(name: str) -> Callable[[Json], str]:
        return lambda row: _number(ms(row["bounds"][name]), 3)

    columns = [
        _Column("layer", _layer_name, "name wide"),
        _Column("ms", lambda row: _number(row["ms"], 3)),
        _Column("share", lambda row: _meter(row["cycles"] / report["cycles"])),
        _Column("array use", lambda row: _meter(row["array_use"]) if row["macs"] else "–"),
        _Column("compute", bound("compute")),
        _Column("weights", bound("weight load")),
        _Column("inputs", bound("input load")),
        _Column("store", bound("store")),
        _Column("with ALU", lambda row: _number(ms(row["compute_with_alu_cycles"]), 3)),
        _Column("× bound", lambda row: _number(row["distance"], 2)),
        _Column("limited by", _limit, "t"),
        _Column("KiB moved", lambda row: f"{sum(row['bytes'].values()) / 1024:,.0f}"),
    ]
    if report["comparison"]:
        columns.append(
            _Column("SQNR dB", lambda row: "exact" if row["exact"] else _number(row["sqnr_db"], 1))
        )
    return _table(columns, report["layers"], _total(report, len(columns)))


def _total(report: Json, columns: int) -> str:
    """The last line of the layers' table."""
    cells = ["all", _number(report["ms"], 3), "100 %", _meter(report["array_use"]), *[""] * 5]
    bound = report["lower_bound_cycles"]
    cells.append(_number(report["cycles"] / bound if bound else None, 2))
    cells += [""] * (columns - len(cells))
    line = "".join(f'<td class="{"n" if n else "name"}">{c}</td>' for n, c in enumerate(cells))
    return f'<tr class="total">{line}</tr>'


def _layer_name(row: Json) -> str:
    """The name, and below it operator and schedule."""
    if row["role"] or not row["op"]:
        return escape(row["name"])
    return f"{escape(row['name'])}<small>{escape(row['op'])}: {escape(row['tiles'])}</small>"


def _limit(row: Json) -> str:
    return (
        f'<span class="chip plain"><i style="--dot:{LIMITS[row["limit"]]}"></i>'
        f"{escape(row['limit'])}</span>"
    )


def _meter(share: float) -> str:
    width = f"{min(100.0, 100 * share):.1f}%"
    return f'<div class="meter" style="--share:{width}">{100 * share:.1f} %</div>'


def _number(value: float | None, digits: int) -> str:
    return "–" if not value else f"{value:.{digits}f}"


def _modules(report: Json) -> str:
    """A row for each kind of work and wait, a column for each module."""
    modules = report["modules"]
    kinds = dict.fromkeys(kind for split in modules.values() for kind in split)
    shown = [kind for kind in kinds if any(split.get(kind) for split in modules.values())]

    def share(module: str) -> Callable[[Json], str]:
        def cell(row: Json) -> str:
            cycles = modules[module].get(row["kind"])
            return _meter(cycles / report["cycles"]) if cycles else "–"

        return cell

    columns = [_Column("what", lambda row: escape(_kind_title(row["kind"])), "name")]
    columns += [_Column(name, share(name)) for name in modules]
    order = [kind for names in BUSY.values() for kind in names]
    shown.sort(key=lambda kind: (kind != "busy", order.index(kind) if kind in order else 99))
    return _table(columns, [{"kind": kind} for kind in shown])


def _kind_title(kind: str) -> str:
    if kind == "idle":
        return "idle after its last instruction"
    return f"waits for {kind}" if kind.startswith(("tokens", "instructions", "room")) else kind


def _host(report: Json) -> list[str]:
    host = report["host"]
    if not host["measured_on"]:
        return []
    columns = [
        _Column("step", lambda row: escape(row["name"]), "name"),
        _Column("operator", lambda row: escape(row["op"]), "t"),
        _Column("ms", lambda row: _number(row["ms"], 3)),
    ]
    note = (
        f"Time for one compiled batch, measured on {host['measured_on']}; a board's processor is "
        "slower. It comes on top of the accelerator's."
    )
    return [_section("Host steps", note, _table(columns, host["steps"]))]


def _placement(report: Json) -> list[str]:
    if not report["placement"]:
        return []
    columns = [
        _Column("ONNX node", lambda row: escape(row["node"]), "name"),
        _Column("operator", lambda row: escape(row["op"]), "t"),
        _Column("runs on", _device, "t"),
        _Column("because", lambda row: escape(row["reason"]), "reason"),
    ]
    note = "Where every node of the model runs, and why."
    return [_section("Placement", note, _table(columns, report["placement"]))]


def _device(row: Json) -> str:
    device = escape(row["device"])
    return f'<span class="chip device-{device}">{device}</span>'


def _footer() -> str:
    return (
        "<footer>The instruction stream itself was simulated, cycle by cycle, with the constants "
        "of the target's description. A layer's time runs from the end of its predecessor's last "
        "compute instruction to the end of its own; its loads may run earlier, so a short layer "
        "can be below its bound. Array use counts the multiply-accumulates of the model; code that "
        "skips the padding around an image can pass 100 %.</footer>"
    )
