"""Rules that read several scoring passes: formulas against loops over samples, shares, classes, examples"""

# N training samples, M modalities, C classes, P scoring passes

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.epoch import PlannedEpoch, ScoringPass, SplitStatistics
from remix_study.metrics import subsets
from remix_study.remix import (
    ArgminShare,
    FixedShare,
    ProgressShare,
    Random,
    Reassembly,
    RemixPlan,
    RemixSettings,
    ShareRule,
)
from remix_study.remix.filtering import cheapest, counts_of_groups, target_counts
from remix_study.remix.rules import (
    ByCost,
    Cartography,
    CoalitionGain,
    CostRule,
    History,
    LearningProgress,
    ReducibleLoss,
    ranks_within,
)
from tests.examples import examples

CLASSES = 3
RULES: tuple[CostRule, ...] = (
    LearningProgress(),
    LearningProgress(passes=3, decay=0.2),
    Cartography(),
    CoalitionGain(0.3),
)
NAMES = ("audio", "video", "flow")


def history(seed: int = 0, passes: int = 5, samples: int = 40, modalities: int = 2) -> History:
    draw = np.random.default_rng(seed)
    losses_PNM = draw.gamma(1.0, 1.0, (passes, samples, modalities)).astype(np.float32)
    labels_N, names = draw.integers(0, CLASSES, samples), NAMES[:modalities]
    return History(names, labels_N, CLASSES, losses_PNM, statistics(seed, losses_PNM[-1], names))


def statistics(seed: int, losses_NM: NDArray[np.float32], names: tuple[str, ...]) -> SplitStatistics:
    draw, N = np.random.default_rng(seed + 500), len(losses_NM)
    return SplitStatistics(
        np.arange(N), np.zeros(N, np.int64), np.ones(losses_NM.shape, np.bool_), losses_NM.astype(float),
        right={subset: draw.random(N) < 0.5 for subset in subsets(names)},
        subset_cross_entropy={subset: draw.gamma(1.0, 1.0, N) for subset in subsets(names)},
    )  # fmt: skip


def progress_of_one(losses: list[float], decay: float) -> float:
    averages = [losses[0]]
    for loss in losses[1:]:
        averages.append(decay * averages[-1] + (1 - decay) * loss)
    mean = sum(losses) / len(losses)
    variance = sum((loss - mean) ** 2 for loss in losses) / len(losses)
    return (averages[-2] - averages[-1]) / math.sqrt(variance + 0.01)


def rank_of_one(value: float, among: list[float]) -> float:
    below, equal = sum(other < value for other in among), sum(other == value for other in among)
    return (below + equal / 2) / len(among)


@pytest.mark.parametrize("modalities", [2, 3])
def test_learning_progress_equals_a_loop_over_samples(modalities: int) -> None:
    known = history(modalities=modalities)
    found_NM = LearningProgress(decay=0.4).costs(known)
    for m in range(modalities):
        cost = [-progress_of_one(known.losses_PNM[:, i, m].tolist(), 0.4) for i in range(40)]
        for i, label in enumerate(known.labels_N):
            same = [cost[j] for j in range(40) if known.labels_N[j] == label]
            assert found_NM[i, m] == pytest.approx(rank_of_one(cost[i], same))


@pytest.mark.parametrize("modalities", [2, 3])
def test_cartography_equals_a_loop_over_samples(modalities: int) -> None:
    known = history(modalities=modalities)
    found_NM = Cartography(penalty=0.7, still=0.2).costs(known)
    hopeless = 0
    for i in range(40):
        for m in range(modalities):
            true = [math.exp(-loss) for loss in known.losses_PNM[:, i, m].tolist()]
            mean = sum(true) / 5
            std = math.sqrt(sum((q - mean) ** 2 for q in true) / 5)
            lost = mean < 1 / CLASSES and std < 0.2
            hopeless += lost
            assert found_NM[i, m] == pytest.approx(-std + 0.7 * lost)
    assert hopeless > 0


@pytest.mark.parametrize("modalities", [2, 3])
def test_coalition_gain_equals_a_loop_over_samples(modalities: int) -> None:
    known = history(modalities=modalities)
    assert known.found is not None
    right, loss = known.found.right, known.found.subset_cross_entropy
    assert right is not None
    assert loss is not None
    found_NM = CoalitionGain(0.3).costs(known)
    for i in range(40):
        for c, m in enumerate(known.modalities):
            rest = frozenset(known.modalities) - {m}
            gain = 0.0 if right[rest][i] else -loss[frozenset(known.modalities)][i] + loss[rest][i]
            known_by = [math.exp(-known.losses_PNM[-1, i, j]) for j in range(modalities) if j != c]
            assert found_NM[i, c] == pytest.approx(-gain - 0.3 * sum(known_by) / len(known_by))


