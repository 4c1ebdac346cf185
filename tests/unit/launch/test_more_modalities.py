"""Corpora with modalities other than audio and video, from their files to a trained and evaluated run"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import prepare
from remix_study.datasets.mosei import mosei_at
from remix_study.datasets.ucf101 import Ucf101
from remix_study.launch.run import run_one
from remix_study.media.source import source_at
from tests.miniature import mosei, ucf101

pytestmark = pytest.mark.slow  # whole runs

Recipe = Callable[..., RunConfig]
REMIX = {"name": "remix", "warmup": 1, "order": "alternate", "filter": {"rule": "margin", "threshold": 0.1}}


def history(workspace: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workspace / "runs" / "one" / "history.jsonl").read_text().splitlines()]


def test_three_modalities_of_features_are_trained_with_remix(recipe: Recipe, tmp_path: Path) -> None:
    names = ("audio", "video", "text")
    prepare(mosei_at(mosei.write_pickle(tmp_path / "a.pkl"), tmp_path / "work"), tmp_path / "corpus", workers=1)
    config = recipe(
        {
            "corpus": str(tmp_path / "corpus"),
            "method": {**REMIX, "share": {"kind": "progress"}},
            "optimizer.learning_rate": 3e-3,
            "epochs": 3,
            "global_batch": 16,
            "evaluation": {"test": True, "clash_every": 2},
        }
    )
    summary = run_one(config, tmp_path, "one")
    for m in names:
        for metric in ("test/accuracy_uni/", "test/accuracy_without/", "test_balance/shapley/", "probe/accuracy/"):
            assert 0 <= abs(summary[f"{metric}{m}"]) <= 1
    assert summary["test/accuracy"] > 0.8  # every modality predicts the sentiment
    for epoch in history(tmp_path)[1:]:
        shares = [epoch[f"remix/share/{m}"] for m in names]
        assert sum(shares) + epoch["remix/joint_share"] == pytest.approx(1)
        assert all(share > 0 for share in shares)


@pytest.mark.parametrize("rule", [{"rule": "coalition_gain"}, {"rule": "reducible_loss", "reference_epochs": 2}])
def test_rules_that_read_scoring_passes_take_three_modalities(
    rule: dict[str, str | int], recipe: Recipe, tmp_path: Path
) -> None:
    names = ("audio", "video", "text")
    prepare(mosei_at(mosei.write_pickle(tmp_path / "a.pkl"), tmp_path / "work"), tmp_path / "corpus", workers=1)
    parts = {"audio": 0.25, "video": 0.25, "text": 0.5}
    share = {"kind": "fixed", "parts": parts}
    method = {"name": "remix", "warmup": 1, "share": share, "filter": {**rule, "within": "class"}}
    config = recipe({"corpus": str(tmp_path / "corpus"), "method": method, "epochs": 4, "global_batch": 16})
    summary = run_one(config, tmp_path, "one")
    assert 0 <= summary["best/val_accuracy"] <= 1
    last = history(tmp_path)[-1]
    for m in names:
        assert last[f"remix/share/{m}"] == pytest.approx(parts[m], abs=0.02)
        assert f"remix/{rule['rule']}/{m}" in last


def test_each_of_three_modalities_has_a_unimodal_ceiling(recipe: Recipe, tmp_path: Path) -> None:
    prepare(mosei_at(mosei.write_splits(tmp_path / "given"), tmp_path), tmp_path / "corpus", workers=1)
    changes = {"corpus": str(tmp_path / "corpus"), "evaluation": {"ceilings": "train", "test": True, "probe": False}}
    summary = run_one(recipe({**changes, "global_batch": 16}), tmp_path, "one")
    assert {f"sufficiency/ratio/{m}" for m in ("audio", "video", "text")} <= summary.keys()


def test_images_and_optical_flow_are_trained_with_remix(recipe: Recipe, tmp_path: Path) -> None:
    root = ucf101.write(tmp_path / "given")
    prepare(Ucf101(source_at(root), frames=2, side=16), tmp_path / "corpus", workers=1)
    config = recipe({"corpus": str(tmp_path / "corpus"), "method": REMIX, "global_batch": 8, "evaluation.test": True})
    summary = run_one(config, tmp_path, "one")
    assert {f"test/accuracy_uni/{m}" for m in ("video", "flow")} <= summary.keys()
    assert "remix/share/flow" in history(tmp_path)[-1]
