"""A run that is killed and resumed equals an uninterrupted run bit for bit"""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from remix_study.launch.folder import RunFolder
from remix_study.tracking import default_uri
from tests import mlflow_database
from tests.commands import Command, start

OUTPUT = "output.txt"
RECIPE = {
    "method": {"name": "remix", "warmup": 1, "share": {"kind": "progress"}, "rescore_every": 2, "order": "shuffled"},
    "epochs": 12,
    "global_batch": 8,
    "device": "cpu",
    "evaluation": {"test": True},
    "tracking": {"model": False},
}


def train(recipe: Path, workspace: Path) -> Command:
    with (recipe.parent / OUTPUT).open("w") as output:
        return start(
            "-m", "remix_study", "train", str(recipe), "--workspace", str(workspace), "--name", "run",
            cwd=recipe.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def train_to_the_end(recipe: Path, workspace: Path) -> None:
    assert train(recipe, workspace).wait(240) == 0, (recipe.parent / OUTPUT).read_text()


def kill_after(process: Command, history: Path, epochs: int) -> None:
    """Send SIGKILL when the history contains `epochs` epochs."""
    pause = threading.Event()
    for _ in range(24_000):
        if history.exists() and history.read_bytes().count(b"\n") >= epochs:
            break
        assert process.poll() is None, f"the command ended before epoch {epochs}"
        pause.wait(0.01)  # polling, because another process writes the file
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def checkpoint(workspace: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(workspace / "runs" / "run" / "checkpoints" / "last.pt", weights_only=True)
    return content


def without_times(records: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if not key.startswith("time/")} for record in records]


def plain(value: Any) -> Any:
    """Tensors in a state as lists, to compare states with `==`."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_equal_and_the_same_mlflow_run(small_corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "run.yaml"
    recipe.write_text(yaml.safe_dump({"corpus": str(small_corpus), **RECIPE}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for workspace in (whole, killed):
        mlflow_database.install(workspace)
    train_to_the_end(recipe, whole)

    folder = killed / "runs" / "run"
    run_ids = []
    for epochs in (2, 6):  # killed twice
        kill_after(train(recipe, killed), folder / "history.jsonl", epochs)
        run_ids.append(RunFolder(folder).mlflow_run_id())
        assert not (folder / "result.json").exists()
    train_to_the_end(recipe, killed)
    run_ids.append(RunFolder(folder).mlflow_run_id())

    one, other = checkpoint(whole), checkpoint(killed)
    assert one["model"].keys() == other["model"].keys()
    for key, value in one["model"].items():
        assert torch.equal(value, other["model"][key]), key
    assert without_times(json.loads(one["history"])) == without_times(json.loads(other["history"]))  # includes losses
    assert plain(one["plan"]) == plain(other["plan"])
    results = [json.loads((w / "runs" / "run" / "result.json").read_text()) for w in (whole, killed)]
    assert without_times(results)[0] == without_times(results)[1]

    assert len(set(run_ids)) == 1
    client = MlflowClient(tracking_uri=default_uri(killed))
    (experiment,) = [e for e in client.search_experiments() if e.name == "remix"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_ids[0]
    assert run.info.status == "FINISHED"
    assert "failure_reason" not in run.data.tags
    for key in ("val/accuracy", "train/loss", "remix/share/audio", "time/train_s"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
        assert steps == list(range(1 if key.startswith("remix/") else 0, 12)), key
