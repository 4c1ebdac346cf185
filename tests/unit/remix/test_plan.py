"""Remix plans: warm-up, scoring passes, assignments, metrics and warnings, and resuming from a saved state"""

# N training samples, M modalities, C classes

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.epoch import NO_SAMPLE, PlannedEpoch, ScoreFunction, ScoringPass
from remix_study.errors import TrainingError
from remix_study.remix import (
    Argmin,
    Band,
    ConstantPlan,
    Filter,
    FixedShare,
    Margin,
    ProgressShare,
    Quantile,
    Random,
    Reassembly,
    RemixPlan,
    RemixSettings,
    ShareInputs,
    Tempered,
    everything_joint,
)
from remix_study.remix import plan as plan_module
from remix_study.seeds import stream
from tests.examples import examples

SAMPLES, CLASSES = 60, 3
LABELS = np.arange(SAMPLES) % CLASSES
REASSEMBLY = Reassembly("blocks", (1, 0), batch=8)
SETTINGS = RemixSettings(warmup=2, score="kl", filter=Argmin(), how=REASSEMBLY)


class FakeScorer:
    """Runs made-up scoring passes, with other probabilities in each epoch, and records the epochs in `calls`."""

    def __init__(self, modalities: int = 2, samples: int = SAMPLES) -> None:
        self.epoch = 0
        self.calls: list[int] = []
        self._shape = (samples, modalities)

    def __call__(self, score: ScoreFunction) -> ScoringPass:
        self.calls.append(self.epoch)
        rng = np.random.default_rng(100 + self.epoch)
        probs_NMC = rng.dirichlet(np.full(CLASSES, 0.5), size=self._shape)
        labels_N = np.arange(len(probs_NMC)) % CLASSES
        true_NM = probs_NMC[np.arange(len(probs_NMC)), :, labels_N]
        # Modalities learn at different rates, which change, so that shares that follow progress differ between epochs.
        factor_M = rng.uniform(0.2, 1.0, self._shape[1]) / (1 + self.epoch)
        return ScoringPass(score(probs_NMC, labels_N), -np.log(np.clip(true_NM, 1e-9, 1)) * factor_M)


def followed(now_M: NDArray[np.float64], before_M: NDArray[np.float64], shares_M: Any) -> NDArray[np.float64]:
    """Return the next shares of `ProgressShare`, given the losses of this and of the last scoring pass."""
    scored = ScoringPass(now_M[None], now_M[None])
    return ProgressShare().next(ShareInputs(1, shares_M, {"loss_M": before_M}, scored=scored)).shares_M


def build(settings_: RemixSettings, seed: int = 0, modalities: tuple[str, ...] = ("audio", "video")) -> RemixPlan:
    return RemixPlan(settings_, modalities, LABELS, CLASSES, seed)


def run(plan: RemixPlan, scorer: FakeScorer, epochs: range) -> list[PlannedEpoch]:
    """Plan these epochs in order."""
    planned = []
    for scorer.epoch in epochs:
        planned.append(plan.plan(scorer.epoch, scorer))
    return planned


def assert_same(one: PlannedEpoch, other: PlannedEpoch) -> None:
    np.testing.assert_array_equal(one.schedule.samples_TB, other.schedule.samples_TB)
    np.testing.assert_array_equal(one.schedule.active_TBM, other.schedule.active_TBM)
    assert one.metrics == other.metrics
    assert one.warnings == other.warnings
    assert one.scored == other.scored


def test_warm_up_trains_every_sample_with_every_modality_without_scoring_passes() -> None:
    plan, scorer = build(SETTINGS), FakeScorer()
    for planned in run(plan, scorer, range(2)):
        schedule = planned.schedule
        full_TB = schedule.samples_TB != NO_SAMPLE
        assert set(schedule.samples_TB[full_TB].tolist()) == set(range(SAMPLES))
        assert schedule.active_TBM[full_TB].all()
        assert planned.metrics["remix/joint_share"] == 1.0
        assert not planned.scored
    assert scorer.calls == []
    assert plan.assignment is None


@pytest.mark.parametrize(("every", "scored"), [(1, [2, 3, 4, 5, 6, 7, 8]), (3, [2, 5, 8]), (100, [2])])
def test_scoring_passes_run_every_k_epochs(every: int, scored: list[int]) -> None:
    plan, scorer = build(replace(SETTINGS, rescore_every=every)), FakeScorer()
    planned = run(plan, scorer, range(9))
    assert scorer.calls == scored
    assert [epoch for epoch, result in enumerate(planned) if result.scored] == scored
    assert [epoch for epoch, result in enumerate(planned) if "remix/margin" in result.metrics] == scored


