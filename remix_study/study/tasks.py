"""Tasks: the runs of a study as Ray Tune trials

Tune asks a searcher for work and tells it what came of it. Ours passes both on, so that the study alone decides what
is next: Optuna's storage is the truth, Tune executes. (`OptunaSearch` records pruned and failed trials as something
else, and its restore crashes: specs/platform.md.)
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from remix_study.launch.cluster import join_or_start
from remix_study.launch.run import launch
from remix_study.launch.worker import Job

SLOT = "trial_slot"


@dataclass(frozen=True)
class Task:
    """One run of a study. `number`: of the Optuna trial, or of the replicate."""

    stage: str
    method: str
    number: int
    seed: int
    job: Job = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """`summary` of a complete run, or the reason of a failure."""

    summary: dict[str, float] | None
    failure: str | None = None


class _Handout(Searcher):
    """`ask` gives a task, None for 'not now', or raises StopIteration when there is no more."""

    def __init__(self, ask: Callable[[], Task | None], tell: Callable[[Task, Outcome], None]) -> None:
        super().__init__(metric="finished", mode="max")
        self._ask, self._tell = ask, tell
        self._given: dict[str, Task] = {}

    def suggest(self, trial_id: str) -> Any:
        try:
            task = self._ask()
        except StopIteration:
            return str(Searcher.FINISHED)
        if task is None:
            return None
        self._given[trial_id] = task
        return {"job": json.dumps(asdict(task.job))}  # as text: Tune would search inside a dictionary

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self._given.pop(trial_id, None)
        if task is None:
            return
        if error or result is None or "outcome" not in result:
            self._tell(task, Outcome(None, "its process died (out of memory, or killed)"))
        else:
            self._tell(task, Outcome(**json.loads(result["outcome"])))

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its searcher down for a restore that we never ask for."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours is in memory only: the study rebuilds it from its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


def _trial(config: dict[str, Any]) -> None:
    """In a Tune worker process: one run, whose mendable failures are an outcome and not a crash of the process."""
    try:
        summary, failure = launch(Job(**json.loads(config["job"]))), None
    except Exception as error:
        summary, failure = None, f"{type(error).__name__}: {error}"
    tune.report({"outcome": json.dumps({"summary": summary, "failure": failure}), "finished": 1.0})


def execute(
    ask: Callable[[], Task | None], tell: Callable[[Task, Outcome], None], total: int, concurrency: int, folder: Path
) -> None:
    """Run up to `total` tasks, `concurrency` at once, until `ask` has no more.

    Tune's processes are reused from trial to trial: importing torch, Ray and MLflow takes longer than a small run.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # CSV, JSON and TensorBoard copies of our history
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    with _cluster(concurrency) as share:
        tuner = tune.Tuner(
            tune.with_resources(_trial, share),
            tune_config=tune.TuneConfig(
                search_alg=_Handout(ask, tell),
                num_samples=total,
                reuse_actors=True,
                max_concurrent_trials=None if SLOT in share else concurrency,
                metric="finished",
                mode="max",
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder.resolve()), verbose=0, callbacks=[], log_to_file=True
            ),
        )
        with _quiet():
            tuner.fit()


@contextlib.contextmanager
def _cluster(concurrency: int) -> Iterator[dict[str, float]]:
    """What one trial takes of Ray: a slot of a Ray of our own, or a core of the one that RAY_ADDRESS names."""
    ours = join_or_start(
        resources={SLOT: concurrency},
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore"}},
    )
    try:
        yield {SLOT: 1} if ours else {"cpu": 1}
    finally:
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune prints a farewell whatever its verbosity; our own lines say it better."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
        sys.stdout.flush()
