"""Plain ASCII tables with aligned columns, and how numbers are written in them.

They read the same on a terminal, in a pipe and in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligned columns, two blanks apart; columns of numbers are set to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ["  (none)"]
    columns = list(zip(titles, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return ("  " + "  ".join(padded)).rstrip()

    return [line(titles), *map(line, cells)]


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return str(value)


def _is_number(cell: str) -> bool:
    return cell in ("-", "exact") or cell.lstrip("+-")[:1].isdigit() and "x" not in cell


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def decibels(value: float | None) -> str:
    """One decimal, or a dash where nothing was measured or the error is zero."""
    return number(value, ".1f")


def percent(fraction: float | None) -> str:
    """A fraction of 1 as a percentage."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