def test_between_scoring_passes_assignments_are_kept_and_samples_reshuffled() -> None:
    plan, scorer = build(replace(SETTINGS, rescore_every=3)), FakeScorer()
    first, second = run(plan, scorer, range(2, 4))
    for m in range(2):
        kept = [
            {int(i) for i in planned.schedule.samples_TB[planned.schedule.active_TBM[:, :, m]]}
            for planned in (first, second)
        ]
        assert kept[0] == kept[1]
    assert not np.array_equal(first.schedule.samples_TB, second.schedule.samples_TB)
    assert "remix/churn" not in second.metrics


def test_the_random_filter_needs_no_scoring_pass_and_draws_in_every_epoch() -> None:
    plan, scorer = build(replace(SETTINGS, filter=Random())), FakeScorer()
    planned = run(plan, scorer, range(6))
    assert scorer.calls == []
    assert not any("remix/margin" in result.metrics for result in planned)
    assert 0.2 < planned[4].metrics["remix/churn"] < 0.8


def test_the_random_filter_with_a_progress_share_needs_scoring_passes() -> None:
    plan, scorer = build(replace(SETTINGS, filter=Random(), share=ProgressShare())), FakeScorer()
    run(plan, scorer, range(4))
    assert scorer.calls == [2, 3]


def test_a_fixed_share_needs_no_scoring_pass() -> None:
    plan, scorer = build(replace(SETTINGS, filter=Random(), share=FixedShare((0.25, 0.75)))), FakeScorer()
    planned = run(plan, scorer, range(2, 5))
    assert scorer.calls == []
    assert all(result.metrics["remix/share/audio"] == 0.25 for result in planned)
    assert all(result.metrics["remix/share/video"] == 0.75 for result in planned)


@pytest.mark.parametrize("columns", [(0, 1), (1, 0)])
def test_shares_belong_to_modalities_not_to_training_order(columns: tuple[int, ...]) -> None:
    settings_ = replace(SETTINGS, how=replace(REASSEMBLY, columns=columns), share=FixedShare((0.2, 0.8)))
    (planned,) = run(build(settings_), FakeScorer(), range(2, 3))
    assert planned.metrics["remix/share/audio"] == pytest.approx(0.2)


def test_a_progress_share_follows_the_losses() -> None:
    plan, scorer = build(replace(SETTINGS, share=ProgressShare())), FakeScorer()
    planned = run(plan, scorer, range(2, 4))
    before, now = (
        np.asarray([result.metrics[f"remix/train_cross_entropy/{m}"] for m in ("audio", "video")]) for result in planned
    )
    expected_M = followed(now, before, np.asarray([0.5, 0.5]))
    assert planned[0].metrics["remix/share/audio"] == 0.5
    assert planned[1].metrics["remix/share/audio"] == pytest.approx(expected_M[0], abs=1 / SAMPLES)


@pytest.mark.parametrize(("columns", "winner"), [((1, 0), "video"), ((0, 1), "audio")])
def test_ties_go_to_the_first_in_training_order(columns: tuple[int, ...], winner: str) -> None:
    plan = build(replace(SETTINGS, warmup=0, how=replace(REASSEMBLY, columns=columns)))
    planned = plan.plan(0, lambda _: ScoringPass(np.ones((SAMPLES, 2)), np.ones((SAMPLES, 2))))
    assert planned.metrics[f"remix/share/{winner}"] == 1.0


def test_columns_of_the_decision_follow_the_modalities() -> None:
    """Three modalities, trained in another order than that of the columns. Each sample trains its weakest one."""
    scores_NM = np.random.default_rng(0).random((SAMPLES, 3))
    how = Reassembly("blocks", (2, 0, 1), batch=8)
    plan = build(replace(SETTINGS, warmup=0, how=how), modalities=("audio", "video", "depth"))
    schedule = plan.plan(0, lambda _: ScoringPass(scores_NM, scores_NM)).schedule
    assert plan.assignment is not None
    np.testing.assert_array_equal(plan.assignment.assigned_NM.argmax(axis=1), scores_NM.argmin(axis=1))
    modality_T = schedule.modalities_TM.argmax(axis=1).tolist()
    assert modality_T == sorted(modality_T, key=[2, 0, 1].index)


def test_a_joint_share_stays_multimodal_after_warm_up() -> None:
    (planned,) = run(build(replace(SETTINGS, joint_share=0.3)), FakeScorer(), range(2, 3))
    assert 0.1 < planned.metrics["remix/joint_share"] < 0.5
    parts = ("remix/joint_share", "remix/share/audio", "remix/share/video")
    assert sum(planned.metrics[name] for name in parts) == pytest.approx(1.0)


