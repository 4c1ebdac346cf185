import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError
from remix_study.metrics import sufficiency_gap
from remix_study.study.ledger import Ledger, ReplicateRecord, TrialRecord
from remix_study.study.results import Paired, StudyResult, compare, headline, holm, result_of


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
    """Worked example: differences 4, 2, 6 points; mean 4, deviation 2, half width t(0.975, 2) 2 / sqrt 3 = 4.968."""
    found = result(seeds(0.84, 0.82, 0.76), joint=seeds(0.80, 0.80, 0.70))
    reference, joint = found.methods
    assert reference.ahead is None
    ahead = joint.ahead
    assert ahead is not None
    assert [ahead.mean, ahead.std, ahead.wins, ahead.seeds] == pytest.approx([4, 2, 3, 3])
    assert ahead.low == pytest.approx(4 - 4.9683, abs=1e-3)
    assert ahead.high == pytest.approx(4 + 4.9683, abs=1e-3)
    assert ahead.verdict == "open"  # although the reference wins in all three seeds
    test = stats.ttest_1samp([4.0, 2.0, 6.0], 0)
    low, high = test.confidence_interval(0.95)
    assert [ahead.low, ahead.high] == pytest.approx([low, high])
    assert [ahead.p, ahead.p_holm] == pytest.approx([test.pvalue] * 2)  # one comparison: no adjustment


@pytest.mark.parametrize(("number", "verdict"), [(2, "open"), (3, "open"), (5, "open"), (6, "ahead"), (8, "ahead")])
def test_equal_differences_in_few_seeds_are_not_significant(number: int, verdict: str) -> None:
    """On 80 clips, three seeds can differ by two clips each. A t-test would give p = 0."""
    reference = [(68 + n % 3) / 80 for n in range(number)]
    found = result(seeds(*reference), joint=seeds(*(value - 2 / 80 for value in reference)))
    ahead = found.methods[1].ahead
    assert ahead is not None
    assert ahead.all_equal
    assert ahead.p == pytest.approx(stats.binomtest(number, number).pvalue)
    assert (ahead.verdict, ahead.wins) == (verdict, number)
    assert ("beats joint by 2.5 points" in found.sentence) == (verdict == "ahead")
    assert f"the same difference in every seed, so no interval, {number}/{number} seeds" in found.sentence
    assert "inf" not in found.sentence


def test_methods_that_never_differ_are_not_significantly_different() -> None:
    ahead = result(seeds(*[0.8] * 7), joint=seeds(*[0.8] * 7)).methods[1].ahead
    assert ahead is not None
    assert (ahead.verdict, ahead.p, ahead.mean) == ("open", 1.0, 0.0)


def test_only_seeds_that_both_methods_have_are_compared() -> None:
    remix = {0: {"test/accuracy": 0.9}, 2: {"test/accuracy": 0.8}, 3: {"test/accuracy": 0.1}}
    ahead = (
        result(remix, joint={0: {"test/accuracy": 0.8}, 1: {"test/accuracy": 0.0}, 2: {"test/accuracy": 0.7}})
        .methods[1]
        .ahead
    )
    assert ahead is not None
    assert [ahead.mean, ahead.seeds, ahead.wins] == pytest.approx([10, 2, 2])


def test_fewer_than_two_seeds_are_not_compared() -> None:
    ahead = result(seeds(0.9), joint=seeds(0.1)).methods[1].ahead
    assert ahead is not None
    assert (ahead.verdict, ahead.std, ahead.low, ahead.high) == ("open", 0.0, -np.inf, np.inf)
    assert (ahead.p, ahead.p_holm) == (None, None)
    found = result(seeds(0.9), joint=seeds(0.1))
    assert found.sentence.startswith("One seed is too few for a comparison")
    assert headline(found) == "remix: too few seeds to compare"
    ahead = result({0: {"test/accuracy": 0.9}}, joint={1: {"test/accuracy": 0.1}}).methods[1].ahead
    assert ahead is not None
    assert (ahead.verdict, ahead.seeds, ahead.p) == ("open", 0, None)


@pytest.mark.parametrize(
    ("other", "verdict", "sentence", "title"),
    [
        (
            (0.701, 0.71, 0.689), "ahead",
            "remix beats joint by 10.0 points (95 % interval +9.8 to +10.2, 3/3 seeds, Holm p < 0.001), so choosing "
            "helps", "remix: ahead of joint",
        ),
        (
            (0.901, 0.91, 0.889), "behind",
            "remix loses to joint by 10.0 points (95 % interval -10.2 to -9.8, 0/3 seeds, Holm p < 0.001), so "
            "choosing hurts here", "remix: behind joint",
        ),
        (
            (0.79, 0.83, 0.78), "open",
            "no significant difference between remix and joint (+0.0 points, 95 % interval -4.3 to +4.3, 2/3 seeds, "
            "Holm p = 1.00), so there is no evidence that choosing helps", "remix: level with joint",
        ),
    ],
)  # fmt: skip
def test_the_sentence_reports_the_verdict_with_its_numbers(
    other: tuple[float, ...], verdict: str, sentence: str, title: str
) -> None:
    found = result(seeds(0.80, 0.81, 0.79), {"joint": {"control_of": "choosing"}}, joint=seeds(*other))
    ahead = found.methods[1].ahead
    assert ahead is not None
    assert ahead.verdict == verdict
    assert found.sentence == f"On the held-out test set (3 seeds): {sentence}."
    assert headline(found) == title


