"""The progress of a study: trials and replicates of all its methods, as recorded, as running, and as the next task"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, StudyError
from remix_study.launch.folder import RunFolder
from remix_study.launch.worker import Job
from remix_study.study.budget import Rates, Used
from remix_study.study.ledger import FINAL, REPLICATE, SEARCH, TrialRecord, has_diverged, summed
from remix_study.study.needed import needed_methods
from remix_study.study.replicates import Replicates
from remix_study.study.scheduler import MethodState, StudyState
from remix_study.study.search import Search
from remix_study.study.search_space import Params
from remix_study.study.storage import open_storage
from remix_study.study.study_tracker import StudyTracker
from remix_study.study.task_factory import TaskFactory
from remix_study.study.tasks import Outcome, Task


class StudyProgress:
    """Trials and replicates of one study, read from its storage and its run folders.

    Args:
        tasks: makes the tasks of the study.
        tracker: the study's MLflow run.
        patience_s: how long to wait for a database that is being restarted.
        retry_failed: run failed trials again, with the same hyperparameters.
    """

    def __init__(
        self, config: StudyConfig, folder: Path, tasks: TaskFactory, tracker: StudyTracker, patience_s: float,
        *, retry_failed: bool,
    ) -> None:  # fmt: skip
        self._config, self._folder, self._tasks, self._tracker = config, folder, tasks, tracker
        self._needs = needed_methods(config, tasks.settings)
        self._searching = True
        self._searches: dict[str, Search] = {}
        self._replicates: dict[str, Replicates] = {}
        self._replicates_s: dict[tuple[str, str], float] = {}  # by method, and by run folder
        self._opened: list[Search] = []  # also those of methods that `retrain` leaves alone
        self._noted: dict[str, list[Mapping[str, Any]]] = {}  # replicates that earlier starts completed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(config.storage, folder, patience_s=patience_s)
        for method in config.methods:
            search = Search(config, method, folder, storage, tasks.epochs)
            search.resume(retry_failed=retry_failed)
            self._searches[method] = search
            self._opened.append(search)
            notes = search.replicate_notes()
            for note in notes.values():
                runs = {**note.get("earlier", {}), note["folder"]: note}
                self._replicates_s |= {(method, run): used.get("seconds", 0.0) for run, used in runs.items()}
            wanted = [f"{REPLICATE} {number}" for number in range(config.replicates)]
            self._noted[method] = [notes[key] for key in wanted if key in notes and notes[key]["state"] == "complete"]

    def retrain(self, method: str, seeds: int) -> Replicates:
        """From now on start no trials, only `seeds` runs of the chosen hyperparameters of `method`.

        The methods that it needs are retrained with it.

        Raises:
            StudyError: none of the method's trials is complete, or it cannot train on the clips it is to be given.
        """
        self._searching, self._replicates = False, {}
        self._searches = {name: self._searches[name] for name in (*self._needs[method].values(), method)}
        for name in self._searches:
            best = self._best(name)
            if best is None:
                own = self._config.searched(name) == method
                whose = "its trials" if own else f"the trials of `{self._config.searched(name)}`, which it needs,"
                raise StudyError(f"Cannot retrain `{method}`: none of {whose} is complete. Resume the study first.")
            self._tasks.require_retrainable(name, best.params)
            self._replicates[name] = self._open_replicates(name, FINAL, seeds, best.params)
        return self._replicates[method]

    def choose(self, closed: str | None, closed_at: int = 0) -> None:
        """Choose the hyperparameters to replicate of each method that gets no more trials.

        Args:
            closed: why no method gets more than `closed_at` trials; None while the search is open.
        """
        # Methods that others need first, without which those cannot be chosen.
        while chosen := [m for m in self.state(closed=closed, closed_at=closed_at).to_choose() if self._choose(m)]:
            assert set(chosen) <= set(self._replicates)

    def _choose(self, method: str) -> bool:
        """Choose the hyperparameters to replicate of a method. Returns whether any of its trials is complete."""
        best = self._best(method)
        if best is None:
            return False
        self._replicates[method] = self._open_replicates(method, REPLICATE, self._config.replicates, best.params)
        return True

    def _best(self, method: str) -> TrialRecord | None:
        """The trial whose hyperparameters a method has; None if none is complete."""
        return self._searches[self._config.searched(method)].best()

    def _open_replicates(self, method: str, stage: str, wanted: int, params: Params) -> Replicates:
        def folder_of(number: int) -> Path:
            needed = self._needed_replicates(method, number)
            return Path(self._tasks.replicate_job(stage, method, number, params, needed).folder)

        def needs_of(number: int) -> dict[str, str]:
            needed = self._needed_replicates(method, number)
            return {self._needs[method][what]: self._relative(job) for what, job in needed.items()}

        replicates = Replicates(self._searches[method], stage, wanted, params, folder_of, needs_of)
        replicates.resume()
        for folder in replicates.superseded:
            self._tracker.mark_superseded(folder)
        for number in replicates.summaries:
            self._tracker.mark_current(folder_of(number), stage)
        return replicates

    def _needed_replicates(self, method: str, number: int) -> dict[str, Job]:
        """The runs that a replicate needs, by what for: the replicates with the same number."""
        found = {}
        for what, other in self._needs[method].items():
            of, needed = self._replicates[other], self._needed_replicates(other, number)
            found[what] = self._tasks.replicate_job(of.stage, other, number, of.params, needed)
        return found

    def _needed_trials(self, method: str) -> list[dict[str, Job]]:
        """For each seed of a trial, the runs that its run needs, by modality: those of the chosen trials."""
        if not self._needs[method]:
            return []
        by_seed: list[dict[str, Job]] = [{} for _ in range(self._config.seeds_per_trial)]
        for m, other in self._needs[method].items():
            best = self._searches[other].best()
            assert best is not None, "trials start after the configurations of the methods that they need are chosen"
            for of_seed, job in zip(by_seed, self._tasks.trial_jobs(other, best.number, best.params), strict=True):
                of_seed[m] = job
        return by_seed

    def _relative(self, job: Job) -> str:
        """The folder of a run, relative to the study's, which may be read under another path."""
        return Path(job.folder).relative_to(self._folder).as_posix()

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self, *, closed: str | None = None, closed_at: int = 0, stopping: bool = False) -> StudyState:
        """What the scheduler decides by, without a budget; see `StudyState`."""
        methods = {name: self._method_state(name) for name in self._searches}
        return StudyState(
            methods, self._searching, self._config.seeds_per_trial, closed=closed, closed_at=closed_at,
            stopping=stopping,
        )  # fmt: skip

    def _method_state(self, method: str) -> MethodState:
        search, replicates = self._searches[method], self._replicates.get(method)
        counts = self._config.trials_of(method), search.ended, search.running
        needs = tuple(self._needs[method].values())
        if replicates is None:
            # Replicates of an earlier start, before it was extended: they stay if the choice does.
            best = self._best(method)
            kept = 0 if best is None else sum(note["params"] == best.params for note in self._noted[method])
            return MethodState(*counts, self._config.replicates, kept, needs=needs)
        return MethodState(
            *counts, replicates.wanted, replicates.complete, replicates.coming, chosen=True, needs=needs,
            complete=frozenset(replicates.summaries), failed=replicates.failed,
        )  # fmt: skip

    def used(self, rates: Rates, clock_s: float) -> Used:
        """What all runs so far have used."""
        work_s = sum(self._replicates_s.values()) + sum(search.work_s for search in self._opened)
        return rates.used(work_s, clock_s)

    def mean_run_s(self) -> float | None:
        """Mean duration of the runs of complete trials, in seconds; None if there are none."""
        complete = [r for search in self._searches.values() for r in search.records() if r.state == "complete"]
        runs = sum(len(r.folders) for r in complete)
        return sum(r.seconds for r in complete) / runs if runs else None

    def metrics(self, used: Used) -> dict[str, float]:
        """Metrics of the study's own MLflow run."""
        counts: dict[str, float] = {}
        for end in ("complete", "pruned", "failed"):
            counts[f"study/trials_{end}"] = float(sum(s.ends.get(end, 0) for s in self._searches.values()))
        counts["study/replicates_complete"] = float(sum(r.complete for r in self._replicates.values()))
        counts |= {f"study/budget_{name}": value for name, value in used._asdict().items()}
        for method, search in self._searches.items():
            if (best := search.best()) is not None:
                counts[f"study/best/{method}"] = best.values[0]
        return counts

    # --- tasks -------------------------------------------------------------------------------------------------------

    def start_trial(self, method: str) -> tuple[Task, str | None]:
        """The next trial of a method, recorded as running.

        Its hyperparameters may contradict each other, such as a schedule that ends before it begins. Then the task has
        no runs, and the second value says why.
        """
        search = self._searches[method]
        number, params = search.next()
        try:
            task = self._tasks.trial(method, number, params, search.id_of(number), self._needed_trials(method))
        except ConfigError as error:
            return Task(SEARCH, method, number, (), ()), str(error)
        search.note(number, folders={str(n): self._relative(job) for n, job in enumerate(task.jobs)})
        return task, None

    def start_replicate(self, method: str) -> Task:
        """The next replicate of a method, recorded as running."""
        replicates = self._replicates[method]
        number = replicates.next()
        needed = self._needed_replicates(method, number)
        task = self._tasks.replicate(replicates.stage, method, number, replicates.params, needed)
        self._note_seconds(task)
        return task

    def start_failed(self, method: str, number: int | None) -> Task:
        """A task without runs, for a trial (`number` None) or replicate that cannot run, recorded as running."""
        if number is None:
            return Task(SEARCH, method, self._searches[method].next()[0], (), ())
        replicates = self._replicates[method]
        assert replicates.next() == number
        return Task(replicates.stage, method, number, (), ())

    def _note_seconds(self, task: Task) -> None:
        for job in task.jobs:
            self._replicates_s[task.method, self._relative(job)] = RunFolder(Path(job.folder)).seconds

    def tell(self, task: Task, outcome: Outcome) -> None:
        """Record the outcome of a task."""
        if task.stage == SEARCH:
            self._tell_trial(task, outcome)
            return
        self._note_seconds(task)
        summary = outcome.summaries[0] if outcome.state == "complete" else None
        self._replicates[task.method].tell(
            task.number, outcome.state, summary, reason=outcome.reason, cause=outcome.cause
        )

    def _tell_trial(self, task: Task, outcome: Outcome) -> None:
        metrics = [objective.metric for objective in self._config.objectives_of(task.method)]
        outcome = outcome.with_metrics(metrics)
        first = self._config.metrics[0]
        self._searches[task.method].tell(
            task.number,
            outcome.state,
            outcome.means(metrics) if outcome.state == "complete" else [],
            seconds=sum(RunFolder(Path(job.folder)).seconds for job in task.jobs),
            work=summed([RunFolder(Path(job.folder)).work for job in task.jobs]),
            seed_values={str(n): s[first] for n, s in enumerate(outcome.summaries) if first in s},
            reason=outcome.reason,
            cause=outcome.cause,
            diverged=any(map(has_diverged, outcome.summaries)) or None,
        )