def test_metrics_describe_the_decision() -> None:
    plan, scorer = build(SETTINGS), FakeScorer()
    metrics = run(plan, scorer, range(2, 4))[1].metrics
    assert plan.assignment is not None
    assert plan.last_scoring_pass is not None
    assigned_NM, scores_NM = plan.assignment.assigned_NM, plan.last_scoring_pass.scores_NM
    assert metrics["remix/share/video"] == assigned_NM[:, 1].mean()
    assert metrics["remix/share_class_1/audio"] == pytest.approx(assigned_NM[LABELS == 1, 0].mean())
    assert metrics["remix/score_mean/audio"] == pytest.approx(scores_NM[:, 0].mean())
    assert metrics["remix/score_q10/video"] == pytest.approx(np.quantile(scores_NM[:, 1], 0.1))
    assert metrics["remix/margin"] == pytest.approx(np.abs(scores_NM[:, 0] - scores_NM[:, 1]).mean())
    assert metrics["remix/resting_share"] == 0.0
    assert 0.0 < metrics["remix/churn"] < 1.0
    assert all(np.isfinite(value) for value in metrics.values())


def test_an_epoch_without_samples_raises() -> None:
    plan = build(replace(SETTINGS, filter=Band(50.0, 60.0, "rest")))
    with pytest.raises(TrainingError, match=r"epoch 2: an epoch must train on some samples.*otherwise: joint"):
        run(plan, FakeScorer(), range(2, 3))


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_whose_batches_are_all_dropped_raises(epoch: int) -> None:
    plan = build(replace(SETTINGS, how=Reassembly("blocks", (1, 0), batch=SAMPLES + 1, incomplete="drop")))
    with pytest.raises(TrainingError, match="incomplete: keep"):
        run(plan, FakeScorer(), range(epoch, epoch + 1))


def test_a_modality_with_too_few_samples_warns() -> None:
    scores_NM = np.stack([np.zeros(SAMPLES), np.ones(SAMPLES)], axis=1)
    planned = build(SETTINGS).plan(2, lambda _: ScoringPass(scores_NM, scores_NM))
    (warning,) = planned.warnings
    assert "only 0 of 60 samples train video alone" in warning


def test_modalities_with_enough_samples_do_not_warn() -> None:
    assert all(planned.warnings == () for planned in run(build(SETTINGS), FakeScorer(), range(5)))


FILTERS: tuple[Filter, ...] = (Argmin(), Random(), Tempered(1.0), Margin(0.3))


@examples(25)
@given(
    st.sampled_from(FILTERS),
    st.sampled_from([None, FixedShare((0.3, 0.7)), ProgressShare()]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 8),
    st.integers(0, 1000),
)
def test_a_restored_plan_equals_the_uninterrupted_one(
    rule: Filter, share: FixedShare | ProgressShare | None, every: int, joint: float, stop: int, seed: int
) -> None:
    settings_ = replace(SETTINGS, filter=rule, share=share, rescore_every=every, joint_share=joint)
    whole = run(build(settings_, seed), FakeScorer(), range(9))
    first = build(settings_, seed)
    run(first, FakeScorer(), range(stop))
    second = build(settings_, seed)
    second.restore(first.state())
    for one, other in zip(run(second, FakeScorer(), range(stop, 9)), whole[stop:], strict=True):
        assert_same(one, other)


def test_later_epochs_do_not_change_a_saved_state() -> None:
    plan, scorer = build(replace(SETTINGS, share=ProgressShare())), FakeScorer()
    run(plan, scorer, range(4))
    state = plan.state()
    before = deepcopy(state)
    run(plan, scorer, range(4, 8))
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("rule", FILTERS)
def test_the_same_seed_and_epoch_give_the_same_schedule(rule: Filter) -> None:
    """Every rank computes its own plan; the plans must agree without communication."""
    settings_ = replace(SETTINGS, filter=rule)
    ranks = [run(build(settings_, seed=7), FakeScorer(), range(5)) for _ in range(3)]
    for epoch in range(5):
        assert_same(ranks[0][epoch], ranks[1][epoch])
        assert_same(ranks[0][epoch], ranks[2][epoch])
    other = run(build(settings_, seed=8), FakeScorer(), range(5))
    assert not np.array_equal(other[4].schedule.samples_TB, ranks[0][4].schedule.samples_TB)


def test_a_constant_plan_only_shuffles_and_has_no_state() -> None:
    plan, scorer = ConstantPlan(everything_joint(SAMPLES, 2), REASSEMBLY, seed=1), FakeScorer()
    first, again, next_ = plan.plan(0, scorer), plan.plan(0, scorer), plan.plan(1, scorer)
    assert_same(first, again)
    assert not np.array_equal(first.schedule.samples_TB, next_.schedule.samples_TB)
    assert first.schedule.active_TBM[first.schedule.samples_TB != NO_SAMPLE].all()
    assert scorer.calls == []
    assert plan.state() == {}


