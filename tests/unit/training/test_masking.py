"""Runs with replacements of the features of inactive modalities (`masking`)"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from remix_study.config.run import RunConfig
from remix_study.models import LearnedToken, MeanFeature
from remix_study.training.loop import train
from remix_study.training.multiply_adds import forward_multiply_adds
from remix_study.training.run import Run
from remix_study.world import Collectives

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[[int, Callable[[Collectives], Any]], list[Any]]

NAMES = ("zero_input", "mean_feature", "learned_token")
# Assigned at random, which does not depend on weights that differ by rounding. Two workers, so that the global batches
# of one rank are those of two.
SHORT: dict[str, Any] = {
    "method": {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "joint_share": 0.3},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "epochs": 2,
    "global_batch": 28,
    "smallest_batch": 3,
    "workers": 2,
}


def state_of(run: Run) -> dict[str, torch.Tensor]:
    train(run)
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.fixture
def constant_statistics(assembled: Assembled) -> Assembled:
    """Return `assembled` with BatchNorm layers that do not depend on the batch, and whose output for zeros is not 0."""

    def make(*args: Any, **kwargs: Any) -> Run:
        run = assembled(*args, **kwargs)
        generator = torch.Generator().manual_seed(1)
        for module in run.model.modules():
            if isinstance(module, nn.Conv2d):  # so that signals keep their size
                nn.init.kaiming_normal_(module.weight, generator=generator)
            if isinstance(module, _BatchNorm):
                nn.init.normal_(module.bias, generator=generator)
                module.eval()
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
        return run

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_equal_one_and_micro_batches_equal_whole_batches(
    recipe: Recipe, constant_statistics: Assembled, run_on_ranks: OnRanks, name: str
) -> None:
    config = recipe({**SHORT, "masking": name})
    alone = state_of(constant_statistics(config, "alone"))
    micro = state_of(constant_statistics(recipe({**SHORT, "masking": name, "micro_batch": 5}), "micro"))
    both = run_on_ranks(2, lambda ranks: state_of(constant_statistics(config, "ranks", collectives=ranks)))
    plain = state_of(constant_statistics(recipe(SHORT), "plain"))
    changes = [value - plain.get(key, torch.zeros(())) for key, value in alone.items()]
    assert max(float(change.abs().max()) for change in changes) > 5e-4
    for found in (*both, micro):
        for key, expected in alone.items():
            torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-5)


def test_accumulated_updates_train_tokens_in_every_step(recipe: Recipe, assembled: Assembled) -> None:
    method = {**SHORT["method"], "warmup": 0, "order": "mixed", "accumulate": True}
    run = assembled(recipe({**SHORT, "method": method, "epochs": 1, "masking": "learned_token"}))
    train(run)
    assert isinstance(run.model.masking, LearnedToken)
    assert all(token.any() for token in run.model.masking.parameters())


@pytest.mark.slow
def test_only_modalities_that_train_are_read_and_encoded_and_one_row_of_zeros(
    recipe: Recipe, assembled: Assembled
) -> None:
    def last(name: str) -> tuple[Run, dict[str, float]]:
        run = assembled(recipe({**SHORT, "masking": name}), name)
        return run, train(run).history[-1]

    (plain, skipped), (zeros, found) = last("skip_encoder"), last("zero_input")
    assert zeros.reader.rows_read == plain.reader.rows_read
    cost = forward_multiply_adds(zeros.model, zeros.reader.sample_shapes())
    steps = {m: skipped["train/steps"] - skipped[f"train/updates/{m}"] for m in cost}  # that do not train m
    assert min(steps.values()) > 0
    extra = 3 * sum(cost[m] * count for m, count in steps.items())
    assert found["train/multiply_adds"] == skipped["train/multiply_adds"] + extra
    assert {m: found[f"train/updates/{m}"] for m in cost} == dict.fromkeys(cost, found["train/steps"])


def test_a_unimodal_run_needs_no_replacements(recipe: Recipe, assembled: Assembled) -> None:
    alone = recipe({"method": {"name": "unimodal", "modality": "audio"}, "masking": "mean_feature"})
    assert assembled(alone).model.masking is None
    assert isinstance(assembled(recipe({"masking": "mean_feature"}), "remix").model.masking, MeanFeature)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [{"name": "remix", "warmup": 1, "predictions": "dropout"}, {"name": "modality_dropout"}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_hidden_modalities_are_replaced_in_training_and_in_the_scoring_pass(
    recipe: Recipe, assembled: Assembled, name: str, method: dict[str, Any]
) -> None:
    plain, masked = (
        assembled(recipe({**SHORT, "method": method, "masking": mask}), mask) for mask in ("skip_encoder", name)
    )
    one, other = train(plain).history, train(masked).history
    assert one[-1]["train/loss"] != other[-1]["train/loss"]
    scores = [key for key in one[-1] if key.startswith("remix/score")]
    if scores and name != "learned_token":  # which is zero until the end of the warm-up
        assert any(one[-1][key] != other[-1][key] for key in scores)
