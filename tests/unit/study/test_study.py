"""Studies with made-up runs: searching, choosing, replicating, resuming and stopping"""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, StudyError, StudyStopped, TrackingError
from remix_study.patience import PATIENCE
from remix_study.report.page import write_report
from remix_study.report.tables import accuracy_table, trials_table
from remix_study.study import study as study_module
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import FINAL, REPLICATE, read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.replicates import replicate_seed
from remix_study.study.results import result_of
from remix_study.study.storage import STOP, open_storage
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task
from remix_study.tracking import default_uri
from tests.studies import RATE, DriverDied, Runner, config, records, write_no_report

ONE = {"kind": "float", "low": 1, "high": 1}


def lower_is_better(run: RunConfig, epoch: int) -> float:
    return -run.optimizer.learning_rate


def better_with_the_seed(run: RunConfig, epoch: int) -> float:
    return run.optimizer.learning_rate + 0.1 * run.seed


Conduct = Callable[..., StudyResult | None]


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conduct:
    def run(
        runner: Runner, study: StudyConfig | None = None, listener: StudyListener | None = None, *,
        retry_failed: bool = False, **settings: Any,
    ) -> StudyResult | None:  # fmt: skip
        monkeypatch.setattr(study_module, "execute", runner)
        run = StudyRun(
            study or config(), {"corpus": str(small_corpus), **settings}, tmp_path, listener, retry_failed=retry_failed
        )
        return run.run(write_no_report)

    return run


@pytest.fixture
def retrain(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(runner: Runner, method: str, seeds: int) -> dict[int, dict[str, float]]:
        monkeypatch.setattr(study_module, "execute", runner)
        return StudyRun(config(), {"corpus": str(small_corpus)}, tmp_path).retrain(method, seeds, write_no_report)

    return run


def trials_of(workspace: Path) -> dict[str, list[tuple[int, str, dict[str, Any], tuple[float, ...]]]]:
    """Return number, state, hyperparameters and values of all trials, by method."""
    ledger = read_ledger(workspace / "studies" / "s")
    return {m: [(t.number, t.state, t.params, t.values) for t in trials] for m, trials in ledger.trials.items()}


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


@pytest.mark.slow
@pytest.mark.parametrize("life", [1, 3, 5, 7, 9])
def test_a_study_whose_driver_is_killed_is_resumed(conduct: Conduct, tmp_path: Path, life: int) -> None:
    first = Runner(life=life)
    with pytest.raises(DriverDied):
        conduct(first)
    left = {m: [t.number for t in records(tmp_path, m) if t.state == "running"] for m in ("joint", "remix")}
    second = Runner()
    result = conduct(second)
    for method, numbers in left.items():
        found = records(tmp_path, method)
        assert [t.state for t in found] == ["complete"] * 3
        assert [t.number for t in found] == [0, 1, 2]  # interrupted trials keep their numbers
        assert set(numbers) <= {t.number for t in second.ran if (t.stage, t.method) == ("search", method)}
    # No complete run is run again, and an interrupted run resumes in its folder.
    done = [(t.stage, t.jobs[0].folder) for t in first.ran]
    assert not set(done) & {(t.stage, t.jobs[0].folder) for t in second.ran}
    assert len(first.ran) + len(second.ran) == 10
    assert result is not None
    assert len(result.methods[0].seeds) == len(result.methods[1].seeds) == 2


SLOW_SAMPLERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("gp", "cmaes", "nsga2")]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", *SLOW_SAMPLERS])
def test_a_study_that_is_killed_many_times_has_the_trials_of_an_uninterrupted_one(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """With one run at a time, a suggestion only depends on the seed, the number and the recorded trials."""
    space = {
        RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True},
        "global_batch": {"kind": "int", "low": 16, "high": 64},
    }
    study_config = config(sampler=sampler, trials=9, replicates=1, space=space)

    def run(workspace: Path, runner: Runner) -> None:
        monkeypatch.setattr(study_module, "execute", runner)
        StudyRun(study_config, {"corpus": str(small_corpus)}, workspace).run(write_no_report)

    run(tmp_path / "whole", Runner(at_once=1))
    for life in (2, 1, 5, 0, 3):
        with pytest.raises(DriverDied):
            run(tmp_path / "killed", Runner(at_once=1, life=life))
    run(tmp_path / "killed", Runner(at_once=1))
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_driver_that_is_killed_while_sampling_samples_the_same_again(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {
        RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True},
        "global_batch": {"kind": "int", "low": 16, "high": 64},
        "clip_norm": {"kind": "float", "low": 0.5, "high": 2.0},
    }
    study_config = config(sampler="random", trials=4, replicates=1, space=space)
    suggest_float = optuna.Trial.suggest_float

    def run(workspace: Path) -> None:
        monkeypatch.setattr(study_module, "execute", Runner(at_once=1))
        StudyRun(study_config, {"corpus": str(small_corpus)}, workspace).run(write_no_report)

    def die_while_sampling(trial: optuna.Trial, name: str, *args: Any, **kwargs: Any) -> float:
        if name == "clip_norm" and trial.number == 2:
            raise DriverDied
        return suggest_float(trial, name, *args, **kwargs)

    run(tmp_path / "whole")
    monkeypatch.setattr(optuna.Trial, "suggest_float", die_while_sampling)
    with pytest.raises(DriverDied):
        run(tmp_path / "killed")
    monkeypatch.setattr(optuna.Trial, "suggest_float", suggest_float)
    run(tmp_path / "killed")
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")


