import math
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import mlflow.pytorch
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from remix_study.errors import TrackingError
from remix_study.sample import Batch
from remix_study.tracking import RunInfo
from remix_study.tracking import mlflow as module
from remix_study.tracking.address import be_brief
from remix_study.tracking.mlflow import MLflowTracker, close_stale, create_parent, ensure_experiment

Make = Callable[..., RunInfo]


class Out(NamedTuple):
    logits_BC: Tensor


class StandIn(nn.Module):
    """Two modalities -> three classes."""

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
    """MLflow's client, whose writes fail while `down`; with `deaf`, they arrive but the answer is lost."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.down, self.deaf, self.batches = client, False, False, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if not name.startswith(("log_", "set_")):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                raise MlflowException("HTTPConnectionPool: Max retries exceeded")
            self.batches += name == "log_batch"
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


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))


def test_a_run_tells_what_it_is(tracker: MLflowTracker, client: MlflowClient, info: Make, workspace: Path) -> None:
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


def test_one_call_is_one_batch_and_nan_is_left_out(
    tracker: MLflowTracker, client: MlflowClient, info: Make, flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.start(info())
    before = flaky.batches
    for epoch in range(2):
        tracker.log_metrics({"a": 1.0, "b": 2.0, "bad": math.nan, "worse": math.inf}, epoch)
    assert flaky.batches == before + 2
    assert set(client.get_run(run_id).data.metrics) == {"a", "b"}
    assert caplog.text.count("bad is not a finite number") == 1


def test_epochs_done_again_after_a_resume_are_not_written_twice(
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


def test_a_server_that_is_down_for_a_while_loses_nothing(
    tracker: MLflowTracker, client: MlflowClient, info: Make, flaky: Flaky
) -> None:
    run_id = tracker.start(info())
    tracker.log_metrics({"val/accuracy": 0.0}, 0)
    flaky.down = True
    tracker.log_metrics({"val/accuracy": 0.1}, 1)
    tracker.log_text("kept", "notes.txt")
    flaky.down, flaky.deaf = False, True
    tracker.log_metrics({"val/accuracy": 0.2}, 2)
    flaky.deaf = False
    tracker.finish("KILLED", "stopped by the scheduler")
    assert history(client, run_id, "val/accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert Path(client.download_artifacts(run_id, "notes.txt")).read_text() == "kept"
    assert client.get_run(run_id).info.status == "KILLED"


def test_what_a_dead_process_left_unsent_is_sent_by_the_next(
    tracker: MLflowTracker, uri: str, client: MlflowClient, info: Make, flaky: Flaky, tmp_path: Path, experiment: str
) -> None:
    run_id = tracker.start(info())
    flaky.down = True
    tracker.log_metrics({"val/accuracy": 0.1}, 0)
    tracker.finish("FINISHED")
    assert client.get_run(run_id).info.status == "RUNNING"
    flaky.down = False
    again = MLflowTracker(uri, experiment, folder=tmp_path)
    again.attach(run_id)
    assert again.flush()
    assert history(client, run_id, "val/accuracy") == [(0, 0.1)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_line_that_mlflow_refuses_for_good_does_not_hold_back_the_rest(
    tracker: MLflowTracker, client: MlflowClient, info: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.start(info())
    tracker.log_metrics({"not*a*name": 1.0}, 0)
    tracker.log_metrics({"val/accuracy": 0.5}, 0)
    assert client.get_run(run_id).data.metrics == {"val/accuracy": 0.5}
    assert "refuses" in caplog.text


def test_runs_in_threads_keep_to_themselves(
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
def test_two_processes_make_one_experiment(tmp_path: Path) -> None:
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


def test_a_deleted_experiment_is_named_with_the_remedy(uri: str, client: MlflowClient, experiment: str) -> None:
    client.delete_experiment(ensure_experiment(uri, experiment))
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        ensure_experiment(uri, experiment)


def test_a_run_that_is_not_there_cannot_be_resumed(tracker: MLflowTracker, info: Make) -> None:
    with pytest.raises(TrackingError, match="0123"):
        tracker.start(info(), resume_run_id="0123" * 8)


def test_a_study_finds_its_parent_again(uri: str, client: MlflowClient, experiment: str, info: Make) -> None:
    parent = create_parent(uri, experiment, "demo", {"study": "demo"}, {"trials": 4})
    client.set_terminated(parent, "KILLED")
    assert create_parent(uri, experiment, "demo", {"study": "demo"}) == parent
    assert client.get_run(parent).info.status == "RUNNING"
    assert create_parent(uri, experiment, "demo", {"study": "another"}) != parent


def test_runs_left_running_are_ended(
    uri: str, client: MlflowClient, experiment: str, info: Make, tmp_path: Path
) -> None:
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


def test_the_model_scores_a_batch_after_loading(
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


def test_a_model_that_cannot_be_logged_leaves_nothing_behind(
    tracker: MLflowTracker, client: MlflowClient, info: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = tracker.start(info())
    experiment_id = client.get_run(run_id).info.experiment_id
    tracker.log_model(Unpicklable(), batch_of(2))

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", full)
    tracker.log_model(StandIn(), batch_of(2))
    assert client.search_logged_models([experiment_id]) == []
    tracker.finish("FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"


def test_the_environment_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    be_brief()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"
