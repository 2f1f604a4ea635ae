"""The session: names, shapes, batches of any size, host steps, kept intermediates, refusals."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow import InferenceSession
from vtaflow.backend.artifact import Artifact
from vtaflow.backend.target import Target
from vtaflow.errors import ArtifactError, DataError, DeviceError, FeedError, VtaflowError
from vtaflow.ops import operator
from vtaflow.ops.types import TensorType
from vtaflow.runtime.device import Bytes, LaunchResult
from vtaflow.runtime.host import HostStep, typed_steps
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.preprocessing import Preprocessing
from vtaflow.runtime.runner import LocalRunner, Record
from vtaflow.runtime.session import check_feed
from vtaflow.runtime.simdevice import ARENA_BASE, SimDevice
from vtaflow.runtime.tensors import TensorInfo

from .artifacts import LAYOUT, Manifest, example, host, region

MODEL = Path(__file__).parent.parent / "models" / "fashion_mlp.onnx"


class Incrementer:
    """A device whose launch copies region `source` to `result`, plus one."""

    def __init__(self, max_batch: int = 4) -> None:
        self.max_batch = max_batch
        self.memory: dict[str, Bytes] = {}
        self.log: list[str] = []

    def load(self, artifact: Artifact) -> None:
        self.steps = [step for step in artifact.manifest["steps"] if step["kind"] == "launch"]
        self.sizes = {name: one.bytes for name, one in artifact.regions.items()}

    def write(self, region: str, data: Bytes) -> None:
        self.log.append(f"write {region} {len(data)}")
        self.memory[region] = data.copy()

    def launch(self, index: int) -> LaunchResult:
        self.log.append(f"launch {index}")
        (source,), results = self.steps[index]["inputs"], self.steps[index]["outputs"]
        for result in results:
            data = np.zeros((len(self.memory[source]), self.sizes[result]), np.uint8)
            data[:, :16] = self.memory[source][:, :16] + 1
            self.memory[result] = data
        return LaunchResult({"gemm_counter": 2, "insn_count": 3}, 0.25)

    def read(self, region: str) -> Bytes:
        return self.memory[region]

    def close(self) -> None:
        self.log.append("close")


def changed(change: Any = None) -> Artifact:
    manifest, members = example()
    if change:
        change(manifest)
    return Artifact.create(manifest, members, "m.vta")


def expected(x: np.ndarray[Any, Any], launches: int = 1) -> np.ndarray[Any, Any]:
    """What the example computes with an Incrementer: the launch adds one step of 0.5."""
    steps = np.clip(np.rint((x + np.arange(10)) * 2), -128, 127) + launches
    return np.asarray(steps * np.float32(0.5), np.float32)


def samples(count: int) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(count).integers(-20, 20, (count, 10))
    return np.asarray(values, np.float32) / 2


# --- running -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 5, 13])
def test_any_number_of_samples(count: int) -> None:
    device = Incrementer(max_batch=4)
    session = InferenceSession(changed(), device)
    done: list[int] = []
    x = samples(count)
    (y,) = session.run(None, {"x": x}, done.append)
    assert np.array_equal(y, expected(x))
    assert y.dtype == np.float32
    assert (sum(done), len(done)) == (count, -(-count // 4))
    assert [line for line in device.log if line.startswith("write")] == [
        f"write x_packed {size}" for size in [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    ]


def test_statistics_are_those_of_one_compiled_batch() -> None:
    session = InferenceSession(changed(), Incrementer(max_batch=4))
    assert session.last_run is None
    session.run(["y"], {"x": samples(9)})
    found = session.last_run
    assert found is not None
    assert found.counters == {"gemm_counter": 2, "insn_count": 3}
    assert (found.launches, found.batches, found.samples) == (1, 9, 9)
    assert found.device_seconds == 0.75
    assert found.seconds > 0


def batch_of_three(manifest: Manifest) -> None:
    """The example for a compiled batch of 3, which fills a tile of 4 rows incompletely."""
    layout = {**LAYOUT, "batch": 4}
    for side in ("inputs", "outputs"):
        manifest[side][0]["shape"] = [3, 10]
    manifest["batch"] = 3
    for step in manifest["steps"]:
        if step.get("op") in ("Pack", "Unpack"):
            step["attrs"] = {"layout": {"layout": layout}, "shape": [3, 10]}
    shapes = {"shape": [1, 1, 4, 16], "logical_shape": [3, 10], "layout": layout, "bytes": 64}
    manifest["arena"]["regions"][1:] = [
        region("x_packed", "input", 8192, **shapes),
        region("y_packed", "output", 8256, **shapes),
    ]


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_the_last_compiled_batch_is_filled_up(count: int) -> None:
    class Wide(Incrementer):
        def launch(self, index: int) -> LaunchResult:
            self.memory["y_packed"] = self.memory["x_packed"] + 1
            return LaunchResult({}, 0.0)

    session = InferenceSession(changed(batch_of_three), Wide(max_batch=2))
    (y,) = session.run(None, {"x": samples(count)})
    assert np.array_equal(y, expected(samples(count)))


def test_batches_that_do_not_fill_tiles_are_packed_one_by_one() -> None:
    stacks = {
        step.operator.name: step.stacks
        for step in typed_steps(changed(batch_of_three)).steps
        if isinstance(step, HostStep)
    }
    assert stacks == {
        "Add": True, "Quantize": True, "Pack": False, "Unpack": False, "Dequantize": True,
    }


def two_launches(manifest: Manifest) -> None:
    """A second launch reads what the first one left in the arena, and a host value."""
    manifest["steps"][4:] = [
        {"kind": "launch", "index": 1, "inputs": ["y_packed"], "outputs": ["z_packed"]},
        host("Unpack", ["z_packed"], ["r"], layout={"layout": LAYOUT}, shape=[1, 10]),
        host("Dequantize", ["r"], ["y"], scale=0.5),
    ]
    manifest["launches"].append(manifest["launches"][0])
    manifest["arena"]["regions"].append(region("z_packed", "output", 8224))


def test_what_a_launch_left_in_the_arena_is_not_written_again() -> None:
    device = Incrementer()
    session = InferenceSession(changed(two_launches), device)
    x = samples(3)
    assert np.array_equal(session.run(None, {"x": x})[0], expected(x, launches=2))
    assert device.log == ["write x_packed 3", "launch 0", "launch 1"]
    assert session.last_run is not None
    assert session.last_run.counters == {"gemm_counter": 4, "insn_count": 6}


def test_a_constant_output() -> None:
    def add(manifest: Manifest) -> None:
        manifest["host_constants"]["c"] = {"member": "c0", "shape": [1, 10], "dtype": "float32"}
        manifest["outputs"].append(
            {"name": "c", "shape": [1, 10], "dtype": "float32", "quantisation": None}
        )

    session = InferenceSession(changed(add), Incrementer())
    c, y = session.run(["c", "y"], {"x": samples(6)})
    assert np.array_equal(c, [np.arange(10)] * 6)
    assert np.array_equal(y, expected(samples(6)))


def test_an_output_that_is_an_input() -> None:
    def add(manifest: Manifest) -> None:
        manifest["outputs"].append(manifest["inputs"][0])

    session = InferenceSession(changed(add), Incrementer())
    assert np.array_equal(session.run(["x"], {"x": samples(6)})[0], samples(6))


def test_inputs_and_outputs_read_like_onnxruntimes() -> None:
    session = InferenceSession(changed(), Incrementer())
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type) == ("x", ["batch", 10], "tensor(float)")
    assert (y.name, y.shape, y.type) == ("y", ["batch", 10], "tensor(float)")


def test_a_session_is_a_context() -> None:
    device = Incrementer()
    with InferenceSession(changed().to_bytes(), device):
        pass
    assert device.log == ["close"]


def test_the_preprocessing_note_is_at_hand() -> None:
    def add(manifest: Manifest) -> None:
        manifest["preprocessing"] = {"x": {"scale": 0.5}}

    assert InferenceSession(changed(add), Incrementer()).preprocessing == {
        "x": Preprocessing(scale=0.5)
    }
    assert InferenceSession(changed(), Incrementer()).preprocessing == {}


# --- intermediates -----------------------------------------------------------------------------


def keep(manifest: Manifest) -> None:
    two_launches(manifest)
    manifest["arena"]["keep_intermediates"] = True


def test_kept_intermediates_can_be_run_and_read() -> None:
    session = InferenceSession(changed(keep), Incrementer(max_batch=4))
    assert session.get_intermediates() == ["x_packed", "y_packed", "z_packed"]
    x = samples(6)
    inner, y = session.run(["y_packed", "y"], {"x": x})
    assert inner.dtype == np.int8
    assert np.array_equal(inner * np.float32(0.5), expected(x))
    assert np.array_equal(y, expected(x, launches=2))
    assert np.array_equal(session.read("y_packed"), inner[4:])


def test_reading_before_a_run() -> None:
    session = InferenceSession(changed(keep), Incrementer())
    with pytest.raises(FeedError, match="nothing was run, so 'y_packed' is empty"):
        session.read("y_packed")


def test_reading_what_is_not_kept() -> None:
    session = InferenceSession(changed(), Incrementer())
    session.run(None, {"x": samples(1)})
    with pytest.raises(FeedError, match="none, compile with --keep-intermediates"):
        session.read("y_packed")
    with pytest.raises(FeedError, match="no output 'x_packed', it has y"):
        session.run(["x_packed"], {"x": samples(1)})


def test_what_leaves_the_device_can_be_asked_for() -> None:
    session = InferenceSession(changed(), Incrementer())
    assert session.get_device_outputs() == ["y_packed"]
    x = samples(3)
    (found,) = session.run(["y_packed"], {"x": x})
    assert np.array_equal(found * np.float32(0.5), expected(x))


def test_raw_samples_are_preprocessed() -> None:
    def scaled(manifest: Manifest) -> None:
        manifest["preprocessing"] = {"x": Preprocessing(scale=0.5).to_json()}

    session, plain = (InferenceSession(changed(how), Incrementer()) for how in (scaled, None))
    raw = np.arange(30, dtype=np.uint8).reshape(3, 10)
    wanted = plain.run(None, {"x": raw.astype(np.float32) / 2})
    assert np.array_equal(session.run_raw(None, {"x": raw})[0], wanted[0])
    assert np.array_equal(session.run_raw(None, {"x": raw[0]})[0], wanted[0][:1])
    with pytest.raises(FeedError, match="expected a NumPy array of raw samples"):
        session.run_raw(None, {"x": [1]})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"samples have shape \(7,\), expected \(10,\)"):
        session.run_raw(None, {"x": raw[:, :7]})


def test_reloading_forgets_what_was_run() -> None:
    device = Incrementer()
    session = InferenceSession(changed(keep), device)
    session.run(None, {"x": samples(1)})
    session.reload()
    with pytest.raises(FeedError, match="nothing was run"):
        session.read("y_packed")


# --- refused feeds -----------------------------------------------------------------------------

NAN = samples(3)
NAN[1, 2] = np.nan
INFINITE = samples(3)
INFINITE[0, 9] = -np.inf


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        (5, r"mapping of input names to arrays; the model takes 'x' float32\[batch, 10\]"),
        ({}, r"the input 'x' is missing; the model takes 'x' float32\[batch, 10\]"),
        ({"z": samples(1)}, r"no input 'z'; it takes 'x' float32\[batch, 10\]"),
        ({"x": samples(1), "z": samples(1)}, "no input 'z'"),
        ({"x": [[1.0]]}, r"'x': expected a NumPy array float32\[batch, 10\], found list"),
        ({"x": samples(1).astype("f8")}, r"float64\[1, 10\]; convert it with .astype\('float32'"),
        ({"x": np.array([[None] * 10])}, r"found object\[1, 10\]"),
        ({"x": samples(1)[0]}, r"expected float32\[batch, 10\], found float32\[10\]"),
        ({"x": samples(1)[:, :9]}, r"found float32\[1, 9\]"),
        ({"x": samples(0)}, r"found float32\[0, 10\]"),
        ({"x": NAN}, r"expected finite values, found nan at \(1, 2\)"),
        ({"x": INFINITE}, r"expected finite values, found -inf at \(0, 9\)"),
    ],
)
def test_refused_feeds(feeds: Any, message: str) -> None:
    device = Incrementer()
    session = InferenceSession(changed(), device)
    with pytest.raises(FeedError, match=message):
        session.run(None, feeds)
    assert device.log == []


def test_inputs_of_different_lengths() -> None:
    def add(manifest: Manifest) -> None:
        manifest["inputs"].append({**manifest["inputs"][0], "name": "w"})

    session = InferenceSession(changed(add), Incrementer())
    with pytest.raises(FeedError, match="different numbers of samples: 'x' 2, 'w' 3"):
        session.run(None, {"x": samples(2), "w": samples(3)})


@pytest.mark.parametrize("names", [[], "y", ["z"]])
def test_refused_output_names(names: Any) -> None:
    session = InferenceSession(changed(), Incrementer())
    with pytest.raises(FeedError, match="output"):
        session.run(names, {"x": samples(1)})


def test_integer_inputs_need_no_finite_check() -> None:
    check_feed(TensorInfo("i", (2,), "int32"), np.zeros((1, 2), np.int32))


# --- refused artifacts, devices and targets ----------------------------------------------------


def test_an_unknown_device() -> None:
    with pytest.raises(DeviceError, match="no device 'toaster'; known: sim"):
        InferenceSession(changed(), "toaster")


def test_an_artifact_for_another_target(tmp_path: Path) -> None:
    other = Target.from_json(
        {**Target.load("sim").to_json(), "TARGET": "big", "LOG_BLOCK": 5}, "big"
    )
    with pytest.raises(ArtifactError, match="rebuild it with: deploy compile tiny.onnx"):
        InferenceSession(changed(), Incrementer(), other)
    session = InferenceSession(changed(), Incrementer(), "pynq")
    assert session.target == Target.load("pynq")


def step(number: int, **changes: Any) -> Any:
    return lambda manifest: manifest["steps"][number].update(changes)


def attr(number: int, **changes: Any) -> Any:
    return lambda manifest: manifest["steps"][number]["attrs"].update(changes)


def shapes(**changes: Any) -> Any:
    return lambda manifest: manifest["arena"]["regions"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (step(0, op="Explode"), "step 0 .*: this version knows no such operator"),
        (step(0, inputs=["x"]), "step 0 .*: 1 inputs, takes 2 to 2"),
        (step(0, inputs=["offset", "offset"]), "it depends on no input"),
        (step(1, outputs=["q", "p"]), "2 outputs, makes 1"),
        (step(1, inputs=["x"], attrs={"scale": "big"}), "its attributes are not legal"),
        (step(1, attrs={}), "its attributes are not legal"),
        (attr(1, scale=1e-40), "scale 1e-40 is not within"),
        (attr(1, scale={"float": "nan"}), "step 1 "),
        (attr(1, scale={"a": 1}), "an attribute is no such object"),
        (attr(2, layout={"layout": {}}), "a layout has order, batch and block"),
        (attr(2, layout={"layout": {**LAYOUT, "order": "CC"}}), "there is no such layout"),
        (attr(2, layout={"layout": {**LAYOUT, "batch": 10**6}}), "there is no such layout"),
        (attr(2, layout=5), "its attributes are not legal"),
        (attr(2, shape=[1, 11]), "packs a plain"),
        (shapes(dtype="uint8"), "step 3: int8.* is put into uint8"),
        (shapes(logical_shape=[1, 17]), "is not stored as the region 'x_packed' is"),
        (shapes(logical_shape=None), "the region 'x_packed' holds no tensor"),
        (shapes(logical_shape=[1, 10, 1, 1]), "does not fit the region 'x_packed'"),
        (shapes(layout={**LAYOUT, "order": "N"}), "there is no such layout"),
        (step(5, inputs=["r"], op="Identity", attrs={}), "output 'y' is int8"),
    ],
)
def test_steps_that_do_not_fit_together(change: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        InferenceSession(changed(change), Incrementer())
    assert "\n" not in str(caught.value)


def test_outputs_that_explode() -> None:
    def change(manifest: Manifest) -> None:
        manifest["inputs"][0]["shape"] = [1, 1 << 20, 1]
        manifest["host_constants"]["offset"] = {
            "member": "c0", "shape": [1, 10, 1, 1], "dtype": "float32",
        }
        grow = [
            host("Reshape", ["x"], ["long"], shape=[1, 1 << 20, 1]),
            host("Reshape", ["x"], ["wide"], shape=[1, 1, 1 << 20]),
            host("Add", ["long", "wide"], ["moved"]),
        ]
        manifest["steps"][0:1] = grow

    with pytest.raises(ArtifactError, match="its outputs are too large"):
        InferenceSession(changed(change), Incrementer())


def test_an_attribute_that_only_evaluation_trips_over() -> None:
    def change(manifest: Manifest) -> None:
        manifest["steps"][0] = host("Clip", ["x"], ["moved"], min="low", max=None)

    session = InferenceSession(changed(change), Incrementer())
    with pytest.raises(ArtifactError, match="step 'Clip_moved' .Clip.: could not convert"):
        session.run(None, {"x": samples(1)})


def test_a_step_that_breaks_its_own_type_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    session = InferenceSession(changed(), Incrementer())
    first = typed_steps(session.artifact).steps[0]
    assert isinstance(first, HostStep)
    monkeypatch.setitem(
        first.operator.__dict__, "evaluate", lambda arrays, attrs: [arrays[0].astype("f8")]
    )
    with pytest.raises(RuntimeError, match="Add made float64"):
        session.run(None, {"x": samples(1)})


ODD_VALUES: list[Any] = [None, -1, 3, 1.5, "q", [], ["x"], [0, 2], {"float": "inf"}]


def test_no_value_in_a_step_or_region_crashes_the_session() -> None:
    """Whatever stands there, the session runs or says in one line why it does not."""
    manifest, members = example()
    accepted = refused = 0
    for section in ("batch", "inputs", "outputs", "steps", "host_constants", "arena"):
        for path in [[section, *rest] for rest in places(manifest[section])]:
            for value in ODD_VALUES:
                bad = deepcopy(manifest)
                parent = bad
                for key in path[:-1]:
                    parent = parent[key]
                parent[path[-1]] = value
                try:
                    session = InferenceSession(Artifact.create(bad, members))
                    session.run(None, {"x": samples(2)})
                except VtaflowError as error:
                    assert "\n" not in str(error)
                    refused += 1
                else:
                    accepted += 1
    assert refused > 500
    assert accepted > 20


def places(value: Any) -> list[list[Any]]:
    """Paths of everything inside a JSON value, itself included."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    return [[], *([key, *rest] for key, item in pairs for rest in places(item))]


