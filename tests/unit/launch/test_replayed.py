"""Runs that replay the shares of another run: the same numbers of samples, other digests, and runs that do not fit"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remix_study.assemble import assemble
from remix_study.config.method import REPLAYED
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, TrainingError
from remix_study.files.mirror import Mirror
from remix_study.launch.folder import RunFolder
from remix_study.launch.needed import require_needed
from remix_study.launch.replayed import load_course
from remix_study.launch.run import launch, make_job, run_one
from remix_study.media.store import ClipStore
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import train
from remix_study.world import Collectives, Solo

Recipe = Callable[..., RunConfig]
EPOCHS, WARMUP = 4, 1
COUNTED = ("remix/share/", "remix/joint_share", "remix/resting_share", "train/samples/", "train/updates/")


@pytest.fixture(scope="module")
def other(recipe: Recipe, small_store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a complete run in which samples train alone, jointly, and not at all, in changing numbers."""
    changes = {
        "method": {
            "name": "remix", "warmup": WARMUP, "joint_share": 0.1, "rescore_every": 2, "share": {"kind": "progress"},
            "filter": {"rule": "quantile", "fraction": 0.6, "otherwise": "rest"},
        },
        "epochs": EPOCHS,
    }  # fmt: skip
    workspace = tmp_path_factory.mktemp("other")
    launch(make_job(recipe(changes), small_store.digest, workspace, "other"), callback=lambda history: None)
    return str(workspace / "runs" / "other")


def replaying(recipe: Recipe, run: str | None, rule: str = "random_at_share_of", **changes: Any) -> RunConfig:
    method = {"name": "remix", "warmup": WARMUP, "rescore_every": 2, "filter": {"rule": rule, "run": run}}
    return recipe({"method": method, "epochs": EPOCHS, **changes})


def counted(folder: Path) -> list[dict[str, float]]:
    history = RunFolder(folder).history
    return [{key: value for key, value in record.items() if key.startswith(COUNTED)} for record in history]


@pytest.mark.slow
def test_a_run_trains_as_many_samples_as_the_run_that_it_replays(recipe: Recipe, tmp_path: Path, other: str) -> None:
    run_one(replaying(recipe, other), tmp_path, "replay")
    assert counted(tmp_path / "runs" / "replay") == counted(Path(other))
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"replay"}


@pytest.mark.slow
def test_a_run_at_the_mean_share_trains_the_mean_number_of_samples_in_each_epoch(
    recipe: Recipe, tmp_path: Path, other: str, small_store: ClipStore
) -> None:
    run_one(replaying(recipe, other, "random_at_mean_share_of"), tmp_path, "mean")
    found, wanted = (counted(folder)[WARMUP:] for folder in (tmp_path / "runs" / "mean", Path(other)))
    for key in ("remix/share/audio", "remix/share/video", "remix/joint_share", "remix/resting_share"):
        assert len({record[key] for record in found}) == 1
        mean = sum(record[key] for record in wanted) / len(wanted)
        assert found[0][key] == pytest.approx(mean, abs=1 / len(small_store.rows("train")))


@pytest.mark.slow
def test_a_replay_that_is_stopped_resumes_with_the_same_numbers_and_weights(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path, other: str
) -> None:
    def die(history: object) -> None:
        if isinstance(history, list) and len(history) == 2:
            raise KeyboardInterrupt

    config = replaying(recipe, other)
    needed = require_needed(config, small_store)
    with pytest.raises(KeyboardInterrupt):
        launch(make_job(config, small_store.digest, tmp_path, "killed", needed), callback=die)
    resumed = launch(make_job(config, small_store.digest, tmp_path, "killed", needed), callback=lambda history: None)
    whole = launch(make_job(config, small_store.digest, tmp_path, "whole", needed), callback=lambda history: None)
    assert {k: v for k, v in resumed.items() if "time/" not in k} == {
        k: v for k, v in whole.items() if "time/" not in k
    }


@pytest.mark.slow
def test_two_ranks_replay_the_same_numbers_as_one(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path, other: str, run_on_ranks: Callable[..., list[Any]]
) -> None:
    config = replaying(recipe, other)
    course = load_course(config, small_store, require_needed(config, small_store))

    def work(collectives: Collectives) -> list[dict[str, float]]:
        folder = tmp_path / f"of-{collectives.world.size}"
        folder.mkdir(exist_ok=True)
        run = assemble(
            config, small_store, collectives, torch.device("cpu"), NullTracker(), folder, course=course
        )  # fmt: skip
        return [{k: v for k, v in record.items() if k.startswith(COUNTED)} for record in train(run).history]

    one, other_rank = run_on_ranks(2, work)
    assert one == other_rank == work(Solo()) == counted(Path(other))


