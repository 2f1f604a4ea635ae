"""The charts of a profile's page, drawn with plotly from the report and the runs.

Backgrounds are transparent and text has no colour of its own: the page sets both, so that one
page suits light and dark surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from ..runtime.interleave import MODULE_NAMES
from .activity import BUSY, activities
from .palette import KINDS, LIMITS
from .profile import Profile, milliseconds
from .rows import PARTS, intervals

Json = Mapping[str, Any]
Values = NDArray[np.float64]

BINS = 600
"""Spans into which the timeline is cut; the page cuts what it shows anew when it is zoomed."""

LABEL_LENGTH = 36
NAMED_POINTS = 6
LINES, FAINT = "rgba(128,128,128,0.24)", "rgba(128,128,128,0.10)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def short(name: str) -> str:
    """A name that fits an axis: its end tells layers apart, so the middle goes."""
    if len(name) > LABEL_LENGTH:
        name = name[:9] + "…" + name[10 - LABEL_LENGTH :]
    return escape(name)


def layer_bars(report: Json) -> go.Figure:
    """One bar a layer, split by what its cycles were spent on, with a tick at its lower bound."""
    layers = [row for row in report["layers"] if row["cycles"]]
    rows = list(range(len(layers)))
    names = [short(row["name"]) for row in layers]
    figure = go.Figure()
    for part in PARTS:
        values = [row["time"][part] * row["ms"] / row["cycles"] for row in layers]
        if any(values):
            figure.add_bar(
                x=values,
                y=rows,
                customdata=[escape(row["name"]) for row in layers],
                name=part,
                orientation="h",
                marker={"color": KINDS[part], "line": {"width": 0}},
                hovertemplate="<b>%{customdata}</b><br>" + part + ": %{x:.3f} ms<extra></extra>",
            )
    bounds = [row["lower_bound_cycles"] * row["ms"] / row["cycles"] for row in layers]
    figure.add_scatter(
        x=bounds,
        y=rows,
        mode="markers",
        name="lower bound",
        marker={"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": "#808080"}},
        customdata=[escape(row["name"]) for row in layers],
        hovertemplate="<b>%{customdata}</b><br>lower bound: %{x:.3f} ms<extra></extra>",
        meta="foreground",
    )
    figure.update_layout(barmode="stack", bargap=0.28, height=150 + 22 * len(layers))
    figure.update_yaxes(
        range=[len(layers) - 0.4, -0.6],
        tickvals=rows,
        ticktext=[f"{name}  " for name in names],
        showgrid=False,
    )
    figure.update_xaxes(title="milliseconds", side="bottom", rangemode="tozero")
    return _dressed(figure)


def timeline(found: Profile) -> go.Figure:
    """What load, compute and store do over time, with the layers above."""
    figure = make_subplots(
        rows=4,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.035,
        row_heights=[0.1, 0.3, 0.3, 0.3],
    )
    _layer_strip(figure, found)
    seen: set[str] = set()
    for panel, name in enumerate(MODULE_NAMES, 2):
        for kind in BUSY[MODULE_NAMES.index(name)]:
            moments, shares = _shares(found, name, kind)
            if not shares.any():
                continue
            figure.add_scatter(
                x=moments,
                y=100 * shares,
                name=kind,
                legendgroup=kind,
                showlegend=kind not in seen,
                stackgroup=name,
                line={"shape": "hv", "width": 0},
                fillcolor=KINDS[kind],
                meta=[name, kind],
                hovertemplate="%{y:.0f} %",
                row=panel,
                col=1,
            )
            seen.add(kind)
        figure.update_yaxes(title=name, range=[0, 100], dtick=50, ticksuffix=" %", row=panel, col=1)
    figure.update_yaxes(showticklabels=False, showgrid=False, title="layers", row=1, col=1)
    figure.update_xaxes(title="milliseconds", row=4, col=1)
    figure.update_xaxes(range=[0, found.report["ms"]])
    figure.update_layout(height=560, hovermode="x", barmode="overlay")
    return _dressed(figure)


def _layer_strip(figure: go.Figure, found: Profile) -> None:
    """The interval of every layer; neighbours differ in shade."""
    begins, lengths, names = [], [], []
    for one in found.launches:
        for begin, end, row in intervals(one.rows, one.run):
            begins.append(milliseconds(found.subject, one.offset + begin))
            lengths.append(milliseconds(found.subject, end - begin))
            names.append(found.subject.label(one.rows.keys[row]))
    figure.add_bar(
        base=begins,
        x=lengths,
        y=["layers"] * len(names),
        orientation="h",
        marker={"color": [("#7f8c9b", "#a9b4c0")[n % 2] for n in range(len(names))]},
        text=[short(name) for name in names],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"size": 10, "color": "#10151b"},
        customdata=[escape(name) for name in names],
        hovertemplate="<b>%{customdata}</b><br>%{x:.3f} ms from %{base:.3f}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})


def _shares(found: Profile, module: str, kind: str) -> tuple[Values, Values]:
    """Moments in milliseconds, and the share of each span until the next that `kind` takes."""
    moments, shares = [], []
    for one in found.launches:
        activity = activities(one.code.stream, one.run)[module]
        edges = np.unique(np.linspace(0, one.run.cycles, BINS).astype(np.int64))
        spent = np.diff(activity.until(kind, edges)) / np.diff(edges)
        moments.append(milliseconds(found.subject, 1) * (one.offset + edges))
        shares.append(np.append(spent, 0.0))
    return np.concatenate(moments), np.round(np.concatenate(shares), 3)


def timeline_data(found: Profile) -> dict[str, Any]:
    """What the page needs to draw any part of the timeline: every module's activity.

    Each module has its `edges`, in cycles, and for each kind the cycles `before` each edge, as
    differences to the entry before.
    """
    modules: dict[str, Any] = {}
    for name in MODULE_NAMES:
        parts = [activities(one.code.stream, one.run)[name] for one in found.launches]
        edges = [one.offset + p.edges for one, p in zip(found.launches, parts, strict=True)]
        before = {
            kind: [np.diff(part.before[kind], prepend=0) for part in parts]
            for kind in BUSY[MODULE_NAMES.index(name)]
        }
        modules[name] = {
            "edges": np.diff(np.concatenate(edges), prepend=0).tolist(),
            "before": {
                kind: np.concatenate(steps).tolist()
                for kind, steps in before.items()
                if any(step.any() for step in steps)
            },
        }
    return {"bins": BINS, "cycles_per_ms": 1 / milliseconds(found.subject, 1), "modules": modules}


def roofline(report: Json) -> go.Figure:
    """Every layer that multiplies: its speed over the bytes that it moves."""
    layers = [row for row in report["layers"] if row["macs"] and row["cycles"]]
    intensity = [row["macs"] / max(1, sum(row["bytes"].values())) for row in layers]
    speed = [row["macs"] / row["cycles"] for row in layers]
    figure = go.Figure()
    for line in _roofs(report, intensity):
        figure.add_scatter(**line)
    longest = _label_places(layers, intensity)
    for limit, colour in LIMITS.items():
        chosen = [n for n, row in enumerate(layers) if row["limit"] == limit]
        if not chosen:
            continue
        figure.add_scatter(
            x=[intensity[n] for n in chosen],
            y=[speed[n] for n in chosen],
            mode="markers+text",
            name=f"limited by {limit}",
            text=[short(layers[n]["name"]) if n in longest else "" for n in chosen],
            textposition=[longest.get(n, "top center") for n in chosen],
            textfont={"size": 11},
            marker={"color": colour, "size": _sizes([layers[n] for n in chosen], report)}
            | {"opacity": 0.85, "line": {"width": 1, "color": "#ffffff"}},
            customdata=[[escape(layers[n]["name"]), layers[n]["ms"]] for n in chosen],
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.1f} MAC/cycle<br>%{x:.1f} MAC/byte"
            "<br>%{customdata[1]:.3f} ms<extra></extra>",
        )
    axis = {"type": "log", "dtick": 1, "minor": {"showgrid": True, "gridcolor": FAINT, "ticks": ""}}
    figure.update_xaxes(**axis, title="multiply-accumulates for each byte of DRAM traffic")
    figure.update_yaxes(**axis, title="multiply-accumulates a cycle")
    figure.update_layout(height=460)
    return _dressed(figure)


def _label_places(layers: Sequence[Json], intensity: Sequence[float]) -> dict[int, str]:
    """Where the names of the longest layers stand: in turn above and below, from left to right."""
    longest = sorted(range(len(layers)), key=lambda n: -layers[n]["cycles"])[:NAMED_POINTS]
    longest.sort(key=lambda n: intensity[n])
    return {n: ("bottom center", "top center")[turn % 2] for turn, n in enumerate(longest)}


def _sizes(layers: Sequence[Json], report: Json) -> list[float]:
    """Diameters: the area stands for the layer's share of the time."""
    return [8 + 34 * float(np.sqrt(row["cycles"] / report["cycles"])) for row in layers]


