"""The manifest of an artifact: its fields, their types, and what must hold between them.

A manifest may come from a stranger. `parse` turns bytes into a mapping without being led into
unbounded work, `validate` refuses everything that a later reader could stumble over, so that
code behind it indexes without asking. `SCHEMA` is the table of fields; the functions named
`_check_*` hold what ties fields together. All errors are `ArtifactError`, one line, and begin
with the place of the fault. Unknown fields are allowed anywhere, as long as they are plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import Any, NoReturn

import numpy as np

from ..errors import ArtifactError
from . import strict_json
from .commands import Memory
from .dram import CONSTANTS_START

FORMAT = "vtaflow-artifact"
FORMAT_VERSION = 1

MAX_MANIFEST_BYTES = 4 << 20
MAX_TENSOR_BYTES = 1 << 28
MAX_ARENA_BYTES = 1 << 32
MAX_INSTRUCTIONS = (32 << 20) // 16
MAX_BATCH = 4096
MAX_COUNT = 1 << 53
MAX_ITEMS = 1 << 16
MAX_NAME = 512
MAX_LINE = 4096
MAX_RANK = 8
MAX_DEPTH = 6

DTYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)
REGION_KINDS = ("constant", "input", "output", "activation")

Check = Callable[[Any, str], None]


def _fail(where: str, expected: str, value: Any) -> NoReturn:
    found = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    found = found if len(found) <= 60 else found[:57] + "..."
    raise ArtifactError(f"{where}: expected {expected}, found {found}")


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Manifest bytes -> JSON object; `where` begins the message of the ArtifactError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{where}: the manifest has {len(data)} bytes, the limit is {MAX_MANIFEST_BYTES}"
        )
    try:
        manifest = strict_json.parse(data)
    except RecursionError:
        raise ArtifactError(f"{where}: the manifest is nested too deeply") from None
    except ValueError as error:
        raise ArtifactError(f"{where}: the manifest is not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        _fail(f"{where}: manifest", "an object", manifest)
    return manifest


def text(limit: int = MAX_NAME, pattern: str = "", choices: Sequence[str] = ()) -> Check:
    """Printable text: a terminal or a log that shows it cannot be played tricks on."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            _fail(where, "text", value)
        if choices and value not in choices:
            _fail(where, "one of " + ", ".join(choices), value)
        if len(value) > limit or not value.isprintable():
            _fail(where, f"printable text of at most {limit} characters", value)
        if pattern and not re.fullmatch(pattern, value):
            _fail(where, f"text like {pattern}", value)

    return check


def integer(least: int, most: int) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            _fail(where, f"an integer from {least} to {most}", value)

    return check


def positive(value: Any, where: str) -> None:
    """A finite number above 0, as every scale is."""
    if type(value) not in (int, float) or not isfinite(value) or value <= 0:
        _fail(where, "a finite number above 0", value)


def boolean(value: Any, where: str) -> None:
    if type(value) is not bool:
        _fail(where, "true or false", value)


