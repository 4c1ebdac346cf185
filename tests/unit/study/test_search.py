"""Suggested hyperparameters: they only depend on the study's seed, the number of the trial and the recorded trials"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from remix_study.study.search import Search
from remix_study.study.search_space import Params
from tests.studies import RATE, config

METHODS: dict[str, Any] = {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}}
SPACE = {RATE: {"kind": "float", "low": 0.001, "high": 0.1}, "clip_norm": {"kind": "float", "low": 0.1, "high": 9.0}}
TRIALS = 7  # two more than the random trials of a sampler that models the objective
each_sampler = pytest.mark.parametrize("sampler", ["random", "tpe"])


def suggestions(folder: Path, sampler: str, *, seed: int = 0, restarts: Sequence[int] = ()) -> list[Params]:
    """Return the hyperparameters of all trials. The driver restarts before the trials `restarts`."""
    storage = InMemoryStorage()
    study = config(sampler=sampler, seed=seed, space=SPACE, methods=METHODS, trials=TRIALS)
    found: list[Params] = []
    for trial in range(TRIALS):
        if trial == 0 or trial in restarts:
            search = Search(study, "remix", folder, storage, 3)
            search.resume(retry_failed=False)
        number, params = search.next()
        assert number == trial
        search.tell(number, "complete", [float(str(params[RATE]))], seconds=1.0)
        found.append(params)
    return found


@each_sampler
def test_every_trial_and_every_seed_of_a_study_has_its_own_suggestions(tmp_path: Path, sampler: str) -> None:
    found = [suggestions(tmp_path / str(seed), sampler, seed=seed) for seed in range(3)]
    for name in SPACE:
        assert len({params[name] for of_seed in found for params in of_seed}) == 3 * TRIALS


@each_sampler
def test_suggestions_do_not_depend_on_restarts_of_the_driver(tmp_path: Path, sampler: str) -> None:
    whole = suggestions(tmp_path / "whole", sampler)
    assert suggestions(tmp_path / "again", sampler) == whole
    assert suggestions(tmp_path / "restarted", sampler, restarts=(1, 2, 6)) == whole
