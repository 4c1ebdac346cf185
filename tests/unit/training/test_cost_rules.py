"""Runs whose filter rule reads several scoring passes: cost, resuming, ranks"""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.config.run import RunConfig
from remix_study.errors import RunPreempted
from remix_study.remix import RemixPlan
from remix_study.remix.filtering import target_counts
from remix_study.training.loop import train
from remix_study.training.run import Run

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
RULES = ("learning_progress", "cartography", "coalition_gain", "reducible_loss")
SHARE = {"kind": "fixed", "parts": {"audio": 0.4, "video": 0.6}}


def remix(rule: str, **filter_: Any) -> dict[str, Any]:
    options = {"reference_epochs": 2} if rule == "reducible_loss" else {}
    method = {"name": "remix", "warmup": 1, "share": SHARE, "filter": {"rule": rule, **options, **filter_}}
    return {"method": method, "epochs": 6, "evaluation.probe": False}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_needs_no_pass_beside_the_scoring_pass(rule: str, recipe: Recipe, assembled: Assembled) -> None:
    found, plain = (train(assembled(recipe(remix(each)), each)).history for each in (rule, "argmin"))
    cost, usual = ([record["train/multiply_adds"] for record in history[1:]] for history in (found, plain))
    assert cost == usual
    share = [record["remix/share/audio"] for record in found[1:]]
    assert share == [record["remix/share/audio"] for record in plain[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_run_resumes_exactly_within_an_epoch(rule: str, recipe: Recipe, assembled: Assembled) -> None:
    config = recipe(remix(rule, within="class", explore=0.2))
    whole = assembled(config, "whole")
    expected = train(whole).history
    steps = int(sum(record["train/steps"] for record in expected[:5]))
    steps += 2 * int(expected[0]["train/steps"]) if rule == "reducible_loss" else 0
    notices = chain(repeat(False, steps + 5 + 6), repeat(True))
    with pytest.raises(RunPreempted, match=r"epoch [1-9], step [1-9]"):
        train(replace(assembled(config, "stopped"), preempted=lambda: next(notices)))
    resumed = assembled(config, "stopped")
    history = train(resumed).history
    kept = [{k: v for k, v in record.items() if not k.startswith("time/")} for record in history]
    assert kept == [{k: v for k, v in record.items() if not k.startswith("time/")} for record in expected]
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name])


@pytest.mark.slow
def test_a_run_that_is_preempted_before_its_first_epoch_trains_the_halves_again(
    recipe: Recipe, assembled: Assembled
) -> None:
    config = recipe(remix("reducible_loss") | {"epochs": 3})
    whole = assembled(config, "whole")
    train(whole)
    notices = chain(repeat(False, 8), repeat(True))
    with pytest.raises(RunPreempted, match="epoch 0, step 0"):
        train(replace(assembled(config, "stopped"), preempted=lambda: next(notices)))
    resumed = assembled(config, "stopped")
    train(resumed)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_ranks_keep_the_same_history_and_assign_alike(
    rule: str, recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]]
) -> None:
    config = recipe(remix(rule) | {"workers": 2})

    def work(collectives: Any) -> dict[str, Any]:
        run = assembled(config, "both", collectives=collectives)
        train(run)
        return run.method.plan.state()

    one, other = run_on_ranks(2, work)
    assert one["losses_PNM"].dtype == np.float32
    for name in ("losses_PNM", "assigned_NM"):
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["progress", "by_score", "calibrated_progress", "held_out_progress", "block_gain"])
def test_a_rule_fills_the_shares_of_every_controller(kind: str, recipe: Recipe, assembled: Assembled) -> None:
    changes = remix("coalition_gain", within="class")
    changes["method"] |= {"share": {"kind": kind}}
    run = assembled(recipe(changes | {"control_fraction": 0.2}))
    last = train(run).history[-1]
    plan = run.method.plan
    assert isinstance(plan, RemixPlan)
    assert plan.assignment is not None
    counts = plan.assignment.assigned_NM.sum(axis=0)
    np.testing.assert_array_equal(counts, target_counts(len(run.rows["train"]), plan.state()["shares_M"]))
    assert last["remix/share/audio"] + last["remix/share/video"] == pytest.approx(1)
