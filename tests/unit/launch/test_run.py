import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from remix_study.config import run as c
from remix_study.config.load import load_run
from remix_study.config.method import UnimodalConfig
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import prepare_corpus
from remix_study.errors import RemixStudyError, TrainingError
from remix_study.launch import run as runs
from remix_study.launch import worker
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import make_job, run_one, tracking_uri, unimodal_config
from remix_study.launch.worker import Job, flat, work
from remix_study.media.presets import PRESETS, Preset, VideoPreset
from remix_study.sample import Batch
from remix_study.tracking import default_uri
from remix_study.tracking.spool import SpoolTracker
from remix_study.tracking.tracker import NullTracker, RunInfo
from remix_study.training.run import Run, RunResult
from remix_study.training.state import Progress

Recipe = Callable[..., RunConfig]


def test_the_tracking_uri_defaults_to_the_workspace(recipe: Recipe, tmp_path: Path) -> None:
    assert tracking_uri(recipe(), tmp_path) is None
    assert tracking_uri(recipe({"tracking.uri": None}), tmp_path) == default_uri(tmp_path)
    assert tracking_uri(recipe({"tracking.uri": "http://host:1"}), tmp_path) == "http://host:1"


def test_a_job_has_absolute_paths_and_survives_json(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a worker has another working directory
    job = make_job(recipe({"corpus": "corpus"}), "data", Path("w"))
    assert job.config.corpus == str(tmp_path / "corpus")
    assert job.folder == str(tmp_path / "w" / "runs" / job.name)
    assert job.name == f"remix-seed0-{job.digest}"
    assert make_job(recipe({"corpus": "corpus"}), "data", Path("w"), "mine").name == "mine"
    assert job.config.digest("data") == job.digest
    assert Job.from_json(job.to_json()) == job


def test_a_unimodal_config_differs_in_method_and_evaluation_only(recipe: Recipe) -> None:
    run = recipe({"evaluation": {"ceilings": "train", "probe": True, "clash_every": 3, "batch": 7}, "seed": 4})
    unimodal = unimodal_config(run, "video")
    assert unimodal.method == UnimodalConfig(name="unimodal", modality="video")
    assert unimodal.evaluation == c.EvaluationConfig(batch=7, probe=False)
    assert unimodal.model_copy(update={"method": run.method, "evaluation": run.evaluation}) == run


@pytest.mark.slow
@pytest.mark.parametrize("reported", [False, True])
def test_a_run_whose_workers_failed_is_failed_in_mlflow(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    """When one worker fails, Ray Train kills the others, before or after rank 0 reported the failure."""

    def fail(job: Job, callback: object, folder: RunFolder, *_: object) -> None:
        tracker = SpoolTracker(folder.path, job.experiment)
        tracker.start(RunInfo("pair", {}, {}, "", "", "", "", {}))
        if reported:
            tracker.finish("FAILED", "reported by the worker")
        raise RemixStudyError("A worker failed: the loss is not a number")

    monkeypatch.setattr(runs, "fit", fail)
    with pytest.raises(RemixStudyError, match="A worker failed"):
        run_one(recipe({"workers": 2, "tracking.uri": None}), tmp_path, "pair")
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FAILED"
    expected = "reported by the worker" if reported else "A worker failed"
    assert run.data.tags["failure_reason"].startswith(expected)


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_kernels_are_required_during_the_run_only(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen: list[tuple[bool, bool]] = []

    def train(run: Run) -> RunResult:
        seen.append((torch.are_deterministic_algorithms_enabled(), "CUBLAS_WORKSPACE_CONFIG" in os.environ))
        result: RunResult = trained(run)
        return result

    trained = vars(worker)["train"]
    monkeypatch.setattr(worker, "train", train)
    config = recipe({"deterministic": wanted})
    run_one(config, tmp_path)
    assert seen == [(wanted, wanted)]
    assert not torch.are_deterministic_algorithms_enabled()
    assert (config.digest("data") == recipe().digest("data")) == (not wanted)


def test_an_operation_without_a_deterministic_kernel_is_reported_with_the_remedy(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: Run) -> RunResult:
        raise RuntimeError("x_cuda does not have one, but you set 'torch.use_deterministic_algorithms(True)'.\nMore.")

    monkeypatch.setattr(worker, "train", train)
    with pytest.raises(TrainingError, match=r"x_cuda does not have one.*Set `deterministic: false`"):
        run_one(recipe({"deterministic": True}), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_ceilings_are_trained_once_and_bound_sufficiency(recipe: Recipe, tmp_path: Path) -> None:
    config = recipe({"evaluation": {"ceilings": "train", "probe": False, "test": True}})
    started: list[str] = []
    summary = run_one(config, tmp_path, "one", on_start=lambda name, _: started.append(name.split("-")[0]))
    assert started == ["unimodal", "unimodal", "one"]
    ceilings = {folder.name: RunFolder(folder).result() for folder in (tmp_path / "runs").glob("unimodal-*")}
    assert len(ceilings) == 2
    for m in ("audio", "video"):
        (alone,) = [r["test/accuracy"] for r in ceilings.values() if r is not None and f"test/accuracy_uni/{m}" in r]
        if alone > 0:
            ratio = summary[f"test/accuracy_uni/{m}"] / alone
            assert summary[f"sufficiency/ratio/{m}"] == pytest.approx(ratio)
    # Another run with the same configuration reuses them.
    before = {folder: (folder / "result.json").stat().st_mtime_ns for folder in (tmp_path / "runs").glob("unimodal-*")}
    run_one(recipe({"evaluation": {"ceilings": "train", "probe": False, "test": True}, "method.warmup": 0}), tmp_path)
    assert {folder: (folder / "result.json").stat().st_mtime_ns for folder in before} == before


def test_sufficiency_on_validation_is_of_the_selected_epoch(recipe: Recipe) -> None:
    trained = {m: {"best/val_accuracy": 0.9, "last/val_accuracy": 0.6} for m in ("audio", "video")}
    for select, expected in (("best", 0.9), ("last", 0.6)):
        config = recipe({"evaluation": {"ceilings": "train", "select": select}})
        assert runs._ceilings(config, trained) == {"audio": expected, "video": expected}


@pytest.mark.slow
@pytest.mark.parametrize(("select", "method"), [("best", {"name": "remix", "warmup": 1}), ("last", {"name": "joint"})])
def test_the_model_of_the_selected_epoch_is_logged(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, method: dict[str, Any]
) -> None:
    logged: list[dict[str, torch.Tensor]] = []
    given: list[Mapping[str, float] | None] = []
    add = Progress.add

    class Recorder(NullTracker):
        def log_model(self, model: nn.Module, example: Batch, exponents: Mapping[str, float] | None = None) -> None:
            logged.append({name: value.clone() for name, value in model.state_dict().items()})
            given.append(exponents)

    monkeypatch.setattr(worker, "_tracker", lambda job, folder: Recorder())
    config = recipe(
        {
            "method": method,
            "epochs": 4,
            "optimizer.learning_rate": 0.02,
            "evaluation": {"select": select, "probe": True},
        }
    )
    job = replace(make_job(config, "data", tmp_path, "one"), tracking_uri="http://host:1", log_model=True)
    accuracies = iter([0.3, 0.9, 0.5, 0.4])  # of four epochs, so that the last one is not the best
    monkeypatch.setattr(Progress, "add", lambda self, record: add(self, record | {"val/accuracy": next(accuracies)}))
    summary = runs.launch(job)
    assert summary["best/epoch"] == 1
    expected = torch.load(tmp_path / "runs/one/checkpoints" / f"{select}.pt", weights_only=True)["model"]
    assert all(torch.equal(logged[0][name], value) for name, value in expected.items())
    exponents = {m: summary[f"late_calibrated/exponent/{m}"] for m in ("audio", "video")}
    assert given == [exponents if method["name"] == "remix" else None]  # those of joint are of probes


@pytest.mark.slow
def test_an_augmented_run_on_a_store_of_several_frames_is_reproducible(
    recipe: Recipe, small_corpus: Path, tmp_path: Path
) -> None:
    """Two runs are bitwise equal; a run without augmentation differs."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "clips").symlink_to(small_corpus / "clips")
    (corpus / "manifest.jsonl").write_bytes((small_corpus / "manifest.jsonl").read_bytes())
    frames = VideoPreset(2, 16, 16, "area", candidates=3)
    preset = Preset("tiny, six frames", {"audio": PRESETS["tiny"].parts["audio"], "video": frames})
    prepare_corpus(corpus / "manifest.jsonl", preset=preset, name="frames")
    augment = {"crop": True, "flip": True, "frames": "random", "time_mask": 8, "frequency_mask": 8, "shift": 0.2}
    base = {"corpus": str(corpus), "evaluation": {"ceilings": "train", "probe": False, "test": True}}
    found = [
        run_one(recipe({**base, "augment": transforms}), tmp_path / name)
        for name, transforms in (("one", augment), ("two", augment), ("plain", {}))
    ]
    one, two, plain = ({k: v for k, v in summary.items() if not k.startswith("time/")} for summary in found)
    assert one == two
    assert one.keys() == plain.keys()
    assert one["best/val_cross_entropy"] != plain["best/val_cross_entropy"]
    assert "sufficiency/ratio/video" in one
    (config,) = (tmp_path / "one" / "runs").glob("remix-*/config.yaml")
    assert load_run(config).augment == recipe({"augment": augment}).augment


def test_a_failed_run_writes_no_result_and_releases_its_lock(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"epoch 0"):
        run_one(recipe({"optimizer": {"name": "sgd", "learning_rate": 1e30}}), tmp_path, "one")
    folder = RunFolder(tmp_path / "runs" / "one")
    assert folder.result() is None
    assert not folder.is_held()


def test_a_worker_needs_nothing_but_its_job(recipe: Recipe, small_corpus: Path, tmp_path: Path) -> None:
    config = recipe()
    job = Job(
        config=config, folder=str(tmp_path), digest="d", name="n", tracking_uri=None,
        experiment="e", threads=1,
    )  # fmt: skip
    assert work(job) == RunFolder(tmp_path).result()


def test_parameters_are_flattened_without_unset_ones() -> None:
    nested = {"a": {"b": 1, "c": {"d": "x"}}, "e": None, "f": [1, 2], "g": {}}
    assert flat(nested) == {"a.b": 1, "a.c.d": "x", "f": "1, 2"}
