"""`run`, `plan` and `status` report the same numbers of runs and hours"""

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from remix_study.study import study as study_module
from remix_study.study.listener import StudyListener
from remix_study.study.plan import make_plan, without_warnings
from remix_study.study.status import study_status
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task
from remix_study.training.loop import train
from remix_study.training.run import Run, RunResult
from tests.studies import DriverDied, Runner, config, write_no_report

Changes = dict[str, Any]
BUDGET = {"cpu_hours": 1000, "hours": 1000}


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param([(Runner(), {})], id="at once", marks=pytest.mark.slow),
        pytest.param([(Runner(life=5), {}), (Runner(), {})], id="killed", marks=pytest.mark.slow),
        pytest.param([(Runner(life=17), {}), (Runner(), {})], id="killed while it replicates"),
        pytest.param(
            [(Runner(), {}), (Runner(), {"trials": 4, "replicates": 3})], id="extended", marks=pytest.mark.slow
        ),
        pytest.param([(Runner(), {}), (Runner(), {"trials": 2, "replicates": 3})], id="with fewer trials"),
        pytest.param([(Runner(fails=lambda task: task.number == 1), {})], id="with failures", marks=pytest.mark.slow),
    ],
)
def test_run_plan_and_status_report_the_same_runs_and_hours(
    starts: list[tuple[Runner, Changes]], small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"corpus": str(small_corpus)}
    begun: list[StudyRun] = []
    for runner, changes in starts:
        wanted = config(**{"seeds_per_trial": 2, "budget": BUDGET, **changes})

        def done(task: Task, outcome: Outcome, ended: int, total: int) -> None:
            running = begun[-1]
            found = study_status(running.folder)
            assert (found.runs_ended, found.runs) == (ended, total)
            used = running._progress.used(running._clock.rates, running._clock.seconds)
            assert found.used.cpu_hours == pytest.approx(used.cpu_hours)

        study = StudyRun(wanted, settings, tmp_path, StudyListener(done=done))
        begun.append(study)
        monkeypatch.setattr(study_module, "execute", runner)
        with contextlib.suppress(DriverDied):
            study.run(write_no_report)
        found, plan = study_status(study.folder), make_plan(wanted, settings, tmp_path, timed=False)
        assert plan.runs_left == found.runs - found.runs_ended
        assert (plan.used, plan.budget) == (found.used, found.budget)
        assert found.used.cpu_hours > 0


@pytest.mark.slow
def test_warnings_of_the_timed_epochs_are_not_shown_as_the_studys(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    def warn(run: Run, **options: Any) -> RunResult:
        logging.getLogger("remix_study.training.loop").warning("a modality gets few samples")
        warnings.warn("from a library", stacklevel=1)
        return train(run, **options)

    monkeypatch.setattr("remix_study.study.plan.train", warn)
    with warnings.catch_warnings(record=True) as shown:
        make_plan(config(), {"corpus": str(small_corpus)}, tmp_path)
    assert [str(w.message) for w in shown if "library" in str(w.message)] == []
    assert caplog.messages == []


def test_debug_shows_the_warnings_of_the_timed_epochs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with without_warnings():
        logging.getLogger("remix_study.training.loop").warning("a modality gets few samples")
    assert caplog.messages == ["a modality gets few samples"]
