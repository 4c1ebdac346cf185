"""Properties of the filtering rules"""

# N samples, M modalities

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from remix_study.remix.filtering import (
    Argmin,
    Band,
    Filter,
    Inverted,
    Margin,
    MaxShare,
    Permuted,
    Quantile,
    Random,
    Tempered,
    cheapest,
    prices,
    target_counts,
)
from tests.examples import examples

ONE_EACH: tuple[Filter, ...] = (Argmin(), Inverted(), Random(), Permuted(), Tempered(0.0), Tempered(1.0), MaxShare(1.0))
SHARE_KEEPERS: tuple[Filter, ...] = ONE_EACH
property_test = examples(60)


@st.composite
def scores(draw: st.DrawFn, smallest: int = 1, modalities: tuple[int, int] = (2, 4)) -> NDArray[np.float64]:
    """Generate scores (N, M) with many ties, arbitrary values, or a single value."""
    samples, columns = draw(st.integers(smallest, 24)), draw(st.integers(*modalities))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    match draw(st.sampled_from(["tied", "any", "constant"])):
        case "tied":
            return rng.integers(0, 3, (samples, columns)).astype(np.float64)
        case "any":
            return rng.normal(size=(samples, columns)) * 10.0 ** rng.integers(-6, 4)
        case _:
            return np.full((samples, columns), 2.585)


