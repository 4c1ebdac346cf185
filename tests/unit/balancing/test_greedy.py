"""Greedy: learning speeds and rebalancing steps, from plain loops over parameters"""

import math
from typing import Any

import pytest
import torch
from torch import nn

from remix_study.balancing import Step
from remix_study.balancing.greedy import Greedy
from remix_study.models import ConcatFusion, MMTMFusion, MultimodalModel, TinyEncoder
from remix_study.models.inside import Exchange, RunningMean
from remix_study.sample import Batch
from tests.unit.balancing.linear import model_of, seen

PAIR = ("audio", "video")
ROWS = 5
JOINT = Step(0, 0, multimodal=ROWS)


def mmtm(holds: bool = True) -> MultimodalModel:
    torch.manual_seed(0)
    encoders: Any = {"audio": TinyEncoder(1), "video": TinyEncoder(3)}
    return MultimodalModel(encoders, MMTMFusion(encoders, 4, holds=holds))


def batch(seed: int = 1, active: tuple[int, int] = (1, 1)) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    every = {m: torch.randn(ROWS, channels, 32, 32, generator=draw) for m, channels in (("audio", 1), ("video", 3))}
    active_BM = torch.tensor([active] * ROWS, dtype=torch.bool)
    inputs = {m: x for m, x in every.items() if active[PAIR.index(m)]}
    return Batch(PAIR, inputs, active_BM, torch.arange(ROWS) % 4, torch.arange(ROWS))


def trained(model: MultimodalModel, rule: Greedy | None, steps: int) -> list[list[bool]]:
    """Train, and return which gates are held in each step."""
    assert isinstance(model.fusion, MMTMFusion)
    held = []
    for number in range(steps):
        if model.fusion.held_M is not None:
            held.append(model.fusion.held_M.tolist())
        model.zero_grad(set_to_none=True)
        one = batch(number)
        found = seen(model, one, JOINT)
        torch.autograd.backward(nn.functional.cross_entropy(found.outputs.logits_BC, one.labels_B))
        if rule is not None:
            rule.apply(model, rule.sums(found), JOINT)
        descend(model)
    return held


@torch.no_grad()
def descend(model: MultimodalModel) -> None:
    for p in model.parameters():
        if p.grad is not None:
            p.sub_(0.1 * p.grad)


def relative(model: MultimodalModel, m: str) -> tuple[float, float]:
    """|gradient|^2 / |weights|^2 of the branch and of the gates of a modality, by the names of the parameters."""
    sums = {"branch": [0.0, 0.0], "gates": [0.0, 0.0]}
    for name, p in model.named_parameters():
        own = name.startswith((f"encoders.{m}.", f"heads.{m}."))
        gates = name.startswith("fusion.") and (".squeeze." in name or f".excite.{m}." in name)
        if own or gates:
            part = sums["branch" if own else "gates"]
            part[0] += 0.0 if p.grad is None else float(p.grad.double().square().sum())
            part[1] += float(p.detach().double().square().sum())
    return sums["branch"][0] / sums["branch"][1], sums["gates"][0] / sums["gates"][1]


def test_rebalancing_steps_follow_the_sums_of_learning_speeds() -> None:
    model, steps, threshold = mmtm().train(), 3, 0.01
    rule = Greedy(PAIR, threshold, steps)
    assert isinstance(model.fusion, MMTMFusion)
    total = {m: [0.0, 0.0] for m in PAIR}
    left, held, logged, seen_held = 0, -1, [], []
    for number in range(12):
        assert model.fusion.held_M is not None
        assert model.fusion.held_M.tolist() == [left > 0 and held == column for column in range(2)], number
        seen_held.append(left > 0)
        model.zero_grad(set_to_none=True)
        one = batch(number)
        found = seen(model, one, JOINT)
        torch.autograd.backward(nn.functional.cross_entropy(found.outputs.logits_BC, one.labels_B))
        if left == 0:
            for m in PAIR:
                branch, gates = relative(model, m)
                total[m] = [total[m][0] + branch, total[m][1] + gates]
        speed = {m: math.log10(gates / branch) for m, (branch, gates) in total.items()}
        logged.append([*speed.values(), *(float(left > 0 and held == column) for column in range(2))])
        difference = speed["audio"] - speed["video"]
        if left == 0 and abs(difference) > threshold:
            left, held = steps, 0 if difference > 0 else 1
        else:
            left = max(0, left - 1)
        rule.apply(model, rule.sums(found), JOINT)
        descend(model)
    assert any(seen_held)
    assert not all(seen_held)
    metrics = rule.metrics()
    names = [f"method/greedy/{what}/{m}" for what in ("gate_speed", "held") for m in PAIR]
    assert metrics == {
        name: pytest.approx(sum(values) / 12, rel=1e-5)
        for name, values in zip(names, zip(*logged, strict=True), strict=True)
    }
    assert rule.metrics() == {}


