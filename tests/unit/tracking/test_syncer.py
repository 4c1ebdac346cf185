import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from mlflow import MlflowClient

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
    # A server and a database have no event to await.
    end, pause = time.monotonic() + PATIENCE_S, Event()
    while not holds():
        assert time.monotonic() < end, "not in time"
        pause.wait(0.02)


def test_runs_arrive_while_they_train_below_their_parent(
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
        # A run that ended may be taken up again, or be told more.
        tracker.set_tags({"is_best": "true"})
        parent.finish("FINISHED")
        assert syncer.close() == 0
    found = client.get_run(str(run_id_of(run)))
    assert found.data.tags["mlflow.parentRunId"] == run_id_of(study)
    assert found.data.tags["is_best"] == "true"
    assert client.get_run(str(run_id_of(study))).info.status == "FINISHED"


def test_what_a_former_driver_left_is_adopted(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
    for name in ("sent", "left"):
        written(tmp_path / name, experiment, info(name=name)).finish("FINISHED")
    Sender(uri, tmp_path / "sent").send()
    with Syncer(uri) as syncer:
        assert syncer.watch_unsent(tmp_path) == 1
    assert client.get_run(str(run_id_of(tmp_path / "left"))).info.status == "FINISHED"


class Down:
    """Stands in for a sender whose server does not answer until it is `up`."""

    def __init__(self) -> None:
        self.up, self.asked, self.has_unsent, self.ended, self.size = False, 0, True, False, 0

    def send(self) -> bool:
        self.asked += 1
        if not self.up:
            raise ConnectionError("refused")
        self.has_unsent = False
        return True


def test_an_outage_is_told_once_and_ended_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.01)
    down = Down()
    monkeypatch.setattr(module, "Sender", lambda uri, folder, parent: down)  # noqa: ARG005 (a sender's)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer.watch(tmp_path)
        until(lambda: down.asked >= 4)
        down.up = True
        until(lambda: not down.has_unsent)
    assert caplog.text.count("does not take metrics now") == 1
    assert caplog.text.count("takes metrics again") == 1


def test_pauses_grow_while_nothing_can_be_sent(uri: str, tmp_path: Path) -> None:
    syncer, down, pauses = Syncer(uri), Down(), []
    syncer._senders[tmp_path] = down  # type: ignore[assignment]  # a stand-in
    for _ in range(7):
        assert not syncer._round()
        pauses.append(syncer._pause_s)
    assert pauses == [2, 4, 8, 16, 30, 30, 30]
    down.up = True
    assert syncer._round()
    assert syncer._pause_s == 1


def test_a_run_that_cannot_be_sent_does_not_hold_back_the_others(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.01)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer._senders[tmp_path / "bad"] = Down()  # type: ignore[assignment]  # a stand-in
        syncer.watch(tmp_path / "good")
        written(tmp_path / "good", experiment, info()).finish("FINISHED")
        until(lambda: not Sender(uri, tmp_path / "good").has_unsent)
        assert syncer.close(patience_s=0.1) == 1
    assert client.get_run(str(run_id_of(tmp_path / "good"))).info.status == "FINISHED"


def test_the_thread_outlives_what_it_cannot_foresee(
    uri: str, experiment: str, info: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = Syncer._round, []

    def stumble(self: Syncer) -> bool:
        times.append(1)
        if len(times) == 1:
            raise RuntimeError("dictionary changed")
        return real(self)

    monkeypatch.setattr(Syncer, "_round", stumble)
    with Syncer(uri, period_s=0.01) as syncer:
        syncer.watch(tmp_path)
        written(tmp_path, experiment, info())
        assert syncer.close() == 0
    assert run_id_of(tmp_path) is not None


def test_closing_waits_no_longer_than_it_may(uri: str, tmp_path: Path) -> None:
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
        begin = time.monotonic()
        assert syncer.close(patience_s=0.1) == 1
        assert time.monotonic() - begin < PATIENCE_S / 2
        go_on.set()


def test_a_run_whose_end_has_arrived_is_looked_at_again_only_when_something_is_told_of_it(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
    study, run, other = tmp_path / "study", tmp_path / "study" / "runs" / "one", tmp_path / "study" / "runs" / "two"
    parent = written(study, experiment, info(name="study"))
    tracker = written(run, experiment, info(name="one"))
    with Syncer(uri, parent=study, period_s=0.02) as syncer:
        syncer.watch(run)
        syncer.watch(other)
        until(lambda: not Sender(uri, run).has_unsent)
        assert set(syncer._senders) == {study, run, other}, "it is at work"
        tracker.finish("FINISHED")
        until(lambda: set(syncer._senders) == {study, other})
        tracker.set_tags({"is_best": "true"})
        syncer.watch(run)
        until(lambda: not Sender(uri, run).has_unsent and set(syncer._senders) == {study, other})
        tracker.start(info(name="one"))  # taken up again
        syncer.watch(run)
        until(lambda: client.get_run(str(run_id_of(run))).info.status == "RUNNING")
        assert set(syncer._senders) == {study, run, other}
        tracker.finish("FINISHED")
        until(lambda: set(syncer._senders) == {study, other})
        tracker.set_tags({"told": "late"})  # and nobody says so
        parent.finish("FINISHED")
        assert syncer.close() == 0
    found = client.get_run(str(run_id_of(run)))
    assert (found.info.status, found.data.tags["is_best"], found.data.tags["told"]) == ("FINISHED", "true", "late")
    assert client.get_run(str(run_id_of(study))).info.status == "FINISHED"
