"""Studies with recorded and running trials, on which driver and pruner are measured"""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage

from benchmarks.big_study import DISTRIBUTIONS, SPACE, rows_of
from remix_study import optuna_private
from remix_study.config.study import StudyConfig
from remix_study.study.search import Search
from remix_study.study.storage import open_storage, optuna_name

EPOCHS = 50  # of every recorded trial; running trials have half of them
METHOD = "joint"
Costs = dict[str, Any]


def study_config(folder: Path, name: str, storage: str | None = None, sampler: str = "tpe") -> StudyConfig:
    """Return the configuration of a study with one method, on the corpus in `folder`."""
    content: dict[str, Any] = {
        "name": name, "question": "What does a trial cost?", "trials": 1_000_000, "replicates": 1,
        "reference": METHOD, "storage": storage, "sampler": sampler, "pruner": {"name": "asha", "grace": 4},
        "base": {"corpus": str(folder / "corpus"), "epochs": EPOCHS, "device": "cpu", "tracking": {"model": False}},
        "space": SPACE, "methods": {METHOD: {"set": {"method": {"name": "joint"}}}},
    }  # fmt: skip
    return StudyConfig.model_validate(content)


def record_trials(storage: BaseStorage, study: StudyConfig, trials: int) -> int:
    """Add `trials` ended trials of `big_study` to `storage`, and return Optuna's id of the study."""
    created = optuna.create_study(
        study_name=optuna_name(study.name, METHOD), storage=storage, direction="maximize", load_if_exists=True
    )
    if isinstance(storage, RDBStorage):
        with storage.engine.begin() as connection:
            ids = optuna_private.database_models().TrialModel.trial_id
            first = connection.execute(sa.select(sa.func.coalesce(sa.func.max(ids), 0))).scalar_one()
            for table, rows in rows_of(optuna_private.study_id(created), first, trials, EPOCHS):
                connection.execute(sa.insert(table), rows)
            if storage.engine.dialect.name == "postgresql":  # inserting explicit ids does not advance the sequence
                connection.execute(sa.text("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))"))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            database = open_storage(None, Path(scratch))
            record_trials(database, study, trials)
            created.add_trials(optuna.load_study(study_name=created.study_name, storage=database).trials)
    return optuna_private.study_id(created)


def search_with_trials(folder: Path, storage: BaseStorage, study: StudyConfig, trials: int) -> Search:
    """Return the search of the study's method, with `trials` ended trials on record."""
    record_trials(storage, study, trials)
    return Search(study, METHOD, folder, storage, EPOCHS)


def start_trials(search: Search, storage: BaseStorage, count: int, *, params: bool) -> None:
    """Start trials until `count` are running, and report half of the epochs of each.

    Args:
        params: whether the trials have hyperparameters. Samplers read them; pruners do not.
    """
    search._study.sampler = optuna.samplers.RandomSampler(seed=0)  # any values do, and random ones are fast
    while len(search._running) < count:
        trial = search._study.ask(dict(DISTRIBUTIONS) if params else {})
        search._running[trial.number] = trial
    ids = [optuna_private.trial_id(trial) for trial in search._running.values()]
    if isinstance(storage, RDBStorage):
        table = optuna_private.database_models().TrialIntermediateValueModel
        rows = [{"trial_id": trial, "step": step, "intermediate_value": 0.3,
                 "intermediate_value_type": table.TrialIntermediateValueType.FINITE}
                for trial in ids for step in range(1, EPOCHS // 2)]  # fmt: skip
        with storage.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.trial_id.in_(ids)))
            connection.execute(sa.insert(table), rows)
    else:
        for trial_id, step in itertools.product(ids, range(1, EPOCHS // 2)):
            storage.set_trial_intermediate_value(trial_id, step, 0.3)
