"""The driver's caching storage agrees with the underlying storage, except for values of running trials"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from remix_study.config.study import StudyConfig
from remix_study.study.ledger import choose
from remix_study.study.search import Search
from remix_study.study.storage import open_storage, optuna_name
from tests.studies import RATE, config


@pytest.fixture(params=[None, "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    return open_storage(request.param, tmp_path)


def searched(storage: BaseStorage, folder: Path, study: StudyConfig) -> Search:
    search = Search(study, "remix", folder, storage, 3)
    search.resume(retry_failed=False)
    return search


def plain(trials: list[FrozenTrial]) -> list[Any]:
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, {} if t.state == TrialState.RUNNING else t.system_attrs,
         {} if t.state == TrialState.RUNNING else t.intermediate_values)
        for t in trials
    ]  # fmt: skip


def lived(search: Search, storage: BaseStorage) -> Iterator[None]:
    """Start trials, report values and end trials in every way, and yield after each change."""
    ends = itertools.cycle(["complete", "pruned", "complete", "failed"])
    unfinished = []
    for step in range(14):
        number, point = search.next()
        unfinished.append((number, point))
        search.note(number, folders={"0": f"runs/{number}"})
        yield
        for running, _ in unfinished:  # like the epoch callback of a run in another process
            storage.set_trial_intermediate_value(search.id_of(running), step + 1, 0.1 * step)
        yield
        if len(unfinished) > 2:
            number, point = unfinished.pop(0)
            end = next(ends)
            values = [float(str(point[RATE]))] if end == "complete" else []
            reason = None if end == "complete" else end
            search.tell(number, end, values, seconds=1.0, seed_values={}, reason=reason, cause=None)
            yield


@pytest.mark.slow
def test_the_cache_agrees_with_the_storage_after_every_change(storage: BaseStorage, tmp_path: Path) -> None:
    study = config(trials=40, pruner={"name": "asha", "grace": 1})
    search = searched(storage, tmp_path, study)
    for _ in lived(search, storage):
        held = optuna.load_study(study_name=optuna_name(study.name, "remix"), storage=storage).trials
        assert plain(search._study.get_trials()) == plain(held)
    assert {t.state for t in held} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING}


def test_a_suggestion_does_not_read_running_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(None, tmp_path)
    search = searched(storage, tmp_path, config(trials=100))
    for _ in range(20):
        search.next()
    read: list[int] = []
    real = optuna.storages.RDBStorage._get_trials

    def reading(self: Any, *given: Any, **more: Any) -> list[FrozenTrial]:
        found: list[FrozenTrial] = real(self, *given, **more)
        read.append(len(found))
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_trials", reading)
    for _ in range(5):
        search.next()
    assert read == []


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [1, 2])
def test_the_best_trial_is_kept_up_to_date(storage: BaseStorage, tmp_path: Path, objectives: int) -> None:
    objective = [{"metric": "best/val_accuracy"}, {"metric": "time/total_train_s", "direction": "minimize"}]
    more = {"tolerance": 0.05} if objectives == 2 else {}
    study = config(trials=60, objective=objective[:objectives], **more)
    search = searched(storage, tmp_path, study)
    assert search.best() is None
    values = itertools.cycle([0.4, 0.7, 0.7, 0.2, 0.68, 0.9, 0.88])
    for value in itertools.islice(values, 20):
        number, _ = search.next()
        search.tell(number, "complete", [value, 100 * value][:objectives], seconds=1.0)
        assert search.best() == choose(study, search.records())
    again = searched(storage, tmp_path, study)
    assert again.best() == search.best()
