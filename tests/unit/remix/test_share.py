"""Shares: worked examples, and the controller of docs/evidence.md"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.remix.share import FixedShare, ProgressShare
from tests.examples import examples


def controller(share: float, before: tuple[float, float], now: tuple[float, float]) -> float:
    """Return the next audio share of the measured controller: add 0.5 ln(g_a / g_v) to the log-odds, then clip."""
    g_a = max(before[0] - now[0], 1e-3) / max(share, 0.1)
    g_v = max(before[1] - now[1], 1e-3) / max(1 - share, 0.1)
    log_odds = math.log(share / (1 - share)) + 0.5 * math.log(g_a / g_v)
    return min(max(1 / (1 + math.exp(-log_odds)), 0.2), 0.8)


def progress(share: float, before: tuple[float, float], now: tuple[float, float]) -> np.ndarray:
    return ProgressShare().next(np.asarray(now), np.asarray(before), np.asarray([share, 1 - share]))


def test_fixed_share_never_changes() -> None:
    rule = FixedShare((0.3, 0.7))
    np.testing.assert_array_equal(rule.next(None, None, np.asarray([0.5, 0.5])), [0.3, 0.7])
    np.testing.assert_array_equal(rule.next(np.ones(2), np.ones(2), np.asarray([0.5, 0.5])), [0.3, 0.7])
    assert not rule.needs_scoring


def test_progress_share_in_worked_examples() -> None:
    # g = (0.4 / 0.5, 0.1 / 0.5), so the odds become 1 * (0.8 / 0.2) ** 0.5 = 2.
    np.testing.assert_allclose(progress(0.5, (2.0, 2.0), (1.6, 1.9)), [2 / 3, 1 / 3])
    # A rising loss counts as the minimum progress: g = (0.1 / 0.5, 0.001 / 0.5), odds 10, clipped.
    np.testing.assert_allclose(progress(0.5, (2.0, 2.0), (1.9, 2.5)), [0.8, 0.2])


losses = st.tuples(st.floats(0, 3), st.floats(0, 3))


@examples(100)
@given(st.floats(0.2, 0.8), losses, losses)
def test_progress_share_equals_the_controller_of_the_evidence(
    share: float, before: tuple[float, float], now: tuple[float, float]
) -> None:
    shares_M = progress(share, before, now)
    assert shares_M[0] == pytest.approx(controller(share, before, now), abs=1e-9)
    assert shares_M.sum() == pytest.approx(1.0)


def test_the_first_scoring_pass_keeps_the_shares() -> None:
    np.testing.assert_array_equal(ProgressShare().next(np.ones(2), None, np.asarray([0.4, 0.6])), [0.4, 0.6])
    assert ProgressShare().needs_scoring


@examples(100)
@given(
    st.integers(2, 5).flatmap(lambda m: st.tuples(*[st.lists(st.floats(0.01, 3), min_size=m, max_size=m)] * 3)),
    st.floats(0, 0.49),
    st.floats(0.1, 5),
)
def test_shares_sum_to_one_and_are_at_least_the_minimum(
    case: tuple[list[float], ...], lowest: float, rate: float
) -> None:
    before_M, loss_M, weight_M = (np.asarray(values) for values in case)
    shares_M = ProgressShare(rate, lowest).next(loss_M, before_M, weight_M / weight_M.sum())
    assert shares_M.sum() == pytest.approx(1.0)
    assert shares_M.min() >= min(lowest, 1 / len(shares_M)) - 1e-9


@examples(100)
@given(
    st.integers(2, 5).flatmap(lambda m: st.tuples(*[st.lists(st.floats(0.2, 3), min_size=m, max_size=m)] * 3)),
    st.floats(0.1, 2),
)
def test_log_shares_change_by_the_rate_times_the_log_of_the_progress_per_sample(
    case: tuple[list[float], ...], rate: float
) -> None:
    """For any number of modalities and without a minimum, so that shares are also below 0.1."""
    before_M, loss_M, weight_M = (np.asarray(values) for values in case)
    share_M = weight_M**2 / (weight_M**2).sum()
    logs = [
        math.log(share) + rate * math.log(max(before - loss, 1e-3) / max(share, 0.1))
        for share, before, loss in zip(share_M, before_M, loss_M, strict=True)
    ]
    expected_M = np.exp(np.asarray(logs) - max(logs))
    shares_M = ProgressShare(rate, lowest=0.0).next(loss_M, before_M, share_M)
    np.testing.assert_allclose(shares_M, expected_M / expected_M.sum(), rtol=1e-6, atol=1e-6)
