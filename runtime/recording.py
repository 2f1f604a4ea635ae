"""Recorded launches: the .npz format of one instruction stream with its memory before and after.

Owns the format, its validation and its writing. Nothing in a file is trusted: sizes are checked
before they are allocated, pickled objects are never loaded, every problem is a DataError of one
line that names the file and the key.

Keys: insns uint8[n,16], insn_phy_addr uint64, for pre (DRAM that LOADs read, before the run) and
post (DRAM that STOREs wrote, after it) the regions *_addr and *_len uint64[k] with *_data
uint8[sum], tokens_before and tokens_after uint32[4], optionally whole SRAMs
sram_{inp,wgt,acc,uop}_{before,after} uint8[], and as JSON text counters and meta. `meta` may name
the hardware as "target"; without it, the default geometry is meant.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..backend.artifact import write_whole
from ..backend.commands import Memory
from ..backend.target import Target
from ..errors import DataError
from .counters import COUNTERS
from .interleave import QUEUES, Tokens
from .memory import ADDRESS_SPACE, Bytes

MAX_FILE_BYTES = 1 << 30
"""Uncompressed bytes that a recording may have."""

_MAX_MEMBERS = 64

_BYTES, _WIDE, _WORD = np.dtype(np.uint8), np.dtype("<u8"), np.dtype("<u4")
_ARRAYS: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
    "insns": (_BYTES, (-1, 16)),
    "insn_phy_addr": (_WIDE, ()),
    "pre_addr": (_WIDE, (-1,)),
    "pre_len": (_WIDE, (-1,)),
    "pre_data": (_BYTES, (-1,)),
    "post_addr": (_WIDE, (-1,)),
    "post_len": (_WIDE, (-1,)),
    "post_data": (_BYTES, (-1,)),
    "tokens_before": (_WORD, (len(QUEUES),)),
    "tokens_after": (_WORD, (len(QUEUES),)),
}
"""Type and shape of each array that a recording must have; -1 is any length."""

_TEXTS = ("counters", "meta")
_SRAMS = (Memory.INP, Memory.WGT, Memory.ACC, Memory.UOP)

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What zipfile and NumPy raise on files that are damaged or no recordings at all."""


@dataclass(frozen=True, eq=False)
class Block:
    """DRAM bytes at a physical address."""

    address: int
    data: Bytes

    @property
    def end(self) -> int:
        """The first address after the block."""
        return self.address + len(self.data)


@dataclass(frozen=True, eq=False)
class Recording:
    """One launch with what it found and what it left. Blocks are sorted and disjoint."""

    target: Target
    insns: NDArray[np.uint8]
    insn_address: int
    pre: tuple[Block, ...]
    post: tuple[Block, ...]
    tokens_before: Tokens
    tokens_after: Tokens
    counters: Mapping[str, int]
    sram_before: Mapping[Memory, Bytes] = field(default_factory=dict)
    sram_after: Mapping[Memory, Bytes] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read and validate a file. Raises DataError, or TargetError for its `meta` target."""
        source = os.fspath(path)
        arrays, texts = _read(source)
        counters, meta = (_json_object(source, name, texts[name]) for name in _TEXTS)
        for name in COUNTERS:
            if type(counters.get(name)) is not int:
                raise DataError(f"{source}: counters lack the integer {name!r}")
        described = meta.get("target")
        target = Target.load("sim") if described is None else Target.from_json(described, source)
        return cls(
            target=target,
            insns=arrays["insns"],
            insn_address=int(arrays["insn_phy_addr"]),
            pre=_blocks(source, "pre", arrays),
            post=_blocks(source, "post", arrays),
            tokens_before=_tokens(arrays["tokens_before"]),
            tokens_after=_tokens(arrays["tokens_after"]),
            counters={name: counters[name] for name in COUNTERS},
            sram_before=_srams(source, target, "before", arrays),
            sram_after=_srams(source, target, "after", arrays),
            meta=meta,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file completely or not at all. Raises DataError."""
        arrays: dict[str, Any] = {
            "insns": self.insns,
            "insn_phy_addr": np.array(self.insn_address, _WIDE),
            **_block_arrays("pre", self.pre),
            **_block_arrays("post", self.post),
            "tokens_before": np.array(self.tokens_before, _WORD),
            "tokens_after": np.array(self.tokens_after, _WORD),
            "counters": np.array(json.dumps(dict(self.counters))),
            "meta": np.array(json.dumps({**self.meta, "target": self.target.to_json()})),
        }
        for when, srams in (("before", self.sram_before), ("after", self.sram_after)):
            arrays |= {_sram_key(memory, when): data for memory, data in srams.items()}
        try:
            write_whole(path, lambda stream: np.savez_compressed(stream, **arrays))
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"{os.fspath(path)}: cannot write: {reason}") from None


