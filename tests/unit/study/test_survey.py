"""How a study stands, as another process sees it; with runs that are made up"""

import fcntl
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from remix_study import cli
from remix_study.config import load_run
from remix_study.errors import StudyError, StudyStopped
from remix_study.media.disk import sole_writer
from remix_study.study import study as study_module
from remix_study.study.export import columns, rows_of
from remix_study.study.study import Study, Watch
from remix_study.study.survey import CONFIG, STOP, Survey, ask_to_stop, best_run, existing, names, survey
from remix_study.study.tasks import Outcome, Task
from tests.unit.study.test_study import RATE, DriverDied, Runner, config, present, trials

Conduct = Callable[..., Study]


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conduct:
    def run(runner: Callable[..., None], *, retry_failed: bool = False, watch: Watch | None = None) -> Study:
        monkeypatch.setattr(study_module, "execute", runner)
        study = Study(
            config(), {"corpus": str(small_corpus)}, tmp_path, watch or Watch(), retry_failed=retry_failed
        )  # fmt: skip
        study.run(present)
        return study

    return run


def looking_on(folder: Path, after: int) -> tuple[Watch, list[Survey]]:
    """A watch that surveys the study from inside it, after so many runs."""
    seen: list[Survey] = []

    def done(task: Task, outcome: Outcome, complete: int, total: int) -> None:
        if complete == after:
            seen.append(survey(folder))

    return Watch(done=done), seen


def test_a_complete_study(conduct: Conduct, tmp_path: Path) -> None:
    folder = conduct(Runner()).folder
    found = survey(folder)
    assert (found.state, found.runs, found.runs_complete, found.holder, found.seconds_left) == (
        "complete", 10, 10, None, None,
    )  # fmt: skip
    assert [(m.name, m.complete, m.failed, m.replicated) for m in found.methods] == [
        ("joint", 3, 0, 2),
        ("remix", 3, 0, 2),
    ]
    for method in found.methods:
        best = max(trials(tmp_path, method.name), key=lambda t: t.value or 0)
        assert (method.best, method.best_number, method.best_params) == (best.value, best.number, best.params)
    assert found.running == ()
    json.dumps(found.plain())


def test_a_study_at_work_counts_what_it_has_and_names_what_trains(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"
    watch, seen = looking_on(folder, after=4)
    conduct(Runner(), watch=watch)
    (found,) = seen
    assert found.state == "running"
    assert found.runs_complete == 4
    assert [run.name for run in found.running] == ["joint-search-2"]
    assert found.seconds_left is not None
    assert found.seconds_left > 0


def test_a_dead_driver_leaves_an_incomplete_study_without_running_runs(conduct: Conduct, tmp_path: Path) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=3))
    found = survey(tmp_path / "studies" / "s")
    assert (found.state, found.runs_complete, found.running) == ("incomplete", 3, ())


def test_a_stop_lets_running_runs_end_and_the_next_start_goes_on(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"
    asked: list[str] = []

    def stop(task: Task, outcome: Outcome, complete: int, total: int) -> None:
        if complete == 2:
            asked.append(ask_to_stop(folder))
            assert survey(folder).state == "stopping"

    first = Runner()
    with pytest.raises(StudyStopped, match="3 of 10 runs complete"):  # the third was running already
        conduct(first, watch=Watch(done=stop))
    assert asked
    assert not any(t.state.name == "RUNNING" for m in ("joint", "remix") for t in trials(tmp_path, m))
    assert survey(folder).state == "incomplete"
    second = Runner()
    conduct(second)
    assert not (folder / STOP).exists()
    assert len(first.ran) + len(second.ran) == 10
    assert survey(folder).state == "complete"


def test_only_a_running_study_can_be_stopped(conduct: Conduct) -> None:
    folder = conduct(Runner()).folder
    with pytest.raises(StudyError, match="nobody works on s now"):
        ask_to_stop(folder)
    assert not (folder / STOP).exists()


def test_failed_trials_are_tried_again_only_when_asked(conduct: Conduct, tmp_path: Path) -> None:
    def second_of_remix(task: Task) -> bool:
        return (task.stage, task.method, task.number) == ("search", "remix", 1)

    folder = conduct(Runner(fails=second_of_remix)).folder
    failed = trials(tmp_path, "remix")[1]
    assert survey(folder).failures == ("remix-search-1: TrainingError: the loss must be a number",)
    again = Runner()
    conduct(again)
    assert again.ran == []
    conduct(again, retry_failed=True)
    assert [t.method for t in again.ran if t.stage == "search"] == ["remix"]
    (retried,) = [t for t in trials(tmp_path, "remix") if t.user_attrs.get("retries") == failed.number]
    assert retried.params == failed.params
    found = survey(folder)
    assert found.failures == ()
    assert found.state == "complete"
    assert found.methods[1].complete == 3


def test_a_retry_that_is_interrupted_is_not_forgotten(conduct: Conduct, tmp_path: Path) -> None:
    def first_of_joint(task: Task) -> bool:
        return (task.stage, task.method, task.number) == ("search", "joint", 0)

    conduct(Runner(fails=first_of_joint))
    with pytest.raises(DriverDied):
        conduct(Runner(life=0), retry_failed=True)
    again = Runner()
    folder = conduct(again).folder  # the retry was under way: it needs no asking twice
    assert [t.method for t in again.ran if t.stage == "search"] == ["joint"]
    assert survey(folder).failures == ()
    assert len([t for t in trials(tmp_path, "joint") if t.state.name == "COMPLETE"]) == 3


def test_the_best_point_is_a_run(conduct: Conduct, tmp_path: Path, small_corpus: Path) -> None:
    folder = conduct(Runner()).folder
    run, value, number = best_run(folder, None)
    found = survey(folder).methods[1]
    assert (value, number) == (found.best, found.best_number)
    assert (run.method.name, run.corpus) == ("remix", str(small_corpus))
    assert run.optimizer.learning_rate == found.best_params[RATE]
    (tmp_path / "best.yaml").write_text(run.to_yaml())
    assert load_run(tmp_path / "best.yaml") == run
    assert best_run(folder, "joint")[0].method.name == "joint"
    with pytest.raises(StudyError, match=r"`--method` must be one of joint, remix, but is 'jiont'"):
        best_run(folder, "jiont")


def test_no_complete_trial_no_best(conduct: Conduct, tmp_path: Path) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=0))
    with pytest.raises(StudyError, match="at least one trial of `remix` must be complete"):
        best_run(tmp_path / "studies" / "s", None)


