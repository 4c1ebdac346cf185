"""The steps of a study

    search      every method gets the same number of trials, each with hyperparameters from its own search space
    choose      the best hyperparameters of each method, on validation
    replicate   train them again with new seeds, and evaluate once on the held-out test set
    compare     means, paired differences, sufficiency (results.py)

What runs next is decided in scheduler.py. Optuna's storage is the record: after a crash, rerun the command to resume.
Each trial that was running keeps its number (search.py), and each run resumes from its checkpoint.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import DamagedStoreError, StoreError, StudyError, StudyStopped, cause_of
from remix_study.files.command_line import own_command
from remix_study.files.disk import exclusive_lock
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import tracking_uri
from remix_study.media.store import ClipStore
from remix_study.study.budget import Clock, Rates, Used
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.placement import Place
from remix_study.study.preflight import check_before_start, needs_of
from remix_study.study.progress import StudyProgress
from remix_study.study.question import require_same_question, write_question
from remix_study.study.remote import remote_workspace
from remix_study.study.results import result_of
from remix_study.study.scheduler import (
    CloseSearch,
    Done,
    Fail,
    StartReplicate,
    StartTrial,
    StudyState,
    Wait,
    next_step,
)
from remix_study.study.search_space import study_control
from remix_study.study.shown import note_shown
from remix_study.study.stopping import leavable, stoppable
from remix_study.study.storage import PATIENCE_S, STOP, answering, disk_full_errors, study_folder
from remix_study.study.study_tracker import recording
from remix_study.study.task_factory import TaskFactory
from remix_study.study.tasks import Outcome, Task, execute
from remix_study.study.trial_errors import import_remedy

WriteReport = Callable[[Path], Sequence[Path]]  # the study's folder -> the files of its report, the page first


class StudyRun:
    """One start of a study in its folder; a later start resumes it.

    Args:
        settings: dotted keys that override the study's `base`, such as {"corpus": folder}.
        retry_failed: run failed trials again, with the same hyperparameters.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: Mapping[str, Any],
        workspace: Path,
        listener: StudyListener | None = None,
        *,
        retry_failed: bool = False,
    ) -> None:
        self._config = config
        self._settings = settings
        self._workspace = workspace.resolve()
        self._listener = listener or StudyListener()
        self._retry_failed = retry_failed
        self.folder = study_folder(self._workspace, config.name)
        self._out_of_budget: str | None = None
        self._closed_at = 0  # trials of each method, if the budget has closed the search
        self._disk_full = False
        self._damage: str | None = None
        self._not_imported: str | None = None

    def run(self, write_report: WriteReport) -> StudyResult | None:
        """Run the study to its end, or resume it; None if no method has a result yet.

        Raises:
            ConfigError, StudyError, TrackingError: before any run starts, where possible.
            StudyStopped: the study was asked to stop.
        """
        configs, store = check_before_start(self._config, self._settings, self._workspace, self._listener.say)
        with self._at_work(configs, store):
            self._progress = self._open(retry_failed=self._retry_failed)
            self._execute()
            result = self._conclude(write_report)
        self._say_if_out_of_budget()
        return result

    def retrain(
        self, method: str, seeds: int, write_report: WriteReport, *, with_control: bool = False
    ) -> dict[int, dict[str, float]]:
        """Train the chosen hyperparameters of `method` with further seeds: seed number -> summary of the run.

        Args:
            with_control: train on the whole training split, control clips included.

        Raises:
            StudyError: the study has no such method, or none of its trials is complete; or, `with_control`, the method
                reads the control clips while it trains, or the study has none; or no run is complete, because all
                failed or the budget is used up.
            StudyStopped: the study was asked to stop.
        """
        if with_control and not study_control(self._config):
            raise StudyError(
                f"Cannot retrain `{method}` with its control clips, because it has none: all runs of the study train "
                "on the whole training split. Leave out `--with-control`."
            )
        configs, store = check_before_start(self._config, self._settings, self._workspace, self._listener.say)
        with self._at_work(configs, store, with_control=with_control):
            self._progress = self._open(retry_failed=False)
            replicates = self._progress.retrain(method, seeds)
            self._execute()
            self._conclude(write_report)
        failed = "; ".join(f"run {number}: {reason}" for number, reason in sorted(replicates.failed.items()))
        if not replicates.summaries:
            why = failed or f"the budget is used up ({self._out_of_budget}); raise `budget`"
            raise StudyError(f"Cannot retrain `{method}`: no run is complete. {why}.")
        if failed:
            self._listener.say(f"{len(replicates.failed)} of {seeds} runs failed, and are not in the mean: {failed}.")
        self._say_if_out_of_budget()
        return replicates.summaries

    def _say_if_out_of_budget(self) -> None:
        if self._out_of_budget is not None:
            self._listener.say(
                f"The budget is used up ({self._out_of_budget}). Raise `budget` and rerun the command to continue."
            )

    # --- opening the study -------------------------------------------------------------------------------------------

    @contextmanager
    def _at_work(self, configs: Sequence[RunConfig], store: ClipStore, *, with_control: bool = False) -> Iterator[None]:
        """Hold the study's lock, remote workspace, clock and MLflow run."""
        self._needs = needs_of(self._config, configs)
        self._epochs = max(config.epochs for config in configs)
        uri, experiment = tracking_uri(configs[0], self._workspace), configs[0].tracking.experiment
        with (
            disk_full_errors(self.folder), exclusive_lock(self.folder / "lock"), leavable(self.folder),
            remote_workspace(self.folder, self._listener.say) as self._remote,
            answering(self._config.storage, self.folder),
        ):  # fmt: skip
            # Before the study's MLflow run is opened again: a refusal must not mark it FAILED.
            require_same_question(self._config, store.digest, self.folder)
            write_question(self._config, self._settings, store.digest, self.folder)
            self._clock = Clock(self.folder, Rates(self._needs.workers * self._needs.cpus, 0.0, 1))
            with recording(uri, experiment, self._config, store, self.folder) as self._tracker:
                self._tasks = TaskFactory(
                    self._config, self._settings, self._workspace, store.digest, self._epochs, self._parent_run_id,
                    with_control,
                )  # fmt: skip
                self._remote.push()  # ends of runs that died with an earlier driver, before those runs are resumed
                try:
                    with self._clock.kept():
                        yield
                finally:
                    self._clock.write()

    def _parent_run_id(self) -> str | None:
        return self._tracker.run_id

    def _open(self, *, retry_failed: bool) -> StudyProgress:
        return StudyProgress(
            self._config, self.folder, self._tasks, self._tracker, PATIENCE_S, retry_failed=retry_failed
        )

    # --- running -----------------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        """Run tasks until the scheduler has no more.

        Raises:
            StoreError: the disk is full, or the corpus is damaged.
            StudyError: the processes of runs cannot import the code.
            StudyStopped: the study was asked to stop.
        """
        self._choose()
        state = self._state()
        self._listener.begin(state.ended, state.total)
        stop = self.folder / STOP
        if state.ended < state.total:
            listener = self._listener
            with stoppable(self.folder, listener.say, listener.interrupted, listener.terminated):
                execute(self._ask, self._tell, self._needs, self.folder, self._on_place, self._epochs_of, stop.exists)
        if self._disk_full:
            raise StoreError(
                f"Cannot start further runs: the disk of {self.folder} is full. Finished runs are kept. Free space and "
                "rerun the command with --retry-failed."
            )
        if self._damage is not None:
            raise DamagedStoreError(f"{self._damage} Then rerun the command with --retry-failed.")
        if self._not_imported is not None:
            raise StudyError(
                f"Cannot start further runs: {self._not_imported}. {import_remedy(self._not_imported)}. Then rerun the "
                "command with --retry-failed."
            )
        state = self._state()
        if stop.exists() and state.ended < state.total:
            raise StudyStopped(
                f"Stopped as requested: {state.ended} of {state.total} runs have ended. Rerun the command to resume."
            )

    def _on_place(self, place: Place) -> None:
        workers = self._needs.workers
        if place.machines:
            more = "; more as machines join" if self._needs.concurrency is None else ""
            self._listener.say(
                # `remix-study submit` looks for these words in the log of the job.
                f"{self._config.name} has begun on a cluster of {_counted(place.machines, 'machine')}: "
                f"{_counted(max(0, min(place.now, place.concurrency)), 'run')} at once{more}"
            )
        self._clock.rates = Rates(workers * self._needs.cpus, workers * place.gpus, place.concurrency)
        self._clock.write()

    def _epochs_of(self, task: Task) -> int:
        """Epochs that a task has completed, over all its runs."""
        for job in task.jobs:
            self._remote.fetch(Path(job.folder))
            self._remote.watch(Path(job.folder))
        return sum(len(RunFolder(Path(job.folder)).history) for job in task.jobs)

    def _state(self) -> StudyState:
        failing = self._disk_full or self._damage is not None or self._not_imported is not None
        stopping = failing or (self.folder / STOP).exists()
        return self._progress.state(closed=self._out_of_budget, closed_at=self._closed_at, stopping=stopping)

    def _choose(self) -> None:
        self._progress.choose(self._out_of_budget, self._closed_at)

    def _state_within_budget(self) -> StudyState:
        """The state with all that limits the next step."""
        used = self._used()
        limited = self._out_of_budget is None and used.limits(self._config.budget)
        return replace(
            self._state(),
            budget=self._config.budget,
            used=used,
            rates=self._clock.rates,
            run_s=self._progress.mean_run_s() if limited else None,
        )

    def _used(self) -> Used:
        return self._progress.used(self._clock.rates, self._clock.seconds)

    def _ask(self) -> Task | None:
        """The next task, or None to wait for a running one.

        Raises:
            StopIteration: no more tasks.
        """
        self._remote.require_lease()
        while True:
            match next_step(self._state_within_budget()):
                case StartTrial(method):
                    task, problem = self._progress.start_trial(method)
                    if problem is None:
                        return self._watched(task)
                    self._tell(task, Outcome("failed", (), problem, "bad configuration"))
                case StartReplicate(method, _):
                    return self._watched(self._progress.start_replicate(method))
                case Fail(method, reason, number):
                    task = self._progress.start_failed(method, number)
                    self._tell(task, Outcome("failed", (), reason, "needed run"))
                case CloseSearch(reason, trials):
                    self._out_of_budget, self._closed_at = reason, trials
                    self._choose()
                case Wait():
                    return None
                case Done(reason):
                    if reason is not None:
                        self._out_of_budget, self._closed_at = reason, 0
                    raise StopIteration

    def _watched(self, task: Task) -> Task:
        self._clock.write()
        for job in task.jobs:
            self._remote.watch(Path(job.folder))
            self._tracker.watch(Path(job.folder))
        return task

    # --- ending -----------------------------------------------------------------------------------------------------

    def _tell(self, task: Task, outcome: Outcome) -> None:
        self._disk_full |= outcome.cause == "disk full"
        if outcome.cause == "damaged corpus":  # further runs would fail, too
            # Without the name of the class, and of the run in a trial with several seeds.
            self._damage = (outcome.reason or "").rpartition("DamagedStoreError: ")[2]
        if outcome.cause == "import error":
            self._not_imported = outcome.reason
        for job in task.jobs:
            self._remote.fetch(Path(job.folder))
        self._progress.tell(task, outcome)
        self._choose()
        if outcome.cause is not None:
            for job in task.jobs:
                self._tracker.mark_failed(Path(job.folder), outcome.reason or "", outcome.cause)
        self._tracker.send_soon()
        self._tracker.log_progress(self._progress.metrics(self._used()))
        state = self._state()
        self._listener.done(task, outcome, state.ended, state.total)

    def _conclude(self, write_report: WriteReport) -> StudyResult | None:
        self._clock.write()
        ledger = read_ledger(self.folder)
        result = result_of(ledger)
        if result is not None:
            note_shown(self.folder, ledger.study)
        files: Sequence[Path] = ()
        try:
            files = write_report(self.folder)
        except Exception as error:
            # The results are recorded, and the report can be written later.
            if cause_of(error) == "disk full":
                raise
            again = own_command("report", ledger.study.name, workspace=self._workspace)
            self._listener.say(f"Cannot write the report: {error}. Write it later: {again}")
        self._tracker.conclude(result, files, ledger)
        return result


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def __getattr__(name: str) -> Any:
    """`Watch`, the name of `StudyListener` in version 0.1, with a DeprecationWarning."""
    if name == "Watch":
        warnings.warn("`Watch` is deprecated: use `StudyListener`.", DeprecationWarning, stacklevel=2)
        return StudyListener
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
