import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyStopped
from remix_study.media.store import ClipStore
from remix_study.patience import PATIENCE
from remix_study.study.ledger import Ledger, ReplicateRecord, TrialRecord
from remix_study.study.outcomes import Replicated
from remix_study.study.results import compare
from remix_study.study.study_tracker import StudyTracker, recording
from remix_study.tracking import RunInfo, default_uri, finishing
from remix_study.tracking.address import sqlite_path
from remix_study.tracking.spool import Spool, SpoolTracker, run_id_of

EXPERIMENT = "record"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return default_uri(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def study() -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "s",
            "question": "Does Remix help?",
            "base": {"corpus": "here"},
            "methods": {
                name: {"set": {"method": {"name": name}}, "space": {"optimizer.learning_rate": rates}}
                for name, rates in (
                    ("remix", {"kind": "float", "low": 0.001, "high": 0.1, "log": True}),
                    ("joint", {"kind": "float", "low": 0.001, "high": 0.1, "log": True}),
                )
            },
            "reference": "remix",
            "trials": 2,
            "replicates": 2,
        }
    )


Enter = Callable[..., Any]


@pytest.fixture
def record_study(uri: str, study: StudyConfig, small_store: ClipStore, tmp_path: Path) -> Enter:
    return lambda address=uri: recording(address, EXPERIMENT, study, small_store, tmp_path)


def run(folder: Path, epochs: int = 1, *, end: bool = True) -> Path:
    tracker = SpoolTracker(folder, EXPERIMENT)
    tracker.start(
        RunInfo(folder.name, {"remix_study.stage": "search"}, {"method.name": "remix"}, "", "c", "d" * 40, "store", {})
    )
    for epoch in range(epochs):
        tracker.log_metrics({"val/accuracy": 0.5}, epoch)
    if end:
        with finishing(tracker):
            pass
    return folder


def ledger_of(study: StudyConfig, folder: Path, best: int = 0) -> Ledger:
    """Return a ledger with two trials of each method, of which `best` is chosen, and two replicates of remix."""

    def trial(method: str, number: int) -> TrialRecord:
        value, point = (0.7 if number == best else 0.6), {"optimizer.learning_rate": 0.01 + number}
        return TrialRecord(
            method, number, "complete", (value,), point,
            None, None, False, 1.0, None, None, (str(folder / "runs" / f"{method}-{number}"),), (), {},
        )  # fmt: skip

    replicates = tuple(
        ReplicateRecord("remix", "replicate", number, "complete", {"optimizer.learning_rate": 0.01 + best},
                        str(folder / "runs" / f"remix-r{number}"), 1.0, None, None)
        for number in range(2)
    )  # fmt: skip
    trials = {method: tuple(trial(method, number) for number in range(2)) for method in study.methods}
    return Ledger(study, folder, trials, {"remix": replicates, "joint": ()})


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    names = ("remix-0", "remix-1", "joint-0", "joint-1", "remix-r0", "remix-r1")
    return {name: run(tmp_path / "runs" / name) for name in names}


def test_the_parent_run_describes_the_study(
    record_study: Enter, client: MlflowClient, small_store: ClipStore, tmp_path: Path
) -> None:
    with record_study() as record:
        assert record.run_id == run_id_of(tmp_path)
        assert client.get_run(record.run_id).info.status == "RUNNING"
        record.watch(run(tmp_path / "runs" / "one"))
        record.send_soon()
        record.log_progress({"study/trials_complete": 1.0})
        record.log_progress({"study/trials_complete": 2.0})
        record.log_progress({"study/trials_complete": 3.0})
    parent = client.get_run(record.run_id)
    assert (parent.info.status, parent.data.tags["remix_study.state"]) == ("FINISHED", "complete")
    assert parent.data.params["question"] == "Does Remix help?"
    assert parent.data.params["corpus_digest"] == small_store.digest
    assert parent.data.tags["trials"] == "2"
    assert parent.data.tags["remix_study.stage"] == "study"
    points = client.get_metric_history(record.run_id, "study/trials_complete")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 3.0)]
    child = client.get_run(str(run_id_of(tmp_path / "runs" / "one")))
    assert child.data.tags["mlflow.parentRunId"] == record.run_id
    assert [file.path for file in client.list_artifacts(record.run_id)] == ["study.yaml"]


def test_a_resumed_study_continues_its_mlflow_run(record_study: Enter, client: MlflowClient, tmp_path: Path) -> None:
    with record_study() as record:
        record.log_progress({"study/trials_complete": 1.0})
    with record_study() as again:
        assert again.run_id == record.run_id
        again.log_progress({"study/trials_complete": 2.0})
    points = client.get_metric_history(record.run_id, "study/trials_complete")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0)]


