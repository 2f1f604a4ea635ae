"""The artifact file `*.vta`: everything needed to run a compiled model, without the compiler.

A zip of `manifest.json` (fields in `manifest.py`), `manifest.sha256` (a line that `sha256sum -c`
understands) and raw members: instruction streams, their provenance, the constant image, constants
of host steps. Members are stored uncompressed with a fixed date, so equal models give equal bytes
and no member is larger than the file that it came in. Nothing is unpickled. Loading validates
everything; a file that loads can be indexed without fear.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, TargetError
from .commands import Memory
from .dram import Region
from .manifest import (
    FORMAT,
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    MEMBER_PATTERN,
    check_version,
    parse,
    validate,
)
from .target import Target

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
MAX_FILE_BYTES = 512 << 20
MAX_MEMBERS = 1024
MAX_DIRECTORY_BYTES = 1 << 20
LOCAL_HEADER_BYTES = 30
END_RECORD_BYTES = 22
ZIP64_LOCATOR_BYTES = 20
FIXED_DATE = (1980, 1, 1, 0, 0, 0)

_UNREADABLE = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    ValueError,
    OverflowError,
)
"""What `zipfile` raises on damaged input."""


@dataclass(frozen=True)
class StoredRegion(Region):
    """A region of the arena with the tensor that lies in it.

    `shape` is the shape in memory, `logical_shape` the tensor's own; `layout` has the keys
    order, batch and block. All are None for a region that holds no tensor for the host.
    """

    shape: tuple[int, ...] | None
    logical_shape: tuple[int, ...] | None
    dtype: str | None
    layout: Mapping[str, Any] | None
    scale: float | None


@dataclass(frozen=True)
class Artifact:
    """A validated manifest with its members; make one with `create` or `load`.

    `source` names it in messages.
    """

    manifest: Mapping[str, Any]
    members: Mapping[str, bytes]
    source: str = field(default="artifact", compare=False)

    @classmethod
    def create(
        cls, manifest: Mapping[str, Any], members: Mapping[str, bytes], source: str = "artifact"
    ) -> Artifact:
        """Complete `manifest` with format, version and digests; ArtifactError if it is illegal."""
        contents = {name: bytes(data) for name, data in members.items()}
        listed = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        }
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        try:
            raw = json.dumps({**head, **manifest, "members": listed}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{source}: the manifest is no JSON: {error}") from None
        complete = parse(raw.encode(), source)
        validate(complete, contents, source)
        return cls(complete, contents, source)._checked()

    @classmethod
    def load(cls, origin: str | os.PathLike[str] | bytes, source: str = "") -> Artifact:
        """Read and validate a file or its bytes; raises ArtifactError, one line."""
        if isinstance(origin, bytes):
            return cls._read(io.BytesIO(origin), len(origin), source or "artifact")
        where = source or os.fspath(origin)
        try:
            status = os.stat(origin)
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{where}: not a regular file")
            with open(origin, "rb") as stream:
                return cls._read(stream, status.st_size, where)
        except (OSError, ValueError) as error:
            detail = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{where}: cannot read: {detail}") from None

    @classmethod
    def _read(cls, stream: IO[bytes], size: int, where: str) -> Artifact:
        if size > MAX_FILE_BYTES:
            raise ArtifactError(f"{where}: {size} bytes, the limit is {MAX_FILE_BYTES}")
        if stream.read(4) != b"PK\3\4":
            raise ArtifactError(f"{where}: not a vtaflow artifact (a zip file made by `deploy`)")
        _check_directory(stream, size, where)
        try:
            with zipfile.ZipFile(stream) as archive:
                sizes = _listing(archive, size, where)
                manifest = _read_manifest(archive, sizes, where)
                members = {
                    name: archive.read(name)
                    for name in sizes
                    if name not in (MANIFEST, MANIFEST_DIGEST)
                }
        except _UNREADABLE as error:
            detail = " ".join(str(error).split())[:100]
            raise ArtifactError(f"{where}: truncated or damaged ({detail})") from None
        validate(manifest, members, where)
        _check_digests(manifest, members, where)
        return cls(manifest, members, where)._checked()

    def _checked(self) -> Artifact:
        """Self, once the target is known to be legal and to be the one of the fingerprint."""
        if self.target.fingerprint() != self.manifest["fingerprint"]:
            raise ArtifactError(f"{self.source}: the fingerprint is not that of the target")
        if self.manifest["arena"]["bytes"] > self.target.dram_bytes:
            raise ArtifactError(
                f"{self.source}: the arena of {self.manifest['arena']['bytes']} bytes exceeds "
                f"dram_bytes {self.target.dram_bytes} of target {self.target.name!r}"
            )
        return self

    def to_bytes(self) -> bytes:
        """The file's bytes: the same for the same content, on every machine."""
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False, allow_nan=False)
        manifest = text.encode() + b"\n"
        digest = f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, data in ((MANIFEST, manifest), (MANIFEST_DIGEST, digest)):
                archive.writestr(_entry(name), data)
            for name in sorted(self.members):
                archive.writestr(_entry(name), self.members[name])
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file completely or not at all; raises ArtifactError."""
        data = self.to_bytes()
        try:
            write_whole(path, lambda stream: stream.write(data))
        except (OSError, ValueError) as error:
            detail = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{os.fspath(path)}: cannot write: {detail}") from None

    @cached_property
    def digest(self) -> str:
        """sha256 of the file's bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def target(self) -> Target:
        """The hardware that the streams are for."""
        try:
            return Target.from_json(self.manifest["target"], self.source)
        except TargetError as error:
            raise ArtifactError(f"{self.source}: its target is illegal: {error}") from None

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def batch(self) -> int:
        """The batch that one launch sequence computes."""
        return int(self.manifest["batch"])

    @property
    def launches(self) -> int:
        """Number of instruction streams."""
        return len(self.manifest["launches"])

    @cached_property
    def regions(self) -> dict[str, StoredRegion]:
        """The arena's regions by name."""
        return {
            entry["name"]: StoredRegion(
                name=entry["name"],
                kind=entry["kind"],
                memory=Memory[entry["memory"]],
                start=entry["start"],
                bytes=entry["bytes"],
                shape=_shape(entry["shape"]),
                logical_shape=_shape(entry["logical_shape"]),
                dtype=entry["dtype"],
                layout=entry["layout"],
                scale=entry["scale"],
            )
            for entry in self.manifest["arena"]["regions"]
        }

    @property
    def constants(self) -> NDArray[np.uint8]:
        """The image of the constant area, which starts at arena offset 4096; read-only."""
        return np.frombuffer(self.members[self.manifest["constants"]["member"]], np.uint8)

    def instructions(self, index: int) -> NDArray[np.uint8]:
        """Stream of launch `index`, arena-relative: uint8[n, 16], read-only."""
        member = self.manifest["launches"][index]["member"]
        return np.frombuffer(self.members[member], np.uint8).reshape(-1, 16)

    def origins(self, index: int) -> list[tuple[str, ...]]:
        """The ONNX nodes of each instruction of launch `index`."""
        table = [tuple(names) for names in self.manifest["origins"]]
        return [table[entry] for entry in self._origin_entries(index)]

    def roles(self, index: int) -> list[str]:
        """What part each instruction of launch `index` plays in its nodes, "" for the main one."""
        table = self.manifest.get("roles") or [""] * len(self.manifest["origins"])
        return [table[entry] for entry in self._origin_entries(index)]

    def _origin_entries(self, index: int) -> NDArray[np.int32]:
        member = self.manifest["launches"][index]["origins_member"]
        return np.frombuffer(self.members[member], "<i4")

    def host_constants(self) -> dict[str, NDArray[Any]]:
        """Constants that host steps read, by value name; read-only."""
        return {
            name: np.frombuffer(
                self.members[entry["member"]], np.dtype(entry["dtype"]).newbyteorder("<")
            ).reshape(entry["shape"])
            for name, entry in self.manifest["host_constants"].items()
        }

    def require_target(self, target: Target) -> None:
        """Raise ArtifactError unless the streams run on `target`, with every field that differs."""
        here, there = self.manifest["fingerprint"], target.fingerprint()
        differing = [
            f"{key} {here.get(key, 'unset')} (target: {there.get(key, 'unset')})"
            for key in sorted(here.keys() | there.keys())
            if here.get(key) != there.get(key)
        ]
        distance, needed = self.target.acc_dep_distance, target.acc_dep_distance
        if distance < needed:
            differing.append(f"acc_dep_distance {distance} (target: {needed})")
        profile = self.manifest["profile"]
        if profile not in ("portable", target.design):
            differing.append(f"profile {profile} (target: {target.design})")
        if differing:
            raise ArtifactError(
                f"{self.source}: compiled for target {self.target.name!r} with "
                f"{', '.join(differing)}; it does not run on {target.name!r}, rebuild it with: "
                f"deploy compile {self.name}.onnx --target {target.name} -o {self.name}.vta"
            )


