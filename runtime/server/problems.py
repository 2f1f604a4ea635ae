"""What goes wrong in a request, with the HTTP status that says so."""

from __future__ import annotations

from ...errors import (
    ArtifactError,
    DataError,
    DeviceError,
    FeedError,
    StreamError,
    VtaflowError,
)
from ..driver import RunTimeout

BAD_REQUEST, UNAUTHORISED, FORBIDDEN, NOT_FOUND = 400, 401, 403, 404
NOT_ALLOWED, CONFLICT, LENGTH_REQUIRED, TOO_LARGE = 405, 409, 411, 413
REFUSED, BUSY, BROKEN, UNREADY, TIMED_OUT, FULL = 422, 429, 500, 503, 504, 507

STATUSES: tuple[tuple[type[VtaflowError], int], ...] = (
    (FeedError, BAD_REQUEST),
    (DataError, BAD_REQUEST),
    (ArtifactError, REFUSED),
    (StreamError, REFUSED),
    (RunTimeout, TIMED_OUT),
    (DeviceError, BROKEN),
)
"""The status of each kind of error; the first that fits counts."""


class Problem(VtaflowError):
    """A request that is answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: VtaflowError) -> int:
    """The HTTP status that fits an error."""
    if isinstance(error, Problem):
        return error.status
    return next((status for kind, status in STATUSES if isinstance(error, kind)), REFUSED)