def test_the_digest_is_of_the_replayed_run_and_not_of_its_folder(recipe: Recipe) -> None:
    here, there = (replaying(recipe, place) for place in ("here", "there"))
    assert here.digest("d", {REPLAYED: "abc"}) == there.digest("d", {REPLAYED: "abc"})
    assert here.digest("d", {REPLAYED: "abc"}) != here.digest("d", {REPLAYED: "abd"})
    assert here.digest("d", {REPLAYED: "abc"}) != replaying(recipe, "here", "random_at_mean_share_of").digest(
        "d", {REPLAYED: "abc"}
    )


def broken(of: str, other: str, folder: Path) -> str:
    """Copy the run, and take something from it."""
    shutil.copytree(other, folder)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    match of:
        case "config":
            (folder / "config.yaml").unlink()
        case "result":
            (folder / "result.json").unlink()
        case "corpus":
            (folder / "digest").write_text("0" * 12)
        case "history":
            (folder / "history.jsonl").write_text("".join(lines[:-1]))
        case "shares":
            record = json.loads(lines[-1]) | {"remix/share/audio": 0.123}
            (folder / "history.jsonl").write_text("".join([*lines[:-1], json.dumps(record) + "\n"]))
    return str(folder)


@pytest.mark.parametrize(
    ("of", "changes", "said"),
    [
        ("config", {}, "it is not a run folder"),
        ("result", {}, "its run is not complete; rerun its command to complete it"),
        ("corpus", {}, "it was trained on another corpus than"),
        ("history", {}, "its history has 3 of 4 epochs"),
        ("shares", {}, "the shares of its epoch 3 are not those of 96 samples"),
        ("nothing", {"epochs": 5}, "`epochs` is 4 there, but 5 in this run"),
        ("nothing", {"method.warmup": 2}, "`method.warmup` is 1 there, but 2 in this run"),
        ("nothing", {"control_fraction": 0.25}, "the number of training clips is 96 there, but 72 in this run"),
    ],
)
def test_a_run_that_cannot_be_replayed_is_refused_before_training(
    recipe: Recipe, small_store: ClipStore, other: str, tmp_path: Path, of: str, changes: Any, said: str
) -> None:
    config = replaying(recipe, broken(of, other, tmp_path / "run"), **changes)
    with pytest.raises(ConfigError) as caught:
        require_needed(config, small_store)
    assert f"{tmp_path / 'run'} cannot be replayed by `random_at_share_of`: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "joint"}, "it was trained with joint, which does not assign samples to modalities"),
        (
            {"name": "remix", "warmup": 1, "filter": {"rule": "random_at_share_of", "run": "x"}},
            "it replays another run itself (random_at_share_of)",
        ),
    ],
)
def test_only_runs_with_shares_of_their_own_are_replayed(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path, method: Any, said: str
) -> None:
    RunFolder(tmp_path / "run").prepare(recipe({"method": method, "epochs": EPOCHS}), "0" * 12)
    with pytest.raises(ConfigError) as caught:
        require_needed(replaying(recipe, str(tmp_path / "run")), small_store)
    assert said in str(caught.value)


def test_a_replay_of_no_run_is_refused(recipe: Recipe, small_store: ClipStore) -> None:
    with pytest.raises(ConfigError, match=r"^`method.filter.run` must name the run that `random_at_share_of` replays"):
        require_needed(replaying(recipe, None), small_store)


def test_a_run_that_changed_since_the_check_is_an_error(recipe: Recipe, small_store: ClipStore, other: str) -> None:
    with pytest.raises(TrainingError, match="it holds another run"):
        load_course(replaying(recipe, other), small_store, {REPLAYED: "0" * 12})


def test_a_replayed_run_may_be_at_a_url(recipe: Recipe, small_store: ClipStore, other: str) -> None:
    url = f"memory://replayed-{Path(other).parent.parent.name}/other"
    Mirror(url, Path(other)).push()
    digests = require_needed(replaying(recipe, url), small_store)
    assert digests == require_needed(replaying(recipe, other), small_store)
    found, wanted = (load_course(replaying(recipe, each), small_store, digests) for each in (url, other))
    assert found is not None
    assert wanted is not None
    assert (found.count_EG == wanted.count_EG).all()