# --- which host steps may be evaluated for many batches at once --------------------------------


def stacks(op: str, extents: list[int], **attrs: Any) -> bool:
    def change(manifest: Manifest) -> None:
        manifest["inputs"][0]["shape"] = extents
        manifest["steps"] = [host(op, ["x"], ["y"], **attrs)]
        manifest["launches"] = []
        manifest["batch"] = extents[0]
        manifest["outputs"][0]["shape"] = list(kind.shape)

    meaning = operator(op)
    decoded = {name: tuple(v) if isinstance(v, list) else v for name, v in attrs.items()}
    (kind,) = meaning.infer([TensorType(tuple(extents))], decoded)
    (only,) = typed_steps(changed(change)).steps
    assert isinstance(only, HostStep)
    return only.stacks


def test_rows_that_are_treated_alike_are_stacked() -> None:
    assert stacks("Relu", [2, 3])
    assert stacks("Softmax", [2, 3], axes=[1])
    assert stacks("Flatten", [2, 3, 4], axis=1)
    assert stacks("Reshape", [2, 6], shape=[0, 3, 2])
    assert stacks("Transpose", [2, 3, 4], perm=[0, 2, 1])


def test_rows_that_meet_are_not_stacked() -> None:
    assert not stacks("Softmax", [2, 3], axes=[0])
    assert not stacks("Softmax", [2, 3], axes=[-2])
    assert not stacks("Reshape", [2, 6], shape=[2, 6])
    assert not stacks("Transpose", [3, 3], perm=[1, 0])