def test_a_failed_trial_is_counted_and_reported(conduct: Conduct, tmp_path: Path) -> None:
    runner = Runner(fails=lambda task: task.method == "remix" and task.stage == "search" and task.number == 0)
    result = conduct(runner)
    assert result is not None
    assert result.failures == ("remix-search-0: NotANumberError: the loss must be a number",)
    found = records(tmp_path, "remix")
    assert [t.state for t in found] == ["failed", "complete", "complete"]  # a failed trial is not replaced
    assert (found[0].cause, found[0].reason) == ("not a number", "NotANumberError: the loss must be a number")
    assert len(runner.ran) == 10


def test_a_failed_replicate_does_not_affect_the_others(conduct: Conduct) -> None:
    result = conduct(
        Runner(fails=lambda task: task.stage == "replicate" and task.method == "joint" and task.number == 1)
    )
    assert result is not None
    assert [sorted(c.seeds) for c in result.methods] == [[0], [0, 1]]
    assert result.failures == ("joint-replicate-1: NotANumberError: the loss must be a number",)
    again = Runner()
    result = conduct(again)
    assert result is not None
    assert [sorted(c.seeds) for c in result.methods] == [[0, 1], [0, 1]]  # failed replicates run again
    assert [(t.stage, t.method, t.number) for t in again.ran] == [("replicate", "joint", 1)]
    # Its failure is not forgotten, however often the study is rerun.
    for _ in range(2):
        reason = "NotANumberError: the loss must be a number"
        assert result.failures == (f"joint-replicate-1: failed before it was run again: {reason}",)
        assert "Replicates that had failed were run again: 1 of joint." in result.sentence
        result = conduct(Runner())
        assert result is not None


def test_a_method_without_complete_trials_does_not_affect_the_others(conduct: Conduct, tmp_path: Path) -> None:
    result = conduct(Runner(fails=lambda task: task.method == "joint"))
    assert result is not None
    assert [c.name for c in result.methods] == ["remix"]
    assert Counter(t.state for t in records(tmp_path, "joint")) == {"failed": 3}


@pytest.mark.slow
def test_failed_trials_are_retried_only_on_request(conduct: Conduct, tmp_path: Path) -> None:
    def second_of_remix(task: Task) -> bool:
        return (task.stage, task.method, task.number) == ("search", "remix", 1)

    conduct(Runner(fails=second_of_remix))
    failed = records(tmp_path, "remix")[1]
    again = Runner()
    conduct(again)
    assert again.ran == []
    conduct(again, retry_failed=True)
    assert [t.method for t in again.ran if t.stage == "search"] == ["remix"]
    found = records(tmp_path, "remix")
    assert [t.state for t in found] == ["complete", "failed", "complete", "complete"]
    assert (found[1].retried, found[3].params) == (True, failed.params)


@pytest.mark.slow
def test_an_interrupted_retry_is_resumed(conduct: Conduct, tmp_path: Path) -> None:
    conduct(Runner(fails=lambda task: (task.stage, task.method, task.number) == ("search", "joint", 0)))
    with pytest.raises(DriverDied):
        conduct(Runner(life=0), retry_failed=True)
    again = Runner()
    conduct(again)  # without `retry_failed`: the retry was started before
    assert [t.method for t in again.ran if t.stage == "search"] == ["joint"]
    assert Counter(t.state for t in records(tmp_path, "joint")) == {"complete": 3, "failed": 1}


