"""TCMax against all combinations of the samples of a batch, one by one"""

# B samples of a batch, M modalities, C classes

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import CrossEntropy, FusedLoss, Method, Window
from remix_study.balancing.tcmax import TCMax
from remix_study.models import ConcatFusion, Fusion, MultimodalModel, SumFusion
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo
from tests.unit.balancing.linear import AT, CLASSES, ROWS, batch_of, model_of

TWO, THREE = ("audio", "video"), ("audio", "text", "video")
Gradients = dict[str, torch.Tensor]


def trained(
    model: MultimodalModel,
    batch: Batch,
    rule: TCMax | None,
    collectives: Collectives | None = None,
    cross_entropy: CrossEntropy = CrossEntropy(),  # noqa: B008 - immutable
) -> tuple[float, Gradients]:
    """The loss and the gradients of a step."""
    M = len(model.modalities)
    plan = ConstantPlan(everything_joint(ROWS, M), Reassembly("blocks", tuple(range(M)), ROWS), 0)
    method = Method("m", plan, (FusedLoss(cross_entropy), *(() if rule is None else (rule,))))
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    total = train_step(
        model, method, batch, ROWS, still, collectives or Solo(), at=AT, autocast=False, clip_norm=None
    )  # fmt: skip
    return float(total) / ROWS, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def rule_of(model: MultimodalModel, cross_entropy: CrossEntropy = CrossEntropy(), **others: Any) -> TCMax:  # noqa: B008
    return TCMax(model.modalities, CLASSES, cross_entropy, window=others.get("window", Window()))


def formula(model: MultimodalModel, batch: Batch) -> torch.Tensor:
    """The published loss, up to its constant: a loop over combinations of samples that train the same modalities."""
    outputs = model(batch)
    sets = [tuple(row) for row in batch.active_BM.tolist()]
    losses = []
    for i in range(ROWS):
        group = [j for j in range(ROWS) if sets[j] == sets[i]]
        total = torch.zeros(())
        count = 0
        for chosen in itertools.product(group, repeat=len(model.modalities)):
            features = {m: outputs.features[m][j : j + 1] for m, j in zip(model.modalities, chosen, strict=True)}
            z_C = model.fusion(features, batch.active_BM[i : i + 1], {})[0]
            total = total + z_C.exp().sum()
            count += 1
        losses.append((total / count).log() - outputs.logits_BC[i, batch.labels_B[i]])
    return torch.stack(losses).mean()


def expected(model: MultimodalModel, batch: Batch) -> tuple[float, Gradients]:
    model.zero_grad(set_to_none=True)
    loss = formula(model, batch)
    torch.autograd.backward(loss)
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion])
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_loss_and_gradients_are_those_of_all_combinations(
    fusion: Callable[..., Fusion], modalities: tuple[str, ...]
) -> None:
    model = model_of(fusion, modalities)  # type: ignore[arg-type]
    batch = batch_of(model)
    wished, gradients = expected(model, batch)
    plain, _ = trained(model, batch, None)
    found, its = trained(model, batch, rule_of(model))
    assert found == pytest.approx(wished, rel=1e-5)
    assert abs(found - plain) > 0.1
    for name, gradient in gradients.items():
        torch.testing.assert_close(its[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "active",
    [[[True, False]] * ROWS, [[True, True]] * 3 + [[True, False]] * 2 + [[False, True]]],
    ids=["unimodal", "mixed"],
)
def test_combinations_are_of_samples_that_train_the_same_modalities(active: list[list[bool]]) -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model, np.array(active))
    wished, gradients = expected(model, batch)
    found, its = trained(model, batch, rule_of(model))
    assert found == pytest.approx(wished, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(its[name], gradient, rtol=1e-4, atol=1e-5)


def test_of_a_single_sample_it_is_the_cross_entropy() -> None:
    model = model_of(ConcatFusion)
    whole = batch_of(model)
    one = Batch(whole.modalities, {m: x[:1] for m, x in whole.inputs.items()}, whole.active_BM[:1], whole.labels_B[:1],
                whole.samples_B[:1])  # fmt: skip
    assert trained(model, one, rule_of(model))[0] == pytest.approx(trained(model, one, None)[0], rel=1e-5)


def test_a_model_that_knows_nothing_has_the_loss_of_a_guess() -> None:
    model = model_of(ConcatFusion)
    for p in model.fusion.parameters():
        torch.nn.init.zeros_(p)
    assert trained(model, batch_of(model), rule_of(model))[0] == pytest.approx(math.log(CLASSES))


def test_class_weights_and_label_smoothing_apply_as_in_the_cross_entropy() -> None:
    """sum_i w_i (log Z - z_i), with the target of each sample in place of its class."""
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    weights = (0.5, 2.0, 1.0, 1.5)
    smoothed = CrossEntropy(0.2, weights)
    model.zero_grad(set_to_none=True)
    outputs = model(batch)
    parts = model.split_logits(outputs.features, outputs.head_logits)
    log_Z = torch.stack([u.exp().mean(dim=0).log() for u in parts.values()]).sum(dim=0).logsumexp(dim=0)
    target_BC = 0.8 * torch.nn.functional.one_hot(batch.labels_B, CLASSES) + 0.2 / CLASSES
    loss = ((log_Z - outputs.logits_BC) * target_BC * torch.tensor(weights)).sum(dim=1).mean()
    torch.autograd.backward(loss)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found, its = trained(model, batch, rule_of(model, smoothed), cross_entropy=smoothed)
    assert found == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(its[name], gradient, rtol=1e-4, atol=1e-5)


def test_the_combinations_are_those_of_all_ranks(run_on_ranks: Callable[..., list[Any]]) -> None:
    model = model_of(ConcatFusion)
    whole = batch_of(model)
    _, alone = trained(model, whole, rule_of(model))

    def work(collectives: Collectives) -> Gradients:
        mine = slice(collectives.world.rank, None, 2)
        part = replace(
            whole, inputs={m: x[mine] for m, x in whole.inputs.items()}, active_BM=whole.active_BM[mine],
            labels_B=whole.labels_B[mine], samples_B=whole.samples_B[mine],
        )  # fmt: skip
        own = copy.deepcopy(model)
        return trained(own, part, rule_of(own), collectives)[1]

    for found in run_on_ranks(2, work):
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_outside_its_window_it_changes_nothing() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    rule = rule_of(model, window=Window(AT.epoch + 1))
    assert trained(model, batch, rule)[0] == trained(model, batch, None)[0]
    assert rule.metrics() == {}


def test_its_metrics_are_the_normalisers_of_all_and_of_matched_combinations() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    rule = rule_of(model)
    trained(model, batch, rule)
    found = rule.metrics()
    outputs = model(batch)
    own = outputs.logits_BC.logsumexp(dim=1).mean().item()
    assert found["method/tcmax/log_normaliser"] + found["method/tcmax/matched"] == pytest.approx(own, rel=1e-5)
