import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError
from remix_study.launch.predictions import Correct
from remix_study.metrics import sufficiency_gap
from remix_study.report.tables import accuracy_table
from remix_study.statistics import crossed_mean, holm, sign_flip_p
from remix_study.study.comparison import Combination, Part, StudyResult
from remix_study.study.ledger import Ledger, ReplicateRecord, TrialRecord
from remix_study.study.outcomes import Paired, Replicated
from remix_study.study.results import compare, result_of
from remix_study.study.sentences import combinations, headline, interval_text, judgement, p_text
from remix_study.study.study_tracker import combination_metrics


def study(**methods: dict[str, Any]) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "s",
            "question": "q?",
            "base": {},
            "methods": {"remix": {}, **methods},
            "reference": "remix",
            "trials": 1,
            "replicates": 3,
        }
    )


CLIPS = 200


def seeds(*accuracies: float, **others: float) -> Replicated:
    """Replicates without predictions, one for each accuracy."""
    return Replicated({n: {"test/accuracy": a, **others} for n, a in enumerate(accuracies)}, {})


def predicted(
    correct_SC: NDArray[np.bool_], last_SC: NDArray[np.bool_] | None = None, groups: NDArray[np.int64] | None = None,
    failed: tuple[int, ...] = (), **others: float,
) -> Replicated:  # fmt: skip
    """Replicates that predict these clips correctly, the first with number 0."""
    last_SC = correct_SC if last_SC is None else last_SC
    summaries = {
        n: {"test/accuracy": float(correct_SC[n].mean()), "test/accuracy_last": float(last_SC[n].mean()), **others}
        for n in range(len(correct_SC))
    }
    ids = tuple(f"clip {c}" for c in range(correct_SC.shape[1]))
    correct = {
        n: Correct(ids, groups, {"fused": row_C, "best": row_C, "last": last_SC[n]})
        for n, row_C in enumerate(correct_SC)
    }
    return Replicated(summaries, correct, failed)


def clips(accuracy: float, number: int = 6, seed: int = 0, alike: float = 0.9) -> NDArray[np.bool_]:
    """Outcomes (S, C) of about this accuracy; `alike`: the share of clips that are the same in all seeds."""
    draw = np.random.default_rng(seed)
    hardness_C = draw.permutation(CLIPS) / CLIPS
    fixed_SC = np.repeat((hardness_C < accuracy)[None], number, axis=0)
    mixed_SC = draw.random((number, CLIPS)) < accuracy
    return np.where(draw.random((number, CLIPS)) < alike, fixed_SC, mixed_SC)


def result(remix: Replicated, methods: dict[str, dict[str, Any]] | None = None, **replicates: Any) -> StudyResult:
    made = study(**{name: (methods or {}).get(name, {}) for name in replicates})
    everything = {"remix": remix, **replicates}
    ended = max(len(each.summaries) + len(each.failed) for each in everything.values())
    made = made.model_copy(update={"replicates": ended})
    return compare(made, everything, {name: {"lr": 1} for name in everything}, [])


def ahead_of(found: StudyResult, name: str = "joint") -> Paired:
    (ahead,) = [c.ahead for c in found.methods if c.name == name]
    assert ahead is not None
    return ahead


def test_differences_are_taken_per_seed_and_clip() -> None:
    remix, joint = clips(0.8, seed=1), clips(0.7, seed=1)
    ahead = ahead_of(result(predicted(remix), joint=predicted(joint)))
    expected = crossed_mean(100.0 * remix - 100.0 * joint)
    assert [ahead.mean, ahead.low, ahead.high, ahead.p] == pytest.approx([*expected[:4]])
    assert ahead.p_holm == ahead.p, "one comparison: no adjustment"
    difference_S = 100 * (remix.mean(axis=1) - joint.mean(axis=1))
    assert ahead.std == pytest.approx(difference_S.std(ddof=1))
    assert (ahead.wins, ahead.seeds, ahead.clips, ahead.groups) == (int((difference_S > 0).sum()), 6, CLIPS, None)
    assert ahead.sign_flip == pytest.approx(sign_flip_p(difference_S))


