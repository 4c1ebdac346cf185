"""Parts of the gain of a method over joint training"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.config.study import StudyConfig
from remix_study.launch.predictions import Correct
from remix_study.report.tables import gain_table, readouts_table
from remix_study.study.combinations import configs_of
from remix_study.study.comparison import Gain, StudyResult
from remix_study.study.gain import CALIBRATED, FUSED, LATE_SUM, baseline_of
from remix_study.study.outcomes import Replicated
from remix_study.study.results import compare
from remix_study.study.study_tracker import late_metrics

VIEWS = {"fused": FUSED, "late_sum": LATE_SUM, "late_calibrated": CALIBRATED}
CLIPS, SEEDS = 150, 6
FIXED = {"kind": "fixed", "parts": {"audio": 0.3, "video": 0.7}}
EVEN = {"kind": "fixed", "parts": {"audio": 0.5, "video": 0.5}}


def remix(rule: str = "argmin", **options: Any) -> dict[str, Any]:
    return {"set": {"method": {"name": "remix", "filter": {"rule": rule}, **options}}}


JOINT, HEADS = {"set": {"method": {"name": "joint"}}}, {"set": {"method": {"name": "joint_unimodal"}}}
RANDOM = {**remix("random"), "control_of": "the scores"}
PERMUTED = {**remix("permuted"), "control_of": "which samples"}


def study(reference: str = "remix", **methods: dict[str, Any]) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "s", "question": "q?", "base": {"corpus": "c", "epochs": 20}, "methods": methods,
            "reference": reference, "trials": 1, "replicates": SEEDS,
        }
    )  # fmt: skip


def replicates(seed: int, *views: str) -> Replicated:
    """Replicates whose views predict clips independently, each with another accuracy."""
    draw = np.random.default_rng(seed)
    summaries, correct = {}, {}
    for n in range(SEEDS):
        right: dict[str, NDArray[np.bool_]] = {view: draw.random(CLIPS) < draw.uniform(0.3, 0.9) for view in views}
        summaries[n] = {VIEWS[view]: float(right_N.mean()) for view, right_N in right.items()}
        correct[n] = Correct(tuple(f"clip {c}" for c in range(CLIPS)), None, right)
    return Replicated(summaries, correct)


def result(config: StudyConfig, views: dict[str, tuple[str, ...]] | None = None) -> StudyResult:
    given = views or {}
    everything = {name: replicates(n, *given.get(name, tuple(VIEWS))) for n, name in enumerate(config.methods)}
    return compare(config, everything, {name: {} for name in config.methods}, [])


def gain(config: StudyConfig, views: dict[str, tuple[str, ...]] | None = None, of: str = "remix") -> Gain:
    return next(each for each in result(config, views).gains if each.method == of)


def parts(found: Gain) -> dict[str, str]:
    return {part.name: part.measured for part in found.parts}


def test_the_parts_sum_to_the_gain_and_are_adjusted_for_all_of_them() -> None:
    found = result(study(joint=JOINT, heads=HEADS, remix=remix(), random=RANDOM, permuted=PERMUTED))
    (only,) = found.gains
    assert (only.method, only.baseline) == ("remix", "heads")
    assert parts(only) == {
        "one modality per sample": "random - heads, calibrated late product",
        "share and course of the share": "permuted - random, calibrated late product",
        "choice of samples": "remix - permuted, calibrated late product",
        "calibration": "late sum - calibrated late product, of remix minus of heads",
        "fusion": "fused head - late sum, of remix minus of heads",
    }
    assert sum(part.ahead.mean for part in only.parts) == pytest.approx(only.whole.mean)
    assert only.missing == ("share: a method with `random_at_mean_share_of: remix`",)
    ps = [part.ahead.p for part in only.parts if part.ahead.p is not None]
    lowest = min(range(len(ps)), key=ps.__getitem__)
    assert only.parts[lowest].ahead.p_holm == pytest.approx(min(1, len(ps) * ps[lowest]))
    logged = late_metrics(found)
    assert logged["gain_points/remix/choice_of_samples"] == only.parts[2].ahead.mean
    assert logged["gain_p_holm/remix/fusion"] == only.parts[4].ahead.p_holm
    assert "test_accuracy_late_calibrated_low/random" in logged
    rows = gain_table(found).rows
    assert [row[1] for row in rows] == ["whole gain", *parts(only)]
    told = found.sentence[found.sentence.index("Of the ") :]
    assert told.startswith(
        f"Of the {only.whole.mean:+.1f} points of remix over heads, with 95 % intervals: one modality"
    )
    assert "Not measured separately: share." in told


@pytest.mark.parametrize(
    ("method", "controls", "expected"),
    [
        (remix(), {}, ["training"]),
        (remix(), {"random": RANDOM}, ["one modality per sample", "share, course of the share and choice of samples"]),
        (remix(share=FIXED), {"random": RANDOM}, ["one modality per sample", "share and choice of samples"]),
        (remix(share=FIXED), {"fixed": remix("random", share=FIXED)},
         ["one modality per sample and share", "choice of samples"]),
        (remix(share=EVEN), {"random": RANDOM}, ["one modality per sample", "choice of samples"]),
        (remix("random"), {}, ["one modality per sample"]),
        (remix("random", share=FIXED), {"even": RANDOM}, ["one modality per sample", "share"]),
        (remix("random", share={"kind": "progress"}), {"even": RANDOM},
         ["one modality per sample", "share and course of the share"]),
        (remix(), {"random": RANDOM, "mean": {"random_at_mean_share_of": "remix"}, "permuted": PERMUTED},
         ["one modality per sample", "share", "course of the share", "choice of samples"]),
        (remix(joint_share=0.2), {"each": {"random_at_share_of": "remix"}, "permuted": PERMUTED},
         ["one modality per sample, share and course of the share", "choice of samples"]),
        # A filter that lets samples rest does not have the shares of its `share`.
        ({"set": {"method": {"name": "remix", "filter": {"rule": "quantile", "fraction": 0.1, "otherwise": "rest"},
                             "share": EVEN}}}, {"random": RANDOM, "mean": {"random_at_mean_share_of": "remix"}},
         ["one modality per sample", "share", "course of the share and choice of samples"]),
        (remix(joint_share=0.2), {"random": remix("random", joint_share=0.2)},
         ["one modality per sample", "share, course of the share and choice of samples"]),
        # Not the same shares, or not the same settings: no step of the chain.
        (remix(joint_share=0.2), {"random": RANDOM}, ["training"]),
        (remix(share=FIXED), {"permuted": PERMUTED}, ["training"]),
        (remix(warmup=3, share=FIXED), {"r": RANDOM}, ["training"]),
    ],
)  # fmt: skip
def test_a_study_splits_what_its_methods_allow(
    method: dict[str, Any], controls: dict[str, Any], expected: list[str]
) -> None:
    found = gain(study(heads=HEADS, remix=method, **controls))
    assert [part.name for part in found.parts[:-2]] == expected
    assert found.parts[len(expected) - 1].measured.startswith("remix - ")


@pytest.mark.parametrize(
    ("views", "expected", "missing"),
    [
        ({}, ["calibration", "fusion"], ""),
        ({"heads": ("fused", "late_calibrated")}, ["fusion and calibration"], ""),
        ({"heads": ("fused", "late_sum")}, ["fusion"], "calibration: a calibrated late product"),
        ({"heads": ("fused",)}, [], "fusion and calibration: heads has no predictions from unimodal heads"),
    ],
)
def test_fusion_and_calibration_are_split_as_far_as_there_are_predictions(
    views: dict[str, tuple[str, ...]], expected: list[str], missing: str
) -> None:
    found = gain(study(heads=HEADS, remix=remix()), views)
    assert [part.name for part in found.parts[1:]] == expected
    assert sum(part.ahead.mean for part in found.parts) == pytest.approx(found.whole.mean)
    assert found.missing[-1].startswith(missing)


def test_the_baseline_is_the_joint_training_that_differs_least() -> None:
    other = {"model.fusion": "sum"}

    def varied(method: dict[str, Any]) -> dict[str, Any]:
        return {"set": {**method["set"], **other}}

    added = {"set": {"method": {"name": "remix", "with": ["ogm_ge"]}}}
    found = study(
        joint=JOINT, remix=remix(), sum_remix=varied(remix()), sum_joint=varied(JOINT), both=added,
        ogm_ge={"set": {"method": {"name": "ogm_ge"}}},
    )  # fmt: skip
    configs = configs_of(found)
    wanted = {"remix": "joint", "sum_remix": "sum_joint", "both": "ogm_ge", "ogm_ge": "joint", "joint": None}
    assert {name: baseline_of(found, configs, name) for name in wanted} == wanted


def test_a_reference_that_assigns_no_samples_has_one_part_of_training() -> None:
    config = study("ogm_ge", joint=JOINT, ogm_ge={"set": {"method": {"name": "ogm_ge"}}}, remix=remix())
    found = result(config)
    assert {each.method: each.baseline for each in found.gains} == {"ogm_ge": "joint", "remix": "joint"}
    assert [part.name for part in found.gains[0].parts] == ["training", "calibration", "fusion"]
    assert "of ogm_ge over joint, with 95 % intervals: training" in found.sentence


def test_each_method_is_told_what_its_other_predictions_gain() -> None:
    found = result(study(joint=JOINT, remix=remix()), {"joint": ("fused",)})
    assert [(each.method, each.step) for each in found.readouts] == [
        ("remix", "late sum - fused head"), ("remix", "calibrated - late sum"),
    ]  # fmt: skip
    remix_ = next(c for c in found.methods if c.name == "remix")
    difference = 100 * (remix_.values(LATE_SUM) - remix_.values(FUSED)).mean()
    assert found.readouts[0].ahead.mean == pytest.approx(difference)
    assert len(readouts_table(found).rows) == 2
