"""OGM, OGM-GE and their control, against the formulas of the paper, sample by sample"""

# B samples of the global batch, M modalities, C classes

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import OGM, GradientRule, OGMPlus, Step, Window
from remix_study.balancing.ogm import ratios
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, MultimodalModel, SumFusion
from remix_study.sample import Batch
from tests.unit.balancing.linear import AT, CLASSES, ROWS, batch_of, model_of, seen


def changed(rule: GradientRule, model: MultimodalModel, batch: Batch, at: Step = AT) -> tuple[Any, Any]:
    """Return the gradients of CE(z) before and after a rule, by the parameter's name."""
    model.zero_grad(set_to_none=True)
    batch_seen = seen(model, batch, at)
    torch.autograd.backward(nn.functional.cross_entropy(batch_seen.outputs.logits_BC, batch.labels_B))
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        sums = rule.sums(batch_seen)
    rule.apply(model, sums, at)
    return before, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def true_probability(model: MultimodalModel, batch: Batch, m: str) -> float:
    """The mean probability of the true class under m's part of the logits, from the weights, sample by sample."""
    weights = dict(model.named_parameters())
    total, start = 0.0, 0
    for each in model.modalities:
        if each == m:
            break
        start += model.widths[each]
    for row in range(len(batch.labels_B)):
        feature = model.encode(m, batch.inputs[m][row : row + 1])[0]
        if isinstance(model.fusion, ConcatFusion):
            weight = weights["fusion.out.weight"][:, start : start + len(feature)]
            bias = weights["fusion.out.bias"] / len(model.modalities)
        else:
            of = f"fusion.out.{m}" if isinstance(model.fusion, SumFusion) else f"heads.{m}"
            weight, bias = weights[f"{of}.weight"], weights[f"{of}.bias"]
        logits = [float(weight[c] @ feature + bias[c]) for c in range(CLASSES)]
        largest = max(logits)
        powers = [math.exp(each - largest) for each in logits]
        total += powers[int(batch.labels_B[row])] / sum(powers)
    return total / len(batch.labels_B)


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize("modalities", [("audio", "video"), ("audio", "text", "video")], ids=len)
def test_the_weights_of_an_encoder_that_is_ahead_get_the_published_factor(
    fusion: type[Fusion], modalities: tuple[str, ...]
) -> None:
    model = model_of(fusion, modalities)
    batch = batch_of(model)
    rule = OGM(model.modalities, 0.8, noise=False, window=Window(), seed=0)
    before, after = changed(rule, model, batch)
    p = {m: true_probability(model, batch, m) for m in model.modalities}
    factors = {}
    for m in model.modalities:
        others = [p[other] for other in model.modalities if other != m]
        rho = p[m] / (sum(others) / len(others))
        factors[m] = 1 - math.tanh(0.8 * rho) if rho > 1 else 1.0
    assert min(factors.values()) < 1.0 == max(factors.values())
    expected = {f"encoders.{m}.layer.weight": factor for m, factor in factors.items()}
    for name, gradient in after.items():
        torch.testing.assert_close(gradient, before[name] * expected.get(name, 1.0))
    assert rule.metrics() == pytest.approx(
        {f"method/ogm/factor/{m}": factor for m, factor in factors.items()}
        | {f"method/ogm/ratio/{m}": p[m] * (len(p) - 1) / (sum(p.values()) - p[m]) for m in model.modalities},
        rel=1e-5,
    )
    assert rule.metrics() == {}


def test_alpha_0_leaves_all_gradients_as_they_are() -> None:
    model = model_of(ConcatFusion)
    rule = OGM(model.modalities, 0.0, noise=False, window=Window(), seed=0)
    before, after = changed(rule, model, batch_of(model))
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


def test_the_control_multiplies_only_encoders_that_are_behind() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    before, after = changed(OGMPlus(model.modalities, 4.0, window=Window()), model, batch)
    p = {m: true_probability(model, batch, m) for m in model.modalities}
    behind = min(p, key=lambda m: p[m])
    for name, gradient in after.items():
        factor = 4.0 if name == f"encoders.{behind}.layer.weight" else 1.0
        torch.testing.assert_close(gradient, before[name] * factor)


