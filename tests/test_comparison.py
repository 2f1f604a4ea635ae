"""Comparison: its measures against hand-made cases, and that it can say no."""

from __future__ import annotations

from math import inf, log10

import numpy as np
import pytest

from vtaflow.errors import DataError
from vtaflow.runtime.comparison import (
    accuracy,
    compare_streams,
    compare_tensors,
    first_difference,
)


def test_equal_tensors() -> None:
    array = np.array([[1, 2], [3, -4]], np.int8)
    found = compare_tensors("a", array, array.copy())
    assert found.equal
    assert (found.max_abs_error, found.sqnr_db, found.top1_agreement) == (0, inf, 1)
    assert found.cosine == pytest.approx(1)


def test_measures() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 1.0]])
    actual = np.array([[3.0, 2.0], [0.0, 1.0]])
    found = compare_tensors("a", expected, actual)
    assert found.max_abs_error == 2
    assert found.sqnr_db == pytest.approx(10 * log10(26 / 4))
    assert found.cosine == pytest.approx(18 / (26 * 14) ** 0.5)
    assert found.top1_agreement == 0.5
    assert not found.equal
    assert str(found.first_difference) == "[0, 1]: expected 4, found 2"


def test_int8_differences_do_not_wrap() -> None:
    found = compare_tensors("a", np.array([127], np.int8), np.array([-128], np.int8))
    assert found.max_abs_error == 255
    assert found.top1_agreement is None


def test_zeros() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert compare_tensors("a", zero, zero).cosine == 1
    assert compare_tensors("a", zero, one).cosine == 0
    assert compare_tensors("a", zero, one).sqnr_db == -inf
    empty = compare_tensors("a", np.zeros((0, 2)), np.zeros((0, 2)))
    assert (empty.max_abs_error, empty.top1_agreement) == (0, None)


def test_the_first_difference_in_row_major_order() -> None:
    expected = np.zeros((2, 3, 4))
    actual = expected.copy()
    actual[1, 2, 0] = 5
    actual[1, 0, 3] = 7
    found = first_difference(expected, actual)
    assert found is not None
    assert (found.index, found.actual) == ((1, 0, 3), 7)


def test_nan_equals_nan_only() -> None:
    nan = np.array([np.nan, 1])
    assert first_difference(nan, nan) is None
    assert first_difference(nan, np.array([0.0, 1])) is not None


def test_streams() -> None:
    one, two = np.ones(2), np.zeros(2)
    found = list(compare_streams([("a", one), ("b", two)], [("a", one), ("b", one)]))
    assert [(each.name, each.equal) for each in found] == [("a", True), ("b", False)]


def test_streams_that_do_not_match() -> None:
    one = np.ones(2)
    with pytest.raises(DataError, match="'a' against 'b'"):
        list(compare_streams([("a", one)], [("b", one)]))
    with pytest.raises(DataError, match="'b' against 'nothing'"):
        list(compare_streams([("a", one), ("b", one)], [("a", one)]))
    with pytest.raises(DataError, match=r"'a': the reference has shape \(2,\), the other \(3,\)"):
        list(compare_streams([("a", one)], [("a", np.ones(3))]))


def test_accuracy() -> None:
    scores = np.array([[1.0, 2], [3, 1], [0, 5], [5, 0]])
    assert accuracy(scores, np.array([1, 0, 0, 1])) == 0.5
    for wrong in (np.array([1, 0]), np.array([1, 0, 0, 2]), np.array([1, 0, 0, -1])):
        with pytest.raises(DataError, match="labels"):
            accuracy(scores, wrong)
    with pytest.raises(DataError, match="one row of scores a sample"):
        accuracy(np.zeros((4, 2, 2)), np.zeros(4, int))