def test_groups_of_clips_take_the_place_of_clips() -> None:
    groups = np.arange(CLIPS) // 10
    remix, joint = clips(0.8, seed=1), clips(0.7, seed=2)
    ahead = ahead_of(result(predicted(remix, groups=groups), joint=predicted(joint, groups=groups)))
    expected = crossed_mean(100.0 * remix - 100.0 * joint, groups)
    assert [ahead.mean, ahead.low, ahead.high, ahead.p] == pytest.approx([*expected[:4]])
    assert ahead.low != pytest.approx(crossed_mean(100.0 * remix - 100.0 * joint).low)


def test_an_equal_seed_is_no_win() -> None:
    remix, joint = clips(0.8, 5, alike=1.0), clips(0.8, 5, alike=1.0)
    joint[:3, np.flatnonzero(joint[0])[0]] = False
    assert ahead_of(result(predicted(remix), joint=predicted(joint))).wins == 3


def test_a_p_never_comes_from_the_seeds_alone() -> None:
    """Without predictions of every replicate, there is an interval over seeds, but no p and no verdict."""
    found = result(seeds(*[0.80, 0.81, 0.79] * 2), joint=seeds(*[0.701, 0.71, 0.689] * 2))
    ahead = ahead_of(found)
    assert (ahead.p, ahead.p_holm, ahead.clips, ahead.verdict) == (None, None, None, "unknown")
    interval = stats.ttest_1samp([9.9, 10.0, 10.1] * 2, 0).confidence_interval(0.95)
    assert [ahead.low, ahead.high] == pytest.approx(list(interval))
    assert "no verdict on remix and joint (+10.0 points, 95 % interval +9.9 to +10.1, 6/6 seeds)" in found.sentence
    assert "A test needs the predictions of every replicate" in found.sentence
    assert headline(found) == "remix: no verdict"
    one_missing = predicted(clips(0.8))
    one_missing = one_missing._replace(correct={n: c for n, c in one_missing.correct.items() if n != 3})
    found = result(one_missing, joint=predicted(clips(0.7)))
    assert ahead_of(found).verdict == "unknown"
    assert "predictions.parquet is missing or damaged for remix 3, so the intervals of" in found.sentence
    # A replicate that the other method does not have enters no comparison.
    shorter = result(one_missing, joint=predicted(clips(0.7, 3)))
    assert shorter.without_predictions == ()
    assert ahead_of(shorter).clips == CLIPS


def test_each_comparison_has_its_own_test() -> None:
    """Missing predictions of one method do not hide the test of another, and its interval is marked."""
    damaged = predicted(clips(0.5))._replace(correct={})
    found = result(predicted(clips(0.8)), joint=predicted(clips(0.5)), other=damaged)
    assert (ahead_of(found).verdict, ahead_of(found, "other").verdict) == ("ahead", "unknown")
    cells = {row[0]: row[4] for row in accuracy_table(found).rows}
    assert not cells["joint"].endswith("*")
    assert cells["other"].endswith("*")
    assert "(*: over seeds only)" in accuracy_table(found).title


@pytest.mark.parametrize("number", [2, 3, 4])
def test_fewer_than_five_seeds_have_no_verdict(number: int) -> None:
    found = result(predicted(clips(0.9, number)), joint=predicted(clips(0.3, number)))
    ahead = ahead_of(found)
    assert ahead.verdict == "unknown"
    assert ahead.p is not None
    assert ahead.p < 0.01
    assert "beats" not in found.sentence
    assert f"no verdict on remix and joint ({ahead.mean:+.1f} points, 95 % interval" in found.sentence
    assert "A verdict needs at least 5 replicates: raise `replicates` and rerun the study." in found.sentence
    assert headline(found) == "remix: too few replicates for a verdict"
    assert ahead_of(result(predicted(clips(0.9, 5)), joint=predicted(clips(0.3, 5)))).verdict == "ahead"


def test_methods_that_never_differ_are_level() -> None:
    ahead = ahead_of(result(predicted(clips(0.8)), joint=predicted(clips(0.8))))
    assert (ahead.verdict, ahead.p, ahead.mean, ahead.low, ahead.high) == ("open", None, 0.0, 0.0, 0.0)


