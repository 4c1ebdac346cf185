"""Shares that read the control split, in a run: the same on every rank, and what their passes cost"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from remix_study.config.assignment import READING_CONTROL
from remix_study.config.run import RunConfig
from remix_study.training import loop
from remix_study.training.loop import train
from remix_study.training.multiply_adds import BACKWARD, forward_multiply_adds
from remix_study.training.run import Run, RunResult
from remix_study.training.scoring import KeptFeatures
from remix_study.world import Collectives
from tests.ranks import run_on_ranks

Recipe = Callable[..., RunConfig]


def sharing(recipe: Recipe, kind: str, **changes: Any) -> RunConfig:
    method = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "share": {"kind": kind}}
    return recipe({"method": method, "epochs": 4, "control_fraction": 0.2, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("kind", READING_CONTROL)
def test_all_ranks_have_the_same_shares(recipe: Recipe, assembled: Callable[..., Run], kind: str) -> None:
    config = sharing(recipe, kind)

    def work(collectives: Collectives) -> RunResult:
        return train(assembled(config, "run", None, collectives))

    one, other = run_on_ranks(2, work)
    decided = [[{k: v for k, v in record.items() if k.startswith("remix/")} for record in result.history]
               for result in (one, other)]  # fmt: skip
    assert decided[0] == decided[1]
    assert "remix/share_gain/audio" in decided[0][-1]
    assert len({record.get("remix/share/audio") for record in decided[0][1:]}) > 1  # the shares moved


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "passes"), [
    ("held_out_progress", (0, 1)), ("calibrated_progress", (1, 1)), ("block_gain", (0, 2)), ("progress", (1, 0)),
])  # fmt: skip
def test_passes_are_counted(recipe: Recipe, assembled: Callable[..., Run], kind: str, passes: tuple[int, int]) -> None:
    """`passes`: over the training and the control samples before and within an epoch after the warm-up."""
    run = assembled(sharing(recipe, kind))
    cost_m = forward_multiply_adds(run.model, run.reader.sample_shapes())
    evaluated = sum(count * len(run.rows[split]) for count, split in zip(passes, ("train", "control"), strict=True))
    for record in train(run).history[1:]:
        trained = {m: (1 + BACKWARD) * record[f"train/samples/{m}"] for m in cost_m}
        assert record["train/multiply_adds"] == sum(cost_m[m] * (trained[m] + evaluated) for m in cost_m)
        assert record["time/score_s"] > 0


@pytest.mark.slow
def test_a_phase_with_another_controller_begins_with_the_last_shares_and_compares_nothing(
    recipe: Recipe, assembled: Callable[..., Run]
) -> None:
    phases = [{"until": 0.5, "share": {"kind": "calibrated_progress"}}, {"share": {"kind": "held_out_progress"}}]
    method = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "phases": phases}
    run = assembled(recipe({"method": method, "epochs": 5}))
    assert len(run.rows["control"]) > 0
    history = train(run).history
    assert ["remix/exponent/audio" in record for record in history] == [False, True, True, False, False]
    assert ["remix/share_gain/audio" in record for record in history] == [False, False, True, False, True]
    assert history[3]["remix/share/audio"] == history[2]["remix/share/audio"]


class _NothingKept(KeptFeatures):
    def keep(self, start: int, features: Mapping[str, torch.Tensor]) -> None:
        pass


@pytest.mark.parametrize(("more", "saves"), [
    ({}, True),
    ({"method.joint_share": 0.2}, True),
    ({"method.with": ["ogm_ge"]}, True),
    ({"masking": "zero_feature"}, False),
    ({"method.share.kind": "held_out_progress", "method.order": "mixed"}, False),
])  # fmt: skip
def test_features_of_unchanged_encoders_are_kept_and_change_nothing(
    recipe: Recipe, assembled: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], saves: bool
) -> None:
    method = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "share": {"kind": "block_gain"}}
    config = recipe({"method": {**method, "order": "blocks"}, "epochs": 4, "control_fraction": 0.2, **more})
    run = assembled(config, "kept")
    kept, read = history_of(train(run)), sum(run.reader.rows_read.values())
    monkeypatch.setattr(loop, "KeptFeatures", _NothingKept)
    run = assembled(config, "afresh")
    assert kept == history_of(train(run))
    assert (read < sum(run.reader.rows_read.values())) is saves


def history_of(result: RunResult) -> list[dict[str, float]]:
    return [{key: value for key, value in each.items() if not key.startswith("time/")} for each in result.history]
