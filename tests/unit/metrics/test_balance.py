"""Balance: properties of Shapley contributions, and every formula in worked examples or computed differently"""

from itertools import permutations
from math import inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.metrics.balance import (
    abs_log_rho,
    accuracy_gap,
    accuracy_ratio,
    average_missing,
    conditional_utilisation,
    drop,
    imbalance,
    missing,
    shapley,
    subsets,
)

Table = dict[frozenset[str], float]
NAMES = ("audio", "video", "flow", "text")
rates = st.integers(0, 1000).map(lambda right: right / 1000)  # accuracies of 1000 samples


@st.composite
def tables(draw: st.DrawFn, least: int = 1) -> tuple[Table, tuple[str, ...]]:
    modalities = NAMES[: draw(st.integers(least, len(NAMES)))]
    return {S: draw(rates) for S in subsets(modalities)}, modalities


def pair_table(empty: float, audio: float, video: float, both: float) -> Table:
    return {
        frozenset(): empty,
        frozenset({"audio"}): audio,
        frozenset({"video"}): video,
        frozenset({"audio", "video"}): both,
    }


def test_subsets_are_all_by_size() -> None:
    assert [sorted(S) for S in subsets(("audio", "video"))] == [[], ["audio"], ["video"], ["audio", "video"]]
    assert len(set(subsets(NAMES))) == 16


@given(tables())
def test_shapley_is_the_mean_gain_over_all_permutations(case: tuple[Table, tuple[str, ...]]) -> None:
    value, modalities = case
    gains: dict[str, list[float]] = {m: [] for m in modalities}
    for order in permutations(modalities):
        for position, m in enumerate(order):
            gains[m].append(value[frozenset(order[: position + 1])] - value[frozenset(order[:position])])
    phi = shapley(value, modalities)
    for m in modalities:
        assert phi[m] == pytest.approx(np.mean(gains[m]), abs=1e-12)


@given(tables())
def test_contributions_sum_to_the_total_gain(case: tuple[Table, tuple[str, ...]]) -> None:
    value, modalities = case
    total = value[frozenset(modalities)] - value[frozenset()]
    assert sum(shapley(value, modalities).values()) == pytest.approx(total, abs=1e-12)


@given(st.lists(rates, min_size=4, max_size=4))
def test_equal_modalities_contribute_equally(by_size: list[float]) -> None:
    modalities = NAMES[:3]
    phi = shapley({S: by_size[len(S)] for S in subsets(modalities)}, modalities)
    assert imbalance(phi) == pytest.approx(0, abs=1e-12)


@given(tables(least=2))
def test_a_modality_that_changes_nothing_contributes_nothing(case: tuple[Table, tuple[str, ...]]) -> None:
    value, modalities = case
    deaf = {S: value[S - {modalities[0]}] for S in value}
    assert shapley(deaf, modalities)[modalities[0]] == 0


@given(tables())
def test_imbalance_and_gaps_stay_in_range(case: tuple[Table, tuple[str, ...]]) -> None:
    value, modalities = case
    alone = {m: value[frozenset({m})] for m in modalities}
    assert 0 <= imbalance(shapley(value, modalities)) <= 1 + 1e-12
    assert 0 <= accuracy_gap(alone) <= 100
    assert 0 <= accuracy_ratio(alone) <= 1
    assert 0 <= average_missing(value, modalities) <= 1
    assert -100 <= drop(value, modalities) <= 100
    assert all(-inf < u <= 1 for u in conditional_utilisation(value, modalities).values())


def test_imbalance_reaches_its_bounds() -> None:
    dictator = pair_table(empty=0, audio=1, video=0, both=1)
    assert imbalance(shapley(dictator, ("audio", "video"))) == 1
    assert imbalance({"audio": 0.3}) == 0
    assert imbalance({"audio": 0.5, "video": 0.3, "text": 0.0}) == pytest.approx((0.2 + 0.5 + 0.3) / 3)


def test_two_modalities_in_a_worked_example() -> None:
    value = pair_table(empty=0.1, audio=0.6, video=0.4, both=0.8)
    modalities = ("audio", "video")
    assert shapley(value, modalities) == pytest.approx({"audio": 0.45, "video": 0.25})
    assert missing(value, modalities) == {"audio": 0.4, "video": 0.6}
    assert average_missing(value, modalities) == pytest.approx(0.5)
    assert drop(value, modalities) == pytest.approx(30)
    assert conditional_utilisation(value, modalities) == pytest.approx({"audio": 0.5, "video": 0.25})
    assert accuracy_gap({"audio": 0.6, "video": 0.4}) == pytest.approx(20)
    assert accuracy_ratio({"audio": 0.6, "video": 0.4}) == pytest.approx(2 / 3)


def test_edge_cases_are_not_nan() -> None:
    assert accuracy_ratio({"audio": 0.0, "video": 0.0}) == 1
    assert conditional_utilisation(pair_table(0, 0, 0, 0), ("audio", "video")) == {}
    alone = {frozenset[str](): 0.2, frozenset({"audio"}): 0.7}
    assert average_missing(alone, ("audio",)) == 0.7
    assert drop(alone, ("audio",)) == 0
    assert missing(alone, ("audio",)) == {"audio": 0.2}


def test_an_incomplete_table_raises() -> None:
    value = pair_table(0.1, 0.6, 0.4, 0.8)
    del value[frozenset({"video"})]
    with pytest.raises(ValueError, match=r"lacks \{video\}"):
        shapley(value, ("audio", "video"))
    with pytest.raises(ValueError, match=r"lacks \{video\}"):
        missing(value, ("audio", "video"))


def test_log_rho_in_a_worked_example() -> None:
    assert abs_log_rho(np.array([30.0, 10.0])) == pytest.approx(log(3))
    assert abs_log_rho(np.array([10.0, 30.0])) == pytest.approx(log(3))
    # 8 against the mean of 2 and 4 is 8/3; 2 against 6 is 1/3, the largest; 4 against 5.
    assert abs_log_rho(np.array([8.0, 2.0, 4.0])) == pytest.approx(log(3))
    assert abs_log_rho(np.array([5.0])) == 0
    assert np.isfinite(abs_log_rho(np.array([0.0, 10.0])))
    with pytest.raises(ValueError, match="at least 0"):
        abs_log_rho(np.array([-1.0, 10.0]))
    with pytest.raises(ValueError, match="at least 0"):
        abs_log_rho(np.array([np.nan, 10.0]))


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=4), st.floats(1e-3, 1e3))
def test_log_rho_is_scale_invariant(sums: list[float], scale: float) -> None:
    rho = abs_log_rho(np.array(sums))
    assert rho >= 0
    assert abs_log_rho(np.array(sums) * scale) == pytest.approx(rho, abs=1e-9)
    assert abs_log_rho(np.full(len(sums), sums[0])) == pytest.approx(0, abs=1e-12)
