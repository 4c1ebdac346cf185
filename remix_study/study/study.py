"""The spine of a study

    search      every method gets the same number of trials, each a point of its own search space
    choose      each method's best point, on validation
    replicate   that point again with new seeds; the test split is looked at here, once
    compare     means, paired differences, sufficiency (results.py)

Optuna's storage is the truth. Whatever process dies, the same command goes on: a trial that was running is told FAIL
and its point enqueued again; a run finds its own folder by its configuration and resumes from its checkpoint.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import optuna
import yaml
from optuna.trial import TrialState

from remix_study.assemble import check
from remix_study.config import StudyConfig, put
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import StudyError, StudyStopped
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import make_job, tracking_uri
from remix_study.launch.worker import worker_threads
from remix_study.media.disk import sole_writer, storage_errors, write_whole
from remix_study.seeds import stream
from remix_study.study.record import Presentation, recording
from remix_study.study.results import StudyResult, compare
from remix_study.study.search_space import Params, check_study, configure, grid, space_of, suggest
from remix_study.study.survey import CONFIG, REPLICATE, SEARCH, STOP, storage_url, study_folder, unretried_failures
from remix_study.study.tasks import Outcome, Task, execute
from remix_study.tracking.address import check as check_tracking

FIRST_REPLICATE_SEED = 1000  # far from the search's seed: the comparison is on seeds that chose nothing


@dataclass(frozen=True)
class Watch:
    """Who is told how a study comes along: how many of how many runs are complete, before the first and after each."""

    begin: Callable[[int, int], None] = lambda complete, total: None  # noqa: ARG005
    done: Callable[[Task, Outcome, int, int], None] = lambda task, outcome, complete, total: None  # noqa: ARG005


class Study:
    """One study in its folder."""

    def __init__(
        self,
        config: StudyConfig,
        settings: Mapping[str, Any],
        workspace: Path,
        watch: Watch,
        *,
        retry_failed: bool = False,
    ) -> None:
        self._config = config
        self._retry_failed = retry_failed
        self._settings = settings
        self._workspace = workspace.resolve()
        self._watch = watch
        self._folder = study_folder(self._workspace, config.name)
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        storage = storage_url(self._folder)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = {
            name: optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True, sampler=self._sampler(0)
            )
            for name in config.methods
        }
        self._replicates: dict[str, dict[int, dict[str, float]]] = {name: {} for name in config.methods}
        self._handed: set[tuple[str, int]] = set()
        self._parent: str | None = None
        self._threads = 1
        self._data = ""
        self._running: dict[tuple[str, int], optuna.Trial] = {}
        self._failures: list[str] = []

    @property
    def folder(self) -> Path:
        return self._folder

    def run(self, present: Callable[[StudyResult], Presentation]) -> StudyResult:
        """Run the study to its end, or from where it was; `present` says how its result is shown in MLflow.

        Raises:
            ConfigError, StudyError, TrackingError: before anything starts, where possible.
        """
        configs = check_study(self._config, self._settings)
        store = open_corpus(Path(configs[0].corpus))
        self._data = store.digest
        for config in configs:
            check(config, store)
        uri = tracking_uri(configs[0], self._workspace)
        if uri is not None:
            check_tracking(uri)
        concurrency = self._config.concurrency or worker_threads(1)
        self._threads = worker_threads(concurrency)
        with sole_writer(self._folder / "lock"):
            (self._folder / STOP).unlink(missing_ok=True)
            self._require_same_question()  # before the study's run is opened again: a refusal must not mark it FAILED
            with recording(uri, configs[0].tracking.experiment, self._config, store, self._folder) as record:
                self._prepare()
                self._parent = record.run_id
                self._watch.begin(self._complete, self._total)
                if self._complete < self._total:
                    execute(self._ask, self._tell, self._total, concurrency, self._folder)
                if (self._folder / STOP).exists() and self._complete < self._total:
                    raise StudyStopped(
                        f"stopped as asked, with {self._complete} of {self._total} runs complete; "
                        "the same command goes on"
                    )
                result = compare(self._config, self._replicates, {n: self._best(n) for n in self._config.methods},
                                 self._failures)  # fmt: skip
                record.conclude(result, present(result), self._run_ids())
        return result

    def _require_same_question(self) -> None:
        """Trials of one space or corpus say nothing about another; more trials or replicates are the same question.

        Raises:
            StudyError: the folder holds a study of this name that asked something else.
        """
        known = self._folder / "question.json"
        grown = {"trials", "replicates", "concurrency"}
        content = {**self._config.model_dump(mode="json", exclude=grown), "corpus": self._data}
        before = json.loads(known.read_text()) if known.exists() else content
        changed = [key for key in content if content[key] != before.get(key)]
        if changed:
            raise StudyError(
                f"the study in {self._folder} must be asked the same question, but {', '.join(changed)} has changed "
                "since it began. Give the study another `name`, or remove that folder."
            )
        write_whole(known, json.dumps(content, indent=1))
        resolved = self._config.model_dump(mode="json")
        for path, value in self._settings.items():
            put(resolved["base"], path, value)
        write_whole(self._folder / CONFIG, yaml.safe_dump(resolved, sort_keys=False))

    def _prepare(self) -> None:
        """Settle what a dead driver left behind; then queue the known-good points of a new study."""
        for name, study in self._optuna.items():
            trials = study.get_trials(deepcopy=False)
            if not trials:
                for point in self._known_points(name):
                    study.enqueue_trial(point)
            for trial in trials:
                if trial.state == TrialState.RUNNING:
                    if trial.params:
                        study.enqueue_trial(trial.params, user_attrs={"resumes": trial.number})
                    study.tell(trial.number, state=TrialState.FAIL)
            for trial in unretried_failures(trials):
                if self._retry_failed:
                    study.enqueue_trial(trial.params, user_attrs={"retries": trial.number})
                else:
                    self._failures.append(f"{name}-{SEARCH}-{trial.number}: {trial.user_attrs['reason']}")
            for number in range(self._config.replicates):
                if self._searched(name) < self._config.trials or not self._has_best(name):
                    break
                summary = RunFolder(Path(self._task(REPLICATE, name, number).job.folder)).result()
                if summary is not None:
                    self._replicates[name][number] = summary
                    self._record_replicate(name, number, "complete")

    def _known_points(self, name: str) -> list[Params]:
        """What is tried before any sampler is asked; of a grid, all of it, in an order drawn by the seed."""
        first = list(self._config.methods[name].first)
        if self._config.sampler == "grid":
            points = grid(space_of(self._config, self._config.methods[name]))
            stream(self._config.seed, "sampler", 0).shuffle(points)
            first += [point for point in points if point not in first]
        return first

    @property
    def _total(self) -> int:
        return len(self._config.methods) * (self._config.trials + self._config.replicates)

    @property
    def _complete(self) -> int:
        return sum(self._searched(n) + len(self._replicates[n]) for n in self._config.methods)

    def _searched(self, name: str) -> int:
        """Trials of a method that have ended by themselves: complete, or failed of their own accord."""
        trials = self._optuna[name].get_trials(deepcopy=False)
        return sum(t.state == TrialState.COMPLETE for t in trials) + len(unretried_failures(trials))

    def _ask(self) -> Task | None:
        """The next run: a trial of the method that has had fewest, else a replicate of a method that is searched."""
        if (self._folder / STOP).exists():
            raise StopIteration  # what runs now runs to its end
        searching = Counter(name for name, _ in self._running)
        room = {n: self._config.trials - self._searched(n) - searching[n] for n in self._config.methods}
        if max(room.values()) > 0:
            return self._new_trial(max(room, key=lambda n: room[n]))
        for name in self._config.methods:
            if searching[name] == 0 and self._has_best(name):
                for number in range(self._config.replicates):
                    if number not in self._replicates[name] and (name, number) not in self._handed:
                        self._handed.add((name, number))
                        self._record_replicate(name, number, "running")
                        return self._task(REPLICATE, name, number)
        if self._running:
            return None  # replicates wait for the last trials of their method
        raise StopIteration

    def _new_trial(self, name: str) -> Task:
        study = self._optuna[name]
        # A sampler of its own for every trial: what it suggests depends on the seed, the number and the record alone.
        study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        params = suggest(trial, space_of(self._config, self._config.methods[name]))
        self._running[name, trial.number] = trial
        task = self._task(SEARCH, name, trial.number, params)
        trial.set_user_attr("folder", task.job.folder)
        return task

    def _record_replicate(self, name: str, number: int, state: str) -> None:
        """For who looks on from another process; the truth is the result in the replicate's folder."""
        folder = self._task(REPLICATE, name, number).job.folder
        self._optuna[name].set_user_attr(
            f"{REPLICATE} {number}", {"state": state, "folder": folder, "params": self._best(name)}
        )

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(stream(self._config.seed, "sampler", number).integers(2**31))
        startup = max(2, self._config.trials // 2)
        match self._config.sampler:
            case "random" | "grid":  # of a grid every point is known beforehand
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            case unreachable:
                assert_never(unreachable)

    def _task(self, stage: str, name: str, number: int, params: Params | None = None) -> Task:
        point = self._best(name) if params is None else params
        seed = self._config.seed if stage == SEARCH else FIRST_REPLICATE_SEED + number
        last = (
            {"evaluation.test": True, "evaluation.probe": True} if stage == REPLICATE else {"evaluation.probe": False}
        )
        config = configure(self._config, name, point, seed, {**self._settings, **last})
        label = f"{name}-{stage}-{number}"
        job = make_job(config, self._data, self._workspace)
        shown = stage == REPLICATE and number == 0  # the pictures and the model of one replicate stand for all
        tags = {
            "remix_study.study": self._config.name,
            "remix_study.stage": stage,
            "remix_study.contender": name,
            "remix_study.number": str(number),
        }
        job = replace(
            job,
            folder=str(self._folder / "runs" / f"{name}-{job.digest}"),
            name=label,
            tags=tags,
            parent_run_id=self._parent,
            threads=self._threads,
            figures=shown,
            log_model=shown and config.tracking.model,
            wait=True,
        )
        return Task(stage, name, number, seed, job)

    def _has_best(self, name: str) -> bool:
        return any(t.state == TrialState.COMPLETE for t in self._optuna[name].get_trials(deepcopy=False))

    def _best(self, name: str) -> Params:
        """
        Raises:
            StudyError: no trial of this method is complete.
        """
        try:
            return dict(self._optuna[name].best_params)
        except ValueError:
            reasons = {str(t.user_attrs.get("reason")) for t in self._optuna[name].get_trials(deepcopy=False)}
            raise StudyError(
                f"at least one trial of `{name}` must complete, but none did: {'; '.join(sorted(reasons))}"
            ) from None

    def _tell(self, task: Task, outcome: Outcome) -> None:
        if task.stage == REPLICATE:
            self._tell_replicate(task, outcome)
        else:
            self._tell_trial(task, outcome)
        self._watch.done(task, outcome, self._complete, self._total)

    def _tell_replicate(self, task: Task, outcome: Outcome) -> None:
        if outcome.summary is None:
            self._failures.append(f"{task.job.name}: {outcome.failure}")
            self._record_replicate(task.method, task.number, "failed")
        else:
            self._record_replicate(task.method, task.number, "complete")
            self._replicates[task.method][task.number] = outcome.summary

    def _tell_trial(self, task: Task, outcome: Outcome) -> None:
        trial = self._running.pop((task.method, task.number))
        study = self._optuna[task.method]
        if outcome.summary is not None and self._config.objective not in outcome.summary:
            known = ", ".join(sorted(outcome.summary))
            outcome = Outcome(None, f"`objective` must be one of {known}, but is {self._config.objective}")
        if outcome.summary is None:
            self._failures.append(f"{task.job.name}: {outcome.failure}")
            trial.set_user_attr("reason", outcome.failure)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, outcome.summary[self._config.objective])

    def _run_ids(self) -> dict[str, dict[int, str]]:
        """The MLflow run of every replicate."""
        found: dict[str, dict[int, str]] = {}
        for name, seeds in self._replicates.items():
            ids = {n: RunFolder(Path(self._task(REPLICATE, name, n).job.folder)).tracked_as() for n in seeds}
            found[name] = {n: run_id for n, run_id in ids.items() if run_id is not None}
        return found
