"""Recorded launches: replays that agree, replays that must not, files that are no recordings."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vtaflow
from vtaflow.backend.commands import Memory
from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.errors import DataError, StreamError, TargetError
from vtaflow.runtime import recording as recording_module
from vtaflow.runtime import replay as replay_module
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.memory import Dram, Segment
from vtaflow.runtime.recording import Recording
from vtaflow.runtime.replay import Replay, record, record_launch, replay

STREAMS = os.environ.get("VTAFLOW_STREAMS")
FILES = sorted(Path(STREAMS).glob("**/*.npz")) if STREAMS else []
SIM = Target.load("sim")


def test_streams_are_at_hand() -> None:
    if STREAMS is None:
        pytest.skip("VTAFLOW_STREAMS names no folder of recorded launches")
    assert FILES, f"no .npz below {STREAMS}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_launches_of_another_compiler_replay_exactly(path: Path) -> None:
    result = replay(path)
    assert result.problem is None
    assert result.counters == {
        name: value
        for name, value in json.loads(str(np.load(path)["counters"])).items()
        if name in result.counters
    }


def test_launches_of_one_network_can_be_chained() -> None:
    """What one launch stores, and the tokens it leaves, are what the next one finds."""
    chain = [path for path in FILES if path.stem.startswith("resnet18v1")]
    if not chain:
        pytest.skip("VTAFLOW_STREAMS names no folder with the launches of a network")
    memory: dict[int, int] = {}
    tokens = Recording.load(chain[0]).tokens_before
    for path in chain:
        one = Recording.load(path)
        kept = 0
        pre = []
        for block in one.pre:
            addresses = range(block.address, block.end)
            data = [memory.get(a, int(b)) for a, b in zip(addresses, block.data, strict=True)]
            kept += sum(a in memory for a in addresses)
            pre.append(dataclasses.replace(block, data=np.array(data, np.uint8)))
        assert (kept > 100_000) == (path is not chain[0])
        assert one.tokens_before == tokens
        dram = replay_module._memory(dataclasses.replace(one, pre=tuple(pre)))
        launch = Launch(
            SIM, one.insns, dram, tokens_before=tokens, tokens_after=one.tokens_after,
            sram=one.sram_before,
        )
        launch.run()
        tokens = one.tokens_after
        assert replay_module._difference(one, launch, dram) is None
        memory = {}  # the host rewrites what older launches left
        for block in one.post:
            found = replay_module._bytes(dram, block.address, block.end)
            memory.update(enumerate(found.tolist(), block.address))


def small_stream() -> NDArray[np.uint8]:
    """NOP, loads, ALU ADD 3 and MIN 100 on 4 vectors, STORE, the tokens in between, FINISH."""
    row = {"x_size": 4, "y_size": 1, "x_stride": 4}
    alu = {"uop_end": 1, "iter_out": 1, "iter_in": 4, "dst_factor_in": 1, "src_factor_in": 1,
           "use_imm": 1}
    one = {"x_size": 1, "y_size": 1, "x_stride": 1}
    insns = [
        Instruction(Opcode.LOAD, {}),
        Instruction(Opcode.LOAD, {"dram_base": 4096 // 4, **one}),
        Instruction(Opcode.LOAD, {"memory_type": 3, "dram_base": 8192 // 64, **row}),
        Instruction(Opcode.ALU, {**alu, "alu_opcode": 2, "imm": 3}),
        Instruction(Opcode.ALU, {**alu, "alu_opcode": 0, "imm": 100, "push_next_dep": 1}),
        Instruction(Opcode.STORE, {"memory_type": 4, "dram_base": 12288 // 16, **row,
                                   "pop_prev_dep": 1, "push_prev_dep": 1}),
        Instruction(Opcode.LOAD, {"pop_next_dep": 1}),
        Instruction(Opcode.FINISH, {}),
    ]
    isa = Isa.of(SIM)
    return np.frombuffer(b"".join(isa.encode(i) for i in insns), np.uint8).reshape(-1, 16)


@pytest.fixture
def small() -> Recording:
    """A recording of `small_stream`."""
    data = np.arange(64, dtype="<i4") * 5
    dram = Dram([
        Segment(4096, np.zeros(4096, np.uint8)),
        Segment(8192, data.view(np.uint8)),
        Segment(12288, np.zeros(256, np.uint8)),
    ])
    return record_launch(SIM, small_stream(), dram, 1 << 20, {"note": "a test"})


def test_a_launch_of_ours_is_recorded_and_replays(small: Recording, tmp_path: Path) -> None:
    path = tmp_path / "small.npz"
    small.save(path)
    assert [(block.address, len(block.data)) for block in small.pre] == [(4096, 4), (8192, 256)]
    wanted = np.minimum(np.arange(64) * 5 + 3, 100).astype(np.uint8)
    assert [block.address for block in small.post] == [12288]
    np.testing.assert_array_equal(small.post[0].data, wanted)
    assert replay(path, check=True) == Replay(str(path), None, small.counters)
    loaded = Recording.load(path)
    assert loaded.target == SIM and loaded.meta["note"] == "a test"
    assert loaded.insn_address == 1 << 20
    keys = set(np.load(path, allow_pickle=False))
    assert {"insns", "pre_data", "post_data", "counters", "meta", "tokens_before"} <= keys
    assert not {key for key in keys if key.startswith("sram")}


def tampered(recording: Recording, **changes: Any) -> Recording:
    """The recording with fields replaced."""
    return dataclasses.replace(recording, **changes)


def altered(block: Any, byte: int) -> Any:
    """A block with one byte changed."""
    data = block.data.copy()
    data[byte] ^= 1
    return dataclasses.replace(block, data=data)


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lambda r: tampered(r, post=(altered(r.post[0], 7),)),
         "DRAM differs at address 0x3007: 38, recorded 39 (1 of 64 bytes in this region differ)"),
        (lambda r: tampered(r, pre=(r.pre[0], altered(r.pre[1], 8))),
         "DRAM differs at address 0x3002: 14, recorded 13 (1 of 64 bytes in this region differ)"),
        (lambda r: tampered(r, counters={**r.counters, "alu_counter": 9}),
         "alu_counter is 8, recorded 9"),
        (lambda r: tampered(r, sram_after={Memory.INP: np.ones(32768, np.uint8)}),
         "INP SRAM differs from byte 0 on (32768 bytes)"),
    ],
)
def test_a_difference_is_found_and_named(
    small: Recording, tmp_path: Path, tamper: Callable[[Recording], Recording], problem: str
) -> None:
    path = tmp_path / "tampered.npz"
    tamper(small).save(path)
    assert replay(path).problem == problem


def test_recorded_sram_is_used_and_compared(small: Recording, tmp_path: Path) -> None:
    path = tmp_path / "sram.npz"
    content = np.arange(32768).astype(np.uint8)
    whole = {Memory.INP: content, Memory.UOP: np.zeros(32768, np.uint8)}
    tampered(small, sram_before=whole, sram_after=whole).save(path)
    assert replay(path).problem is None


def test_a_stream_that_cannot_run_is_a_stream_error(small: Recording, tmp_path: Path) -> None:
    path = tmp_path / "stuck.npz"
    insns = small.insns.copy()
    insns[4, 0] &= 0xBF  # the ALU instruction no longer pushes to store
    tampered(small, insns=insns).save(path)
    with pytest.raises(StreamError, match=r"stuck.npz: instruction 5 \(STORE\): pops a token"):
        replay(path)
    tampered(small, tokens_after=(0, 0, 1, 0)).save(path)
    with pytest.raises(StreamError, match=r"stuck.npz: the stream ends with 0 tokens in compute"):
        replay(path)


def test_the_checks_of_the_portable_subset_can_be_applied(
    small: Recording, tmp_path: Path
) -> None:
    path = tmp_path / "unportable.npz"
    insns = np.delete(small.insns, 0, axis=0)  # the NOP that clears a stale done flag
    counters = {**small.counters, "insn_count": 7}
    tampered(small, insns=insns, counters=counters).save(path)
    assert replay(path).problem is None
    problem = replay(path, check=True).problem
    assert problem is not None and "instruction 0" in problem and "NOP" in problem


def test_memory_too_far_apart_is_not_checked(
    small: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "far.npz"
    small.save(path)
    monkeypatch.setattr(replay_module, "_MAX_CHECKED_BYTES", 5000)
    assert replay(path).problem is None
    with pytest.raises(DataError, match=r"far.npz: memory is spread over \d+ bytes"):
        replay(path, check=True)


Arrays = dict[str, Any]


def without(key: str) -> Callable[[Arrays], Arrays]:
    """The arrays without one key."""
    return lambda arrays: {name: value for name, value in arrays.items() if name != key}


def changed(**values: Any) -> Callable[[Arrays], Arrays]:
    """The arrays with some replaced."""
    return lambda arrays: {**arrays, **values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("insns"), "the key 'insns' is missing; is this a recorded launch"),
        (without("meta"), "the key 'meta' is missing"),
        (changed(insns=np.zeros((3, 15), np.uint8)), r"insns is uint8\[3, 15\]; it must be uint8"),
        (changed(insns=np.zeros((3, 16), np.int8)), r"insns is int8\[3, 16\]"),
        (changed(insns=np.zeros((16, 3), np.uint8).T), r"insns is uint8\[3, 16\]"),
        (changed(pre_addr=np.zeros(2, np.int64)), r"pre_addr is int64\[2\]; it must be uint64\[n"),
        (changed(tokens_after=np.zeros(3, np.uint32)), r"it must be uint32\[4\]"),
        (changed(counters=np.zeros(3)), r"counters is float64\[3\]; it must be text\[\]"),
        (changed(meta=np.array({"a": 1}, dtype=object)), r"meta is object\[\]; it must be text"),
        (changed(pre_data=np.array([None, 1], dtype=object)), "pre_data is object"),
        (changed(pre_len=np.array([4, 255], np.uint64)), "pre_addr, pre_len and pre_data disagree"),
        (changed(pre_len=np.array([260], np.uint64)), "disagree: 2 addresses, 1 lengths"),
        (changed(pre_addr=np.array([8192, 4096], np.uint64)), "at 0x1000 of 256 bytes is out of"),
        (changed(pre_addr=np.array([4096, 2**63], np.uint64)), "passes 32 bits"),
        (changed(post_addr=np.array([2**32 - 10], np.uint64)), "post region at 0xfffffff6"),
        (changed(counters=np.array("{")), "counters is no JSON: "),
        (changed(meta=np.array("[" * 100_000)), "meta is no JSON: "),
        (changed(meta=np.array("[1]")), "meta is no JSON object"),
        (changed(counters=np.array("{}")), "counters lack the integer 'inp_load_nbytes'"),
        (changed(sram_inp_before=np.zeros(5, np.uint8)), "sram_inp_before has 5 bytes, not 32768"),
        (changed(**{f"x{n}": np.zeros(1) for n in range(60)}), "72 members of"),
    ],
)
def test_malformed_recordings_give_one_line(
    small: Recording, tmp_path: Path, change: Callable[[Arrays], Arrays], message: str
) -> None:
    path = tmp_path / "bad.npz"
    small.save(path)
    arrays = change(dict(np.load(path)))
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        replay(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def rewritten(path: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of one member."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents[member] = change(contents[member])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def header(shape: tuple[int, ...], data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy member that declares any shape of uint8."""
    stream = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    if version == (1, 0):
        np.lib.format.write_array_header_1_0(stream, described)
    else:
        np.lib.format.write_array_header_2_0(stream, described)
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-3], "pre_data has 257 bytes of data, not 260"),
        (lambda data: data + b"12", "pre_data has 261 bytes of data, not 260"),
        (lambda data: header((1 << 60,), b"1"), f"pre_data has 1 bytes of data, not {1 << 60}"),
        (lambda data: data[:20], "cannot read a recorded launch"),
        (lambda data: b"nothing", "cannot read a recorded launch"),
        (lambda data: b"", "cannot read a recorded launch"),
    ],
)
def test_damaged_members_give_one_line(
    small: Recording, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "bad.npz"
    small.save(path)
    rewritten(path, "pre_data.npy", change)
    with pytest.raises(DataError, match=message) as caught:
        replay(path)
    assert "\n" not in str(caught.value)


def test_headers_of_version_2_are_read(small: Recording, tmp_path: Path) -> None:
    path = tmp_path / "version2.npz"
    small.save(path)
    rewritten(path, "pre_data.npy", lambda data: header((260,), data[-260:], (2, 0)))
    assert replay(path).problem is None


def test_files_that_are_no_archives_give_one_line(small: Recording, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.npz", tmp_path / "bad.npz"
    small.save(whole)
    with pytest.raises(DataError, match=r"bad.npz: cannot read a recorded launch: .*No such file"):
        replay(path)
    for content in (b"", b"PK\3\4 and so on", whole.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="bad.npz: cannot read a recorded launch"):
            replay(path)
    with pytest.raises(DataError, match="cannot read a recorded launch"):
        replay(tmp_path)


def test_bombs_are_refused_by_their_declared_size(
    small: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    tampered(small, sram_before={Memory.WGT: np.zeros(1 << 18, np.uint8)}).save(path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(recording_module, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(DataError, match=r"13 members of \d+ bytes; a recorded launch has at most"):
        replay(path)


def test_the_target_of_a_recording_is_its_own(small: Recording, tmp_path: Path) -> None:
    path = tmp_path / "target.npz"
    pynq = Target.load("pynq")
    tampered(small, target=pynq).save(path)
    assert Recording.load(path).target == pynq
    assert replay(path).problem is None
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "meta": np.array('{"target": {"LOG_BLOCK": 99}}')})
    with pytest.raises(TargetError, match="target.npz: .*LOG_BLOCK"):
        replay(path)


def test_recordings_appear_whole_or_not_at_all(small: Recording, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing/x.npz: cannot write: No such file"):
        small.save(tmp_path / "missing" / "x.npz")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def mlp() -> Any:
    """A compiled network with one launch, and feeds for it."""
    model = Path(vtaflow.__file__).parent / "models" / "fashion_mlp.onnx"
    artifact = vtaflow.compile(model, target="pynq").artifact
    feeds = np.random.default_rng(0).standard_normal((3, 784)).astype(np.float32)
    return artifact, {artifact.manifest["inputs"][0]["name"]: feeds}


def test_the_launches_of_an_artifact_are_recorded(mlp: Any, tmp_path: Path) -> None:
    artifact, feeds = mlp
    paths = record(artifact, feeds, tmp_path / "new" / "folder")
    assert [Path(path).name for path in paths] == ["fashion_mlp_run00.npz"]
    assert replay(paths[0], check=True).problem is None
    recording = Recording.load(paths[0])
    assert recording.meta["model"] == "fashion_mlp" and recording.meta["launch"] == 0
    assert recording.target == artifact.target
    assert any(block.data.any() for block in recording.post)


def test_recording_needs_a_folder_and_an_arena_that_fits(mlp: Any, tmp_path: Path) -> None:
    artifact, feeds = mlp
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot make the folder"):
        record(artifact, feeds, tmp_path / "file")
    arena = {**artifact.manifest["arena"], "bytes": 1 << 32}
    huge = dataclasses.replace(artifact, manifest={**artifact.manifest, "arena": arena})
    with pytest.raises(DataError, match="an arena of 4294967296 bytes is too large to record"):
        record(huge, feeds, tmp_path)
