"""Tasks: the runs of a study as Ray Tune trials

Tune asks a searcher for work and tells it what came of it. Ours passes both on, so that the study alone decides what
is next: Optuna's storage is the truth, Tune executes. (`OptunaSearch` records pruned and failed trials as something
else, and its restore crashes: docs/platform.md.)
"""

import contextlib
import gc
import json
import logging
import math
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from remix_study import ray_private
from remix_study.errors import CAUSES, RunPruned, StudyError, StudyStopped, cause_of
from remix_study.launch.ray_init import join_or_start, ray_resources
from remix_study.launch.run import launch
from remix_study.launch.worker import Job, worker_threads
from remix_study.study.pruning import PruningCallback
from remix_study.study.question import CONFIG
from remix_study.study.start_barrier import StartBarrier, wait_at_barrier

log = logging.getLogger(__name__)
T = TypeVar("T")
SLOT = "trial_slot"
_LOOK_EVERY_S = 5.0
ATTEMPTS = 3  # of a task whose process was lost: each goes on from the run's last checkpoint
End = Literal["complete", "pruned", "failed", "stopped"]


@dataclass(frozen=True)
class Task:
    """One trial of a study (a run per seed), or one replicate (one run), and its `number`."""

    stage: str
    method: str
    number: int
    jobs: tuple[Job, ...] = field(repr=False)
    callbacks: tuple[PruningCallback, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.stage}-{self.number}"


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    summaries: of the runs that are complete, in the order of their seeds.
    reason, cause: of any other end; `cause` (of `errors.CAUSES`) of a failure only.
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


@dataclass(frozen=True)
class Needs:
    """What the runs of a study take.

    concurrency: None: as many at once as there is room for. gpus: of each worker; None: one where there are any.
    """

    concurrency: int | None = None
    workers: int = 1
    cpus: float = 1
    gpus: float | None = None
    may_use_gpu: bool = True


@dataclass(frozen=True)
class Place:
    """Where tasks run: how many at once, what Tune reserves for each, torch's threads and GPUs of each worker.

    now: how many at once before an autoscaler adds machines. machines: of the Ray we joined; 0: it is our own.
    """

    concurrency: int
    share: dict[str, float]
    threads: int
    gpus: float
    now: int
    machines: int = 0


