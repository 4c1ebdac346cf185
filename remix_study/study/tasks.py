"""Tasks: executing trials and replicates with Ray Tune

Tune asks a searcher for the next trial and reports results to it. Our searcher forwards both to the study, which
decides what is next and records the results in Optuna's storage. Ray's own `OptunaSearch` is not used, because it
records pruned and failed trials as something else and its restore crashes (docs/platform.md).
"""

import contextlib
import gc
import json
import logging
import math
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from remix_study import ray_private
from remix_study.errors import CAUSES, RunPreempted, RunPruned, StudyStopped, cause_of
from remix_study.launch.run import launch
from remix_study.launch.worker import Job
from remix_study.study.placement import ClusterLimit, Needs, Place, placed
from remix_study.study.pruning import PruningCallback
from remix_study.study.question import CONFIG
from remix_study.study.start_barrier import StartBarrier, wait_at_barrier
from remix_study.study.trial_errors import Loss, TrialErrors

log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 3  # of a task whose process dies; each resumes from the run's last checkpoint
End = Literal["complete", "pruned", "failed", "stopped"]


@dataclass(frozen=True)
class Task:
    """One trial of a study (a run per seed), or one replicate (one run).

    Args:
        stage: `search`, `replicate` or `final`; see ledger.py.
        number: of the trial or replicate.
        jobs: the runs.
        callbacks: the pruning callback of each run.
    """

    stage: str
    method: str
    number: int
    jobs: tuple[Job, ...] = field(repr=False)
    callbacks: tuple[PruningCallback, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """`METHOD-STAGE-NUMBER`."""
        return f"{self.method}-{self.stage}-{self.number}"


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        summaries: of the runs that are complete, in the order of their seeds.
        reason: why the task is not complete, as text.
        cause: of a failure, one of `errors.CAUSES`; None otherwise.
    """

    state: End
    summaries: tuple[dict[str, float], ...] = ()
    reason: str | None = None
    cause: str | None = None

    def __post_init__(self) -> None:
        assert (self.cause in CAUSES) == (self.state == "failed"), self

    def with_metrics(self, metrics: Sequence[str]) -> "Outcome":
        """This outcome; or a failure, if the task is complete and a summary lacks one of `metrics`."""
        for metric in metrics if self.state == "complete" else ():
            lacking = [summary for summary in self.summaries if metric not in summary]
            if lacking:
                reason = f"`objective` must be one of {', '.join(sorted(lacking[0]))}, but is {metric}"
                return Outcome("failed", self.summaries, reason, "bad configuration")
        return self

    def means(self, metrics: Sequence[str]) -> list[float]:
        """The mean of each metric over the summaries."""
        return [sum(summary[metric] for summary in self.summaries) / len(self.summaries) for metric in metrics]


Ask = Callable[[], Task | None]
Tell = Callable[[Task, Outcome], None]


class _TaskSearcher(Searcher):
    """Tune's searcher, which gets its trials from the study.

    Tune asks for a task before there is room for it, which keeps its processes alive. With one run at a time it gets no
    task early, so that each suggestion depends on all trials before it, whether or not the study was killed in between.

    Args:
        ask: returns the next task, or None to wait; raises StopIteration if there are no more.
        tell: called with each task and its outcome.
        errors: why processes of trials ended without an outcome.
        at_once: fixed number of tasks at once, or None.
        no_more_now: called if `ask` has no task now.
        epochs_of: returns the number of epochs that a task has completed.
        limit: returns how many tasks Tune may get at once.
    """

    def __init__(
        self,
        ask: Ask,
        tell: Tell,
        errors: "TrialErrors",
        at_once: int | None,
        no_more_now: Callable[[], None],
        epochs_of: Callable[[Task], int] = lambda task: 0,  # noqa: ARG005 - default of a callback
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__(metric="finished", mode="max")
        self._ask, self._tell, self._errors, self._no_more_now = ask, tell, errors, no_more_now
        self._epochs_of, self._limit = epochs_of, limit
        self._one_by_one = at_once == 1
        self._running: dict[str, Task] = {}
        self._to_restart: list[Task] = []
        self._lost: Counter[str] = Counter()
        self._reached: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> Any:
        if (self._one_by_one and self._running) or len(self._running) >= self._limit():
            return None
        if self._to_restart:
            task: Task | None = self._to_restart.pop(0)
        else:
            try:
                task = self._ask()
            except StopIteration:
                self._no_more_now()
                # After FINISHED Tune asks no more, so a task whose process dies could not be restarted.
                return None if self._running else str(Searcher.FINISHED)
        if task is None:
            self._no_more_now()
            return None
        self._running[trial_id] = task
        content = {
            "jobs": [job.to_json() for job in task.jobs],
            "callbacks": [asdict(callback) for callback in task.callbacks],
        }
        return {"task": json.dumps(content)}  # as text: Tune would resolve a dictionary as a search space

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self._running.pop(trial_id, None)
        if task is None:
            return
        if error or result is None or "outcome" not in result:
            self._lost_process(task, self._errors.losses.pop(trial_id, Loss("lost worker", "killed")))
            return
        content = json.loads(result["outcome"])
        self._tell(task, Outcome(**{**content, "summaries": tuple(content["summaries"])}))

    def _lost_process(self, task: Task, loss: Loss) -> None:
        """Restart a task whose process ended without an outcome, unless that would not help.

        Preemptions are not the fault of the task, so it is restarted however often. Otherwise, it is restarted up to
        ATTEMPTS times without progress: nodes may vanish many times without notice, but a run that completes an epoch
        between two losses does not kill its own process.
        """
        if loss.kind == "preempted":
            log.warning("%s was %s. Restarting it.", task.name, loss.words)
            self._to_restart.append(task)
            return
        if loss.kind == "import error":
            self._tell(task, Outcome("failed", (), loss.words, loss.kind))
            return
        epochs = self._epochs_of(task)
        if epochs > self._reached[task.name]:
            self._reached[task.name], self._lost[task.name] = epochs, 0
        self._lost[task.name] += 1
        if self._lost[task.name] < ATTEMPTS:
            log.warning("The process of %s died. Restarting it from its last checkpoint.", task.name)
            self._to_restart.append(task)
            return
        reason = f"its process died {ATTEMPTS} times without progress ({loss.words}); its checkpoint is kept"
        self._tell(task, Outcome("failed", (), reason, loss.kind))

    def give_back(self) -> None:
        """Report tasks that Tune has not started when the study is stopped; the next start resumes them."""
        for task in (*self._running.values(), *self._to_restart):
            self._tell(task, Outcome("stopped", (), "stopped as requested before it started"))
        self._running.clear()
        self._to_restart.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a restore, which a study does not use."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study reads its state from its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _StopWhenIdle(tune.Callback, Stopper):
    """Ends Tune when the study was asked to stop and no run is active.

    Active runs end after their epoch. Without this, Tune would wait for runs that are pending on a cluster without
    nodes.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._stopping = stopping
        self._active: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._active.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._active.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._active.discard(trial.trial_id)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Tune's
        return False

    def stop_all(self) -> bool:
        return not self._active and self._stopping()

    def __getstate__(self) -> dict[str, Any]:
        """See `_TaskSearcher.__getstate__`."""
        return {}


class TrialProcess(tune.Trainable):
    """Runs tasks in a process of Tune, one after the other.

    A function for Tune would run in a thread, where Python delivers no signals: a run hears SIGTERM only in the main
    thread.
    """

    def step(self) -> dict[str, Any]:
        """Run one task. Report every error as an outcome, so that the process survives.

        Raises:
            RunPreempted: the process is about to be preempted, so Tune must give it no further task.
        """
        content = json.loads(self.config["task"])
        place = self.config["place"]
        wait_at_barrier(place["barrier"])
        jobs = [replace(Job.from_json(job), threads=place["threads"], gpus=place["gpus"]) for job in content["jobs"]]
        callbacks = [PruningCallback(**callback) for callback in content["callbacks"]]
        outcome = cannot_see_study(callbacks) or run_jobs(jobs, callbacks)
        return {"outcome": json.dumps(asdict(outcome)), "finished": 1.0, tune.result.DONE: True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002 - Tune's signature
        """Let Tune run another task in this process."""
        return True


def cannot_see_study(callbacks: list[PruningCallback]) -> Outcome | None:
    """A failure if this node cannot read the study's folder; None otherwise. An autoscaler may add such a node."""
    for callback in callbacks:
        if callback.url is None and not (Path(callback.folder) / CONFIG).exists():
            reason = (
                f"node {socket.gethostname()} cannot see the workspace: there is no {callback.folder}. Mount the "
                "shared disk on it, or use a workspace at a URL"
            )
            return Outcome("failed", (), reason, "other")
    return None


def run_jobs(jobs: list[Job], callbacks: list[PruningCallback]) -> Outcome:
    """Run the jobs one after the other, up to the first that is not complete.

    Raises:
        RunPreempted: this process is about to be preempted; the run has a checkpoint.
    """
    summaries: list[dict[str, float]] = []
    for job, callback in zip(jobs, callbacks, strict=True):
        try:
            summaries.append(launch(job, callback))
        except RunPruned as pruned:
            return Outcome("pruned", tuple(summaries), str(pruned))
        except StudyStopped as stopped:
            return Outcome("stopped", tuple(summaries), str(stopped))
        except RunPreempted:
            raise
        except Exception as error:  # whatever fails is recorded, and must not end the process
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failed = Outcome("failed", tuple(summaries), f"{job.name}: {reason}" if len(jobs) > 1 else reason,
                             cause_of(error))  # fmt: skip
            del error  # its traceback refers to the run's model, which is freed below
            _free()
            return failed
    return Outcome("complete", tuple(summaries))


def _free() -> None:
    """Free the memory of a failed run, because this process runs the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def execute(
    ask: Ask,
    tell: Tell,
    needs: Needs,
    folder: Path,
    on_place: Callable[[Place], None],
    epochs_of: Callable[[Task], int],
    stopping: Callable[[], bool],
) -> None:
    """Run tasks on Ray Tune, as many at once as fit, until `ask` has no more.

    Tune's processes are reused for several trials, because importing torch and Ray takes longer than a small run.

    Args:
        ask: returns the next task, or None to wait; raises StopIteration if there are no more.
        tell: called with each task and its outcome.
        folder: the study's, where Tune writes its files.
        on_place: called once with the place, before the first task.
        epochs_of: returns the number of epochs that a task has completed.
        stopping: returns whether the study was asked to stop.

    Raises:
        StudyError: not even one run fits.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # CSV, JSON and TensorBoard copies of our history
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # stopping.py has its own handler
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # a study does not use Tune's restore
    if not log.isEnabledFor(logging.INFO):  # `--debug`
        # They log tracebacks of full disks and lost processes, which the study reports as messages.
        for name in ray_private.TUNE_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Tune would hand the driver's keys on in the runtime environment, which Ray writes into its logs and shows in its
    # dashboard. Every machine has its own, in the environment that Ray was started in.
    ray_private.keep_from_trials("AWS_")
    errors = TrialErrors()
    with placed(needs) as place, _quiet() as audible:
        on_place(place)
        at_once = place.concurrency if not place.machines else needs.concurrency
        fixed = math.inf if at_once is None or not place.machines else at_once
        limit = ClusterLimit(needs, place.gpus) if at_once is None else lambda: fixed
        barrier = StartBarrier(place.now) if place.now > 1 else None
        no_more_now = (lambda: None) if barrier is None else barrier.open
        searcher = _TaskSearcher(audible(ask), audible(tell), errors, at_once, no_more_now, epochs_of, limit)
        stop_when_idle = _StopWhenIdle(stopping)
        tuner = tune.Tuner(
            tune.with_resources(TrialProcess, place.share),
            param_space={
                "place": {
                    "threads": place.threads,
                    "gpus": place.gpus,
                    "barrier": None if barrier is None else barrier.name,
                }
            },
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=errors,
                num_samples=-1,
                reuse_actors=True,
                metric="finished",
                mode="max",
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.resolve()),
                verbose=0,
                callbacks=[stop_when_idle],
                stop=stop_when_idle,
                log_to_file=True,
                # A run writes its checkpoints itself.
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()
        searcher.give_back()


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[Callable[..., T]], Callable[..., T]]]:
    """Hide what Tune prints, whatever its verbosity. Functions wrapped by the yielded function still print."""
    stdout = sys.stdout

    def audible(what: Callable[..., T]) -> Callable[..., T]:
        def call(*arguments: Any) -> T:
            with contextlib.redirect_stdout(stdout):
                return what(*arguments)

        return call

    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        yield audible