def test_the_result_the_report_and_the_best_runs_are_logged(
    record_study: Enter, client: MlflowClient, study: StudyConfig, tmp_path: Path, runs: dict[str, Path]
) -> None:
    report = tmp_path / "report"
    for name in ("report.html", "figures/comparison.png", "tables/methods.csv"):
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).write_text(name)
    files = [path for path in report.rglob("*") if path.is_file()]
    summaries = {n: {"test/accuracy": 0.7 + n / 10, "sufficiency/ratio/audio": 0.9} for n in range(2)}
    result = compare(study, {"remix": Replicated(summaries, {})}, {}, [])
    with record_study() as record:
        record.conclude(result, files, ledger_of(study, tmp_path))
    parent = client.get_run(record.run_id)
    artifacts = {file.path for file in client.list_artifacts(record.run_id, "report")}
    assert artifacts == {"report/report.html", "report/figures", "report/tables"}
    assert result.sentence in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["best/remix"] == "optimizer.learning_rate = 0.01"
    assert parent.data.metrics["best/remix"] == pytest.approx(0.7)
    assert parent.data.metrics["test_accuracy_mean/remix"] == pytest.approx(0.75)
    half = 12.7062 * 0.05  # t(0.975, 1) times the standard error
    assert parent.data.metrics["test_accuracy_low/remix"] == pytest.approx(0.75 - half, abs=1e-4)
    assert parent.data.metrics["test_accuracy_high/remix"] == 1.0  # half of the interval is above it
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.note.content"].startswith("Does Remix help?")
    assert any(tag.startswith("mlflow.sharedViewState.") for tag in experiment.tags)

    def tags(name: str) -> dict[str, str]:
        return dict(client.get_run(str(run_id_of(runs[name]))).data.tags)

    assert {name for name in runs if tags(name).get("is_best") == "true"} == {
        "remix-0",
        "joint-0",
        "remix-r0",
        "remix-r1",
    }
    replicate = client.get_run(str(run_id_of(runs["remix-r0"])))
    assert replicate.data.metrics["sufficiency/ratio/audio"] == 0.9
    # The study is extended and chooses other trials.
    with record_study() as record:
        record.mark_superseded(runs["remix-r0"])
        record.conclude(None, [], ledger_of(study, tmp_path, best=1)._replace(replicates={}))
    assert {name for name in runs if tags(name).get("is_best") == "true"} == {"remix-1", "joint-1"}
    assert tags("remix-r0")["remix_study.stage"] == "superseded"
    with record_study() as record:  # the first choice is retrained again
        record.mark_current(runs["remix-r0"], "final")
        record.mark_current(runs["remix-r1"], "final")
    assert (tags("remix-r0")["remix_study.stage"], tags("remix-r1")["remix_study.stage"]) == ("final", "replicate")
    with record_study() as record:
        record.conclude(result, [], ledger_of(study, tmp_path))
    assert tags("remix-r0")["remix_study.stage"] == "replicate"


def test_sufficiency_changes_with_the_ceilings(
    record_study: Enter, client: MlflowClient, study: StudyConfig, tmp_path: Path
) -> None:
    """A study that is concluded again logs the sufficiency again only if it has changed."""
    folder = run(tmp_path / "runs" / "remix-r0")
    for ratio in (0.9, 0.9, 0.8, 0.9):
        summaries = {0: {"test/accuracy": 0.7, "sufficiency/ratio/audio": ratio}}
        with record_study() as record:
            found = compare(study, {"remix": Replicated(summaries, {})}, {}, [])
            record.conclude(found, [], ledger_of(study, tmp_path))
    logged = client.get_metric_history(str(run_id_of(folder)), "sufficiency/ratio/audio")
    assert [(each.step, each.value) for each in logged] == [(0, 0.9), (1, 0.8), (2, 0.9)]


@pytest.mark.parametrize(
    ("error", "status", "state"),
    [
        (StudyStopped("asked"), "KILLED", "stopped"),
        (KeyboardInterrupt(), "KILLED", "stopped"),
        (ValueError("odd"), "FAILED", "failed"),
    ],
)
def test_no_run_of_a_study_that_ends_early_stays_running(
    record_study: Enter, client: MlflowClient, tmp_path: Path, error: BaseException, status: str, state: str
) -> None:
    def end() -> None:
        with record_study() as record:
            record.watch(run(tmp_path / "runs" / "open", end=False))
            raise error

    with pytest.raises(type(error)):
        end()
    parent = client.get_run(str(run_id_of(tmp_path)))
    assert (parent.info.status, parent.data.tags["remix_study.state"]) == (status, state)
    child = client.get_run(str(run_id_of(tmp_path / "runs" / "open")))
    assert (child.info.status, child.data.tags["remix_study.state"]) == ("KILLED", "stopped")
    assert child.data.tags["failure_reason"] == "the process that ran it is gone"


