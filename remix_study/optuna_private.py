"""Private and undocumented parts of Optuna that remix_study uses; every other file imports them from here

Each comment says what the part is for and what the public API lacks. tests/contracts/test_private_apis.py fails with
one sentence per part that a new Optuna release moves or changes. Optuna is imported inside the functions, so that
importing this module is cheap.
"""

import copy
from collections.abc import Container
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.study._frozen import FrozenStudy  # what `storage.get_all_studies` returns
    from optuna.trial import FrozenTrial

# Table to which Optuna writes its schema version, after it has created all other tables of a database. Opening a
# database through the public API creates missing tables, which a reader must not do.
VERSION_TABLE = "alembic_version"


def database_models() -> Any:
    """Return the module with Optuna's SQLAlchemy tables.

    `study.get_trials` takes several queries per trial: minutes for 10 000 trials, where a few joins take a second.
    """
    from optuna.storages._rdb import models

    return models


def cached_storage(storage: "BaseStorage") -> "BaseStorage":
    """Return `storage` with the cache that `optuna.create_study` puts around a database.

    A storage that wraps another one hides the database from `create_study`, which then adds no cache.
    """
    from optuna.storages import get_storage

    return get_storage(storage)


def storage_of(study: "Study") -> "BaseStorage":
    """Return the study's storage. `Study` offers no access to a single trial: `study.trials` reads all of them."""
    return study._storage


def with_storage(study: "Study", storage: Any) -> "Study":
    """Return a copy of `study` that reads and writes `storage`. A public `Study` always loads its storage by name."""
    other = copy.copy(study)
    other._storage = storage
    return other


def study_id(study: "Study | FrozenStudy") -> int:
    """Return the study's id in its storage, by which storage methods address it; `Study` shows only its name."""
    return int(study._study_id)


def trial_id(trial: "Trial | FrozenTrial") -> int:
    """Return the trial's id in its storage, by which storage methods address it; `trial.number` is another number."""
    return int(trial._trial_id)


def resumed_trial(study: "Study", storage_id: int) -> "Trial":
    """Return a trial of `study` that is RUNNING in the storage, so that a new process can continue it.

    The public `study.ask` always begins another trial.
    """
    from optuna import Trial

    return Trial(study, storage_id)


def forget_params(trial: "Trial") -> None:
    """Make `trial` sample all of its parameters again. Its public `suggest_*` return a parameter that has a value."""
    trial._cached_frozen_trial.params = {}
    trial._cached_frozen_trial.distributions = {}


def without_system_attrs(trial: "FrozenTrial", keys: Container[str]) -> "FrozenTrial":
    """Return a copy of `trial` without these system attributes; `FrozenTrial.system_attrs` cannot be set."""
    other = copy.copy(trial)
    other._system_attrs = {key: value for key, value in trial.system_attrs.items() if key not in keys}
    return other
