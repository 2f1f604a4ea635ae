"""The ways to real boards, on stand-ins: a fake `pynq`, and files in place of the kernel's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vtaflow import InferenceSession
from vtaflow.errors import DeviceError
from vtaflow.runtime import board as board_module
from vtaflow.runtime import pynq_transport
from vtaflow.runtime import registers as reg
from vtaflow.runtime.bitstream import Bitstream
from vtaflow.runtime.board import LOADED, Board, open_board
from vtaflow.runtime.devmem_transport import DevmemTransport, Paths, raw_words
from vtaflow.runtime.driver import HlsDriver, Job
from vtaflow.runtime.emulated_memory import EmulatedBuffer
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.probes import PROBES, probe_board
from vtaflow.runtime.pynq_transport import PynqTransport, contiguous_memory
from vtaflow.runtime.selftest import run_selftest
from vtaflow.runtime.transport import HostClock

from .boards import DE10, PYNQ, bit_file, compiled, samples, simulated


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(board_module, "LOCK", tmp_path / "lock")


@pytest.fixture
def bitstream(tmp_path: Path) -> Bitstream:
    path = tmp_path / "vta.bit"
    path.write_bytes(bit_file())
    return Bitstream.read(path)


# PYNQ


class FakeArray(np.ndarray[Any, np.dtype[np.uint8]]):
    """Like PynqBuffer: slices know their place, and flush and invalidate their own part."""

    buffer: EmulatedBuffer | None = None

    def __array_finalize__(self, origin: Any) -> None:
        self.buffer = getattr(origin, "buffer", None)

    def _place(self) -> tuple[EmulatedBuffer, int]:
        assert self.buffer is not None, "freed"
        first = self.buffer.data.__array_interface__["data"][0]
        return self.buffer, self.__array_interface__["data"][0] - first

    @property
    def physical_address(self) -> int:
        buffer, start = self._place()
        return buffer.address + start

    def flush(self) -> None:
        buffer, start = self._place()
        buffer.flush(start, self.nbytes)

    def invalidate(self) -> None:
        buffer, start = self._place()
        buffer.invalidate(start, self.nbytes)

    def freebuffer(self) -> None:
        self._place()[0].free()
        self.buffer = None


class FakePynq(ModuleType):
    """The part of PYNQ's library that is used, over the emulated board."""

    def __init__(self) -> None:
        super().__init__("pynq")
        self.hardware = EmulatedBoard(PYNQ)
        self.Clocks = SimpleNamespace(fclk0_mhz=50.0)
        self.downloaded: list[str] = []
        self.programmed = False

    def Bitstream(self, name: str) -> SimpleNamespace:
        if not Path(name).is_absolute():
            raise OSError(f"Bitstream file {name} does not exist.")

        def download() -> None:
            self.programmed = True
            self.downloaded.append(name)
            self.hardware.program(None)

        return SimpleNamespace(download=download)

    def MMIO(self, base: int, length: int) -> SimpleNamespace:
        assert length == 0x1000

        def read(offset: int) -> int:
            return self.hardware.read(base + offset)

        def write(offset: int, value: int) -> None:
            assert type(value) is int  # PYNQ refuses NumPy's integers
            self.hardware.write(base + offset, value)

        return SimpleNamespace(read=read, write=write)

    def allocate(self, shape: tuple[int, ...], dtype: str) -> FakeArray:
        if not self.programmed:
            raise RuntimeError("Overlay is not downloaded")
        try:
            buffer = self.hardware.allocate(shape[0] * np.dtype(dtype).itemsize)
        except DeviceError:
            raise RuntimeError("Allocate failed: 4294967295") from None
        array = buffer.data.view(FakeArray)
        array.buffer = buffer
        return array


@pytest.fixture
def pynq(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePynq]:
    fake = FakePynq()
    monkeypatch.setitem(sys.modules, "pynq", fake)
    yield fake