def test_reducible_loss_equals_a_loop_over_samples() -> None:
    known, reference_NM = history(modalities=3), np.random.default_rng(1).random((40, 3)).astype(np.float32)
    rule = ReducibleLoss(lambda: reference_NM)
    for i in range(40):
        for m in range(3):
            assert rule.costs(known)[i, m] == pytest.approx(-(known.losses_PNM[-1, i, m] - reference_NM[i, m]))
    np.testing.assert_allclose(rule.metrics(known)["reducible_loss"], -rule.costs(known).mean(axis=0))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20))
@examples(50)
def test_ranks_are_those_of_a_loop_also_with_ties(rows: list[tuple[int, int]]) -> None:
    cost_N, labels_N = (np.asarray(column) for column in zip(*rows, strict=True))
    expected = [rank_of_one(c, [other for other, of in rows if of == label]) for c, label in rows]
    np.testing.assert_allclose(ranks_within(cost_N[:, None].astype(float), labels_N)[:, 0], expected)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_costs_follow_a_permutation_of_the_modalities(rule: CostRule) -> None:
    known = history(modalities=3)
    names = tuple(known.modalities[m] for m in (2, 0, 1))
    turned = replace(known, modalities=names, losses_PNM=known.losses_PNM[:, :, [2, 0, 1]])
    np.testing.assert_allclose(rule.costs(turned), rule.costs(known)[:, [2, 0, 1]])
    for name, value_M in rule.metrics(known).items():
        np.testing.assert_allclose(rule.metrics(turned)[name], value_M[[2, 0, 1]])


@pytest.mark.parametrize("name", ["learning_progress", "reducible_loss"])
def test_a_clip_whose_loss_never_falls_has_no_priority(name: str) -> None:
    """A muted clip: its audio stays at chance, its video is learnt. Its higher loss alone would send it to audio."""
    draw = np.random.default_rng(0)
    losses_PNM = np.empty((5, 40, 2), np.float32)
    losses_PNM[:, :20, 0] = math.log(CLASSES) + draw.normal(0, 0.02, (5, 20))  # muted
    losses_PNM[:, 20:, 0] = np.linspace(1.0, 0.2, 5)[:, None] + draw.normal(0, 0.02, (5, 20))
    losses_PNM[:, :, 1] = np.linspace(1.0, 0.5, 5)[:, None]  # alike for all
    known = History(NAMES[:2], np.arange(40) % CLASSES, CLASSES, losses_PNM)
    share_M = np.asarray([0.5, 0.5])
    reference_NM = np.full((40, 2), 0.1, np.float32)  # of a model that has learnt all clips that can be learnt
    reference_NM[:20, 0] = math.log(CLASSES)
    rule = LearningProgress() if name == "learning_progress" else ReducibleLoss(lambda: reference_NM)
    made = ByCost(rule)(rule.costs(known), share_M, np.random.default_rng(1))
    assert made.assigned_NM[:20, 1].all()
    assert made.assigned_NM[20:, 0].all()
    by_loss_N = cheapest(-losses_PNM[-1].astype(float), share_M)
    assert (by_loss_N[:20] == 0).all()


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 10), min_size=2, max_size=4).filter(any),
    st.integers(0, 99),
)
@examples(100)
def test_counts_of_groups_have_exact_sums_and_are_within_one_of_their_shares(
    sizes: list[int], weights: list[int], seed: int
) -> None:
    size_G, shares_M = np.asarray(sizes), np.asarray(weights, dtype=float) / sum(weights)
    count_GM = counts_of_groups(size_G, shares_M, np.random.default_rng(seed))
    np.testing.assert_array_equal(count_GM.sum(axis=1), size_G)
    np.testing.assert_array_equal(count_GM.sum(axis=0), target_counts(int(size_G.sum()), shares_M))
    assert (np.abs(count_GM - size_G[:, None] * shares_M) <= 1 + 1e-9).all()
    assert (count_GM >= 0).all()


@given(st.sampled_from(RULES), st.integers(2, 3), st.floats(0, 1), st.booleans(), st.booleans(), st.integers(0, 99))
@examples(40)
def test_shares_are_exact_also_within_classes_and_while_exploring(
    rule: CostRule, modalities: int, explore: float, within: bool, enough: bool, seed: int
) -> None:
    known = history(seed, modalities=modalities)
    shares_M = np.random.default_rng(seed).dirichlet(np.ones(modalities))
    by_cost = ByCost(rule, explore, known.labels_N if within else None)
    made = (by_cost if enough else by_cost.at_random)(rule.costs(known), shares_M, np.random.default_rng(seed))
    np.testing.assert_array_equal(made.assigned_NM.sum(axis=0), target_counts(40, shares_M))
    assert (made.assigned_NM.sum(axis=1) == 1).all()
    if within:
        for label in range(CLASSES):
            of_class = made.assigned_NM[known.labels_N == label]
            # One rounding for the explored samples of the class, and one for the others.
            assert (np.abs(of_class.sum(axis=0) - len(of_class) * shares_M) <= 2 + 1e-9).all()


