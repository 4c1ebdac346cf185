"""The course of Remix over the epochs: planned values happen, phases begin, and a resumed plan equals the other"""

# N training samples, M modalities

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.config.load import parse_run
from remix_study.config.method import RemixConfig
from remix_study.config.run import RunConfig
from remix_study.epoch import PlannedEpoch, ScoreFunction, ScoringPass
from remix_study.planned import abstaining_weight, loss_weights, rate_factors, remix_plan, scheduled
from remix_study.remix import ByCost, Cartography, CoalitionGain, Reassembly, RemixPlan

SAMPLES, CLASSES, EPOCHS = 60, 3, 12
PHASES = [
    {"until": 0.3, "share": {"audio": 0.2, "video": 0.8}},
    {"until": 0.6, "share": {"audio": {"from": 0.2, "to": 0.7}, "video": "rest"}},
    {"until": 0.8, "only": ["video"]},
    {"joint": True, "warmup_weight": 3.0},
]
COURSES: dict[str, dict[str, Any]] = {
    "phases": {"phases": PHASES, "filter": {"rule": "tempered", "temperature": {"from": 2, "to": 0}}},
    "smp": {"phases": "smp"},
    "share": {"share": {"audio": {"from": 0.9, "to": 0.1, "shape": "cosine"}, "video": "rest"}},
    "joint": {"joint_share": {"from": 0.9, "to": 0.0}, "filter": {"rule": "random"}},
    "rules": {"phases": [{"until": 0.4, "filter": {"rule": "learning_progress", "passes": 2}},
                         {"until": 0.7, "filter": {"rule": "rotation"}}, {"filter": {"rule": "learning_progress"}}]},
    "costs": {"filter": {"rule": "cartography", "still": {"from": 0.4, "to": 0}, "explore": {"from": 1, "to": 0}}},
    "progress": {"phases": [{"until": 0.5, "share": {"kind": "progress"}}, {"share": {"audio": 0.3, "video": 0.7}}]},
}  # fmt: skip


def a_run(method: dict[str, Any], **others: Any) -> RunConfig:
    return parse_run({"corpus": "c", "method": method, "epochs": EPOCHS, **others}, "the test")


def a_plan(**changes: Any) -> RemixPlan:
    config = a_run({"name": "remix", "warmup": 2, **changes})
    assert isinstance(config.method, RemixConfig)
    how = Reassembly("blocks", (1, 0), batch=8)
    labels_N = np.arange(SAMPLES) % CLASSES
    return remix_plan(config.method, ("audio", "video"), labels_N, CLASSES, how, 0, EPOCHS)


class Scorer:
    """Scoring passes in which video has the higher cross-entropy; counts them."""

    def __init__(self) -> None:
        self.epoch, self.calls = 0, list[int]()

    def __call__(self, score: ScoreFunction) -> ScoringPass:
        self.calls.append(self.epoch)
        draw = np.random.default_rng(self.epoch)
        probs_NMC = draw.dirichlet(np.full(CLASSES, 0.5), size=(SAMPLES, 2))
        loss_NM = draw.random((SAMPLES, 2)) / (1 + self.epoch) + [0.0, 1.0]
        return ScoringPass(score(probs_NMC, np.arange(SAMPLES) % CLASSES), loss_NM)


def planned(plan: RemixPlan, scorer: Scorer, first: int = 0, end: int = EPOCHS) -> list[PlannedEpoch]:
    found = []
    for scorer.epoch in range(first, end):
        found.append(plan.plan(scorer.epoch, scorer))
    return found


@pytest.mark.parametrize("name", COURSES)
@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_plan_resumed_within_its_course_is_the_same(name: str, at: int) -> None:
    whole = planned(a_plan(**COURSES[name]), Scorer())
    first, scorer = a_plan(**COURSES[name]), Scorer()
    planned(first, scorer, 0, at)
    again = a_plan(**COURSES[name])
    again.restore(first.state())
    for one, other in zip(whole[at:], planned(again, scorer, at), strict=True):
        np.testing.assert_array_equal(one.schedule.samples_TB, other.schedule.samples_TB)
        np.testing.assert_array_equal(one.schedule.active_TBM, other.schedule.active_TBM)
        assert one.metrics == other.metrics


@pytest.mark.parametrize("name", ["phases", "smp", "share"])
def test_planned_shares_happen(name: str) -> None:
    for epoch in planned(a_plan(**COURSES[name]), Scorer())[2:]:
        pairs = [(epoch.metrics[f"schedule/share/{m}"], epoch.metrics[f"remix/share/{m}"]) for m in ("audio", "video")]
        assert all(abs(wanted - happened) <= 1 / SAMPLES for wanted, happened in pairs)