def test_a_trial_without_its_objective_fails(conduct: Conduct, tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        return {"best/val_accuracy": run.optimizer.learning_rate, "test/accuracy": float(task.number)}

    conduct(Runner(summary=summary), config(objective="best/val_macro_f1"))
    (reason,) = {t.reason for t in records(tmp_path, "remix")}
    assert reason == "`objective` must be one of best/val_accuracy, test/accuracy, but is best/val_macro_f1"
    assert {t.cause for t in records(tmp_path, "remix")} == {"bad configuration"}


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "why?"}, r'question: "does it help\?" -> "why\?"'),
        ({"space": {RATE: {"kind": "float", "low": 0.001, "high": 0.2, "log": True}}}, "high: 0.1 -> 0.2"),
        ({"objective": "last/val_accuracy"}, 'objective: .*"best/val_accuracy".* -> .*"last/val_accuracy"'),
        ({"sampler": "random"}, 'sampler: "tpe" -> "random"'),
    ],
)
def test_changed_settings_of_a_study_are_an_error_that_lists_them(
    conduct: Conduct, change: dict[str, Any], message: str
) -> None:
    conduct(Runner())
    runner = Runner()
    with pytest.raises(StudyError, match=f"must be asked the same question(.|\n)*{message}(.|\n)*another `name`"):
        conduct(runner, config(**change))
    assert runner.ran == []


@pytest.mark.slow
def test_a_rejected_start_leaves_the_mlflow_run_unchanged(conduct: Conduct, tmp_path: Path) -> None:
    tracked = {"tracking": {"uri": None, "experiment": "e", "model": False}}
    conduct(Runner(), **tracked)
    client = MlflowClient(tracking_uri=default_uri(tmp_path))

    def parent() -> Any:
        experiment = client.get_experiment_by_name("e")
        assert experiment is not None
        (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "s"]
        return run

    assert parent().info.status == "FINISHED"
    assert "does it help?" in parent().data.tags["mlflow.note.content"]
    with pytest.raises(StudyError, match="must be asked the same question"):
        conduct(Runner(), config(question="why?"), **tracked)
    assert parent().info.status == "FINISHED"
    assert "failure_reason" not in parent().data.tags


@pytest.mark.slow
def test_only_a_new_study_requires_its_tracking_server(
    conduct: Conduct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, "tracking_close_s", 0.5)
    unreachable = {"tracking": {"uri": "http://127.0.0.1:9", "experiment": "e", "model": False}}
    runner = Runner()
    with pytest.raises(TrackingError, match="Cannot connect to the MLflow server"):
        conduct(runner, **unreachable)
    assert runner.ran == []
    with pytest.raises(DriverDied):
        conduct(Runner(life=3), tracking={"uri": None, "experiment": "e", "model": False})
    messages: list[str] = []
    assert conduct(runner, listener=StudyListener(say=messages.append), **unreachable) is not None
    assert len(runner.ran) == 7
    assert messages[0].startswith("Cannot reach the tracking server; the study resumes without it")


def test_an_invalid_study_starts_no_run(conduct: Conduct) -> None:
    runner = Runner()
    with pytest.raises(ConfigError, match=r"did you mean `(optimizer\.)?learning_rate`"):
        conduct(runner, config(space={RATE: {"kind": "float", "low": 1, "high": 2}, "optimizer.learnin_rate": ONE}))
    remix = {"set": {"method": {"name": "remix", "warmup": 1, "filter": {"rule": "margin", "threshold": 9}}}}
    with pytest.raises(ConfigError, match=r"`method\.filter\.threshold` must be at most 2"):
        conduct(runner, config(methods={"remix": remix}))
    assert runner.ran == []


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


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_a_killed_study_prunes_the_same_trials(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str
) -> None:
    base = {"corpus": "", "epochs": 6, "device": "cpu", "tracking": {"uri": "off"}}
    study_config = config(pruner={"name": pruner, "grace": 2}, trials=8, replicates=1, base=base)

    def run(workspace: Path, life: int = 10_000) -> None:
        runner = Runner(life=life, at_once=1, epochs=6)
        monkeypatch.setattr(study_module, "execute", runner)
        StudyRun(study_config, {"corpus": str(small_corpus)}, workspace).run(write_no_report)

    run(tmp_path / "whole")
    for life in (3, 2, 6):
        with pytest.raises(DriverDied):
            run(tmp_path / "killed", life)
    run(tmp_path / "killed")
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")
    assert any(state == "pruned" for trials in trials_of(tmp_path / "whole").values() for _, state, _, _ in trials)


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


def test_a_budget_ends_the_search_so_that_the_replicates_fit(conduct: Conduct, tmp_path: Path) -> None:
    """A run takes 36 s, so 0.111 CPU hours are enough for eleven runs, of which 2 x 2 are replicates."""
    messages: list[str] = []
    runner = Runner(seconds=36.0)
    result = conduct(runner, config(trials=50, budget={"cpu_hours": 0.111}), StudyListener(say=messages.append))
    assert result is not None
    counts = Counter((t.stage, t.method) for t in runner.ran)
    assert counts[("replicate", "joint")] == counts[("replicate", "remix")] == 2
    assert counts[("search", "joint")] == counts[("search", "remix")] == 3  # the same number for each
    assert "The budget is used up" in messages[0]
    more = Runner(seconds=36.0)
    conduct(more, config(trials=50, budget={"cpu_hours": 0.18}))
    assert 0 < Counter(t.stage for t in more.ran)["search"] <= 4