def test_the_noise_of_ge_has_the_standard_deviation_of_the_gradient_before_scaling() -> None:
    """Also where the factor is 1. Over many steps, mean and standard deviation of the noise are as published."""
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    rule = OGM(model.modalities, 0.8, noise=True, window=Window(), seed=0)
    plain = OGM(model.modalities, 0.8, noise=False, window=Window(), seed=0)
    before, scaled = changed(plain, model, batch)
    scaled = copy.deepcopy(scaled)
    for m in model.modalities:
        name = f"encoders.{m}.layer.weight"
        noise = torch.stack([changed(rule, model, batch, Step(0, n, ROWS))[1][name] - scaled[name] for n in range(400)])
        std = float(before[name].std())
        assert float(noise.std()) == pytest.approx(std, rel=0.06)
        assert abs(float(noise.mean())) < 0.06 * std
        assert float(before[name].std()) > 0
    untouched = [name for name in before if not name.endswith("layer.weight")]
    _, after = changed(rule, model, batch)
    assert all(torch.equal(after[name], before[name]) for name in untouched)


def test_noise_depends_on_seed_epoch_and_step_only() -> None:
    def noisy(seed: int, at: Step) -> torch.Tensor:
        model = model_of(ConcatFusion)
        rule = OGM(model.modalities, 0.8, noise=True, window=Window(), seed=seed)
        found: torch.Tensor = changed(rule, model, batch_of(model), at)[1]["encoders.audio.layer.weight"]
        return found

    one = noisy(0, Step(1, 2, ROWS))
    torch.manual_seed(99)
    assert torch.equal(noisy(0, Step(1, 2, ROWS)), one)
    for seed, at in ((1, Step(1, 2, ROWS)), (0, Step(2, 2, ROWS)), (0, Step(1, 3, ROWS))):
        assert not torch.equal(noisy(seed, at), one)


def test_samples_that_train_one_modality_do_not_count() -> None:
    model = model_of(ConcatFusion)
    active = np.array([[True, True], [True, False], [True, True], [False, True], [True, True], [True, False]])
    whole, part = batch_of(model), batch_of(model, active)
    kept = [0, 2, 4]
    alone = Batch(
        whole.modalities, {m: x[kept] for m, x in whole.inputs.items()}, whole.active_BM[kept], whole.labels_B[kept],
        whole.samples_B[kept],
    )  # fmt: skip
    rule = OGM(model.modalities, 0.8, noise=False, window=Window(), seed=0)
    with torch.no_grad():
        sums = [rule.sums(seen(model, each)) for each in (part, alone)]
    torch.testing.assert_close(sums[0], sums[1])


def test_a_unimodal_batch_is_left_alone() -> None:
    """Otherwise, the only encoder in training would be switched off.

    The other modality's part predicts 1 / C, so that rho is large: with p = 0.5, C = 6 and alpha = 0.8, k = 0.016.
    """
    rule = OGM(("audio", "video"), 0.8, noise=True, window=Window(), seed=0)
    assert not rule.acts(Step(0, 0, multimodal=0))
    assert rule.acts(Step(0, 0, multimodal=1))
    assert float(1 - torch.tanh(0.8 * ratios(torch.tensor([0.5, 1 / 6]), torch.ones(2)))[0]) == pytest.approx(
        0.016, abs=1e-3
    )


def test_a_rule_acts_within_its_window() -> None:
    rule = OGM(("audio", "video"), 0.8, noise=False, window=Window(2, 4), seed=0)
    assert [rule.acts(Step(epoch, 0, 8)) for epoch in range(6)] == [False, False, True, True, False, False]
    forever = OGMPlus(("audio", "video"), 4.0, window=Window(2))
    assert [forever.acts(Step(epoch, 0, 8)) for epoch in (1, 2, 1000)] == [False, True, True]


@pytest.mark.parametrize(
    ("sums", "counts", "expected"),
    [
        ([3.0, 1.0], [4.0, 4.0], [3.0, 1 / 3]),
        ([3.0, 0.5], [4.0, 2.0], [3.0, 1 / 3]),  # means, where modalities train different numbers of samples
        ([3.0, 2.0, 1.0], [4.0, 4.0, 4.0], [2.0, 1.0, 0.4]),
        ([3.0, 0.0, 1.0], [4.0, 0.0, 4.0], [3.0, 1.0, 1 / 3]),  # a modality without samples is not compared
        ([3.0, 0.0], [4.0, 0.0], [1.0, 1.0]),
    ],
)
def test_ratios_are_those_of_means(sums: list[float], counts: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(ratios(torch.tensor(sums), torch.tensor(counts)), torch.tensor(expected))
