import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from mlflow import MlflowClient

from remix_study.patience import PATIENCE, Patience
from remix_study.tracking import RunInfo
from remix_study.tracking import syncer as module
from remix_study.tracking.mlflow import Sender
from remix_study.tracking.spool import SpoolTracker, run_id_of
from remix_study.tracking.syncer import Syncer

Make = Callable[..., RunInfo]
PATIENCE_S = 30.0


def written(folder: Path, experiment: str, info: RunInfo) -> SpoolTracker:
    tracker = SpoolTracker(folder, experiment)
    tracker.start(info)
    tracker.log_metrics({"val/accuracy": 0.5}, 0)
    return tracker


def until(holds: Callable[[], bool]) -> None:
    # Poll, because neither the server nor the database offers an event to await.
    end, pause = time.monotonic() + PATIENCE_S, Event()
    while not holds():
        assert time.monotonic() < end, "timed out"
        pause.wait(0.02)


def test_runs_are_sent_below_their_study_while_they_train(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
    study, run = tmp_path / "study", tmp_path / "study" / "runs" / "one"
    parent = written(study, experiment, info(name="study"))
    with Syncer(uri, parent=study, period_s=0.02) as syncer:
        syncer.watch(run)
        tracker = written(run, experiment, info(name="one"))
        until(lambda: not Sender(uri, run).has_unsent)
        assert client.get_run(str(run_id_of(run))).data.metrics == {"val/accuracy": 0.5}
        tracker.finish("FINISHED")
        until(lambda: not Sender(uri, run).has_unsent)
        # Data may be added to an ended run, and it may be resumed.
        tracker.set_tags({"is_best": "true"})
        parent.finish("FINISHED")
        assert syncer.close() == 0
    found = client.get_run(str(run_id_of(run)))
    assert found.data.tags["mlflow.parentRunId"] == run_id_of(study)
    assert found.data.tags["is_best"] == "true"
    assert client.get_run(str(run_id_of(study))).info.status == "FINISHED"


def test_unsent_data_of_a_former_driver_is_sent(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
    for name in ("sent", "left"):
        written(tmp_path / name, experiment, info(name=name)).finish("FINISHED")
    Sender(uri, tmp_path / "sent").send()
    with Syncer(uri) as syncer:
        assert syncer.watch_unsent(tmp_path) == 1
    assert client.get_run(str(run_id_of(tmp_path / "left"))).info.status == "FINISHED"


class Down:
    """Fake sender whose server does not answer until `up` is set."""

    def __init__(self) -> None:
        self.up, self.attempts, self.has_unsent, self.ended, self.size = False, 0, True, False, 0

    def send(self) -> bool:
        self.attempts += 1
        if not self.up:
            raise ConnectionError("refused")
        self.has_unsent = False
        return True


def test_an_outage_and_its_end_are_reported_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(PATIENCE, "tracking_longest_pause_s", 0.01)
    down = Down()
    monkeypatch.setattr(module, "Sender", lambda uri, folder, parent: down)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer.watch(tmp_path)
        until(lambda: down.attempts >= 4)
        down.up = True
        until(lambda: not down.has_unsent)
    assert caplog.text.count("does not accept tracking data") == 1
    assert caplog.text.count("accepts tracking data again") == 1


def test_the_pause_between_retries_doubles_up_to_a_limit(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, "tracking_longest_pause_s", Patience().tracking_longest_pause_s)
    syncer, down, pauses = Syncer(uri), Down(), []
    syncer._senders[tmp_path] = down  # type: ignore[assignment]  # a stand-in
    for _ in range(7):
        assert not syncer._round()
        pauses.append(syncer._pause_s)
    assert pauses == [2, 4, 8, 16, 30, 30, 30]
    down.up = True
    assert syncer._round()
    assert syncer._pause_s == 1


def test_a_run_that_cannot_be_sent_does_not_block_the_others(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, "tracking_longest_pause_s", 0.01)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer._senders[tmp_path / "bad"] = Down()  # type: ignore[assignment]  # a stand-in
        syncer.watch(tmp_path / "good")
        written(tmp_path / "good", experiment, info()).finish("FINISHED")
        until(lambda: not Sender(uri, tmp_path / "good").has_unsent)
        assert syncer.close(patience_s=0.1) == 1
    assert client.get_run(str(run_id_of(tmp_path / "good"))).info.status == "FINISHED"


def test_the_thread_survives_an_unexpected_error(
    uri: str, experiment: str, info: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = Syncer._round, []

    def fail_once(self: Syncer) -> bool:
        times.append(1)
        if len(times) == 1:
            raise RuntimeError("dictionary changed")
        return real(self)

    monkeypatch.setattr(Syncer, "_round", fail_once)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer.watch(tmp_path)
        written(tmp_path, experiment, info())
        assert syncer.close() == 0
    assert run_id_of(tmp_path) is not None


def test_close_waits_at_most_its_timeout(uri: str, tmp_path: Path) -> None:
    hanging, go_on = Event(), Event()

    class Hangs(Down):
        def send(self) -> bool:
            hanging.set()
            go_on.wait(PATIENCE_S)
            raise TimeoutError

    syncer = Syncer(uri, period_s=0.01)
    syncer._senders[tmp_path] = Hangs()  # type: ignore[assignment]  # a stand-in
    with syncer:
        hanging.wait(PATIENCE_S)
        start = time.monotonic()
        assert syncer.close(patience_s=0.1) == 1
        assert time.monotonic() - start < PATIENCE_S / 2
        go_on.set()


def test_an_ended_run_is_dropped_until_it_is_watched_again(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
    study, run, other = tmp_path / "study", tmp_path / "study" / "runs" / "one", tmp_path / "study" / "runs" / "two"
    parent = written(study, experiment, info(name="study"))
    tracker = written(run, experiment, info(name="one"))
    with Syncer(uri, parent=study, period_s=0.02) as syncer:
        syncer.watch(run)
        syncer.watch(other)
        until(lambda: not Sender(uri, run).has_unsent)
        assert set(syncer._senders) == {study, run, other}, "an active run is watched"
        tracker.finish("FINISHED")
        until(lambda: set(syncer._senders) == {study, other})
        tracker.set_tags({"is_best": "true"})
        syncer.watch(run)
        until(lambda: not Sender(uri, run).has_unsent and set(syncer._senders) == {study, other})
        tracker.start(info(name="one"))  # resumed
        syncer.watch(run)
        until(lambda: client.get_run(str(run_id_of(run))).info.status == "RUNNING")
        assert set(syncer._senders) == {study, run, other}
        tracker.finish("FINISHED")
        until(lambda: set(syncer._senders) == {study, other})
        tracker.set_tags({"added": "late"})  # without another `watch`
        parent.finish("FINISHED")
        assert syncer.close() == 0
    found = client.get_run(str(run_id_of(run)))
    assert (found.info.status, found.data.tags["is_best"], found.data.tags["added"]) == ("FINISHED", "true", "late")
    assert client.get_run(str(run_id_of(study))).info.status == "FINISHED"
