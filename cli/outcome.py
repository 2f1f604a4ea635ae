"""How a command ends: its exit codes, and the error of a command line that makes no sense."""

from __future__ import annotations

from ..errors import VtaflowError

FINE, FAILED, USER_ERROR = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141


class UsageError(VtaflowError):
    """The command line cannot be understood."""
