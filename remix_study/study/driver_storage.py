"""Storage of the driver: it caches running trials, so that a suggestion does not read all of them

For each suggestion, Optuna reads all running trials three times, with the values of all epochs. With a thousand running
trials this takes seconds, for which all runs wait. But only the driver creates, samples and ends trials. Samplers do
not use what runs write in between (a value per epoch, marks of pruners) before the trial ends, and then it is read.
"""

import copy
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from remix_study import optuna_private

_MANY = 32  # changed trials, above which reading all trials at once is faster


class DriverStorage:
    """A storage of one study, whose trials no other process creates, samples or ends."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = optuna_private.cached_storage(storage)
        self._trials: dict[int, FrozenTrial] = {}  # by Optuna's id, which increases with the number of the trial
        self._written: set[int] | None = None  # changed since they were read; None: never read

    def __getattr__(self, name: str) -> Any:
        if name == "_storage":  # while the object is unpickled
            raise AttributeError(name)
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials by number. Running trials are as the driver wrote them, without what their runs reported."""
        if self._written is None or len(self._written) > _MANY:
            self._trials = {
                optuna_private.trial_id(t): t for t in self._storage.get_all_trials(study_id, deepcopy=False)
            }
        else:
            for trial_id in sorted(self._written):
                self._trials[trial_id] = self._storage.get_trial(trial_id)
        self._written = set()
        trials = [t for t in self._trials.values() if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._noted(self._storage.create_new_trial(study_id, template_trial))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._storage.set_trial_param(self._noted(trial_id), param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self._storage.set_trial_state_values(self._noted(trial_id), state, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._noted(trial_id), key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_system_attr(self._noted(trial_id), key, value)

    def _noted(self, trial_id: int) -> int:
        if self._written is not None:
            self._written.add(trial_id)
        return trial_id
