"""The server's models on disk: they survive a restart and a sudden end at any moment.

    artifacts/<sha256>.vta    a file that was checked, named by its content
    models/<name>.json        {"sha256": ..., "loaded": ...}
    .lock                     held by the one server that uses the folder

A file is written aside, synced and renamed, so it is there whole or not at all; what an
interrupted upload leaves is swept away at the next start. Names from requests are matched with
`MODEL_NAME` before they become file names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...backend.artifact import write_whole
from ...errors import DeviceError
from .problems import CONFLICT, FULL, NOT_FOUND, REFUSED, TOO_LARGE, Problem

MODEL_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SHA256 = re.compile("[0-9a-f]{64}")
RECORD_BYTES = 4096


@dataclass(frozen=True)
class Stored:
    """A model in the store; `loaded` says whether it is to be on the device."""

    name: str
    sha256: str
    loaded: bool


class Upload:
    """An artifact that is arriving; `write` its bytes, then `finish` or `discard` it."""

    def __init__(self, path: Path, sha256: str, limit: int) -> None:
        self.path, self.sha256 = path, sha256
        self._limit, self._size = limit, 0
        self._digest = hashlib.sha256()
        self._stream: IO[bytes] = open(path, "xb")

    def write(self, data: bytes) -> None:
        """The next bytes; raises Problem beyond the limit."""
        self._size += len(data)
        if self._size > self._limit:
            raise Problem(TOO_LARGE, f"the artifact is larger than {self._limit:,} bytes")
        self._digest.update(data)
        self._stream.write(data)

    def finish(self) -> None:
        """Everything has arrived: on disk, and with the digest that was announced."""
        found = self._digest.hexdigest()
        if found != self.sha256:
            self.discard()
            raise Problem(REFUSED, f"the artifact's sha256 is {found}, announced {self.sha256}")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def discard(self) -> None:
        """Forget it; harmless once it has become part of the store."""
        self._stream.close()
        self.path.unlink(missing_ok=True)


class ModelStore:
    """The models in `folder`, which is made if it is not there.

    `limit` bounds the bytes of all artifacts, `most` the number of models. Not for several
    threads. Raises DeviceError if the folder cannot be used, or another server uses it.
    """

    def __init__(self, folder: Path, limit: int, most: int) -> None:
        self._limit, self._most = limit, most
        self._artifacts, self._records = folder / "artifacts", folder / "models"
        try:
            for path in (self._artifacts, self._records):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = open(folder / ".lock", "a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DeviceError(f"{folder}: another server uses this store") from None
        except OSError as error:
            raise DeviceError(f"{folder}: cannot be used as a store: {error.strerror}") from None
        self._models = self._read()
        for path in [*self._artifacts.glob(".*.tmp"), *self._records.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        self._sweep()

    def models(self) -> list[Stored]:
        """All models by name."""
        return [self._models[name] for name in sorted(self._models)]

    def get(self, name: str) -> Stored:
        """One model; raises Problem."""
        if name not in self._models:
            raise Problem(NOT_FOUND, f"there is no model {name!r}")
        return self._models[name]

    def has(self, sha256: str) -> bool:
        """Whether an artifact is there."""
        return any(one.sha256 == sha256 for one in self._models.values())

    def intact(self, sha256: str) -> bool:
        """Whether an artifact's file still has the bytes that were kept: SD cards forget."""
        try:
            with open(self.path(sha256), "rb") as stream:
                digest = hashlib.sha256()
                while data := stream.read(1 << 20):
                    digest.update(data)
        except OSError:
            return False
        return digest.hexdigest() == sha256

    def path(self, sha256: str) -> Path:
        """The file of an artifact."""
        return self._artifacts / f"{sha256}.vta"

    def upload(self, sha256: str, size: int, limit: int) -> Upload:
        """Room for an artifact of `size` bytes that is about to arrive; raises Problem."""
        if size > limit:
            raise Problem(TOO_LARGE, f"{size:,} bytes, the limit for an artifact is {limit:,}")
        used = sum(path.stat().st_size for path in self._artifacts.iterdir())
        if used + size > self._limit:
            raise Problem(
                FULL, f"the store has {used:,} of {self._limit:,} bytes in use: delete a model"
            )
        return Upload(self._artifacts / f".{secrets.token_hex(8)}.tmp", sha256, size)

    def keep(self, name: str, upload: Upload) -> None:
        """An upload, finished and checked, becomes model `name`."""
        self._require_room(name)
        os.replace(upload.path, self.path(upload.sha256))
        _sync(self._artifacts)
        loaded = name in self._models and self._models[name].loaded
        self._write(Stored(name, upload.sha256, loaded))

    def point(self, name: str, sha256: str) -> None:
        """Model `name` is the artifact that some model is already; raises Problem."""
        if not self.has(sha256):
            raise Problem(NOT_FOUND, f"there is no artifact {sha256}: upload it")
        self._require_room(name)
        if name not in self._models or self._models[name].sha256 != sha256:
            self._write(Stored(name, sha256, False))

    def mark(self, name: str, loaded: bool) -> None:
        """Note whether a model is to be on the device."""
        stored = self.get(name)
        if stored.loaded != loaded:
            self._write(Stored(name, stored.sha256, loaded))

    def remove(self, name: str) -> None:
        """Forget a model, and its artifact if no other model is the same."""
        self.get(name)
        (self._records / f"{name}.json").unlink(missing_ok=True)
        del self._models[name]
        self._sweep()

    def close(self) -> None:
        """Let another server use the folder."""
        self._lock.close()

    def _require_room(self, name: str) -> None:
        if not MODEL_NAME.fullmatch(name):
            raise Problem(REFUSED, "that is no name for a model")
        if name not in self._models and len(self._models) >= self._most:
            raise Problem(CONFLICT, f"there are {self._most} models already: delete one")

    def _write(self, model: Stored) -> None:
        text = json.dumps({"sha256": model.sha256, "loaded": model.loaded}).encode()
        write_whole(self._records / f"{model.name}.json", lambda stream: stream.write(text))
        _sync(self._records)
        self._models[model.name] = model
        self._sweep()

    def _read(self) -> dict[str, Stored]:
        """The records that are whole and have their artifact."""
        found = {}
        for path in self._records.glob("*.json"):
            stored = _record(path)
            if stored is not None and self.path(stored.sha256).is_file():
                found[stored.name] = stored
        return found

    def _sweep(self) -> None:
        """Delete artifacts that are no model's."""
        wanted = {self.path(one.sha256) for one in self._models.values()}
        for path in self._artifacts.glob("*.vta"):
            if path not in wanted:
                path.unlink(missing_ok=True)


def _record(path: Path) -> Stored | None:
    """The record in a file, None if it is none of ours."""
    try:
        with open(path, "rb") as stream:
            value = json.loads(stream.read(RECORD_BYTES))
        name, sha256, loaded = path.stem, str(value["sha256"]), value["loaded"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not MODEL_NAME.fullmatch(name) or not SHA256.fullmatch(sha256) or type(loaded) is not bool:
        return None
    return Stored(name, sha256, loaded)


def _sync(folder: Path) -> None:
    """A rename is safe only once its folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