@pytest.mark.parametrize("explore", [0.0, 0.4, 1.0])
def test_the_explored_part_is_assigned_at_random(explore: float) -> None:
    cost_NM = np.stack([np.arange(4000.0), np.zeros(4000)], axis=1)
    made = ByCost(Cartography(), explore)(cost_NM, np.asarray([0.5, 0.5]), np.random.default_rng(0))
    differ = made.assigned_NM[:, 0] != (np.arange(4000) < 2000)
    assert differ.mean() == pytest.approx(explore / 2, abs=0.03)


def test_within_a_class_the_lowest_costs_are_taken() -> None:
    draw = np.random.default_rng(0)
    cost_NM, labels_N = draw.normal(size=(60, 2)), np.arange(60) % 3
    cost_NM[:, 0] += 5.0 * labels_N  # over all samples, the first modality would get one class only
    made = ByCost(Cartography(), 0.0, labels_N)(cost_NM, np.asarray([0.5, 0.5]), draw)
    for label in range(3):
        rows = np.flatnonzero(labels_N == label)
        taken = made.assigned_NM[rows, 0]
        difference = cost_NM[rows, 0] - cost_NM[rows, 1]
        assert taken.sum() == 10
        assert difference[taken].max() < difference[~taken].min()


def build(rule: CostRule, every: int = 1, share: ShareRule = FixedShare((0.3, 0.7))) -> RemixPlan:  # noqa: B008 - the default is frozen
    settings = RemixSettings(
        warmup=1, score="kl", filter=ByCost(rule, 0.2, np.arange(40) % CLASSES), how=Reassembly("blocks", (1, 0), 8),
        share=share, rescore_every=every,
    )  # fmt: skip
    return RemixPlan(settings, ("audio", "video"), np.arange(40) % CLASSES, CLASSES, seed=3)


def scored(epoch: int) -> ScoringPass:
    known = history(epoch, passes=1)
    losses_NM = known.losses_PNM[0].astype(float)
    return ScoringPass(losses_NM, losses_NM, known.found)


def planned_at(plan: RemixPlan, epoch: int) -> PlannedEpoch:
    return plan.plan(epoch, lambda _: scored(epoch))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize(
    ("every", "share"),
    [(1, FixedShare((0.3, 0.7))), (2, FixedShare((0.3, 0.7))), (1, ProgressShare()), (1, ArgminShare())],
)
def test_a_plan_keeps_the_latest_passes_and_resumes_exactly(rule: CostRule, every: int, share: ShareRule) -> None:
    whole, stopped = build(rule, every, share), build(rule, every, share)
    planned = [planned_at(whole, epoch) for epoch in range(14)]
    assert whole.state()["losses_PNM"].shape == (rule.passes, 40, 2)
    for epoch in range(7):
        planned_at(stopped, epoch)
    resumed = build(rule, every, share)
    resumed.restore(stopped.state())
    for epoch in range(7, 14):
        again = planned_at(resumed, epoch)
        np.testing.assert_array_equal(again.schedule.samples_TB, planned[epoch].schedule.samples_TB)
        assert again.metrics == planned[epoch].metrics


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_assigns_at_random_until_it_has_its_passes(rule: CostRule) -> None:
    plan = build(rule)
    at_random = build(rule)
    object.__setattr__(at_random.settings, "filter", Random(np.arange(40) % CLASSES))
    same = []
    for epoch in range(1, 8):
        for each in (plan, at_random):
            planned_at(each, epoch)
        assert plan.assignment is not None
        assert at_random.assignment is not None
        same.append(bool((plan.assignment.assigned_NM == at_random.assignment.assigned_NM).all()))
    assert same == [number < rule.least for number in range(1, 8)]


def test_a_checkpoint_without_a_history_is_restored() -> None:
    plan = build(LearningProgress())
    state = plan.state()
    del state["losses_PNM"]
    plan.restore(state)
    plan.plan(1, lambda _: scored(1))
    assert len(plan.state()["losses_PNM"]) == 1


def test_the_course_of_a_metric_is_that_of_its_rule() -> None:
    plan = build(LearningProgress())
    found = [planned_at(plan, epoch).metrics for epoch in range(8)]
    named = ["remix/learning_progress/audio" in metrics for metrics in found]
    assert named == [False] * 4 + [True] * 4