def test_a_phase_assigns_samples_again_when_it_begins() -> None:
    scorer = Scorer()
    found = planned(a_plan(phases=PHASES, rescore_every=100), scorer)
    shares = [each.metrics["remix/share/video"] for each in found[2:]]
    assert shares == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 1.0, 1.0, 0.0, 0.0])
    assert [each.metrics["schedule/phase"] for each in found[2:]] == [1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert scorer.calls == [2, 5]


def test_smp_ranks_the_modalities_once_at_the_end_of_the_warm_up() -> None:
    scorer = Scorer()
    found = planned(a_plan(phases="smp"), scorer)
    assert scorer.calls == [2]
    assert [each.metrics["schedule/order/video"] for each in found[2:]] == [1.0] * 10
    shares = [(each.metrics["remix/share/audio"], each.metrics["remix/share/video"]) for each in found[2:]]
    assert shares == [(0, 1)] * 2 + [(1, 0)] * 3 + [(0, 0)] * 5
    given = planned(a_plan(phases={"preset": "smp", "order": ["audio", "video"]}), scorer)
    assert scorer.calls == [2]
    assert given[2].metrics["remix/share/audio"] == 1


def test_a_constant_method_has_no_course() -> None:
    found = planned(a_plan(share={"audio": 0.2, "video": 0.8}), Scorer())
    assert not any(key.startswith("schedule/") for each in found for key in each.metrics)
    assert scheduled(a_run({"name": "remix"}))(3) == {}


SOON = {"to": 0, "end": 0.1}  # the last value is reached in the second epoch after the warm-up


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        (
            {"rule": "cartography", "still": {"from": 0.4} | SOON, "penalty": {"from": 2} | SOON},
            ByCost(Cartography(penalty=2, still=0.4)),
            ByCost(Cartography(penalty=0, still=0)),
        ),
        (
            {"rule": "coalition_gain", "tau": {"from": 0.2} | SOON, "explore": {"from": 1} | SOON},
            ByCost(CoalitionGain(0.2), explore=1),
            ByCost(CoalitionGain(0)),
        ),
    ],
    ids=["cartography", "coalition_gain"],
)
def test_the_numbers_of_a_cost_rule_follow_their_schedules(rule: dict[str, Any], first: ByCost, last: ByCost) -> None:
    plan, scorer = a_plan(filter=rule), Scorer()
    planned(plan, scorer, 0, 3)
    assert plan.settings.filter == first
    (second,) = planned(plan, scorer, 3, 4)
    assert plan.settings.filter == last
    for key in rule.keys() - {"rule"}:
        assert second.metrics[f"schedule/filter/{key}"] == 0


@pytest.mark.parametrize(("method", "first"), [("joint_unimodal", 0), ({"name": "remix", "warmup": 2}, 2)])
def test_the_weight_of_abstaining_targets_follows_its_schedule(method: Any, first: int) -> None:
    method = method if isinstance(method, dict) else {"name": method}
    config = a_run(method, targets={"of": "history", "weight": {"from": 1, "to": 0.2}})
    weight = abstaining_weight(config)
    assert callable(weight)
    wanted = [1.0] * first + list(np.linspace(1, 0.2, EPOCHS - first))
    assert [weight(epoch) for epoch in range(EPOCHS)] == pytest.approx(wanted)
    assert scheduled(config)(EPOCHS - 1) == {"schedule/targets/weight": 0.2}
    assert abstaining_weight(a_run(method, targets={"of": "history", "weight": 0.3})) == 0.3


def test_weights_follow_their_schedules_beside_a_preset() -> None:
    method = a_run({"name": "remix", "warmup": 2, "phases": "smp", "weight": {"from": 1, "to": 0}}).method
    assert isinstance(method, RemixConfig)
    together, alone = loss_weights(method, EPOCHS)
    assert together == 0.5
    assert callable(alone)
    assert [alone(epoch) for epoch in range(EPOCHS)] == pytest.approx([1, 1, *np.linspace(1, 0, 10)])


def test_weights_and_rates_follow_the_epochs_after_the_warm_up() -> None:
    method = {"name": "remix", "warmup": 2, "phases": PHASES, "weight": {"from": 1, "to": 0}}
    config = a_run(method, learning_rate_factor={"audio": {"from": 1, "to": 0.1, "shape": "step"}, "video": 1})
    assert isinstance(config.method, RemixConfig)
    together, alone = loss_weights(config.method, EPOCHS)
    factors = rate_factors(config)
    assert callable(together)
    assert callable(alone)
    assert callable(factors)
    assert [alone(epoch) for epoch in range(EPOCHS)] == pytest.approx([1, 1, *np.linspace(1, 0, 10)])
    assert [together(epoch) for epoch in range(EPOCHS)] == [0.5] * 10 + [3.0] * 2
    assert [factors(epoch) for epoch in range(EPOCHS)] == [{"audio": f, "video": 1} for f in [1] * 7 + [0.1] * 5]
    assert scheduled(config)(11) == {
        "schedule/learning_rate_factor/audio": 0.1, "schedule/learning_rate_factor/video": 1.0,
        "schedule/warmup_weight": 3.0, "schedule/weight": 0.0,
    }  # fmt: skip


