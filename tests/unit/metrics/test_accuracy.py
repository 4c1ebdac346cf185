"""Accuracy, balanced accuracy and macro-F1, compared with scikit-learn and a worked example"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from remix_study.metrics.accuracy import accuracy, balanced_accuracy, confusion, macro_f1, majority_rate

CLASSES = 5
pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60)


def split(cases: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = np.array(cases, dtype=np.int64)
    return table[:, 0], table[:, 1]


@given(pairs)
def test_agrees_with_scikit_learn(cases: list[tuple[int, int]]) -> None:
    labels, predictions = split(cases)
    counts = confusion(labels, predictions, CLASSES)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, confusion_matrix(labels, predictions, labels=range(CLASSES)))
    assert accuracy(counts) == pytest.approx(accuracy_score(labels, predictions))
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert balanced_accuracy(counts) == pytest.approx(
        recall_score(labels, predictions, average="macro", labels=np.unique(labels))
    )
    assert majority_rate(counts) == pytest.approx(max(np.bincount(labels)) / len(labels))


@given(pairs, st.integers(0, 60))
def test_confusions_of_ranks_can_be_summed(cases: list[tuple[int, int]], cut: int) -> None:
    labels, predictions = split(cases)
    parts = [confusion(labels[part], predictions[part], CLASSES) for part in (slice(cut), slice(cut, None))]
    assert np.array_equal(parts[0] + parts[1], confusion(labels, predictions, CLASSES))


def test_worked_example() -> None:
    # Class 0: tp 1, fp 1, fn 1 -> 1/2. Class 1: tp 2, fp 1, fn 0 -> 4/5. Class 2: tp 0, fn 1 -> 0. Class 3: absent.
    counts = confusion(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0]), 4)
    assert accuracy(counts) == pytest.approx(3 / 5)
    assert macro_f1(counts) == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert balanced_accuracy(counts) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert majority_rate(counts) == pytest.approx(2 / 5)


def test_invalid_labels_raise() -> None:
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, but are in 0\.\.3"):
        confusion(np.array([0, 3]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match=r"predictions must be in 0\.\.2, but are in -1\.\.0"):
        confusion(np.array([0, 1]), np.array([0, -1]), 3)
    with pytest.raises(ValueError, match="one-dimensional and of equal length"):
        confusion(np.array([0, 1]), np.array([0]), 3)
    for metric in (accuracy, balanced_accuracy, macro_f1, majority_rate):
        with pytest.raises(ValueError, match="at least one sample"):
            metric(np.zeros((3, 3), dtype=np.int64))
