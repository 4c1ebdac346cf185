"""MMPareto against its formulas, parameter by parameter, and a search for the shortest combination"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from remix_study.balancing import FusedLoss, Method, MMPareto, Step, UnimodalLosses, Window
from remix_study.balancing.mmpareto import weights
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, LearnedToken, MultimodalModel, SumFusion
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.training.step import train_step
from remix_study.world import Solo
from tests.unit.balancing.linear import ROWS, batch_of, model_of

Gradients = dict[str, torch.Tensor]


def trained(model: MultimodalModel, batch: Batch, rule: MMPareto | None, alone: float = 1.0) -> Gradients:
    """The gradients of a step with CE(z) + sum_m alone CE(h_m)."""
    plan = ConstantPlan(everything_joint(ROWS, 2), Reassembly("blocks", (1, 0), ROWS), 0)
    added = () if rule is None else (rule,)
    method = Method("m", plan, (FusedLoss(), UnimodalLosses(alone, alone), *added))
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    train_step(model, method, batch, ROWS, still, Solo(), at=Step(0, 0), autocast=False, clip_norm=None)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def separately(model: MultimodalModel, batch: Batch) -> dict[str, Gradients]:
    """The gradients of the fused and of each unimodal loss, each from a forward pass of its own."""
    found = {}
    for name in ("fused", *model.modalities):
        model.zero_grad(set_to_none=True)
        outputs = model(batch)
        logits = outputs.logits_BC if name == "fused" else outputs.head_logits[name]
        torch.autograd.backward(nn.functional.cross_entropy(logits, batch.labels_B))
        found[name] = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    return found


def shortest(g_0: torch.Tensor, g_1: torch.Tensor) -> float:
    """The weight in [0.001, 0.999] of the shortest w g_0 + (1 - w) g_1, by search."""
    a, b = g_0.double().numpy(), g_1.double().numpy()
    found = minimize_scalar(
        lambda w: float(((w * a + (1 - w) * b) ** 2).sum()), bounds=(0.001, 0.999), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    return float(found.x)


def expected(model: MultimodalModel, batch: Batch, gain: float) -> tuple[Gradients, list[bool]]:
    """The published gradients, and whether those of each encoder conflict."""
    of = separately(model, batch)
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    found = {
        name: torch.stack([each.get(name, zero[name]) for each in of.values()]).sum(dim=0) for name in zero
    }  # heads and fusion: the sum of all losses
    conflicts = []
    for m in model.modalities:
        names = [name for name in zero if name.startswith(f"encoders.{m}.")]
        g_0, g_1 = (torch.cat([of[loss][name].flatten() for name in names]) for loss in ("fused", m))
        conflicts.append(float(g_0 @ g_1) <= 0)
        w_0 = 0.5
        if conflicts[-1]:
            w_0 = shortest(g_0, g_1)
        for name in names:
            a, b = of["fused"][name], of[m][name]
            combined = 2 * w_0 * a + 2 * (1 - w_0) * b
            longer = max(1.0, float((a + b).norm() / combined.norm()))
            found[name] = gain * longer * combined
    return found, conflicts


def conflicting(fusion: type[Fusion], wanted: Callable[[list[bool]], bool]) -> tuple[MultimodalModel, Batch]:
    """A model and a batch whose conflicts of the encoders are as wanted."""
    for number in itertools.count():
        model = model_of(fusion)
        with torch.no_grad():
            for n, p in enumerate(model.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1000 * number + n)))
        batch = batch_of(model)
        if wanted(expected(model, batch, 1.0)[1]):
            return model, batch
    raise AssertionError


WANTED: dict[str, Callable[[list[bool]], bool]] = {
    "no conflict": lambda found: not any(found),
    "conflict": any,
}


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize("wanted", WANTED)
def test_encoders_follow_the_published_direction_and_all_else_the_sum(fusion: type[Fusion], wanted: str) -> None:
    if fusion is DecisionFusion and wanted == "conflict":
        wanted = "no conflict"  # z is the mean of the heads' logits, whose losses hardly conflict with it
    model, batch = conflicting(fusion, WANTED[wanted])
    rule = MMPareto(model.modalities, 1.5, window=Window())
    found, wished = trained(model, batch, rule), expected(model, batch, 1.5)[0]
    assert found.keys() == wished.keys()
    for name, gradient in wished.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-5)
    metrics = rule.metrics()
    assert all(-1 <= metrics[f"method/mmpareto/cosine/{m}"] <= 1 for m in model.modalities)


def test_without_a_conflict_and_with_gain_1_it_is_joint_training_with_unimodal_losses() -> None:
    model, batch = conflicting(ConcatFusion, WANTED["no conflict"])
    found, plain = trained(model, batch, MMPareto(model.modalities, 1.0, window=Window())), trained(model, batch, None)
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


def test_micro_batches_are_combined_as_one_batch() -> None:
    model, batch = conflicting(ConcatFusion, WANTED["conflict"])
    whole = trained(model, batch, MMPareto(model.modalities, 1.5, window=Window()))
    parts: Any = [
        Batch(batch.modalities, {m: x[rows] for m, x in batch.inputs.items()}, batch.active_BM[rows],
              batch.labels_B[rows], batch.samples_B[rows]) for rows in (slice(0, 2), slice(2, ROWS))
    ]  # fmt: skip
    for name, gradient in trained(model, parts, MMPareto(model.modalities, 1.5, window=Window())).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wanted", WANTED)
def test_gradients_do_not_depend_on_how_the_encoders_are_differentiated(wanted: str) -> None:
    """With replacements, losses may reach an encoder by other ways than its features."""
    model, batch = conflicting(ConcatFusion, WANTED[wanted])
    plain = trained(model, batch, MMPareto(model.modalities, 1.5, window=Window()))
    model.masking = LearnedToken(model.widths)
    for name, gradient in trained(model, batch, MMPareto(model.modalities, 1.5, window=Window())).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-7)


def test_losses_without_gradient_give_numbers() -> None:
    model = model_of(ConcatFusion)
    found = trained(model, batch_of(model), MMPareto(model.modalities, 1.0, window=Window()), alone=0.0)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_a_unimodal_batch_changes_only_its_encoder() -> None:
    model = model_of(ConcatFusion)
    active = np.tile([True, False], (ROWS, 1))
    batch = batch_of(model, active)
    one = Batch(batch.modalities, {"audio": batch.inputs["audio"]}, batch.active_BM, batch.labels_B, batch.samples_B)
    rule = MMPareto(model.modalities, 1.5, window=Window())
    found = trained(model, one, rule)
    assert not [name for name in found if "video" in name]
    assert {name.rpartition("/")[2] for name in rule.metrics()} == {"audio"}


@pytest.mark.parametrize("seed", range(20))
def test_the_weights_are_those_of_the_shortest_combination(seed: int) -> None:
    draw = np.random.default_rng(seed)
    g_0, g_1 = (torch.tensor(draw.normal(size=5) * draw.uniform(0.1, 10)) for _ in range(2))
    if float(g_0 @ g_1) > 0:
        g_1 = -g_1
    w_0, w_1 = weights(g_0 @ g_0, g_1 @ g_1, g_0 @ g_1).tolist()
    assert w_0 + w_1 == pytest.approx(1)
    assert 0.001 <= w_0 <= 0.999
    assert w_0 == pytest.approx(shortest(g_0, g_1), abs=1e-5)
    assert weights(g_0 @ g_0, g_1 @ g_1, -(g_0 @ g_1)).tolist() == [0.5, 0.5]