def test_methods_without_control_of_get_no_conclusion() -> None:
    found = result(
        seeds(0.80, 0.81, 0.79),
        joint=seeds(0.701, 0.71, 0.689),
        other=seeds(0.901, 0.91, 0.889),
        same=seeds(0.8, 0.81, 0.79),
    )
    assert found.sentence == (
        "On the held-out test set (3 seeds): "
        "remix beats joint by 10.0 points (95 % interval +9.8 to +10.2, 3/3 seeds, Holm p < 0.001); "
        "remix loses to other by 10.0 points (95 % interval -10.2 to -9.8, 0/3 seeds, Holm p < 0.001); "
        "no significant difference between remix and same (+0.0 points, the same difference in every seed, so no "
        "interval, 0/3 seeds, Holm p = 1.00)."
    )
    assert headline(found) == "remix: ahead of joint; level with same; behind other"


def test_ceilings_bound_sufficiency_and_are_not_compared() -> None:
    alone = {"test/accuracy_uni/audio": 0.6, "probe/accuracy/audio": 0.45}
    found = result(
        seeds(0.8, 0.8, **alone), {"audio_alone": {"ceiling_of": "audio"}},
        joint=seeds(0.7, 0.7, **{"probe/accuracy/audio": 0.3}),
        audio_alone=seeds(0.7, 0.8, **{"probe/accuracy/audio": 0.9, "test/accuracy_uni/audio": 0.75}),
    )  # fmt: skip
    assert set(found.ceilings) == {"audio"}
    assert found.ceilings["audio"]._asdict() == pytest.approx({"head": 0.75, "probe": 0.9})
    assert [c.name for c in found.others] == ["remix", "joint"]
    assert "audio_alone" not in found.sentence
    remix, joint, _ = found.methods
    assert remix.seeds[0]["sufficiency/ratio/audio"] == pytest.approx(0.6 / 0.75)
    assert remix.seeds[0]["sufficiency/gap/audio"] == pytest.approx(sufficiency_gap(0.6, 0.75))
    assert remix.seeds[0]["sufficiency/probe_ratio/audio"] == pytest.approx(0.5)
    # Without a trained head, only the probe has a sufficiency.
    assert {k for k in joint.seeds[0] if k.startswith("sufficiency")} == {"sufficiency/probe_ratio/audio"}


def test_spread_uses_the_seeds_with_the_metric() -> None:
    (remix,) = result(seeds(0.8, 0.6)).methods
    spread = remix.spread("test/accuracy", 100)
    assert spread is not None
    assert list(spread) == pytest.approx([70, 200**0.5])
    assert remix.spread("absent") is None
    (one,) = result(seeds(0.8)).methods
    assert one.spread("test/accuracy") == (0.8, 0.0)


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 2 x 0.03, then 1 x 0.04 may not fall below that
        ([0.5, 0.6], [1.0, 1.0]),
    ],
)
def test_holm_adjusts_step_by_step(given: list[float], adjusted: list[float]) -> None:
    assert holm(given) == pytest.approx(adjusted)


def test_a_difference_that_is_not_significant_after_holm_is_open() -> None:
    close = seeds(0.778, 0.790, 0.769)  # 2.2, 2.0 and 2.1 points behind
    found = result(seeds(0.80, 0.81, 0.79), close=close, wild=seeds(0.2, 0.9, 0.9), wide=seeds(0.9, 0.1, 0.9))
    alone = result(seeds(0.80, 0.81, 0.79), close=close).methods[1].ahead
    ahead = found.methods[1].ahead
    assert alone is not None
    assert ahead is not None
    assert ahead.p is not None
    assert ahead.p_holm == pytest.approx(3 * ahead.p)
    assert (alone.verdict, ahead.verdict) == ("ahead", "ahead")
    weak = Paired(2.0, 1.0, 0.1, 3.9, 3, 3, p=0.04, p_holm=0.12)
    assert (weak.verdict, weak.corrected_away) == ("open", True)
    assert not ahead.corrected_away


def test_ceilings_are_not_counted_in_holms_adjustment() -> None:
    found = result(
        seeds(0.80, 0.82, 0.79), {"alone": {"ceiling_of": "audio"}}, joint=seeds(0.78, 0.79, 0.79),
        alone=seeds(0.5, 0.52, 0.51),
    )  # fmt: skip
    _, joint, alone = (c.ahead for c in found.methods)
    assert joint is not None
    assert alone is not None
    assert joint.p_holm == joint.p
    assert alone.p is not None
    assert alone.p_holm is None


def test_methods_without_a_replicate_are_named_and_not_compared() -> None:
    made = study(joint={}, other={})
    found = compare(made, {"remix": seeds(0.8, 0.81), "joint": seeds(0.7, 0.72), "other": {}}, {}, ["other-0: NaN"])
    assert [c.name for c in found.methods] == ["remix", "joint"]
    assert found.sentence.endswith(" Not compared, because they have no complete replicate: other.")
    assert found.failures == ("other-0: NaN",)
    lone = compare(made, {"joint": seeds(0.7, 0.72)}, {}, [])
    assert [c.ahead for c in lone.methods] == [None]
    assert lone.sentence == (
        "remix has no complete replicate yet, so no method can be compared with it. "
        "Not compared, because they have no complete replicate: remix, other."
    )
    assert compare(made, {"remix": seeds(0.7)}, {}, []).sentence.startswith("No method can be compared with remix yet.")


def test_a_study_without_any_replicate_raises_the_reasons() -> None:
    with pytest.raises(StudyError, match=r"none has a complete replicate \(joint-0: NaN\)"):
        compare(study(joint={}), {"remix": {}, "joint": {}}, {}, ["joint-0: NaN"])


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
