"""The spine of a study

    search      every method gets the same number of trials, each a point of its own search space
    choose      each method's best point, on validation
    replicate   that point again with new seeds; the test split is looked at here, once
    compare     means, paired differences, sufficiency (results.py)

Optuna's storage is the truth. Whatever process dies, the same command goes on: a trial that was running goes on under
its own number (search.py), and its run from its own checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from remix_study.config.run import RunConfig
from remix_study.config.study import NoPrunerConfig, StudyConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import StoreError, StudyError, StudyStopped, TrackingError, cause_of
from remix_study.files.disk import sole_writer, storage_errors
from remix_study.files.mirror import url_of
from remix_study.fit import require_fit
from remix_study.launch.folder import RunFolder
from remix_study.launch.nodes import on_a_cluster, require_alike
from remix_study.launch.ray_init import join_or_start
from remix_study.launch.run import make_job, require_lasting, tracking_uri
from remix_study.launch.worker import Job
from remix_study.media.store import ClipStore
from remix_study.study.budget import Clock, Rates, Used
from remix_study.study.ledger import FINAL, REPLICATE, SEARCH, read_ledger
from remix_study.study.pruning import pruning_callback
from remix_study.study.question import CONFIG, require_same_question, write_question
from remix_study.study.remote import RemoteWorkspace, look_in, remote_workspace
from remix_study.study.replicates import FIRST_SEED, Replicates
from remix_study.study.results import StudyResult, result_of
from remix_study.study.search import Search
from remix_study.study.search_space import Params, check_study, configure
from remix_study.study.stopping import leavable, stoppable
from remix_study.study.storage import (
    PATIENCE_S,
    STOP,
    answering,
    check_storage,
    open_storage,
    optuna_name,
    study_folder,
)
from remix_study.study.study_tracker import StudyTracker, recording
from remix_study.study.tasks import Needs, Outcome, Place, Task, execute
from remix_study.tracking.address import check as check_tracking

Present = Callable[[Path], Sequence[Path]]  # the study's folder -> the files of its report, the page first


@dataclass(frozen=True)
class Watch:
    """Who is told how a study comes along: how many of how many runs have ended, before the first and after each."""

    begin: Callable[[int, int], None] = lambda ended, total: None  # noqa: ARG005
    done: Callable[[Task, Outcome, int, int], None] = lambda task, outcome, ended, total: None  # noqa: ARG005
    say: Callable[[str], None] = lambda words: None  # noqa: ARG005


class StudyRun:
    """One start of a study, in its folder; every later start goes on where this one ends.

    settings: dotted keys that win over the study's base, such as {"corpus": folder}.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: Mapping[str, Any],
        workspace: Path,
        watch: Watch | None = None,
        *,
        retry_failed: bool = False,
    ) -> None:
        self._config = config
        self._settings = settings
        self._workspace = workspace.resolve()
        self._watch = watch or Watch()
        self._retry_failed = retry_failed
        self.folder = study_folder(self._workspace, config.name)
        self._searches: dict[str, Search] = {}
        self._replicates: dict[str, Replicates] = {}
        self._parent: StudyTracker | None = None
        self._home = RemoteWorkspace(self.folder, None)  # until the study is at work
        self._searching = True
        self._replicated_s = 0.0
        self._epochs = 0
        self._data = ""
        self._out_of_budget: str | None = None
        self._disk_full = False

    def run(self, present: Present) -> StudyResult | None:
        """Run the study to its end, or from where it was; None where no method has a result yet.

        Raises:
            ConfigError, StudyError, TrackingError: before anything starts, where possible.
            StudyStopped: somebody asked it to stop; the same command goes on.
        """
        configs, store = self._checked()
        with self._at_work(configs, store) as record:
            self._begin_searches(retry_failed=self._retry_failed)
            self._work()
            self._require_at_end()
            result = self._conclude(record, present)
        if self._out_of_budget is not None:
            self._watch.say(f"the budget is used up ({self._out_of_budget}); raise `budget` and run the same command")
        return result

    def retrain(self, method: str, seeds: int, present: Present) -> dict[int, dict[str, float]]:
        """The chosen point of `method` with `seeds` further seeds: seed number -> summary of the run.

        Raises:
            StudyError: no such method, or none of its trials is complete.
            StudyStopped: as `run`.
        """
        configs, store = self._checked()
        with self._at_work(configs, store) as record:
            self._begin_searches(retry_failed=False)
            search = self._searches[method]
            best = search.best()
            if best is None:
                raise StudyError(
                    f"at least one trial of `{method}` must be complete, but none is. Let the study run on."
                )
            self._searches = {method: search}
            self._replicates = {method: self._begin_replicates(method, FINAL, seeds, best.params)}
            self._work(searching=False)
            self._require_at_end()
            self._conclude(record, present)
        return self._replicates[method].summaries

    # --- before ------------------------------------------------------------------------------------------------------

    def _checked(self) -> tuple[list[RunConfig], ClipStore]:
        check_storage(self._config.storage, url_of(self.folder))
        configs = check_study(self._config, self._settings)
        store = open_corpus(configs[0].corpus)
        for config in configs:
            require_fit(config, store)
        look_in(self.folder, whole=False)
        uri = tracking_uri(configs[0], self._workspace)
        if uri is not None:
            require_lasting(uri, self._workspace)
            self._check_tracking(uri)
        if on_a_cluster():
            join_or_start()
            require_alike(self._workspace, configs[0].corpus)
        self._data = store.digest
        self._epochs = max(config.epochs for config in configs)
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return configs, store

    def _check_tracking(self, uri: str) -> None:
        """A new study must not find out in the morning that its address is wrong; one that goes on waits for nobody."""
        try:
            check_tracking(uri)
        except TrackingError as error:
            if not (self.folder / CONFIG).exists():
                raise
            self._watch.say(f"the study goes on without its tracking server, and sends everything later: {error}")

    @contextmanager
    def _at_work(self, configs: Sequence[RunConfig], store: ClipStore) -> Iterator[StudyTracker]:
        """The study's lock, clock and MLflow run, held while this process works on it."""
        self._needs = needs_of(self._config, configs)
        uri, experiment = tracking_uri(configs[0], self._workspace), configs[0].tracking.experiment
        with (
            _room_needed(self.folder), sole_writer(self.folder / "lock"), leavable(self.folder),
            remote_workspace(self.folder, self._watch.say) as self._home, answering(self._config.storage),
        ):  # fmt: skip
            # Before the study's MLflow run is opened again: a refusal must not mark it FAILED.
            require_same_question(self._config, self._data, self.folder)
            write_question(self._config, self._settings, self._data, self.folder)
            self._clock = Clock(self.folder, Rates(self._needs.workers * self._needs.cpus, 0.0, 1))
            with recording(uri, experiment, self._config, store, self.folder) as record:
                self._parent = record
                self._home.push()  # what ended with the driver before is told so, ahead of those who go on with it
                try:
                    yield record
                finally:
                    self._clock.write()

    def _begin_searches(self, *, retry_failed: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(self._config.storage, self.folder, patience_s=PATIENCE_S)
        for method in self._config.methods:
            search = Search(self._config, method, self.folder, storage, self._epochs)
            search.settle(retry_failed=retry_failed)
            self._searches[method] = search
            told = search.remembered()
            self._replicated_s += sum(told[key].get("seconds", 0.0) for key in told
                                      if key.startswith((REPLICATE, FINAL)))  # fmt: skip

    def _begin_replicates(self, method: str, stage: str, wanted: int, point: Params) -> Replicates:
        def folder_of(number: int, point: Params) -> Path:
            return Path(self._job(stage, method, number, point, FIRST_SEED[stage] + number).folder)

        made = Replicates(self._searches[method], stage, wanted, folder_of)
        made.settle(point)
        if self._parent is not None:
            for folder in made.superseded:
                self._parent.supersede(folder)
        return made

    # --- while at work -----------------------------------------------------------------------------------------------

    def _work(self, *, searching: bool = True) -> None:
        self._searching = searching
        self._choose_where_searched()
        self._watch.begin(self._ended, self._total)
        if self._ended < self._total:
            with stoppable(self.folder, self._watch.say):
                stop = self.folder / STOP
                execute(self._ask, self._tell, self._needs, self.folder, self._placed, self._epochs_of, stop.exists)

    def _placed(self, place: Place) -> None:
        workers = self._needs.workers
        if place.machines:
            more = "; more as machines join" if self._needs.concurrency is None else ""
            self._watch.say(
                f"{self._config.name} has begun on a cluster of {_counted(place.machines, 'machine')}: "
                f"{_counted(max(0, min(place.now, place.concurrency)), 'run')} at once{more}"
            )
        self._clock.rates = Rates(workers * self._needs.cpus, workers * place.gpus, place.concurrency)
        self._clock.write()

    def _epochs_of(self, task: Task) -> int:
        """How far a task has come, over all its runs."""
        for job in task.jobs:
            self._home.fetch(Path(job.folder))
            self._home.watch(Path(job.folder))
        return sum(len(RunFolder(Path(job.folder)).history) for job in task.jobs)

    @property
    def _total(self) -> int:
        """Runs that the study is made of: trials and replicates of all methods."""
        trials = self._config.trials if self._searching else 0
        wanted = {m: self._replicates[m].wanted if m in self._replicates else self._config.replicates
                  for m in self._searches}  # fmt: skip
        return sum(trials + wanted[m] for m in self._searches)

    @property
    def _ended(self) -> int:
        trials = sum(search.ended for search in self._searches.values()) if self._searching else 0
        return trials + sum(replicates.complete for replicates in self._replicates.values())

    def _ask(self) -> Task | None:
        """The next task: a trial of the method that has had fewest, else a replicate of a method that is searched."""
        self._home.require_ours()
        if self._disk_full or (self.folder / STOP).exists():
            raise StopIteration  # what runs now ends after its epoch
        if (reached := self._used().exceeds(self._config.budget)) is not None:
            self._out_of_budget = reached
            raise StopIteration
        if self._searching and self._may_search():
            return self._trial(max(self._searches, key=lambda m: self._searches[m].room))
        self._choose_where_searched()
        # The first of every method before the second of any: where a budget ends them, the methods have the same seeds.
        coming = {method: number for method, r in self._replicates.items() if (number := r.coming) is not None}
        if coming:
            return self._replicate(min(coming, key=lambda m: coming[m]))
        if any(search.running for search in self._searches.values()):
            return None  # replicates wait for the last trials of their method
        raise StopIteration

    def _may_search(self) -> bool:
        """Whether a trial may begin: there is room for one, and one more of every method leaves room for replicates."""
        rooms = [search.room for search in self._searches.values()]
        if max(rooms) <= 0 or self._out_of_budget is not None:
            return False
        limited = self._used().limits(self._config.budget)
        runs, work_s = self._runs_so_far() if limited else (0, 0.0)
        if runs == 0 or max(rooms) > min(rooms):  # methods have the same budget: a round that has begun is ended
            return True
        running = sum(search.running for search in self._searches.values())
        coming = (running + len(rooms)) * self._config.seeds_per_trial + len(rooms) * self._config.replicates
        reached = self._used().plus(self._clock.rates.of_runs(coming, work_s / runs)).exceeds(self._config.budget)
        if reached is not None:
            self._out_of_budget = f"{reached} with the runs that are still to come"
        return reached is None

    def _runs_so_far(self) -> tuple[int, float]:
        """Complete trials' runs and their seconds: what one more will take."""
        complete = [r for search in self._searches.values() for r in search.records() if r.state == "complete"]
        return sum(len(r.folders) for r in complete), sum(r.seconds for r in complete)

    def _used(self) -> Used:
        work_s = self._replicated_s + sum(search.work_s for search in self._searches.values())
        return self._clock.rates.used(work_s, self._clock.seconds)

    def _trial(self, method: str) -> Task:
        search = self._searches[method]
        number, point = search.next()
        seeds = [self._config.seed + n for n in range(self._config.seeds_per_trial)]
        jobs = tuple(self._job(SEARCH, method, number, point, seed) for seed in seeds)
        search.note(number, folders={str(n): self._within(job.folder) for n, job in enumerate(jobs)})
        pruned = not isinstance(self._config.pruner, NoPrunerConfig)
        callbacks = tuple(
            pruning_callback(
                self._config,
                self.folder,
                optuna_name=optuna_name(self._config.name, method),
                trial=search.id_of(number) if pruned and n == 0 else None,  # the first seed speaks for the others
                epochs=self._epochs,
                last=job.config.epochs,
            )
            for n, job in enumerate(jobs)
        )
        return self._watched(Task(SEARCH, method, number, jobs, callbacks))

    def _replicate(self, method: str) -> Task:
        number, point = self._replicates[method].next()
        stage = REPLICATE if self._searching else FINAL
        job = self._job(stage, method, number, point, FIRST_SEED[stage] + number)
        callback = pruning_callback(
            self._config, self.folder, optuna_name="", trial=None, epochs=self._epochs, last=job.config.epochs
        )
        return self._watched(Task(stage, method, number, (job,), (callback,)))

    def _within(self, run_folder: str) -> str:
        """As it is recorded: whoever looks may see the study in another place."""
        return Path(run_folder).relative_to(self.folder).as_posix()

    def _watched(self, task: Task) -> Task:
        self._clock.write()
        for job in task.jobs:
            self._home.watch(Path(job.folder))
        if self._parent is not None:
            for job in task.jobs:
                self._parent.watch(Path(job.folder))
        return task

    def _job(self, stage: str, method: str, number: int, point: Params, seed: int) -> Job:
        """One run. Only what chose nothing looks at the test split."""
        looks = stage != SEARCH
        last = {"evaluation.test": looks, "evaluation.probe": looks}
        config = configure(self._config, method, point, seed, {**self._settings, **last})
        trial = f"{method}-{stage}-{number}"
        several = stage == SEARCH and self._config.seeds_per_trial > 1
        name = f"{trial}-seed{seed - self._config.seed}" if several else trial
        job = make_job(config, self._data, self._workspace)
        shown = looks and number == 0  # the pictures and the model of one replicate stand for all
        folder = self.folder / "runs" / f"{name}-{job.digest}"
        return replace(
            job,
            folder=str(folder),
            url=url_of(folder),
            name=name,
            tags={
                "remix_study.study": self._config.name,
                "remix_study.stage": stage,
                "remix_study.contender": method,
                "remix_study.number": str(number),
                "remix_study.trial": trial,
            },
            params={f"point.{path}": value for path, value in point.items() if value is not None},
            parent_run_id=None if self._parent is None else self._parent.run_id,
            cpus=self._config.resources.cpus,
            figures=shown,
            log_model=shown and config.tracking.model,
            wait=True,
            spool=True,
        )

    # --- what came of it ---------------------------------------------------------------------------------------------

    def _tell(self, task: Task, outcome: Outcome) -> None:
        self._disk_full |= outcome.cause == "disk full"  # every further run would only fail, too
        for job in task.jobs:
            self._home.fetch(Path(job.folder))
        if task.stage == SEARCH:
            self._tell_trial(task, outcome)
            self._choose_where_searched()
        else:
            self._tell_replicate(task, outcome)
        if self._parent is not None:
            if outcome.cause is not None:
                for job in task.jobs:
                    self._parent.lost(Path(job.folder), outcome.reason or "", outcome.cause)
            self._parent.nudge()
            self._parent.progress(self._counts())
        self._watch.done(task, outcome, self._ended, self._total)

    def _tell_trial(self, task: Task, outcome: Outcome) -> None:
        values: list[float] = []
        if outcome.state == "complete":
            values, outcome = self._values(task.method, outcome)
        self._searches[task.method].tell(
            task.number,
            outcome.state,
            values,
            seconds=sum(RunFolder(Path(job.folder)).seconds for job in task.jobs),
            seed_values={str(n): s[self._config.metrics[0]] for n, s in enumerate(outcome.summaries)
                         if self._config.metrics[0] in s},
            reason=outcome.reason,
            cause=outcome.cause,
        )  # fmt: skip

    def _values(self, method: str, outcome: Outcome) -> tuple[list[float], Outcome]:
        """The objectives of a complete trial: each the mean over its seeds."""
        metrics = [objective.metric for objective in self._config.objectives_of(method)]
        for metric in metrics:
            lacking = [summary for summary in outcome.summaries if metric not in summary]
            if lacking:
                known = ", ".join(sorted(lacking[0]))
                reason = f"`objective` must be one of {known}, but is {metric}"
                return [], Outcome("failed", outcome.summaries, reason, "bad configuration")
        seeds = len(outcome.summaries)
        return [sum(s[metric] for s in outcome.summaries) / seeds for metric in metrics], outcome

    def _tell_replicate(self, task: Task, outcome: Outcome) -> None:
        summary = outcome.summaries[0] if outcome.state == "complete" else None
        self._replicated_s += RunFolder(Path(task.jobs[0].folder)).seconds
        self._replicates[task.method].tell(
            task.number, outcome.state, summary, reason=outcome.reason, cause=outcome.cause
        )

    def _choose_where_searched(self) -> None:
        """A method that will have no more trials has its point chosen, and its replicates begin."""
        if not self._searching:
            return
        for method, search in self._searches.items():
            over = search.room <= 0 or self._out_of_budget is not None
            if method in self._replicates or not over or search.running:
                continue
            best = search.best()
            if best is not None:
                self._replicates[method] = self._begin_replicates(
                    method, REPLICATE, self._config.replicates, best.params
                )

    def _counts(self) -> dict[str, float]:
        """How the study stands, for its own MLflow run."""
        ends = {
            end: sum(s.ends.get(end, 0) for s in self._searches.values()) for end in ("complete", "pruned", "failed")
        }
        replicates = sum(replicates.complete for replicates in self._replicates.values())
        counts = {f"study/trials_{end}": float(count) for end, count in ends.items()}
        counts |= {"study/replicates_complete": float(replicates)}
        counts |= {f"study/budget_{name}": value for name, value in self._used()._asdict().items()}
        for method, search in self._searches.items():
            if (best := search.best()) is not None:
                counts[f"study/best/{method}"] = best.values[0]
        return counts

    def _require_at_end(self) -> None:
        if self._disk_full:
            raise StoreError(
                f"the disk that holds {self.folder} is full, so no new run begins. What is done is kept: free space, "
                "and run the command again with --retry-failed."
            )
        if (self.folder / STOP).exists() and self._ended < self._total:
            raise StudyStopped(
                f"stopped as asked, with {self._ended} of {self._total} runs at their end; the same command goes on"
            )

    def _conclude(self, record: StudyTracker, present: Present) -> StudyResult | None:
        self._clock.write()
        ledger = read_ledger(self.folder)
        result = result_of(ledger)
        files: Sequence[Path] = ()
        try:
            files = present(self.folder)
        except Exception as error:
            # The numbers are there, and a page can be written again at any time.
            if cause_of(error) == "disk full":
                raise
            self._watch.say(
                f"the report could not be written ({error}); write it with: remix-study report {ledger.study.name}"
            )
        record.conclude(result, files, ledger)
        return result


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@contextmanager
def _room_needed(folder: Path) -> Iterator[None]:
    """
    Raises:
        StoreError: the disk is full, whoever noticed: a file, a checkpoint, the database.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreError) or cause_of(error) != "disk full":
            raise
        raise StoreError(
            f"the disk that holds {folder} is full. What is done is kept: free space, and run the command again (with "
            "--retry-failed, where trials have failed of it)."
        ) from error


def needs_of(config: StudyConfig, configs: Sequence[RunConfig]) -> Needs:
    """What the runs of a study take."""
    workers = max(run.workers for run in configs)
    gpu = any(run.device != "cpu" for run in configs)
    return Needs(config.concurrency, workers, config.resources.cpus, config.resources.gpus, gpu)
