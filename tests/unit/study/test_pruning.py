"""The pruning callback only uses recorded values"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from remix_study.errors import RunPruned, StudyStopped
from remix_study.study import pruning
from remix_study.study.pruning import PRUNED_AFTER, PruningCallback
from remix_study.study.storage import STOP, open_storage

MEDIAN = {"name": "median", "grace": 2, "startup": 1}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    pruning._study.cache_clear()
    return optuna.create_study(study_name="s/m", storage=open_storage(None, tmp_path), direction="maximize")


def callback(study: optuna.Study, folder: Path, pruner: Mapping[str, Any], last: int = 5) -> PruningCallback:
    trial = study.ask()
    return PruningCallback(str(folder), None, "s/m", trial._trial_id, dict(pruner), last, last)


def epochs(*values: float) -> list[dict[str, float]]:
    return [{"epoch": float(n), "val/accuracy": value} for n, value in enumerate(values)]


def complete(study: optuna.Study, folder: Path, values: Sequence[float], pruner: Mapping[str, Any] = MEDIAN) -> None:
    made = callback(study, folder, pruner, last=len(values))
    for n in range(len(values)):
        made(epochs(*values[: n + 1]))
    assert made.trial is not None
    study.tell(study.trials[-1].number, max(values))


def test_reported_values_are_the_best_so_far(study: optuna.Study, tmp_path: Path) -> None:
    complete(study, tmp_path, [0.5, 0.4, 0.7, 0.6])
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.7, 4: 0.7}


def test_a_run_below_the_median_ends_after_its_grace_and_not_before(study: optuna.Study, tmp_path: Path) -> None:
    complete(study, tmp_path, [0.8, 0.8, 0.8, 0.8, 0.8])
    low = callback(study, tmp_path, MEDIAN)
    low(epochs(0.1))
    with pytest.raises(RunPruned, match="pruned by median after 2 epochs, at val/accuracy no better than others"):
        low(epochs(0.1, 0.2))
    assert study.trials[1].intermediate_values == {1: 0.1, 2: 0.2}


def test_a_decision_to_prune_is_recorded(study: optuna.Study, tmp_path: Path) -> None:
    """A run killed after the decision asks again when resumed. The pruner could then decide differently."""
    asha = {"name": "asha", "grace": 1, "reduction": 2}
    complete(study, tmp_path, [0.8, 0.8, 0.8, 0.8], asha)
    low = callback(study, tmp_path, asha)
    with pytest.raises(RunPruned, match="after 1 epochs"):
        low(epochs(0.1))
    assert study.trials[1].user_attrs[PRUNED_AFTER] == 1
    with pytest.raises(RunPruned, match="after 1 epochs"):
        low(epochs(0.1))
    assert study.trials[1].state == TrialState.RUNNING  # the driver records its end


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asha", "hyperband"])
@pytest.mark.parametrize("value", [0.1, 0.85])
def test_a_process_that_dies_while_pruning_gets_the_same_decision_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    """Halving pruners mark a trial before they decide, and do not prune a marked one."""
    pruner = {"name": name, "grace": 1, "reduction": 2}
    prune = optuna.pruners.SuccessiveHalvingPruner.prune

    def prune_and_die(self: Any, study: optuna.Study, trial: Any) -> bool:
        prune(self, study, trial)
        raise KeyboardInterrupt

    def decisions(folder: Path, *, killed: bool) -> list[str]:
        pruning._study.cache_clear()
        folder.mkdir()
        study = optuna.create_study(study_name="s/m", storage=open_storage(None, folder), direction="maximize")
        for best in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            complete(study, folder, [best] * 4, pruner)
        run = callback(study, folder, pruner)
        found: list[str] = []
        for epoch in range(1, 5):
            if killed:
                with monkeypatch.context() as patch:
                    patch.setattr(optuna.pruners.SuccessiveHalvingPruner, "prune", prune_and_die)
                    with pytest.raises(KeyboardInterrupt):
                        run(epochs(*[value] * epoch))
            try:
                run(epochs(*[value] * epoch))
            except RunPruned as pruned:
                return [*found, str(pruned)]
            found.append("continues")
        return found

    assert decisions(tmp_path / "killed", killed=True) == decisions(tmp_path / "whole", killed=False)


def test_a_run_at_its_last_epoch_is_not_pruned(study: optuna.Study, tmp_path: Path) -> None:
    complete(study, tmp_path, [0.8, 0.8, 0.8])
    short = callback(study, tmp_path, MEDIAN, last=2)
    short(epochs(0.1))
    short(epochs(0.1, 0.1))
    assert study.trials[1].intermediate_values == {1: 0.1, 2: 0.1}


def test_smaller_is_better_if_the_study_minimises(tmp_path: Path) -> None:
    pruning._study.cache_clear()
    study = optuna.create_study(study_name="s/m", storage=open_storage(None, tmp_path), direction="minimize")
    complete(study, tmp_path, [0.2, 0.3, 0.1])
    assert study.trials[0].intermediate_values == {1: 0.2, 2: 0.2, 3: 0.1}
    high = callback(study, tmp_path, MEDIAN)
    high(epochs(0.9))
    with pytest.raises(RunPruned):
        high(epochs(0.9, 0.8))


def test_an_unreachable_storage_does_not_end_runs(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(study, tmp_path, [0.8, 0.8, 0.8, 0.8, 0.8])
    run = callback(study, tmp_path, MEDIAN)
    with monkeypatch.context() as patch:

        def fail(*args: object) -> None:
            raise optuna.exceptions.StorageInternalError("gone")

        patch.setattr(pruning, "_study", fail)
        run(epochs(0.9))
    run(epochs(0.9, 0.9))
    assert study.trials[1].intermediate_values == {1: 0.9, 2: 0.9}  # the missing value is reported later


def test_a_stop_ends_a_run_that_has_epochs_left(tmp_path: Path) -> None:
    run = PruningCallback(str(tmp_path), last=3)
    run(epochs(0.1))
    (tmp_path / STOP).touch()
    with pytest.raises(StudyStopped, match="stopped as requested after epoch 1; it resumes from there"):
        run(epochs(0.1, 0.2))
    run(epochs(0.1, 0.2, 0.3))  # no epoch is left


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_no_run_ends_before_its_grace(study: optuna.Study, tmp_path: Path, name: str) -> None:
    pruner = {"name": name, "grace": 3, **({"startup": 1} if name == "median" else {"reduction": 2})}
    for best in (0.7, 0.8, 0.9):
        complete(study, tmp_path, [best] * 4, pruner)
    low = callback(study, tmp_path, pruner)
    low(epochs(0.1))
    low(epochs(0.1, 0.1))
    with pytest.raises(RunPruned, match="after 3 epochs"):
        low(epochs(0.1, 0.1, 0.1))
