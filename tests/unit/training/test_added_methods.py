"""Laws of every method that can be added to joint training, unimodal losses or Remix"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from remix_study.config.balancing import ON_UNIMODAL_LOSSES, Additions, options_of
from remix_study.config.run import RunConfig
from remix_study.errors import StudyStopped
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.world import Collectives

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[[int, Callable[[Collectives], Any]], list[Any]]

NAMES = list(Additions.model_fields)
COMPARING = [name for name in NAMES if options_of(name).compares]
# Settings with which a method acts in a short run.
ACTING: dict[str, dict[str, Any]] = {
    "aug": {"every": 1, "threshold": 0.0},
    "gblend": {"every": 1},
    "gblend_lite": {"every": 1},
    "miles": {"threshold": 0.0},
    "relearning": {"every": 1},
    "opm": {"begin": 0, "base": 0.9, "execute": 1.0},
    "pdmp": {"dominant": "video"},
    "smv": {"begin": 0, "end": 1},  # the weights of one rank and of two differ by rounding, and so may valuations
}
NEUTRAL: dict[str, dict[str, Any]] = {
    "reconboost": {"base": 4.0, "strength": 0.0},  # 4 classes
    "modality_dropout": {"probability": 0.0},
    "opm": {"base": 0.0},
    "inforeg": {"strength": 0.0},
    "pdmp": {"boost": 1.0, "others": 1.0},
    "ogm": {"alpha": 0.0},
    "ogm_plus": {"factor": 1.0},
    "agm": {"alpha": 0.0},
    "smv": {"strength": 0.0},
    "pmr": {"weight": 0.0},
    "gblend_lite": {"every": 99},
    "relearning": {"strength": 0.0},
    "aug": {"threshold": 1e9},
    "miles": {"factor": 1.0},
}
# Two workers, so that the global batches of one rank are those of two.
SHORT: dict[str, Any] = {
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "epochs": 1,
    "global_batch": 28,
    "smallest_batch": 3,
    "workers": 2,
}


def weights(run: Run) -> dict[str, torch.Tensor]:
    train(run)
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def short(name: str) -> dict[str, Any]:
    """A short run in which a method acts. What is learned from the control split acts from the second epoch on."""
    control = {"control_fraction": 0.1} if options_of(name).reads_control else {}
    return SHORT | control | ({"epochs": 2} if control or name == "aug" else {})


def acting(name: str, **options: Any) -> dict[str, dict[str, Any]]:
    """A value of `with`."""
    return {name: {**ACTING.get(name, {}), **options}}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all parameters are equal that both models have: `aug` adds heads."""
    return all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_its_own_is_joint_training_with_it(recipe: Recipe, assembled: Assembled, name: str) -> None:
    base = "joint_unimodal" if name in ON_UNIMODAL_LOSSES else "joint"
    one, added = (
        {**short(name), "method": method}
        for method in ({"name": name, **ACTING.get(name, {})}, {"name": base, "with": acting(name)})
    )
    by_name, joint = (
        assembled(recipe(one), "name"),
        assembled(recipe({**short(name), "method": {"name": base}}), "joint"),
    )
    found = weights(by_name)
    assert equal(found, weights(assembled(recipe(added), "with")))
    assert not equal(found, weights(joint))
    recorded = json.loads(by_name.history_file.read_text().splitlines()[-1])
    assert {key.split("/")[1] for key in recorded if key.startswith("method/")} == {name}


@pytest.mark.slow
@pytest.mark.parametrize("name", NEUTRAL)
def test_its_neutral_setting_changes_nothing(recipe: Recipe, assembled: Assembled, name: str) -> None:
    neutral = {**short(name), "method": {"name": "joint_unimodal", "with": acting(name, **NEUTRAL[name])}}
    plain = {**short(name), "method": {"name": "joint_unimodal"}}
    assert equal(weights(assembled(recipe(neutral), "neutral")), weights(assembled(recipe(plain), "plain")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_equal_one_and_micro_batches_equal_whole_batches(
    recipe: Recipe, without_batchnorm: Assembled, run_on_ranks: OnRanks, name: str
) -> None:
    # A random assignment does not depend on the weights, which differ by rounding.
    remix = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "joint_share": 0.3}
    base = {"name": "joint_unimodal"} if options_of(name).excludes_remix else remix
    method = {**base, "with": acting(name)}
    config = recipe({**SHORT, "method": method, "epochs": 2})
    alone = weights(without_batchnorm(config, "alone"))
    both = run_on_ranks(2, lambda ranks: weights(without_batchnorm(config, "ranks", collectives=ranks)))
    assert equal(both[0], both[1])
    divided = [both[0]]
    if not options_of(name).whole_batch:
        micro = recipe({**SHORT, "method": method, "epochs": 2, "micro_batch": 5})
        divided.append(weights(without_batchnorm(micro, "micro")))
    for found in divided:
        for key, expected in alone.items():
            torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARING)
