"""Sending spools to MLflow: outages, repeated and concurrent sending"""

import shutil
from pathlib import Path
from threading import Event, Thread

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from remix_study.errors import TrackingError
from remix_study.files.disk import exclusive_lock
from remix_study.tracking import mlflow as module
from remix_study.tracking.mlflow import MLflowTracker, Sender, send
from remix_study.tracking.spool import Spool, SpoolTracker, run_id_of
from remix_study.tracking.tracker import STATE
from tests.unit.tracking.helpers import Flaky, Make, history, runs_of, spooled


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_an_outage_loses_no_data(
    tracker: MLflowTracker, client: MlflowClient, info: Make, flaky: Flaky, clock: Clock
) -> None:
    run_id = tracker.start(info())
    tracker.log_metrics({"val/accuracy": 0.0}, 0)
    flaky.down = True
    tracker.log_metrics({"val/accuracy": 0.1}, 1)
    tracker.log_text("kept", "notes.txt")
    flaky.down, flaky.deaf = False, True
    clock.now += 10
    tracker.log_metrics({"val/accuracy": 0.2}, 2)
    assert history(client, run_id, "val/accuracy") == [(0, 0.0), (1, 0.1)]
    flaky.deaf = False
    tracker.finish("KILLED", "stopped by the scheduler")
    assert history(client, run_id, "val/accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert Path(client.download_artifacts(run_id, "notes.txt")).read_text() == "kept"
    assert client.get_run(run_id).info.status == "KILLED"


def test_an_hour_without_the_server_loses_no_point(
    tracker: MLflowTracker, client: MlflowClient, info: Make, flaky: Flaky, clock: Clock
) -> None:
    run_id = tracker.start(info())
    flaky.down = True
    for epoch in range(180):
        clock.now += 20  # an hour in all
        tracker.log_metrics({"val/accuracy": epoch / 1000, "train/loss": 1.0 - epoch / 1000}, epoch)
    assert history(client, run_id, "val/accuracy") == []
    flaky.down = False
    tracker.finish("FINISHED")
    assert history(client, run_id, "val/accuracy") == [(epoch, epoch / 1000) for epoch in range(180)]
    assert history(client, run_id, "train/loss") == [(epoch, 1.0 - epoch / 1000) for epoch in range(180)]


def test_a_hanging_server_is_retried_with_growing_pauses(
    tracker: MLflowTracker, info: Make, flaky: Flaky, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.start(info())
    times: list[float] = []

    def hang(*args: object, **kwargs: object) -> None:
        times.append(clock.now)
        raise TimeoutError("no answer")

    monkeypatch.setattr(flaky.client, "log_batch", hang)
    start = clock.now
    for second in range(200):
        clock.now = start + second
        tracker.log_metrics({"val/accuracy": 0.1}, second)
    assert [at - start for at in times] == [0, 10, 30, 70, 130, 190]


def test_unsent_data_of_a_former_process_is_sent(
    tracker: MLflowTracker, uri: str, client: MlflowClient, info: Make, flaky: Flaky, tmp_path: Path
) -> None:
    run_id = tracker.start(info())
    flaky.down = True
    tracker.log_metrics({"val/accuracy": 0.1}, 0)
    tracker.finish("FINISHED")
    assert client.get_run(run_id).info.status == "RUNNING"
    flaky.down = False
    assert send(uri, tmp_path)
    assert history(client, run_id, "val/accuracy") == [(0, 0.1)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_spool_is_sent_completely(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str, flaky: Flaky
) -> None:
    tracker = spooled(tmp_path, experiment, info(parent_run_id="the-parent"))
    tracker.log_figure(Figure(), "figures/empty.png")
    tracker.set_tags({STATE: "complete"})
    tracker.finish("FINISHED")
    assert tracker.run_id is None
    assert run_id_of(tmp_path) is None
    assert flaky.calls == []
    assert send(uri, tmp_path)
    (run,) = runs_of(client, experiment)
    assert run.info.run_id == tracker.run_id == run_id_of(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == "the-parent"
    assert run.data.tags[STATE] == "complete"
    assert run.data.params["learning_rate"] == "0.01"
    assert history(client, run.info.run_id, "val/accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert [metrics for name, metrics in flaky.calls if metrics] == [6]
    starts = [line["time"] for line, _ in Spool(tmp_path / "tracking").read() if line is not None and "start" in line]
    assert run.info.start_time == starts[0]
    assert Path(client.download_artifacts(run.info.run_id, "figures/empty.png")).exists()


def test_long_histories_are_sent_in_batches_within_mlflows_limit(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str, flaky: Flaky
) -> None:
    tracker = SpoolTracker(tmp_path, experiment)
    tracker.start(info())
    for epoch in range(50):
        tracker.log_metrics({f"m{number}": float(epoch) for number in range(30)}, epoch)
    tracker.log_metrics({f"many{number}": 1.0 for number in range(1200)}, 0)
    send(uri, tmp_path)
    assert [metrics for name, metrics in flaky.calls if metrics] == [990, 510, 1000, 200]
    assert tracker.run_id is not None
    assert history(client, tracker.run_id, "m29") == [(epoch, float(epoch)) for epoch in range(50)]


def test_a_sender_killed_before_it_wrote_the_run_id_creates_no_second_run(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled(tmp_path, experiment, info())

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_notes", killed)
        with pytest.raises(KeyboardInterrupt):
            send(uri, tmp_path)
    (made,) = runs_of(client, experiment)
    assert run_id_of(tmp_path) is None
    assert send(uri, tmp_path)
    (found,) = runs_of(client, experiment)
    assert found.info.run_id == made.info.run_id == run_id_of(tmp_path)
    assert found.data.params["method"] == "remix"
    assert history(client, found.info.run_id, "val/accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_a_run_folder_that_was_deleted_and_created_again_is_another_run(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    for _ in range(2):
        spooled(tmp_path / "run", experiment, info())
        send(uri, tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
    assert len(runs_of(client, experiment)) == 2


@pytest.mark.slow
def test_an_emptied_server_is_sent_everything_again(
    uri: str, info: Make, tmp_path: Path, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    spooled(tmp_path / "run", experiment, info()).finish("KILLED", "stopped")
    send(uri, tmp_path / "run")
    first = run_id_of(tmp_path / "run")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    spooled(tmp_path / "run", experiment, info(), range(3, 5)).finish("FINISHED")
    assert send(other, tmp_path / "run")
    (run,) = runs_of(MlflowClient(tracking_uri=other), experiment)
    assert run.info.run_id == run_id_of(tmp_path / "run") != first
    assert run.info.status == "FINISHED"
    points = MlflowClient(tracking_uri=other).get_metric_history(run.info.run_id, "val/accuracy")
    assert sorted(point.step for point in points) == [0, 1, 2, 3, 4]
    assert "Sending it again" in caplog.text


@pytest.mark.slow
def test_concurrent_senders_write_nothing_twice(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    senders = [Sender(uri, tmp_path) for _ in range(4)]
    tracker = SpoolTracker(tmp_path, experiment)
    tracker.start(info())
    written = Event()

    def keep_sending(sender: Sender) -> None:
        while not written.is_set() or sender.has_unsent:
            sender.send()

    threads = [Thread(target=keep_sending, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for epoch in range(40):
        tracker.log_metrics({"val/accuracy": epoch / 100}, epoch)
    tracker.finish("FINISHED")
    written.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    (run,) = runs_of(client, experiment)
    assert run.info.status == "FINISHED"
    assert history(client, run.info.run_id, "val/accuracy") == [(epoch, epoch / 100) for epoch in range(40)]


def test_a_sender_skips_a_folder_that_another_one_is_sending(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    spooled(tmp_path, experiment, info())
    with exclusive_lock(tmp_path / "tracking" / "send.lock"):
        assert not send(uri, tmp_path)
        assert runs_of(client, experiment) == []
    assert send(uri, tmp_path)


def test_a_run_is_not_sent_before_its_study(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    parent, child = tmp_path / "study", tmp_path / "study" / "runs" / "one"
    spooled(child, experiment, info(name="child"))
    with pytest.raises(TrackingError, match="before the study's own run"):
        Sender(uri, child, parent=parent).send()
    spooled(parent, experiment, info(name="study"))
    send(uri, parent)
    assert Sender(uri, child, parent=parent).send()
    assert client.get_run(str(run_id_of(child))).data.tags["mlflow.parentRunId"] == run_id_of(parent)


def test_a_file_outside_the_spool_is_read_when_it_is_sent(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str
) -> None:
    report = tmp_path / "report" / "tables" / "methods.csv"
    report.parent.mkdir(parents=True)
    report.write_text("draft")
    tracker = spooled(tmp_path, experiment, info())
    tracker.log_file(report, "report/tables/methods.csv")
    report.write_text("final")
    send(uri, tmp_path)
    assert Path(client.download_artifacts(str(tracker.run_id), "report/tables/methods.csv")).read_text() == "final"


def test_a_deleted_artifact_does_not_block_the_end_of_the_run(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = spooled(tmp_path, experiment, info())
    tracker.log_text("soon gone", "notes.txt")
    tracker.finish("FINISHED")
    (tmp_path / "tracking" / "notes.txt").unlink()
    assert send(uri, tmp_path)
    assert client.get_run(str(tracker.run_id)).info.status == "FINISHED"
    assert "notes.txt" in caplog.text


def test_a_metric_that_mlflow_rejects_does_not_block_the_others(
    tracker: MLflowTracker, client: MlflowClient, info: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.start(info())
    tracker.log_metrics({"not*a*name": 1.0, "val/cross_entropy": 2.0}, 0)
    tracker.log_metrics({"val/accuracy": 0.5, "not*a*name": 1.0}, 1)
    assert client.get_run(run_id).data.metrics == {"val/cross_entropy": 2.0, "val/accuracy": 0.5}
    assert caplog.text.count("rejects the metric 'not*a*name'") == 1
