"""The search of one method: its trials in Optuna's storage

A trial whose run is killed stays RUNNING in the storage. The next start resumes it under its own number, so that a
study has the same trials whether or not it was killed. Each trial has a sampler of its own: its suggestion only depends
on the study's seed, the trial's number and the recorded trials.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from remix_study import optuna_private
from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError
from remix_study.files.mirror import url_of
from remix_study.seeds import stream
from remix_study.study.driver_storage import DriverStorage
from remix_study.study.ledger import FINAL, REPLICATE, STOPPED, TrialRecord, choose, pareto_front, records_of
from remix_study.study.pruning import make_pruner
from remix_study.study.search_space import Params, grid, space_of, suggest
from remix_study.study.storage import optuna_name

# Constants, so that an extended study samples as before.
STARTUP = 5  # random trials of a method, before its sampler models the objective
POPULATION = 10  # of NSGA-II


class Search:
    """The trials of one method.

    Args:
        method: its name.
        folder: the study's.
        storage: Optuna's.
        epochs: epochs of the study's longest run, from which Hyperband computes its brackets.

    Attributes:
        work_s: seconds that runs of all its trials have taken.
    """

    def __init__(self, config: StudyConfig, method: str, folder: Path, storage: BaseStorage, epochs: int) -> None:
        self._config, self._method, self._folder = config, method, folder
        self._study = optuna.create_study(
            study_name=optuna_name(config.name, method),
            storage=cast(BaseStorage, DriverStorage(storage)),
            directions=[objective.direction for objective in config.objectives_of(method)],
            load_if_exists=True,
            sampler=self._sampler(0),
            pruner=make_pruner(config.pruner, epochs),
        )
        self._claim(folder)
        self._running: dict[int, optuna.Trial] = {}
        self._unfinished: list[int] = []
        self._ends: Counter[str] = Counter()
        self._front: tuple[TrialRecord, ...] | None = None  # None: not computed yet
        self.work_s = 0.0

    def _claim(self, folder: Path) -> None:
        """Record the study's place in a database that studies may share, and refuse that of another study."""
        known, place = self._study.user_attrs.get("folder"), url_of(folder) or str(folder)
        if known is None:
            self._study.set_user_attr("folder", place)
        elif known != place:
            raise StudyError(
                f"The database of `storage` already holds a study named {self._config.name!r}, in {known}. Give this "
                "study another `name`."
            )

    def resume(self, *, retry_failed: bool) -> None:
        """Queue known-good configurations and retries, find interrupted trials, and count those that have ended."""
        trials = self._trials()
        queued = {trial.user_attrs.get("known") for trial in trials}
        for position, params in enumerate(self._known_params()):
            if position not in queued:
                self._study.enqueue_trial(params, user_attrs={"known": position})
        if retry_failed:
            for trial in _unretried(trials):
                self._study.enqueue_trial(trial.params, user_attrs={"retries": trial.number})
        trials = self._trials()
        self._unfinished = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        self._ends = Counter(
            complete=sum(t.state == TrialState.COMPLETE for t in trials),
            pruned=sum(t.state == TrialState.PRUNED for t in trials),
            failed=len(_unretried(trials)),
        )
        self.work_s = sum(t.user_attrs.get("seconds", 0.0) for t in trials)

    def _known_params(self) -> list[Params]:
        """Hyperparameters that are tried first: the known-good ones, then the grid, if any, in random order."""
        if self._config.trials_of(self._method) == 0:  # it replays another method
            return []
        first = list(self._config.methods[self._method].first)
        if self._config.sampler == "grid":
            combinations = grid(space_of(self._config, self._config.methods[self._method]))
            stream(self._config.seed, "sampler", 0).shuffle(combinations)
            first += [params for params in combinations if params not in first]
        return first

    @property
    def ended(self) -> int:
        """Number of trials that are complete, pruned, or failed and not retried."""
        return self._ends.total()

    @property
    def ends(self) -> Mapping[str, int]:
        """`ended` by state: complete, pruned, failed."""
        return self._ends

    @property
    def running(self) -> int:
        """Number of trials that this process has started and that have not ended."""
        return len(self._running)

    def next(self) -> tuple[int, Params]:
        """Number and hyperparameters of the next trial, recorded as running."""
        trials = self._trials()
        if self._unfinished:
            number = self._unfinished.pop(0)
            self._study.sampler = self._sampler(number)
            trial = optuna_private.resumed_trial(self._study, optuna_private.trial_id(trials[number]))
            if trial.user_attrs.get(STOPPED):
                trial.set_user_attr(STOPPED, False)
            if "folders" not in trials[number].user_attrs:
                # Killed while sampling: redraw all parameters so that the random stream stays aligned.
                optuna_private.forget_params(trial)
        else:
            waiting = [t.number for t in trials if t.state == TrialState.WAITING]
            self._study.sampler = self._sampler(min(waiting, default=len(trials)))
            trial = self._study.ask()
        self._running[trial.number] = trial
        return trial.number, suggest(trial, space_of(self._config, self._config.methods[self._method]))

    def id_of(self, number: int) -> int:
        """Optuna's id of a running trial."""
        return optuna_private.trial_id(self._running[number])

    def note(self, number: int, **attributes: Any) -> None:
        """Record attributes of a running trial."""
        for name, value in attributes.items():
            self._running[number].set_user_attr(name, value)

    def tell(self, number: int, end: str, values: Sequence[float] = (), **attributes: Any) -> None:
        """Record the end of a trial.

        Args:
            end: complete, pruned, failed, or stopped (it is resumed later).
            values: of the objectives, if it is complete.
            attributes: recorded with the trial, if not None.
        """
        trial = self._running[number]
        self.work_s += attributes.get("seconds", 0.0) - trial.user_attrs.get("seconds", 0.0)
        before = trial.user_attrs  # attributes of an earlier end, such as its reason, are overwritten by None
        self.note(number, **{name: v for name, v in attributes.items() if v is not None or name in before})
        match end:
            case "complete":
                self._study.tell(trial, list(values))
            case "pruned":
                self._study.tell(trial, state=TrialState.PRUNED)
            case "failed":
                self._study.tell(trial, state=TrialState.FAIL)
            case _:  # stopped: it stays RUNNING in the storage, where the next start finds it
                self.note(number, **{STOPPED: True})
                self._unfinished.append(number)
        del self._running[number]
        if end in ("complete", "pruned", "failed"):
            self._ends[end] += 1
        if end == "complete" and self._front is not None:
            ended = optuna_private.storage_of(self._study).get_trial(optuna_private.trial_id(trial))
            self._front = pareto_front(self._config, (*self._front, *self._records_of([ended])))

    def note_replicate(self, stage: str, number: int, note: Mapping[str, Any]) -> None:
        """Record a replicate for readers of the storage. Its result is in its run folder."""
        self._study.set_user_attr(f"{stage} {number}", dict(note))

    def replicate_notes(self) -> dict[str, Any]:
        """What `note_replicate` has recorded: `STAGE NUMBER` -> note."""
        return {key: note for key, note in self._study.user_attrs.items() if key.startswith((REPLICATE, FINAL))}

    def best(self) -> TrialRecord | None:
        """The trial whose hyperparameters are replicated; None if none is complete.

        Chosen from the Pareto front rather than from all trials, because it is called after every trial.
        """
        if self._front is None:
            self._front = pareto_front(self._config, self.records())
        return choose(self._config, self._front)

    def records(self) -> tuple[TrialRecord, ...]:
        """All trials, without intermediate values."""
        return self._records_of(self._trials())

    def _records_of(self, trials: Sequence[FrozenTrial]) -> tuple[TrialRecord, ...]:
        return records_of(self._method, trials, self._folder)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(stream(self._config.seed, "sampler", number).integers(2**31))
        match self._config.sampler:
            case "random" | "grid":  # all combinations of a grid are queued
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=False)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            case unreachable:
                assert_never(unreachable)


def _unretried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Failed trials that were not retried."""
    retried = {trial.user_attrs.get("retries") for trial in trials}
    return [t for t in trials if t.state == TrialState.FAIL and t.number not in retried]
