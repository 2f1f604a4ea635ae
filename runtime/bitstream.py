"""Bitstreams: which file a target needs, where it lies, and whether it is the right one.

A .bit file begins with a header of its own (design, part, date), which tells a wrong die before
anything is loaded. Names and folders are those of VTA's public collection.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..backend.target import Target
from ..errors import DeviceError

COLLECTION = "https://github.com/uwsampl/vta-distro, folder bitstreams"
FIRST_OF_VERSION = "2020/06/30"
"""Date in the oldest public bitstream of HW_VER 0.0.2."""

PADS_SINCE = "2020/12/04"
"""Since then the source inserts zeros in LOAD ACC; older bitstreams ignore the pads."""

MAX_BYTES = 64 << 20

_MAGIC = bytes.fromhex("0ff00ff00ff00ff000")
_TEXTS = {"a": "design", "b": "part", "c": "date", "d": "time"}
_DIES = re.compile(r"(?:x[caq])?(7[aksvz]\d+[st]?|zu\d+[a-z]+|5c[a-z0-9]+)")


@dataclass(frozen=True)
class Bitstream:
    """A bitstream file and what its header says; without a Xilinx header the texts are "".

    `offset` is where the configuration data begin in the file.
    """

    path: Path
    sha256: str
    design: str = ""
    part: str = ""
    date: str = ""
    time: str = ""
    offset: int = 0

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Bitstream:
        """Read a file; one that is not Xilinx's .bit is taken as it is. Raises DeviceError."""
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise DeviceError(f"bitstream {os.fspath(path)}: {error.strerror}") from None
        if len(data) > MAX_BYTES:
            raise DeviceError(f"bitstream {os.fspath(path)}: larger than {MAX_BYTES} bytes")
        digest = hashlib.sha256(data).hexdigest()
        absolute = Path(os.path.abspath(path))
        if data[2 : 2 + len(_MAGIC)] != _MAGIC:
            return cls(absolute, digest)
        try:
            texts, offset = _header(data)
        except (ValueError, struct.error) as error:
            raise DeviceError(
                f"bitstream {os.fspath(path)}: damaged .bit file ({error}); copy it again"
            ) from None
        return cls(absolute, digest, **texts, offset=offset)

    def require(self, target: Target) -> None:
        """Raise DeviceError if the file cannot be for `target`: another die, or too old."""
        if target.design == "hls" and not self.offset:
            raise DeviceError(
                f"bitstream {self.path}: no .bit file, its first bytes are not those of a Xilinx "
                "bitstream; download it again, in binary"
            )
        mine, wanted = _die(self.part), _die(target.part)
        if mine and wanted and mine != wanted:
            raise DeviceError(
                f"bitstream {self.path}: built for {self.part}, but target {target.name!r} is a "
                f"{target.part}; packages of one die may differ (clg484 and clg400 do not "
                f"matter), dies may not: take the file of target {target.name!r}"
            )
        if self.date and self.date < FIRST_OF_VERSION:
            raise DeviceError(
                f"bitstream {self.path}: built {self.date}, before HW_VER {target.hw_ver} existed. "
                "Files of version 0.0.1 have the same name and another instruction encoding, only "
                f"their folder differs: take the one from {remote_path(target)} of {COLLECTION}"
            )

    def notes(self, target: Target) -> list[str]:
        """What is worth knowing about the file, one line each."""
        found = []
        if self.part and target.part and _package(self.part) != _package(target.part):
            found.append(f"built for {self.part}, the same die as {target.part}")
        if self.date and self.date < PADS_SINCE:
            found.append(f"built {self.date}: ignores the pads of LOAD ACC (not used here)")
        return found

    def payload(self) -> bytes:
        """The configuration data without the header. Raises DeviceError."""
        try:
            return self.path.read_bytes()[self.offset :]
        except OSError as error:
            raise DeviceError(f"bitstream {self.path}: {error.strerror}") from None


def file_name(target: Target) -> str:
    """The name of a target's bitstream, which spells out its geometry."""
    return (
        f"{target.batch}x{target.block_in}_i{1 << target.log_inp_width}"
        f"w{1 << target.log_wgt_width}a{1 << target.log_acc_width}_{target.log_uop_buff_size}_"
        f"{target.log_inp_buff_size}_{target.log_wgt_buff_size}_{target.log_acc_buff_size}.bit"
    )


def remote_path(target: Target) -> str:
    """Where the public collection keeps a target's bitstream."""
    return f"bitstreams/{target.name}/{target.hw_ver}/{file_name(target)}"


def cache_path(target: Target, environment: Mapping[str, str] | None = None) -> Path:
    """Where a target's bitstream is looked for: VTA_CACHE_PATH, or ~/.vta_cache."""
    environment = os.environ if environment is None else environment
    root = environment.get("VTA_CACHE_PATH") or os.path.expanduser("~/.vta_cache")
    return Path(root) / target.name / target.hw_ver.replace(".", "_") / file_name(target)


def find_bitstream(
    target: Target,
    path: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Bitstream:
    """The bitstream at `path`, or the target's in the cache, known to be for `target`.

    Raises DeviceError saying which file is needed and where it comes from.
    """
    if path is None:
        path = cache_path(target, environment)
        if not path.is_file():
            raise DeviceError(
                f"no bitstream for target {target.name!r}: put {file_name(target)} at {path}, or "
                f"name it with --bitstream PATH; public ones: {remote_path(target)} of "
                f"{COLLECTION} (mind the version's folder: {target.hw_ver} and 0.0.1 have the same "
                "file names)"
            )
    bitstream = Bitstream.read(path)
    bitstream.require(target)
    return bitstream


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """The texts of a .bit header, and where the data behind it begin. Raises ValueError."""
    position = 2 + len(_MAGIC) + 2
    texts: dict[str, str] = {}
    while True:
        (raw,) = struct.unpack_from(">c", data, position)
        key = raw.decode("latin-1")
        if key == "e":
            (size,) = struct.unpack_from(">I", data, position + 1)
            position += 5
            if position + size != len(data):
                raise ValueError(
                    f"its header promises {size} bytes of data, it has {len(data) - position}"
                )
            return texts, position
        if key not in _TEXTS or _TEXTS[key] in texts:
            raise ValueError(f"unknown header field {key!r}")
        (size,) = struct.unpack_from(">H", data, position + 1)
        text = data[position + 3 : position + 3 + size]
        texts[_TEXTS[key]] = text.rstrip(b"\0").decode("ascii")
        position += 3 + size


def _die(part: str) -> str:
    """The die in a part's name, without vendor prefix, package and speed; "" if unknown."""
    match = _DIES.match(part.lower())
    return match.group(1) if match else ""


def _package(part: str) -> str:
    """A part's name without vendor prefix and speed."""
    return re.sub(r"^x[caq]|-\d.*$", "", part.lower()).replace("-", "")
