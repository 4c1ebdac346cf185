"""Methods that need runs of others: their order, their folders, failures, kills, and further trials"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cli import terminal
from remix_study.config.method import teachers_of
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.launch.folder import RunFolder
from remix_study.media.store import ClipStore
from remix_study.report import search_data, sections
from remix_study.report.search_tables import budget_table
from remix_study.study import study as study_module
from remix_study.study.ledger import Ledger, chosen_replicates, read_ledger
from remix_study.study.needed import needed_methods
from remix_study.study.plan import make_plan
from remix_study.study.preflight import require_study_fit
from remix_study.study.status import best_run
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
                assert folder.digest == job.needed[m]


def test_teachers_are_the_runs_of_the_ceilings_with_the_same_seed_or_number(tmp_path: Path) -> None:
    ran = run_small(tmp_path, study()).ran
    assert len(ran) == 4 * (2 + 2)
    require_needed_runs(tmp_path, ran)
    folders = [job.folder for task in ran for job in task.jobs]
    assert len(folders) == len(set(folders)) == 4 * (2 * 2 + 2)


@pytest.mark.parametrize("life", [pytest.param(3, marks=pytest.mark.slow), 9, pytest.param(14, marks=pytest.mark.slow)])
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


def test_a_study_without_the_ceilings_is_refused_with_what_to_add(small_store: ClipStore) -> None:
    methods = {name: METHODS[name] for name in ("umt", "joint", "video_alone")}
    with pytest.raises(ConfigError) as caught:
        require_study_fit(study(methods=methods), {}, small_store)
    add = "audio_alone: {set: {method: {name: unimodal, modality: audio}}, ceiling_of: audio}"
    said = f"`methods.umt` needs a run of each modality alone, and the study has none of audio; add to `methods`: {add}"
    assert said in str(caught.value)
    whole = study(methods={**methods, **yaml.safe_load(add)})
    require_study_fit(whole, {}, small_store)


def test_an_encoder_that_is_searched_cannot_imitate_teachers(small_store: ClipStore) -> None:
    encoder = {"kind": "choice", "of": {"tiny": {"name": "tiny"}, "resnet": {"name": "resnet18", "width": 4}}}
    with pytest.raises(ConfigError, match=r"`methods\.umt` needs the same encoder of audio in all its runs"):
        require_study_fit(study(space={"model.encoder": encoder}), {}, small_store)


def test_needed_runs_count_for_those_who_need_them(tmp_path: Path) -> None:
    run_small(tmp_path, study(), StoppingRunner(seconds=3.0))
    budgets = {b.method: b for b in search_data.budgets(ledger_of(tmp_path))}
    assert {name: b.needs for name, b in budgets.items() if b.needs} == {"umt": ("audio_alone", "video_alone")}
    assert budgets["umt"].total_s == pytest.approx(3.0 * 6)
    assert budgets["umt"].needed_s == pytest.approx(2 * 3.0 * 6)
    table = budget_table(tuple(budgets.values()), 2, 2)
    assert table.header[-2:] == ("needs the runs of", "time with those runs")
    assert [row[-2:] for row in table.rows] == [
        ("audio_alone, video_alone", "54 s"), ("", "18 s"), ("", "18 s"), ("", "18 s"),
    ]  # fmt: skip
    said = sections._fairness(tuple(budgets.values()), 2, None)
    assert "umt needs the runs of audio_alone and video_alone, which were trained once" in said
    assert "54 s of running time, of which 18 s are its own" in said


def test_the_plan_shows_what_comes_first(small_corpus: Path, tmp_path: Path) -> None:
    found = make_plan(study(), {"corpus": str(small_corpus)}, tmp_path, timed=False)
    assert {m.name: m.needs for m in found.methods if m.needs} == {"umt": ("audio_alone", "video_alone")}
    (line,) = terminal._order(found)
    assert "umt after audio_alone and video_alone, whose runs it needs; they are trained once" in line


def test_the_best_configuration_names_the_runs_of_the_study_as_teachers(tmp_path: Path) -> None:
    run_small(tmp_path, study())
    folder = study_folder(tmp_path, "s")
    named = teachers_of(best_run(folder, "umt").run.method)
    ledger = read_ledger(folder)
    chosen = {m: ledger.chosen(f"{m}_alone") for m in ("audio", "video")}
    assert named == {m: trial.folders[0] for m, trial in chosen.items() if trial is not None}
