"""Remix with `predictions: dropout`: the fused head predicts from one modality, and there are no unimodal heads"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import Step
from remix_study.config.run import RunConfig
from remix_study.epoch import Statistic
from remix_study.errors import ConfigError
from remix_study.fit import require_fit
from remix_study.media.store import ClipStore
from remix_study.models import ConcatFusion
from remix_study.remix import RemixPlan, score
from remix_study.training.checkpoint import LAST
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.scoring import split_pass
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo
from tests.unit.balancing.linear import ROWS, batch_of, model_of

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
DROPOUT = {"method.predictions": "dropout"}
WANTED: frozenset[Statistic] = frozenset({"probabilities"})


def test_scores_are_those_of_the_fused_head_with_the_other_features_zero(
    recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]]
) -> None:
    """The oracle computes z = W_m f_m + b and D_m = log2 C - H, sample by sample."""
    run = assembled(recipe(DROPOUT))
    rows_N = run.rows["train"][:7]

    def work(collectives: Collectives) -> Any:
        model = copy.deepcopy(run.model)
        return split_pass(model, run.reader, rows_N, collectives, partial(score, "kl"), WANTED, batch=2,
                          autocast=False, heads=False)  # fmt: skip

    (scores_NM, statistics), (other_NM, _) = run_on_ranks(2, work)
    np.testing.assert_array_equal(scores_NM, other_NM)
    assert isinstance(run.model.fusion, ConcatFusion)
    weight_CD, bias_C = run.model.fusion.out.weight.detach(), run.model.fusion.out.bias.detach()
    run.model.eval()
    for n, row in enumerate(rows_N):
        clip = run.reader.read(np.array([row]), np.ones((1, 2), np.bool_))
        start = 0
        for m, name in enumerate(run.model.modalities):
            feature_d = run.model.encode(name, clip.inputs[name])[0].detach()
            part_Cd = weight_CD[:, start : start + len(feature_d)]
            start += len(feature_d)
            p_C = (part_Cd @ feature_d + bias_C).double().softmax(dim=0).numpy()
            entropy = -sum(p * np.log2(p) for p in p_C)
            assert scores_NM[n, m] == pytest.approx(np.log2(len(p_C)) - entropy, abs=1e-4)
            assert statistics.cross_entropy_NM[n, m] == pytest.approx(-np.log(p_C[int(clip.labels_B)]), abs=1e-4)
            np.testing.assert_allclose(np.exp(statistics.log_probabilities_NMC[n, m]), p_C, atol=1e-4)


@pytest.mark.parametrize("active", [(True, True), (True, False), (False, True)], ids=["joint", "audio", "video"])
def test_the_loss_is_the_fused_one_alone(recipe: Recipe, assembled: Assembled, active: tuple[bool, bool]) -> None:
    method = assembled(recipe(DROPOUT)).method
    model = model_of(ConcatFusion)
    batch = batch_of(model, np.tile(np.array(active), (ROWS, 1)))
    oracle = copy.deepcopy(model)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    total = train_step(model, method, batch, ROWS, still, Solo(), at=Step(0, 0), autocast=False, clip_norm=None)

    losses = []
    for n in range(ROWS):
        parts = [oracle.encode(m, batch.inputs[m][n]) * on for m, on in zip(model.modalities, active, strict=True)]
        assert isinstance(oracle.fusion, ConcatFusion)
        logits_C = oracle.fusion.out(torch.cat(parts))
        losses.append(-logits_C.log_softmax(dim=0)[batch.labels_B[n]])
    expected = torch.stack(losses)
    torch.autograd.backward(expected.mean())
    torch.testing.assert_close(total, expected.detach().sum())
    for (name, found), other in zip(model.named_parameters(), oracle.parameters(), strict=True):
        if name.startswith("heads"):
            assert found.grad is None
        elif found.grad is not None:
            torch.testing.assert_close(found.grad, other.grad)
        else:
            assert other.grad is not None
            assert not other.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("order", [{}, {"method.order": "mixed", "method.accumulate": True}], ids=["blocks", "mixed"])
def test_a_run_trains_no_head_and_logs_no_metric_of_heads(
    recipe: Recipe, assembled: Assembled, order: dict[str, Any]
) -> None:
    run = assembled(recipe({**DROPOUT, **order, "epochs": 3, "evaluation.clash_every": 2}))
    before = copy.deepcopy(run.model.state_dict())
    result = train(run)
    content = run.checkpoints.load(LAST)
    assert content is not None
    changed = {name for name, value in content["model"].items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("heads") for name in changed)
    assert {name.split(".")[0] for name in changed} == {"encoders", "fusion"}
    names = {key for record in result.history for key in record} | set(result.summary)
    assert not [name for name in names if "_uni/" in name or "late_sum" in name or "clash/c1" in name]
    assert {"remix/margin", "val/accuracy_only/audio", "clash/c2/audio"} <= names
    plan = run.method.plan
    assert isinstance(plan, RemixPlan)
    assert plan.last_scoring_pass is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method.weight": 0.5},
            "`method.weight` weighs unimodal losses, which `predictions: dropout` does not have; leave",
        ),
        ({"method.warmup_weight": 1.0}, "`method.warmup_weight` weighs unimodal losses"),
        ({"method.with": ["mmpareto"]}, "`mmpareto` needs unimodal losses, which `predictions: dropout` does not have"),
        (
            {"model.fusion": "gated_published"},
            "use `method.predictions: heads`, `masking: mean_feature` or `model.fusion",
        ),
    ],
)
def test_settings_that_need_heads_are_refused(recipe: Recipe, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        recipe({**DROPOUT, **changes})
    assert said in str(refused.value)


def test_ceilings_of_heads_are_refused(recipe: Recipe, small_store: ClipStore) -> None:
    with pytest.raises(ConfigError, match="needs unimodal heads, which `predictions: dropout` does not train"):
        require_fit(recipe({**DROPOUT, "evaluation.ceilings": "train"}), small_store)