def test_only_seeds_that_both_methods_have_are_compared() -> None:
    remix, joint = predicted(clips(0.9, 4)), predicted(clips(0.7, 5, seed=3))
    keep = {0, 2, 3}
    remix = remix._replace(summaries={n: s for n, s in remix.summaries.items() if n in keep})
    ahead = ahead_of(result(remix, joint=joint))
    expected = [100 * (remix.summaries[n]["test/accuracy"] - joint.summaries[n]["test/accuracy"]) for n in sorted(keep)]
    assert ahead.seeds == 3
    assert ahead.mean == pytest.approx(np.mean(expected))


def test_one_seed_is_too_few_for_a_comparison() -> None:
    found = result(predicted(clips(0.9, 1)), joint=predicted(clips(0.1, 1)))
    ahead = ahead_of(found)
    assert (ahead.verdict, ahead.std, ahead.low, ahead.high) == ("unknown", 0.0, -np.inf, np.inf)
    assert (ahead.p, ahead.p_holm) == (None, None)
    assert found.sentence == "One replicate is too few for a comparison: use at least 5."
    other = predicted(clips(0.1, 2))
    other = other._replace(summaries={1: other.summaries[1]})
    found = result(predicted(clips(0.9, 1)), joint=other)
    assert (ahead_of(found).verdict, ahead_of(found).seeds, ahead_of(found).p) == ("unknown", 0, None)
    assert found.sentence.startswith("No method has a complete replicate with the same number as one of remix.")
    more = result(
        predicted(clips(0.9, 6)), joint=predicted(clips(0.5, 6)), late=Replicated({9: {"test/accuracy": 1}}, {})
    )
    assert "remix and late have no replicate in common" in more.sentence


@pytest.mark.parametrize(
    ("accuracy", "verdict", "said", "title"),
    [
        (0.5, "ahead", "remix beats joint by {by} points ({sure}), so choosing helps", "remix: ahead of joint"),
        (0.97, "behind", "remix loses to joint by {by} points ({sure}), so choosing hurts here", "remix: behind joint"),
        (0.8, "open", "no significant difference between remix and joint ({mean} points, {sure}), so there is no "
                      "evidence that choosing helps", "remix: no significant difference from joint"),
    ],
)  # fmt: skip
def test_the_sentence_reports_the_verdict_with_its_numbers(
    accuracy: float, verdict: str, said: str, title: str
) -> None:
    joint = predicted(clips(accuracy, seed=int(100 * accuracy)))
    found = result(predicted(clips(0.8)), {"joint": {"control_of": "choosing"}}, joint=joint)
    ahead = ahead_of(found)
    assert ahead.verdict == verdict
    assert ahead.p_holm is not None
    sure = f"{interval_text(ahead)}, {ahead.wins}/6 seeds, Holm {p_text(ahead.p_holm)}"
    said = said.format(by=f"{abs(ahead.mean):.1f}", mean=f"{ahead.mean:+.1f}", sure=sure)
    assert found.sentence == f"On the held-out test set (6 seeds, 200 clips): {said}."
    assert headline(found) == title


def test_methods_without_control_of_get_no_conclusion() -> None:
    found = result(
        predicted(clips(0.8)), joint=predicted(clips(0.5)), other=predicted(clips(0.97)), same=predicted(clips(0.8))
    )
    assert "helps" not in found.sentence
    assert headline(found) == "remix: ahead of joint; no significant difference from same; behind other"


def test_few_groups_of_clips_are_pointed_out() -> None:
    groups = np.arange(CLIPS) % 4
    found = result(predicted(clips(0.8), groups=groups), joint=predicted(clips(0.7, seed=1), groups=groups))
    assert ahead_of(found).groups == 4
    assert "The test clips form only 4 groups: with fewer than 10, intervals and p-values are rough." in found.sentence
    many = np.arange(CLIPS) % 10
    assert "groups" not in result(predicted(clips(0.8), groups=many), joint=predicted(clips(0.7), groups=many)).sentence