def test_both_ways_of_evaluation_agree() -> None:
    artifact = changed()
    together, apart = (LocalRunner(artifact, Incrementer(8)) for _ in range(2))
    steps = tuple(
        replace(one, stacks=False) if isinstance(one, HostStep) else one
        for one in apart._plan.steps
    )
    apart._plan = replace(apart._plan, steps=steps)
    one, other = (
        runner.run(["y"], {"x": samples(8)}, Record())[0] for runner in (together, apart)
    )
    assert np.array_equal(one, other)


# --- the simulator as a device -----------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled() -> Any:
    from vtaflow.compiler import compile

    return compile(MODEL, "sim")


def test_the_simulator_computes_the_integer_graph(compiled: Any) -> None:
    from vtaflow.graph.interpret import interpret

    x = np.random.default_rng(0).standard_normal((5, 784), np.float32)
    name = compiled.integer.inputs[0]
    wanted = [interpret(compiled.integer, {name: one[None]}) for one in x]
    output = compiled.integer.outputs[0]
    with InferenceSession(compiled.artifact) as session:
        (found,) = session.run(None, {name: x})
    assert np.array_equal(found, np.concatenate([one[output] for one in wanted]))
    assert session.last_run is not None
    assert session.last_run.counters["insn_count"] == compiled.artifact.manifest["launches"][0][
        "instructions"
    ]


