"""The server under attack and on broken hardware: it refuses, stays up, and the next one works."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import signal
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtaflow import InferenceSession
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.errors import DeviceError
from vtaflow.runtime.client import Client
from vtaflow.runtime.device import Device, LaunchResult
from vtaflow.runtime.driver import Patience
from vtaflow.runtime.faults import Faults
from vtaflow.runtime.openinference import encode
from vtaflow.runtime.simdevice import SimDevice

from .servers import Running, json_request, network, process, rows, serving, wait_for

from vtaflow.runtime.board import open_emulator  # isort: skip
from vtaflow.runtime.server.accelerator import BoardAccelerator, SimAccelerator  # isort: skip
from vtaflow.runtime.server.limits import Limits  # isort: skip

Manifest = dict[str, Any]
Members = dict[str, bytes]


class Counted(SimDevice):
    """A simulator that counts launches."""

    launched = 0

    def launch(self, index: int) -> LaunchResult:
        Counted.launched += 1
        return super().launch(index)


class CountingAccelerator(SimAccelerator):
    """Hands out counting simulators, with the checks of the real ones."""

    def device(self, artifact: Artifact) -> Device:
        super().device(artifact)
        return Counted(self.target)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits()
    accelerator = CountingAccelerator(Target.load("pynq"), limits)
    with serving(tmp_path_factory.mktemp("store"), accelerator, limits) as running:
        running.client.install(network(), "good")
        yield running


# --- hostile artifacts -------------------------------------------------------------------------


def zipped(manifest: bytes, members: Members, **changes: Any) -> bytes:
    """An artifact file, with a right digest of whatever manifest it has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", changes.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("manifest.json", manifest)
        digest = hashlib.sha256(changes.get("signed", manifest)).hexdigest()
        archive.writestr("manifest.sha256", f"{digest}  manifest.json\n")
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def rebuilt(change: Callable[[Manifest, Members], None]) -> bytes:
    """The good artifact with a change, digests right again; not validated."""
    good = network()
    manifest, members = json.loads(json.dumps(good.manifest)), dict(good.members)
    change(manifest, members)
    for name, data in members.items():
        sha256 = hashlib.sha256(data).hexdigest()
        manifest["members"][name] = {"bytes": len(data), "sha256": sha256}
    return zipped(json.dumps(manifest).encode(), members)


def stream(change: Callable[[list[Instruction]], None]) -> bytes:
    """The good artifact with another instruction stream."""
    isa = Isa.of(network().target)

    def rewrite(manifest: Manifest, members: Members) -> None:
        raw = members["launch0.insns"]
        insns = [isa.decode(raw[at : at + 16]) for at in range(0, len(raw), 16)]
        change(insns)
        members["launch0.insns"] = b"".join(isa.encode(one) for one in insns)
        members["launch0.origins"] = bytes(4 * len(insns))
        manifest["launches"][0]["instructions"] = len(insns)

    return rebuilt(rewrite)


def altered(opcode: Opcode, memory: int | None = None, **fields: int) -> bytes:
    """The good artifact with fields of the first instruction of a kind changed."""

    def change(insns: list[Instruction]) -> None:
        for at, insn in enumerate(insns):
            sized = insn.fields.get("x_size", 1) > 0
            if insn.opcode == opcode and sized and memory in (None, insn["memory_type"]):
                insns[at] = Instruction(opcode, {**insn.fields, **fields})
                return
        raise AssertionError("no such instruction")

    return stream(change)


def raw_bits(position: int, byte: int, value: int) -> bytes:
    """The good artifact with one byte of its stream set."""

    def change(manifest: Manifest, members: Members) -> None:
        data = bytearray(members["launch0.insns"])
        data[16 * position + byte] = value
        members["launch0.insns"] = bytes(data)

    return rebuilt(change)


def token_bomb(insns: list[Instruction]) -> None:
    """A thousand instructions that push and nobody who pops."""
    push = Instruction(Opcode.LOAD, {"memory_type": 2, "push_next_dep": 1})
    insns[1:1] = [push] * 1000


