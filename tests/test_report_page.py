"""The page: complete in itself, everything on it, and a browser shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vtaflow import cli
from vtaflow.backend.target import Target
from vtaflow.errors import DataError
from vtaflow.profiling import host_time
from vtaflow.profiling.charts import short
from vtaflow.profiling.page import page, write_page
from vtaflow.profiling.palette import ALU, GEMM, KINDS, LIMITS
from vtaflow.profiling.profile import Profile, profile
from vtaflow.profiling.subject import LaunchCode, Subject
from vtaflow.runtime.comparison import Accuracy, Comparison, TensorComparison

from . import profiles
from .browser import count, document, screenshot
from .streams import FINISH, INP, gemm, load, stream_of

SECTIONS = [
    "Where the time goes", "Timeline", "Roofline", "Layers", "Modules", "Host steps", "Placement"
]
HEIGHT = 3200
GROUND, PANEL = "#f6f7f9", "#ffffff"
DARK_GROUND = "#14181d"


@cache
def full() -> Profile:
    """A profile with everything: layers, host steps, quality, placement."""
    artifact = profiles.compiled().artifact
    layers = (TensorComparison("first", 0.1, 0.99, 31.5, None, None),)
    comparison = Comparison((), layers, Accuracy(0.9, 0.875), {}, 1, 8, 1.0, 1.0, "test")
    steps = host_time.measure(artifact)
    return profile(Subject.of_artifact(artifact), False, steps, comparison)


@cache
def text() -> str:
    return page(full())


class Outline(HTMLParser):
    """What a page refers to, its headings and the text of its cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        keys = ("src", "href", "action", "data", "poster", "srcset")
        self.references += [f"{tag} {key}={values[key]}" for key in keys if key in values]
        self._open = tag
        if tag in ("td", "b", "span", "small"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._open == "h2":
            self.headings.append(data)
            self._open = ""
        elif self._open in ("td", "div", "span", "b", "small") and self.cells:
            self.cells[-1] += data


def test_it_refers_to_nothing_outside() -> None:
    outline = Outline(text())
    assert outline.references == []
    style = text()[text().index("<style>") : text().index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert Outline('<script src="https://x/y.js"></script>').references == [
        "script src=https://x/y.js"
    ]


def test_everything_is_on_it() -> None:
    outline = Outline(text())
    assert outline.headings == SECTIONS
    cells = {cell.strip() for cell in outline.cells}
    assert {"first", "second [residual]", "31.5", "87.50 %"} <= cells
    assert any(cell.startswith("VtaConv: tile_o=") for cell in cells)
    assert full().subject.placement[0]["reason"] in cells
    for name in ("chart-bars", "chart-timeline", "chart-roofline"):
        assert f'id="{name}"' in text()


def test_names_are_text_and_nothing_else() -> None:
    """A node of the model is called <b>chances</b>."""
    assert "<b>chances</b>" not in text()
    assert "&lt;b&gt;chances&lt;/b&gt;" in text()
    name = "</script><script>alert(1)</script>"
    stream = stream_of(Target.load("pynq"), load(INP, 9), gemm(90), FINISH)
    subject = Subject(name, Target.load("pynq"), (LaunchCode(stream, [((name,), "")] * 3),))
    evil = page(profile(subject))
    assert "<script>alert" not in evil
    assert evil.count("</script>") == text().count("</script>")


def test_a_recording_has_no_host_and_no_placement() -> None:
    stream = stream_of(Target.load("pynq"), load(INP, 9), gemm(90), FINISH)
    subject = Subject("alone", Target.load("pynq"), (LaunchCode(stream, [(("a",), "")] * 3),))
    outline = Outline(page(profile(subject)))
    assert outline.headings == [one for one in SECTIONS if one not in ("Host steps", "Placement")]


def test_long_names_keep_their_end() -> None:
    name = "/backbone/" + "x" * 60 + "/conv2"
    assert short(name).startswith("/backbone…") and short(name).endswith("x/conv2")
    assert len(short(name)) == 36
    assert short("a<b") == "a&lt;b"


def test_every_colour_is_legible_on_both_grounds() -> None:
    """At least 1.9 : 1 against the light and the dark panel, for areas and marks."""
    for colour in {*KINDS.values(), *LIMITS.values()}:
        for ground in (PANEL, "#1c2229"):
            assert contrast(colour, ground) > 1.9, (colour, ground)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_plotly_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(DataError, match=r'needs plotly.*pip install "vtaflow\[report\]"'):
        write_page(full(), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"page\.html: cannot write"):
        write_page(full(), tmp_path / "nowhere" / "page.html")


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiles.compiled().artifact.save("net.vta")
    assert cli.main(["profile", "net.vta", "--html", "net.html", "-q"]) == 0
    assert Path("net.html").read_text("utf-8").startswith("<!doctype html>")


# --- in a browser -------------------------------------------------------------------------------


def problems(file: Path, folder: Path) -> list[str]:
    """What is missing from the page as a browser shows it."""
    image = screenshot(file, folder, HEIGHT)
    found = []
    if count(image, GROUND) < 50_000 or count(image, PANEL) < 500_000:
        found.append("the page has not its look")
    for name, colour in (("GEMM", GEMM), ("ALU", ALU)):
        if count(image, colour) < 2_000:
            found.append(f"no area shows {name}")
    colours = {colour for colour in KINDS.values() if count(image, colour) > 20}
    if len(colours) < 6:
        found.append(f"only {len(colours)} kinds of work and waiting are to be seen")
    if len(image.getcolors(1 << 24) or ()) < 500:
        found.append("there is hardly any text")
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "net.html"
    write_page(full(), file)
    return file


def test_a_browser_shows_it(written: Path, tmp_path: Path) -> None:
    assert problems(written, tmp_path) == []


def test_in_the_dark(written: Path, tmp_path: Path) -> None:
    image = screenshot(written, tmp_path, HEIGHT, dark=True)
    assert count(image, DARK_GROUND) > 50_000
    assert count(image, PANEL) < 20_000
    assert count(image, GEMM) > 2_000


DAMAGE = [
    pytest.param("empty", lambda whole: "<!doctype html><title>empty</title>"),
    pytest.param("no charts", lambda whole: whole.replace("Plotly.newPlot", "Plotly.oldPlot")),
    pytest.param(
        "no style",
        lambda whole: whole.replace("<style>", "<style media=print>"),
        marks=pytest.mark.slow,
    ),
    pytest.param("half", lambda whole: whole[: len(whole) // 2], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_broken_page_is_noticed(
    name: str, damage: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "broken.html"
    file.write_text(damage(text()), "utf-8")
    assert problems(file, tmp_path), name


ZOOM = """<script>window.addEventListener("load", function () {
  var chart = document.getElementById("chart-timeline");
  var end = chart.layout.xaxis.range[1];
  Plotly.relayout(chart, {"xaxis.range": [end * 0.4, end * 0.42]}).then(function () {
    var xs = chart.data.filter(function (t) { return Array.isArray(t.meta); })[0].x;
    document.title = "zoom " + (xs[0] / end).toFixed(3) + " " + xs.length;
  });
});</script></body>"""


def test_charts_are_drawn_and_zooming_shows_finer_spans(tmp_path: Path) -> None:
    file = tmp_path / "zoom.html"
    head, tail = text().rsplit("</body>", 1)
    file.write_text(head + ZOOM + tail, "utf-8")
    shown = document(file, tmp_path)
    assert "<title>zoom 0.400 600</title>" in shown
    assert shown.count('class="main-svg"') >= 3
    assert Outline(shown).headings == SECTIONS
    drawn = shown[shown.index('class="main-svg"') :]
    for words in ("second [residual]", "lower bound", "weights", "limited by compute"):
        assert words in drawn
