"""Executes the code in README.md and docs/.

A block that opens with "```python run" is executed; the blocks of a page share one namespace and
run in their order, in an empty folder that holds a link to `models`. A "```text output" block is
what the code since the last such block has printed, to the letter.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(?P<kind>[^\n`]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
KINDS = ("", "sh", "console", "text", "json", "python", "python run", "text output")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of its first line of text."""

    kind: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in Markdown."""
    return [
        Block(found["kind"].strip(), page.count("\n", 0, found.start("text")) + 1, found["text"])
        for found in FENCE.finditer(page)
    ]


def run_page(page: str, name: str) -> None:
    """Execute a page; raises what the code raises, and AssertionError on other output."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()
    for block in blocks(page):
        assert block.kind in KINDS, f"{name}:{block.line}: unknown kind of block {block.kind!r}"
        if block.kind == "python run":
            code = compile("\n" * (block.line - 1) + block.text, name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        elif block.kind == "text output":
            assert printed.getvalue() == block.text, f"{name}:{block.line}: it printed otherwise"
            printed = io.StringIO()
    assert printed.getvalue() == "", f"{name}: the last output is not shown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


RUN = "Text.\n\n```python run\nx = 6\nprint(x * 7)\n```\n\n"


def test_the_runner_runs() -> None:
    run_page(RUN + "```text output\n42\n```\n```python run\nx += 1\n```\n", "page")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (RUN + "```text output\n43\n```\n", "page:9: it printed otherwise"),
        (RUN, "the last output is not shown"),
        ("```pyhton run\n1\n```\n", "page:2: unknown kind of block 'pyhton run'"),
    ],
)
def test_the_runner_can_fail(page: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run_page(page, "page")


def test_errors_carry_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("a\n\n```python run\n\n1 / 0\n```\n", "page")
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == ("page", 5)