def test_under_remix_it_acts_in_the_warm_up_and_on_joint_samples_only(
    recipe: Recipe, assembled: Assembled, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Modalities are compared where several train. A unimodal batch is trained as by Remix alone."""
    remix = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}}
    plain = weights(assembled(recipe({**SHORT, "method": remix, "epochs": 2}), "plain"))
    after = {**remix, "with": acting(name, begin=1)}
    assert equal(weights(assembled(recipe({**SHORT, "method": after, "epochs": 2}), "after")), plain)
    assert f"{name} acts on multimodal batches from epoch 1 on" in caplog.text
    assert "never acts" in caplog.text
    caplog.clear()
    joint = {**after, "joint_share": 0.5}
    some = weights(assembled(recipe({**SHORT, "method": joint, "epochs": 2}), "joint"))
    without = {**SHORT, "method": {**remix, "joint_share": 0.5}, "epochs": 2}
    assert not equal(some, weights(assembled(recipe(without), "without")))
    assert "never acts" not in caplog.text


@pytest.mark.parametrize("name", ["modality_dropout", "pdmp"])
def test_with_mla_it_warns_that_it_never_acts(
    recipe: Recipe, assembled: Assembled, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {**SHORT, "epochs": 2}
    assembled(recipe({**given, "method": {"name": "joint", "with": ["mla"]}}), "mla")
    assert caplog.text == ""
    assembled(recipe({**given, "method": {"name": "joint", "with": ["mla", name]}}), "both")
    assert re.search(rf"{name} acts on multimodal batches .*, but with mla all batches are unimodal", caplog.text)


def test_under_remix_mmpareto_acts_on_unimodal_batches(
    recipe: Recipe, assembled: Assembled, caplog: pytest.LogCaptureFixture
) -> None:
    remix = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}}
    plain, with_it = (
        weights(assembled(recipe({**SHORT, "method": method, "epochs": 2}), folder))
        for folder, method in (("plain", remix), ("with", {**remix, "with": {"mmpareto": {"begin": 1}}}))
    )
    assert not equal(plain, with_it)
    assert "never acts" not in caplog.text


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "ogm_ge", "begin": 5}, "ogm_ge acts from epoch 5 on, so it never acts in 1 epochs"),
        ({"name": "relearning"}, "relearning acts from epoch 20 on, so it never acts in 1 epochs"),
        ({"name": "aug", "begin": 3, "every": 2}, "aug acts from epoch 5 on"),
        ({"name": "gblend_lite"}, "gblend_lite acts from epoch 10 on"),
        ({"name": "miles"}, "miles acts from epoch 1 on"),
    ],
)
def test_a_window_beyond_the_epochs_is_said(
    recipe: Recipe, assembled: Assembled, caplog: pytest.LogCaptureFixture, method: dict[str, Any], said: str
) -> None:
    assembled(recipe({**SHORT, "method": method}))
    assert said in caplog.text


def test_a_window_that_ends_before_the_method_acts_is_said(
    recipe: Recipe, assembled: Assembled, caplog: pytest.LogCaptureFixture
) -> None:
    assembled(recipe({**SHORT, "epochs": 40, "method": {"name": "relearning", "end": 15}}))
    assert "relearning acts from epoch 20 on, but stops before epoch 15, so it never acts" in caplog.text


def test_a_ranking_within_the_model_and_a_plan_without_projection_are_not_idle(
    recipe: Recipe, assembled: Assembled, caplog: pytest.LogCaptureFixture
) -> None:
    assembled(recipe({**SHORT, "method": {"name": "mla", "begin": 5}}))
    assert "never acts" not in caplog.text
    assembled(recipe({**SHORT, "method": {"name": "pdmp", "dominant": "audio"}}))
    assert "never acts" not in caplog.text
    assembled(recipe({**SHORT, "method": {"name": "pdmp"}}))
    assert "pdmp acts from epoch 1 on, so it never acts in 1 epochs" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aug", "gblend", "gblend_lite", "inforeg", "miles", "mla", "pmr", "relearning"])
def test_a_method_that_acts_between_epochs_resumes_exactly(recipe: Recipe, assembled: Assembled, name: str) -> None:
    def stop(history: Sequence[Any]) -> None:
        if len(history) == 2:
            raise StudyStopped

    method = {"name": "joint_unimodal", "with": acting(name)}
    config = recipe({**short(name), "epochs": 4, "method": method, "optimizer": {"name": "adam"}})
    whole, resumed = assembled(config, "whole"), assembled(config, "resumed")
    expected = weights(whole)
    with pytest.raises(StudyStopped):
        train(replace(resumed, callback=stop))
    again = assembled(config, "resumed")
    assert equal(weights(again), expected)
    histories = [
        [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
         for line in run.history_file.read_text().splitlines()]
        for run in (whole, again)
    ]  # fmt: skip
    assert histories[0] == histories[1]
