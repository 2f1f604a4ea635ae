"""The artifact file: round trip, determinism, and every way in which a file can be bad."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow.backend import artifact as artifact_module
from vtaflow.backend import manifest as manifest_module
from vtaflow.backend.artifact import Artifact, write_whole
from vtaflow.backend.commands import Memory
from vtaflow.backend.target import Target
from vtaflow.errors import ArtifactError

from .artifacts import Manifest, example, finish


def good() -> Artifact:
    return Artifact.create(*example())


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these entries, exactly as given."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


def entries_of(artifact: Artifact) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(artifact.to_bytes())) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def forged(change: Callable[[Manifest], object]) -> bytes:
    """The good artifact with a changed manifest whose digest is made right again."""
    entries = dict(entries_of(good()))
    manifest = json.loads(entries["manifest.json"])
    change(manifest)
    entries["manifest.json"] = json.dumps(manifest).encode()
    return resealed(entries)


def resealed(entries: dict[str, bytes]) -> bytes:
    digest = hashlib.sha256(entries["manifest.json"]).hexdigest()
    entries["manifest.sha256"] = f"{digest}  manifest.json\n".encode()
    return zipped(list(entries.items()))


def refuses(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.load(data, "m.vta")
    assert str(caught.value).startswith("m.vta: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# --- what a good artifact gives ----------------------------------------------------------------


def test_save_and_load_give_the_same_artifact(tmp_path: Path) -> None:
    path = tmp_path / "tiny.vta"
    artifact = good()
    artifact.save(path)
    again = Artifact.load(path)
    assert again == artifact
    assert again.to_bytes() == path.read_bytes() == Artifact.load(path.read_bytes()).to_bytes()
    assert again.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(tmp_path) == ["tiny.vta"]


def test_bytes_do_not_depend_on_time_or_member_order() -> None:
    manifest, members = example()
    turned = dict(reversed(members.items()))
    assert Artifact.create(manifest, turned).manifest["members"].keys() == members.keys()
    with zipfile.ZipFile(io.BytesIO(good().to_bytes())) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert good().to_bytes() == good().to_bytes()


def test_the_digest_line_is_what_sha256sum_reads() -> None:
    entries = dict(entries_of(good()))
    digest = hashlib.sha256(entries["manifest.json"]).hexdigest()
    assert entries["manifest.sha256"] == f"{digest}  manifest.json\n".encode()


def test_views() -> None:
    artifact = good()
    assert (artifact.name, artifact.batch, artifact.launches) == ("tiny", 1, 1)
    assert artifact.target == Target.load("sim")
    assert artifact.instructions(0).tobytes() == finish()
    assert artifact.origins(0) == [("Gemm_0", "Relu_1"), ()]
    assert artifact.roles(0) == ["", ""]
    assert np.array_equal(artifact.constants, np.zeros(16, np.uint8))
    assert np.array_equal(artifact.host_constants()["offset"], np.arange(10))
    stored = artifact.regions["x_packed"]
    assert (stored.memory, stored.start, stored.bytes) == (Memory.OUT, 8192, 16)
    assert (stored.shape, stored.logical_shape) == ((1, 1, 1, 16), (1, 10))
    assert artifact.regions["uops"].shape is None


def test_unknown_plain_fields_are_kept() -> None:
    manifest, members = example()
    manifest["layers"][0]["note"] = {"a": [1, 2.5, None, True]}
    artifact = Artifact.create(manifest, members)
    assert Artifact.load(artifact.to_bytes()) == artifact


# --- targets -----------------------------------------------------------------------------------


def test_same_geometry_under_another_name_is_accepted() -> None:
    good().require_target(Target.load("pynq"))


def test_another_geometry_is_decoded_with_the_way_out() -> None:
    other = Target.from_json(
        {**Target.load("sim").to_json(), "TARGET": "big", "LOG_BLOCK": 5}, "big"
    )
    with pytest.raises(ArtifactError) as caught:
        good().require_target(other)
    assert str(caught.value) == (
        "artifact: compiled for target 'sim' with LOG_BLOCK 4 (target: 5); it does not run on "
        "'big', rebuild it with: deploy compile tiny.onnx --target big -o tiny.vta"
    )


def test_a_stream_that_needs_another_profile_is_refused() -> None:
    manifest, members = example()
    artifact = Artifact.create({**manifest, "profile": "fsim"}, members)
    artifact.require_target(Target.load("sim"))
    with pytest.raises(ArtifactError, match=r"profile fsim \(target: hls\)"):
        artifact.require_target(Target.load("pynq"))


def test_a_fingerprint_that_is_not_the_targets_is_refused() -> None:
    refuses(forged(lambda m: m["fingerprint"].update(LOG_BLOCK=5)), "not that of the target")


def test_an_illegal_target_is_refused() -> None:
    refuses(forged(lambda m: m["target"].update(LOG_BLOCK=50)), "its target is illegal: .*LOG_BLO")


def test_an_arena_larger_than_the_targets_memory_is_refused() -> None:
    def grow(manifest: Manifest) -> None:
        manifest["arena"]["bytes"] = manifest["target"]["dram_bytes"] + 4096

    refuses(forged(grow), "exceeds dram_bytes")


# --- files -------------------------------------------------------------------------------------


def test_a_missing_file() -> None:
    with pytest.raises(ArtifactError, match="no/such.vta: cannot read: No such file"):
        Artifact.load("no/such.vta")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a regular file"):
        Artifact.load(tmp_path)


def test_an_impossible_path() -> None:
    with pytest.raises(ArtifactError, match="cannot read: embedded null"):
        Artifact.load("a\0b")


def test_an_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write: No such file"):
        good().save(tmp_path / "none" / "m.vta")


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.vta"
    path.write_text("old")

    def fail(stream: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.vta"]


def test_saving_onto_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.vta").mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        good().save(tmp_path / "m.vta")
    assert os.listdir(tmp_path) == ["m.vta"]


def test_a_file_that_is_no_zip() -> None:
    refuses(b"", "not a vtaflow artifact")
    refuses(b"\x08\x07 onnx or anything", "not a vtaflow artifact")


def test_a_zip_that_is_no_artifact() -> None:
    refuses(zipped([("a", b"b")]), "it has no manifest.json")
    refuses(zipped([("manifest.json", b"{}")]), "it has no manifest.sha256")


def test_every_truncation_is_refused() -> None:
    data = good().to_bytes()
    for length in [*range(5, len(data), 97), len(data) - 1]:
        refuses(data[:length], "truncated")


def test_a_tail_is_refused() -> None:
    refuses(good().to_bytes() + b"tail", "truncated, the end")
    data = good().to_bytes()
    refuses(data[:-2] + struct.pack("<H", 4) + b"tail", "truncated, the end")
    refuses(data[:-2] + struct.pack("<H", 4), "something was added")
    refuses(b"PK\3\4" + data, "something was added")


def test_no_flipped_byte_passes_unnoticed() -> None:
    """A flip is refused, or it touched what carries no meaning (dates, attributes)."""
    artifact = good()
    data = artifact.to_bytes()
    refused = 0
    for position in range(0, len(data), 7):
        broken = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
        try:
            loaded = Artifact.load(broken)
        except ArtifactError:
            refused += 1
        else:
            assert loaded == artifact
    assert refused > len(data) // 7 * 0.7


def test_a_file_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "MAX_FILE_BYTES", 100)
    refuses(good().to_bytes(), "the limit is 100")


def test_a_swapped_member() -> None:
    entries = dict(entries_of(good()))
    entries["constants.bin"] = bytes([1]) * 16
    refuses(zipped(list(entries.items())), "'constants.bin' was altered")


def test_an_altered_manifest() -> None:
    entries = dict(entries_of(good()))
    entries["manifest.json"] = entries["manifest.json"].replace(b"tiny", b"tony")
    refuses(zipped(list(entries.items())), "manifest.json was altered")


def test_a_forged_length_in_the_manifest() -> None:
    refuses(
        forged(lambda m: m["members"]["constants.bin"].update(bytes=17)),
        "'constants.bin' was altered",
    )


# --- zip tricks --------------------------------------------------------------------------------


def test_a_compressed_member_is_refused_before_it_is_unpacked() -> None:
    bomb = zipped([*entries_of(good()), ("bomb", bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    refuses(bomb, "is compressed, members are raw")


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/b", "a\\b", ".hidden", "x" * 101])
def test_names_that_are_paths(name: str) -> None:
    refuses(zipped([*entries_of(good()), (name, b"")]), "is not allowed")


def test_a_name_twice() -> None:
    refuses(zipped([*entries_of(good()), ("c0", b"")]), "'c0' is there twice")


def test_too_many_members() -> None:
    many = [(f"m{index}", b"") for index in range(artifact_module.MAX_MEMBERS)]
    refuses(zipped(entries_of(good()) + many), "1030 members with a directory")


def test_a_huge_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "MAX_DIRECTORY_BYTES", 100)
    refuses(good().to_bytes(), "the limits are")


def test_zip64_is_refused() -> None:
    data = bytearray(good().to_bytes())
    data[-42:-38] = b"PK\6\7"
    refuses(bytes(data), "the limits are")


def directory_patched(name: str, offset: int, value: bytes) -> bytes:
    """The good file with bytes of the directory entry of `name` replaced."""
    data = bytearray(good().to_bytes())
    start = data.rfind(name.encode()) - 46
    data[start + offset : start + offset + len(value)] = value
    return bytes(data)


def test_overlapping_members() -> None:
    with zipfile.ZipFile(io.BytesIO(good().to_bytes())) as archive:
        offset = archive.getinfo("c0").header_offset
    refuses(directory_patched("launch0.insns", 42, struct.pack("<I", offset)), "overlaps another")


def test_a_member_larger_than_the_file() -> None:
    huge = struct.pack("<II", 1 << 30, 1 << 30)
    refuses(directory_patched("launch0.origins", 20, huge), "ends behind the file")


def test_an_encrypted_member() -> None:
    refuses(directory_patched("c0", 8, b"\1\0"), "is encrypted")


def test_an_unlisted_member() -> None:
    refuses(zipped([*entries_of(good()), ("extra", b"")]), "'extra' is not listed")


def test_an_absent_member() -> None:
    entries = dict(entries_of(good()))
    del entries["c0"]
    refuses(zipped(list(entries.items())), "'c0' is listed but absent")


# --- JSON tricks -------------------------------------------------------------------------------


def with_manifest(raw: bytes) -> bytes:
    return resealed({**dict(entries_of(good())), "manifest.json": raw})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "expected an object, found list"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1, "a": 2}', 'key "a" occurs twice'),
        (b'{"a": ' + b"9" * 100 + b"}", "a number of 100 digits"),
        (b"{}", "does not say format 'vtaflow-artifact'"),
        (b'{"format": "vtaflow-artifact"}', "format version is missing"),
        (b'{"format": "vtaflow-artifact", "format_version": true}', "format version is missing"),
        (b'{"format": "vtaflow-artifact", "format_version": 2}', "version is 2, this .* reads 1"),
        (b'{"format": "vtaflow-artifact", "format_version": 1}', "field 'producer' is missing"),
    ],
)
def test_json(raw: bytes, message: str) -> None:
    refuses(with_manifest(raw), message)


def test_an_oversized_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    data = good().to_bytes()
    monkeypatch.setattr(artifact_module, "MAX_MANIFEST_BYTES", 100)
    refuses(data, "manifest.json has .* bytes, the limit is 100")
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ArtifactError, match="the limit is 100"):
        manifest_module.parse(bytes(101), "m.vta")


def test_another_version_is_told_before_the_digest() -> None:
    entries = dict(entries_of(good()))
    entries["manifest.json"] = entries["manifest.json"].replace(
        b'"format_version": 1', b'"format_version": 9'
    )
    refuses(zipped(list(entries.items())), "format version is 9, this program reads 1")


# --- the table of fields -----------------------------------------------------------------------


def put(path: str, value: Any) -> Callable[[Manifest], None]:
    """A change that sets the field at a dotted path."""

    def change(manifest: Manifest) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place: Any = manifest
        for key in parents:
            place = place[key]
        place[last] = value

    return change


DEEP: Any = "bottom"
for _ in range(10):
    DEEP = [DEEP]

REFUSED_VALUES = [
    ("batch", 0, "batch: expected an integer from 1 to 4096, found 0"),
    ("batch", True, "expected an integer"),
    ("batch", 1.0, "expected an integer"),
    ("producer", 5, "producer: expected text, found 5"),
    ("producer", "a\nb", "expected printable text"),
    ("producer", "\x1b[31m", "expected printable text"),
    ("producer", "x" * 1000, "at most 512 characters"),
    ("model", [], "model: expected an object, found list"),
    ("model.sha256", "00", "expected text like"),
    ("target", {"a": DEEP}, "nested too deeply"),
    ("target", {"a": 1e999}, "is not a JSON number"),
    ("inputs", [], "inputs: expected a list of 1 to 256 items"),
    ("inputs", {}, "expected a list of 1 to 256 items, found dict"),
    ("inputs.0.dtype", "object", "expected one of bool, int8"),
    ("inputs.0.shape", [1, 0], r"shape\[1\]: expected an integer from 1"),
    ("inputs.0.shape", [1, -1], "expected an integer from 1"),
    ("inputs.0.shape", [1, "N"], "expected an integer from 1"),
    ("inputs.0.shape", [], "expected a list of 1 to 8 items"),
    ("inputs.0.shape", [2, 10], "expected the batch 1, found 2"),
    ("inputs.0.shape", [1, 1 << 20, 1 << 20], "a tensor of at most 268435456 bytes"),
    ("inputs.0.quantisation", {"scale": 0}, "a finite number above 0"),
    ("inputs.0.quantisation", {"scale": True}, "a finite number above 0"),
    ("preprocessing", 5, "preprocessing: expected an object"),
    ("preprocessing", {"a": "\n"}, "expected printable text"),
    ("steps.0.kind", "shell", "expected one of host, launch"),
    ("steps.0.op", "../x", "expected text like"),
    ("steps.0.attrs", [], "attrs: expected an object"),
    ("steps.0.outputs", [], "expected a list of 1"),
    ("steps.0.inputs", ["nothing"], "the value 'nothing' is not known there"),
    ("steps.0.outputs", ["x"], "the value 'x' is made twice"),
    ("steps.0.outputs", ["offset"], "the value 'offset' is made twice"),
    ("steps.3.index", 1, "each launch once, in order"),
    ("steps.3.inputs", ["y"], "there is no region 'y'"),
    ("steps.3.inputs", ["uops"], "the region 'uops' is no tensor"),
    ("steps.3.inputs", ["y_packed"], "the value 'y_packed' is not known there"),
    ("outputs.0.name", "z", "no step makes 'z'"),
    ("host_constants.offset.member", "none", "'none' is referred to but absent"),
    ("host_constants.offset.shape", [7], "a member of 28 bytes, found 40"),
    ("host_constants.offset.shape", [1 << 24, 1 << 24], "at most 268435456 bytes"),
    ("host_constants.x", {"member": "c0", "shape": [10], "dtype": "float32"}, "both input and"),
    ("launches.0.instructions", 3, "a member of 48 bytes, found 32"),
    ("launches.0.instructions", 1 << 30, "an integer from 1 to 2097152"),
    ("launches.0.member", "none", "'none' is referred to but absent"),
    ("launches.0.origins_member", "c0", "a member of 8 bytes, found 40"),
    ("origins", [[]], "indices below 1, found 1"),
    ("origins", [5], r"origins\[0\]: expected a list"),
    ("roles", [""], "roles: expected a list of 2 to 2 items"),
    ("roles", ["", 5], r"roles\[1\]: expected text"),
    ("constants.start", 0, "an integer from 4096 to 4096"),
    ("constants.member", "none", "'none' is referred to but absent"),
    ("arena.bytes", 4100, "at least 4112 for the constants"),
    ("arena.bytes", 8192, "an end within the arena"),
    ("arena.keep_intermediates", 1, "expected true or false"),
    ("arena.regions.0.bytes", 17, "a constant that ends by 4112"),
    ("arena.regions.0.kind", "code", "expected one of constant, input"),
    ("arena.regions.0.memory", "DISK", "expected one of UOP, WGT"),
    ("arena.regions.1.start", 0, "an integer from 4096"),
    ("arena.regions.1.start", 4096, "a start behind the constants"),
    ("arena.regions.1.name", "uops", "a second region is named 'uops'"),
    ("arena.regions.1.shape", [1, 1, 1, 17], "room for its shape, 17 bytes"),
    ("arena.regions.1.shape", [1 << 24, 1 << 24], "at most 268435456 bytes"),
    ("arena.regions.1.layout", {"order": "XY", "batch": 1, "block": 1}, "expected text like"),
    ("arena.regions.1.scale", -1, "a finite number above 0"),
    ("layers.0.macs", -1, "expected an integer from 0"),
    ("layers.0.tiles", 3, "expected text"),
    ("layers.0.loop_nest", 3, "expected a list"),
    ("placement.0.reason", "x" * 5000, "at most 4096 characters"),
    ("members.c0", {"bytes": 40}, "the field 'sha256' is missing"),
    ("extra", {"deep": DEEP}, "nested too deeply"),
    ("extra", {"a": {"\n": 1}}, "expected printable text"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED_VALUES)
def test_a_refused_value(path: str, value: Any, message: str) -> None:
    refuses(forged(put(path, value)), message)


def test_a_float_that_overflows() -> None:
    raw = dict(entries_of(good()))["manifest.json"]
    scale = raw.replace(b'"scale": 0.5', b'"scale": 1e999', 1)
    refuses(with_manifest(scale), "a finite number above 0, found inf")
    extra = raw.replace(b'"batch": 1,', b'"batch": 1, "extra": 1e999,', 1)
    refuses(with_manifest(extra), "a finite number, found inf")


def test_a_name_twice_among_the_inputs() -> None:
    refuses(forged(lambda m: m["inputs"].append(m["inputs"][0])), "a name stands there twice")


def test_a_launch_that_is_never_run() -> None:
    refuses(forged(lambda m: m["steps"].pop(3)), "value 'y_packed' is not known")
    manifest, members = example()
    manifest["steps"] = [{**manifest["steps"][0], "outputs": ["y"]}]
    with pytest.raises(ArtifactError, match="launch 0 is never run"):
        Artifact.create(manifest, members)


def test_negative_origins() -> None:
    manifest, members = example()
    members["launch0.origins"] = np.array([0, -1], "<i4").tobytes()
    with pytest.raises(ArtifactError, match="indices below 2, found -1"):
        Artifact.create(manifest, members)


def test_create_refuses_what_is_no_json() -> None:
    manifest, members = example()
    for value in (float("nan"), object()):
        with pytest.raises(ArtifactError, match="no JSON"):
            Artifact.create({**manifest, "note": value}, members)


def test_every_field_is_required() -> None:
    for key in manifest_module.SCHEMA:
        if key not in ("format", "format_version"):
            refuses(forged(lambda m, key=key: m.pop(key)), f"the field '{key}' is missing")  # type: ignore[misc]


def every_place(value: Any, path: str = "") -> list[str]:
    """Dotted paths of all values inside `value`."""
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items() if "." not in str(key)]
    elif isinstance(value, list):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    else:
        return []
    inner = [f"{path}{key}" for key, _ in pairs]
    for key, item in pairs:
        inner += every_place(item, f"{path}{key}.")
    return inner


def test_no_value_anywhere_crashes_the_reader() -> None:
    """Whatever stands in any field, a file loads completely or raises ArtifactError."""
    entries = dict(entries_of(good()))
    original = json.loads(entries["manifest.json"])
    odd: list[Any] = [None, -1, 2**60, "", "\n", 1.5, True, [], {}, [[]], {"a": {}}, ["a", "a"]]
    accepted = 0
    for path in every_place(original):
        for value in odd:
            manifest = copy.deepcopy(original)
            put(path, value)(manifest)
            try:
                artifact = Artifact.create(
                    {key: item for key, item in manifest.items() if key != "members"},
                    good().members,
                )
            except ArtifactError:
                continue
            accepted += 1
            use(artifact)
    assert accepted > 100


def use(artifact: Artifact) -> None:
    """Touch everything that a later reader touches."""
    assert artifact.target and artifact.regions and artifact.digest
    artifact.host_constants()
    for index in range(artifact.launches):
        assert len(artifact.instructions(index)) == len(artifact.origins(index))
