"""The typed errors that every room may raise; this module owns their names and nothing else.

A `VtaflowError` is addressed to the user: its message is one line (or one listed problem per
line) that says what is wrong, where, the limit and the way out. The command line prints it
without a traceback and exits with 2. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class VtaflowError(Exception):
    """A mistake that the user can mend."""


class ModelError(VtaflowError):
    """The model cannot be imported or compiled; `problems` lists every reason at once."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))


class DataError(VtaflowError):
    """Calibration data, inputs, labels or a recipe do not fit the model."""


class TargetError(VtaflowError):
    """A hardware description is unknown or illegal."""


class EncodingError(VtaflowError):
    """A field value does not fit its instruction or micro-op."""


class StreamError(VtaflowError):
    """An instruction stream breaks a rule of the hardware (checker or simulator)."""


class ScheduleError(VtaflowError):
    """A layer cannot be blocked to fit the target, or an override names an infeasible schedule."""


class NoTileError(ScheduleError):
    """No tile of a layer fits the target, however it is blocked.

    `origin` names the ONNX nodes of the layer, `reason` says what was tried.
    """

    def __init__(self, layer: str, origin: Sequence[str], reason: str) -> None:
        super().__init__(f"layer {layer}: {reason}")
        self.origin, self.reason = tuple(origin), reason


class ArenaError(VtaflowError):
    """The DRAM plan does not fit the target."""


class ArtifactError(VtaflowError):
    """An artifact file is damaged, of another version or for another target."""


class FeedError(VtaflowError):
    """An inference request has wrong names, shapes, dtypes or values."""


class DeviceError(VtaflowError):
    """The device that should run an artifact is absent or failed."""


class WorkerError(VtaflowError):
    """The processes or the cluster that should do the work are absent or failed."""