def test_the_folder_says_what_the_study_was(conduct: Conduct, small_corpus: Path) -> None:
    content = yaml.safe_load((conduct(Runner()).folder / CONFIG).read_text())
    assert content["base"]["corpus"] == str(small_corpus)


def test_an_unknown_study_is_named_with_those_that_are_there(conduct: Conduct, tmp_path: Path) -> None:
    conduct(Runner())
    assert names(tmp_path) == ["s"]
    with pytest.raises(StudyError, match=r"there is no 't'; there: s\."):
        existing(tmp_path, "t")


def test_every_run_and_every_end_is_exported(conduct: Conduct) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=3))
    folder = conduct(Runner(fails=lambda task: task.stage == "search" and task.number == 2)).folder
    runs, _ = rows_of(folder)
    ends = {(r["method"], r["stage"], r["number"]): r["state"] for r in runs}
    assert sum(state == "interrupted" for state in ends.values()) == 2  # were running when the driver died
    assert sum(state == "failed" for state in ends.values()) == sum("reason" in r and bool(r["reason"]) for r in runs)
    assert sum(stage == "replicate" for _, stage, _ in ends) == 4
    for run in runs:
        if run["state"] == "complete":
            assert run["summary.best/val_accuracy"] == run[f"params.{RATE}"]
        elif run["state"] == "failed":
            assert run["objective"] is None


def test_columns_are_whole_and_of_one_type() -> None:
    found = columns([{"a": 1, "b": "x", "d": [1]}, {"a": 0.5, "b": 2, "c": True}])
    assert found == {"a": [1.0, 0.5], "b": ["x", "2"], "d": ["[1]", None], "c": [None, True]}


def test_a_held_study_says_by_whom(conduct: Conduct) -> None:
    folder = conduct(Runner()).folder
    with sole_writer(folder / "lock"):
        assert survey(folder).holder is not None
    with (folder / "lock").open() as looking:  # another who looks, as `status` does
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert survey(folder).holder is None
    assert survey(folder).holder is None


def test_the_commands_show_it(
    conduct: Conduct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["remix-study", *words, "--workspace", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return f"{left.value.code} {said.out}{said.err}"

    assert say("list").startswith("0 No study has begun")
    conduct(Runner(fails=lambda task: (task.stage, task.method, task.number) == ("search", "joint", 1)))
    assert "10/10" in say("list")
    shown = say("status", "s")
    assert "joint-search-1: TrainingError: the loss must be a number" in shown
    assert json.loads(say("status", "s", "--json").removeprefix("0 "))["state"] == "complete"
    assert say("status", "t").startswith("1 error: the study must have begun")
    assert say("stop", "s").startswith("1 error: the study must be running")
    written = tmp_path / "new" / "b.yaml"
    assert f"remix-study train {written}" in say("best", "s", "--out", str(written))
    assert load_run(written).method.name == "remix"
    assert "trials.parquet" in say("export", "s", "--out", str(tmp_path / "exported"))
    assert (tmp_path / "exported" / "trials.csv").read_text().count("\n") == 1 + 6 + 4