@pytest.mark.parametrize("target", ["sim", "pynq", "tsim"])
def test_every_order_and_design_gives_the_same_bytes(compiled: Any, target: str) -> None:
    x = np.random.default_rng(1).standard_normal((3, 784), np.float32)
    name = compiled.integer.inputs[0]
    plain = InferenceSession(compiled.artifact).run(None, {name: x})[0]
    for order in ORDERS:
        device = SimDevice(Target.load(target), order)
        with InferenceSession(compiled.artifact, device, target) as session:
            assert np.array_equal(session.run(None, {name: x})[0], plain)


def test_batches_change_from_run_to_run(compiled: Any) -> None:
    x = np.random.default_rng(2).standard_normal((130, 784), np.float32)
    name = compiled.integer.inputs[0]
    with InferenceSession(compiled.artifact) as session:
        (whole,) = session.run(None, {name: x})
        for part in (slice(0, 1), slice(0, 64), slice(60, 130), slice(5, 6)):
            assert np.array_equal(session.run(None, {name: x[part]})[0], whole[part])


def test_a_closed_simulator_can_be_closed_again(compiled: Any) -> None:
    device = SimDevice(Target.load("sim"))
    device.load(compiled.artifact)
    device.close()
    device.close()


def test_the_simulator_refuses_what_does_not_fit() -> None:
    device = SimDevice(Target.load("sim"))
    device.load(changed())
    for data in (np.zeros((1, 17), np.uint8), np.zeros((65, 16), np.uint8)):
        with pytest.raises(DeviceError, match="do not fit the region 'x_packed'"):
            device.write("x_packed", data)


def test_an_arena_that_is_too_large_for_the_simulator() -> None:
    def grow(manifest: Manifest) -> None:
        manifest["target"]["dram_bytes"] = 1 << 32
        manifest["arena"]["bytes"] = 1 << 32

    with pytest.raises(DeviceError, match=f"does not fit behind address {ARENA_BASE:#x}"):
        InferenceSession(changed(grow))
