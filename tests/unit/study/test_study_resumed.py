"""Studies with made-up runs that are killed or stopped, and resumed"""

import signal
from pathlib import Path
from typing import Any

import optuna
import pytest

from remix_study.errors import StudyStopped
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.storage import STOP
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task
from tests.studies import RATE, Conduct, DriverDied, Runner, config, records, write_no_report


def trials_of(workspace: Path) -> dict[str, list[tuple[int, str, dict[str, Any], tuple[float, ...]]]]:
    """Return number, state, hyperparameters and values of all trials, by method."""
    ledger = read_ledger(workspace / "studies" / "s")
    return {m: [(t.number, t.state, t.params, t.values) for t in trials] for m, trials in ledger.trials.items()}


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
