"""Methods that need runs of others: their order, their folders, failures, kills, and further trials"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remix_study.config.run import RunConfig, teachers_of
from remix_study.config.study import StudyConfig
from remix_study.launch.folder import RunFolder
from remix_study.study import study as study_module
from remix_study.study.ledger import Ledger, chosen_replicates, read_ledger
from remix_study.study.needed import needed_methods
from remix_study.study.storage import study_folder
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Task
from tests.small_studies import StoppingRunner, points_of, quick_studies, results_of, run_small, small
from tests.studies import RATE, DriverDied, Runner, write_no_report

ALONE = {m: {"set": {"method": {"name": "unimodal", "modality": m}}, "ceiling_of": m} for m in ("audio", "video")}
METHODS: dict[str, Any] = {
    "umt": {"set": {"method": {"name": "umt"}}},
    "joint": {"set": {"method": {"name": "joint"}}},
    **{f"{m}_alone": method for m, method in ALONE.items()},
}


def study(**changes: Any) -> StudyConfig:
    """A study whose first method learns from the runs of the last two."""
    space = {RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True}}
    given = {"methods": METHODS, "reference": "joint", "space": space, "trials": 2, "replicates": 2}
    return small(**{**given, "seeds_per_trial": 2} | changes)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_studies():
        yield


def ledger_of(workspace: Path) -> Ledger:
    return read_ledger(study_folder(workspace, "s"))


def require_needed_runs(workspace: Path, tasks: list[Task]) -> None:
    """Every run with teachers names complete runs of the ceilings: of the chosen trial, or of the same replicate."""
    ledger = ledger_of(workspace)
    for task in tasks:
        if task.method != "umt":
            continue
        for seed, job in enumerate(task.jobs):
            named = teachers_of(job.config.method)
            assert isinstance(named, dict)
            for m, place in named.items():
                chosen = ledger.chosen(f"{m}_alone")
                assert chosen is not None
                replicates = chosen_replicates(ledger, f"{m}_alone")
                wanted = chosen.folders[seed] if task.stage == "search" else replicates[task.number].folder
                assert Path(place) == Path(wanted)
                folder = RunFolder(Path(place))
                assert folder.result() is not None
                assert folder.digest == job.teachers[m]


def test_teachers_are_the_runs_of_the_ceilings_with_the_same_seed_or_number(tmp_path: Path) -> None:
    ran = run_small(tmp_path, study()).ran
    assert len(ran) == 4 * (2 + 2)
    require_needed_runs(tmp_path, ran)
    folders = [job.folder for task in ran for job in task.jobs]
    assert len(folders) == len(set(folders)) == 4 * (2 * 2 + 2)


@pytest.mark.parametrize("life", [3, 9, 14])
def test_a_study_with_needed_runs_that_is_killed_has_the_same_runs(tmp_path: Path, life: int) -> None:
    whole = run_small(tmp_path / "whole", study())
    killed = StoppingRunner(life=life)
    with pytest.raises(DriverDied):
        run_small(tmp_path / "killed", study(), killed)
    again = run_small(tmp_path / "killed", study())
    assert points_of(tmp_path / "killed") == points_of(tmp_path / "whole")
    assert results_of(tmp_path / "killed") == results_of(tmp_path / "whole")
    require_needed_runs(tmp_path / "killed", killed.ran + again.ran)
    assert len(killed.ran + again.ran) == len(whole.ran)


def test_another_choice_of_a_ceiling_trains_the_replicates_that_need_it_again(tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        better = 0.1 * task.number + run.optimizer.learning_rate if task.method == "audio_alone" else -0.1 * task.number
        return {"best/val_accuracy": better, "test/accuracy": 0.5}

    run_small(tmp_path, study(), StoppingRunner(summary=summary))
    before = chosen_replicates(ledger_of(tmp_path), "umt")
    more = run_small(tmp_path, study(trials=3), StoppingRunner(summary=summary)).ran
    ledger = ledger_of(tmp_path)
    after = chosen_replicates(ledger, "umt")
    assert [r.params for r in after] == [r.params for r in before]  # its own choice is the same
    assert not {r.folder for r in after} & {r.folder for r in before}
    assert [t.name for t in more if t.stage == "replicate"] == [
        f"{method}-replicate-{number}" for number in (0, 1) for method in ("audio_alone", "umt")
    ]  # fmt: skip
    require_needed_runs(tmp_path, more)


def test_what_needs_a_failed_replicate_fails_with_a_sentence_that_names_it_and_runs_again(tmp_path: Path) -> None:
    failing = StoppingRunner(fails=lambda task: task.name == "video_alone-replicate-1")
    run_small(tmp_path, study(), failing)
    (failed,) = [r for r in ledger_of(tmp_path).replicates["umt"] if r.state == "failed"]
    assert (failed.number, failed.cause) == (1, "needed run")
    assert failed.reason == (
        "it needs replicate 1 of `video_alone`, which failed: NotANumberError: the loss must be a number"
    )
    again = run_small(tmp_path, study()).ran
    assert [task.name for task in again] == ["video_alone-replicate-1", "umt-replicate-1"]
    assert {r.state for r in ledger_of(tmp_path).replicates["umt"]} == {"complete"}


def test_a_method_fails_without_any_complete_trial_of_one_that_it_needs_and_is_retried(tmp_path: Path) -> None:
    ran = run_small(tmp_path, study(), StoppingRunner(fails=lambda task: task.method == "audio_alone")).ran
    trials = ledger_of(tmp_path).trials["umt"]
    assert {t.reason for t in trials} == {"it needs a run of `audio_alone`, of which no trial is complete"}
    assert [t.cause for t in trials] == ["needed run"] * 2
    assert "umt" not in {task.method for task in ran}
    run_small(tmp_path, study(), retry_failed=True)
    assert [t.state for t in ledger_of(tmp_path).trials["umt"]] == ["failed"] * 2 + ["complete"] * 2


def test_retraining_trains_what_the_method_needs_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_small(tmp_path, study())
    runner: Runner = StoppingRunner()
    monkeypatch.setattr(study_module, "execute", runner)
    found = StudyRun(study(), {"corpus": "made up"}, tmp_path).retrain("umt", 2, write_no_report)
    assert sorted(found) == [0, 1]
    assert [task.name for task in runner.ran] == [
        f"{method}-final-{number}" for number in (0, 1) for method in ("audio_alone", "video_alone", "umt")
    ]  # fmt: skip


def test_only_methods_that_learn_from_teachers_of_the_study_need_others(tmp_path: Path) -> None:
    outside = {"name": "umt", "teachers": {"audio": str(tmp_path), "video": str(tmp_path)}}
    methods = {
        **METHODS,
        "outside": {"set": {"method": outside}},
        "added": {"set": {"method": {"name": "remix", "with": ["umt"]}}},
    }
    needs = {"audio": "audio_alone", "video": "video_alone"}
    wanted: dict[str, dict[str, str]] = {name: {} for name in methods} | {"umt": needs, "added": needs}
    assert needed_methods(study(methods=methods), {}) == wanted
