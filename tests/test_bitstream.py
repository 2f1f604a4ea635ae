"""Bitstreams: the header, the die, the date, and which file is wanted from where."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError
from vtaflow.runtime import bitstream
from vtaflow.runtime.bitstream import (
    Bitstream,
    cache_path,
    file_name,
    find_bitstream,
    remote_path,
)

from .boards import DE10, PYNQ, bit_file

NAME = "1x16_i8w8a32_15_15_18_17.bit"


def written(folder: Path, data: bytes, name: str = "vta.bit") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_header_is_read(tmp_path: Path) -> None:
    data = bit_file()
    found = Bitstream.read(written(tmp_path, data))
    assert found == Bitstream(
        path=tmp_path / "vta.bit",
        sha256=hashlib.sha256(data).hexdigest(),
        design="vta_wrapper;UserID=0XFFFFFFFF;Version=2018.3",
        part="7z020clg484",
        date="2020/06/30",
        time="12:34:56",
        offset=len(data) - 64,
    )
    assert found.payload() == bytes(range(64))


def test_relative_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, bit_file())
    monkeypatch.chdir(tmp_path)
    assert Bitstream.read("vta.bit").path == tmp_path / "vta.bit"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bit_file()[:-1], "promises 64 bytes of data, it has 63"),
        (bit_file()[:20], "damaged"),
        (bit_file()[:13] + b"x" + bit_file()[14:], "unknown header field 'x'"),
        (bit_file().replace(b"vta_", b"vt\xff_"), "damaged"),
        (bit_file().replace(b"b\x00", b"a\x00"), "unknown header field 'a'"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        Bitstream.read(written(tmp_path, data))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="absent.bit: No such file"):
        Bitstream.read(tmp_path / "absent.bit")
    with pytest.raises(DeviceError, match="Is a directory"):
        Bitstream.read(tmp_path)
    monkeypatch.setattr(bitstream, "MAX_BYTES", 10)
    path = written(tmp_path, bit_file())
    with pytest.raises(DeviceError, match="larger than 10 bytes"):
        Bitstream.read(path)
    monkeypatch.undo()
    found = Bitstream.read(path)
    path.unlink()
    with pytest.raises(DeviceError, match="No such file"):
        found.payload()


def test_another_die_is_refused(tmp_path: Path) -> None:
    found = Bitstream.read(written(tmp_path, bit_file(part="7z010clg400")))
    with pytest.raises(DeviceError, match="built for 7z010clg400, but .* is a xc7z020clg484-1"):
        found.require(PYNQ)
    zcu104 = Target.load("zcu104")
    Bitstream.read(written(tmp_path, bit_file(part="xczu7ev-ffvc1156-2-e"))).require(zcu104)
    with pytest.raises(DeviceError, match="dies may not"):
        Bitstream.read(written(tmp_path, bit_file(part="xczu3eg-sbva484-1-e"))).require(zcu104)


@pytest.mark.parametrize("part", ["7z020clg484", "xc7z020clg400-1", "unheard-of"])
def test_the_same_die_in_another_package_is_fine(tmp_path: Path, part: str) -> None:
    found = Bitstream.read(written(tmp_path, bit_file(part=part, date="2021/01/01")))
    found.require(PYNQ)
    found.require(replace(PYNQ, part=""))
    notes = found.notes(PYNQ)
    assert len(notes) == (part != "7z020clg484")
    if "400" in part:
        assert notes == ["built for xc7z020clg400-1, the same die as xc7z020clg484-1"]


def test_a_file_of_the_old_version_is_refused(tmp_path: Path) -> None:
    found = Bitstream.read(written(tmp_path, bit_file(date="2019/07/25"), NAME))
    with pytest.raises(DeviceError) as caught:
        found.require(PYNQ)
    message = str(caught.value)
    assert "built 2019/07/25, before HW_VER 0.0.2 existed" in message
    assert "0.0.1 have the same name and another instruction encoding" in message
    assert f"bitstreams/pynq/0.0.2/{NAME}" in message and "uwsampl/vta-distro" in message


def test_what_is_worth_knowing_about_the_public_file(tmp_path: Path) -> None:
    found = Bitstream.read(written(tmp_path, bit_file()))
    found.require(PYNQ)
    assert found.notes(PYNQ) == [
        "built 2020/06/30: ignores the pads of LOAD ACC (not used here)"
    ]


def test_hls_wants_a_xilinx_file_and_chisel_does_not(tmp_path: Path) -> None:
    found = Bitstream.read(written(tmp_path, b"raw binary file of another vendor"))
    assert (found.part, found.offset) == ("", 0)
    found.require(DE10)
    with pytest.raises(DeviceError, match="no .bit file"):
        found.require(PYNQ)


def test_names_spell_out_the_geometry() -> None:
    assert file_name(PYNQ) == NAME
    other = Target.from_json(
        {**PYNQ.to_json(), "LOG_BATCH": 2, "LOG_BLOCK": 3, "LOG_INP_BUFF_SIZE": 16,
         "LOG_WGT_BUFF_SIZE": 16, "LOG_ACC_BUFF_SIZE": 18}, "x")
    assert file_name(other) == "4x8_i8w8a32_15_16_16_18.bit"
    assert remote_path(PYNQ) == f"bitstreams/pynq/0.0.2/{NAME}"


def test_the_cache(tmp_path: Path) -> None:
    environment = {"VTA_CACHE_PATH": str(tmp_path)}
    path = cache_path(PYNQ, environment)
    assert path == tmp_path / "pynq" / "0_0_2" / NAME
    assert cache_path(PYNQ, {}) == Path.home() / ".vta_cache" / "pynq" / "0_0_2" / NAME
    with pytest.raises(DeviceError) as caught:
        find_bitstream(PYNQ, environment=environment)
    message = str(caught.value)
    assert f"put {NAME} at {path}" in message and "--bitstream PATH" in message
    assert f"bitstreams/pynq/0.0.2/{NAME} of https://github.com/uwsampl/vta-distro" in message
    assert "0.0.1 have the same file names" in message and "\n" not in message
    written(path.parent, bit_file(), NAME)
    assert find_bitstream(PYNQ, environment=environment).path == path


def test_the_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTA_CACHE_PATH", str(tmp_path))
    assert cache_path(PYNQ).is_relative_to(tmp_path)


def test_a_named_file_is_checked_as_well(tmp_path: Path) -> None:
    good = written(tmp_path, bit_file(), "mine.bit")
    assert find_bitstream(PYNQ, good).path == good
    with pytest.raises(DeviceError, match="7z010"):
        find_bitstream(PYNQ, written(tmp_path, bit_file(part="7z010clg400")))
