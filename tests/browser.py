"""A headless Chromium for the tests of pages, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=20000"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no page under test may need the network
)
SECONDS = 120


def browser() -> str:
    """The browser's path; skips the test where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no browser to look at the page with (looked for {', '.join(NAMES)})")


def screenshot(page: Path, folder: Path, height: int, dark: bool = False) -> Image.Image:
    """The page as a browser of 1280 pixels width shows it, RGB."""
    picture = folder / "page.png"
    picture.unlink(missing_ok=True)
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [
        browser(),
        *OPTIONS,
        *theme,
        f"--user-data-dir={folder / 'browser'}",
        f"--window-size=1280,{height}",
        f"--screenshot={picture}",
        page.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert picture.is_file(), result.stderr
    with Image.open(picture) as image:
        return image.convert("RGB")


def document(page: Path, folder: Path) -> str:
    """The document after its scripts have run."""
    command = [
        browser(), *OPTIONS, f"--user-data-dir={folder / 'browser'}", "--dump-dom", page.as_uri()
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return result.stdout


def count(image: Image.Image, colour: str, box: tuple[int, int, int, int] | None = None) -> int:
    """Pixels of exactly that colour, "#rrggbb", in the box or everywhere."""
    wanted = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    part = image.crop(box) if box else image
    return sum(number for number, found in part.getcolors(1 << 24) or () if found == wanted)
