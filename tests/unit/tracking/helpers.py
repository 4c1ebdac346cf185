"""A small model, and MLflow's client with faults"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from remix_study.sample import Batch
from remix_study.tracking import RunInfo
from remix_study.tracking.spool import SpoolTracker

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


def batch_of(rows: int) -> Batch:
    return Batch(
        modalities=("audio", "video"),
        inputs={"audio": torch.randn(rows, 1, 4, 5), "video": torch.randn(rows, 3, 2, 6, 6)},
        active_BM=torch.ones(rows, 2, dtype=torch.bool),
        labels_B=torch.zeros(rows, dtype=torch.int64),
        samples_B=torch.arange(rows),
    )


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


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))


def spooled(folder: Path, experiment: str, info: RunInfo, epochs: range = range(3)) -> SpoolTracker:
    tracker = SpoolTracker(folder, experiment)
    tracker.start(info)
    for epoch in epochs:
        tracker.log_metrics({"val/accuracy": epoch / 10, "time/train_s": 5.0}, epoch)
    return tracker


def runs_of(client: MlflowClient, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))