def test_a_verdict_that_depends_on_the_epoch_is_pointed_out() -> None:
    found = result(predicted(clips(0.8), last_SC=clips(0.3)), joint=predicted(clips(0.5)))
    (_, joint) = found.methods
    assert joint.other_epoch is not None
    assert (ahead_of(found).verdict, joint.other_epoch.verdict) == ("ahead", "behind")
    assert (
        f"With the weights of the last epoch instead: remix: behind joint ({joint.other_epoch.mean:+.1f} points)."
        in found.sentence
    )
    assert "epoch" not in result(predicted(clips(0.8)), joint=predicted(clips(0.5))).sentence


def test_replicates_that_failed_are_shown_with_the_worst_case() -> None:
    remix = predicted(clips(0.8, 5), failed=(5,))
    found = result(remix, joint=predicted(clips(0.5, 6)))
    ahead, reference = ahead_of(found), found.methods[0]
    joint_S = clips(0.5, 6).mean(axis=1)
    assert ahead.seeds == 5
    assert ahead.with_failures == pytest.approx(100 * np.mean(np.append(clips(0.8, 5).mean(axis=1), 0) - joint_S))
    assert reference.worst_accuracy() == pytest.approx(clips(0.8, 5).mean() * 5 / 6)
    assert (
        "Replicates failed: 1 of remix; the comparison is over the others. If they count as 0 % correct, the "
        f"difference from joint is {ahead.with_failures:+.1f} points." in found.sentence
    )
    assert ahead_of(result(predicted(clips(0.8)), joint=predicted(clips(0.5)))).with_failures is None


def test_replicates_that_predict_other_clips_are_named() -> None:
    found = result(predicted(clips(0.8)), joint=predicted(clips(0.5)[:, :100]))
    assert ahead_of(found).clips is None
    assert (
        "These replicates predict other test clips than those of remix: joint 0, 1, 2, 3, 4, 5. Delete their folders "
        "and rerun the study." in found.sentence
    )


def test_without_an_interval_there_is_no_verdict() -> None:
    one_group = np.zeros(CLIPS, np.int64)
    found = result(predicted(clips(0.8), groups=one_group), joint=predicted(clips(0.4), groups=one_group))
    assert (ahead_of(found).verdict, ahead_of(found).p, found.sampling_error) == ("unknown", None, None)
    assert "All test clips are in one group, so there is no interval over clips." in found.sentence
    assert "inf" not in found.sentence


def test_p_values_are_adjusted_for_all_planned_comparisons() -> None:
    """A method that failed, has no predictions or never differs does not make the others more significant."""
    joint = predicted(clips(0.72, seed=0))
    p = ahead_of(result(predicted(clips(0.8)), joint=joint)).p
    assert p is not None
    for other in (predicted(clips(0.8)), predicted(clips(0.8))._replace(correct={}), Replicated({}, {}, (0, 1, 2))):
        found = result(predicted(clips(0.8)), joint=joint, other=other)
        assert found.comparisons == 2
        assert ahead_of(found).p_holm == pytest.approx(min(1, 2 * p))


def test_replicates_that_have_not_ended_are_named() -> None:
    replicates = {"remix": predicted(clips(0.8, 6)), "joint": predicted(clips(0.5, 5))}
    found = compare(study(joint={}).model_copy(update={"replicates": 9}), replicates, {}, [])
    assert "Not all 9 replicates have ended: remix 6, joint 5. Rerun the study." in found.sentence


def test_a_method_whose_replicates_all_failed_is_named_as_failed() -> None:
    found = result(predicted(clips(0.8)), joint=Replicated({}, {}, (0, 1, 2, 3, 4, 5)), other=predicted(clips(0.5)))
    assert "Replicates failed: 6 of joint; the comparison is over the others." in found.sentence
    assert "Not compared, because they have no complete replicate: joint." in found.sentence
    lost = result(predicted(clips(0.8, 1), failed=(1, 2, 3, 4, 5)), other=predicted(clips(0.5)))
    assert lost.sentence.startswith(
        "One replicate is too few for a comparison: use at least 5.\n\nReplicates failed: 5 of"
    )


def test_the_sampling_error_is_that_of_the_test_split() -> None:
    found = result(predicted(clips(0.8)), joint=predicted(clips(0.5)))
    assert found.clips == CLIPS
    assert found.sampling_error == pytest.approx(np.sqrt(0.8 * 0.2 / CLIPS), rel=0.05)
    without = result(seeds(0.8, 0.7), joint=seeds(0.7, 0.7))
    assert (without.clips, without.sampling_error) == (None, None)


