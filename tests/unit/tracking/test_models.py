"""Models in MLflow"""

from pathlib import Path

import mlflow.pytorch
import pytest
import torch
from mlflow import MlflowClient

from remix_study.tracking.mlflow import MLflowTracker, send
from tests.unit.tracking.helpers import Make, StandIn, batch_of, runs_of, spooled


class Unpicklable(StandIn):
    def __init__(self) -> None:
        super().__init__()
        self.lock = (x for x in [1])  # a generator cannot be copied or pickled


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
