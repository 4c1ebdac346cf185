"""Studies that are refused before their first run"""

from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from remix_study.errors import ConfigError, StudyError, TrackingError
from remix_study.patience import PATIENCE
from remix_study.study.listener import StudyListener
from remix_study.study.storage import open_storage
from remix_study.tracking import default_uri
from tests.studies import RATE, Conduct, DriverDied, Runner, config

ONE = {"kind": "float", "low": 1, "high": 1}


def test_an_invalid_study_starts_no_run(conduct: Conduct) -> None:
    runner = Runner()
    with pytest.raises(ConfigError, match=r"did you mean `(optimizer\.)?learning_rate`"):
        conduct(runner, config(space={RATE: {"kind": "float", "low": 1, "high": 2}, "optimizer.learnin_rate": ONE}))
    remix = {"set": {"method": {"name": "remix", "warmup": 1, "filter": {"rule": "margin", "threshold": 9}}}}
    with pytest.raises(ConfigError, match=r"`method\.filter\.threshold` must be at most 2"):
        conduct(runner, config(methods={"remix": remix}))
    assert runner.ran == []


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


def test_a_database_with_another_study_of_the_same_name_is_an_error(conduct: Conduct, tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    conduct(Runner(), config(storage=shared))
    (tmp_path / "studies" / "s").rename(tmp_path / "studies" / "elsewhere")
    study = optuna.load_study(study_name="s/joint", storage=open_storage(shared, tmp_path))
    study.set_user_attr("folder", str(tmp_path / "other" / "studies" / "s"))
    with pytest.raises(StudyError, match="already holds a study named 's', in"):
        conduct(Runner(), config(storage=shared))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


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