def test_ceilings_bound_sufficiency_and_are_not_compared() -> None:
    alone = {"test/accuracy_uni/audio": 0.6, "probe/accuracy/audio": 0.45}
    found = result(
        seeds(0.8, 0.8, **alone), {"audio_alone": {"ceiling_of": "audio"}},
        joint=seeds(0.7, 0.7, **{"probe/accuracy/audio": 0.3}),
        audio_alone=seeds(0.7, 0.8, **{"probe/accuracy/audio": 0.9, "test/accuracy_uni/audio": 0.75}),
    )  # fmt: skip
    assert set(found.ceilings) == {"audio"}
    assert found.ceilings["audio"]._asdict() == pytest.approx({"head": 0.75, "probe": 0.9, "own_epoch": None})
    assert [c.name for c in found.others] == ["remix", "joint"]
    assert "audio_alone" not in found.sentence
    remix, joint, _ = found.methods
    assert remix.seeds[0]["sufficiency/ratio/audio"] == pytest.approx(0.6 / 0.75)
    assert remix.seeds[0]["sufficiency/gap/audio"] == pytest.approx(sufficiency_gap(0.6, 0.75))
    assert remix.seeds[0]["sufficiency/probe_ratio/audio"] == pytest.approx(0.5)
    # Without a trained head, only the probe has a sufficiency.
    assert {k for k in joint.seeds[0] if k.startswith("sufficiency")} == {"sufficiency/probe_ratio/audio"}


def test_sufficiency_has_an_interval_over_seeds_and_clips() -> None:
    """The linearised ratio, whose variance a bootstrap of seeds and clips confirms."""
    own_SC, alone_SC, draw = clips(0.6, 8, alike=0.5), clips(0.75, 8, seed=1, alike=0.5), np.random.default_rng(0)
    remix, alone = predicted(clips(0.8, 8)), predicted(alone_SC)
    for n, row_C in enumerate(own_SC):
        remix.summaries[n]["test/accuracy_uni/audio"] = row_C.mean()  # type: ignore[index]  # read-only outside tests
        remix.correct[n].views["audio"] = row_C
    found = result(remix, {"audio_alone": {"ceiling_of": "audio"}}, audio_alone=alone).methods[0]
    mean = found.estimate("sufficiency/ratio/audio")
    assert mean is not None
    assert mean.mean == pytest.approx(own_SC.mean() / alone_SC.mean())
    ratios = []
    for _ in range(2000):
        pick = np.ix_(draw.integers(0, 8, 8), draw.integers(0, CLIPS, CLIPS))
        ratios.append(own_SC[pick].mean() / alone_SC[pick].mean())
    assert (mean.high - mean.low) / 2 == pytest.approx(1.96 * np.std(ratios), rel=0.2)


def test_the_ratio_in_the_own_best_epoch_is_of_both_runs_own_best_epochs() -> None:
    key = "best/own_epoch_accuracy_uni/audio"
    found = result(
        seeds(0.8, 0.8, **{key: 0.6}),
        {"audio_alone": {"ceiling_of": "audio"}},
        audio_alone=seeds(0.7, 0.7, **{key: 0.8}),
    )
    assert found.methods[0].seeds[0]["sufficiency/own_epoch_ratio/audio"] == pytest.approx(0.75)
    assert found.ceilings["audio"].own_epoch == pytest.approx(0.8)


def test_spread_uses_the_seeds_with_the_metric() -> None:
    (remix,) = result(seeds(0.8, 0.6)).methods
    spread = remix.spread("test/accuracy", 100)
    assert spread is not None
    assert list(spread) == pytest.approx([70, 200**0.5])
    assert remix.spread("absent") is None
    (one,) = result(seeds(0.8)).methods
    assert one.spread("test/accuracy") == (0.8, 0.0)


