"""Faults that the emulated board can be told to have, to see that everybody bears them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from ..errors import DeviceError


@dataclass(frozen=True)
class Faults:
    """What goes wrong; by default nothing.

    `never_done`: a run hangs until the bitstream is loaded again. `stale_done`: seconds for which
    done keeps its old value after a start. `slow`: a run takes that many times as long.
    `flip_store`: in every run, the first 64-bit word of the STORE of that number arrives in
    memory with one bit inverted. `refuse_allocation`: there is no contiguous memory left.
    `runs`: after so many runs all faults are gone (None: never).
    """

    never_done: bool = False
    stale_done: float = 0.0
    slow: float = 1.0
    flip_store: int | None = None
    refuse_allocation: bool = False
    runs: int | None = None

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Faults written as `never-done,slow=50,runs=1`. Raises DeviceError."""
        values: dict[str, bool | int | float] = {}
        kinds: dict[str, Callable[[str], bool | int | float]] = {
            "never_done": _yes,
            "stale_done": float,
            "slow": float,
            "flip_store": int,
            "refuse_allocation": _yes,
            "runs": int,
        }
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            try:
                values[name.replace("-", "_")] = kinds[name.replace("-", "_")](value)
            except (KeyError, ValueError):
                known = ", ".join(one.name.replace("_", "-") for one in fields(cls))
                raise DeviceError(
                    f"{item!r} is no fault; write NAME or NAME=NUMBER of {known}"
                ) from None
        return replace(cls(), **values)  # type: ignore[arg-type]

    def after_run(self) -> Faults:
        """The faults that are left after one more run."""
        if self.runs is None:
            return self
        return Faults() if self.runs <= 1 else replace(self, runs=self.runs - 1)


def _yes(value: str) -> bool:
    if value:
        raise ValueError
    return True
