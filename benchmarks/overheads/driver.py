"""Costs of the driver: ask and tell, suggestions, and reading a study at a restart"""

import contextlib
import json
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna

from benchmarks.big_study import DISTRIBUTIONS
from benchmarks.overheads.counting import count_calls, cpu_seconds
from benchmarks.overheads.studies import EPOCHS, METHOD, record_trials, search_with_trials, start_trials, study_config
from remix_study.launch.folder import RunFolder
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.question import write_question
from remix_study.study.status import study_status
from remix_study.study.storage import open_storage, optuna_name
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task


class _MeasuredError(Exception):
    """Ends a study whose ask and tell have been measured."""


def ask_and_tell(folder: Path, storage: str | None, trials: int, running: int, quick: bool) -> dict[str, float]:
    """Measure the driver's work between the end of a trial and the start of the next one.

    Calls the ask and tell of a tracked `StudyRun` with `trials` recorded and `running` running trials.
    """
    study = study_config(folder, f"driver-{uuid.uuid4().hex[:8]}", storage)
    workspace = folder / "w"
    run = StudyRun(study, {}, workspace)
    run.folder.mkdir(parents=True)
    record_trials(open_storage(storage, run.folder), study, trials)
    asks: list[float] = []
    tells: list[float] = []
    statements: list[tuple[int, int]] = []

    def timed(ask: Callable[[], Task | None], tell: Callable[[Task, Outcome], None], *_: Any, **__: Any) -> None:
        given = [task for task in (ask() for _ in range(running)) if task is not None]
        tell(given[0], _complete(given.pop(0)))  # not measured: the first tell reads all recorded trials
        for _round in range(3 if quick else 15):
            with count_calls() as in_ask:
                started = time.thread_time()
                task = ask()
                asked = time.thread_time()
            assert task is not None
            given.append(task)
            outcome = _complete(given[0])
            with count_calls() as in_tell:
                before = time.thread_time()
                tell(given.pop(0), outcome)
                tells.append(time.thread_time() - before)
            asks.append(asked - started)
            statements.append((in_ask.statements, in_tell.statements))
        raise _MeasuredError

    with mock.patch.object(study_module, "execute", timed), contextlib.suppress(_MeasuredError):
        run.run(lambda _: [])
    shutil.rmtree(run.folder)
    return {
        "trials": trials,
        "ask_s": statistics.median(asks),
        "tell_s": statistics.median(tells),
        "ask_statements": statistics.median(ask for ask, _ in statements),
        "tell_statements": statistics.median(tell for _, tell in statements),
    }


def _complete(task: Task) -> Outcome:
    """Write the history that the driver reads from the folders of completed runs, and return their outcome."""
    for job in task.jobs:
        folder = RunFolder(Path(job.folder))
        folder.prepare(job.config, job.digest)
        record = {"epoch": 0.0, "val/accuracy": 0.5, "time/train_s": 1.0}
        (folder.path / "history.jsonl").write_text(f"{json.dumps(record)}\n" * EPOCHS)
    return Outcome("complete", tuple({"best/val_accuracy": 0.5} for _ in task.jobs))


def suggestion_while_running(folder: Path, trials: int, running: int) -> dict[str, float]:
    """Measure a suggestion while `running` trials run: with the driver's cache, and with Optuna alone."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        inside = Path(scratch)
        storage = open_storage(None, inside)
        search = search_with_trials(inside, storage, study_config(folder, "asking"), trials)
        start_trials(search, storage, running, params=True)
        search.next()
        ours = cpu_seconds(search.next, 5)
        study = optuna.load_study(study_name=optuna_name("asking", METHOD), storage=storage,
                                  sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))  # fmt: skip
        study.ask(dict(DISTRIBUTIONS))
        optunas = cpu_seconds(lambda: study.ask(dict(DISTRIBUTIONS)), 3)
    return {"running": running, "ask_s": ours, "unremembered_s": optunas}


def suggestion(folder: Path, sampler: str, trials: int) -> dict[str, float]:
    """Measure a suggestion of `sampler` with `trials` recorded trials while no other trial runs."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        inside = Path(scratch)
        study = study_config(folder, "sampling", sampler=sampler)
        search = search_with_trials(inside, open_storage(None, inside), study, trials)
        search.next()
        return {"trials": trials, "ask_s": cpu_seconds(search.next, 1 if sampler == "gp" else 5)}


def restart(folder: Path, trials: int) -> dict[str, float]:
    """Measure what reads all trials of a study: a restarted driver, `status`, and `report`."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        inside = Path(scratch) / "studies" / "restarting"
        inside.mkdir(parents=True)
        study = study_config(folder, "restarting")
        search = search_with_trials(inside, open_storage(None, inside), study, trials)
        resume_s = cpu_seconds(lambda: search.resume(retry_failed=False))
        write_question(study, {}, "0" * 12, inside)
        return {
            "trials": trials,
            "settle_s": resume_s,
            "survey_s": cpu_seconds(lambda: study_status(inside), 3),
            "ledger_s": cpu_seconds(lambda: read_ledger(inside, intermediate=True)),
        }
