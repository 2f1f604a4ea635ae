"""The number of BLAS threads: one while the simulator runs, the user's own again afterwards."""

from __future__ import annotations

import _ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vtaflow.runtime import blas


class FakeLibrary:
    """A BLAS with two threads."""

    def __init__(self) -> None:
        self.threads = 2

    def put(self, count: int) -> None:
        """The setter."""
        self.threads = count


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """The only BLAS that is loaded."""
    fake = FakeLibrary()
    monkeypatch.setattr(blas, "_controls", lambda: ((lambda: fake.threads, fake.put),))
    return fake


@pytest.fixture
def fresh_search() -> Iterator[None]:
    """The search for libraries is done anew, before and after."""
    blas._controls.cache_clear()
    yield
    blas._controls.cache_clear()


def test_the_number_is_restored_even_after_an_error(library: FakeLibrary) -> None:
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        assert library.threads == 1
        raise ZeroDivisionError
    assert library.threads == 2


def test_the_last_of_several_users_restores_it(library: FakeLibrary) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with blas.one_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with blas.one_thread():
        thread.start()
        assert inside.wait(10)
    assert library.threads == 1
    leave.set()
    thread.join(10)
    assert library.threads == 2


@pytest.mark.usefixtures("fresh_search")
def test_the_libraries_in_use_are_found_and_set() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    if not blas._loaded():
        pytest.skip("NumPy's BLAS here is no OpenBLAS that the system lists")
    gets = [get for get, _ in blas._controls()]
    assert gets
    before = [get() for get in gets]
    with blas.one_thread():
        assert [get() for get in gets] == [1] * len(gets)
    assert [get() for get in gets] == before


@pytest.mark.usefixtures("fresh_search")
def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(blas, "_MAPS", str(tmp_path / "absent"))
    with blas.one_thread():
        assert blas._controls() == ()


@pytest.mark.usefixtures("fresh_search")
def test_strange_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = _ctypes.__file__  # loadable, and no BLAS
    broken = tmp_path / "libopenblas.so"
    broken.write_text("no library")
    monkeypatch.setattr(blas, "_loaded", lambda: [other, str(broken)])
    with blas.one_thread():
        assert blas._controls() == ()
