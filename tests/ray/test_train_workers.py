"""Two Ray Train workers on a real local Ray"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from ray.train import FailureConfig

from remix_study.config.run import RunConfig
from remix_study.errors import RemixStudyError
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import run_one
from remix_study.tracking import default_uri
from tests import mlflow_database

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECIPE = {
    "workers": 2,
    "epochs": 3,
    "global_batch": 28,
    "method.share": {"kind": "progress"},
    "evaluation": {"probe": True, "test": True},
    "tracking": {"uri": None, "experiment": "workers", "model": True},
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start Ray with two CPUs, regardless of the number of cores."""
    # Not the cluster of another test that runs at the same time, which Ray would find in /tmp/ray.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore", "RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]}},
    )
    yield
    ray.shutdown()


def tracked(workspace: Path) -> tuple[MlflowClient, Any]:
    client = MlflowClient(tracking_uri=default_uri(workspace))
    experiment = client.get_experiment_by_name("workers")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_two_workers_train_one_run(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    started: list[str] = []
    on_interrupt = signal.getsignal(signal.SIGINT)
    mlflow_database.install(tmp_path)
    summary = run_one(recipe(RECIPE), tmp_path, "pair", on_start=lambda *args: started.append(args[0]))
    assert started == ["pair"]
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    folder = RunFolder(tmp_path / "runs" / "pair")
    assert folder.result() == summary
    assert not folder.is_held()
    assert [int(record["epoch"]) for record in folder.history] == [0, 1, 2]
    assert {"test/accuracy", "probe/accuracy/audio", "best/val_accuracy"} <= set(summary)

    client, run = tracked(tmp_path)
    assert run.info.run_id == folder.mlflow_run_id()
    assert run.info.status == "FINISHED"
    assert run.data.tags["remix_study.folder"] == str(folder.path)
    assert run.data.params["workers"] == "2"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "val/accuracy")] == [0, 1, 2]
    assert {a.path for a in client.list_artifacts(run.info.run_id, "figures")} >= {
        "figures/learning_curves.png",
        "figures/assignment.png",
    }
    # The run is complete: the same call returns its summary and trains nothing.
    assert run_one(recipe(RECIPE), tmp_path, "pair") == summary
    assert client.get_run(run.info.run_id).info.end_time == run.info.end_time


def test_a_diverging_run_fails_with_its_reason(
    recipe: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = FailureConfig(max_failures=1, controller_failure_limit=3)  # type: ignore[call-arg]  # V1's
    monkeypatch.setattr("ray.train.FailureConfig", lambda **options: once)  # starting two workers takes long
    mlflow_database.install(tmp_path)
    config = recipe({**RECIPE, "optimizer": {"name": "sgd", "learning_rate": 1e30}})
    with pytest.raises(RemixStudyError, match=r"A worker failed, and failed again after restarts: .*epoch 0, "):
        run_one(config, tmp_path, "pair")
    _, run = tracked(tmp_path)
    assert run.info.status == "FAILED"
    assert (
        "the loss must be a number" in run.data.tags["failure_reason"]
        or "predictions must be numbers" in run.data.tags["failure_reason"]
    )
    assert RunFolder(tmp_path / "runs" / "pair").result() is None
    assert RunFolder(tmp_path / "runs" / "pair").mlflow_run_id() == run.info.run_id


def test_more_workers_than_cpus_are_rejected(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(RemixStudyError, match=r"`workers: 4` needs 4 CPU cores, but Ray has 2. Use fewer workers"):
        run_one(recipe({**RECIPE, "workers": 4}), tmp_path)