def test_a_model_through_pynq(pynq: FakePynq, bitstream: Bitstream) -> None:
    board = Board(PYNQ, PynqTransport(), bitstream)
    artifact = compiled()
    feeds = samples(artifact, 3)
    device = board.device()
    found = InferenceSession(artifact, device, PYNQ).run(None, feeds)
    assert np.array_equal(found[0], simulated(artifact, feeds)[0])
    assert pynq.downloaded == [str(bitstream.path)] and pynq.Clocks.fclk0_mhz == 100.0
    device.close()
    assert pynq.hardware.free_bytes == 128 << 20
    board.reprogram()
    assert len(pynq.downloaded) == 2
    board.close()


def test_pynq_is_what_a_board_uses(
    pynq: FakePynq, tmp_path: Path, bitstream: Bitstream
) -> None:
    board = open_board(PYNQ, bitstream.path)
    assert board.bitstream == bitstream and pynq.downloaded == [str(bitstream.path)]
    board.close()
    pynq.programmed = False
    board = open_board(PYNQ, LOADED)
    with pytest.raises(DeviceError, match="Overlay is not downloaded"):
        board.device().load(compiled())
    board.close()
    assert len(pynq.downloaded) == 1


def test_probes_and_programs_through_pynq(
    pynq: FakePynq, bitstream: Bitstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = tuple(one for one in PROBES if one[0] != "timing")  # no silicon, no times
    monkeypatch.setattr("vtaflow.runtime.probes.PROBES", quick)
    board = open_board(PYNQ, bitstream.path)
    found = probe_board(board)
    assert found.passed and found.to_json()["bitstream"]["sha256"] == bitstream.sha256
    device = board.device()
    assert all(one.passed for one in run_selftest(PYNQ, device))
    device.close()
    board.close()
    assert pynq.hardware.free_bytes == 128 << 20 and pynq.hardware.violations == []


def test_one_process_uses_a_board(
    pynq: FakePynq, bitstream: Bitstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    board = open_board(PYNQ, bitstream.path)
    with pytest.raises(DeviceError, match="another process uses the board .* end it first"):
        open_board(PYNQ, bitstream.path)
    assert len(pynq.downloaded) == 1  # nothing was loaded under the other's run
    board.close()
    open_board(PYNQ, bitstream.path).close()
    with pytest.raises(DeviceError, match="names no registers of fetch"):
        open_board(replace(PYNQ, register_map=()), bitstream.path)
    open_board(PYNQ, bitstream.path).close()  # a board that did not open holds no lock
    monkeypatch.setattr(board_module, "LOCK", tmp_path / "none" / "lock")
    with pytest.raises(DeviceError, match="cannot be locked: No such file"):
        open_board(PYNQ, bitstream.path)


def test_pynq_without_memory(
    pynq: FakePynq, bitstream: Bitstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  507 kB\nCmaTotal:       131072 kB\nCmaFree:         12 kB\n")
    monkeypatch.setattr(pynq_transport, "MEMINFO", meminfo)
    transport = PynqTransport()
    transport.program(bitstream)
    with pytest.raises(DeviceError) as caught:
        transport.allocate(1 << 28)
    message = str(caught.value)
    assert "cannot allocate 268,435,456 bytes of contiguous memory (Allocate failed" in message
    assert "CmaTotal: 131072 kB, CmaFree: 12 kB" in message and "cma= option" in message
    meminfo.write_text("MemTotal: 1 kB\n")
    assert contiguous_memory() == "the kernel has no such pool"
    meminfo.unlink()
    assert contiguous_memory() == "the pool's size is unknown"


def test_pynq_refuses(pynq: FakePynq, bitstream: Bitstream) -> None:
    def refusing(*arguments: object) -> None:
        raise OSError("Root permissions required.")

    pynq.Bitstream = refusing  # type: ignore[method-assign, assignment]
    pynq.MMIO = refusing  # type: ignore[method-assign, assignment]
    transport = PynqTransport()
    with pytest.raises(DeviceError, match="PYNQ cannot load .*vta.bit: Root permissions"):
        transport.program(bitstream)
    with pytest.raises(DeviceError, match="cannot map the registers at 0x43c00000: Root"):
        transport.read(PYNQ.registers["fetch"])


def test_a_buffer_of_pynq_is_freed_once(pynq: FakePynq, bitstream: Bitstream) -> None:
    transport = PynqTransport()
    transport.program(bitstream)
    buffer = transport.allocate(4096)
    assert buffer.address == 0x1600_0000 and type(buffer.data) is np.ndarray
    buffer.free()
    buffer.free()
    assert pynq.hardware.free_bytes == 128 << 20


# /dev/mem and u-dma-buf

DMA_BYTES = 1 << 20
DMA_ADDRESS = 0x1E00_0000


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Files in place of the kernel's; /dev/mem is sparse."""
    found = Paths(
        memory=tmp_path / "mem",
        dma=tmp_path / "udmabuf0",
        dma_attributes=tmp_path / "attributes",
        fpga=tmp_path / "fpga0",
        firmware=tmp_path / "firmware",
    )
    for file, size in ((found.memory, 0x43C0_4000), (found.dma, DMA_BYTES)):
        file.touch()
        with file.open("r+b") as stream:
            stream.truncate(size)
    for folder in (found.dma_attributes, found.fpga, found.firmware):
        folder.mkdir()
    (found.dma_attributes / "size").write_text(f"{DMA_BYTES}\n")
    (found.dma_attributes / "phys_addr").write_text(f"{DMA_ADDRESS:#x}\n")
    (found.fpga / "firmware").touch()
    return found


def test_registers_are_words_of_dev_mem(paths: Paths) -> None:
    transport = DevmemTransport(paths)
    transport.write(0x43C0_2018, 0xDEADBEEF)
    transport.write(0x43C0_0000, 1)
    assert transport.read(0x43C0_2018) == 0xDEADBEEF
    with paths.memory.open("rb") as stream:
        stream.seek(0x43C0_2018)
        assert stream.read(4) == bytes.fromhex("efbeadde")
    transport.close()


def test_memory_is_cut_from_u_dma_buf(paths: Paths) -> None:
    transport = DevmemTransport(paths)
    first, second = transport.allocate(4096), transport.allocate(8192)
    assert (first.address, second.address) == (DMA_ADDRESS, DMA_ADDRESS + 4096)
    second.data[:] = 7
    with paths.dma.open("rb") as stream:
        assert stream.read(4097) == bytes(4096) + b"\x07"
    with pytest.raises(DeviceError, match="no 1,048,576 contiguous bytes left .1,036,288 in one"):
        transport.allocate(DMA_BYTES)
    first.free()
    first.free()
    second.free()
    assert transport.allocate(DMA_BYTES).address == DMA_ADDRESS
    assert DevmemTransport(paths, 0x8000_0000).allocate(4096).address == DMA_ADDRESS + 0x8000_0000


def test_caches_are_synchronised_by_the_kernel(paths: Paths) -> None:
    transport = DevmemTransport(paths)
    transport.allocate(4096)
    buffer = transport.allocate(4096)

    def attributes() -> dict[str, str]:
        return {
            path.name: path.read_text()
            for path in paths.dma_attributes.iterdir()
            if path.name.startswith("sync")
        }

    buffer.flush(64, 128)
    assert attributes() == {
        "sync_offset": "4160", "sync_size": "128", "sync_direction": "1", "sync_for_device": "1"
    }
    (paths.dma_attributes / "sync_for_device").unlink()
    buffer.invalidate(0, 64)
    assert attributes() == {
        "sync_offset": "4096", "sync_size": "64", "sync_direction": "2", "sync_for_cpu": "1"
    }
    (paths.dma_attributes / "sync_size").unlink()
    (paths.dma_attributes / "sync_size").mkdir()
    with pytest.raises(DeviceError, match="sync_size: Is a directory"):
        buffer.flush(0, 64)


def test_bitstreams_go_through_the_fpga_manager(paths: Paths, bitstream: Bitstream) -> None:
    transport = DevmemTransport(paths)
    transport.program(None)
    assert list(paths.firmware.iterdir()) == []
    transport.program(bitstream)
    name = (paths.fpga / "firmware").read_text()
    assert (paths.fpga / "flags").read_text() == "0"
    data = (paths.firmware / name).read_bytes()
    assert data[:8] == bytes([3, 2, 1, 0, 7, 6, 5, 4]) and len(data) == 64
    assert raw_words(b"\1\2\3\4\5") == bytes([4, 3, 2, 1, 0, 0, 0, 5])


def test_other_files_are_handed_over_as_they_are(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "vta.rbf"
    path.write_bytes(b"raw binary")
    DevmemTransport(paths).program(Bitstream.read(path))
    (firmware,) = paths.firmware.iterdir()
    assert firmware.read_bytes() == b"raw binary"


def test_what_can_be_missing(paths: Paths, bitstream: Bitstream) -> None:
    transport = DevmemTransport(paths)
    with pytest.raises(DeviceError, match="mem: cannot be mapped at 0x43c10000"):
        transport.read(0x43C1_0000)
    paths.firmware.rmdir()
    with pytest.raises(DeviceError, match="cannot load .*vta.bit: No such file"):
        transport.program(bitstream)
    (paths.fpga / "firmware").unlink()
    with pytest.raises(DeviceError, match="this kernel takes no bitstream .* --bitstream loaded"):
        transport.program(bitstream)
    (paths.dma_attributes / "size").write_text("100")
    with pytest.raises(DeviceError, match="100 bytes at 0x1e000000, not pages"):
        DevmemTransport(paths)
    (paths.dma_attributes / "size").write_text("1048576")
    paths.dma.unlink()
    with pytest.raises(DeviceError, match="udmabuf0: cannot be mapped at 0x0: No such file"):
        DevmemTransport(paths)
    (paths.dma_attributes / "phys_addr").unlink()
    with pytest.raises(DeviceError, match="phys_addr: No such file .* insmod u-dma-buf.ko"):
        DevmemTransport(paths)


def test_a_run_through_dev_mem(paths: Paths) -> None:
    """Somebody else, here a thread, answers through the same words, as hardware would."""
    transport, hardware = DevmemTransport(paths), DevmemTransport(paths)
    blocks = PYNQ.registers
    driver = HlsDriver(PYNQ, transport)
    driver.program(None)

    def answer() -> None:
        while any(hardware.read(blocks[one]) != 0x81 for one in ("load", "compute", "store")):
            time.sleep(1e-4)
        assert hardware.read(blocks["fetch"] + reg.FETCH_COUNT) == 3
        time.sleep(0.01)
        hardware.write(blocks["fetch"], reg.IDLE | reg.DONE)
        hardware.write(blocks["compute"] + reg.COMPUTE_DONE, 1)

    thread = threading.Thread(target=answer)
    thread.start()
    seconds = driver.run(Job(DMA_ADDRESS, 3, 1000))
    thread.join()
    assert seconds >= 0.01
    assert transport.read(blocks["fetch"] + reg.FETCH_ADDRESS) == DMA_ADDRESS


def test_u_dma_buf_is_preferred_where_it_is(
    paths: Paths, bitstream: Bitstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "Paths", lambda: paths)
    monkeypatch.setattr("vtaflow.runtime.devmem_transport.Paths", lambda: paths)
    board = open_board(PYNQ, bitstream.path)
    assert board.allocate(4096).address == DMA_ADDRESS
    board.close()
    board = open_board(DE10, LOADED)
    assert board.allocate(4096).address == DMA_ADDRESS + 0x8000_0000
    board.close()


def test_the_host_clock_runs() -> None:
    clock = HostClock()
    before = clock.now()
    clock.sleep(0.001)
    assert clock.now() - before >= 0.001
