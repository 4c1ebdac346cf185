"""Ending a run early: pruning, and requests to stop the study

The run checks after each epoch and ends itself. So all its workers end together, with a checkpoint, and free their
resources; a trial that Ray Tune stops from outside leaks its workers' placement group (docs/platform.md). The pruner
decides from values in Optuna's storage alone, so that a run that was killed gets the same decision when it resumes.
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
PRUNED_AFTER = "pruned_after"  # attribute of a trial: the pruner's decision, written before the run ends
_MARKED = "marked"  # attribute prefix: the epoch at which a pruner set its system attribute of that name


@dataclass(frozen=True)
class PruningCallback:
    """The epoch callback of one run. Its values are JSON-compatible, because runs are in other processes.

    Args:
        folder: the study's.
        storage: `storage` of the study.
        optuna_name: name of the method's study in it.
        trial: Optuna's id of the trial; None for runs that are not pruned (replicates, further seeds of a trial).
        pruner: its configuration.
        epochs: epochs of the study's longest run.
        last: epochs of this run.
        url: of the study's folder in a remote workspace, or None.
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
        """Report the last epoch to the pruner, and end the run if it is pruned or the study was asked to stop.

        Raises:
            RunPruned: the pruner ends the run.
            StudyStopped: the study was asked to stop, and the run has epochs left.
        """
        if self.trial is not None:
            self._report(self.trial, history)
        if len(history) < self.last and stop_asked(Path(self.folder), self.url):
            raise StudyStopped(f"stopped as requested after epoch {len(history) - 1}; it resumes from there")

    def _report(self, trial: int, history: Sequence[Mapping[str, float]]) -> None:
        config: PrunerConfig = TypeAdapter(PrunerConfig).validate_python(dict(self.pruner))
        if isinstance(config, NoPrunerConfig):
            return
        try:
            after = self._pruned_after(trial, config, history)
        except (RemixStudyError, optuna.exceptions.OptunaError, OSError) as error:
            # A storage that does not answer must not end a run. The value is reported after a later epoch.
            log.warning("Cannot report the epoch to the study's storage; it is retried after the next epoch: %s",
                        str(error).partition("\n")[0])  # fmt: skip
            return
        if after is not None:
            raise RunPruned(f"pruned by {config.name} after {after} epochs, at {config.metric} no better than others")

    def _pruned_after(self, trial: int, config: Any, history: Sequence[Mapping[str, float]]) -> int | None:
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
        unmarked = _WithoutMarks(storage, trial, len(history))
        if not make_pruner(config, self.epochs).prune(
            optuna_private.with_storage(study, unmarked), unmarked.get_trial(trial)
        ):
            return None
        storage.set_trial_user_attr(trial, PRUNED_AFTER, len(history))
        return len(history)


class _WithoutMarks:
    """A storage that hides the system attributes that a pruner has set for `trial` at `epoch`.

    Halving pruners mark a trial before they decide, and do not decide again for a marked trial. If the process dies in
    between, the trial would never be pruned. Without the marks, the decision is repeated.
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
    """Optuna's pruner for a configuration. `epochs`: of the study's longest run."""
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
    """The callback of a run; see `PruningCallback`."""
    pruner = study.pruner.model_dump(mode="json")
    return PruningCallback(str(folder), study.storage, optuna_name, trial, pruner, epochs, last, url_of(folder))


@cache
def _study(storage: str | None, folder: str, name: str) -> optuna.Study:
    """Optuna's study, opened once per process, because opening a database takes longer than a small epoch."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=open_storage(storage, Path(folder)))
