"""Studies with made-up runs: searching, choosing, replicating, extending and retraining"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from remix_study.config.run import RunConfig
from remix_study.errors import StudyError
from remix_study.report.page import write_report
from remix_study.study import study as study_module
from remix_study.study.ledger import FINAL, REPLICATE, read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.replicates import replicate_seed
from remix_study.study.results import result_of
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Task
from tests.studies import RATE, Conduct, DriverDied, Runner, config, records, write_no_report


def lower_is_better(run: RunConfig, epoch: int) -> float:
    return -run.optimizer.learning_rate


def better_with_the_seed(run: RunConfig, epoch: int) -> float:
    return run.optimizer.learning_rate + 0.1 * run.seed


def test_every_method_gets_the_same_number_of_trials_and_its_best_is_replicated(
    conduct: Conduct, tmp_path: Path
) -> None:
    runner = Runner()
    seen: list[tuple[object, ...]] = []
    result = conduct(runner, listener=StudyListener(done=lambda *args: seen.append(args[2:])))
    assert Counter((t.stage, t.method) for t in runner.ran) == {
        ("search", "joint"): 3, ("search", "remix"): 3, ("replicate", "joint"): 2, ("replicate", "remix"): 2,
    }  # fmt: skip
    assert seen == [(n, 10) for n in range(1, 11)]
    best = {m: max(records(tmp_path, m), key=lambda t: t.values).params for m in ("joint", "remix")}
    for task in runner.ran:
        run = task.jobs[0].config
        replicate = task.stage == "replicate"
        assert run.evaluation.test == replicate  # only replicates are evaluated on the test set
        assert run.seed == (replicate_seed(0, REPLICATE, task.number) if replicate else 0)
        if replicate:
            assert run.optimizer.learning_rate == best[task.method][RATE]
    # The known-good configuration comes first.
    assert [records(tmp_path, m)[0].params[RATE] for m in ("joint", "remix")] == [0.002, 0.003]
    assert result is not None
    joint, remix = result.methods
    assert (dict(joint.params), dict(remix.params)) == (best["joint"], best["remix"])
    assert joint.ahead is not None
    assert [joint.ahead.mean, joint.ahead.wins] == pytest.approx([10, 2])


def test_rerunning_a_complete_study_starts_no_run_and_returns_the_same_result(conduct: Conduct) -> None:
    first = conduct(Runner())
    again = Runner()
    assert conduct(again) == first
    assert again.ran == []


def test_a_study_survives_an_error_of_its_report(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> Sequence[Path]:
        raise ValueError(f"no picture of {folder.name}")

    messages: list[str] = []
    monkeypatch.setattr(study_module, "execute", Runner())
    run = StudyRun(config(), {"corpus": str(small_corpus)}, tmp_path, StudyListener(say=messages.append))
    assert run.run(fail) is not None
    again = f"remix-study report s --workspace {tmp_path}"
    assert messages == [f"Cannot write the report: no picture of s. Write it later: {again}"]


def test_a_study_can_be_extended_by_trials_and_replicates(conduct: Conduct) -> None:
    conduct(Runner())
    runner = Runner()
    result = conduct(runner, config(trials=4, replicates=3))
    assert result is not None
    assert Counter(t.stage for t in runner.ran)["search"] == 2
    assert [sorted(c.seeds) for c in result.methods] == [[0, 1, 2]] * 2


@pytest.mark.slow
def test_newly_chosen_hyperparameters_are_replicated(conduct: Conduct, tmp_path: Path) -> None:
    conduct(Runner(accuracy=lower_is_better))
    old = read_ledger(tmp_path / "studies" / "s").replicates["joint"]
    runner = Runner()  # a larger learning rate is better from now on
    result = conduct(runner, config(trials=6))
    new = read_ledger(tmp_path / "studies" / "s").replicates["joint"]
    assert new[0].params != old[0].params
    assert new[0].folder != old[0].folder
    assert result is not None
    assert dict(result.methods[0].params) == new[0].params
    assert Counter(t.stage for t in runner.ran)["replicate"] == 4


def test_replicates_that_are_added_after_the_end_are_told(conduct: Conduct, tmp_path: Path) -> None:
    first = conduct(Runner(), config(replicates=2))
    assert first is not None
    more = result_of(read_ledger(tmp_path / "studies" / "s"))
    assert more is not None
    assert more.extensions == ()
    conduct(Runner(), config(replicates=4))
    extended = result_of(read_ledger(tmp_path / "studies" / "s"))
    assert extended is not None
    assert extended.extensions[0].startswith("Replicates 3 to 4 were added after test results had been shown on ")
    assert extended.extensions[0] in extended.sentence


def test_a_grid_is_searched_completely_and_can_be_extended(conduct: Conduct, tmp_path: Path) -> None:
    space = {RATE: {"kind": "choice", "of": [0.001, 0.002, 0.003, 0.004]}}
    conduct(Runner(), config(space=space, sampler="grid", trials=2))
    conduct(Runner(), config(space=space, sampler="grid", trials=4))
    for method, first in (("joint", 0.002), ("remix", 0.003)):
        tried = [t.params[RATE] for t in records(tmp_path, method)]
        assert tried[0] == first
        assert sorted(tried) == [0.001, 0.002, 0.003, 0.004]


def test_a_pruned_trial_is_recorded_as_pruned_with_its_intermediate_values(conduct: Conduct, tmp_path: Path) -> None:
    """Trials with a lower learning rate are below the median and are pruned after their grace."""
    pruner = {"name": "median", "grace": 2, "startup": 1}
    space = {RATE: {"kind": "choice", "of": [0.08, 0.04, 0.02]}}
    methods = {"remix": {"set": {"method": {"name": "remix", "warmup": 1}},
                         "first": [{RATE: 0.08}, {RATE: 0.02}, {RATE: 0.04}]}}  # fmt: skip
    runner = Runner(at_once=1, epochs=5, accuracy=lambda run, epoch: run.optimizer.learning_rate * (1 + epoch))
    base = {"corpus": "", "epochs": 5, "device": "cpu", "tracking": {"uri": "off"}}
    conduct(runner, config(pruner=pruner, space=space, methods=methods, base=base))
    whole, low, middle = records(tmp_path, "remix")
    assert (whole.state, low.state, middle.state) == ("complete", "pruned", "pruned")
    assert list(whole.intermediate) == [1, 2, 3, 4, 5]
    assert low.intermediate == pytest.approx({1: 0.02, 2: 0.04})
    assert (low.values, low.cause) == ((), None)
    assert (low.work["epochs"], low.work["updates/audio"]) == (2, 4), "what pruned trials used is recorded, too"
    assert low.reason == "pruned by median after 2 epochs, at val/accuracy no better than others"
    # A pruned trial is never chosen, and replicates are not pruned.
    ledger = read_ledger(tmp_path / "studies" / "s")
    best = ledger.chosen("remix")
    assert best is not None
    assert best.number == 0
    assert [r.state for r in ledger.replicates["remix"]] == ["complete", "complete"]


def test_a_trials_value_is_the_mean_over_its_seeds(conduct: Conduct, tmp_path: Path) -> None:
    runner = Runner(accuracy=better_with_the_seed)
    conduct(runner, config(seeds_per_trial=3, seed=5))
    for trial in records(tmp_path, "remix"):
        rate = trial.params[RATE]
        assert trial.seed_values == pytest.approx((rate + 0.5, rate + 0.6, rate + 0.7))
        assert trial.values == pytest.approx((rate + 0.6,))
        assert len(set(trial.folders)) == 3
        assert trial.seconds == pytest.approx(3.0)
        assert trial.work == {"epochs": 9, "updates/audio": 18, "samples/audio": 90, "multiply_adds": 9e6}
    searches = [task for task in runner.ran if task.stage == "search"]
    assert [[j.config.seed for j in task.jobs] for task in searches] == [[5, 6, 7]] * 6


def test_with_several_objectives_the_choice_is_on_the_front_within_the_tolerance(
    conduct: Conduct, tmp_path: Path
) -> None:
    front = {0.01: (0.90, 0.50), 0.02: (0.89, 0.10), 0.03: (0.80, 0.01), 0.04: (0.85, 0.60)}

    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        accuracy, imbalance = front[run.optimizer.learning_rate]
        return {
            "best/val_accuracy": accuracy,
            "best/balance_imbalance": imbalance,
            "test/accuracy": 0.5 + 0 * task.number,
        }

    objectives = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
    space = {RATE: {"kind": "choice", "of": list(front)}}
    methods = {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}}
    changes = {"objective": objectives, "space": space, "methods": methods, "sampler": "grid", "trials": 4}
    conduct(Runner(summary=summary), config(**changes, tolerance=0.02))
    ledger = read_ledger(tmp_path / "studies" / "s")
    best = ledger.chosen("remix")
    assert best is not None
    assert best.params[RATE] == 0.02


@pytest.mark.slow
def test_a_unimodal_ceiling_is_searched_by_the_first_objective_only(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        balance = {} if task.method == "audio" else {"best/balance_imbalance": 0.1 * task.number}
        tested = {"test/accuracy": 0.5, "time/total_train_s": 1.0, "time/total_score_s": 0.0}
        return {"best/val_accuracy": run.optimizer.learning_rate, **balance, **tested}

    objectives = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
    methods = {
        "remix": {"set": {"method": {"name": "remix", "warmup": 1}}},
        "audio": {"set": {"method": {"name": "unimodal", "modality": "audio"}}, "ceiling_of": "audio"},
    }
    monkeypatch.setattr(study_module, "execute", Runner(summary=summary))
    run = StudyRun(config(objective=objectives, methods=methods), {"corpus": str(small_corpus)}, tmp_path)
    assert run.run(write_report) is not None
    assert [len(t.values) for t in records(tmp_path, "remix")] == [2, 2, 2]
    assert [len(t.values) for t in records(tmp_path, "audio")] == [1, 1, 1]
    assert (run.folder / "report" / "report.html").exists()


def test_retrain_runs_the_best_hyperparameters_with_further_seeds(
    conduct: Conduct, retrain: Callable[..., Any], tmp_path: Path
) -> None:
    conduct(Runner())
    runner = Runner()
    found = retrain(runner, "joint", 3)
    assert sorted(found) == [0, 1, 2]
    runs = [task.jobs[0].config for task in runner.ran]
    assert [run.seed for run in runs] == [replicate_seed(0, FINAL, n) for n in range(3)]
    assert all(run.evaluation.test for run in runs)
    again = Runner()
    retrain(again, "joint", 4)
    assert len(again.ran) == 1
    stages = Counter(r.stage for r in read_ledger(tmp_path / "studies" / "s").replicates["joint"])
    assert stages == {REPLICATE: 2, FINAL: 4}


def test_retrain_says_which_runs_failed(conduct: Conduct, retrain: Callable[..., Any]) -> None:
    conduct(Runner())
    said: list[str] = []
    found = retrain(Runner(fails=lambda task: task.number == 1), "joint", 2, StudyListener(say=said.append))
    assert list(found) == [0]
    assert any("1 of 2 runs failed, and are not in the mean: run 1: NotANumberError" in message for message in said)
    with pytest.raises(StudyError, match=r"Cannot retrain `remix`: no run is complete. run 0: NotANumberError"):
        retrain(Runner(fails=lambda task: True), "remix", 2)


def test_retrain_without_budget_is_an_error(
    conduct: Conduct, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conduct(Runner(seconds=3600.0))
    monkeypatch.setattr(study_module, "execute", Runner())
    study = StudyRun(config(budget={"cpu_hours": 4.0}), {"corpus": str(small_corpus)}, tmp_path)
    with pytest.raises(StudyError, match=r"no run is complete. the budget is used up \(10.00 of 4 CPU hours\); raise"):
        study.retrain("joint", 2, write_no_report)


def test_retrain_without_a_complete_trial_is_an_error(conduct: Conduct, retrain: Callable[..., Any]) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=0))
    with pytest.raises(StudyError, match="Cannot retrain `joint`: none of its trials is complete"):
        retrain(Runner(), "joint", 1)


@pytest.mark.slow
def test_a_study_is_the_same_in_sqlite_which_is_the_default_and_in_a_journal(conduct: Conduct, tmp_path: Path) -> None:
    """A killed study is resumed, too. The other tests use a journal, which opens faster."""
    sentences = set()
    for storage, file in ((None, "optuna.db"), ("journal", "optuna.journal")):
        study = config(name=f"in-{storage}", storage=storage)
        with pytest.raises(DriverDied):
            conduct(Runner(life=4), study)
        result = conduct(Runner(), study)
        assert result is not None
        sentences.add(result.sentence)
        folder = tmp_path / "studies" / study.name
        assert [path.name for path in folder.glob("optuna.*") if path.suffix in (".db", ".journal")] == [file]
        ledger = read_ledger(folder)
        assert {m: [t.state for t in trials] for m, trials in ledger.trials.items()} == {
            "joint": ["complete"] * 3, "remix": ["complete"] * 3,
        }  # fmt: skip
    assert len(sentences) == 1