def test_if_the_budget_ends_the_replicates_all_methods_have_the_same_seeds(conduct: Conduct) -> None:
    """A round of trials that has started is completed. The first replicates of both methods come first."""
    runner = Runner(seconds=36.0, at_once=1)
    conduct(runner, config(trials=9, replicates=5, budget={"cpu_hours": 0.055}))
    assert [(t.stage, t.method, t.number) for t in runner.ran] == [
        ("search", "joint", 0), ("search", "remix", 0), ("replicate", "joint", 0), ("replicate", "remix", 0),
        ("replicate", "joint", 1), ("replicate", "remix", 1),
    ]  # fmt: skip


def test_a_used_up_budget_starts_no_run(conduct: Conduct) -> None:
    conduct(Runner(seconds=3600.0), config(budget={"cpu_hours": 2}))
    again = Runner()
    conduct(again, config(budget={"cpu_hours": 2}))
    assert again.ran == []


def test_a_stopped_study_ends_its_runs_after_their_epoch_and_is_resumed(conduct: Conduct, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "s"

    def stop(task: Task, outcome: Outcome, ended: int, total: int) -> None:
        if ended == 2:
            (folder / STOP).touch()

    first = Runner()
    with pytest.raises(StudyStopped, match=r"2 of 10 runs have ended\. Rerun the command to resume"):
        conduct(first, listener=StudyListener(done=stop))
    assert [t.state for m in ("joint", "remix") for t in records(tmp_path, m)].count("stopped") == 1
    second = Runner()
    conduct(second)
    assert not (folder / STOP).exists()
    states = [t.state for m in ("joint", "remix") for t in records(tmp_path, m)]
    assert states == ["complete"] * 6


def test_ctrl_c_asks_the_study_to_stop(conduct: Conduct, tmp_path: Path) -> None:
    messages: list[str] = []

    def interrupt(task: Task, outcome: Outcome, ended: int, total: int) -> None:
        if not messages:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StudyStopped):
        conduct(Runner(), listener=StudyListener(done=interrupt, say=messages.append))
    assert messages == ["Stopping after the current epochs. Press Ctrl-C again to stop at once."]
    assert signal.getsignal(signal.SIGINT) is before

    def interrupt_twice(task: Task, outcome: Outcome, ended: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        conduct(Runner(), listener=StudyListener(done=interrupt_twice, interrupted=lambda: calls.append("second")))
    assert calls == ["second"]


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


def test_retrain_without_a_complete_trial_is_an_error(conduct: Conduct, retrain: Callable[..., Any]) -> None:
    with pytest.raises(DriverDied):
        conduct(Runner(life=0))
    with pytest.raises(StudyError, match="Cannot retrain `joint`: none of its trials is complete"):
        retrain(Runner(), "joint", 1)


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


def test_a_database_with_another_study_of_the_same_name_is_an_error(conduct: Conduct, tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    conduct(Runner(), config(storage=shared))
    (tmp_path / "studies" / "s").rename(tmp_path / "studies" / "elsewhere")
    study = optuna.load_study(study_name="s/joint", storage=open_storage(shared, tmp_path))
    study.set_user_attr("folder", str(tmp_path / "other" / "studies" / "s"))
    with pytest.raises(StudyError, match="already holds a study named 's', in"):
        conduct(Runner(), config(storage=shared))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


def test_runs_whose_loss_grew_a_thousandfold_are_marked_as_diverged(conduct: Conduct, tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        growth = 1e3 if task.method == "joint" else 999.0
        return {"best/val_accuracy": 0.25, "test/accuracy": 0.25, "train/loss_growth": growth}

    result = conduct(Runner(summary=summary))
    assert result is not None
    assert {m.name: m.diverged for m in result.methods} == {"joint": (0, 1), "remix": ()}
    assert "Replicates diverged (their loss grew a thousandfold): 2 of 2 of joint." in result.sentence
    assert [row[1] for row in accuracy_table(result).rows if row[0] == "joint"] == ["25.0 ± 0.0 (2 diverged)"]
    conduct(Runner())  # resumed: nothing runs again, and the marks stay
    ledger = read_ledger(tmp_path / "studies" / "s")
    for records_of in (ledger.trials, ledger.replicates):
        assert {name: {r.diverged for r in found} for name, found in records_of.items()} == {
            "joint": {True}, "remix": {False},
        }  # fmt: skip
    assert [row[2] for row in trials_table(ledger).rows] == ["complete, diverged"] * 3 + ["complete"] * 3
