"""Means over seeds and test clips, and their uncertainty"""

# S seeds, C test clips

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from remix_study.statistics import (
    crossed_mean,
    holm,
    mean_over_seeds,
    sampling_error,
    seeds_for_sign_flip,
    sign_flip_p,
    smallest_sign_flip_p,
)
from tests.examples import examples

Outcomes = NDArray[np.float64]
property_test = examples(80)


def outcomes(seed: int, seeds: int = 5, clips: int = 40) -> Outcomes:
    """Differences of two methods in {-1, 0, 1}, (S, C), with effects of clips and of seeds."""
    draw = np.random.default_rng(seed)
    logit_SC = draw.normal(1, 1.5, clips) + draw.normal(0, 0.3, (seeds, 1))
    shifted_SC = logit_SC - draw.normal(0.3, 0.6, clips)
    first_SC, second_SC = (draw.random((seeds, clips)) < 1 / (1 + np.exp(-x)) for x in (logit_SC, shifted_SC))
    return first_SC.astype(np.float64) - second_SC


def test_the_variance_is_that_of_two_crossed_random_effects() -> None:
    """Worked example: MS_s = 2/3, MS_c = 2/3 and MS_sc = 1/6, from the sums of squares 4/3, 2 and 1."""
    value_SC = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=np.float64)
    of_seeds = 4 * np.var(value_SC.mean(axis=1), ddof=1)
    of_clips = 3 * np.var(value_SC.mean(axis=0), ddof=1)
    total = ((value_SC - value_SC.mean()) ** 2).sum()
    rest = (total - 2 * of_seeds - 3 * of_clips) / 6
    assert rest > 0
    variance = (of_seeds + of_clips - rest) / 12
    freedom = (of_seeds + of_clips - rest) ** 2 / (of_seeds**2 / 2 + of_clips**2 / 3 + rest**2 / 6)
    found = crossed_mean(value_SC)
    assert found.mean == pytest.approx(7 / 12)
    assert found.freedom == pytest.approx(freedom)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    assert [found.low, found.high] == pytest.approx([7 / 12 - half, 7 / 12 + half])
    assert found.p == pytest.approx(2 * stats.t.sf(7 / 12 / np.sqrt(variance), freedom))
    assert found.over_clips