def test_a_difference_that_is_not_significant_after_holm_is_open() -> None:
    close = predicted(clips(0.74, seed=0))
    alone = result(predicted(clips(0.80)), joint=close)
    found = result(
        predicted(clips(0.80)), joint=close, wild=predicted(clips(0.8, seed=1)), wide=predicted(clips(0.8, seed=2))
    )
    ahead = ahead_of(found)
    assert ahead.p is not None
    assert ahead.p == ahead_of(alone).p == ahead_of(alone).p_holm
    assert ahead.p_holm == pytest.approx(min(1, 3 * ahead.p))
    weak = Paired(2.0, 1.0, 0.1, 3.9, 5, 5, clips=9, p=0.04, p_holm=0.12)
    assert (weak.verdict, weak.corrected_away) == ("open", True)
    assert (weak._replace(p_holm=0.04).verdict, weak._replace(p_holm=0.04).corrected_away) == ("ahead", False)


def test_ceilings_are_not_counted_in_holms_adjustment() -> None:
    found = result(
        predicted(clips(0.8)), {"alone": {"ceiling_of": "audio"}}, joint=predicted(clips(0.75)),
        alone=predicted(clips(0.5)),
    )  # fmt: skip
    _, joint, alone = (c.ahead for c in found.methods)
    assert joint is not None
    assert alone is not None
    assert joint.p_holm == joint.p
    assert alone.p is not None
    assert alone.p_holm is None


def test_methods_without_a_replicate_are_named_and_not_compared() -> None:
    made = study(joint={}, other={})
    found = compare(
        made, {"remix": seeds(0.8, 0.81), "joint": seeds(0.7, 0.72), "other": seeds()}, {}, ["other-0: NaN"]
    )
    assert [c.name for c in found.methods] == ["remix", "joint"]
    assert found.sentence.endswith(" Not compared, because they have no complete replicate: other.")
    assert "Not all 3 replicates have ended: remix 2, joint 2. Rerun the study." in found.sentence
    assert found.failures == ("other-0: NaN",)
    lone = compare(made, {"joint": seeds(0.7, 0.72)}, {}, [])
    assert [c.ahead for c in lone.methods] == [None]
    assert lone.sentence == (
        "remix has no complete replicate yet, so no method can be compared with it.\n\nNot all 3 replicates have "
        "ended: joint 2. Rerun the study. Not compared, because they have no complete replicate: remix, other."
    )
    assert compare(made, {"remix": seeds(0.7)}, {}, []).sentence.startswith("No method can be compared with remix yet.")


def test_a_study_without_any_replicate_raises_the_reasons() -> None:
    with pytest.raises(StudyError, match=r"none has a complete replicate \(joint-0: NaN\)"):
        compare(study(joint={}), {"remix": seeds(), "joint": seeds()}, {}, ["joint-0: NaN"])


# --- from the ledger -------------------------------------------------------------------------------------------------


def trial(number: int, value: float, **changes: Any) -> TrialRecord:
    known: dict[str, Any] = {
        "method": "remix", "number": number, "state": "complete", "values": (value,), "params": {"lr": value},
        "reason": None, "cause": None, "retried": False, "seconds": 1.0, "started": None, "ended": None, "folders": (),
        "seed_values": (value,), "intermediate": {},
    }  # fmt: skip
    return TrialRecord(**(known | changes))


def replicate(number: int, folder: Path, **changes: Any) -> ReplicateRecord:
    known: dict[str, Any] = {
        "method": "remix", "stage": "replicate", "number": number, "state": "complete", "params": {"lr": 0.9},
        "folder": str(folder), "seconds": 1.0, "reason": None, "cause": None,
    }  # fmt: skip
    return ReplicateRecord(**(known | changes))


