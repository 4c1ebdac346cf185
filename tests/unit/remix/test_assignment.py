"""Statistics of an assignment, on small worked examples"""

import numpy as np
import pytest
from scipy.stats import entropy

from remix_study.remix.assignment import Assignment, column_order, everything_joint, mean_margin


def assignment(rows: list[tuple[int, int]], joint: list[int]) -> Assignment:
    return Assignment(np.asarray(rows, np.bool_), np.asarray(joint, np.bool_))


FIVE = assignment([(1, 0), (0, 1), (0, 1), (0, 0), (0, 0)], [0, 0, 0, 1, 0])


def test_shares_are_fractions_of_all_samples() -> None:
    np.testing.assert_allclose(FIVE.shares_M(), [0.2, 0.4])
    assert FIVE.joint_share() == pytest.approx(0.2)
    assert FIVE.resting_share() == pytest.approx(0.2)
    assert FIVE.trained_N.tolist() == [True, True, True, True, False]


def test_entropy_is_one_for_equal_shares_and_zero_for_a_single_modality() -> None:
    assert assignment([(1, 0), (0, 1)], [0, 0]).entropy() == pytest.approx(1.0)
    assert assignment([(1, 0), (1, 0)], [0, 0]).entropy() == 0.0
    assert FIVE.entropy() == pytest.approx(-(1 / 3 * np.log2(1 / 3) + 2 / 3 * np.log2(2 / 3)))


def test_entropy_without_assigned_samples_is_zero() -> None:
    assert everything_joint(4, 2).entropy() == 0.0


def test_churn_counts_samples_whose_assignment_changed() -> None:
    other = assignment([(1, 0), (1, 0), (0, 1), (0, 0), (0, 0)], [0, 0, 0, 0, 0])
    assert other.churn(FIVE) == pytest.approx(0.4)
    assert FIVE.churn(FIVE) == 0.0


def test_shares_by_class() -> None:
    shares_CM = FIVE.shares_by_class(np.asarray([0, 0, 1, 1, 1]), classes=3)
    np.testing.assert_allclose(shares_CM, [[0.5, 0.5], [0.0, 1 / 3], [np.nan, np.nan]])


def test_everything_joint_trains_every_sample_with_every_modality() -> None:
    warmup = everything_joint(3, 2)
    assert warmup.joint_share() == 1.0
    assert not warmup.assigned_NM.any()
    assert warmup.trained_N.all()


def test_mean_margin_is_second_smallest_minus_smallest() -> None:
    assert mean_margin(np.asarray([[1.0, 4.0, 2.0], [5.0, 5.0, 9.0]])) == pytest.approx(0.5)


def test_column_order_maps_names_to_columns() -> None:
    assert column_order(("audio", "video", "text"), ("video", "text", "audio")) == [1, 2, 0]


@pytest.mark.parametrize("order", [("video",), ("video", "video"), ("video", "text")])
def test_column_order_must_name_each_modality_once(order: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must name each of"):
        column_order(("audio", "video"), order)


def test_an_assignment_with_different_lengths_raises() -> None:
    with pytest.raises(ValueError, match="differ in N"):
        Assignment(np.zeros((3, 2), np.bool_), np.zeros(2, np.bool_))


@pytest.mark.parametrize("counts", [(3, 3, 3), (2, 2, 2, 2), (6, 3, 1), (5, 0, 1), (4, 0, 0), (1, 2, 3, 4, 5)])
def test_entropy_is_relative_to_that_of_equal_shares(counts: tuple[int, ...]) -> None:
    """For any number of modalities; samples that train jointly or rest do not count."""
    chosen_N = np.repeat(np.arange(len(counts)), counts)
    alone_NM = chosen_N[:, None] == np.arange(len(counts))
    padded_NM = np.concatenate([alone_NM, np.zeros((4, len(counts)), np.bool_)])
    found = Assignment(padded_NM, np.arange(len(padded_NM)) == len(padded_NM) - 1).entropy()
    assert found == pytest.approx(entropy(counts, base=len(counts)), abs=1e-12)
    assert (found == pytest.approx(1.0)) == (len(set(counts)) == 1)