def test_runs_of_a_killed_driver_are_ended_at_the_next_start(
    record_study: Enter, client: MlflowClient, tmp_path: Path
) -> None:
    left = run(tmp_path / "runs" / "left", 3, end=False)
    with record_study():
        pass
    child = client.get_run(str(run_id_of(left)))
    assert child.info.status == "KILLED"
    assert len(client.get_metric_history(child.info.run_id, "val/accuracy")) == 3


def test_a_run_whose_folder_was_removed_does_not_stay_running(
    record_study: Enter, client: MlflowClient, tmp_path: Path
) -> None:
    with record_study() as record:
        experiment = client.get_run(record.run_id).info.experiment_id
        orphan = client.create_run(experiment, tags={"mlflow.parentRunId": record.run_id})
        other = client.create_run(experiment, tags={"mlflow.parentRunId": "of another study of this name"})
    assert client.get_run(orphan.info.run_id).info.status == "KILLED"
    assert client.get_run(other.info.run_id).info.status == "RUNNING"


def test_an_unreachable_server_causes_no_delay_and_receives_the_data_later(
    record_study: Enter, study: StudyConfig, client: MlflowClient, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(PATIENCE, "tracking_close_s", 0.1)
    with record_study("http://127.0.0.1:9") as record:
        assert record.run_id is None
        record.watch(run(tmp_path / "runs" / "one"))
        record.conclude(None, [], ledger_of(study, tmp_path))
    assert "is sent at the study's next" in caplog.text
    monkeypatch.undo()
    with record_study() as record:
        pass
    parent = client.get_run(record.run_id)
    assert (parent.info.status, parent.data.tags["best/remix"]) == ("FINISHED", "optimizer.learning_rate = 0.01")
    child = client.get_run(str(run_id_of(tmp_path / "runs" / "one")))
    assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", record.run_id)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let MLflow give up on a locked database at once, instead of after 20 seconds."""

    def shorten(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> Any:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 1"), parameters

    monkeypatch.setattr(PATIENCE, "tracking_close_s", 0.3)
    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("from_the_start", [True, False])
def test_what_a_locked_database_did_not_take_is_sent_at_the_next_start(
    record_study: Enter, study: StudyConfig, client: MlflowClient, uri: str, tmp_path: Path, from_the_start: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with record_study():
        pass  # the database exists
    lock = sqlite3.connect(sqlite_path(uri), isolation_level=None)
    if from_the_start:
        lock.execute("BEGIN EXCLUSIVE")
    with record_study() as record:
        if not from_the_start:
            lock.execute("BEGIN EXCLUSIVE")
        record.watch(run(tmp_path / "runs" / "one", epochs=3))
        record.conclude(None, [], ledger_of(study, tmp_path))
    lock.rollback()
    monkeypatch.setattr(PATIENCE, "tracking_close_s", 60.0)
    assert run_id_of(tmp_path / "runs" / "one") is None
    assert "is sent at the study's next" in caplog.text
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())
    with record_study() as record:
        pass
    child = client.get_run(str(run_id_of(tmp_path / "runs" / "one")))
    assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", record.run_id)
    assert [m.step for m in client.get_metric_history(child.info.run_id, "val/accuracy")] == [0, 1, 2]
    assert client.get_run(record.run_id).data.tags["best/remix"] == "optimizer.learning_rate = 0.01"


def test_an_untracked_study_writes_nothing(record_study: Enter, study: StudyConfig, tmp_path: Path) -> None:
    with record_study(None) as record:
        assert isinstance(record, StudyTracker)
        assert record.run_id is None
        record.watch(tmp_path / "runs" / "one")
        record.log_progress({"study/trials_complete": 1.0})
        record.mark_superseded(tmp_path / "runs" / "one")
        record.conclude(None, [], ledger_of(study, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_unchanged_progress_is_logged_once(
    record_study: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, "study_progress_s", 0.0)
    with record_study() as record:
        for _ in range(5):
            record.log_progress({"study/trials_complete": 1.0})
    lines = [json.dumps(line) for line, _ in Spool(tmp_path / "tracking").read()]
    assert sum("study/trials_complete" in line for line in lines) == 1
