"""The status of studies with made-up runs, and the commands that print it"""

import fcntl
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.console import Console

from remix_study.cli import main as cli
from remix_study.cli import terminal
from remix_study.config.load import load_run
from remix_study.errors import RunPreempted, StudyError, StudyStopped
from remix_study.files.disk import exclusive_lock
from remix_study.launch.folder import RunFolder
from remix_study.study import study as study_module
from remix_study.study.budget import Rates
from remix_study.study.export import columns, epoch_rows, trial_rows, with_summaries
from remix_study.study.ledger import Ledger, TrialRecord, read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.question import CONFIG
from remix_study.study.status import (
    MethodProgress,
    RunningRun,
    StudyStatus,
    _seconds_left,
    ask_to_stop,
    best_run,
    existing,
    names,
    study_status,
)
from remix_study.study.storage import STOP
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task
from tests.studies import RATE, DriverDied, Runner, config, records, write_no_report

Conduct = Callable[..., StudyRun]


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conduct:
    def run(runner: Callable[..., None], *, watch: StudyListener | None = None, **changes: Any) -> StudyRun:
        monkeypatch.setattr(study_module, "execute", runner)
        study = StudyRun(config(**changes), {"corpus": str(small_corpus)}, tmp_path, watch)
        study.run(write_no_report)
        return study

    return run


def status_after(folder: Path, after: int) -> tuple[StudyListener, list[StudyStatus]]:
    """Return a listener that reads the status after a number of runs, and the list to which it appends it."""
    seen: list[StudyStatus] = []

    def done(task: Task, outcome: Outcome, ended: int, total: int) -> None:
        if ended == after:
            seen.append(study_status(folder))

    return StudyListener(done=done), seen