def test_without_rebalancing_steps_training_is_that_of_mmtm() -> None:
    plain, never = mmtm(holds=False).train(), mmtm().train()
    trained(plain, None, 3)
    held = trained(never, Greedy(PAIR, math.inf, 5), 3)
    assert held == [[False, False]] * 3
    weights = dict(never.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in plain.named_parameters())


@pytest.mark.parametrize("held", PAIR)
def test_held_gates_do_not_depend_on_the_other_modality(held: str) -> None:
    model = mmtm().train()
    trained(model, None, 2)  # so that the running means are not those of a new model
    model.hold_gates(torch.tensor([m == held for m in PAIR]))
    one = batch()
    for x in one.inputs.values():
        x.requires_grad_()
    outputs = model(one)
    for m in PAIR:
        other = next(n for n in PAIR if n != m)
        (gradient,) = torch.autograd.grad(outputs.features[m].square().sum(), one.inputs[other], retain_graph=True)
        assert bool((gradient == 0).all()) == (m == held)
    for exchange in (module for module in model.modules() if isinstance(module, Exchange)):
        gradients = torch.autograd.grad(
            outputs.features[held].sum(), list(exchange.excite[held].parameters()), retain_graph=True
        )
        assert all(bool((g == 0).all()) for g in gradients)


@pytest.mark.parametrize("active", [(1, 0), (0, 1)])
def test_unimodal_samples_have_their_own_gates_and_leave_the_running_means(active: tuple[int, int]) -> None:
    model = mmtm().train()
    trained(model, None, 1)
    before = [m.mean_C.clone() for m in gate_means(model)]
    free = model(batch(active=active)).logits_BC
    model.hold_gates(torch.ones(2, dtype=torch.bool))
    assert torch.equal(model(batch(active=active)).logits_BC, free)
    assert all(torch.equal(a, m.mean_C) for a, m in zip(before, gate_means(model), strict=True))


def gate_means(model: MultimodalModel) -> list[RunningMean]:
    return [m for name, m in model.named_modules() if ".gates." in name and isinstance(m, RunningMean)]


def test_evaluation_holds_no_gates() -> None:
    model = mmtm().train()
    trained(model, None, 2)
    model.eval()
    free = model(batch()).logits_BC
    model.hold_gates(torch.ones(2, dtype=torch.bool))
    assert torch.equal(model(batch()).logits_BC, free)


def test_it_acts_where_samples_train_both_modalities() -> None:
    rule = Greedy(PAIR, 0.01, 5)
    assert [rule.acts(Step(0, 0, multimodal=n)) for n in (0, 1, ROWS)] == [False, True, True]


def test_a_restored_rule_continues_the_same_steps() -> None:
    models = [mmtm().train(), mmtm().train()]
    whole, first = Greedy(PAIR, 0.01, 3), Greedy(PAIR, 0.01, 3)
    held = trained(models[0], whole, 6)
    begun = trained(models[1], first, 3)
    restored = Greedy(PAIR, 0.01, 3)
    restored.restore(first.state())
    later: list[list[bool]] = []
    assert isinstance(models[1].fusion, MMTMFusion)
    for number in range(3, 6):
        assert models[1].fusion.held_M is not None
        later.append(models[1].fusion.held_M.tolist())
        models[1].zero_grad(set_to_none=True)
        one = batch(number)
        found = seen(models[1], one, JOINT)
        torch.autograd.backward(nn.functional.cross_entropy(found.outputs.logits_BC, one.labels_B))
        restored.apply(models[1], restored.sums(found), JOINT)
        descend(models[1])
    assert begun + later == held
    assert restored.metrics() == whole.metrics()


def test_other_models_have_no_gates_to_hold() -> None:
    for model in (mmtm(holds=False), model_of(ConcatFusion)):
        with pytest.raises(ValueError, match="running means of gates"):
            model.hold_gates(torch.ones(2, dtype=torch.bool))
    assert list(model_of(ConcatFusion).gate_parameters("audio")) == []
