"""SMV: values against permutations, copies against the formula, and the epoch that they form"""

# N training samples, M modalities

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.epoch import NO_SAMPLE, PlannedEpoch, SplitStatistics
from remix_study.errors import TrainingError
from remix_study.metrics import subsets
from remix_study.remix import ConstantPlan, Reassembly, ValuationPlan, everything_joint
from remix_study.remix.valuation import Level, values
from tests.unit.balancing.passes import FixedPasses

SAMPLES, BATCH = 40, 8
TWO, THREE = ("audio", "video"), ("audio", "text", "video")
HOW = Reassembly("shuffled", (1, 0), BATCH)


def never(_: Any) -> Any:
    raise AssertionError("needs no scores")


def table(modalities: tuple[str, ...], seed: int = 0, samples: int = SAMPLES) -> Any:
    draw = np.random.default_rng(seed)
    return {subset: draw.random(samples) < 0.5 for subset in subsets(modalities)}


def planned(
    right: Any, modalities: tuple[str, ...] = TWO, level: Level = "sample", strength: float = 1.0, epoch: int = 5,
    how: Reassembly = HOW,
) -> PlannedEpoch:  # fmt: skip
    plan = ValuationPlan(level, strength, 5, None, modalities, SAMPLES, how, seed=1)
    rows = np.arange(SAMPLES)
    shape = (SAMPLES, len(modalities))
    if plan.due(epoch):
        plan.inform(FixedPasses(SplitStatistics(rows, rows, np.ones(shape, np.bool_), np.zeros(shape), right=right)))
    return plan.plan(epoch, never)


def occurrences(epoch: PlannedEpoch) -> Counter[tuple[int, tuple[bool, ...]]]:
    schedule = epoch.schedule
    held_TB = schedule.samples_TB != NO_SAMPLE
    active = schedule.active_TBM[held_TB]
    return Counter((int(n), tuple(a.tolist())) for n, a in zip(schedule.samples_TB[held_TB], active, strict=True))


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.sampled_from([TWO, THREE]))
def test_values_are_means_over_all_orders_and_sum_to_the_value_of_all(bits: list[bool], modalities: Any) -> None:
    right = {subset: np.array([bit]) for subset, bit in zip(subsets(modalities), bits, strict=False)}
    phi_NM = values(right, modalities)

    def v(subset: tuple[str, ...]) -> int:
        return len(subset) * int(right[frozenset(subset)][0])

    orders = list(itertools.permutations(modalities))
    for column, m in enumerate(modalities):
        gains = [v(order[: order.index(m) + 1]) - v(order[: order.index(m)]) for order in orders]
        assert phi_NM[0, column] == pytest.approx(sum(gains) / len(gains))
    assert phi_NM.sum() == pytest.approx(v(modalities))


def test_with_two_modalities_values_are_those_of_the_paper() -> None:
    right = table(TWO)
    a, v, both = (right[frozenset(each)] for each in (("audio",), ("video",), TWO))
    phi_NM = values(right, TWO)
    np.testing.assert_allclose(phi_NM[:, 0], (1.0 * a + 2 * both - 1.0 * v) / 2)
    assert set(phi_NM.ravel()) <= {-0.5, 0.0, 0.5, 1.0, 1.5}


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_a_modality_gets_copies_of_the_samples_to_which_it_contributes_little(modalities: tuple[str, ...]) -> None:
    """The samples themselves train all modalities, once."""
    right = table(modalities)
    phi_NM = values(right, modalities)
    found = occurrences(planned(right, modalities))
    everything = (True,) * len(modalities)
    extra = planned(right, modalities).schedule.counts_T.sum()
    total = 0
    for n in range(SAMPLES):
        assert found[n, everything] >= 1
        for column, m in enumerate(modalities):
            copies = min(max(math.floor(2 * (1 - phi_NM[n, column]) + 0.5), 0), 3)
            alone = tuple(other == m for other in modalities)
            total += copies
            if copies == 0:
                assert found[n, alone] == 0
            else:
                assert found[n, alone] >= copies
    # A last batch below `smallest` is filled up; nothing else occurs more often.
    assert SAMPLES + total <= extra < SAMPLES + total + HOW.smallest


def test_copies_of_the_published_values() -> None:
    """phi (0, 0) has two copies each, (-0.5, 0.5) three and one, (1, 1) none, (0.5, 1.5) one and none."""
    cases = {
        (False, False, False): (2, 2),
        (False, True, False): (3, 1),
        (True, True, True): (0, 0),
        (False, True, True): (1, 0),
        (False, False, True): (0, 0),
    }
    for (a, v, both), expected in cases.items():
        right = {
            frozenset[str](): np.zeros(SAMPLES, np.bool_),
            frozenset({"audio"}): np.full(SAMPLES, a),
            frozenset({"video"}): np.full(SAMPLES, v),
            frozenset(TWO): np.full(SAMPLES, both),
        }
        metrics = planned(right).metrics
        assert (metrics["method/smv/copies/audio"], metrics["method/smv/copies/video"]) == expected


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_at_the_level_of_modalities_the_difference_of_gaps_decides(modalities: tuple[str, ...]) -> None:
    right = table(modalities, seed=3)
    right[frozenset({modalities[0]})][:] = True
    gap_M = 1 - values(right, modalities).mean(axis=0)
    epoch = planned(right, modalities, "modality", 0.9)
    for column, m in enumerate(modalities):
        wanted = math.floor(2 / 3 * 0.9 * (gap_M[column] - gap_M.min()) * SAMPLES + 0.5)
        assert epoch.metrics[f"method/smv/copies/{m}"] == pytest.approx(wanted / SAMPLES)
    assert max(epoch.metrics[f"method/smv/copies/{m}"] for m in modalities) > 0
    assert min(epoch.metrics[f"method/smv/copies/{m}"] for m in modalities) == 0


@pytest.mark.parametrize(("strength", "epoch"), [(0.0, 5), (1.0, 4)])
def test_without_copies_an_epoch_is_that_of_joint_training(strength: float, epoch: int) -> None:
    joint = ConstantPlan(everything_joint(SAMPLES, 2), HOW, 1).plan(epoch, never).schedule
    found = planned(table(TWO), strength=strength, epoch=epoch).schedule
    np.testing.assert_array_equal(found.samples_TB, joint.samples_TB)
    np.testing.assert_array_equal(found.active_TBM, joint.active_TBM)


def test_the_window_decides_when_it_asks_for_statistics() -> None:
    plan = ValuationPlan("sample", 1.0, 5, 8, TWO, SAMPLES, HOW, seed=1)
    assert [plan.due(epoch) for epoch in (0, 4, 5, 7, 8)] == [False, False, True, True, False]
    assert plan.needs == {"subsets"}


def test_the_same_statistics_give_the_same_epoch() -> None:
    for level in ("sample", "modality"):
        one, other = (planned(table(TWO), level=level).schedule for _ in range(2))
        np.testing.assert_array_equal(one.samples_TB, other.samples_TB)
        next_ = planned(table(TWO), level=level, epoch=6).schedule
        assert one.samples_TB.shape != next_.samples_TB.shape or not np.array_equal(one.samples_TB, next_.samples_TB)


def test_an_epoch_without_a_full_batch_is_an_error_with_a_remedy() -> None:
    with pytest.raises(TrainingError, match="epoch 5: an epoch must train on some samples"):
        planned(table(TWO), how=replace(HOW, batch=1000, incomplete="drop"))
