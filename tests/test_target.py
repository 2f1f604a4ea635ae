"""Hardware descriptions: bundled files, derived sizes, every limit with its message."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend import description
from vtaflow.backend.commands import Memory
from vtaflow.backend.profile import CHISEL, DESIGNS, FSIM, HLS, PORTABLE, PROFILES
from vtaflow.backend.target import BUNDLED, Target, Timing
from vtaflow.errors import TargetError

SIM = Target.load("sim")
# What tvm-vta itself writes: its own keys and nothing else.
VTA_FILE = {"TARGET": "sim", "HW_VER": "0.0.2", **description.DEFAULT_GEOMETRY}


def geometry(batch: int, block: int, uop: int, inp: int, wgt: int, acc: int) -> dict[str, int]:
    return {
        "LOG_BATCH": batch,
        "LOG_BLOCK": block,
        "LOG_UOP_BUFF_SIZE": uop,
        "LOG_INP_BUFF_SIZE": inp,
        "LOG_WGT_BUFF_SIZE": wgt,
        "LOG_ACC_BUFF_SIZE": acc,
    }


def make(**changes: object) -> Target:
    return Target.from_json({**VTA_FILE, **changes}, "my.json")


def refusal(description: object) -> str:
    with pytest.raises(TargetError) as caught:
        Target.from_json(description, "my.json")
    message = str(caught.value)
    assert message.startswith("my.json: ") and "\n" not in message
    return message


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "my.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- bundled descriptions -------------------------------------------------------------------


def test_bundled_names_are_the_files() -> None:
    folder = Path(description.__file__).parent / "targets"
    assert sorted(BUNDLED) == sorted(path.stem for path in folder.glob("*.json"))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_descriptions_share_the_default_geometry(name: str) -> None:
    target = Target.load(name)
    assert target.name == name
    assert target.is_default_geometry
    assert target.fingerprint() == SIM.fingerprint()
    assert target.acc_dep_distance == 4
    assert target.uop_limit == 2048


@pytest.mark.parametrize("name", BUNDLED)
def test_a_description_survives_json(name: str) -> None:
    target = Target.load(name)
    assert Target.from_json(json.loads(json.dumps(target.to_json())), "x") == target


def test_board_facts() -> None:
    facts = {
        name: (t.design, t.part, t.clock_mhz, t.bus_bits)
        for name, t in ((name, Target.load(name)) for name in BUNDLED)
    }
    assert facts == {
        "sim": ("fsim", "", 100, 64),
        "tsim": ("chisel", "", 100, 64),
        "pynq": ("hls", "xc7z020clg484-1", 100, 64),
        "ultra96": ("hls", "xczu3eg-sbva484-1-e", 333, 128),
        "zcu104": ("hls", "xczu7ev-ffvc1156-2-e", 333, 128),
        "de10nano": ("chisel", "5CSEBA6U23I7", 100, 64),
    }
    pynq = {"fetch": 0x43C00000, "load": 0x43C01000, "compute": 0x43C02000, "store": 0x43C03000}
    mpsoc = {"fetch": 0xA0000000, "load": 0xA0001000, "compute": 0xA0002000, "store": 0xA0003000}
    assert Target.load("pynq").registers == pynq
    assert Target.load("ultra96").registers == Target.load("zcu104").registers == mpsoc
    assert Target.load("de10nano").registers == {"vcr": 0xFF220000}


def test_profiles_by_design() -> None:
    assert SIM.profile is FSIM
    assert Target.load("pynq").profile is HLS
    assert Target.load("tsim").profile is CHISEL
    assert set(PROFILES) == {*DESIGNS, "portable"}
    assert all(name == profile.name for name, profile in PROFILES.items())


def test_the_portable_profile_is_allowed_by_every_design() -> None:
    for design in (PROFILES[name] for name in DESIGNS):
        for name in ("mul", "inp_pads", "wgt_pads", "acc_pads", "uop_rows", "acc_8bit"):
            assert getattr(design, name) or not getattr(PORTABLE, name), name
        assert design.shr_imm_min <= PORTABLE.shr_imm_min
        assert design.shr_imm_max >= PORTABLE.shr_imm_max
        assert design.shr_lane_min <= PORTABLE.shr_lane_min
        assert design.shr_lane_max >= PORTABLE.shr_lane_max
        assert PORTABLE.gemm_distance >= design.gemm_distance
        assert PORTABLE.alu_distance >= design.alu_distance
        for name in ("uop_depth", "token_capacity", "instruction_queue"):
            bound = getattr(design, name)
            assert bound is None or getattr(PORTABLE, name) <= bound, name


# --- derived sizes --------------------------------------------------------------------------


def test_default_sizes() -> None:
    sizes = {m.name: (SIM.log_depth(m), SIM.depth(m), SIM.element_bytes(m)) for m in Memory}
    assert sizes == {
        "UOP": (13, 8192, 4),
        "WGT": (10, 1024, 256),
        "INP": (11, 2048, 16),
        "ACC": (11, 2048, 64),
        "OUT": (11, 2048, 16),
    }
    assert (SIM.batch, SIM.block_in, SIM.block_out) == (1, 16, 16)
    assert (SIM.log_out_width, SIM.log_out_buff_size, SIM.log_src_depth) == (3, 15, 11)
    assert SIM.element_bits(Memory.WGT) == 2048


@pytest.mark.parametrize(
    ("config", "depths"),
    [
        ((0, 4, 15, 15, 18, 17), (13, 11, 10, 11)),
        ((0, 5, 15, 15, 18, 17), (13, 10, 8, 10)),
        ((0, 5, 15, 16, 19, 17), (13, 11, 9, 10)),
        ((1, 4, 15, 15, 18, 17), (13, 10, 10, 10)),
        ((2, 4, 15, 15, 18, 17), (13, 9, 10, 9)),
        ((2, 3, 15, 16, 16, 18), (13, 11, 10, 11)),
        ((0, 6, 15, 16, 20, 18), (13, 10, 8, 10)),
        ((0, 4, 14, 14, 17, 16), (12, 10, 9, 10)),
    ],
)
def test_legal_configurations(config: tuple[int, ...], depths: tuple[int, ...]) -> None:
    target = make(**geometry(*config))
    assert depths == (
        target.log_uop_depth,
        target.log_inp_depth,
        target.log_wgt_depth,
        target.log_acc_depth,
    )
    for memory in (Memory.INP, Memory.WGT, Memory.ACC):
        buffer = getattr(target, f"log_{memory.name.lower()}_buff_size")
        assert target.depth(memory) * target.element_bytes(memory) == 1 << buffer
    assert target.depth(Memory.OUT) * target.element_bytes(Memory.OUT) == (
        1 << target.log_out_buff_size
    )


def test_uop_limit_is_the_depth_where_chisel_cannot_run() -> None:
    assert make(LOG_BLOCK=5).uop_limit == 8192
    assert make(**geometry(0, 4, 12, 15, 18, 17)).uop_limit == 1024


def test_fingerprint_is_the_geometry_alone() -> None:
    assert SIM.fingerprint() == {"HW_VER": "0.0.2", **description.DEFAULT_GEOMETRY}
    same = replace(SIM, name="other", clock_mhz=7, timing=Timing(gemm_fixed=1), dram_bytes=1 << 20)
    assert same.fingerprint() == SIM.fingerprint()
    assert make(LOG_BLOCK=5).fingerprint() != SIM.fingerprint()


def test_a_target_is_a_value() -> None:
    pynq = Target.load("pynq")
    with pytest.raises(FrozenInstanceError):
        pynq.log_block = 5  # type: ignore[misc]
    assert hash(pynq) == hash(Target.load("pynq"))
    assert pickle.loads(pickle.dumps(pynq)) == copy.deepcopy(pynq) == pynq


# --- optional keys --------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_vtas_own_keys_suffice(name: str) -> None:
    assert make(TARGET=name) == Target.load(name)


def test_an_unknown_vta_target_is_a_pynq() -> None:
    assert make(TARGET="my_board") == replace(Target.load("pynq"), name="my_board")


def test_our_keys_override_the_defaults() -> None:
    target = make(
        TARGET="pynq",
        design="fsim",
        part="xc7",
        clock_mhz=142,
        bus_bits=32,
        dram_bytes=1 << 32,
        acc_dep_distance=9,
        registers={"vcr": "0xff"},
        timing={"read_latency": 40},
    )
    assert (target.design, target.part, target.clock_mhz, target.bus_bits) == (
        "fsim",
        "xc7",
        142,
        32,
    )
    assert (target.dram_bytes, target.acc_dep_distance) == (1 << 32, 9)
    assert target.registers == {"vcr": 255}
    # Constants that the file does not give stay those of the bundled description.
    assert target.timing == Timing(read_latency=40, fetch_interval=2)


def test_measured_timing_constants() -> None:
    timing = SIM.timing
    assert timing == Timing()
    assert (timing.read_latency, timing.write_latency) == (55, 25)
    assert (timing.gemm_fixed, timing.alu_fixed, timing.empty_loops, timing.finish) == (
        19,
        19,
        13,
        5,
    )


def test_load_reads_any_file(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({**VTA_FILE, "LOG_BLOCK": 5}))
    assert Target.load(path) == Target.load(str(path)) == make(LOG_BLOCK=5)


# --- refusals: files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nope", "nope.json", pytest.param("x" * 5000, id="long"), "a\0b", "a\nb"]
)
def test_an_unknown_target_lists_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target.load(name)
    message = str(caught.value)
    assert "no such target" in message and ", ".join(BUNDLED) in message
    assert len(message) < 200 and "\n" not in message


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="not a file"):
        Target.load(tmp_path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "{}")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TargetError, match=r"my.json: cannot be read \(Permission denied\)"):
        Target.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not legal JSON"),
        ("{", "not legal JSON"),
        (b"\xff\xfe\xff", "not legal JSON"),
        pytest.param("[" * 60_000, "nested too deeply", id="lists"),
        pytest.param('{"a": ' * 10_000, "nested too deeply", id="objects"),
        ('{"LOG_BLOCK": NaN}', "NaN is not a JSON number"),
        ('{"LOG_BLOCK": -Infinity}', "-Infinity is not a JSON number"),
        ('{"LOG_BLOCK": 4, "LOG_BLOCK": 5}', 'key "LOG_BLOCK" occurs twice'),
        ("[]", "the description is a list"),
        ("null", "the description is null"),
        ('"sim"', 'the description is "sim"'),
        pytest.param(" " * 65_537, "larger than 65536 bytes", id="large"),
    ],
)
def test_a_damaged_file(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target.load(write(tmp_path, text))
    message = str(caught.value)
    assert reason in message and "my.json" in message and "\n" not in message


def test_a_number_of_many_digits(tmp_path: Path) -> None:
    assert "it must be 0..12" in refusal({**VTA_FILE, "LOG_BLOCK": 10**5000})
    text = json.dumps(VTA_FILE).replace('"LOG_BLOCK": 4', '"LOG_BLOCK": ' + "9" * 60_000)
    with pytest.raises(TargetError, match=r"my\.json"):
        Target.load(write(tmp_path, text))


# --- refusals: keys -------------------------------------------------------------------------


def test_everything_wrong_with_the_keys_is_said_at_once() -> None:
    description = {
        **VTA_FILE,
        "HW_VER": "0.0.1",
        "LOG_INP_WIDTH": 4,
        "LOG_BATCH": 1.0,
        "LOG_BLOCK": True,
        "LOG_WGT_BUFF_SIZE": "18",
        "LOG_ACC_BUFF_SIZE": None,
        "LOG_OUT_WIDTH": 3,
        "colour": "red",
        "clock_mhz": 0,
    }
    del description["LOG_UOP_BUFF_SIZE"]
    message = refusal(description)
    for part in (
        "key LOG_UOP_BUFF_SIZE is missing",
        'unknown key "LOG_OUT_WIDTH"',
        'unknown key "colour"',
        'HW_VER is "0.0.1"',
        "LOG_INP_WIDTH is 4; it must be 3 (vtaflow computes int8 x int8 -> int32)",
        "LOG_BATCH is 1.0; it must be an integer",
        "LOG_BLOCK is true; it must be an integer",
        'LOG_WGT_BUFF_SIZE is "18"; it must be an integer',
        "LOG_ACC_BUFF_SIZE is null; it must be an integer",
        "clock_mhz is 0; it must be 1..10000",
    ):
        assert part in message


@pytest.mark.parametrize("key", ["TARGET", "HW_VER", *description.DEFAULT_GEOMETRY])
def test_each_vta_key_is_required(key: str) -> None:
    description = dict(VTA_FILE)
    del description[key]
    assert refusal(description) == f"my.json: key {key} is missing"


def test_a_long_list_of_problems_is_cut() -> None:
    message = refusal({**VTA_FILE, **{f"K{i}": 0 for i in range(1000)}})
    assert message.endswith("and 980 more") and len(message) < 1000


@pytest.mark.parametrize("version", ["0.0.1", "0.0.3", "", 2, None, ["0.0.2"]])
def test_another_isa_version_is_refused_with_the_reason(version: object) -> None:
    message = refusal({**VTA_FILE, "HW_VER": version})
    assert 'only "0.0.2" is supported' in message
    assert "memory_type and alu_opcode are one bit narrower" in message
    with pytest.raises(TargetError, match="one bit narrower"):
        replace(SIM, hw_ver=version)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("TARGET", "", 'TARGET is ""; it must be a name'),
        ("TARGET", "../x\n", "it must be a name"),
        ("TARGET", 3, "TARGET is 3; it must be a name"),
        ("TARGET", "intelfocl", "TARGET is the OpenCL design, which is not supported"),
        ("LOG_WGT_WIDTH", 2, "LOG_WGT_WIDTH is 2; it must be 3"),
        ("LOG_ACC_WIDTH", 4, "LOG_ACC_WIDTH is 4; it must be 5"),
        ("LOG_BATCH", -1, "LOG_BATCH is -1; it must be 0..12"),
        ("LOG_BLOCK", 13, "LOG_BLOCK is 13; it must be 0..12"),
        ("LOG_UOP_BUFF_SIZE", 32, "LOG_UOP_BUFF_SIZE is 32; it must be 0..31"),
        ("LOG_INP_BUFF_SIZE", 32, "LOG_INP_BUFF_SIZE is 32; it must be 0..31"),
        ("LOG_WGT_BUFF_SIZE", 10**999, "is an integer of 3319 bits; it must be 0..31"),
        ("LOG_ACC_BUFF_SIZE", 1e308, "LOG_ACC_BUFF_SIZE is 1e+308; it must be an integer"),
        ("LOG_ACC_BUFF_SIZE", {"a": [1]}, "LOG_ACC_BUFF_SIZE is an object"),
        ("LOG_ACC_BUFF_SIZE", [[]], "LOG_ACC_BUFF_SIZE is a list"),
        ("LOG_ACC_BUFF_SIZE", "x" * 999, 'LOG_ACC_BUFF_SIZE is "xxxx'),
        ("design", "verilog", 'design is "verilog"; it must be one of fsim, hls, chisel'),
        ("design", "portable", 'design is "portable"; it must be one of'),
        ("design", [], "design is a list"),
        ("part", 7, "part is 7; it must be a device name"),
        ("part", "a\nb", "it must be a device name"),
        ("clock_mhz", 10_001, "clock_mhz is 10001; it must be 1..10000"),
        ("bus_bits", 4, "bus_bits is 4; it must be 8..1024"),
        ("bus_bits", 96, "bus_bits is 96; it must be a power of two"),
        ("dram_bytes", 4096, "dram_bytes is 4096; it must be 8192..4294967296 (addresses have 32"),
        ("acc_dep_distance", 0, "acc_dep_distance is 0; it must be 1..1024"),
        ("registers", [], "registers is a list; it must be an object"),
        ("registers", {"dma": "0x0"}, 'registers has block "dma"; blocks are fetch, load'),
        ("registers", {"load": "43C01000"}, 'registers has address "43C01000"; write it as'),
        ("registers", {"load": 5}, "registers has address 5; write it as"),
        ("timing", 3, "timing is 3; it must be an object"),
        ("timing", {"warp": 3}, 'timing has unknown constant "warp"'),
        ("timing", {"finish": -1}, "timing constant finish is -1; it must be 0..1000000"),
        ("timing", {"finish": 0.5}, "timing constant finish is 0.5; it must be an integer"),
    ],
)
def test_a_bad_value_names_its_key(key: str, value: object, part: str) -> None:
    message = refusal({**VTA_FILE, key: value})
    assert part in message
    assert len(message) < 250


# --- refusals: limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            geometry(0, 4, 16, 15, 18, 17),
            ["LOG_UOP_BUFF_SIZE=16: UOP depth is 2^14", "at most 2^13"],
        ),
        (
            geometry(0, 4, 15, 15, 18, 18),
            ["LOG_ACC_BUFF_SIZE=18", "LOG_BATCH=0", "ACC depth is 2^12", "at most 2^11"],
        ),
        (
            geometry(0, 3, 15, 15, 18, 17),
            ["LOG_BLOCK=3", "12+12+12 bits", "a GEMM instruction and a micro-op hold 32"],
        ),
        (
            geometry(0, 4, 15, 16, 18, 17),
            ["LOG_INP_BUFF_SIZE=16", "11+12+10 bits", "a GEMM instruction and a micro-op hold"],
        ),
        (
            geometry(0, 4, 15, 15, 19, 17),
            ["LOG_WGT_BUFF_SIZE=19", "11+11+11 bits", "a GEMM instruction and a micro-op hold"],
        ),
        (geometry(0, 4, 15, 14, 19, 17), ["11+11+11 bits", "but a micro-op holds 32"]),
        (
            geometry(0, 4, 15, 14, 18, 17),
            ["LOG_INP_BUFF_SIZE=14", "LOG_ACC_BUFF_SIZE=17", "INP depth 2^10 is less than ACC"],
        ),
        (
            {**geometry(0, 3, 15, 14, 16, 16), "bus_bits": 128},
            [
                "LOG_BLOCK=3",
                "one INP element has 64 bits",
                "one OUT element has 64",
                "bus_bits=128",
            ],
        ),
        (
            {**geometry(0, 1, 15, 10, 10, 10), "bus_bits": 64},
            ["one WGT element has 32 bits", "one INP element has 16 bits", "bus_bits=64"],
        ),
        ({**geometry(0, 2, 15, 14, 14, 14), "bus_bits": 256}, ["one ACC element has 128 bits"]),
        (
            geometry(0, 7, 15, 16, 20, 18),
            ["LOG_BLOCK=7, LOG_WGT_WIDTH=3: one WGT element has 16384 bytes", "page of 4096"],
        ),
        (geometry(7, 4, 15, 20, 18, 22), ["LOG_BATCH=7, LOG_BLOCK=4", "one ACC element has 8192"]),
        (geometry(0, 4, 2, 15, 18, 17), ["LOG_UOP_BUFF_SIZE=2: the UOP buffer holds fewer"]),
        (geometry(0, 4, 15, 0, 18, 17), ["LOG_INP_BUFF_SIZE=0", "the INP buffer holds fewer"]),
        (geometry(0, 4, 15, 15, 8, 17), ["LOG_WGT_BUFF_SIZE=8", "the WGT buffer holds fewer"]),
        (geometry(0, 4, 15, 15, 18, 6), ["LOG_ACC_BUFF_SIZE=6", "the ACC buffer holds fewer"]),
        (
            geometry(0, 4, 15, 7, 25, 7),
            ["LOG_WGT_BUFF_SIZE=25", "WGT depth is 2^17", "sram_base addresses 2^16"],
        ),
        (
            {"TARGET": "tsim", "LOG_BLOCK": 5, "LOG_WGT_BUFF_SIZE": 19},
            [
                "LOG_BLOCK=5, LOG_WGT_BUFF_SIZE=19: the chisel design is hard-wired",
                "(LOG_BLOCK=4, LOG_WGT_BUFF_SIZE=18)",
            ],
        ),
    ],
)
def test_each_limit_names_its_keys(changes: dict[str, object], parts: list[str]) -> None:
    message = refusal({**VTA_FILE, **changes})
    for part in parts:
        assert part in message


def test_replace_keeps_the_limits() -> None:
    with pytest.raises(TargetError, match=r"target sim: LOG_UOP_BUFF_SIZE=16: "):
        replace(SIM, log_uop_buff_size=16)
    with pytest.raises(TargetError, match="LOG_BLOCK is 1000000; it must be 0..12"):
        replace(SIM, log_block=10**6)
    with pytest.raises(TargetError, match='design is "vhdl"'):
        replace(SIM, design="vhdl")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = [*SIM.to_json(), "x"]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), ANY_JSON, max_size=6),
    st.dictionaries(st.sampled_from([f.name for f in fields(Timing)]), ANY_JSON, max_size=3),
)
def test_hostile_descriptions_are_refused_and_never_crash(
    changes: dict[str, object], timing: dict[str, object]
) -> None:
    description = {**VTA_FILE, "timing": timing, **changes}
    try:
        target = Target.from_json(description, "my.json")
    except TargetError as error:
        assert "\n" not in str(error)
    else:
        assert Target.from_json(target.to_json(), "again") == target


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[st.integers(0, 31)] * 6))
def test_any_geometry_is_legal_or_refused(config: tuple[int, ...]) -> None:
    try:
        target = make(**geometry(*config))
    except TargetError:
        return
    assert target.log_acc_depth + target.log_src_depth + target.log_wgt_depth <= 32
    assert 37 + 2 * target.log_uop_depth <= 64
    assert 4 * target.log_acc_depth + 20 <= 64
