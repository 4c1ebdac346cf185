"""A tracking server is killed during a study: runs keep training, and each metric arrives exactly once"""

import logging
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Condition, Event, Thread

import pytest
from mlflow import MlflowClient

from remix_study.errors import StudyStopped
from remix_study.tracking import RunInfo, default_uri, finishing
from remix_study.tracking.server import MLflowServer
from remix_study.tracking.spool import SpoolTracker, run_id_of
from remix_study.tracking.syncer import Syncer
from tests import mlflow_database

pytestmark = [pytest.mark.server, pytest.mark.slow]

EXPERIMENT, METRICS = "outage", 10
PATIENCE_S = 60.0


def info(name: str) -> RunInfo:
    return RunInfo(
        name=name,
        tags={"remix_study.study": "s"},
        params={"method.name": "remix"},
        config_yaml="method: remix\n",
        dataset_name="synthetic",
        dataset_digest="d" * 64,
        dataset_source="store",
        dataset_profile={"train": 64},
    )


class Trainer:
    """Runs that write epochs until the `with` block ends."""

    def __init__(self, folders: list[Path]) -> None:
        self.enough = Event()
        self._epoch_done = Condition()
        self.epochs: dict[Path, int] = dict.fromkeys(folders, 0)
        self._threads = [Thread(target=self._train, args=(number, folder)) for number, folder in enumerate(folders)]

    def __enter__(self) -> "Trainer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.enough.set()
        for thread in self._threads:
            thread.join()

    def reach(self, further: int) -> None:
        """Wait until each run has written `further` more epochs."""
        with self._epoch_done:
            goal = {folder: done + further for folder, done in self.epochs.items()}
            reached = self._epoch_done.wait_for(
                lambda: all(self.epochs[folder] >= wanted for folder, wanted in goal.items()), PATIENCE_S
            )
        assert reached, "the runs made no progress"

    def _train(self, number: int, folder: Path) -> None:
        tracker = SpoolTracker(folder, EXPERIMENT)
        tracker.start(info(folder.name))
        ends: tuple[Exception | None, ...] = (None, StudyStopped("asked"), ValueError("odd"))
        error = ends[number % 3]
        try:
            with finishing(tracker):
                for epoch in count():
                    tracker.log_metrics({f"m{k}": epoch + k / 100 for k in range(METRICS)}, epoch)
                    with self._epoch_done:
                        self.epochs[folder] = epoch + 1
                        self._epoch_done.notify_all()
                    if self.enough.wait(0.05):
                        break
                if error is not None:
                    raise error
        except (StudyStopped, ValueError) as raised:
            assert raised is error  # noqa: PT017 (either of them)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    mlflow_database.install(tmp_path)
    with MLflowServer(default_uri(tmp_path)) as made:
        yield made


def kill(server: MLflowServer) -> None:
    os.killpg(server.process_group, signal.SIGKILL)
    server.wait()


@pytest.mark.timeout(400)
def test_every_metric_arrives_once_although_the_server_is_killed_twice(
    tmp_path: Path, server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    study = tmp_path / "study"
    folders = [study / "runs" / f"run{number}" for number in range(6)]
    parent = SpoolTracker(study, EXPERIMENT)
    parent.start(info("study"))
    # A second syncer on the same folders, like that of a killed driver that keeps running for some seconds.
    with Syncer(server.url, parent=study, period_s=0.1) as syncer, Syncer(server.url, parent=study) as other:
        for folder in folders:
            syncer.watch(folder)
            other.watch(folder)
        with Trainer(folders) as trainer:
            trainer.reach(30)
            kill(server)
            trainer.reach(30)
            server.stop()
            server = MLflowServer(default_uri(tmp_path), port=server.port)
            server.start()
            trainer.reach(30)
            kill(server)  # the server is down when the runs end
        parent.finish("FINISHED")
        server.stop()
        with MLflowServer(default_uri(tmp_path), port=server.port):
            assert syncer.close(PATIENCE_S) == 0
            other.close(PATIENCE_S)
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(client.search_runs([experiment.experiment_id])) == len(runs) == 7
    for number, folder in enumerate(folders):
        run = runs[folder.name]
        assert run.info.run_id == run_id_of(folder)
        assert run.data.tags["mlflow.parentRunId"] == run_id_of(study)
        state = ("complete", "stopped", "failed")[number % 3]
        assert (run.info.status, run.data.tags["remix_study.state"]) == (
            {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[state],
            state,
        )
        (artifact,) = tmp_path.glob(f"mlartifacts/**/{run.info.run_id}/artifacts/config.yaml")
        assert artifact.read_text() == "method: remix\n"
        for k in range(METRICS):
            points = client.get_metric_history(run.info.run_id, f"m{k}")
            assert sorted((point.step, point.value) for point in points) == [
                (epoch, epoch + k / 100) for epoch in range(trainer.epochs[folder])
            ]
    assert runs["study"].info.status == "FINISHED"
    assert "does not accept tracking data" in caplog.text
    assert "accepts tracking data again" in caplog.text


@pytest.mark.timeout(300)
def test_unsent_data_is_sent_at_the_next_start(
    tmp_path: Path, server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    tracker = SpoolTracker(runs / "one", EXPERIMENT)
    tracker.start(info("one"))
    kill(server)
    with Syncer(server.url, period_s=0.1) as syncer:
        syncer.watch(runs / "one")
        tracker.log_metrics({"val/accuracy": 0.5}, 0)
        tracker.finish("FINISHED")
        assert syncer.close(patience_s=1.0) == 1
    assert run_id_of(runs / "one") is None
    server.stop()
    with MLflowServer(default_uri(tmp_path), port=server.port) as again, Syncer(again.url) as syncer:
        assert syncer.watch_unsent(runs) == 1
        assert syncer.close(PATIENCE_S) == 0
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    run = client.get_run(str(run_id_of(runs / "one")))
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"val/accuracy": 0.5})
