from typing import Any

import numpy as np
import pytest
from scipy import stats

from remix_study.config import StudyConfig
from remix_study.errors import StudyError
from remix_study.metrics import sufficiency_gap
from remix_study.study.results import StudyResult, compare, headline


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


def seeds(*accuracies: float, **others: float) -> dict[int, dict[str, float]]:
    return {n: {"test/accuracy": a, **others} for n, a in enumerate(accuracies)}


def result(
    remix: dict[int, dict[str, float]], methods: dict[str, dict[str, Any]] | None = None, **replicates: Any
) -> StudyResult:
    made = study(**{name: (methods or {}).get(name, {}) for name in replicates})
    everything = {"remix": remix, **replicates}
    return compare(made, everything, {name: {"lr": 1} for name in everything}, [])


def test_differences_are_paired_seed_by_seed() -> None:
    """By hand: differences 4, 2, 6 points; mean 4, deviation 2, half width t(0.975, 2) 2 / sqrt 3 = 4.968."""
    found = result(seeds(0.84, 0.82, 0.76), joint=seeds(0.80, 0.80, 0.70))
    reference, joint = found.contenders
    assert reference.ahead is None
    ahead = joint.ahead
    assert ahead is not None
    assert [ahead.mean, ahead.std, ahead.wins, ahead.seeds] == pytest.approx([4, 2, 3, 3])
    assert ahead.low == pytest.approx(4 - 4.9683, abs=1e-3)
    assert ahead.high == pytest.approx(4 + 4.9683, abs=1e-3)
    assert ahead.verdict == "open"  # three wins of three, and yet not shown
    low, high = stats.ttest_1samp([4.0, 2.0, 6.0], 0).confidence_interval(0.95)
    assert [ahead.low, ahead.high] == pytest.approx([low, high])


def test_only_seeds_that_both_have_are_compared() -> None:
    remix = {0: {"test/accuracy": 0.9}, 2: {"test/accuracy": 0.8}, 3: {"test/accuracy": 0.1}}
    ahead = (
        result(remix, joint={0: {"test/accuracy": 0.8}, 1: {"test/accuracy": 0.0}, 2: {"test/accuracy": 0.7}})
        .contenders[1]
        .ahead
    )
    assert ahead is not None
    assert [ahead.mean, ahead.seeds, ahead.wins] == pytest.approx([10, 2, 2])


def test_one_seed_or_none_leaves_the_question_open() -> None:
    ahead = result(seeds(0.9), joint=seeds(0.1)).contenders[1].ahead
    assert ahead is not None
    assert (ahead.verdict, ahead.std, ahead.low, ahead.high) == ("open", 0.0, -np.inf, np.inf)
    ahead = result({0: {"test/accuracy": 0.9}}, joint={1: {"test/accuracy": 0.1}}).contenders[1].ahead
    assert ahead is not None
    assert (ahead.verdict, ahead.seeds) == ("open", 0)


@pytest.mark.parametrize(
    ("other", "verdict", "sentence", "title"),
    [
        (
            (0.70, 0.71, 0.69), "ahead",
            "remix beats joint by 10.0 points (3/3 seeds), so choosing does help", "remix: ahead of joint",
        ),
        (
            (0.90, 0.91, 0.89), "behind",
            "remix loses to joint by 10.0 points (0/3 seeds), so choosing does harm here", "remix: behind joint",
        ),
        (
            (0.79, 0.83, 0.78), "open",
            "remix and joint cannot be told apart (+0.0 points, 2/3 seeds), so nothing here shows that choosing helps",
            "remix: level with joint",
        ),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_numbers_say_and_no_more(
    other: tuple[float, ...], verdict: str, sentence: str, title: str
) -> None:
    found = result(seeds(0.80, 0.81, 0.79), {"joint": {"control_of": "choosing"}}, joint=seeds(*other))
    ahead = found.contenders[1].ahead
    assert ahead is not None
    assert ahead.verdict == verdict
    assert found.sentence == f"Over 3 seeds, on a test split that chose nothing: {sentence}."
    assert headline(found) == title


def test_what_is_no_control_is_only_beaten() -> None:
    found = result(
        seeds(0.80, 0.81, 0.79),
        joint=seeds(0.70, 0.71, 0.69),
        other=seeds(0.90, 0.91, 0.89),
        same=seeds(0.8, 0.81, 0.79),
    )
    assert found.sentence == (
        "Over 3 seeds, on a test split that chose nothing: remix beats joint by 10.0 points (3/3 seeds); "
        "remix loses to other by 10.0 points (0/3 seeds); "
        "remix and same cannot be told apart (+0.0 points, 0/3 seeds)."
    )
    assert headline(found) == "remix: ahead of joint; level with same; behind other"


def test_ceilings_bound_sufficiency_and_are_no_rivals() -> None:
    alone = {"test/accuracy_uni/audio": 0.6, "probe/accuracy/audio": 0.45}
    found = result(
        seeds(0.8, 0.8, **alone), {"audio_alone": {"ceiling_of": "audio"}},
        joint=seeds(0.7, 0.7, **{"probe/accuracy/audio": 0.3}),
        audio_alone=seeds(0.7, 0.8, **{"probe/accuracy/audio": 0.9, "test/accuracy_uni/audio": 0.75}),
    )  # fmt: skip
    assert set(found.ceilings) == {"audio"}
    assert found.ceilings["audio"]._asdict() == pytest.approx({"head": 0.75, "probe": 0.9})
    assert [c.name for c in found.rivals] == ["remix", "joint"]
    assert "audio_alone" not in found.sentence
    remix, joint, _ = found.contenders
    assert remix.seeds[0]["sufficiency/ratio/audio"] == pytest.approx(0.6 / 0.75)
    assert remix.seeds[0]["sufficiency/gap/audio"] == pytest.approx(sufficiency_gap(0.6, 0.75))
    assert remix.seeds[0]["sufficiency/probe_ratio/audio"] == pytest.approx(0.5)
    # Without a trained head only the probe speaks.
    assert {k for k in joint.seeds[0] if k.startswith("sufficiency")} == {"sufficiency/probe_ratio/audio"}


def test_spread_is_of_the_seeds_that_have_the_metric() -> None:
    (remix,) = result(seeds(0.8, 0.6)).contenders
    spread = remix.spread("test/accuracy", 100)
    assert spread is not None
    assert list(spread) == pytest.approx([70, 200**0.5])
    assert remix.spread("absent") is None
    (one,) = result(seeds(0.8)).contenders
    assert one.spread("test/accuracy") == (0.8, 0.0)


def test_a_method_without_a_replicate_is_refused_with_the_reasons() -> None:
    with pytest.raises(StudyError, match="each method needs a complete replicate, but joint has none: joint-0: NaN"):
        compare(study(joint={}), {"remix": seeds(0.5), "joint": {}}, {}, ["joint-0: NaN"])
