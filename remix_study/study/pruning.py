"""Ending a run early: what its study's pruner says, and whether somebody asked the study to stop

The run itself asks, after each epoch, and ends itself. So all its workers leave together, with a checkpoint, and free
what they hold; a trial that Ray Tune stops from outside leaks its workers' placement group (docs/platform.md). What
the pruner knows lies in Optuna's storage, which every process of the study reaches: a verdict depends on the record
alone, and a run that was killed meets the same one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from remix_study import optuna_private
from remix_study.config.study import (
    AshaConfig,
    HyperbandConfig,
    MedianConfig,
    NoPrunerConfig,
    PrunerConfig,
    StudyConfig,
)
from remix_study.errors import RemixStudyError, RunPruned, StudyStopped
from remix_study.files.mirror import url_of
from remix_study.study.remote import stop_asked
from remix_study.study.storage import open_storage

log = logging.getLogger(__name__)
PRUNED_AFTER = "pruned_after"  # of a trial: the verdict, before the run acts on it
_MARKED = "marked"  # of a trial: the epoch at which a pruner left its mark of that name


@dataclass(frozen=True)
class PruningCallback:
    """The judge of one run, as plain values: it may sit on another machine.

    folder: the study's, where a stop is asked for; url: its URL, if that is where it is.
    trial: of Optuna; None for runs that no pruner ends early (replicates, further seeds of a trial).
    epochs: of the longest run of the study.
    """

    folder: str
    storage: str | None = None
    optuna_name: str = ""
    trial: int | None = None
    pruner: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    last: int = 0
    url: str | None = None

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """
        Raises:
            RunPruned: the pruner sees no promise in the run.
            StudyStopped: somebody asked the study to stop, and epochs are left to go on with later.
        """
        if self.trial is not None:
            self._report(self.trial, history)
        if len(history) < self.last and stop_asked(Path(self.folder), self.url):
            raise StudyStopped(f"stopped as asked after epoch {len(history) - 1}; it goes on from there")

    def _report(self, trial: int, history: Sequence[Mapping[str, float]]) -> None:
        config: PrunerConfig = TypeAdapter(PrunerConfig).validate_python(dict(self.pruner))
        if isinstance(config, NoPrunerConfig):
            return
        try:
            after = self._verdict(trial, config, history)
        except (RemixStudyError, optuna.exceptions.OptunaError, OSError) as error:
            # A storage that does not answer must not end a run; what is missing is reported after a later epoch.
            log.warning("the study's storage does not take the epoch's value now: %s", error)
            return
        if after is not None:
            raise RunPruned(f"pruned by {config.name} after {after} epochs, at {config.metric} no better than others")

    def _verdict(self, trial: int, config: Any, history: Sequence[Mapping[str, float]]) -> int | None:
        study = _study(self.storage, self.folder, self.optuna_name)
        storage = optuna_private.storage_of(study)
        known = storage.get_trial(trial)
        if (after := known.user_attrs.get(PRUNED_AFTER)) is not None:
            return int(after)
        better = max if study.direction == optuna.study.StudyDirection.MAXIMIZE else min
        best: float | None = None
        for epoch, record in enumerate(history, start=1):
            if config.metric not in record:
                continue
            value = record[config.metric]
            best = value if best is None else better(best, value)
            if epoch not in known.intermediate_values:
                storage.set_trial_intermediate_value(trial, epoch, best)
        if len(history) >= self.last:
            return None
        heard = _Anew(storage, trial, len(history))
        if not make_pruner(config, self.epochs).prune(
            optuna_private.with_storage(study, heard), heard.get_trial(trial)
        ):
            return None
        storage.set_trial_user_attr(trial, PRUNED_AFTER, len(history))
        return len(history)


class _Anew:
    """A storage in which `trial` does not bear what its pruner noted at `epoch`

    Halving pruners mark a trial before they judge it, and do not judge a marked one again. A process that died between
    mark and verdict would spare the trial; so here every epoch is judged as if for the first time.
    """

    def __init__(self, storage: Any, trial: int, epoch: int) -> None:
        self._storage, self._trial, self._epoch = storage, trial, epoch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_trial(self, trial: int) -> FrozenTrial:
        return self._unmarked(self._storage.get_trial(trial))

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [self._unmarked(trial) for trial in self._storage.get_all_trials(*args, **kwargs)]

    def set_trial_system_attr(self, trial: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial, f"{_MARKED} {key}", self._epoch)
        self._storage.set_trial_system_attr(trial, key, value)

    def _unmarked(self, trial: FrozenTrial) -> FrozenTrial:
        if optuna_private.trial_id(trial) != self._trial:
            return trial
        new = {key for key in trial.system_attrs if trial.user_attrs.get(f"{_MARKED} {key}") == self._epoch}
        return optuna_private.without_system_attrs(trial, new) if new else trial


def make_pruner(config: PrunerConfig, epochs: int) -> BasePruner:
    """`epochs`: of the longest run of the study."""
    match config:
        case AshaConfig(grace=grace, reduction=reduction):
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=reduction)
        case HyperbandConfig(grace=grace, reduction=reduction):
            return optuna.pruners.HyperbandPruner(
                min_resource=grace, max_resource=max(epochs, grace), reduction_factor=reduction
            )
        case MedianConfig(grace=grace, startup=startup):
            return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=grace)
        case _:
            return optuna.pruners.NopPruner()


def pruning_callback(
    study: StudyConfig, folder: Path, *, optuna_name: str, trial: int | None, epochs: int, last: int
) -> PruningCallback:
    """`last`: epochs of this run; `epochs`: of the longest run of the study."""
    pruner = study.pruner.model_dump(mode="json")
    return PruningCallback(str(folder), study.storage, optuna_name, trial, pruner, epochs, last, url_of(folder))


@cache
def _study(storage: str | None, folder: str, name: str) -> optuna.Study:
    """Opened once per process: opening a database takes longer than a small epoch."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=open_storage(storage, Path(folder)))
