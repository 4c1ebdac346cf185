"""AGM against its formulas, sample by sample, and against Shapley values"""

# B samples of the global batch, M modalities, C classes

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from remix_study.balancing import AGM, Step, Window
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, MultimodalModel, SumFusion
from remix_study.sample import Batch
from tests.unit.balancing.linear import AT, ROWS, batch_of, model_of
from tests.unit.balancing.test_ogm import changed, true_probability

MODALITIES = [("audio", "video"), ("audio", "text", "video")]


def cross_entropies(model: MultimodalModel, batch: Batch) -> dict[str, float]:
    """The mean cross-entropy of each modality's part of the logits, with probabilities of at least 1e-8."""
    rows = [
        Batch(batch.modalities, {m: x[[n]] for m, x in batch.inputs.items()}, batch.active_BM[[n]], batch.labels_B[[n]],
              batch.samples_B[[n]]) for n in range(ROWS)
    ]  # fmt: skip
    return {
        m: sum(-math.log(max(true_probability(model, row, m), 1e-8)) for row in rows) / ROWS for m in model.modalities
    }


def step(model: MultimodalModel, number: int = 0) -> None:
    """Change the weights, so that the next batch has other cross-entropies."""
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            draw = torch.Generator().manual_seed(100 * number + n)
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)


def ahead(c: dict[str, float]) -> dict[str, float]:
    mean = sum(c.values()) / len(c)
    return {m: math.exp(2 * (mean - value)) for m, value in c.items()}


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize("modalities", MODALITIES, ids=len)
def test_the_gradient_through_a_part_gets_the_published_factor(
    fusion: type[Fusion], modalities: tuple[str, ...]
) -> None:
    """The running means are those before the step; in the first one there are none, so that it changes nothing."""
    model = model_of(fusion, modalities)
    batch = batch_of(model)
    rule = AGM(model.modalities, 0.7, window=Window())
    seen: list[dict[str, float]] = []
    for number in range(4):
        c = cross_entropies(model, batch)
        before, after = changed(rule, model, batch, Step(0, number, ROWS))
        if seen:
            running = {m: sum(each[m] for each in seen) / len(seen) for m in c}
            now, then = ahead(c), ahead(running)
            factors = {m: math.exp(0.7 * min(then[m] - now[m], 10)) for m in c}
            assert len({round(f, 3) for f in factors.values()} | {1.0}) > 2
        else:
            factors = dict.fromkeys(c, 1.0)
        assert_scaled(model, before, after, factors)
        seen.append(c)
        step(model, number)
    means = rule.metrics()
    for m in model.modalities:
        assert means[f"method/agm/cross_entropy/{m}"] == pytest.approx(sum(c[m] for c in seen) / 4, rel=1e-5)


def assert_scaled(model: MultimodalModel, before: Any, after: Any, factors: dict[str, float]) -> None:
    start = 0
    for m, factor in factors.items():
        own = [n for n in after if f"encoders.{m}." in n or f"fusion.out.{m}." in n]
        if isinstance(model.fusion, DecisionFusion):
            own += [n for n in after if f"heads.{m}." in n]
        for name in own:
            torch.testing.assert_close(after[name], before[name] * factor, rtol=1e-3, atol=1e-6)
        if isinstance(model.fusion, ConcatFusion):
            columns = slice(start, start + model.widths[m])
            name = "fusion.out.weight"
            torch.testing.assert_close(after[name][:, columns], before[name][:, columns] * factor, rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(after["fusion.out.bias"], before["fusion.out.bias"])
            start += model.widths[m]


def test_alpha_0_leaves_all_gradients_as_they_are() -> None:
    model = model_of(ConcatFusion)
    rule = AGM(model.modalities, 0.0, window=Window())
    for number in range(3):
        before, after = changed(rule, model, batch_of(model), Step(0, number, ROWS))
        assert all(torch.equal(after[name], gradient) for name, gradient in before.items())
        step(model)


def test_scaling_gradients_equals_the_published_change_of_the_logits() -> None:
    """z' = sum_m [kappa_m u_m + (1 - kappa_m) stopgrad(u_m)] has the value of z, and these gradients."""
    model = model_of(SumFusion)
    batch = batch_of(model)
    rule = AGM(model.modalities, 0.7, window=Window())
    changed(rule, model, batch)
    step(model)
    _, after = changed(rule, model, batch)
    after = {name: gradient.clone() for name, gradient in after.items()}
    both, first = rule.metrics(), dict.fromkeys(model.modalities, 1.0)
    kappa = {m: 2 * both[f"method/agm/factor/{m}"] - first[m] for m in model.modalities}
    model.zero_grad(set_to_none=True)
    outputs = model(batch)
    parts = model.split_logits(outputs.features, outputs.head_logits)
    logits = torch.stack([kappa[m] * u + (1 - kappa[m]) * u.detach() for m, u in parts.items()]).sum(dim=0)
    torch.autograd.backward(nn.functional.cross_entropy(logits, batch.labels_B))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(after[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion])
@pytest.mark.parametrize("modalities", MODALITIES, ids=len)
def test_split_logits_are_shapley_values_and_sum_to_the_fused_logits(
    fusion: type[Fusion], modalities: tuple[str, ...]
) -> None:
    """A modality is left out by zeros as features. What is there without any modality is shared, as in the fusion."""
    model = model_of(fusion, modalities)
    outputs = model(batch_of(model))
    parts = model.split_logits(outputs.features, outputs.head_logits)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(dim=0), outputs.logits_BC)

    def value(subset: tuple[str, ...]) -> torch.Tensor:
        active = torch.tensor([[m in subset for m in model.modalities]]).expand(ROWS, -1)
        return model.fuse(outputs.features, active)

    count = len(model.modalities)
    nothing = value(())
    for m in model.modalities:
        orders = list(itertools.permutations(model.modalities))
        gains = [value(order[: order.index(m) + 1]) - value(order[: order.index(m)]) for order in orders]
        shapley = torch.stack(gains).mean(dim=0)
        own_bias = nothing / count
        if isinstance(model.fusion, SumFusion):
            own_bias = dict(model.named_parameters())[f"fusion.out.{m}.bias"]
        torch.testing.assert_close(parts[m], shapley + own_bias, rtol=1e-4, atol=1e-5)


def test_the_state_of_a_rule_resumes_exactly() -> None:
    def trained(split_after: int) -> list[dict[str, torch.Tensor]]:
        model = model_of(ConcatFusion)
        rule, found = AGM(model.modalities, 0.7, window=Window()), []
        for number in range(5):
            if number == split_after:
                state, rule = rule.state(), AGM(model.modalities, 0.7, window=Window())
                rule.restore(state)
            found.append({n: g.clone() for n, g in changed(rule, model, batch_of(model), AT)[1].items()})
            step(model)
        return [*found, {name: torch.tensor(value) for name, value in rule.metrics().items()}]

    one, other = trained(3), trained(99)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