def view_of(found: StudyStatus) -> str:
    """Return what the terminal shows of a status."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal.status_view(found))
    return console.export_text()


def test_a_complete_study(conduct: Conduct, tmp_path: Path) -> None:
    folder = conduct(Runner()).folder
    found = study_status(folder)
    assert (found.state, found.runs, found.runs_ended, found.holder, found.seconds_left) == (
        "complete", 10, 10, None, None,
    )  # fmt: skip
    shown = [view_of(found._replace(seconds_left=seconds)) for seconds in (None, 0.0, 60.0)]
    assert [re.findall("about .* left", text) for text in shown] == [[], [], ["about 1.0 min left"]]
    assert [(m.name, m.complete, m.failed, m.replicated) for m in found.methods] == [
        ("joint", 3, 0, 2),
        ("remix", 3, 0, 2),
    ]
    for method in found.methods:
        best = max(records(tmp_path, method.name), key=lambda t: t.values)
        assert (method.best, method.best_number, method.best_params) == (best.values, best.number, best.params)
    assert found.running == ()
    json.dumps(found.plain())
    control = found.methods[0]._replace(name="control", trials=0, complete=0, best=None)
    assert re.search(r"control +│ +none +│", view_of(found._replace(methods=(control,))))


def test_a_running_study_counts_its_runs_and_names_active_ones(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"
    watch, seen = status_after(folder, after=4)
    conduct(Runner(), watch=watch)
    (found,) = seen
    assert found.state == "running"
    assert found.runs_ended == 4
    assert [run.name for run in found.running] == ["joint-search-2"]
    assert found.seconds_left is not None
    assert found.seconds_left > 0


def test_the_time_left_counts_further_seeds_and_runs_that_follow_each_other(tmp_path: Path) -> None:
    """Trials of four runs take 400 s. One trains its first seed for another 90 s; two replicates are to come."""
    ended = TrialRecord(
        "remix", 0, "complete", (0.5,), {}, None, None, False, 400.0, None, None, (), (), {}
    )  # fmt: skip
    ledger = Ledger(config(seeds_per_trial=4), tmp_path, {"remix": (ended, ended._replace(state="running"))}, {})
    run = RunningRun("remix-search-1 (seed 1 of 4)", 1, 10, 0.5, 90.0, following=3)
    methods = [MethodProgress("remix", 2, 1, 0, 0, 1, 2, 0, None, None, {})]
    assert _seconds_left(ledger, methods, [run], Rates(1, 0, 1)) == 90 + 3 * 100 + 2 * 100
    assert _seconds_left(ledger, methods, [run], Rates(1, 0, 16)) == 90 + 3 * 100 + 100, "a replicate follows a trial"


def test_a_preempted_run_is_shown_until_it_resumes(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"
    runner, seen = Runner(), []

    def preempt(task: Task) -> bool:
        if task.stage == "search" and task.number == 1:
            run = RunFolder(Path(task.jobs[0].folder))
            run.path.mkdir(parents=True)
            run.write_ended_early(RunPreempted("preempted; checkpoint at epoch 4, step 17"))
            seen.append([each for each in study_status(folder).running if each.preempted is not None])
            run.clear_stop()
            assert all(each.preempted is None for each in study_status(folder).running)
        return False

    runner.fails = preempt
    conduct(runner)
    assert [(run.name, run.preempted) for runs in seen for run in runs] == [
        (f"{method}-search-1", "preempted; checkpoint at epoch 4, step 17") for method in ("joint", "remix")
    ]


def test_a_killed_driver_leaves_an_incomplete_study_without_active_runs(conduct: Conduct, tmp_path: Path) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=3))
    found = study_status(tmp_path / "studies" / "s")
    assert (found.state, found.runs_ended, found.running) == ("incomplete", 3, ())


def test_another_process_can_stop_a_study(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"
    answers: list[str] = []

    def stop(task: Task, outcome: Outcome, ended: int, total: int) -> None:
        if not answers:
            answers.append(ask_to_stop(folder))
            assert study_status(folder).state == "stopping"

    with pytest.raises(StudyStopped, match="Stopped as requested"):
        conduct(Runner(), watch=StudyListener(done=stop))
    assert study_status(folder).state == "incomplete"
    conduct(Runner())
    assert study_status(folder).state == "complete"


def test_only_a_running_study_can_be_stopped(conduct: Conduct) -> None:
    folder = conduct(Runner()).folder
    with pytest.raises(StudyError, match="Cannot stop the study s: no process runs it"):
        ask_to_stop(folder)
    assert not (folder / STOP).exists()


def test_failed_and_pruned_trials_are_counted_separately(conduct: Conduct, tmp_path: Path) -> None:
    runner = Runner(
        fails=lambda task: (task.stage, task.method, task.number) == ("search", "joint", 1), at_once=1, epochs=4
    )
    base = {"corpus": "", "epochs": 4, "device": "cpu", "tracking": {"uri": "off"}}
    folder = conduct(runner, pruner={"name": "asha", "grace": 2, "reduction": 2}, trials=6, base=base).folder
    found = study_status(folder)
    joint, remix = found.methods
    assert (joint.failed, joint.ended, remix.ended) == (1, 6, 6)
    assert joint.pruned == sum(t.state == "pruned" for t in records(tmp_path, "joint"))
    assert joint.pruned + remix.pruned > 0
    assert found.state == "complete"
    assert found.failures == ("joint-search-1: NotANumberError: the loss must be a number",)


def test_the_used_budget_and_its_limits(conduct: Conduct, tmp_path: Path) -> None:
    folder = conduct(Runner(seconds=36.0), budget={"cpu_hours": 1}).folder
    found = study_status(folder)
    assert found.used.cpu_hours == pytest.approx(0.1)
    assert found.budget["cpu_hours"] == pytest.approx((0.1, 1.0))
    assert set(found.budget) == {"cpu_hours"}
    assert found.used.gpu_hours == 0


def test_the_best_trial_has_a_run_configuration(conduct: Conduct, tmp_path: Path, small_corpus: Path) -> None:
    folder = conduct(Runner()).folder
    best = best_run(folder, None)
    run = best.run
    found = study_status(folder).methods[1]
    assert (best.values, best.number) == (found.best, found.best_number)
    assert (run.method.name, run.corpus) == ("remix", str(small_corpus))
    assert run.optimizer.learning_rate == found.best_params[RATE]
    (tmp_path / "best.yaml").write_text(run.to_yaml())
    assert load_run(tmp_path / "best.yaml") == run
    assert best_run(folder, "joint").run.method.name == "joint"
    with pytest.raises(StudyError, match=r"`--method` must be one of joint, remix, but is 'jiont'"):
        best_run(folder, "jiont")


def test_without_a_complete_trial_there_is_no_best_one(conduct: Conduct, tmp_path: Path) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=0))
    with pytest.raises(StudyError, match="Cannot choose the best trial of `remix`: none is complete"):
        best_run(tmp_path / "studies" / "s", None)


def test_the_study_can_be_read_from_its_folder(conduct: Conduct, small_corpus: Path) -> None:
    content = yaml.safe_load((conduct(Runner()).folder / CONFIG).read_text())
    assert content["base"]["corpus"] == str(small_corpus)


def test_an_unknown_study_is_an_error_that_lists_the_known_ones(conduct: Conduct, tmp_path: Path) -> None:
    conduct(Runner())
    assert names(tmp_path) == ["s"]
    with pytest.raises(StudyError, match=r"No study 't' in the workspace .*, which has: s\."):
        existing(tmp_path, "t")


def test_every_run_and_epoch_is_exported(conduct: Conduct) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=3))
    folder = conduct(Runner(fails=lambda task: task.stage == "search" and task.number == 2)).folder
    rows = with_summaries(trial_rows(read_ledger(folder)))
    ends = {(r["method"], r["stage"], r["number"]): r["state"] for r in rows}
    assert sorted(ends.values()) == ["complete"] * 8 + ["failed"] * 2
    assert sum(stage == "replicate" for _, stage, _ in ends) == 4
    for row in rows:
        if row["state"] == "complete":
            assert row["summary.best/val_accuracy"] == row[f"params.{RATE}"]
        else:
            assert (row["values.best/val_accuracy"], row["cause"]) == (None, "not a number")
    assert len(list(epoch_rows(rows))) == 8 * 3


def test_columns_have_a_value_for_each_row_and_one_type() -> None:
    found = columns([{"a": 1, "b": "x", "d": [1]}, {"a": 0.5, "b": 2, "c": True}])
    assert found == {"a": [1.0, 0.5], "b": ["x", "2"], "d": ["[1]", None], "c": [None, True]}


def test_the_status_names_the_process_that_holds_the_lock(conduct: Conduct) -> None:
    folder = conduct(Runner()).folder
    with exclusive_lock(folder / "lock"):
        assert study_status(folder).holder is not None
    with (folder / "lock").open() as reader:  # another reader, such as `status`
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert study_status(folder).holder is None
    assert study_status(folder).holder is None


@pytest.mark.slow
def test_commands_show_the_status(
    conduct: Conduct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_cli(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["remix-study", *words, "--workspace", str(tmp_path)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return f"{exit_.value.code} {captured.out}{captured.err}"

    assert run_cli("list").startswith("0 No studies in")
    conduct(Runner(fails=lambda task: (task.stage, task.method, task.number) == ("search", "joint", 1)))
    assert "10/10" in run_cli("list")
    shown = run_cli("status", "s")
    assert "joint-search-1: NotANumberError: the loss must be a number" in shown
    assert json.loads(run_cli("status", "s", "--json").removeprefix("0 "))["state"] == "complete"
    assert run_cli("status", "t").startswith("1 error: No study 't' in the workspace")
    assert run_cli("stop", "s").startswith("1 error: Cannot stop the study s: no process runs it")
    written = tmp_path / "new" / "b.yaml"
    assert f"remix-study train {written}" in run_cli("best", "s", "--out", str(written))
    assert load_run(written).method.name == "remix"
    assert "trials.parquet" in run_cli("export", "s", "--out", str(tmp_path / "exported"))
    assert len(pd.read_parquet(tmp_path / "exported" / "trials.parquet")) == 6 + 4
    assert len(pd.read_csv(tmp_path / "exported" / "epochs.csv")) == 9 * 3
    assert "report.html" in run_cli("report", "s")
    assert (tmp_path / "studies" / "s" / "report" / "report.html").exists()


def test_retrained_runs_are_shown_in_rows_with_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    runs = pd.DataFrame(
        [
            {
                "number": 0,
                "best/val_accuracy": 0.9,
                "test/accuracy": 0.8,
                "test/accuracy_uni/audio": 0.7,
                "train/loss": 1,
            },
            {
                "number": 1,
                "best/val_accuracy": 0.9,
                "test/accuracy": 0.6,
                "test/accuracy_uni/audio": 0.5,
                "train/loss": 1,
            },
        ]
    )
    Console(width=100).print(terminal.retrained_table(runs))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").replace("┃", " ").split())
    assert "seed validation test audio head" in shown
    assert "0 90.0 80.0 70.0 1 90.0 60.0 50.0 mean ± std 90.0 ± 0.0 70.0 ± 14.1 60.0 ± 14.1" in " ".join(
        word for word in shown.split() if not set(word) & set("─━├┤┼╇┡┩")
    )
