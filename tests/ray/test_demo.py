"""`remix-study demo` at reduced size: clips, study, table and figure; and a rerun"""

import csv
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

from remix_study.datasets.clips import ClipReader
from remix_study.datasets.corpus import open_corpus
from remix_study.tracking import default_uri
from tests import commands, mlflow_database

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SPACES = Path(__file__).parents[2] / "search_spaces"


def demo(workspace: Path, study: Path) -> "subprocess.CompletedProcess[str]":
    done = commands.run(
        "-m", "remix_study", "demo", "--workspace", str(workspace), "--study", str(study), "--train", "64",
        "--val", "32", "--test", "32", timeout=500, env={**os.environ, "COLUMNS": "120"}, cwd=workspace.parent,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


def shrunk(path: Path, **changes: Any) -> Path:
    """Write the shipped demo with one trial and two seeds of two epochs, without `remix_random`."""
    content = yaml.safe_load((SPACES / "demo.yaml").read_text())
    content["base"] |= {"epochs": 2, "global_batch": 32, "device": "cpu"}
    for name in ("remix_random", "joint_unimodal"):
        del content["methods"][name]
    for method in content["methods"].values():
        method["first"] = method["first"][:1]
    content["methods"]["remix"]["set"]["method"] |= {"warmup": 1}
    path.write_text(
        yaml.safe_dump(content | {"trials": 1, "seeds_per_trial": 1, "replicates": 2} | changes, sort_keys=False)
    )
    return path


def accuracy_of(client: MlflowClient, run: Any, corpus: Path) -> float:
    """Return the test accuracy of the model that MLflow loads."""
    model = mlflow.pytorch.load_model(
        client.get_logged_model(run.data.tags["model_uri"].removeprefix("models:/")).artifact_location
    )
    store = open_corpus(corpus)
    rows = store.rows("test")
    reader = ClipReader(store, torch.device("cpu"), modalities=model.modalities)
    batch = reader.read(rows, np.ones((len(rows), len(model.modalities)), np.bool_))
    with torch.no_grad():
        logits_BC = model(*(batch.inputs[m] for m in model.modalities))
    return float((logits_BC.argmax(dim=1) == batch.labels_B).float().mean())


@pytest.mark.smoke
def test_the_demo_and_its_rerun(tmp_path: Path) -> None:
    workspace, study = tmp_path / "w", shrunk(tmp_path / "study.yaml")
    first = demo(workspace, study)
    assert first.returncode == 0, first.stderr
    assert re.search(
        r"On the held-out test set \(2 seeds, \d+ clips\): no verdict on remix", " ".join(first.stdout.split())
    )
    folder = workspace / "studies" / "demo"
    report = folder / "report"
    assert f"Report: {report / 'report.html'}" in first.stdout
    rows = list(csv.DictReader((report / "comparison.csv").open()))
    networks = rows.pop()
    assert (networks["method"], networks["accuracy"]) == ("separate networks", "")
    assert 0 < float(networks["late sum"]) <= 100
    assert 0 < float(networks["calibrated late product"]) <= 100
    assert {row["method"] for row in rows} == {"joint", "remix", "audio_alone", "video_alone"}
    for row in rows:
        assert row["method"] in first.stdout
        assert " ± " in row["accuracy"]
        assert (row["wins"] == "") == (row["method"] == "remix")
    assert all(" ± " in row["audio sufficiency"] for row in rows if row["method"] in ("joint", "remix"))
    assert (report / "comparison.png").read_bytes().startswith(b"\x89PNG")

    client = MlflowClient(tracking_uri=default_uri(workspace))
    experiment = client.get_experiment_by_name("remix-demo")
    assert experiment is not None

    def runs() -> list[Any]:
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.run_id"]))

    before = runs()
    assert len(before) == 1 + 4 * (1 + 2)
    assert {run.info.status for run in before} == {"FINISHED"}
    (parent,) = [run for run in before if "mlflow.parentRunId" not in run.data.tags]
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in before if run is not parent)
    assert "On the held-out test set (2 seeds, " in parent.data.tags["mlflow.note.content"]
    assert {a.path for a in client.list_artifacts(parent.info.run_id, "report")} >= {
        "report/report.html",
        "report/comparison.csv",
        "report/comparison.png",
        "report/comparison.md",
    }

    # All slots must be used, although runs are shorter than the start of a process.
    processes = {lock.read_text() for lock in folder.glob("runs/*/lock")}
    assert len(processes) == len(os.sched_getaffinity(0))
    # One model of each method is kept, that of the chosen configuration. Its test accuracy is that of its run.
    with_model = [run for run in before if "model_uri" in run.data.tags]
    assert {run.info.run_name for run in with_model} == {f"{row['method']}-replicate-0" for row in rows}
    for run in with_model:
        assert accuracy_of(client, run, workspace / "demo-corpus") == pytest.approx(run.data.metrics["test/accuracy"])

    results = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    histories = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/history.jsonl")}
    again = demo(workspace, study)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")} == results
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/history.jsonl")} == histories
    assert [(r.info.run_id, r.info.status) for r in runs()] == [(r.info.run_id, r.info.status) for r in before]


def test_a_study_continues_after_a_trial_diverges_and_reports_it(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    mlflow_database.install(workspace)
    methods = {
        name: {
            "set": {"method": method, "optimizer": {"name": "sgd"}},
            "space": {"optimizer.learning_rate": {"kind": "float", "low": 0.01, "high": 1e30}},
            "first": [{"optimizer.learning_rate": rate} for rate in rates],
        }
        for name, method, rates in (
            ("joint", {"name": "joint"}, (0.01, 0.02)),
            ("remix", {"name": "remix", "warmup": 1}, (1e30, 0.01)),
        )
    }
    base = {
        "corpus": "set by the demo",
        "epochs": 2,
        "global_batch": 32,
        "device": "cpu",
        "tracking": {"experiment": "e"},
    }
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "name": "s",
                "question": "q?",
                "base": base,
                "methods": methods,
                "reference": "remix",
                "trials": 2,
                "replicates": 1,
            }
        )
    )
    done = demo(workspace, study)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "failed: remix-search-0: NotANumberError: " in told
    assert "Lower `optimizer.learning_rate`" in told
    client = MlflowClient(tracking_uri=default_uri(workspace))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    states = {run.info.run_name: run.info.status for run in runs}
    assert states.pop("remix-search-0") == "FAILED"
    assert set(states.values()) == {"FINISHED"}
    assert len(states) == 1 + 3 + 2
    assert (workspace / "studies" / "s" / "report" / "comparison.csv").exists()
