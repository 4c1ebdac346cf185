"""Runs and experiments in MLflow"""

import math
import multiprocessing
import os
import re
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow.pytorch
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from remix_study.errors import TrackingError
from remix_study.tracking.address import set_client_defaults
from remix_study.tracking.client import close_stale, ensure_experiment
from remix_study.tracking.mlflow import MLflowTracker, send
from remix_study.tracking.spool import SpoolTracker, run_id_of
from remix_study.tracking.tracker import STATE
from tests.unit.tracking.helpers import Flaky, Make, history, runs_of, spooled


def test_a_run_has_its_parameters_metrics_tags_and_artifacts(
    tracker: MLflowTracker, client: MlflowClient, info: Make, workspace: Path
) -> None:
    run_id = tracker.start(info(parent_run_id="the-parent"))
    tracker.log_metrics({"val/accuracy": 0.5, "balance/accuracy_gap": 12.0}, 0)
    tracker.set_tags({"is_best": "true"})
    tracker.log_figure(Figure(), "figures/empty.png")
    tracker.finish("FINISHED")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "remix seed 1"
    assert run.data.tags["mlflow.parentRunId"] == "the-parent"
    assert run.data.tags["is_best"] == "true"
    assert run.data.tags["dataset_digest"] == "d" * 64
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert len(run.data.params["long"]) == 6000
    assert run.data.metrics == {"val/accuracy": 0.5, "balance/accuracy_gap": 12.0}
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, dataset.profile) == ("synthetic", "d" * 36, '{"train": 1000}')
    assert run.info.artifact_uri.startswith((workspace / "mlartifacts").as_uri())
    assert Path(client.download_artifacts(run_id, "config.yaml")).read_text() == "method: remix\n"
    assert Path(client.download_artifacts(run_id, "figures/empty.png")).read_bytes().startswith(b"\x89PNG")


def test_one_call_is_one_batch_without_nan(
    tracker: MLflowTracker, client: MlflowClient, info: Make, flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.start(info())
    flaky.calls.clear()
    for epoch in range(2):
        tracker.log_metrics({"a": 1.0, "b": 2.0, "bad": math.nan, "worse": math.inf}, epoch)
    assert flaky.calls == [("log_batch", 2), ("log_batch", 2)]
    assert set(client.get_run(run_id).data.metrics) == {"a", "b"}
    assert caplog.text.count("Skipping metric bad at step 0") == 1


def test_epochs_repeated_after_a_resume_are_not_written_twice(
    tracker: MLflowTracker, uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    run_id = tracker.start(info())
    for epoch in range(3):
        tracker.log_metrics({"val/accuracy": epoch / 10, "time/train_s": 5.0}, epoch)
    tracker.finish("FAILED", "worker lost")
    assert client.get_run(run_id).data.tags["failure_reason"] == "worker lost"
    again = MLflowTracker(uri, experiment, folder=tmp_path / "elsewhere")
    assert again.start(info(params={"method": "joint", "new": 1}), resume_run_id=run_id) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert "failure_reason" not in run.data.tags
    assert (run.data.params["method"], run.data.params["new"]) == ("remix", "1")
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 1
    for epoch in range(1, 5):
        again.log_metrics({"val/accuracy": epoch / 10, "time/train_s": 7.0}, epoch)
    again.finish("FINISHED")
    assert history(client, run_id, "val/accuracy") == [(epoch, epoch / 10) for epoch in range(5)]
    assert history(client, run_id, "time/train_s") == [(0, 5.0), (1, 5.0), (2, 5.0), (3, 7.0), (4, 7.0)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_resumed_run_stays_the_same_mlflow_run(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    spooled(tmp_path, experiment, info()).finish("KILLED", "stopped")
    send(uri, tmp_path)
    again = SpoolTracker(tmp_path, experiment)
    assert again.start(info(), again.run_id) == run_id_of(tmp_path)
    for epoch in range(1, 5):
        again.log_metrics({"val/accuracy": epoch / 10, "time/train_s": 7.0}, epoch)
    send(uri, tmp_path)
    (run,) = runs_of(client, experiment)
    assert run.info.status == "RUNNING"
    assert run.data.tags[STATE] == "running"
    assert "failure_reason" not in run.data.tags
    assert history(client, run.info.run_id, "time/train_s") == [(0, 5.0), (1, 5.0), (2, 5.0), (3, 7.0), (4, 7.0)]


def test_runs_in_threads_are_independent(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    found: dict[int, str] = {}

    def train(seed: int) -> None:
        tracker = MLflowTracker(uri, experiment, folder=tmp_path / str(seed))
        found[seed] = tracker.start(info(name=f"seed {seed}"))
        for epoch in range(3):
            tracker.log_metrics({"seed": float(seed)}, epoch)
        tracker.finish("FINISHED")

    threads = [Thread(target=train, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mlflow.active_run() is None
    for seed, run_id in found.items():
        assert history(client, run_id, "seed") == [(epoch, float(seed)) for epoch in range(3)]


def _create(uri: str, barrier: Any, ids: Any) -> None:
    barrier.wait()
    ids.put(ensure_experiment(uri, "made by two"))


@pytest.mark.slow
def test_two_processes_create_one_experiment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, ids = context.Barrier(2), context.Queue()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [context.Process(target=_create, args=(uri, barrier, ids)) for _ in range(2)]
    for process in processes:
        process.start()
    assert len({ids.get(timeout=30) for _ in processes}) == 1
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_a_deleted_experiment_is_reported_with_the_remedy(uri: str, client: MlflowClient, experiment: str) -> None:
    client.delete_experiment(ensure_experiment(uri, experiment))
    remedy = f"`MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x "
    with pytest.raises(TrackingError, match=re.escape(remedy)):
        ensure_experiment(uri, experiment)


def test_a_missing_run_cannot_be_resumed(tracker: MLflowTracker, info: Make) -> None:
    with pytest.raises(TrackingError, match="0123"):
        tracker.start(info(), resume_run_id="0123" * 8)


def test_abandoned_runs_are_ended(uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path) -> None:
    ids: dict[str, str] = {}
    for name, study in (("kept", "demo"), ("stale", "demo"), ("other", "it's another"), ("done", "demo")):
        tracker = MLflowTracker(uri, experiment, folder=tmp_path / name)
        ids[name] = tracker.start(info(name=name, tags={"study": study}))
        if name == "done":
            tracker.finish("FINISHED")
    assert close_stale(uri, experiment, {"study": "demo"}, {ids["kept"]}) == [ids["stale"]]
    status = {name: client.get_run(run_id).info.status for name, run_id in ids.items()}
    assert status == {"kept": "RUNNING", "stale": "KILLED", "other": "RUNNING", "done": "FINISHED"}
    assert client.get_run(ids["stale"]).data.tags["failure_reason"]
    assert close_stale(uri, "no such experiment", {}) == []


def test_variables_set_by_the_user_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    set_client_defaults()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
