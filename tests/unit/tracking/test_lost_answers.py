"""Every answer of MLflow may be lost after the server has done the work: sending again changes nothing"""

import contextlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from remix_study.tracking import RunInfo
from remix_study.tracking import mlflow as module
from remix_study.tracking.mlflow import send
from remix_study.tracking.spool import SpoolTracker
from tests.unit.tracking.helpers import Make, StandIn, batch_of

pytestmark = pytest.mark.slow

CHANGES = ("log_", "set_", "create_", "update_", "finalize_", "delete_")


class Deaf:
    """MLflow's client, of which the answer of call number `at` that changes something is lost.

    Args:
        twice: the call is repeated by the client's own retries, as MLflow's is over HTTP, and only the last answer
            arrives.
    """

    def __init__(self, client: MlflowClient, at: int, *, twice: bool = False) -> None:
        self.client, self.at, self.twice = client, at, twice
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if not name.startswith(CHANGES):
            return real

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            result = real(*args, **options)
            if len(self.calls) != self.at:
                return result
            if self.twice:
                return real(*args, **options)
            raise ConnectionError("reset by peer")

        return call


def write_run(folder: Path, info: RunInfo, experiment: str, *, model: bool) -> None:
    tracker = SpoolTracker(folder, experiment)
    tracker.start(info)
    for epoch in range(3):
        tracker.log_metrics({"val/accuracy": 0.1 * epoch, "train/loss": 1.0}, epoch)
    tracker.set_tags({"is_best": "true"})
    if model:
        torch.manual_seed(0)
        tracker.log_model(StandIn(), batch_of(2))
    tracker.finish("FAILED", "a worker was lost")
    tracker.start(info)  # resumed: the tags of its end are deleted
    tracker.log_metrics({"val/accuracy": 0.3}, 3)
    tracker.finish("FINISHED")


def copy_run(written: Path, folder: Path, name: str) -> None:
    """Copy a run folder as that of another run, since writing a model takes long."""
    shutil.copytree(written, folder)
    spool = folder / "tracking" / "spool.jsonl"
    key = next(line["key"] for line in map(json.loads, spool.read_text().splitlines()) if "start" in line)
    text = spool.read_text().replace(key, f"{key}-{name}").replace('"name": "whole"', f'"name": "{name}"')
    spool.write_text(text)


def state(client: MlflowClient, experiment: str, name: str) -> dict[str, Any]:
    """Return all that MLflow has of the one run called `name`."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = (r for r in client.search_runs([found.experiment_id]) if r.info.run_name == name)
    models = client.search_logged_models([found.experiment_id], f"source_run_id = '{run.info.run_id}'")
    tags = {key: value for key, value in run.data.tags.items() if key not in ("remix_study.spool", "model_uri")}
    return {
        "tags": {key: value for key, value in tags.items() if "history" not in key and "log-model" not in key},
        "params": run.data.params,
        "status": run.info.status,
        "metrics": {
            key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        },
        "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        "models": [str(model.status) for model in models],
        "outputs": len(run.outputs.model_outputs) if run.outputs else 0,
    }


def lose(
    client: MlflowClient, uri: str, folder: Path, at: int, monkeypatch: pytest.MonkeyPatch, *, twice: bool = False
) -> list[str]:
    """Send a run folder while answer `at` is lost, then again; return the calls of the first time."""
    deaf = Deaf(client, at, twice=twice)
    with monkeypatch.context() as patch:
        patch.setattr(module, "client_of", lambda _: deaf)
        with contextlib.suppress(ConnectionError, MlflowException):  # the latter if a repeated call is refused
            send(uri, folder)
    send(uri, folder)
    return deaf.calls


@pytest.mark.parametrize("twice", [False, True], ids=["lost", "repeated by the client"])
def test_a_lost_answer_changes_nothing(
    uri: str, client: MlflowClient, info: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: bool
) -> None:
    experiment = f"lost answers {twice}"
    write_run(tmp_path / "written", info(name="whole"), experiment, model=True)
    copy_run(tmp_path / "written", tmp_path / "whole", "whole")
    send(uri, tmp_path / "whole")
    wanted = state(client, experiment, "whole")
    assert (wanted["models"], wanted["outputs"], wanted["status"]) == (["READY"], 1, "FINISHED")
    assert len(wanted["metrics"]["val/accuracy"]) == 4
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        copy_run(tmp_path / "written", folder, str(at))
        calls = lose(client, uri, folder, at, monkeypatch, twice=twice)
        found = state(client, experiment, str(at))
        found["tags"]["mlflow.runName"] = wanted["tags"]["mlflow.runName"]
        assert found == wanted, (at, calls[-1])
        if len(calls) < at:
            break
    assert at > 10