def nullable(check: Check) -> Check:
    def either(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return either


def array(check: Check, least: int = 0, most: int = MAX_ITEMS) -> Check:
    def check_all(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            found = f"{len(value)} items" if isinstance(value, list) else value
            _fail(where, f"a list of {least} to {most} items", found)
        for index, item in enumerate(value):
            check(item, f"{where}[{index}]")

    return check_all


def table(check: Check, most: int = MAX_ITEMS) -> Check:
    """An object with any keys."""

    def check_all(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) > most:
            _fail(where, f"an object of at most {most} fields", value)
        for key, item in value.items():
            NAME(key, f"{where}: a key")
            check(item, f"{where}.{key}")

    return check_all


def record(fields: Mapping[str, Check]) -> Check:
    """An object that has at least `fields`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        for key, field in fields.items():
            if key not in value:
                raise ArtifactError(f"{where}: the field {key!r} is missing")
            field(value[key], f"{where}.{key}")
        for key in value.keys() - fields.keys():
            NAME(key, f"{where}: a key")
            plain(value[key], f"{where}.{key}")

    return check


def plain(value: Any, where: str, depth: int = MAX_DEPTH) -> None:
    """JSON of bounded depth whose text is printable and whose numbers are finite."""
    if isinstance(value, str):
        LINE(value, where)
    elif isinstance(value, float):
        if not isfinite(value):
            _fail(where, "a finite number", value)
    elif isinstance(value, (list, dict)):
        if depth == 0:
            raise ArtifactError(f"{where}: nested too deeply")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            LINE(str(key), f"{where}: a key")
            plain(item, f"{where}[{key}]", depth - 1)


NAME = text()
LINE = text(MAX_LINE)
COUNT = integer(0, MAX_COUNT)
DTYPE = text(choices=DTYPES)
SHAPE = array(integer(1, 1 << 24), 0, MAX_RANK)
BATCHED_SHAPE = array(integer(1, 1 << 24), 1, MAX_RANK)
SHA256 = text(64, "[0-9a-f]{64}")
MEMBER_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
MEMBER = text(100, MEMBER_PATTERN)
LAYOUT = record(
    {
        "order": text(4, "[NCHW]{0,4}"),
        "batch": integer(1, 1 << 10),
        "block": integer(1, 1 << 10),
    }
)
TENSOR = record(
    {
        "name": NAME,
        "shape": BATCHED_SHAPE,
        "dtype": DTYPE,
        "quantisation": nullable(record({"scale": positive})),
    }
)
CONSTANT = record({"member": MEMBER, "shape": SHAPE, "dtype": DTYPE})
REGION = record(
    {
        "name": NAME,
        "kind": text(choices=REGION_KINDS),
        "memory": text(choices=[memory.name for memory in Memory]),
        "start": integer(CONSTANTS_START, MAX_ARENA_BYTES),
        "bytes": integer(0, MAX_ARENA_BYTES),
        "shape": nullable(SHAPE),
        "logical_shape": nullable(SHAPE),
        "dtype": nullable(DTYPE),
        "layout": nullable(LAYOUT),
        "scale": nullable(positive),
    }
)
STEP_KINDS: Mapping[str, Check] = {
    "host": record(
        {
            "name": NAME,
            "op": text(100, "[A-Za-z][A-Za-z0-9_]*"),
            "inputs": array(NAME, 0, 1024),
            "outputs": array(NAME, 1, 1024),
            "attrs": table(plain, 64),
        }
    ),
    "launch": record(
        {
            "index": integer(0, 255),
            "inputs": array(NAME, 0, 1024),
            "outputs": array(NAME, 0, 1024),
        }
    ),
}


def step(value: Any, where: str) -> None:
    """A step has the fields of its kind."""
    record({"kind": text(choices=tuple(STEP_KINDS))})(value, where)
    STEP_KINDS[value["kind"]](value, where)


SCHEMA: Mapping[str, Check] = {
    "format": text(choices=(FORMAT,)),
    "format_version": integer(FORMAT_VERSION, FORMAT_VERSION),
    "producer": NAME,
    "model": record({"name": NAME, "sha256": nullable(SHA256)}),
    "target": table(plain, 256),
    "fingerprint": table(plain, 64),
    "profile": NAME,
    "batch": integer(1, MAX_BATCH),
    "inputs": array(TENSOR, 1, 256),
    "outputs": array(TENSOR, 1, 256),
    "preprocessing": nullable(table(plain, 64)),
    "steps": array(step, 0, 4096),
    "host_constants": table(CONSTANT, 4096),
    "launches": array(
        record(
            {
                "member": MEMBER,
                "origins_member": MEMBER,
                "instructions": integer(1, MAX_INSTRUCTIONS),
                "estimated_cycles": COUNT,
            }
        ),
        0,
        256,
    ),
    "origins": array(array(NAME, 0, 4096)),
    "arena": record(
        {
            "bytes": integer(0, MAX_ARENA_BYTES),
            "keep_intermediates": boolean,
            "regions": array(REGION),
        }
    ),
    "constants": record(
        {"member": MEMBER, "start": integer(CONSTANTS_START, CONSTANTS_START)}
    ),
    "layers": array(
        record(
            {
                "name": NAME,
                "op": NAME,
                "output": NAME,
                "macs": COUNT,
                "tiles": LINE,
                "bytes": COUNT,
                "estimated_cycles": COUNT,
                "loop_nest": array(LINE),
            }
        )
    ),
    "placement": array(
        record({"node": NAME, "op": NAME, "device": NAME, "reason": LINE})
    ),
    "members": table(record({"bytes": integer(0, MAX_ARENA_BYTES), "sha256": SHA256}), 4096),
}
"""Every field that a manifest must have. `quantisation`, `scale` and the like may be null."""


def check_version(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse another format or version before anything else is looked at."""
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"{where}: the manifest does not say format {FORMAT!r}")
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        found = str(version)[:40] if type(version) is int else "missing or no integer"
        raise ArtifactError(
            f"{where}: the artifact's format version is {found}, this program reads "
            f"{FORMAT_VERSION}: compile the model again with this version"
        )


def validate(
    manifest: dict[str, Any], members: Mapping[str, memoryview | bytes], where: str
) -> None:
    """Raise ArtifactError unless the manifest and the members fit each other in every respect."""
    check_version(manifest, where)
    where = f"{where}: manifest"
    record(SCHEMA)(manifest, where)
    _check_members(manifest, members, where)
    _check_tensors(manifest, members, where)
    _check_arena(manifest, len(members[manifest["constants"]["member"]]), where)
    _check_launches(manifest, members, where)
    _check_steps(manifest, where)


def _check_members(
    manifest: dict[str, Any], members: Mapping[str, memoryview | bytes], where: str
) -> None:
    """Members present are exactly the members listed, and all that is referred to is there."""
    listed = manifest["members"]
    if listed.keys() != members.keys():
        odd = sorted(listed.keys() ^ members.keys())[0]
        problem = "is listed but absent" if odd in listed else "is not listed in the manifest"
        raise ArtifactError(f"{where}: the member {odd[:100]!r} {problem}")
    used = [manifest["constants"]["member"]]
    used += [entry["member"] for entry in manifest["host_constants"].values()]
    for launch in manifest["launches"]:
        used += [launch["member"], launch["origins_member"]]
    for name in used:
        if name not in listed:
            raise ArtifactError(f"{where}: the member {name!r} is referred to but absent")


def tensor_bytes(shape: Sequence[int], dtype: str) -> int:
    """Bytes of an array, in Python integers that cannot overflow."""
    return prod(shape) * np.dtype(dtype).itemsize


def _check_tensors(
    manifest: dict[str, Any], members: Mapping[str, memoryview | bytes], where: str
) -> None:
    """Sizes are bounded, names unique, batches agree, constants have their bytes."""
    for side in ("inputs", "outputs"):
        names = [tensor["name"] for tensor in manifest[side]]
        if len(set(names)) != len(names):
            raise ArtifactError(f"{where}.{side}: a name stands there twice")
        for index, tensor in enumerate(manifest[side]):
            place = f"{where}.{side}[{index}]"
            _bounded(tensor, place)
            if tensor["shape"][0] != manifest["batch"]:
                _fail(f"{place}.shape[0]", f"the batch {manifest['batch']}", tensor["shape"][0])
    for name, entry in manifest["host_constants"].items():
        place = f"{where}.host_constants.{name}"
        _bounded(entry, place)
        expected = tensor_bytes(entry["shape"], entry["dtype"])
        found = len(members[entry["member"]])
        if found != expected:
            _fail(place, f"a member of {expected} bytes", found)


def _bounded(tensor: Mapping[str, Any], where: str) -> None:
    size = tensor_bytes(tensor["shape"], tensor["dtype"])
    if size > MAX_TENSOR_BYTES:
        _fail(where, f"a tensor of at most {MAX_TENSOR_BYTES} bytes", size)


def _check_arena(manifest: dict[str, Any], constant_bytes: int, where: str) -> None:
    """Regions lie inside the arena, constants inside their image and nothing else there."""
    arena = manifest["arena"]
    image_end = CONSTANTS_START + constant_bytes
    if image_end > arena["bytes"] and constant_bytes:
        _fail(f"{where}.arena.bytes", f"at least {image_end} for the constants", arena["bytes"])
    seen: set[str] = set()
    for index, region in enumerate(arena["regions"]):
        place = f"{where}.arena.regions[{index}]"
        if region["name"] in seen:
            raise ArtifactError(f"{place}: a second region is named {region['name']!r}")
        seen.add(region["name"])
        end = region["start"] + region["bytes"]
        if end > arena["bytes"]:
            _fail(place, f"an end within the arena of {arena['bytes']} bytes", end)
        if region["kind"] == "constant" and end > image_end:
            _fail(place, f"a constant that ends by {image_end}", end)
        if region["kind"] != "constant" and region["start"] < image_end and region["bytes"]:
            _fail(place, f"a start behind the constants, {image_end}", region["start"])
        if region["shape"] is not None and region["dtype"] is not None:
            _bounded(region, place)
            size = tensor_bytes(region["shape"], region["dtype"])
            if size > region["bytes"]:
                _fail(place, f"room for its shape, {size} bytes", region["bytes"])


def _check_launches(
    manifest: dict[str, Any], members: Mapping[str, memoryview | bytes], where: str
) -> None:
    """Streams and provenance have as many entries as they say, origins and roles exist."""
    roles = manifest.get("roles", [])
    array(NAME, len(manifest["origins"]) if roles else 0, len(manifest["origins"]))(
        roles, f"{where}.roles"
    )
    for index, launch in enumerate(manifest["launches"]):
        place = f"{where}.launches[{index}]"
        for key, size in (("member", 16), ("origins_member", 4)):
            found = len(members[launch[key]])
            if found != size * launch["instructions"]:
                expected = f"a member of {size * launch['instructions']} bytes"
                _fail(f"{place}.{key}", expected, found)
        origins = np.frombuffer(members[launch["origins_member"]], "<i4")
        if origins.min() < 0 or origins.max() >= len(manifest["origins"]):
            worst = int(origins.min()) if origins.min() < 0 else int(origins.max())
            expected = f"indices below {len(manifest['origins'])}"
            _fail(f"{place}.origins_member", expected, worst)


def _check_steps(manifest: dict[str, Any], where: str) -> None:
    """Every value is made once, before its first use; every launch happens once, in order."""
    regions = {region["name"]: region for region in manifest["arena"]["regions"]}
    constants = set(manifest["host_constants"])
    known = {tensor["name"] for tensor in manifest["inputs"]}
    if known & constants:
        raise ArtifactError(f"{where}: {min(known & constants)!r} is both input and constant")
    launched = 0
    for index, entry in enumerate(manifest["steps"]):
        place = f"{where}.steps[{index}]"
        host = entry["kind"] == "host"
        if not host:
            if entry["index"] != launched or launched >= len(manifest["launches"]):
                _fail(f"{place}.index", "each launch once, in order", entry["index"])
            launched += 1
            for name in (*entry["inputs"], *entry["outputs"]):
                _check_transfer(regions.get(name), name, place)
        for name in entry["inputs"]:
            if name not in known and not (host and (name in constants or not name)):
                raise ArtifactError(f"{place}: the value {name!r} is not known there")
        for name in entry["outputs"]:
            if name in known or name in constants:
                raise ArtifactError(f"{place}: the value {name!r} is made twice")
            known.add(name)
    if launched != len(manifest["launches"]):
        raise ArtifactError(f"{where}.steps: launch {launched} is never run")
    for tensor in manifest["outputs"]:
        if tensor["name"] not in known and tensor["name"] not in constants:
            raise ArtifactError(f"{where}.outputs: no step makes {tensor['name']!r}")


def _check_transfer(region: Mapping[str, Any] | None, name: str, where: str) -> None:
    """The host writes and reads only regions that have a shape and are no constants."""
    if region is None:
        raise ArtifactError(f"{where}: there is no region {name!r}")
    if region["kind"] == "constant" or region["shape"] is None or region["dtype"] is None:
        raise ArtifactError(f"{where}: the region {name!r} is no tensor that the host may touch")