THREE = ("audio", "text", "video")
Values = NDArray[np.float64]


def a_plan_of_three(**changes: Any) -> RemixPlan:
    config = a_run({"name": "remix", "warmup": 1, "filter": {"rule": "random"}, **changes})
    assert isinstance(config.method, RemixConfig)
    how = Reassembly("blocks", (2, 1, 0), batch=8)
    return remix_plan(config.method, THREE, np.arange(SAMPLES) % CLASSES, CLASSES, how, 0, EPOCHS)


def shares_of(plan: RemixPlan, losses_EM: Values, scores_NM: Values | None = None) -> list[Mapping[str, float]]:
    """The metrics of each epoch, of which some are the planned share of each modality and others the actual one."""

    def scored(epoch: int, _: ScoreFunction) -> ScoringPass:
        scores = np.zeros((SAMPLES, 3)) if scores_NM is None else scores_NM
        return ScoringPass(scores, np.tile(losses_EM[epoch], (SAMPLES, 1)))

    return [plan.plan(epoch, partial(scored, epoch)).metrics for epoch in range(EPOCHS)]


def test_by_score_counts_the_lowest_score_among_the_modalities_that_train() -> None:
    scores_NM = np.random.default_rng(0).random((SAMPLES, 3)) - [0.0, 5.0, 0.2]  # text has the lowest everywhere
    plan = a_plan_of_three(share={"kind": "by_score"}, phases=[{"until": 0.5, "only": ["audio", "video"]}, {}])
    found = shares_of(plan, np.ones((EPOCHS, 3)), scores_NM)
    audio = float((scores_NM[:, 0] < scores_NM[:, 2]).mean())
    assert found[1]["remix/share/audio"] == pytest.approx(audio)
    assert found[1]["remix/share/video"] == pytest.approx(1 - audio)
    assert found[-1]["remix/share/text"] == 1.0


def test_the_share_of_a_resting_modality_does_not_fall() -> None:
    """Only audio gets better while text rests; then all shares start again at one third."""
    losses_EM = np.stack([[2.0 - 0.1 * epoch, 2.0, 2.0] for epoch in range(EPOCHS)])
    phases = [{"until": 0.5, "only": ["audio", "video"]}, {}]
    found = shares_of(a_plan_of_three(share={"kind": "progress", "lowest": 0.1}, phases=phases), losses_EM)
    assert [found[1][f"remix/share/{m}"] for m in THREE] == [0.5, 0.0, 0.5]
    assert [found[2][f"remix/share/{m}"] for m in THREE] == pytest.approx([0.9, 0.0, 0.1])
    second = next(epoch for epoch, metrics in enumerate(found) if metrics.get("schedule/phase") == 2)
    assert {f"remix/share_gain/{m}" for m in ("audio", "video")} <= found[second - 1].keys()
    assert "remix/share_gain/text" not in found[second - 1]
    assert [found[second][f"remix/share/{m}"] for m in THREE] == pytest.approx([1 / 3] * 3)


def test_a_controller_starts_again_where_other_modalities_train() -> None:
    phases = [
        {"until": 0.5, "only": ["audio", "video"], "share": {"audio": 0.3, "video": 0.7}},
        {"share": {"kind": "progress", "lowest": 0.2}},
    ]
    found = shares_of(a_plan_of_three(rescore_every=20, phases=phases), np.ones((EPOCHS, 3)))
    assert [found[1][f"remix/share/{m}"] for m in THREE] == pytest.approx([0.3, 0.0, 0.7])
    assert [found[-1][f"remix/share/{m}"] for m in THREE] == pytest.approx([1 / 3] * 3)


def test_a_controller_continues_from_fixed_shares_but_not_below_the_lowest() -> None:
    phases = [
        {"until": 0.5, "share": {"audio": 0.1, "text": 0.3, "video": 0.6}},
        {"share": {"kind": "progress", "lowest": 0.2}},
    ]
    found = shares_of(a_plan_of_three(rescore_every=20, phases=phases), np.ones((EPOCHS, 3)))
    assert [found[1][f"remix/share/{m}"] for m in THREE] == pytest.approx([0.1, 0.3, 0.6])
    assert [found[-1][f"remix/share/{m}"] for m in THREE] == pytest.approx([0.2, 0.8 / 3, 1.6 / 3], abs=0.01)


def test_planned_shares_are_those_of_the_modalities_that_train() -> None:
    phases = [{"until": 0.5, "only": ["audio", "video"]}, {}]
    plan = a_plan_of_three(share={"audio": 0.2, "video": 0.3, "text": 0.5}, phases=phases)
    for metrics in shares_of(plan, np.ones((EPOCHS, 3)))[1:]:
        for m in THREE:
            assert metrics[f"schedule/share/{m}"] == pytest.approx(metrics[f"remix/share/{m}"])
    assert metrics["remix/share/text"] == 0.5