class _TaskSearcher(Searcher):
    """`ask` gives a task, None for 'not now', or raises StopIteration when there is no more.

    Tune asks for a task before there is room for it, which keeps its processes warm. Where runs come one after the
    other it is not given one: what is suggested must follow from all that ended before, killed or not.
    """

    def __init__(
        self,
        ask: Ask,
        tell: Tell,
        errors: "_ErrorTexts",
        at_once: int | None,
        no_more_now: Callable[[], None],
        epochs_of: Callable[[Task], int] = lambda task: 0,  # noqa: ARG005 - as it is called
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__(metric="finished", mode="max")
        self._ask, self._tell, self._errors, self._no_more_now = ask, tell, errors, no_more_now
        self._epochs_of, self._limit = epochs_of, limit
        self._one_by_one = at_once == 1
        self._given: dict[str, Task] = {}
        self._again: list[Task] = []
        self._lost: Counter[str] = Counter()
        self._reached: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> Any:
        if (self._one_by_one and self._given) or len(self._given) >= self._limit():
            return None
        if self._again:
            task: Task | None = self._again.pop(0)
        else:
            try:
                task = self._ask()
            except StopIteration:
                self._no_more_now()
                # Once told that it is finished, Tune asks no more, and a task that is lost could not be given again.
                return None if self._given else str(Searcher.FINISHED)
        if task is None:
            self._no_more_now()
            return None
        self._given[trial_id] = task
        content = {
            "jobs": [job.to_json() for job in task.jobs],
            "callbacks": [asdict(callback) for callback in task.callbacks],
        }
        return {"task": json.dumps(content)}  # as text: Tune would search inside a dictionary

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self._given.pop(trial_id, None)
        if task is None:
            return
        if error or result is None or "outcome" not in result:
            self._process_lost(task, self._errors.words.pop(trial_id, ""))
            return
        content = json.loads(result["outcome"])
        self._tell(task, Outcome(**{**content, "summaries": tuple(content["summaries"])}))

    def _process_lost(self, task: Task, words: str) -> None:
        """Nobody knows why a process died; another one takes its run up, but not for ever.

        A machine that is lent may be taken away again and again, and a run that comes further each time is none that
        kills its process: only losses without an epoch between them count.
        """
        epochs = self._epochs_of(task)
        if epochs > self._reached[task.name]:
            self._reached[task.name], self._lost[task.name] = epochs, 0
        self._lost[task.name] += 1
        if self._lost[task.name] < ATTEMPTS:
            log.warning("the process of %s died; another one goes on from its last checkpoint", task.name)
            self._again.append(task)
            return
        memory = "memory" in words.lower()
        reason = f"its process died {ATTEMPTS} times and came no further ({words or 'killed'}); its checkpoint is kept"
        self._tell(task, Outcome("failed", (), reason, "out of memory" if memory else "lost worker"))

    def give_back(self) -> None:
        """What was handed out and has not begun when the study was stopped: it goes on at the next start."""
        for task in self._given.values():
            self._tell(task, Outcome("stopped", (), "stopped as asked before there was room for it"))
        self._given.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its searcher down for a restore that we never ask for."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours is in memory only: the study rebuilds it from its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _StopWhenIdle(tune.Callback, Stopper):
    """Ends Tune where the study was asked to stop, and nobody is at work

    Runs at work end by themselves, after their epoch. One that waits for a machine would be waited for instead, on a
    cluster that has none any more: for ever.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._stopping = stopping
        self._at_work: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._at_work.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._at_work.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's
        self._at_work.discard(trial.trial_id)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Tune's
        return False

    def stop_all(self) -> bool:
        return not self._at_work and self._stopping()

    def __getstate__(self) -> dict[str, Any]:
        """As for the searcher."""
        return {}


class _ClusterLimit:
    """How many runs may be at work at once on a cluster: machines join it and leave it."""

    def __init__(self, needs: Needs, gpus: float) -> None:
        self._needs, self._gpus = needs, gpus
        self._known, self._until_s = 0, 0.0

    def __call__(self) -> int:
        """As of some seconds ago.

        An autoscaler that does not tell how far it goes adds machines for what waits alone: so one waits.
        """
        if time.monotonic() >= self._until_s:
            have = ray_resources()
            now = fitting(self._needs, have.cpus, have.gpus, self._gpus)
            most = fitting(self._needs, have.max_cpus, have.max_gpus, self._gpus)
            waiting = 1 if have.may_grow else 0
            # One at least: where the last machine has just gone, a run that waits for the next one is what brings it.
            self._known = max(1, most, now + waiting)
            self._until_s = time.monotonic() + _LOOK_EVERY_S
        return self._known


class _ErrorTexts(FIFOScheduler):
    """Tune tells its searcher that a trial's process died, and only its scheduler of what."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's gap
        self.words: dict[str, str] = {}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002 - Tune's signature
        self.words[trial.trial_id] = " ".join(str(trial.get_error() or "").split())[:300]


def _trial(config: dict[str, Any]) -> None:
    """In a Tune worker process: the runs of one task, whose ends are an outcome and not a crash of the process."""
    content = json.loads(config["task"])
    place = config["place"]
    wait_at_barrier(place["barrier"])
    jobs = [replace(Job.from_json(job), threads=place["threads"], gpus=place["gpus"]) for job in content["jobs"]]
    callbacks = [PruningCallback(**callback) for callback in content["callbacks"]]
    outcome = cannot_see_study(callbacks) or run_jobs(jobs, callbacks)
    tune.report({"outcome": json.dumps(asdict(outcome)), "finished": 1.0})


def cannot_see_study(callbacks: list[PruningCallback]) -> Outcome | None:
    """A failure where this machine does not see the study: one that an autoscaler has added, and nobody looked at."""
    for callback in callbacks:
        if callback.url is None and not (Path(callback.folder) / CONFIG).exists():
            reason = (
                f"the machine {socket.gethostname()} must see the workspace, but there is no {callback.folder}. Mount "
                "the shared disk there, too, or use a workspace at a URL"
            )
            return Outcome("failed", (), reason, "other")
    return None


def run_jobs(jobs: list[Job], callbacks: list[PruningCallback]) -> Outcome:
    """One run after the other; the first that does not complete ends the task."""
    summaries: list[dict[str, float]] = []
    for job, callback in zip(jobs, callbacks, strict=True):
        try:
            summaries.append(launch(job, callback))
        except RunPruned as pruned:
            return Outcome("pruned", tuple(summaries), str(pruned))
        except StudyStopped as stopped:
            return Outcome("stopped", tuple(summaries), str(stopped))
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failed = Outcome("failed", tuple(summaries), f"{job.name}: {reason}" if len(jobs) > 1 else reason,
                             cause_of(error))  # fmt: skip
            del error  # its traceback holds the run's model, which is to be freed
            _free()
            return failed
    return Outcome("complete", tuple(summaries))


def _free() -> None:
    """The process goes on with another run: what a failed one held must not make that fail, too."""
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
    """Run tasks, as many at once as there is room for, until `ask` has no more; `on_place` is told where, first.

    `epochs_of(task)` says how far a task has come whose process was lost; `stopping`, whether to end without more.

    Tune's processes are reused from trial to trial: importing torch, Ray and MLflow takes longer than a small run.

    Raises:
        StudyError: not even one run has room.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # CSV, JSON and TensorBoard copies of our history
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the study has one of its own (stopping.py)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # for a restore that we never ask for
    if not log.isEnabledFor(logging.INFO):  # `--debug`
        # Of a disk that is full, or a process that died, they show tracebacks; we have a sentence.
        for name in ray_private.TUNE_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Tune would hand the driver's keys on in the runtime environment, which Ray writes into its logs and shows in its
    # dashboard. Every machine has its own, in the environment that Ray was started in.
    ray_private.keep_from_trials("AWS_")
    errors = _ErrorTexts()
    with _place(needs) as place, _quiet() as aloud:
        on_place(place)
        at_once = place.concurrency if not place.machines else needs.concurrency
        fixed = math.inf if at_once is None or not place.machines else at_once
        limit = _ClusterLimit(needs, place.gpus) if at_once is None else lambda: fixed
        barrier = StartBarrier(place.now) if place.now > 1 else None
        no_more_now = (lambda: None) if barrier is None else barrier.open
        searcher = _TaskSearcher(aloud(ask), aloud(tell), errors, at_once, no_more_now, epochs_of, limit)
        leaving = _StopWhenIdle(stopping)
        tuner = tune.Tuner(
            tune.with_resources(_trial, place.share),
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
                callbacks=[leaving],
                stop=leaving,
                log_to_file=True,
            ),
        )
        tuner.fit()
        searcher.give_back()


def slots(needs: Needs, cpus: float, gpus: float) -> tuple[int, float]:
    """How many runs at once fit into so many CPU cores and GPUs, and the GPUs of each of their workers.

    Raises:
        StudyError: not even one.
    """
    each = (1.0 if gpus > 0 else 0.0) if needs.gpus is None else needs.gpus
    each = each if needs.may_use_gpu else 0.0
    fit = fitting(needs, cpus, gpus, each)
    if fit < 1 and needs.concurrency is None:
        raise StudyError(
            f"one run needs {needs.workers} x {needs.cpus:g} CPU cores and {needs.workers} x {each:g} GPUs, but there "
            f"are {cpus:g} and {gpus:g}. Lower `base.workers` or `resources`, or run on a cluster; on one that an "
            "autoscaler fills, say with `concurrency` how many runs shall be at work at once."
        )
    return needs.concurrency or fit, each


def fitting(needs: Needs, cpus: float, gpus: float, each: float) -> int:
    """How many runs fit at once, if each of their workers takes `each` GPUs."""
    fit = math.floor(cpus / (needs.workers * needs.cpus))
    if each > 0:
        fit = min(fit, math.floor(gpus / (needs.workers * each) + 1e-9))
    return fit


@contextlib.contextmanager
def _place(needs: Needs) -> Iterator[Place]:
    """A Ray of our own with a slot for each run, or the one that RAY_ADDRESS names with what it has."""
    cores = float(len(os.sched_getaffinity(0)))
    at_once, gpus = 0, 0.0
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        at_once, gpus = slots(needs, cores, torch.cuda.device_count())
    ours = join_or_start(
        # More runs at once than cores are the user's word; Ray would keep them waiting for ever.
        num_cpus=max(int(cores), math.ceil(at_once * needs.workers * needs.cpus)),
        resources={SLOT: at_once},
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore"}},
    )
    try:
        if ours:
            now, machines = at_once, 0
            share = {SLOT: 1.0} if needs.workers > 1 or gpus == 0 else {SLOT: 1.0, "gpu": gpus}
            threads = max(1, worker_threads(at_once * needs.workers))
        else:
            have = ray_resources()
            growing = needs if needs.concurrency is not None or not have.may_grow else replace(needs, concurrency=1)
            at_once, gpus = slots(growing, have.max_cpus, have.max_gpus)
            if growing is not needs:
                at_once = max(1, fitting(needs, have.max_cpus, have.max_gpus, gpus))
            now, machines = min(at_once, fitting(needs, have.cpus, have.gpus, gpus)), have.machines
            # With several workers the trial only waits for them, and must not take a core of theirs; but Tune refuses a
            # trial that takes nothing: one byte.
            share = {"memory": 1.0} if needs.workers > 1 else {"cpu": needs.cpus, "gpu": gpus}
            threads = max(1, int(needs.cpus))
        yield Place(at_once, share, threads, gpus, now, machines)
    finally:
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[Callable[..., T]], Callable[..., T]]]:
    """Tune prints a farewell whatever its verbosity. What the yielded function wraps is heard all the same."""
    heard = sys.stdout

    def aloud(what: Callable[..., T]) -> Callable[..., T]:
        def call(*arguments: Any) -> T:
            with contextlib.redirect_stdout(heard):
                return what(*arguments)

        return call

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield aloud
