import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import mlflow.pytorch
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from remix_study.errors import TrackingError
from remix_study.files.disk import exclusive_lock
from remix_study.sample import Batch
from remix_study.tracking import RunInfo
from remix_study.tracking import mlflow as module
from remix_study.tracking.address import set_client_defaults
from remix_study.tracking.client import close_stale, ensure_experiment
from remix_study.tracking.mlflow import MLflowTracker, Sender, send
from remix_study.tracking.spool import Spool, SpoolTracker, run_id_of
from remix_study.tracking.tracker import STATE

Make = Callable[..., RunInfo]


class Out(NamedTuple):
    logits_BC: Tensor


class StandIn(nn.Module):
    """A model from two modalities to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Linear(4 * 5, 3)
        self.video = nn.Linear(3, 3)

    def forward(self, batch: Batch) -> Out:
        video = batch.inputs["video"].mean(dim=(2, 3, 4))
        return Out(self.audio(batch.inputs["audio"].flatten(1)) + self.video(video))


class Unpicklable(StandIn):
    def __init__(self) -> None:
        super().__init__()
        self.lock = (x for x in [1])  # a generator cannot be copied or pickled


def batch_of(rows: int) -> Batch:
    return Batch(
        modalities=("audio", "video"),
        inputs={"audio": torch.randn(rows, 1, 4, 5), "video": torch.randn(rows, 3, 2, 6, 6)},
        active_BM=torch.ones(rows, 2, dtype=torch.bool),
        labels_B=torch.zeros(rows, dtype=torch.int64),
        samples_B=torch.arange(rows),
    )


@pytest.fixture
def tracker(uri: str, experiment: str, tmp_path: Path) -> MLflowTracker:
    return MLflowTracker(uri, experiment, folder=tmp_path)


class Flaky:
    """MLflow's client, whose writes fail while `down` is set. With `deaf`, they succeed but raise a ConnectionError."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.down, self.deaf = client, False, False
        self.calls: list[tuple[str, int]] = []  # method name, number of metrics

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if not name.startswith(("log_", "set_", "create_")):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                raise MlflowException("HTTPConnectionPool: Max retries exceeded")
            self.calls.append((name, len(kwargs.get("metrics", ()))))
            result = real(*args, **kwargs)
            if self.deaf:
                raise ConnectionError("reset by peer")
            return result

        return call


@pytest.fixture
def flaky(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    made = Flaky(client)
    monkeypatch.setattr(module, "client_of", lambda _: made)
    return made


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


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))


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


def spooled(folder: Path, experiment: str, info: RunInfo, epochs: range = range(3)) -> SpoolTracker:
    tracker = SpoolTracker(folder, experiment)
    tracker.start(info)
    for epoch in epochs:
        tracker.log_metrics({"val/accuracy": epoch / 10, "time/train_s": 5.0}, epoch)
    return tracker


def runs_of(client: MlflowClient, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


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


def test_a_loaded_model_gives_the_same_logits(
    tracker: MLflowTracker, client: MlflowClient, info: Make, experiment: str
) -> None:
    run_id = tracker.start(info())
    model, batch = StandIn().train(), batch_of(7)
    tracker.log_model(model, batch_of(3))
    assert model.training
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    logged = client.get_logged_model(outputs.model_outputs[0].model_id)
    assert client.get_run(run_id).data.tags["model_uri"] == f"models:/{logged.model_id}"
    assert logged.status == "READY"
    loaded = mlflow.pytorch.load_model(logged.artifact_location)
    with torch.no_grad():
        logits_BC = loaded(batch.inputs["audio"], batch.inputs["video"])
        torch.testing.assert_close(logits_BC, model(batch).logits_BC)
    signature = mlflow.models.Model.load(logged.artifact_location.removeprefix("file://")).signature
    assert [(spec.name, spec.shape) for spec in signature.inputs.inputs] == [
        ("audio", (-1, 1, 4, 5)),
        ("video", (-1, 3, 2, 6, 6)),
    ]
    assert signature.outputs.inputs[0].shape == (-1, 3)


def test_a_model_that_cannot_be_logged_leaves_no_entry(
    tracker: MLflowTracker, client: MlflowClient, info: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = tracker.start(info())
    experiment_id = client.get_run(run_id).info.experiment_id
    tracker.log_model(Unpicklable(), batch_of(2))

    def not_ours(*args: object) -> None:
        raise PermissionError("a folder of the server's machine")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", not_ours)
    tracker.log_model(StandIn(), batch_of(2))
    assert client.search_logged_models([experiment_id]) == []
    tracker.finish("FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_model_whose_upload_was_interrupted_is_created_once(
    uri: str,
    client: MlflowClient,
    info: Make,
    tmp_path: Path,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = spooled(tmp_path, experiment, info())
    tracker.log_model(StandIn(), batch_of(2))
    tracker.finish("FINISHED")

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    for step in ("log_model_artifacts", "log_outputs", "set_tag"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, step, full)
            with pytest.raises(OSError, match="No space"):
                send(uri, tmp_path)
    assert send(uri, tmp_path)
    (run,) = runs_of(client, experiment)
    (logged,) = client.search_logged_models([run.info.experiment_id])
    assert (run.info.status, str(logged.status)) == ("FINISHED", "READY")
    assert run.data.tags["model_uri"] == f"models:/{logged.model_id}"
    outputs = client.get_run(run.info.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [logged.model_id]


def test_variables_set_by_the_user_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    set_client_defaults()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