def test_a_constant_plan_without_a_step_raises() -> None:
    how = Reassembly("blocks", (1, 0), batch=SAMPLES + 1, incomplete="drop")
    with pytest.raises(TrainingError, match="must train on some samples"):
        ConstantPlan(everything_joint(SAMPLES, 2), how, seed=1).plan(0, FakeScorer())


@pytest.mark.parametrize("rule", FILTERS)
def test_no_two_decisions_share_a_random_stream(rule: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they would depend on each other: the filter, the joint samples and the batches, in each epoch."""
    drawn: list[tuple[int, str, tuple[int, ...]]] = []

    def recorded(seed: int, purpose: str, *keys: int) -> np.random.Generator:
        drawn.append((seed, purpose, keys))
        return stream(seed, purpose, *keys)

    monkeypatch.setattr(plan_module, "stream", recorded)
    run(build(replace(SETTINGS, filter=rule, joint_share=0.2), seed=5), FakeScorer(), range(5))
    assert len(drawn) == 5 + 2 * 3  # batches in each epoch, and the two others after the warm-up
    assert len(set(drawn)) == len(drawn)
    assert {seed for seed, _, _ in drawn} == {5}


def test_a_progress_share_compares_the_losses_of_successive_scoring_passes() -> None:
    """The scores of the passes do not matter."""
    losses = [np.asarray(pair) for pair in ((2.0, 2.0), (1.6, 1.9), (1.5, 1.2), (1.5, 1.1))]
    plan = build(replace(SETTINGS, warmup=0, share=ProgressShare()))
    shares_M = np.asarray([0.5, 0.5])
    for epoch, loss_M in enumerate(losses):
        scores_NM = np.random.default_rng(epoch).random((SAMPLES, 2)) * [1.0, 1.0 + epoch]
        found = ScoringPass(scores_NM, np.tile(loss_M, (SAMPLES, 1)))
        metrics = plan.plan(epoch, lambda _, found=found: found).metrics  # type: ignore[misc]  # mypy infers no type of a lambda with a default
        if epoch > 0:
            shares_M = followed(loss_M, losses[epoch - 1], shares_M)
            assert abs(shares_M[0] - 0.5) > 0.1  # the example shows a change
        assert metrics["remix/share/audio"] == pytest.approx(shares_M[0], abs=1 / SAMPLES)


@pytest.mark.parametrize("rule", [*FILTERS, Band(0.2, 0.9), Quantile(0.3)])
def test_a_joint_share_changes_only_the_drawn_samples(rule: Filter) -> None:
    """A drawn sample only trains jointly. All others train as without the joint share, also those that are joint."""
    settings_ = replace(SETTINGS, filter=rule)
    plain, drawing = build(settings_), build(replace(settings_, joint_share=0.3))
    for plan in (plain, drawing):
        run(plan, FakeScorer(), range(2, 3))
    assert plain.assignment is not None
    assert drawing.assignment is not None
    same_N = (drawing.assignment.assigned_NM == plain.assignment.assigned_NM).all(axis=1) & (
        drawing.assignment.joint_N == plain.assignment.joint_N
    )
    drawn_N = drawing.assignment.joint_N & ~drawing.assignment.assigned_NM.any(axis=1)
    assert (same_N | drawn_N).all()
    assert not same_N.all()
    assert 0.1 < drawn_N[~plain.assignment.joint_N].mean() < 0.5


@pytest.mark.parametrize("count", [0, 1, 7, 8, 59])
def test_a_modality_warns_exactly_if_it_has_less_than_a_batch_of_its_own(count: int) -> None:
    scores_NM = np.stack([np.zeros(SAMPLES), np.where(np.arange(SAMPLES) < count, -1.0, 1.0)], axis=1)
    planned = build(SETTINGS).plan(2, lambda _: ScoringPass(scores_NM, scores_NM))
    warned = [name for name in ("audio", "video") if any(f"samples train {name} alone" in w for w in planned.warnings)]
    few = {"video": count, "audio": SAMPLES - count}
    assert warned == [name for name in ("audio", "video") if few[name] < REASSEMBLY.batch]


def test_a_progress_share_resumes_from_a_checkpoint_of_an_older_version() -> None:
    """It had the last scoring pass, but not what the share rule kept."""
    settings_ = replace(SETTINGS, share=ProgressShare())
    whole = run(build(settings_), FakeScorer(), range(6))
    first, second = build(settings_), build(settings_)
    run(first, FakeScorer(), range(4))
    second.restore({key: value for key, value in first.state().items() if not key.startswith(("kept", "share/"))})
    for one, other in zip(run(second, FakeScorer(), range(4, 6)), whole[4:], strict=True):
        assert_same(one, other)
