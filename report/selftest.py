"""The report of `deploy selftest`: what the probes of a board and the programs found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from .schema import SCHEMA_VERSION, Json
from .tables import table

if TYPE_CHECKING:
    from ..runtime.probes import Capabilities


class Tested(Protocol):
    """The result of one program of the self-test."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool | None: ...
    @property
    def counters(self) -> Mapping[str, int]: ...
    @property
    def estimated_cycles(self) -> int: ...
    @property
    def detail(self) -> str: ...


def tests_report(
    target: str,
    results: Sequence[Tested],
    capabilities: Capabilities | None = None,
    notes: Sequence[str] = (),
) -> Json:
    """What `deploy selftest` found; `capabilities` are those of hardware."""
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target,
        "capabilities": capabilities.to_json() if capabilities else None,
        "tests": [
            {
                "name": one.name,
                "passed": one.passed,
                "counters": dict(one.counters),
                "estimated_cycles": one.estimated_cycles,
                "detail": one.detail,
            }
            for one in results
        ],
        "notes": list(notes),
    }


def tests_text(report: Json) -> list[str]:
    """The lines of a self-test's report."""
    words = {True: "ok", False: "FAILED", None: "not run"}
    tests = report["tests"]
    names = list(dict.fromkeys(name for one in tests for name in one["counters"]))
    rows = [
        (one["name"], words[one["passed"]], one["estimated_cycles"],
         *(one["counters"].get(name, "-") for name in names))
        for one in tests
    ]
    passed = sum(one["passed"] is True for one in tests)
    return [
        *(_capability_lines(report["capabilities"]) if report["capabilities"] else []),
        *(table(("test", "result", "est. cycles", *names), rows) if rows else []),
        *([""] if rows else []),
        *(f"{one['name']}: {one['detail']}" for one in tests if one["detail"]),
        f"{passed} of {len(rows)} programs passed on target {report['target']}",
        *report["notes"],
    ]


def _capability_lines(found: Json) -> list[str]:
    """What the probes of a board say."""
    words = {True: "ok", False: "FAILED"}
    probes = [(one["name"], words[one["passed"]], one["text"]) for one in found["probes"]]
    lines = [*table(("probe", "result", "finding"), probes), ""]
    if found["bitstream"]:
        lines += [f"Bitstream {name}: {value}" for name, value in found["bitstream"].items()]
    for name, pair in found["differences"].items():
        lines.append(f"Measured: {name} {pair['measured']} (described: {pair['described']})")
    return [*lines, ""] if lines[-1] else lines