def without_finish(insns: list[Instruction]) -> None:
    del insns[-1]


def finish_first(insns: list[Instruction]) -> None:
    insns.insert(1, insns[-1])


def set_manifest(*path: Any, value: Any) -> bytes:
    def change(manifest: Manifest, members: Members) -> None:
        parent: Any = manifest
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value

    return rebuilt(change)


def forged_member() -> bytes:
    good = network()
    members = dict(good.members)
    members["constants.bin"] = bytes(len(members["constants.bin"]))
    return zipped(json.dumps(good.manifest).encode(), members)


def forged_manifest() -> bytes:
    manifest = json.dumps(network().manifest).encode()
    forged = manifest.replace(b'"producer": "vtaflow', b'"producer": "Vtaflow', 1)
    return zipped(forged, dict(network().members), signed=manifest)


def traversal() -> bytes:
    def change(manifest: Manifest, members: Members) -> None:
        members["../../../../tmp/owned"] = b"x"

    return rebuilt(change)


def zip_bomb() -> bytes:
    members = {**network().members, "bomb": bytes(200 << 20)}
    manifest = json.dumps(network().manifest).encode()
    return zipped(manifest, members, compression=zipfile.ZIP_DEFLATED)


def quine_bomb() -> bytes:
    """Every entry of the directory points at the same big member."""
    good = bytearray(network().to_bytes())
    directory = good.index(b"PK\1\2")
    first = good[directory : directory + 46 + len("manifest.json")]
    count = 500
    return bytes(good[:directory] + first * count + good[-22:-14]
                 + count.to_bytes(2, "little") * 2
                 + (len(first) * count).to_bytes(4, "little")
                 + directory.to_bytes(4, "little") + b"\0\0")


def oversized_json() -> bytes:
    return zipped(b'{"format": "' + b"a" * (5 << 20) + b'"}', {})


def deep_json() -> bytes:
    return zipped(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {})


def huge_host_values() -> bytes:
    def change(manifest: Manifest, members: Members) -> None:
        step = {"kind": "host", "name": "grow", "op": "Concat", "inputs": ["x"] * 1000,
                "outputs": ["big"], "attrs": {"axis": 1}}
        again = {**step, "name": "more", "inputs": ["big"] * 1000, "outputs": ["bigger"]}
        last = {**step, "name": "most", "inputs": ["bigger"] * 4, "outputs": ["biggest"]}
        manifest["steps"][:0] = [step, again, last]

    return rebuilt(change)