def test_seeds_that_happen_to_agree_leave_the_uncertainty_of_the_clips() -> None:
    """Three differences of +1, +1, +1 clips say about as much as three of +1, +1, +2."""
    equal_SC = np.zeros((3, 100))
    equal_SC[:, 0] = 1
    nearly_SC = equal_SC.copy()
    nearly_SC[2, 1] = 1
    equal, nearly = crossed_mean(equal_SC), crossed_mean(nearly_SC)
    assert equal.p is not None
    assert nearly.p is not None
    assert equal.p > 0.2
    assert nearly.p > 0.2
    by_clips = stats.ttest_1samp(equal_SC.mean(axis=0), 0)
    assert equal.p == pytest.approx(by_clips.pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_the_variance_is_at_least_that_of_seeds_alone_and_of_clips_alone(seed: int) -> None:
    value_SC = outcomes(seed)
    found = crossed_mean(value_SC)
    error = (found.high - found.low) / 2 / stats.t.ppf(0.975, found.freedom)
    assert error >= stats.sem(value_SC.mean(axis=1)) - 1e-12
    assert error >= stats.sem(value_SC.mean(axis=0)) - 1e-12


@pytest.mark.parametrize("groups", [None, np.arange(40) // 7])
def test_the_order_of_seeds_and_clips_and_the_unit_do_not_matter(groups: NDArray[np.int64] | None) -> None:
    value_SC, draw = outcomes(1), np.random.default_rng(2)
    seed_S, clip_C = draw.permutation(5), draw.permutation(40)
    before = crossed_mean(value_SC, groups)
    after = crossed_mean(-100 * value_SC[seed_S][:, clip_C], None if groups is None else groups[clip_C])
    assert [-100 * before.mean, -100 * before.high, -100 * before.low] == pytest.approx([*after[:3]])
    assert [before.p, before.freedom] == pytest.approx([after.p, after.freedom])


def test_groups_of_one_clip_are_no_groups() -> None:
    value_SC = outcomes(3)
    assert tuple(crossed_mean(value_SC, np.arange(40)[::-1])) == pytest.approx(tuple(crossed_mean(value_SC)), rel=1e-12)


def test_groups_of_equal_size_are_compared_by_their_means() -> None:
    value_SC = outcomes(4)
    of_groups = crossed_mean(value_SC.reshape(5, 8, 5).mean(axis=2))
    assert tuple(crossed_mean(value_SC, np.arange(40) // 5)) == pytest.approx(tuple(of_groups), rel=1e-12)


def test_seeds_that_differ_alone_decide_with_their_degrees_of_freedom() -> None:
    value_SC = np.repeat(np.array([[1.0], [2.0], [4.0]]), 50, axis=1)
    found, expected = crossed_mean(value_SC), stats.ttest_1samp([1, 2, 4], 0)
    assert found.freedom == 2
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx(list(expected.confidence_interval(0.95)))


def test_groups_that_differ_alone_decide_with_the_variance_of_the_jackknife() -> None:
    """Leave out one group after the other; the degrees of freedom are Kish's effective number of groups minus one."""
    value_C, group_C = outcomes(7)[0], np.repeat(np.arange(6), [2, 3, 4, 6, 10, 15])
    found = crossed_mean(np.tile(value_C, (4, 1)), group_C)
    without_G = np.array([value_C[group_C != g].mean() for g in range(6)])
    error = np.sqrt(5 / 6 * ((without_G - value_C.mean()) ** 2).sum())
    size_G = np.bincount(group_C)
    freedom = size_G.sum() ** 2 / (size_G**2).sum() - 1
    assert found.freedom == pytest.approx(freedom)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * error)


def test_every_clip_counts_once_in_groups_of_unequal_size() -> None:
    value_SC, group_C = outcomes(5), np.minimum(np.arange(40) // 3, 4)
    found = crossed_mean(value_SC, group_C)
    assert found.mean == pytest.approx(value_SC.mean())
    assert found.freedom < crossed_mean(value_SC).freedom


def test_copies_of_clips_in_the_same_group_add_no_certainty() -> None:
    value_SC, group_C = outcomes(6), np.arange(40) // 4
    doubled = crossed_mean(np.concatenate([value_SC, value_SC], axis=1), np.concatenate([group_C, group_C]))
    assert tuple(doubled) == pytest.approx(tuple(crossed_mean(value_SC, group_C)), rel=1e-12)


def test_too_little_data_has_no_interval() -> None:
    for value_SC, groups in ((np.ones((1, 9)), None), (np.eye(3), np.zeros(3)), (np.ones((3, 1)), None)):
        found = crossed_mean(value_SC, groups)
        assert (found.low, found.high, found.p) == (-np.inf, np.inf, None)
    with pytest.raises(ValueError, match=r"must be \(seeds, clips\)"):
        crossed_mean(np.empty((3, 0)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_that_never_differ_have_no_interval(value: float) -> None:
    assert crossed_mean(np.full((5, 20), value))[:4] == (value, -np.inf, np.inf, None)


def test_seeds_and_clips_with_equal_means_leave_the_uncertainty_of_the_cells() -> None:
    """Two methods that differ on other clips in each seed."""
    found = crossed_mean(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found.freedom == 1
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 1) * np.sqrt(1 / 4))
    cancelling = crossed_mean(np.array([[1.0, 0, 1, 0], [0, 1, 1, 0]]), np.array([0, 0, 1, 1]))
    assert (cancelling.low, cancelling.p) == (-np.inf, None), "groups never differ"


@property_test
@given(st.data())
def test_any_outcomes_have_a_mean_and_an_interval_with_a_width_or_none(data: st.DataObject) -> None:
    seeds, clips = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    value_SC = np.array(data.draw(st.lists(st.lists(st.integers(-1, 1), min_size=clips, max_size=clips),
                                           min_size=seeds, max_size=seeds)))  # fmt: skip
    groups = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=clips, max_size=clips))
    found = crossed_mean(value_SC, None if groups is None else np.array(groups))
    assert found.mean == pytest.approx(value_SC.mean())
    if np.isinf(found.low):
        assert (found.high, found.p) == (np.inf, None)
    else:
        assert found.low < found.mean < found.high
        assert found.p is not None
        assert 0 < found.p <= 1


@pytest.mark.slow
@pytest.mark.parametrize("groups", [0, 12])
def test_intervals_cover_the_true_difference_as_often_as_they_say(groups: int) -> None:
    """1,000 studies of two equal methods with effects of clips, seeds and groups; benchmarks/coverage.py has more."""
    draw = np.random.default_rng(0)
    seeds, clips, covered, draws = 5, 150, 0, 1000
    for _ in range(draws):
        group_C = np.sort(draw.integers(0, groups, clips)) if groups else None
        of_clip = draw.normal(0, 0.5, clips) + (0 if group_C is None else draw.normal(0, 0.6, groups)[group_C])
        easy_C, of_seed = draw.normal(1, 1.5, clips), draw.normal(0, 0.15, (2, seeds, 1))
        cell = draw.normal(0, 0.7, (2, seeds, clips))
        first, second = (
            draw.random((seeds, clips)) < 1 / (1 + np.exp(-(easy_C + sign * of_clip + of_seed[n] + cell[n])))
            for n, sign in enumerate((0.5, -0.5))
        )
        found = crossed_mean(first.astype(np.float64) - second, group_C)
        covered += found.low <= 0 <= found.high
    assert 0.93 < covered / draws < 0.975


def test_figures_without_clips_have_a_t_interval_over_seeds_and_no_p() -> None:
    """Worked example: 4, 2 and 6; half width t(0.975, 2) 2 / sqrt 3 = 4.968."""
    found = mean_over_seeds(np.array([4.0, 2.0, 6.0]))
    assert [found.mean, found.low, found.high] == pytest.approx([4, 4 - 4.9683, 4 + 4.9683], abs=1e-3)
    assert found.p is None
    assert mean_over_seeds(np.array([4.0]))[:4] == (4.0, -np.inf, np.inf, None)


def test_the_sampling_error_of_a_split_is_that_of_a_proportion() -> None:
    correct_SC = np.zeros((2, 744))
    correct_SC[:, :558] = 1
    assert sampling_error(correct_SC) == pytest.approx(np.sqrt(0.75 * 0.25 / 743))
    assert sampling_error(correct_SC) == pytest.approx(0.016, abs=2e-4)  # 1.6 points: CREMA-D's test split
    # Clips that are always right or wrong together count as one.
    assert sampling_error(correct_SC, np.arange(744) // 186) == pytest.approx(np.sqrt(0.75 * 0.25 / 3))
    assert sampling_error(correct_SC, np.zeros(744)) is None


@pytest.mark.parametrize("seeds", [1, 2, 5, 8])
def test_the_sign_flip_test_counts_sign_vectors_that_are_at_least_as_extreme(seeds: int) -> None:
    difference_S = np.random.default_rng(seeds).normal(0.5, 1, seeds)
    sums = [abs(np.dot(signs, difference_S)) for signs in itertools.product([-1, 1], repeat=seeds)]
    assert sign_flip_p(difference_S) == pytest.approx(np.mean(np.array(sums) >= abs(difference_S.sum()) - 1e-9))
    assert sign_flip_p(np.ones(seeds)) == pytest.approx(smallest_sign_flip_p(seeds)) == pytest.approx(2 / 2**seeds)
    assert sign_flip_p(np.zeros(seeds)) == 1.0


def test_the_sign_flip_test_of_many_seeds_is_sampled() -> None:
    difference_S = np.random.default_rng(0).normal(0.3, 1, 24)
    expected = stats.permutation_test((difference_S,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert sign_flip_p(difference_S) == pytest.approx(expected.pvalue, abs=0.02)


def test_seeds_for_a_significant_sign_flip_test_follow_from_the_number_of_comparisons() -> None:
    assert [seeds_for_sign_flip(k) for k in (1, 2, 3, 4, 6, 7)] == [6, 7, 7, 8, 8, 9]
    for comparisons in range(1, 20):
        seeds = seeds_for_sign_flip(comparisons)
        assert comparisons * smallest_sign_flip_p(seeds) <= 0.05 < comparisons * smallest_sign_flip_p(seeds - 1)


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 2 x 0.03, then 1 x 0.04 may not fall below that
        ([0.5, 0.6], [1.0, 1.0]),
    ],
)
def test_holm_adjusts_step_by_step(values: list[float], adjusted: list[float]) -> None:
    assert holm(values) == pytest.approx(adjusted)