def _shape(value: list[int] | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value)


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry that does not depend on the day or the machine."""
    entry = zipfile.ZipInfo(name, FIXED_DATE)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _check_directory(stream: IO[bytes], size: int, where: str) -> None:
    """The zip's directory ends the file, is small and plain: `zipfile` may read it whole."""
    tail_bytes = END_RECORD_BYTES + ZIP64_LOCATOR_BYTES
    stream.seek(max(0, size - tail_bytes))
    tail = stream.read(tail_bytes)
    end = tail[-END_RECORD_BYTES:]
    if len(tail) < tail_bytes or not end.startswith(b"PK\5\6"):
        raise ArtifactError(f"{where}: truncated, the end of the zip file is missing")
    *_, count, directory, start, comment = struct.unpack("<4s4H2IH", end)
    if count > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES or tail.startswith(b"PK\6\7"):
        raise ArtifactError(
            f"{where}: {count} members with a directory of {directory} bytes, the limits are "
            f"{MAX_MEMBERS} and {MAX_DIRECTORY_BYTES}"
        )
    if comment or start + directory + END_RECORD_BYTES != size:
        raise ArtifactError(f"{where}: truncated, or something was added to the zip file")


def _listing(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, int]:
    """Sizes of the members, which must be raw, separate and plainly named."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    sizes: dict[str, int] = {}
    end = 0
    for entry in entries:
        shown = repr(entry.orig_filename[:100])
        if not re.fullmatch(MEMBER_PATTERN, entry.orig_filename):
            raise ArtifactError(f"{where}: the member name {shown} is not allowed")
        if entry.filename in sizes:
            raise ArtifactError(f"{where}: the member {shown} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ArtifactError(f"{where}: the member {shown} is compressed, members are raw")
        if entry.flag_bits & 1:
            raise ArtifactError(f"{where}: the member {shown} is encrypted")
        begin = entry.header_offset
        if begin < end:
            raise ArtifactError(f"{where}: the member {shown} overlaps another")
        end = begin + LOCAL_HEADER_BYTES + len(entry.orig_filename) + entry.file_size
        if end > size:
            raise ArtifactError(f"{where}: truncated: the member {shown} ends behind the file")
        sizes[entry.filename] = entry.file_size
    return sizes


def _read_manifest(
    archive: zipfile.ZipFile, sizes: Mapping[str, int], where: str
) -> dict[str, Any]:
    """The parsed manifest of the right version, its own digest checked."""
    for name, limit in ((MANIFEST, MAX_MANIFEST_BYTES), (MANIFEST_DIGEST, 1024)):
        if name not in sizes:
            raise ArtifactError(f"{where}: not a vtaflow artifact, it has no {name}")
        if sizes[name] > limit:
            raise ArtifactError(f"{where}: {name} has {sizes[name]} bytes, the limit is {limit}")
    raw = archive.read(MANIFEST)
    manifest = parse(raw, where)
    check_version(manifest, where)
    if archive.read(MANIFEST_DIGEST).split()[:1] != [hashlib.sha256(raw).hexdigest().encode()]:
        raise ArtifactError(f"{where}: {MANIFEST} was altered, its sha256 differs")
    return manifest


def _check_digests(
    manifest: Mapping[str, Any], members: Mapping[str, bytes], where: str
) -> None:
    for name, listed in manifest["members"].items():
        data = members[name]
        if len(data) != listed["bytes"] or hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise ArtifactError(f"{where}: the member {name!r} was altered, its sha256 differs")


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: all of it appears, or nothing.

    Raises OSError.
    """
    final = Path(path)
    draft = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, final)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
