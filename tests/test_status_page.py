"""The status page: plain, complete, and as a browser shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vtaflow.runtime.server.page import REFRESH_SECONDS, duration, render

from .browser import count, document, screenshot
from .servers import network, rows, serving

GROUND, PANEL, GOOD, BAD = "#f6f7f9", "#ffffff", "#1a7f4b", "#b3261e"
DARK_GROUND = "#14181d"
HEIGHT = 900


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """That of a server with a model that ran, one that did not, and one that is not loaded."""
    from vtaflow import InferenceSession

    with serving(tmp_path_factory.mktemp("store"), "emulator") as running:
        with InferenceSession(network(), running.url) as session:
            session.run(None, rows(3))
        for name in ("idle", "stored"):
            running.client.install(network((12, 7)), name)
        running.client.unload("stored")
        return running.client.status()


def broken(status: dict[str, Any]) -> dict[str, Any]:
    """The same server when everything has gone wrong."""
    device = {**status["device"], "usable": False, "state": "stuck: <b>", "recoveries": 1,
              "bitstream": "x.bit", "bitstream_sha256": "0" * 64}
    stored = {**status["models"][2], "reason": "truncated & gone"}
    return {**status, "ready": False, "device": device, "models": [stored]}


def test_all_of_the_status_is_on_it(status: dict[str, Any]) -> None:
    text = render(status)
    for words in (
        "target pynq on device emulator", "0 of 32 requests", "<td>net</td>", "<td>idle</td>",
        ">loaded</span>", "<td>stored</td>", "inp load nbytes", "device, ms", "Failed runs",
    ):
        assert words in text, words
    assert "class=bad" not in text and "Bitstream" not in text
    assert text.count("<section>") == 3


def test_what_is_wrong_is_marked_and_is_text(status: dict[str, Any]) -> None:
    text = render(broken(status))
    assert "<span class=bad>stuck: &lt;b&gt;; the server is not ready</span>" in text
    assert "<td>stored: <span class=bad>truncated &amp; gone</span></td>" in text
    assert "recovered once" in text and f"<code>{'0' * 64}</code>" in text
    assert "None yet" in render({**status, "models": []})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (200000, "2 d 7 h")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def written(status: dict[str, Any], folder: Path) -> Path:
    """The page without its refresh, for which a browser whose time is virtual never ends."""
    refresh = f"<meta http-equiv=refresh content={REFRESH_SECONDS}>"
    text = render(status)
    assert text.count(refresh) == 1
    file = folder / "status.html"
    file.write_text(text.replace(refresh, ""), "utf-8")
    return file


def test_a_browser_shows_it(status: dict[str, Any], tmp_path: Path) -> None:
    image = screenshot(written(status, tmp_path), tmp_path, HEIGHT)
    assert count(image, GROUND) > 200_000 and count(image, PANEL) > 300_000
    assert count(image, GOOD) > 200 and count(image, BAD) == 0
    assert len(image.getcolors(1 << 24) or ()) > 100  # letters have soft edges
    # Nothing is wider than the page: the margin beside it is empty from top to bottom.
    margin = image.crop((1210, 0, 1280, HEIGHT))
    assert margin.getcolors() == [(70 * HEIGHT, (0xF6, 0xF7, 0xF9))]


def test_a_browser_shows_what_is_wrong(status: dict[str, Any], tmp_path: Path) -> None:
    image = screenshot(written(broken(status), tmp_path), tmp_path, HEIGHT)
    assert count(image, BAD) > 200 and count(image, GOOD) == 0
    assert "truncated &amp; gone" in document(written(broken(status), tmp_path), tmp_path)


def test_in_the_dark(status: dict[str, Any], tmp_path: Path) -> None:
    image = screenshot(written(status, tmp_path), tmp_path, HEIGHT, dark=True)
    assert count(image, DARK_GROUND) > 200_000 and count(image, PANEL) == 0
