"""JSON from strangers: keys occur once, numbers are numbers, integers are of bounded length."""

from __future__ import annotations

import json
from typing import Any, NoReturn

_MOST_DIGITS = 20  # no count, size or address is longer


def parse(data: bytes) -> Any:
    """The value that UTF-8 `data` holds; ValueError says what is wrong.

    RecursionError is raised for what is nested too deeply.
    """
    return json.loads(
        data.decode("utf-8"),
        parse_int=_bounded_int,
        parse_constant=_no_constant,
        object_pairs_hook=_unique,
    )


def _bounded_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {json.dumps(twice[:60])} occurs twice")
    return result
