"""Recipes and the files that they name: reading, relative paths, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtaflow.errors import DataError
from vtaflow.runtime.data import load_feeds, load_labels, random_feeds, save_arrays
from vtaflow.runtime.preprocessing import Preprocessing
from vtaflow.runtime.recipe import Recipe, find_recipe, preprocessing_of
from vtaflow.runtime.tensors import TensorInfo

X = TensorInfo("x", (4,), "float32")
Y = TensorInfo("y", (2,), "float32")


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


# --- recipes -----------------------------------------------------------------------------------


def test_a_full_recipe(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net.json",
        {
            "inputs": {"x": {"preprocessing": {"scale": 0.5}}, "y": {}},
            "calibration": "d.npz#c",
            "test": "d.npz#t",
            "labels": None,
        },
    )
    recipe = Recipe.load(path)
    assert recipe.preprocessing == {"x": Preprocessing(scale=0.5)}
    assert recipe.calibration == str(tmp_path / "d.npz#c")
    assert (recipe.test, recipe.labels) == (str(tmp_path / "d.npz#t"), None)
    assert preprocessing_of(json.loads(json.dumps(recipe.note())), "a") == recipe.preprocessing
    recipe.require_inputs([X])


def test_a_recipe_is_found_beside_the_model(tmp_path: Path) -> None:
    assert find_recipe(tmp_path / "net.onnx") == Recipe()
    assert Recipe().note() is None
    assert preprocessing_of(None, "a") == {}
    write(tmp_path / "net.json", {"test": "t.npy"})
    assert find_recipe(tmp_path / "net.onnx").test == str(tmp_path / "t.npy")


def test_a_recipe_for_an_input_that_is_not_there() -> None:
    recipe = Recipe.from_json({"inputs": {"z": {"preprocessing": {}}}}, "net.json")
    with pytest.raises(DataError, match="net.json: the model has no input 'z', it has x, y"):
        recipe.require_inputs([X, Y])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "expected an object with inputs, calibration"),
        ({"labls": "a"}, "unknown field 'labls', known: inputs"),
        ({"inputs": []}, "inputs: expected an object"),
        ({"inputs": {"x": 5}}, "inputs.x: expected an object with preprocessing"),
        ({"inputs": {"x": {"pre": 5}}}, "inputs.x: unknown field 'pre'"),
        ({"inputs": {"x": {"preprocessing": {"std": 0}}}}, "inputs.x.preprocessing.std: 0 cannot"),
        ({"test": 5}, "test: expected a reference"),
        ({"test": ""}, "test: expected a reference"),
    ],
)
def test_a_refused_recipe(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path / "net.json", value)
    with pytest.raises(DataError, match=message) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read: No such file"):
        Recipe.load(tmp_path / "none.json")
    with pytest.raises(DataError, match="at most 1048576 bytes"):
        Recipe.load(write(tmp_path / "big.json", " " * ((1 << 20) + 1)))


def test_a_refused_note() -> None:
    with pytest.raises(DataError, match=r"m.vta: preprocessing.x.std: 0 cannot"):
        preprocessing_of({"x": {"std": 0}}, "m.vta")


# --- samples -----------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.savez(tmp_path / "d.npz", a=samples, b=samples + 1, labels=np.array([1, 0, 2]))
    np.savez(tmp_path / "xy.npz", x=samples, y=samples[:, :2])
    np.savez_compressed(tmp_path / "one.npz", only=samples)
    np.save(tmp_path / "d.npy", samples)
    return tmp_path


def test_references(data: Path) -> None:
    samples = np.arange(12, dtype=np.float32).reshape(3, 4)
    for reference, expected in (
        ("d.npz#a", samples),
        ("d.npz#b", samples + 1),
        ("xy.npz", samples),
        ("one.npz", samples),
        ("d.npy", samples),
    ):
        feeds = load_feeds(str(data / reference), [X], {})
        assert list(feeds) == ["x"]
        assert feeds["x"].dtype == np.float32
        assert np.array_equal(feeds["x"], expected)
    both = load_feeds(str(data / "xy.npz"), [X, Y], {"y": Preprocessing(scale=2.0)})
    assert np.array_equal(both["y"], samples[:, :2] * 2)


def test_a_folder_of_samples_and_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.arange(4.0))
    np.save(tmp_path / "a.npy", np.arange(8.0).reshape(2, 4) + 10)
    (tmp_path / "readme.txt").write_text("not a sample")
    feeds = load_feeds(str(tmp_path), [X], {})
    assert np.array_equal(feeds["x"], [[10, 11, 12, 13], [14, 15, 16, 17], [0, 1, 2, 3]])


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no .npy or .npz files"):
        load_feeds(str(tmp_path), [X], {})
    with pytest.raises(DataError, match="a folder feeds one input, the model has 2"):
        load_feeds(str(tmp_path), [X, Y], {})
    np.save(tmp_path / "a.npy", np.zeros((2, 4)))
    np.save(tmp_path / "b.npy", np.zeros((2, 5)))
    with pytest.raises(DataError, match=r"different shapes: \(4,\) and \(5,\)"):
        load_feeds(str(tmp_path), [X], {})


@pytest.mark.parametrize(
    ("reference", "tensors", "message"),
    [
        ("none.npz", [X], "none.npz: cannot read arrays: No such file"),
        ("d.npz#c", [X], "there is no array 'c', only a, b, labels"),
        ("d.npy#c", [X], "there is no array 'c', only d"),
        ("d.npz", [X], "say which array to use: d.npz#a, d.npz#b"),
        ("empty.npz", [X], "the file is empty"),
        ("d.npz", [X, Y], "the model's inputs are x, y, the file has a, b, labels"),
        ("text.npy", [X], "cannot read arrays"),
        ("void.npy", [X], "cannot read arrays"),
        ("pickle.npy", [X], "cannot read arrays: Object arrays cannot be loaded"),
        ("pickle.npz", [X], "cannot read arrays: Object arrays cannot be loaded"),
        ("cut.npz", [X], "cannot read arrays"),
        ("huge.npy", [X], "cannot read arrays"),
        ("uneven.npz", [X, Y], "different numbers of samples: x 3, y 2"),
        ("nan.npy", [X], r"nan.npy: input 'x': nan at index \(0, 2\)"),
        ("d.npz#b", [Y], r"input 'y': samples have shape \(4,\), expected \(2,\)"),
    ],
)
def test_a_refused_reference(
    data: Path, reference: str, tensors: list[TensorInfo], message: str
) -> None:
    np.savez(data / "empty.npz")
    write(data / "text.npy", "no array")
    write(data / "void.npy", "")
    np.save(data / "pickle.npy", np.array([{}], object), allow_pickle=True)
    np.savez(data / "pickle.npz", x=np.array([{}], object))
    (data / "cut.npz").write_bytes((data / "one.npz").read_bytes()[:-40])
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % (10**14)
    (data / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n")
    np.savez(data / "uneven.npz", x=np.zeros((3, 4)), y=np.zeros((2, 2)))
    np.save(data / "nan.npy", np.array([[0, 1, np.nan, 3]]))
    with pytest.raises(DataError, match=message) as caught:
        load_feeds(str(data / reference), tensors, {})
    assert "\n" not in str(caught.value)


def test_labels(data: Path) -> None:
    labels = load_labels(str(data / "d.npz#labels"))
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0, 2]
    with pytest.raises(DataError, match="say which array holds the labels: d.npz#a"):
        load_labels(str(data / "d.npz"))
    np.save(data / "float.npy", np.zeros(3))
    np.save(data / "none.npy", np.zeros(0, int))
    for name in ("d.npz#a", "float.npy", "none.npy"):
        with pytest.raises(DataError, match="labels are integers, one a sample"):
            load_labels(str(data / name))


def test_a_hash_in_a_folder_name(tmp_path: Path) -> None:
    folder = tmp_path / "c#"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((2, 4)))
    assert load_feeds(str(folder / "a.npy"), [X], {})["x"].shape == (2, 4)


def test_random_feeds_are_seeded() -> None:
    tensors = [X, TensorInfo("i", (2, 2), "int8"), TensorInfo("b", (1,), "bool")]
    first, again = (random_feeds(tensors, 5, seed=3) for _ in range(2))
    other = random_feeds(tensors, 5, seed=4)
    assert {name: array.dtype.name for name, array in first.items()} == {
        "x": "float32", "i": "int8", "b": "bool",
    }
    assert first["i"].shape == (5, 2, 2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x"], other["x"])


def test_arrays_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    save_arrays(str(path), {"file": np.arange(3), "a/b": np.ones((2, 2), np.float32)})
    with np.load(path) as saved:
        assert saved["file"].tolist() == [0, 1, 2]
        assert saved["a/b"].dtype == np.float32
    with pytest.raises(DataError, match="cannot write: No such file"):
        save_arrays(str(tmp_path / "none" / "out.npz"), {})
    assert [one.name for one in tmp_path.iterdir()] == ["out.npz"]