@st.composite
def scores_and_shares(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Generate scores (N, M) and target shares (M,), some of which are 0."""
    scores_NM = draw(scores())
    weight_M = np.asarray(draw(st.lists(st.integers(0, 9), min_size=scores_NM.shape[1], max_size=scores_NM.shape[1])))
    return scores_NM, (weight_M + (weight_M.sum() == 0)) / (weight_M + (weight_M.sum() == 0)).sum()


@property_test
@given(scores(), st.integers(1, 4), st.integers(0, 2**16))
def test_permuting_within_classes_keeps_the_classes_of_each_modality(
    scores_NM: NDArray[np.float64], classes: int, seed: int
) -> None:
    labels_N = np.random.default_rng(seed).integers(0, classes, len(scores_NM))
    argmin, permuted = (rule(scores_NM, None, generator(seed)) for rule in (Argmin(), Permuted(labels_N)))
    for one, other in zip(argmin.assigned_NM.T, permuted.assigned_NM.T, strict=True):
        np.testing.assert_array_equal(
            np.bincount(labels_N[one], minlength=4), np.bincount(labels_N[other], minlength=4)
        )


def test_permuting_within_a_class_reaches_every_sample_of_it() -> None:
    scores_NM, labels_N = np.eye(2)[[0, 1, 1, 1, 0, 0]], np.asarray([0, 0, 0, 1, 1, 1])
    drawn = [Permuted(labels_N)(scores_NM, None, generator(seed)).assigned_NM[:, 0] for seed in range(800)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), [2 / 3] * 3 + [1 / 3] * 3, atol=0.07)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@property_test
@given(scores(), st.sampled_from(ONE_EACH))
def test_every_sample_trains_exactly_one_modality(scores_NM: NDArray[np.float64], rule: Filter) -> None:
    assignment = rule(scores_NM, None, generator())
    assert (assignment.assigned_NM.sum(axis=1) == 1).all()
    assert not assignment.joint_N.any()


@property_test
@given(scores_and_shares(), st.sampled_from(SHARE_KEEPERS))
def test_target_shares_are_met_exactly(case: tuple[NDArray[np.float64], NDArray[np.float64]], rule: Filter) -> None:
    scores_NM, shares_M = case
    assignment = rule(scores_NM, shares_M, generator())
    count_M = assignment.assigned_NM.sum(axis=0)
    assert (assignment.assigned_NM.sum(axis=1) == 1).all()
    assert count_M.sum() == len(scores_NM)
    # Each count is less than one sample away from its share.
    assert (np.abs(count_M - len(scores_NM) * shares_M) < 1).all()
    assert (count_M[shares_M == 0] == 0).all()


@pytest.mark.parametrize(
    ("samples", "shares", "counts"),
    [
        (10, (0.5, 0.5), (5, 5)),
        (3, (0.5, 0.5), (2, 1)),
        (10, (0.1, 0.2, 0.7), (1, 2, 7)),
        (7, (1 / 3, 1 / 3, 1 / 3), (3, 2, 2)),
        (5, (0.0, 1.0), (0, 5)),
        (4, (0.15, 0.15, 0.35, 0.35), (1, 1, 1, 1)),
        (0, (0.5, 0.5), (0, 0)),
    ],
)
def test_target_counts_use_largest_remainders(samples: int, shares: tuple[float, ...], counts: tuple[int, ...]) -> None:
    assert tuple(target_counts(samples, np.asarray(shares)).tolist()) == counts


@examples(40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(0, 1), st.booleans())
def test_a_share_of_two_modalities_is_met_at_minimum_cost(seed: int, samples: int, share: float, tied: bool) -> None:
    cost_NM = generator(seed).normal(size=(samples, 2))
    cost_NM = np.round(cost_NM) if tied else cost_NM
    shares_M = np.asarray([share, 1 - share])
    first = int(target_counts(samples, shares_M)[0])
    best = min(
        sum(cost_NM[i, 0 if i in chosen else 1] for i in range(samples))
        for chosen in map(set, combinations(range(samples), first))
    )
    ours = cost_NM[np.arange(samples), cheapest(cost_NM, shares_M, generator())].sum()
    assert ours == pytest.approx(best, abs=1e-9)


@examples(60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.booleans(), st.sampled_from([0.0, 0.2, 0.6]))
def test_shares_of_many_modalities_are_met_at_minimum_cost(
    seed: int, modalities: int, tied: bool, excluded: float
) -> None:
    rng = generator(seed)
    cost_NM, shares_M = rng.normal(size=(30, modalities)), rng.dirichlet(np.ones(modalities))
    cost_NM = np.round(cost_NM) if tied else cost_NM  # saturated scores are equal
    cost_NM[rng.random(cost_NM.shape) < excluded] = np.inf
    high_NM = np.where(np.isfinite(cost_NM), cost_NM, 1e6)
    seats = np.repeat(high_NM, target_counts(30, shares_M), axis=1)
    best = seats[linear_sum_assignment(seats)].sum()
    ours = high_NM[np.arange(30), cheapest(cost_NM, shares_M, rng)].sum()
    assert ours == pytest.approx(best, abs=1e-6)


def test_tied_samples_are_assigned_at_random() -> None:
    """Rows are often sorted by class. If scores saturate, ties must not be resolved by row."""
    shares_M = np.asarray([0.5, 0.5])
    rules: tuple[tuple[Filter, NDArray[np.float64] | None], ...] = (
        (Argmin(), shares_M),
        (Inverted(), shares_M),
        (MaxShare(0.5), None),
        (Quantile(0.5, "rest"), None),
    )
    for rule, target in rules:
        assigned_NM = rule(np.full((400, 2), 2.585), target, generator(3)).assigned_NM
        early = assigned_NM[:200, 0].sum()
        assert 20 < early < assigned_NM[:, 0].sum() - 20, rule


@property_test
@given(scores())
def test_argmin_takes_the_lowest_score_and_the_first_of_ties(scores_NM: NDArray[np.float64]) -> None:
    assigned_NM = Argmin()(scores_NM, None, generator()).assigned_NM
    for row, chosen in zip(scores_NM.tolist(), assigned_NM.argmax(axis=1).tolist(), strict=True):
        assert chosen == row.index(min(row))


@property_test
@given(scores())
def test_inverted_takes_the_highest_score(scores_NM: NDArray[np.float64]) -> None:
    assigned_NM = Inverted()(scores_NM, None, generator()).assigned_NM
    for row, chosen in zip(scores_NM.tolist(), assigned_NM.argmax(axis=1).tolist(), strict=True):
        assert chosen == row.index(max(row))


@property_test
@given(scores(), st.integers(0, 1000))
def test_permuted_keeps_the_shares_of_argmin(scores_NM: NDArray[np.float64], seed: int) -> None:
    permuted, argmin = (rule(scores_NM, None, generator(seed)) for rule in (Permuted(), Argmin()))
    np.testing.assert_array_equal(permuted.assigned_NM.sum(axis=0), argmin.assigned_NM.sum(axis=0))


def test_permuted_does_not_depend_on_the_score_of_the_sample() -> None:
    scores_NM = np.stack([np.repeat([0.0, 1.0], 500), np.repeat([1.0, 0.0], 500)], axis=1)
    moved = Permuted()(scores_NM, None, generator()).assigned_NM[:500, 0].mean()
    assert 0.4 < moved < 0.6


@property_test
@given(scores(), st.floats(0.01, 1.0))
def test_max_share_is_never_exceeded(scores_NM: NDArray[np.float64], share: float) -> None:
    samples, modalities = scores_NM.shape
    assignment = MaxShare(share)(scores_NM, None, generator())
    assert (assignment.assigned_NM.sum(axis=1) == 1).all()
    assert assignment.assigned_NM.sum(axis=0).max() <= max(share * samples + 1e-9, -(-samples // modalities))


def test_max_share_moves_the_samples_with_the_smallest_margin() -> None:
    scores_NM = np.asarray([[0.0, 5.0], [0.0, 1.0], [0.0, 3.0], [0.0, 4.0]])
    chosen_N = MaxShare(0.75)(scores_NM, None, generator()).assigned_NM.argmax(axis=1)
    assert chosen_N.tolist() == [0, 1, 0, 0]


@property_test
@given(scores())
def test_max_share_of_one_is_argmin(scores_NM: NDArray[np.float64]) -> None:
    assert_same_assignment(MaxShare(1.0), Argmin(), scores_NM)


@property_test
@given(scores())
def test_tempered_at_zero_is_argmin(scores_NM: NDArray[np.float64]) -> None:
    assert_same_assignment(Tempered(0.0), Argmin(), scores_NM)


@property_test
@given(scores())
def test_tempered_at_infinity_is_random(scores_NM: NDArray[np.float64]) -> None:
    assert_same_assignment(Tempered(float("inf")), Random(), scores_NM)


def test_random_is_uniform_for_any_scores() -> None:
    scores_NM = np.tile([0.0, 3.0, 9.0], (30_000, 1))
    for rule in (Random(), Tempered(float("inf")), Tempered(1e9)):
        np.testing.assert_allclose(rule(scores_NM, None, generator()).shares_M(), [1 / 3] * 3, atol=0.015)


def test_tempered_draws_from_the_softmax_of_minus_score_over_temperature() -> None:
    row, temperature = np.asarray([0.0, 0.5, 2.0]), 0.7
    expected_M = np.exp(-row / temperature) / np.exp(-row / temperature).sum()
    drawn = Tempered(temperature)(np.tile(row, (30_000, 1)), None, generator())
    np.testing.assert_allclose(drawn.shares_M(), expected_M, atol=0.015)


def test_random_with_a_share_selects_samples_uniformly() -> None:
    shares_M, frequency_N = np.asarray([0.2, 0.8]), np.zeros(10)
    for seed in range(1000):
        frequency_N += Random()(np.zeros((10, 2)), shares_M, generator(seed)).assigned_NM[:, 0]
    np.testing.assert_allclose(frequency_N / 1000, 0.2, atol=0.06)


@property_test
@given(scores())
def test_margin_zero_is_argmin(scores_NM: NDArray[np.float64]) -> None:
    assert_same_assignment(Margin(0.0, "joint"), Argmin(), scores_NM)
    assert_same_assignment(Margin(0.0, "each"), Argmin(), scores_NM)


@property_test
@given(scores(), st.sampled_from([0.1, 1.0, 2.0]))
def test_samples_within_the_margin_train_jointly_or_each_modality(
    scores_NM: NDArray[np.float64], threshold: float
) -> None:
    argmin = Argmin()(scores_NM, None, generator()).assigned_NM
    joint = Margin(threshold, "joint")(scores_NM, None, generator())
    each = Margin(threshold, "each")(scores_NM, None, generator())
    assert not each.joint_N.any()
    for i, row in enumerate(scores_NM.tolist()):
        lowest, second = sorted(row)[:2]
        close = second - lowest < threshold
        assert joint.joint_N[i] == close
        assert joint.assigned_NM[i].tolist() == ([False] * len(row) if close else argmin[i].tolist())
        assert each.assigned_NM[i].tolist() == ([True] * len(row) if close else argmin[i].tolist())


def test_with_a_share_the_margin_is_measured_from_the_moved_boundary() -> None:
    """With equal shares, the boundary is between the differences 2 and 3, which are both within the margin."""
    scores_NM = np.stack([np.zeros(6), [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]], axis=1)
    assignment = Margin(0.6)(scores_NM, np.asarray([0.5, 0.5]), generator())
    assert assignment.joint_N.tolist() == [False, False, True, True, False, False]
    assert assignment.assigned_NM.argmax(axis=1)[[0, 1]].tolist() == [1, 1]
    assert assignment.assigned_NM.argmax(axis=1)[[4, 5]].tolist() == [0, 0]


@property_test
@given(scores())
def test_quantile_one_assigns_every_sample(scores_NM: NDArray[np.float64]) -> None:
    assignment = Quantile(1.0, "rest")(scores_NM, None, generator())
    assert (assignment.assigned_NM.sum(axis=1) == 1).all()


@property_test
@given(scores(), st.integers(1, 10), st.sampled_from(["joint", "rest"]))
def test_quantile_assigns_only_the_hardest_samples_of_a_modality(
    scores_NM: NDArray[np.float64], tenths: int, otherwise: str
) -> None:
    samples, modalities = scores_NM.shape
    assignment = Quantile(tenths / 10, "joint" if otherwise == "joint" else "rest")(scores_NM, None, generator())
    hardest = -(-samples * tenths // 10)
    for m in range(modalities):
        bound = np.sort(scores_NM[:, m])[hardest - 1]
        assert (scores_NM[assignment.assigned_NM[:, m], m] <= bound).all()
        assert assignment.assigned_NM[:, m].sum() <= hardest
    nowhere_N = ~assignment.assigned_NM.any(axis=1)
    np.testing.assert_array_equal(assignment.joint_N, nowhere_N if otherwise == "joint" else np.zeros(samples, bool))
    if all(len(np.unique(column)) == samples for column in scores_NM.T):
        rank_NM = scores_NM.argsort(axis=0).argsort(axis=0)
        first_N = np.where(rank_NM < hardest, rank_NM, samples).argmin(axis=1)  # hard for several: the lowest rank
        hard_N = (rank_NM < hardest).any(axis=1)
        np.testing.assert_array_equal(assignment.assigned_NM, hard_N[:, None] & np.eye(modalities, dtype=bool)[first_N])


def test_quantile_does_not_depend_on_the_scale_of_the_scores() -> None:
    scores_NM = generator().normal(size=(40, 2))
    assert_same_assignment(Quantile(0.4), Quantile(0.4), scores_NM, scores_NM * [1.0, 1000.0])


@property_test
@given(scores_and_shares(), st.booleans(), st.sampled_from(["joint", "rest"]))
def test_band_assigns_only_scores_inside_the_band(
    case: tuple[NDArray[np.float64], NDArray[np.float64]], with_shares: bool, otherwise: str
) -> None:
    scores_NM, shares_M = case
    lower, upper = 0.5, 2.0
    band = Band(lower, upper, "joint" if otherwise == "joint" else "rest")
    assignment = band(scores_NM, shares_M if with_shares else None, generator())
    for i, row in enumerate(scores_NM.tolist()):
        open_ = [m for m, value in enumerate(row) if lower <= value <= upper]
        chosen = np.flatnonzero(assignment.assigned_NM[i]).tolist()
        assert assignment.joint_N[i] == (otherwise == "joint" and not open_)
        assert len(chosen) == bool(open_)
        assert set(chosen) <= set(open_)
        if open_ and not with_shares:
            assert row[chosen[0]] == min(row[m] for m in open_)


@property_test
@given(scores_and_shares(), st.integers(0, 1000))
def test_a_band_meets_shares_at_minimum_cost_if_its_samples_allow(
    case: tuple[NDArray[np.float64], NDArray[np.float64]], seed: int
) -> None:
    """Otherwise a sample trains the open modality that the shares give it, or its cheapest one."""
    scores_NM, shares_M = case
    scores_NM = np.round(generator(seed).uniform(0.0, 2.2, scores_NM.shape), 2 if seed % 2 else 0)
    open_NM = scores_NM >= 0.2
    assigned_NM = Band(0.2, 2.5, "rest")(scores_NM, shares_M, generator()).assigned_NM
    some_N = open_NM.any(axis=1)
    high_NM = np.where(open_NM, scores_NM, 1e3)[some_N]
    count_M = target_counts(len(high_NM), shares_M)
    seats = np.repeat(high_NM, count_M, axis=1)
    best = seats[linear_sum_assignment(seats)].sum()
    if best < 1e3:
        assert assigned_NM.sum(axis=0).tolist() == count_M.tolist()
        assert scores_NM[assigned_NM].sum() == pytest.approx(best, abs=1e-6)
    cheapest_N = high_NM.min(axis=1)
    for m in np.flatnonzero(shares_M == 0):
        # No share gives it this modality.
        chosen_N = assigned_NM[some_N, m]
        np.testing.assert_array_equal(high_NM[chosen_N, m], cheapest_N[chosen_N])


def test_only_random_needs_no_scores() -> None:
    rules: tuple[Filter, ...] = (*ONE_EACH, Margin(1.0), Quantile(0.5), Band(0.0, 1.0))
    assert {type(rule) for rule in rules if not rule.needs_scores} == {Random}


@pytest.mark.parametrize("rule", [*ONE_EACH, Margin(0.5), Quantile(0.5), Band(0.0, 1.0)])
def test_rules_do_not_change_the_scores_and_are_deterministic(rule: Filter) -> None:
    scores_NM = generator().normal(size=(50, 3))
    before = scores_NM.copy()
    shares_M = np.asarray([0.2, 0.3, 0.5])

    def assign() -> NDArray[np.bool_]:
        return rule(scores_NM, shares_M, generator(9)).assigned_NM

    np.testing.assert_array_equal(assign(), assign())
    np.testing.assert_array_equal(scores_NM, before)


def assert_same_assignment(
    one: Filter, other: Filter, scores_NM: NDArray[np.float64], others_NM: NDArray[np.float64] | None = None
) -> None:
    first = one(scores_NM, None, generator(4))
    second = other(scores_NM if others_NM is None else others_NM, None, generator(4))
    np.testing.assert_array_equal(first.assigned_NM, second.assigned_NM)
    np.testing.assert_array_equal(first.joint_N, second.joint_N)


def test_the_bounds_of_a_band_belong_to_it() -> None:
    """A saturated score is exactly at the end of its range, where a search space often ends, too."""
    scores_NM = np.asarray([[0.5, 9.0], [2.0, 9.0], [0.4999, 9.0], [2.0001, 9.0]])
    assigned_NM = Band(0.5, 2.0, "rest")(scores_NM, None, generator()).assigned_NM
    assert assigned_NM.tolist() == [[True, False], [True, False], [False, False], [False, False]]


@property_test
@given(scores_and_shares())
def test_inverted_with_a_share_has_the_highest_sum_of_scores(
    case: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    scores_NM, shares_M = case
    seats = np.repeat(scores_NM, target_counts(len(scores_NM), shares_M), axis=1)
    highest = seats[linear_sum_assignment(seats, maximize=True)].sum()
    assigned_NM = Inverted()(scores_NM, shares_M, generator()).assigned_NM
    assert scores_NM[assigned_NM].sum() == pytest.approx(highest, abs=1e-6)


@property_test
@given(scores_and_shares(), st.floats(0.1, 5.0))
def test_tempered_with_a_share_has_the_counts_of_the_share(
    case: tuple[NDArray[np.float64], NDArray[np.float64]], temperature: float
) -> None:
    scores_NM, shares_M = case
    assigned_NM = Tempered(temperature)(scores_NM, shares_M, generator()).assigned_NM
    assert assigned_NM.sum(axis=0).tolist() == target_counts(len(scores_NM), shares_M).tolist()


@property_test
@given(scores(modalities=(2, 2)), st.floats(0.5, 1.0))
def test_max_share_of_two_modalities_has_the_lowest_sum_of_scores(scores_NM: NDArray[np.float64], share: float) -> None:
    samples = len(scores_NM)
    room = max(int(np.floor(share * samples + 1e-9)), -(-samples // 2))
    seats = np.repeat(scores_NM, room, axis=1)
    lowest = seats[linear_sum_assignment(seats)].sum()
    assigned_NM = MaxShare(share)(scores_NM, None, generator()).assigned_NM
    assert assigned_NM.sum(axis=0).max() <= room
    assert scores_NM[assigned_NM].sum() == pytest.approx(lowest, abs=1e-6)


def assert_prices_give_the_counts(cost_NM: NDArray[np.float64], shares_M: NDArray[np.float64]) -> None:
    chosen_N = (cost_NM + prices(cost_NM, shares_M)).argmin(axis=1)
    count_M = np.bincount(chosen_N, minlength=len(shares_M))
    assert count_M.tolist() == target_counts(len(cost_NM), shares_M).tolist()


@property_test
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 6))
def test_with_its_prices_the_lowest_cost_gives_each_modality_its_count(
    seed: int, samples: int, modalities: int
) -> None:
    """For costs without ties. `Margin` measures from these prices, so an approximation would move its boundary."""
    rng = generator(seed)
    assert_prices_give_the_counts(rng.random((samples, modalities)), rng.dirichlet(np.ones(modalities)))


@pytest.mark.parametrize("modalities", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_prices_give_the_counts_for_many_samples_and_costs_of_different_scale(modalities: int, seed: int) -> None:
    cost_NM = generator(seed).gamma(0.3, size=(1000, modalities)) * np.arange(1, modalities + 1)
    assert_prices_give_the_counts(cost_NM, np.full(modalities, 1 / modalities))