def _roofs(report: Json, intensity: Sequence[float]) -> Iterator[dict[str, Any]]:
    """The array's peak, and what the memory port lets through."""
    peak, bus = report["peak_macs_per_cycle"], report["bus_bytes_per_cycle"]
    low = min([*intensity, peak / bus]) / 2
    high = max([*intensity, peak / bus]) * 2
    ridge = peak / bus
    style = {"mode": "lines", "hoverinfo": "skip", "meta": "foreground"}
    yield style | {
        "x": [low, ridge, high],
        "y": [low * bus, peak, peak],
        "name": f"roof: {peak} MAC/cycle, {bus} bytes/cycle",
        "line": {"color": "#808080", "width": 2},
    }
    pace = report["weight_bytes_per_cycle"]
    if pace < bus:
        yield style | {
            "x": [low, peak / pace],
            "y": [low * pace, peak],
            "name": f"weights alone: {pace:g} bytes/cycle",
            "line": {"color": "#808080", "width": 1, "dash": "dot"},
        }


def _dressed(figure: go.Figure) -> go.Figure:
    """The look that all charts share."""
    grid = {"gridcolor": LINES, "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    figure.update_layout(
        template=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": "#808080"},
        margin={"l": 10, "r": 16, "t": 10, "b": 44},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hoverlabel={"font": {"family": FONT}},
    )
    return figure
