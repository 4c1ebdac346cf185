"""Runs that learn from the encoders of other runs"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remix_study.config.load import with_needed
from remix_study.config.method import teachers_of
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, TrainingError
from remix_study.files.mirror import Mirror
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import launch, make_job, run_one
from remix_study.launch.teachers import load_teachers, require_teachers
from remix_study.media.store import ClipStore

Recipe = Callable[..., RunConfig]
MODALITIES = ("audio", "video")


@pytest.fixture(scope="module")
def alone(recipe: Recipe, small_store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Modality -> folder of a complete run that trained it alone."""
    workspace = tmp_path_factory.mktemp("alone")
    for m in MODALITIES:
        config = recipe({"method": {"name": "unimodal", "modality": m}, "epochs": 1, "evaluation.probe": False})
        launch(make_job(config, small_store.digest, workspace, m), callback=lambda history: None)
    return {m: str(workspace / "runs" / m) for m in MODALITIES}


def taught(recipe: Recipe, teachers: object = "train", **changes: Any) -> RunConfig:
    return recipe({"method": {"name": "umt", "teachers": teachers}, "epochs": 1, "evaluation.probe": False, **changes})


@pytest.mark.slow
def test_teachers_are_trained_first_and_once_also_as_ceilings(recipe: Recipe, tmp_path: Path) -> None:
    started: list[str] = []
    both = taught(recipe, **{"method": {"name": "joint_unimodal", "with": ["umt"]}, "evaluation.ceilings": "train"})
    summary = run_one(both, tmp_path, "one", on_start=lambda name, _: started.append(name.split("-")[0]))
    assert started == ["unimodal", "unimodal", "one"]
    assert "method/umt/distance/audio" in RunFolder(tmp_path / "runs" / "one").history[0]
    saved = torch.load(tmp_path / "runs" / "one" / "checkpoints" / "last.pt", weights_only=True)
    assert {name.split(".")[0] for name in saved["model"]} == {"encoders", "fusion", "heads"}
    named = teachers_of(RunConfig.model_validate(RunFolder(tmp_path / "runs" / "one").config()).method)
    assert isinstance(named, dict)
    assert [RunFolder(Path(named[m])).result() is not None for m in MODALITIES] == [True, True]
    # The same run by the folders of its teachers: it is complete, so nothing is trained.
    again = run_one(with_needed(both, named), tmp_path, "one", on_start=lambda name, _: started.append(name))
    assert again == summary


def test_a_moved_teacher_is_the_same_run_and_another_one_is_not(recipe: Recipe) -> None:
    here, there = (taught(recipe, {m: f"{place}/{m}" for m in MODALITIES}) for place in ("here", "there"))
    digests = dict.fromkeys(MODALITIES, "abc")
    assert here.digest("d", digests) == there.digest("d", digests)
    assert here.digest("d", digests) != here.digest("d", {**digests, "video": "abd"})
    assert taught(recipe).digest("d", digests) == here.digest("d", digests)


def test_a_teacher_has_the_weights_of_its_selected_epoch_and_learns_nothing(
    recipe: Recipe, small_store: ClipStore, alone: dict[str, str]
) -> None:
    config = taught(recipe, alone)
    digests = require_teachers(config, small_store)
    found = load_teachers(config, small_store, torch.device("cpu"), digests)
    for m, encoder in found.items():
        best = torch.load(Path(alone[m]) / "checkpoints" / "best.pt", weights_only=True)["model"]
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, best[f"encoders.{m}.{key}"]), key
        assert not encoder.training
        assert not any(p.requires_grad for p in encoder.parameters())


def broken(of: str, alone: dict[str, str], folder: Path) -> dict[str, str]:
    """Copy the teacher of audio, and take something from it."""
    shutil.copytree(alone["audio"], folder)
    if of == "config":
        (folder / "config.yaml").unlink()
    elif of == "result":
        (folder / "result.json").unlink()
    elif of == "corpus":
        (folder / "digest").write_text("0" * 12)
    return {**alone, "audio": str(folder)}


@pytest.mark.parametrize(
    ("of", "changes", "said"),
    [
        ("config", {}, "it is not a run folder"),
        ("result", {}, "its run is not complete; rerun its command to complete it"),
        ("corpus", {}, "it was trained on another corpus than"),
        ("nothing", {"model.encoders": {"audio": {"name": "resnet18", "width": 4}}}, "its encoder is {'name': 'tiny'}"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_training(
    recipe: Recipe, small_store: ClipStore, alone: dict[str, str], tmp_path: Path, of: str, changes: Any, said: str
) -> None:
    config = taught(recipe, broken(of, alone, tmp_path / "teacher"), **changes)
    with pytest.raises(ConfigError) as caught:
        require_teachers(config, small_store)
    assert f"{tmp_path / 'teacher'} cannot be the teacher of audio: {said}" in str(caught.value)
    assert str(caught.value).endswith(
        "Name the folder of a complete run with `method: {name: unimodal}`, or use `teachers: train`."
    )
    assert "\n" not in str(caught.value)


def test_the_teacher_of_another_modality_is_refused(
    recipe: Recipe, small_store: ClipStore, alone: dict[str, str]
) -> None:
    with pytest.raises(
        ConfigError, match=r"teacher of audio: it was trained on video\. .* of video: it was trained on"
    ):
        require_teachers(taught(recipe, {"audio": alone["video"], "video": alone["audio"]}), small_store)


def test_a_teacher_that_changed_since_the_check_is_an_error(
    recipe: Recipe, small_store: ClipStore, alone: dict[str, str]
) -> None:
    config = taught(recipe, alone)
    digests = {**require_teachers(config, small_store), "video": "0" * 12}
    with pytest.raises(TrainingError, match="teacher of video: it holds another run"):
        load_teachers(config, small_store, torch.device("cpu"), digests)


def test_a_teacher_may_be_at_a_url(recipe: Recipe, small_store: ClipStore, alone: dict[str, str]) -> None:
    there = {}
    for m, folder in alone.items():
        there[m] = f"memory://teachers-of-{Path(folder).parent.parent.name}/{m}"
        Mirror(there[m], Path(folder)).push()
    here, config = taught(recipe, alone), taught(recipe, there)
    digests = require_teachers(config, small_store)
    assert digests == require_teachers(here, small_store)
    device = torch.device("cpu")
    found, wanted = (load_teachers(each, small_store, device, digests) for each in (config, here))
    for m in MODALITIES:
        assert all(torch.equal(p, q) for p, q in zip(found[m].parameters(), wanted[m].parameters(), strict=True))
