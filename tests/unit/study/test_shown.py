"""Extensions of a study after its test results were shown"""

import json
from pathlib import Path

import pytest

from remix_study.config.study import BudgetConfig, StudyConfig
from remix_study.errors import StudyError
from remix_study.study.ledger import Ledger, TrialRecord
from remix_study.study.results import result_of
from remix_study.study.shown import SHOWN, extensions, note_shown
from tests.unit.study.test_results import replicate, study, trial


def planned(replicates: int, trials: int = 4) -> StudyConfig:
    return study().model_copy(update={"replicates": replicates, "trials": trials})


def test_a_study_that_is_only_shown_again_was_not_extended(tmp_path: Path) -> None:
    assert extensions(tmp_path, planned(5)) == []
    for _ in range(3):
        note_shown(tmp_path, planned(5))
    assert extensions(tmp_path, planned(5)) == []
    assert len(json.loads((tmp_path / SHOWN).read_text())) == 1


def test_a_study_that_grows_before_its_results_are_shown_was_not_extended(tmp_path: Path) -> None:
    note_shown(tmp_path, planned(10))
    assert extensions(tmp_path, planned(10)) == []


def test_every_later_growth_is_listed_with_the_day_of_the_results(tmp_path: Path) -> None:
    note_shown(tmp_path, planned(5))
    day = json.loads((tmp_path / SHOWN).read_text())[0]["time"][:10]
    after = f"after test results had been shown on {day}."
    assert extensions(tmp_path, planned(10)) == [f"Replicates 6 to 10 were added {after}"]
    assert extensions(tmp_path, planned(6)) == [f"Replicate 6 was added {after}"]
    note_shown(tmp_path, planned(10))
    assert extensions(tmp_path, planned(10, trials=6)) == [
        f"Replicates 6 to 10 were added {after}", f"Trials 5 to 6 were added to each method {after}",
    ]  # fmt: skip


def test_a_reduced_plan_and_another_budget_are_told(tmp_path: Path) -> None:
    """Both may depend on the results that have been shown."""
    note_shown(tmp_path, planned(9))
    (reduced,) = extensions(tmp_path, planned(5))
    assert "reduced from 4 trials and 9 replicates to 4 trials and 5 replicates after test results had been" in reduced
    budget = planned(9).model_copy(update={"budget": BudgetConfig(hours=3)})
    (changed,) = extensions(tmp_path, budget)
    assert changed.startswith("The budget was changed after test results had been shown on ")


@pytest.mark.parametrize("content", ["[{", '[{"when": 1}]', '{"time": "x"}'])
def test_a_damaged_record_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / SHOWN).write_text(content)
    with pytest.raises(
        StudyError, match=r"Cannot read .*shown.json, .* delete it; later extensions are then not reported"
    ):
        extensions(tmp_path, planned(5))


def test_a_budget_that_was_not_recorded_is_not_called_changed(tmp_path: Path) -> None:
    (tmp_path / SHOWN).write_text('[{"time": "2026-11-29T00:00:00", "trials": 4, "replicates": 5}]')
    assert extensions(tmp_path, planned(5)) == []


def test_the_sentence_tells_of_extensions(tmp_path: Path) -> None:
    note_shown(tmp_path, planned(1))
    (tmp_path / "result.json").write_text('{"test/accuracy": 0.5}')
    made = planned(2).model_copy(update={"methods": {**study(joint={}).methods}})
    replicates = {name: tuple(replicate(n, tmp_path, method=name) for n in range(2)) for name in made.methods}
    trials: dict[str, tuple[TrialRecord, ...]] = {name: (trial(0, 0.9, method=name),) for name in made.methods}
    found = result_of(Ledger(made, tmp_path, trials, replicates))
    assert found is not None
    assert "Replicate 2 was added after test results had been shown on" in found.sentence