STORE, LOAD, GEMM, ALU = Opcode.STORE, Opcode.LOAD, Opcode.GEMM, Opcode.ALU
INP, WGT, ACC, UOP = 2, 1, 3, 0

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "store behind the arena": (lambda: altered(STORE, dram_base=1 << 30), "dram-range"),
    "store far away, wrapped": (lambda: altered(STORE, dram_base=(1 << 32) - 1), "dram|base"),
    "store into constants": (lambda: altered(STORE, dram_base=4096 // 16), "dram"),
    "store at zero": (lambda: altered(STORE, dram_base=0), "dram"),
    "store a wrapped addition": (
        lambda: altered(STORE, y_size=65535, x_stride=65535), "sram-range"),
    "load behind the arena": (lambda: altered(LOAD, INP, dram_base=1 << 29), "dram-range"),
    "load micro-ops from inputs": (lambda: altered(LOAD, UOP, dram_base=1 << 16), "dram"),
    "load over the end of SRAM": (lambda: altered(LOAD, INP, sram_base=2048), "sram-range"),
    "zero rows": (lambda: altered(STORE, y_size=0), "zero-size"),
    "zero loops": (lambda: altered(GEMM, iter_out=0), "zero-loop"),
    "loops out of SRAM": (lambda: altered(GEMM, dst_factor_in=2047, iter_in=1000), "uop-index|acc"),
    "micro-ops out of SRAM": (lambda: altered(GEMM, uop_end=8191), "uop"),
    "a multiplication": (lambda: altered(ALU, alu_opcode=4), "alu-opcode"),
    "token bomb": (lambda: stream(token_bomb), "token|dep"),
    "a token that never comes": (lambda: altered(LOAD, INP, pop_next_dep=1), "token"),
    "no FINISH": (lambda: stream(without_finish), "finish"),
    "two FINISH": (lambda: stream(finish_first), "finish"),
    "unknown opcode": (lambda: raw_bits(1, 0, 7), "opcode"),
    "a NOP with other bits": (lambda: raw_bits(0, 15, 255), "zero-size"),
    "no instructions": (
        lambda: set_manifest("launches", 0, "instructions", value=0), "an integer from 1"),
    "more instructions than there are": (
        lambda: set_manifest("launches", 0, "instructions", value=1 << 20), "bytes"),
    "an arena larger than memory": (
        lambda: set_manifest("arena", "bytes", value=1 << 31), "exceeds dram_bytes"),
    "a region behind the arena": (
        lambda: set_manifest("arena", "regions", -1, "start", value=1 << 30), "within the arena"),
    "a forged member": (forged_member, "altered, its sha256 differs"),
    "a forged manifest": (forged_manifest, "altered, its sha256 differs"),
    "path traversal": (traversal, "member name .* is not allowed"),
    "zip bomb": (zip_bomb, "is compressed, members are raw"),
    "overlapping members": (quine_bomb, "overlaps|there twice|truncated"),
    "oversized JSON": (oversized_json, "the limit is"),
    "deep JSON": (deep_json, "nested too deeply|not valid JSON"),
    "a host step that eats memory": (huge_host_values, "too large|on the host, the limit is"),
    "an unknown host step": (
        lambda: set_manifest("steps", 0, "op", value="System"), "knows no such operator"),
    "a fingerprint that lies": (
        lambda: set_manifest("fingerprint", value={"LOG_BATCH": 9}), "fingerprint"),
    "an evil name": (lambda: set_manifest("model", "name", value="a\nb"), "printable text"),
    "no zip": (lambda: b"\x7fELF" + bytes(1000), "not a vtaflow artifact"),
    "half an artifact": (lambda: network().to_bytes()[:5000], "truncated"),
    "nothing": (lambda: b"", "not a vtaflow artifact"),
}


def upload(running: Running, data: bytes, **changes: str) -> tuple[int, str]:
    headers = {"X-Content-SHA256": changes.get("sha256", hashlib.sha256(data).hexdigest())}
    answer = running.client.request(
        "PUT", "/v2/repository/models/evil", data, headers, accept=range(100, 600)
    )
    return answer.status, str(json.loads(answer.body).get("error"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_artifact_is_refused_and_nothing_launched(attacked: Running, name: str) -> None:
    make, message = HOSTILE[name]
    before = Counted.launched
    status, error = upload(attacked, make())
    if status == 200:
        attacked.client.remove("evil")
    assert status == 422, (status, error)
    assert re.search(message, error), error
    assert len(error) < 2000 and "\n" not in error
    assert Counted.launched == before
    assert [one["name"] for one in attacked.client.status()["models"]] == ["good"]
    folder = Path(attacked.server.store.path("x")).parent
    assert [path.name for path in folder.iterdir()] == [f"{network().digest}.vta"]
    with Client(attacked.url) as client:
        _, found = client.infer("good", json.dumps(json_request()).encode(), None)
    assert found["y"].shape == (1, 5)


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 24


def test_the_attack_can_fail(attacked: Running) -> None:
    """The same ways of building make artifacts that are taken."""
    for data in (rebuilt(lambda m, _: None), stream(lambda insns: None), network().to_bytes()):
        assert upload(attacked, data)[0] == 200
    attacked.client.remove("evil")


def test_an_announced_digest_must_be_right(attacked: Running) -> None:
    status, error = upload(attacked, network().to_bytes(), sha256="0" * 64)
    assert status == 422 and "announced 000" in error


def test_the_wrong_target_is_refused_with_the_fields(attacked: Running) -> None:
    small = {**network().target.to_json(), "TARGET": "small", "LOG_WGT_BUFF_SIZE": 17}
    target = Target.from_json(small, "small")

    def change(manifest: Manifest, members: Members) -> None:
        manifest["target"], manifest["fingerprint"] = small, target.fingerprint()

    data = rebuilt(change)
    status, error = upload(attacked, data)
    assert status == 422 and "LOG_WGT_BUFF_SIZE 17 (target: 18)" in error
    with pytest.raises(DeviceError, match=r"wrong target: .*LOG_WGT_BUFF_SIZE 17 \(target: 18\)"):
        InferenceSession(data, attacked.client)


# --- hostile requests --------------------------------------------------------------------------

RAW: list[bytes] = [
    b"",
    b"\r\n\r\n",
    b"\0" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\nhello",
    b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n",
    b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
def test_garbage_instead_of_http(attacked: Running, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", attacked.port), timeout=5) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may hang up at any moment
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
    assert len(answer) < 100_000
    assert not answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 5" not in answer
    assert attacked.client.status()["ready"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
KEYS = ("inputs", "outputs", "parameters", "id", "name", "shape", "datatype", "data")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_json_brings_it_down(attacked: Running, data: st.DataObject) -> None:
    request: Any = json_request()
    for _ in range(data.draw(st.integers(1, 3))):
        holder = data.draw(st.sampled_from([request, request["inputs"][0]]))
        if not isinstance(holder, dict):
            break
        holder[data.draw(st.sampled_from(KEYS))] = data.draw(VALUES)
        if not (isinstance(request.get("inputs"), list) and request["inputs"]):
            break
        if not isinstance(request["inputs"][0], dict):
            break
    body = json.dumps(request).encode()
    answer = attacked.client.request(
        "POST", "/v2/models/good/infer", body, accept=range(100, 600)
    )
    assert answer.status in (200, 400, 413), answer
    assert json.loads(answer.body).keys() & {"error", "outputs"}


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_bytes_bring_it_down(attacked: Running, data: st.DataObject) -> None:
    body, length = encode({}, "inputs", rows(2), ["x"])
    assert length is not None
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    sent = bytes(mutated[:cut] if data.draw(st.booleans()) else mutated)
    told = data.draw(st.sampled_from([length, length - 1, length + 1, 0, len(body)]))
    answer = attacked.client.request(
        "POST", "/v2/models/good/infer", sent, {"Inference-Header-Content-Length": str(told)},
        accept=range(100, 600),
    )
    assert answer.status in (200, 400, 413)


# --- broken hardware ---------------------------------------------------------------------------


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Running]:
    """A server on an emulated board with model `net`, impatient."""
    board = open_emulator(Target.load("pynq"), patience=Patience(least=0.2))
    with serving(tmp_path, BoardAccelerator("emulator", board)) as running:
        running.client.install(network(keep=True), "net")
        yield running


def board_of(running: Running) -> Any:
    accelerator = running.server.accelerator
    assert isinstance(accelerator, BoardAccelerator)
    return accelerator.board._transport


def wanted(count: int) -> Any:
    with InferenceSession(network(keep=True)) as session:
        return session.run(None, rows(count))[0]


def test_an_emulated_board_serves(emulated: Running) -> None:
    emulated.client.install(network((12, 7)), "another")
    with InferenceSession(network(keep=True), emulated.url) as session:
        assert np.array_equal(session.run(None, rows(3))[0], wanted(3))
    assert board_of(emulated).violations == []
    assert len(emulated.server.host.loaded) == 2


def test_a_run_that_never_ends(emulated: Running) -> None:
    board_of(emulated).faults = Faults(never_done=True, runs=1)
    with InferenceSession(network(keep=True), emulated.client) as session:
        began = time.monotonic()
        with pytest.raises(DeviceError, match="VTA did not finish within 0.2 s .* registers"):
            session.run(None, rows(1))
        assert time.monotonic() - began < 5
        assert np.array_equal(session.run(None, rows(2))[0], wanted(2))
    found = emulated.client.status()["device"]
    assert (found["failures"], found["recoveries"], found["usable"]) == (1, 1, True)
    assert board_of(emulated).programmed == 2


def test_a_board_that_stays_broken_is_not_ready(emulated: Running) -> None:
    def refuse(bitstream: object) -> None:
        raise DeviceError("the FPGA is gone")

    transport = board_of(emulated)
    program, transport.program = transport.program, refuse
    transport.faults = Faults(never_done=True)
    with InferenceSession(network(keep=True), emulated.client) as session:
        with pytest.raises(DeviceError, match="did not finish"):
            session.run(None, rows(1))
        ready = emulated.client.request("GET", "/v2/health/ready", accept=(200, 503))
        assert ready.status == 503
        with pytest.raises(DeviceError, match="server busy.*the device cannot run"):
            session.run(None, rows(1))
        transport.program, transport.faults = program, Faults()
        with pytest.raises(DeviceError):  # what was loaded was lost with the board's memory
            session.run(None, rows(1))
            raise DeviceError("or it was loaded again by the recovery")
        session.reload()
        assert np.array_equal(session.run(None, rows(1))[0], wanted(1))


def test_done_from_the_last_run_is_not_believed(emulated: Running) -> None:
    with InferenceSession(network(keep=True), emulated.client) as session:
        session.run(None, rows(1))
        board_of(emulated).faults = Faults(stale_done=1e-4)
        for seed in range(5):
            x = rows(1, seed=seed)
            with InferenceSession(network(keep=True)) as local:
                assert np.array_equal(session.run(None, x)[0], local.run(None, x)[0])


def test_a_flipped_word_is_found_by_comparing(emulated: Running) -> None:
    from vtaflow.runtime.layer_comparison import compare_layers

    artifact = network(keep=True)
    with (
        InferenceSession(artifact, emulated.client) as session,
        InferenceSession(artifact) as reference,
    ):
        assert all(one.difference is None for one in compare_layers(reference, session, rows(2)))
        board_of(emulated).faults = Faults(flip_store=0)
        found = [one for one in compare_layers(reference, session, rows(2)) if one.difference]
        assert found[0].name == reference.get_intermediates()[1]
        writer = found[0].writer
        assert writer is not None and "STORE" in writer.text and writer.nodes
        isa = Isa.of(artifact.target)
        insn = isa.decode(artifact.instructions(0)[writer.instruction].tobytes())
        assert insn.opcode == Opcode.STORE
        board_of(emulated).faults = Faults()
        assert all(one.difference is None for one in compare_layers(reference, session, rows(2)))


def test_no_contiguous_memory(emulated: Running) -> None:
    board_of(emulated).faults = Faults(refuse_allocation=True)
    with pytest.raises(DeviceError, match="refuses .* bytes"):
        emulated.client.install(network((12, 7)), "another")
    with InferenceSession(network(keep=True), emulated.client) as session:
        assert np.array_equal(session.run(None, rows(1))[0], wanted(1))
    board_of(emulated).faults = Faults()
    emulated.client.install(network((12, 7)), "another")
    assert len(emulated.server.host.loaded) == 2


def test_a_slow_board_is_waited_for(emulated: Running) -> None:
    cycles = sum(one["estimated_cycles"] for one in network(keep=True).manifest["launches"])
    seconds = 0.1
    board_of(emulated).faults = Faults(slow=seconds / (cycles / 100e6))
    with InferenceSession(network(keep=True), emulated.client) as session:
        assert np.array_equal(session.run(None, rows(1))[0], wanted(1))
        assert session.last_run is not None
        assert session.last_run.device_seconds >= 0.9 * seconds
        board_of(emulated).faults = Faults(slow=10 / (cycles / 100e6), runs=1)
        with pytest.raises(DeviceError, match="did not finish"):
            session.run(None, rows(1))
        assert np.array_equal(session.run(None, rows(1))[0], wanted(1))


# --- a sudden end ------------------------------------------------------------------------------


def test_a_kill_in_an_upload_loses_no_model(tmp_path: Path) -> None:
    data = network((12, 200, 5)).to_bytes()
    with process(tmp_path, "--target", "pynq", "--device", "sim") as found:
        with Client(found.url) as client:
            client.install(network(), "net")
        port = int(found.url.rpartition(":")[2])
        connection = socket.create_connection(("127.0.0.1", port))
        head = (
            "PUT /v2/repository/models/net HTTP/1.1\r\nHost: localhost\r\n"
            f"X-Content-SHA256: {hashlib.sha256(data).hexdigest()}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data[: len(data) // 2])
        drafts = tmp_path / "store" / "artifacts"
        deadline = time.monotonic() + 10
        while not list(drafts.glob(".*.tmp")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found.kill()
        connection.close()
    assert_net_is_there(tmp_path)
    assert not list(drafts.glob(".*.tmp"))


def test_a_kill_in_a_run_loses_no_model(tmp_path: Path) -> None:
    options = ("--target", "emulator", "--inject", "never-done")
    with process(tmp_path, *options) as found:
        with Client(found.url) as client:
            client.install(network(), "net")
        thread = threading.Thread(target=lambda: run_and_fail(found.url))
        thread.start()
        time.sleep(0.3)
        found.kill()
        thread.join(30)
    assert_net_is_there(tmp_path)


def run_and_fail(url: str) -> None:
    with Client(url, attempts=1) as client, pytest.raises(DeviceError, match="lost|refused|no vta"):
        client.infer("net", json.dumps(json_request()).encode(), None)


def assert_net_is_there(folder: Path) -> None:
    """A server on the store that was left has the model, and it runs."""
    with process(folder, "--target", "emulator") as found, Client(found.url) as client:
        _, tensors = client.infer("net", json.dumps(json_request()).encode(), None)
        with InferenceSession(network()) as session:
            assert np.array_equal(tensors["y"], session.run(None, rows(1))[0])
        (model,) = client.status()["models"]
        assert (model["name"], model["sha256"]) == ("net", network().digest)


def test_ctrl_c_ends_a_server_that_waits_for_its_board(tmp_path: Path) -> None:
    with process(tmp_path, "--target", "emulator", "--inject", "never-done,runs=1") as found:
        with Client(found.url) as client:
            client.install(network(), "net")
        thread = threading.Thread(target=lambda: run_late(found.url))
        thread.start()
        time.sleep(0.3)
        found.popen.send_signal(signal.SIGINT)
        assert found.popen.wait(30) == 0
        thread.join(30)
        assert "Traceback" not in found.log.read_text()


def run_late(url: str) -> None:
    with Client(url, attempts=1) as client, pytest.raises(DeviceError, match="did not finish"):
        client.infer("net", json.dumps(json_request()).encode(), None)


# --- many at once ------------------------------------------------------------------------------

CLIENTS, REQUESTS = 8, 125


@pytest.mark.parametrize("device", ["sim", pytest.param("emulator", marks=pytest.mark.slow)])
def test_a_thousand_requests_from_eight_clients(tmp_path: Path, device: str) -> None:
    """All answered, all byte-correct, though the queue is shorter than the number of clients."""
    artifact = network(batch=1)
    x = rows(64, seed=5)["x"]
    with InferenceSession(artifact) as session:
        right = session.run(None, {"x": x})[0]
    answered = [0] * CLIENTS
    problems: list[str] = []

    def one(index: int, url: str) -> None:
        random = np.random.default_rng(index)
        with Client(url, attempts=12) as client:
            for _ in range(REQUESTS):
                at = int(random.integers(0, 62))
                count = int(random.integers(1, 3))
                body, length = encode({}, "inputs", {"x": x[at : at + count]}, ["x"])
                _, found = client.infer("net", body, length)
                if not np.array_equal(found["y"], right[at : at + count]):
                    problems.append(f"client {index}, sample {at}")
                answered[index] += 1

    with serving(tmp_path, device, replace(Limits(), queue=6)) as running:
        running.client.install(artifact, "net")
        threads = [threading.Thread(target=one, args=(i, running.url)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert (answered, problems) == ([REQUESTS] * CLIENTS, [])
        assert running.server.host.loaded["net"].runs == CLIENTS * REQUESTS
        assert running.server.queue.length == 0
        wait_for(lambda: running.server.held_bytes == 0)  # freed once an answer is on its way
