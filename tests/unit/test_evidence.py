"""The studies and tables of benchmarks/evidence.py"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import evidence, evidence_tables
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import dump
from remix_study.datasets.synthetic import RECIPES
from remix_study.launch.predictions import Correct
from remix_study.study.comparison import Gain, GainPart
from remix_study.study.outcomes import FEWEST_SEEDS, Replicated, paired
from remix_study.study.search_space import space_of
from remix_study.study.study_file import read_study


def written(content: object, folder: Path) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(dump(content))
    return read_study(path, {})


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_selection_searches_joint_unimodal_as_hard_as_any_method(recipe: str, tmp_path: Path) -> None:
    study = written(evidence.selection(recipe, Path("corpus")), tmp_path)
    spaces = {name: set(space_of(study, method)) for name, method in study.methods.items() if method.replay is None}
    assert {"optimizer.learning_rate", "loss.label_smoothing", "method.weight"} == spaces["joint_unimodal"]
    assert all(len(space) <= len(spaces["joint_unimodal"]) for space in spaces.values())
    assert study.replicates == 10
    ceilings = {method.ceiling_of for method in study.methods.values()} - {None}
    assert ceilings == {"audio", "video"} | ({"sensor"} if recipe == "three" else set())


def test_the_confirmation_repeats_what_was_chosen_with_other_seeds(tmp_path: Path) -> None:
    content = evidence.selection("muted", Path("corpus"), evidence.LARGE, "resnet18")
    chosen = {
        name: {"optimizer.learning_rate": 1e-3 * (1 + n / 10), "loss.label_smoothing": 0.0}
        for n, name in enumerate(name for name, method in content["methods"].items() if "set" in method)
    }
    chosen["joint_unimodal"]["method.weight"] = 2.5
    study = written(evidence.confirmation(content, chosen, "resnet18"), tmp_path)
    assert study.name == "evidence-muted-resnet18-confirmation"
    assert study.seed != content["seed"]
    assert study.replicates == content["replicates"] == 5
    assert study.trials == study.seeds_per_trial == 1
    assert study.methods["joint_unimodal"].first == [chosen["joint_unimodal"]]
    assert [each.key for each in study.unequal] == ["targets"]


def replicates(accuracy: float, late: float | None = None, calibrated: float | None = None) -> Replicated:
    """Ten seeds of fifty clips."""
    views = {"fused": accuracy, "late_sum": late, "late_calibrated": calibrated}
    summaries, correct = {}, {}
    for number in range(10):
        draw = np.random.default_rng(number)
        right = {view: draw.permutation(50) < 50 * each for view, each in views.items() if each is not None}
        metrics = {
            "fused": "test/accuracy",
            **{view: f"test/accuracy_{view}" for view in ("late_sum", "late_calibrated")},
        }
        summaries[number] = {metrics[view]: float(hit.mean()) for view, hit in right.items()}
        correct[number] = Correct(tuple(map(str, range(50))), None, right)
    return Replicated(summaries, correct)


FOUND = {
    "joint": replicates(0.6, calibrated=0.7),
    "joint_unimodal": replicates(0.8, 0.8, 0.8),
    "random": replicates(0.82, 0.82, 0.82),
    "share_progress": replicates(0.9, 0.9, 0.9),
}


def test_tables_show_every_view_and_negative_differences_too() -> None:
    text = evidence_tables.tables(FOUND)
    rows = {line.split(" | ")[0].strip("| `"): line for line in text.splitlines()[2:9]}
    assert rows["joint"].startswith("| `joint` | 10 | 60.00 (")
    assert rows["joint"].split(" | ")[3] == ""
    after = text.split("Difference from `joint_unimodal`")[1]
    assert "| `joint` | -20.00 (" in after
    assert ", 0/10, p < 0.001" in after
    assert "| `share_progress` | +10.00 (" in after
    assert ", 10/10, p " in after
    assert text.count("Difference from `") == 2


def test_too_few_seeds_have_no_p_value() -> None:
    few = {
        name: Replicated(
            {number: found.summaries[number] for number in range(FEWEST_SEEDS - 1)},
            {number: found.correct[number] for number in range(FEWEST_SEEDS - 1)},
        )
        for name, found in FOUND.items()
    }
    text = evidence_tables.tables(few)
    assert ", 4/4" in text
    assert ", p " not in text


def test_p_values_are_adjusted_for_all_methods_and_views() -> None:
    pairs = evidence_tables.differences(FOUND, "joint_unimodal")
    assert len(pairs) == 8
    smallest = min(pairs.values(), key=lambda pair: pair.p or 1)
    assert smallest.p is not None
    assert smallest.p_holm == pytest.approx(8 * smallest.p)


def test_a_candidate_passes_a_recipe_if_it_is_ahead_of_both_references() -> None:
    text = evidence_tables.candidates({"demo": FOUND, "xor": {**FOUND, "share_progress": replicates(0.9, 0.9, 0.81)}})
    assert "| `share_progress` | 10/10, 10/10 | 10/10, 0/10 | 1 of 2 |" in text
    assert "| `joint` | 0/10, 0/10 | 0/10, 0/10 | 0 of 2 |" in text


def test_the_overview_shows_each_view_once_for_all_recipes() -> None:
    text = evidence_tables.overview({"demo": FOUND, "xor": {name: FOUND[name] for name in ("joint", "joint_unimodal")}})
    fused, late, calibrated = text.split("Test accuracy of the ")[1:]
    assert "| `joint` | 60.0 (-20.0, 0/10) | 60.0 (-20.0, 0/10) |" in fused
    assert "| `joint_unimodal` | 80.0 | 80.0 |" in fused
    assert "`joint` |" not in late
    assert "| `share_progress` | 90.0 (+10.0, 10/10) |  |" in calibrated


def test_the_main_differences_are_those_of_the_methods_that_there_are() -> None:
    found = evidence_tables.main_differences({"muted": FOUND, "xor": {"joint": FOUND["joint"]}})
    assert found.splitlines()[2:] == [
        "| difference | of the | muted | xor |",
        "|---|---|---|---|",
        "| `random` - `joint_unimodal` | fused head | +2.00, 10/10 |  |",
        "| `random` - `joint_unimodal` | calibrated late product | +2.00, 10/10 |  |",
    ]


def test_the_parts_of_a_gain_sum_to_it() -> None:
    whole = paired(FOUND["random"], FOUND["joint_unimodal"])
    part = paired(FOUND["random"], FOUND["joint_unimodal"], "test/accuracy_late_calibrated")
    gain = Gain("random", "joint_unimodal", whole, (GainPart("share", "random - joint_unimodal", part),), ())
    text = evidence_tables.parts_of_gains([gain, gain._replace(baseline="joint")])
    assert text.count("| `random` | whole gain | fused heads | +2.00 (") == 1
    assert text.count("| `random` | share | random - joint_unimodal | +2.00 (") == 1
    of_all = evidence_tables.gains_overview({"demo": [gain], "xor": [gain._replace(parts=())]}, "random")
    assert [line.split(" | ")[0] for line in of_all.splitlines()[4:]] == ["| whole gain", "| share"]
    assert of_all.splitlines()[-1].endswith("|  |")


def test_detectors_are_told_by_modality() -> None:
    last = [
        {"targets/precision/audio": 0.8, "targets/recall/audio": 1.0, "targets/precision/video": 0.0},
        {"targets/precision/audio": 0.9, "targets/recall/audio": 0.5, "val/accuracy": 1.0},
        {"val/accuracy": 1.0},
    ]
    assert evidence_tables.detection_rows("some", last) == [
        ["`some`", "audio", "2 of 3", "0.85", "0.75"],
        ["`some`", "video", "1 of 3", "0.00", ""],
    ]
    assert evidence_tables.detection_rows("other", last[2:]) == []


def test_tables_without_results_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence.main(["--tables", "--recipe", "xor", "--folder", str(tmp_path)]) == 1
    assert "has no results of xor. Run them first." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evidence.main(["--recipe", "nope"])
