"""Studies that run in milliseconds: no corpus, no Ray, no waiting for the disk; the ledger is Optuna's journal"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.files import operations
from remix_study.study import study as study_module
from remix_study.study.ledger import TrialRecord, read_ledger
from remix_study.study.search_space import configure
from remix_study.study.storage import STOP, study_folder
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task
from tests.studies import RATE, Runner, config, write_no_report

METHODS = ("joint", "remix")
Points = dict[str, list[tuple[int, str, dict[str, Any], tuple[float, ...]]]]


def small(**changes: Any) -> StudyConfig:
    """Return a study of two methods, two trials and one replicate, in a journal."""
    return config(**{"storage": "journal", "sampler": "random", "trials": 2, "replicates": 1} | changes)


@dataclass
class StoppingRunner(Runner):
    """A runner that asks the study to stop within a task.

    Args:
        stop_after: number of tasks before that one; None: never.
    """

    at_once: int = 1
    stop_after: int | None = None

    def _run(self, task: Task) -> Outcome:
        if len(self.ran) == self.stop_after:
            (Path(task.jobs[0].folder).parents[1] / STOP).touch()
        return super()._run(task)


def without_corpus(
    config: StudyConfig, settings: dict[str, Any], workspace: Path, say: Callable[[str], None]
) -> tuple[list[RunConfig], Any]:
    """Replace `check_before_start`, whose checks have tests of their own."""
    study_folder(workspace, config.name).mkdir(parents=True, exist_ok=True)
    configs = [configure(config, method, {RATE: 0.01}, config.seed, settings) for method in config.methods]
    return configs, SimpleNamespace(digest="of the corpus", name="made up")


@contextmanager
def quick_studies() -> Iterator[None]:
    """In this context, `run_small` needs no corpus, and nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "check_before_start", without_corpus)
        patch.setattr(operations, "fsync", lambda descriptor: None)
        yield


def run_small(
    workspace: Path, study: StudyConfig, runner: Runner | None = None, *, retry_failed: bool = False
) -> Runner:
    """Run or resume a study in a workspace; return the runner."""
    runner = runner or StoppingRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "execute", runner)
        StudyRun(study, {"corpus": "made up"}, workspace, retry_failed=retry_failed).run(write_no_report)
    return runner


def trials_of(workspace: Path, study: str = "s") -> dict[str, tuple[TrialRecord, ...]]:
    folder = study_folder(workspace, study)
    return read_ledger(folder).trials if (folder / "study.yaml").exists() else {}


def points_of(workspace: Path) -> Points:
    """Return number, state, hyperparameters and values of all trials, by method."""
    return {
        method: [(t.number, t.state, t.params, t.values) for t in trials]
        for method, trials in trials_of(workspace).items()
    }


def results_of(workspace: Path) -> dict[str, dict[str, float]]:
    """Return the summaries of all complete replicates, by run folder."""
    folder = study_folder(workspace, "s")
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((folder / "runs").glob("*-replicate-*/result.json"))
    }
