"""Files that a command will write: whether it can, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ArtifactError


def require_writable(output: str | None, source: str) -> None:
    """Raise ArtifactError for an output that cannot be written, or that is the input `source`."""
    if output is None:
        return
    path = Path(output)
    if path.is_dir() or not path.name:
        raise ArtifactError(f"{output!r}: cannot write: it is a folder")
    if not path.parent.is_dir():
        raise ArtifactError(f"{output}: cannot write: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise ArtifactError(f"{output}: cannot write: no permission in {str(path.parent)!r}")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ArtifactError(f"{output}: cannot write: it is the input")
