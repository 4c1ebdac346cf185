"""Studies with made-up runs that fail or diverge"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from remix_study.api import Study
from remix_study.config.run import RunConfig
from remix_study.errors import StudyError
from remix_study.report import page
from remix_study.report.search_tables import trials_table
from remix_study.report.tables import accuracy_table
from remix_study.study import study as study_module
from remix_study.study.comparison import IncompleteStudyError
from remix_study.study.ledger import read_ledger
from remix_study.study.tasks import Outcome, Task
from tests.studies import Conduct, DriverDied, Runner, config, records, write_no_report


def test_a_failed_trial_is_counted_and_reported(conduct: Conduct, tmp_path: Path) -> None:
    runner = Runner(fails=lambda task: task.method == "remix" and task.stage == "search" and task.number == 0)
    result = conduct(runner)
    assert result is not None
    assert result.failures == ("remix-search-0: NotANumberError: the loss must be a number",)
    found = records(tmp_path, "remix")
    assert [t.state for t in found] == ["failed", "complete", "complete"]  # a failed trial is not replaced
    assert (found[0].cause, found[0].reason) == ("not a number", "NotANumberError: the loss must be a number")
    assert len(runner.ran) == 10


def test_a_failed_replicate_does_not_affect_the_others(conduct: Conduct) -> None:
    result = conduct(
        Runner(fails=lambda task: task.stage == "replicate" and task.method == "joint" and task.number == 1)
    )
    assert result is not None
    assert [sorted(c.seeds) for c in result.methods] == [[0], [0, 1]]
    assert result.failures == ("joint-replicate-1: NotANumberError: the loss must be a number",)
    again = Runner()
    result = conduct(again)
    assert result is not None
    assert [sorted(c.seeds) for c in result.methods] == [[0, 1], [0, 1]]  # failed replicates run again
    assert [(t.stage, t.method, t.number) for t in again.ran] == [("replicate", "joint", 1)]
    # Its failure is not forgotten, however often the study is rerun.
    for _ in range(2):
        reason = "NotANumberError: the loss must be a number"
        assert result.failures == (f"joint-replicate-1: failed before it was run again: {reason}",)
        assert "Replicates that had failed were run again: 1 of joint." in result.sentence
        result = conduct(Runner())
        assert result is not None


def test_a_method_without_complete_trials_does_not_affect_the_others(conduct: Conduct, tmp_path: Path) -> None:
    result = conduct(Runner(fails=lambda task: task.method == "joint"))
    assert result is not None
    assert [c.name for c in result.methods] == ["remix"]
    assert Counter(t.state for t in records(tmp_path, "joint")) == {"failed": 3}


@pytest.mark.parametrize(
    ("changes", "runner", "message", "others"),
    [
        ({}, Runner(fails=lambda task: task.method == "joint"),
         r"No result for: joint \(3 of 3 trials failed, the last with: NotANumberError: the loss must be a number\)\. "
         r"Correct the cause, then rerun the command with --retry-failed\.", True),
        ({}, Runner(fails=lambda task: task.stage == "replicate"),
         r"No method has a result: joint \(2 of 2 replicates failed, .*\); remix \(2 of 2 replicates failed, .*\)\. "
         r"Correct the cause, then", False),
        ({"budget": {"cpu_hours": 0.015}}, Runner(seconds=36.0, at_once=1),
         r"No method has a result: joint \(the budget is used up\); remix \(the budget is used up\)\. "
         r"Raise `budget`, then rerun the command\.", False),
    ],
)  # fmt: skip
def test_a_study_that_lacks_the_result_of_a_method_raises_with_those_of_the_others(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], runner: Runner, message: str, others: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(study_module, "execute", runner)
    monkeypatch.setattr(page, "write_report", write_no_report)
    study = Study(config(**changes), corpus=small_corpus, workspace=tmp_path)
    with pytest.raises(IncompleteStudyError, match=message) as raised:
        study.run()
    assert not raised.value.retry_helps
    assert (raised.value.result is not None) == others
    assert raised.value.result == study.result()


@pytest.mark.slow
def test_failed_trials_are_retried_only_on_request(conduct: Conduct, tmp_path: Path) -> None:
    def second_of_remix(task: Task) -> bool:
        return (task.stage, task.method, task.number) == ("search", "remix", 1)

    conduct(Runner(fails=second_of_remix))
    failed = records(tmp_path, "remix")[1]
    again = Runner()
    conduct(again)
    assert again.ran == []
    conduct(again, retry_failed=True)
    assert [t.method for t in again.ran if t.stage == "search"] == ["remix"]
    found = records(tmp_path, "remix")
    assert [t.state for t in found] == ["complete", "failed", "complete", "complete"]
    assert (found[1].retried, found[3].params) == (True, failed.params)


@pytest.mark.slow
def test_an_interrupted_retry_is_resumed(conduct: Conduct, tmp_path: Path) -> None:
    conduct(Runner(fails=lambda task: (task.stage, task.method, task.number) == ("search", "joint", 0)))
    with pytest.raises(DriverDied):
        conduct(Runner(life=0), retry_failed=True)
    again = Runner()
    conduct(again)  # without `retry_failed`: the retry was started before
    assert [t.method for t in again.ran if t.stage == "search"] == ["joint"]
    assert Counter(t.state for t in records(tmp_path, "joint")) == {"complete": 3, "failed": 1}


def test_a_trial_without_its_objective_fails(conduct: Conduct, tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        return {"best/val_accuracy": run.optimizer.learning_rate, "test/accuracy": float(task.number)}

    conduct(Runner(summary=summary), config(objective="best/val_macro_f1"))
    (reason,) = {t.reason for t in records(tmp_path, "remix")}
    assert reason == "`objective` must be one of best/val_accuracy, test/accuracy, but is best/val_macro_f1"
    assert {t.cause for t in records(tmp_path, "remix")} == {"bad configuration"}


def test_an_import_error_ends_the_study_with_the_remedy(conduct: Conduct) -> None:
    reason = "node 10.0.0.7 cannot import the code of the study: ModuleNotFoundError: No module named 'optuna'"
    runner = Runner(fails=lambda task: True, failure=Outcome("failed", (), reason, "import error"))
    message = rf"Cannot start further runs: {reason}\. Install the package's .*\. Then rerun .* with --retry-failed\."
    with pytest.raises(StudyError, match=message):
        conduct(runner)
    assert len(runner.ran) == runner.at_once
    assert conduct(Runner(), retry_failed=True) is not None


def test_runs_whose_loss_grew_a_thousandfold_are_marked_as_diverged(conduct: Conduct, tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        growth = 1e3 if task.method == "joint" else 999.0
        return {"best/val_accuracy": 0.25, "test/accuracy": 0.25, "train/loss_growth": growth}

    result = conduct(Runner(summary=summary))
    assert result is not None
    assert {m.name: m.diverged for m in result.methods} == {"joint": (0, 1), "remix": ()}
    assert "Replicates diverged (their loss grew a thousandfold): joint (2 of 2)." in result.sentence
    assert [row[1] for row in accuracy_table(result).rows if row[0] == "joint"] == ["25.0 ± 0.0 (2 diverged)"]
    conduct(Runner())  # resumed: nothing runs again, and the marks stay
    ledger = read_ledger(tmp_path / "studies" / "s")
    for records_of in (ledger.trials, ledger.replicates):
        assert {name: {r.diverged for r in found} for name, found in records_of.items()} == {
            "joint": {True}, "remix": {False},
        }  # fmt: skip
    assert [row[2] for row in trials_table(ledger).rows] == ["complete, diverged"] * 3 + ["complete"] * 3