def test_the_result_is_of_replicates_of_the_chosen_hyperparameters(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(5)]
    for n, folder in enumerate(folders[:4]):
        folder.mkdir()
        (folder / "result.json").write_text(f'{{"test/accuracy": 0.{n + 1}}}')
    failed = {"state": "failed", "values": (), "reason": "NaN"}
    trials = (trial(0, 0.5), trial(1, 0.9), trial(2, 0.0, **failed), trial(3, 0.0, **failed, retried=True))
    replicates = (
        replicate(1, folders[1]),
        replicate(0, folders[0]),
        replicate(2, folders[2], params={"lr": 0.5}),  # of hyperparameters that were chosen earlier
        replicate(3, folders[3], stage="final"),
        replicate(4, folders[4]),  # its folder was removed
        replicate(5, folders[3], state="failed", reason="killed"),
        replicate(6, folders[3], state="running"),
    )
    found = result_of(Ledger(study(), tmp_path, {"remix": trials}, {"remix": replicates}))
    assert found is not None
    (remix,) = found.methods
    assert {n: s["test/accuracy"] for n, s in remix.seeds.items()} == {0: 0.1, 1: 0.2}
    assert remix.params == {"lr": 0.9}
    assert remix.failed == (5,)
    assert "Replicates failed: 1 of remix" in found.sentence or found.sentence.startswith("remix is the only method")
    assert found.failures == (
        "remix-search-2: NaN",
        f"remix-replicate-4: was complete, but {folders[4]} no longer has a result",
        "remix-replicate-5: killed",
    )


def test_there_is_no_result_before_the_first_replicate(tmp_path: Path) -> None:
    assert result_of(Ledger(study(), tmp_path, {}, {})) is None
    assert result_of(Ledger(study(), tmp_path, {"remix": (trial(0, 0.5),)}, {"remix": ()})) is None


def test_results_are_read_without_torch() -> None:
    script = "import sys, remix_study.study.results; assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- combinations ----------------------------------------------------------------------------------------------------


def combined(**accuracies: float) -> StudyResult:
    """Results of remix (the reference), ogm_ge, both, and both with permuted assignments, at these accuracies."""
    permuted = {"name": "remix", "with": ["ogm_ge"], "filter": {"rule": "permuted"}}
    methods: dict[str, dict[str, Any]] = {
        "remix": {"set": {"method": {"name": "remix"}}},
        "alone": {"set": {"method": {"name": "ogm_ge"}}},
        "both": {"set": {"method": {"name": "remix", "with": ["ogm_ge"]}}},
        "control": {"set": {"method": permuted}, "control_of": "choosing"},
    }
    made = study(**{name: methods[name] for name in ("remix", *accuracies)})
    made = made.model_copy(update={"base": {"corpus": "c"}, "replicates": 6})
    everything = {name: predicted(clips(accuracy, seed=n)) for n, (name, accuracy) in enumerate(accuracies.items())}
    return compare(made, {"remix": predicted(clips(0.7, seed=9)), **everything}, {}, [])


def test_what_a_combination_adds_to_each_part_is_logged() -> None:
    found = combined(alone=0.5, both=0.9, control=0.8)
    (each,) = found.combinations
    logged = combination_metrics(found)
    for part in (*each.parts, *each.controls):
        of = f"both/{part.name}"
        shown = [logged[f"minus_part_{what}/{of}"] for what in ("points", "points_low", "points_high", "p_holm")]
        assert shown == [part.ahead.mean, part.ahead.low, part.ahead.high, part.ahead.p_holm]
    assert len(logged) == 4 * 3


@pytest.mark.parametrize(
    ("both", "alone", "said"),
    [
        (0.9, 0.5, r"both adds to remix \(\+.*\) and alone \(\+"),
        (0.9, 0.9, r"both adds to remix \(.*, but there is no evidence that it adds anything to alone \("),
        (0.7, 0.9, r"both loses to alone \(-.*, but there is no evidence that it adds anything to remix \("),
        (0.7, 0.7, r"there is no evidence that both adds anything to remix \(.*\) and alone \("),
        (0.8, 0.9, r"both adds to remix \(.*, but it loses to alone \(-"),
    ],
)
def test_the_sentence_says_whether_a_combination_adds_something_to_its_parts(
    both: float, alone: float, said: str
) -> None:
    found = combined(alone=alone, both=both)
    (combination,) = found.combinations
    assert [(part.name, part.lacks) for part in combination.parts] == [("remix", "ogm_ge"), ("alone", "remix")]
    (sentence,) = [each for each in re.findall(r"Combinations: [^;]*?\.(?= |$)", found.sentence) if each]
    assert re.search(said, sentence), sentence


def test_combinations_are_adjusted_with_all_planned_comparisons() -> None:
    found = combined(alone=0.68, both=0.74, control=0.69)
    assert found.comparisons == 5  # with remix: 3; both with alone, and with its control
    (combination,) = found.combinations
    (of_remix, of_alone), (control,) = combination.parts, combination.controls
    ahead = {c.name: c.ahead for c in found.methods if c.ahead is not None}
    each = [ahead["alone"], ahead["both"], ahead["control"], of_alone.ahead, control.ahead]
    assert [a.p_holm for a in each] == pytest.approx(holm([a.p if a.p is not None else 1.0 for a in each]))
    turned = of_remix.ahead
    assert (turned.mean, turned.low, turned.high) == pytest.approx(
        (-ahead["both"].mean, -ahead["both"].high, -ahead["both"].low)
    )
    assert (turned.p_holm, turned.sign_flip) == (ahead["both"].p_holm, ahead["both"].sign_flip)


def test_a_control_leads_to_a_conclusion_about_its_own_method_only() -> None:
    found = combined(alone=0.68, both=0.9, control=0.5)
    about_remix, _, controls = found.sentence.partition("Controls: ")
    assert "choosing" not in about_remix
    assert re.fullmatch(r"both beats control by .* points \(.*\), so choosing helps\.", controls)


def test_missing_parts_are_left_out_and_few_seeds_have_no_verdict() -> None:
    alone = combined(both=0.9)
    assert [part.name for part in alone.combinations[0].parts] == ["remix"]
    few = combined(alone=0.7, both=0.9)
    parts = tuple(p._replace(ahead=p.ahead._replace(seeds=3)) for p in few.combinations[0].parts)
    few = few._replace(combinations=(few.combinations[0]._replace(parts=parts),))
    assert combinations(few)[0].startswith("Combinations: no verdict on whether both adds anything to remix (")
    assert judgement(few.combinations[0]) == "no verdict"


def test_many_comparisons_are_told_in_short() -> None:
    names = [f"m{n}" for n in range(8)]
    found = result(predicted(clips(0.8)), None, far=predicted(clips(0.5)), **{n: predicted(clips(0.8)) for n in names})
    assert "95 % interval" not in found.sentence
    said = "remix beats far (+31.0 points); no significant difference between remix and m0 (+0.0 points), m1"
    assert said in found.sentence
    assert headline(found) == "remix: ahead of far; no significant difference from 8 methods"
    one = combined(alone=0.5, both=0.9).combinations[0]
    many = [one._replace(name=f"c{n}") for n in range(2)]
    level = tuple(p._replace(ahead=ahead_of(found, "m0")) for p in one.parts)
    control = level[0]._replace(name="c", lacks="choosing samples")
    open_ones = [one._replace(name=name, parts=level, controls=(control,)) for name in ("v", "w")]
    whole, controls = combinations(found._replace(combinations=(*many, *open_ones)))
    parts = ", ".join(f"{part.name} {part.ahead.mean:+.1f} points" for part in one.parts)
    assert whole == (
        f"Of 4 combinations, better than each part: c0 ({parts}) and c1 ({parts}); no evidence of adding anything: v "
        "and w."
    )
    assert controls == "Controls: no evidence that choosing samples helps v (+0.0 points) and w (+0.0 points)."


def test_of_very_many_methods_those_without_a_clear_difference_are_counted() -> None:
    names = [f"m{n}" for n in range(13)]
    found = result(predicted(clips(0.8)), None, far=predicted(clips(0.5)), **{n: predicted(clips(0.8)) for n in names})
    said = (
        "remix beats far (+31.0 points); no significant difference between remix and 13 methods (+0.0 to +0.0 points)"
    )
    assert said in found.sentence
    behind = ahead_of(result(predicted(clips(0.5)), None, near=predicted(clips(0.8))), "near")
    differences = (ahead_of(found, "far"), behind, behind, behind, ahead_of(found, "m0"))
    controlled = tuple(
        Combination(f"c{n}", (), (Part("p", "choosing samples", each),)) for n, each in enumerate(differences)
    )
    (controls,) = combinations(found._replace(combinations=controlled))
    assert controls == (
        "Controls: choosing samples helps c0 (+31.0 points); choosing samples hurts c1 (-31.0 points), c2 (-31.0 "
        "points) and c3 (-31.0 points); no evidence that choosing samples helps c4 (+0.0 points)."
    )