def _read(source: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Every known array and text of the file, with types and shapes checked."""
    optional = {_sram_key(memory, when): (_BYTES, (-1,)) for memory in _SRAMS
                for when in ("before", "after")}
    arrays: dict[str, NDArray[Any]] = {}
    texts: dict[str, str] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            members = _members(source, archive)
            for key, (dtype, shape) in {**_ARRAYS, **optional}.items():
                if key in members or key not in optional:
                    arrays[key] = _array(source, archive, members, key, dtype.str, shape)
            for key in _TEXTS:
                texts[key] = str(_array(source, archive, members, key, "<U", ())[()])
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{source}: cannot read a recorded launch: {reason}") from None
    return arrays, texts


def _members(source: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by key, their number and sizes bounded."""
    infos = archive.infolist()
    size = sum(info.file_size for info in infos)
    if len(infos) > _MAX_MEMBERS or size > MAX_FILE_BYTES:
        raise DataError(
            f"{source}: {len(infos)} members of {size} bytes; a recorded launch has at most "
            f"{_MAX_MEMBERS} of {MAX_FILE_BYTES}"
        )
    return {info.filename.removesuffix(".npy"): info for info in infos}


def _array(
    source: str,
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    key: str,
    kind: str,
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """One array; its header is checked before its data are read."""
    if key not in members:
        raise DataError(f"{source}: the key {key!r} is missing; is this a recorded launch?")
    with archive.open(members[key]) as stream:
        if npy.read_magic(stream) == (1, 0):
            found, fortran, dtype = npy.read_array_header_1_0(stream)
        else:
            found, fortran, dtype = npy.read_array_header_2_0(stream)
        fits = len(found) == len(shape) and all(
            w in (-1, f) for w, f in zip(shape, found, strict=True)
        )
        if not dtype.str.startswith(kind) or not fits or (fortran and len(shape) > 1):
            wanted = "text" if kind == "<U" else np.dtype(kind)
            listed = ", ".join("n" if length < 0 else str(length) for length in shape)
            raise DataError(
                f"{source}: {key} is {dtype}{list(found)}; it must be {wanted}[{listed}]"
            )
        size = prod(found) * dtype.itemsize
        data = stream.read(min(size, MAX_FILE_BYTES) + 1)
    if len(data) != size:
        raise DataError(f"{source}: {key} has {len(data)} bytes of data, not {size}")
    return np.frombuffer(data, dtype).reshape(found)


def _json_object(source: str, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: {key} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{source}: {key} is no JSON object")
    return value


def _blocks(source: str, when: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Block, ...]:
    addresses = [int(address) for address in arrays[f"{when}_addr"]]
    lengths = [int(length) for length in arrays[f"{when}_len"]]
    data = arrays[f"{when}_data"]
    if len(addresses) != len(lengths) or sum(lengths) != len(data) or 0 in lengths:
        raise DataError(
            f"{source}: {when}_addr, {when}_len and {when}_data disagree: {len(addresses)} "
            f"addresses, {len(lengths)} lengths of {sum(lengths)} bytes, {len(data)} bytes"
        )
    blocks, taken, end = [], 0, 0
    for address, length in zip(addresses, lengths, strict=True):
        if address < end or address + length > ADDRESS_SPACE:
            raise DataError(
                f"{source}: {when} region at {address:#x} of {length} bytes is out of order, "
                "overlaps another or passes 32 bits"
            )
        blocks.append(Block(address, data[taken : taken + length]))
        taken, end = taken + length, address + length
    return tuple(blocks)


def _block_arrays(when: str, blocks: Sequence[Block]) -> dict[str, NDArray[Any]]:
    return {
        f"{when}_addr": np.array([block.address for block in blocks], _WIDE),
        f"{when}_len": np.array([len(block.data) for block in blocks], _WIDE),
        f"{when}_data": np.concatenate([np.zeros(0, np.uint8), *(b.data for b in blocks)]),
    }


def _tokens(counts: NDArray[Any]) -> Tokens:
    a, b, c, d = (int(count) for count in counts)
    return a, b, c, d


def _sram_key(memory: Memory, when: str) -> str:
    return f"sram_{memory.name.lower()}_{when}"


def _srams(
    source: str, target: Target, when: str, arrays: Mapping[str, NDArray[Any]]
) -> dict[Memory, Bytes]:
    found = {}
    for memory in _SRAMS:
        key, size = _sram_key(memory, when), target.depth(memory) * target.element_bytes(memory)
        if key in arrays:
            if len(arrays[key]) != size:
                raise DataError(f"{source}: {key} has {len(arrays[key])} bytes, not {size}")
            found[memory] = arrays[key]
    return found
