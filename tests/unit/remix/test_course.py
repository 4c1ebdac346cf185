"""Courses: the numbers of samples that a run recorded, replayed exactly, and at their mean"""

# N training samples, M modalities, E epochs, G groups

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.config.method import RemixConfig
from remix_study.planned import remix_plan
from remix_study.remix import Course, Margin, ProgressShare, Quantile, RemixPlan, RemixSettings, read_course
from remix_study.remix.filtering import Band, Filter, Tempered
from tests.examples import examples
from tests.unit.remix.test_plan import CLASSES, LABELS, REASSEMBLY, SAMPLES, SETTINGS, FakeScorer, build, run

RULES: tuple[Filter, ...] = (
    Tempered(1.0), Margin(0.4), Margin(0.4, "each"), Quantile(0.3, "rest"), Band(0.1, 0.8, "rest"), Band(0.1, 0.8)
)  # fmt: skip
EPOCHS = 7
RECORDED = ("remix/share/", "remix/joint_share", "remix/resting_share")


@st.composite
def courses(draw: st.DrawFn) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Generate the numbers of samples in each group and epoch, and names of modalities."""
    modalities = draw(st.integers(2, 4))
    samples, epochs = draw(st.integers(1, 20_000)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts_EG = rng.dirichlet(np.full(modalities + 3, draw(st.sampled_from([0.2, 1.0]))), epochs)
    count_EG = np.stack([rng.multinomial(samples, parts_G) for parts_G in parts_EG])
    return count_EG.astype(np.int64), tuple("abcd"[:modalities])


def counts_of(plan: RemixPlan) -> list[int]:
    """The number of samples of each group in the current assignment."""
    assignment = plan.assignment
    assert assignment is not None
    each_N = np.asarray(assignment.assigned_NM.all(axis=1))
    alone_M = (assignment.assigned_NM & ~each_N[:, None]).sum(axis=0)
    return [*alone_M, int(each_N.sum()), int(assignment.joint_N.sum()), int((~assignment.trained_N).sum())]


@examples(25)
@given(courses(), st.integers(0, 2**16))
def test_recorded_shares_give_back_the_exact_numbers_of_samples(
    case: tuple[NDArray[np.int64], tuple[str, ...]], seed: int
) -> None:
    count_EG, names = case
    course, samples = Course(count_EG), int(count_EG[0].sum())
    history = []
    for epoch in range(len(count_EG)):
        drawn = course.draw(epoch, np.random.default_rng(seed))
        shares = dict(zip((f"remix/share/{m}" for m in names), drawn.shares_M().tolist(), strict=True))
        shares |= {"remix/joint_share": drawn.joint_share(), "remix/resting_share": drawn.resting_share()}
        history.append(json.loads(json.dumps(shares)))
    np.testing.assert_array_equal(read_course(history, names, samples).count_EG, count_EG)


@examples(15)
@given(courses(), st.data())
def test_the_mean_course_is_constant_and_within_one_sample_of_the_mean(
    case: tuple[NDArray[np.int64], tuple[str, ...]], data: st.DataObject
) -> None:
    count_EG, _ = case
    first = data.draw(st.integers(0, len(count_EG) - 1))
    mean = Course(count_EG).at_mean(first)
    assert len(np.unique(mean.count_EG[first:], axis=0)) == 1
    assert (np.abs(mean.count_EG[first:] - count_EG[first:].mean(axis=0)) < 1).all()
    np.testing.assert_array_equal(mean.count_EG[:first], count_EG[:first])


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_replay_has_the_numbers_of_every_epoch_and_redraws_when_the_other_run_does(rule: Filter, every: int) -> None:
    other = build(replace(SETTINGS, rescore_every=every, filter=rule, share=ProgressShare(), joint_share=0.2))
    scorer, history = FakeScorer(), []
    counts: list[list[int] | None] = []
    for epoch in range(EPOCHS):
        history.append(dict(run(other, scorer, range(epoch, epoch + 1))[0].metrics))
        counts.append(None if other.assignment is None else counts_of(other))
    course = read_course(history, ("audio", "video"), SAMPLES)
    replay, unused = build(replace(SETTINGS, rescore_every=every, course=course)), FakeScorer()
    for epoch in range(EPOCHS):
        (planned,) = run(replay, unused, range(epoch, epoch + 1))
        assert ("remix/churn" in planned.metrics) == ("remix/churn" in history[epoch])
        if counts[epoch] is not None:
            assert counts_of(replay) == counts[epoch]
            wanted = {key: value for key, value in history[epoch].items() if key.startswith(RECORDED)}
            assert {k: planned.metrics[k] for k in wanted} == wanted
    assert unused.calls == []


def test_phases_of_another_run_are_replayed_without_having_them() -> None:
    """Phases in which a modality trains alone, all train jointly, and samples rest."""
    phases = [
        {"until": 0.3, "share": {"audio": 0.2, "video": 0.8}, "joint_share": 0.1},
        {"until": 0.5, "only": ["video"]},
        {"until": 0.8, "filter": {"rule": "quantile", "fraction": 0.3, "otherwise": "rest"}},
        {"joint": True},
    ]
    modalities, counts, history = ("audio", "video"), [], []
    given = {"name": "remix", "warmup": 2, "rescore_every": 2, "phases": phases}
    other = remix_plan(RemixConfig.model_validate(given), modalities, LABELS, CLASSES, REASSEMBLY, 0, 12)
    scorer = FakeScorer()
    for epoch in range(12):
        history.append(dict(run(other, scorer, range(epoch, epoch + 1))[0].metrics))
        counts.append([] if other.assignment is None else counts_of(other))
    assert len({tuple(each) for each in counts}) >= 5
    given |= {"phases": None, "filter": {"rule": "random_at_share_of", "run": "other"}}
    course = read_course(history, modalities, SAMPLES)
    method = RemixConfig.model_validate(given)
    replay = remix_plan(method, modalities, LABELS, CLASSES, REASSEMBLY, 1, 12, course)
    for epoch in range(12):
        run(replay, scorer, range(epoch, epoch + 1))
        assert ([] if replay.assignment is None else counts_of(replay)) == counts[epoch]


def test_a_replay_redraws_with_the_other_run_where_no_number_changes() -> None:
    """The phases differ in their filter only, and samples are assigned every ten epochs."""
    phases = [{"until": 0.5, "filter": {"rule": "argmin"}}, {"filter": {"rule": "random"}}]
    given = {"name": "remix", "warmup": 2, "rescore_every": 10, "share": {"audio": 0.3, "video": 0.7}}
    other = remix_plan(
        RemixConfig.model_validate(given | {"phases": phases}), ("audio", "video"), LABELS, CLASSES, REASSEMBLY, 0, 12
    )
    history = [dict(run(other, FakeScorer(), range(epoch, epoch + 1))[0].metrics) for epoch in range(12)]
    again = [epoch for epoch, record in enumerate(history) if "remix/churn" in record]
    assert again == [7]
    rule = {"filter": {"rule": "random_at_share_of", "run": "other"}, "share": None}
    for course in (found := read_course(history, ("audio", "video"), SAMPLES), found.at_mean(2)):
        method = RemixConfig.model_validate(given | rule)
        replay = remix_plan(method, ("audio", "video"), LABELS, CLASSES, REASSEMBLY, 1, 12, course)
        planned = [run(replay, FakeScorer(), range(epoch, epoch + 1))[0].metrics for epoch in range(12)]
        assert [epoch for epoch, metrics in enumerate(planned) if "remix/churn" in metrics] == again


def test_a_replay_that_resumes_assigns_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    course = Course(np.stack([rng.multinomial(SAMPLES, np.full(5, 0.2)) for _ in range(EPOCHS)]))
    settings = RemixSettings(warmup=1, score="kl", filter=Tempered(1.0), how=REASSEMBLY, rescore_every=4, course=course)
    whole, half, resumed = (build(settings) for _ in range(3))
    wanted = run(whole, FakeScorer(), range(EPOCHS))
    run(half, FakeScorer(), range(3))
    resumed.restore(half.state())
    for one, other in zip(run(resumed, FakeScorer(), range(3, EPOCHS)), wanted[3:], strict=True):
        np.testing.assert_array_equal(one.schedule.samples_TB, other.schedule.samples_TB)


def test_a_replay_is_uniform_over_the_assignments_with_its_numbers() -> None:
    course = Course(np.asarray([[2, 3, 0, 1, 2]]))
    draws = [course.draw(0, np.random.default_rng(seed)) for seed in range(1500)]
    audio_N = np.mean([each.assigned_NM[:, 0] for each in draws], axis=0)
    np.testing.assert_allclose(audio_N, 2 / 8, atol=0.05)
    both = np.mean([each.assigned_NM[0, 0] and each.joint_N[5] for each in draws])
    assert both == pytest.approx(2 / 8 * 1 / 7, abs=0.025)  # the joint law of a draw without replacement


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "its epoch 0 has no `remix/joint_share`"),
        ({"remix/joint_share": 0.5, "remix/share/audio": 0.5}, "the shares of its epoch 0 are not those of 9 samples"),
        ({"remix/joint_share": 0.0, "remix/share/audio": 1 / 3}, "are not those of 9 samples"),
    ],
)
def test_shares_of_another_run_are_refused(record: Mapping[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_course([record], ("audio", "video"), 9)
