"""What a command prints: its result on stdout; warnings, remarks and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .options import Options


def emit(options: Options, found: Mapping[str, Any], text: Sequence[str]) -> None:
    """The result: JSON or text."""
    if options.json:
        print_lines([json.dumps(found, indent=1, allow_nan=False)])
    elif not options.quiet:
        print_lines(text)


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout, as they come."""
    for line in lines:
        print(line)


def say(message: str) -> None:
    """A remark on stderr."""
    print(f"deploy: {message}", file=sys.stderr)


def warn(warnings: Sequence[str]) -> None:
    """Warnings go to stderr, framed: before the report and again after it."""
    for warning in warnings:
        print("\n".join(banner(warning)), file=sys.stderr)


def banner(message: str) -> list[str]:
    """A warning that cannot be overlooked."""
    rule = "*" * min(100, max(40, len(message) + 11))
    return [rule, f"* WARNING: {message}", rule]


@contextmanager
def progress_bar(options: Options, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes longer than a second, if somebody watches.

    Raises ModuleNotFoundError where tqdm is missing.
    """
    from tqdm import tqdm

    silent = options.quiet or not sys.stderr.isatty()
    with tqdm(total=total or None, desc=label, delay=1, disable=silent, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance
