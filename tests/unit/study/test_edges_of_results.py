"""Comparisons at their edges: exact ties, a missing method, other clips, few seeds, several parts"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from remix_study.config.study import StudyConfig
from remix_study.launch.predictions import Correct
from remix_study.statistics import Estimate
from remix_study.study.comparison import Combination, Part
from remix_study.study.ledger import TrialRecord, choose
from remix_study.study.outcomes import Paired, Replicated, Term, contrast
from remix_study.study.results import compare
from remix_study.study.sentences import judgement, p_text
from remix_study.study.study_tracker import late_metrics

CLIPS, FUSED, LATE = 250, "test/accuracy", "test/accuracy_late_sum"
PERMUTED = {"name": "remix", "filter": {"rule": "permuted"}, "with": ["ogm_ge"]}


def study(methods: dict[str, Any], **changes: Any) -> StudyConfig:
    content = {"name": "s", "question": "q", "base": {"corpus": "c", "epochs": 20}, "reference": "remix", "trials": 1,
               "replicates": 6, "methods": methods}  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def trained(**method: Any) -> dict[str, Any]:
    return {"set": {"method": method}}


def replicates(correct: int, seeds: Iterable[int] = range(6), clips: str = "clip") -> Replicated:
    """Replicates that predict the first `correct` clips correctly in all views, one more with each seed."""
    right = {n: np.arange(CLIPS) < correct + n for n in seeds}
    ids = tuple(f"{clips} {c}" for c in range(CLIPS))
    return Replicated(
        {n: {FUSED: float(each.mean()), LATE: float(each.mean())} for n, each in right.items()},
        {n: Correct(ids, None, {"fused": each, "late_sum": each}) for n, each in right.items()},
    )


def test_a_tie_of_four_accuracies_is_no_win() -> None:
    """0.8 - 0.7 - 0.7 + 0.6 is not 0 in floating point."""
    better = Replicated({n: {FUSED: 0.8, LATE: 0.7} for n in range(6)}, {})
    worse = Replicated({n: {FUSED: 0.7, LATE: 0.6} for n in range(6)}, {})
    found = contrast([Term(1, better, FUSED), Term(-1, better, LATE), Term(-1, worse, FUSED), Term(1, worse, LATE)])
    assert (found.mean, found.wins) == (0.0, 0)


def trial(number: int, accuracy: float, imbalance: float) -> TrialRecord:
    return TrialRecord(
        method="remix", number=number, state="complete", values=(accuracy, imbalance), params={}, reason=None,
        cause=None, retried=False, seconds=10.0, started=None, ended=None, folders=(), seed_values=(), intermediate={},
    )  # fmt: skip


def test_a_trial_exactly_at_the_tolerance_may_be_chosen() -> None:
    two = [FUSED.replace("test/", "best/val_"), {"metric": "best/balance_imbalance", "direction": "minimize"}]
    made = study({"joint": {}, "remix": {}}, objective=two, tolerance=0.1)
    chosen = choose(made, (trial(0, 0.8, 0.3), trial(1, 0.7, 0.1)))
    assert chosen is not None
    assert chosen.number == 1


def test_a_control_of_a_method_that_failed_says_nothing_about_the_reference() -> None:
    methods = {
        "remix": trained(name="remix"),
        "remix_ogm_ge": trained(name="remix", **{"with": ["ogm_ge"]}),
        "permuted": {**trained(**PERMUTED), "control_of": "the choice of samples"},
    }
    every = {"remix": replicates(190), "remix_ogm_ge": replicates(180), "permuted": replicates(120)}
    for failed in ({}, {"remix_ogm_ge": Replicated({}, {}, tuple(range(6)))}):
        sentence = compare(study(methods), every | failed, {name: {} for name in methods}, []).sentence
        (after,) = re.findall(r"\bremix beats permuted by [^)]*\)(,?)", sentence)
        assert after == ""


def test_replicates_of_other_clips_have_predictions() -> None:
    methods = {"joint": trained(name="joint"), "remix": trained(name="remix")}
    other = replicates(150, clips="other").correct
    joint = replicates(150)
    joint = joint._replace(correct={**joint.correct, 2: other[2]})
    found = compare(study(methods), {"joint": joint, "remix": replicates(190)}, {name: {} for name in methods}, [])
    assert found.other_clips == ("joint 2",)
    assert found.without_predictions == ()
    assert "missing or damaged" not in found.sentence


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.04996, "p = 0.04996"),
        (0.0503, "p = 0.050"),
        (0.05, "p = 0.050"),
        (0.049, "p = 0.049"),
        (0.0004, "p < 0.001"),
        (0.0996, "p = 0.100"),
        (0.3, "p = 0.30"),
    ],
)
def test_a_p_value_shows_on_which_side_of_5_percent_it_is(p: float, said: str) -> None:
    assert p_text(p) == said


def part(name: str, verdict: str) -> Part:
    low, high = {"ahead": (1.0, 5.0), "open": (-1.0, 2.0), "unknown": (-np.inf, np.inf)}[verdict]
    p = {"ahead": 0.02, "open": 0.5}.get(verdict)
    return Part(name, "it", Paired(3.0, 1.0, low, high, 5, 0 if verdict == "unknown" else 6, CLIPS, None, p, p))


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("ahead", "ahead", "open"), "better than 2 of 3 parts"),
        (("ahead", "open", "open"), "better than one part only"),
        (("ahead", "ahead", "ahead"), "better than each part"),
        (("open", "open", "open"), "no evidence of adding anything"),
        (("ahead", "unknown", "open"), "better than 1 of 3 parts, no verdict on 1"),
        (("unknown", "unknown", "unknown"), "no verdict"),
    ],
)
def test_a_combination_of_three_is_told_by_the_number_of_parts_that_it_beats(
    verdicts: tuple[str, ...], said: str
) -> None:
    assert judgement(Combination("all", tuple(part(f"p{n}", each) for n, each in enumerate(verdicts)))) == said


def test_an_interval_of_an_accuracy_stays_within_0_and_100_percent() -> None:
    wide = Estimate(0.957, 0.462, 1.452, None, 1.0, True)
    assert wide.as_fraction()[:3] == (0.957, 0.462, 1.0)
    assert Estimate(0.9, -np.inf, np.inf, None, 0.0, False).as_fraction().high == np.inf
    methods = {"joint": trained(name="joint"), "remix": trained(name="remix")}
    few = {"joint": replicates(150, range(2)), "remix": replicates(190, range(2))}
    few["remix"] = Replicated({n: {FUSED: each, LATE: each} for n, each in enumerate((0.76, 1.0))}, {})
    found = late_metrics(compare(study(methods), few, {name: {} for name in methods}, []))
    assert found["test_accuracy_late_sum_high/remix"] == 1.0
