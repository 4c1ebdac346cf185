"""OPM against its formulas, sample by sample"""

# B samples of the global batch, M modalities, C classes

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from remix_study.balancing import FusedLoss, Method, Step, Window
from remix_study.balancing.draws import SampleDraws
from remix_study.balancing.opm import OPM
from remix_study.modality import canonical_order
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, MultimodalModel, SumFusion
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.seeds import stream
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo
from tests.unit.balancing.linear import AT, ROWS, batch_of, model_of, seen
from tests.unit.balancing.test_ogm import true_probability

MODALITIES = [("audio", "video"), canonical_order(("audio", "text", "video"))]
BASE, STRENGTH = 0.6, 0.5
# One sample of three modalities trains all but the weakest.
PART = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1]], np.bool_)


def rule_of(modalities: tuple[str, ...], execute: float = 1.0, base: float = BASE, seed: int = 3) -> OPM:
    draws = SampleDraws(seed, "opm", ROWS, len(modalities))
    return OPM(modalities, base, STRENGTH, execute, window=Window(), seed=seed, draws=draws)


def trained(rule: OPM, model: MultimodalModel, batch: Batch, collectives: Collectives | None = None) -> Any:
    """Return the gradients of a step with the rule."""
    plan = ConstantPlan(everything_joint(ROWS, len(model.modalities)), Reassembly("blocks", (1, 0), ROWS), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train_step(
        model, Method("m", plan, (FusedLoss(), rule)), batch, ROWS, optimizer, collectives or Solo(), at=AT,
        autocast=False, clip_norm=None,
    )  # fmt: skip
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def drops(model: MultimodalModel, batch: Batch) -> dict[str, float]:
    """q_m, from the samples that train several modalities: the formula with the mean over the others."""
    p = {}
    for column, m in enumerate(model.modalities):
        rows = [r for r in range(ROWS) if batch.active_BM[r].sum() > 1 and batch.active_BM[r, column]]
        p[m] = sum(true_probability(model, _row(batch, r), m) for r in rows) / len(rows)
    found = {}
    for m, own in p.items():
        others = [p[other] for other in p if other != m]
        rho = own / (sum(others) / len(others))
        found[m] = min(max(BASE * (1 + STRENGTH * math.tanh(rho - 1)), 0), 1) if rho > 1 else 0.0
    return found


def _row(batch: Batch, row: int) -> Batch:
    return replace(batch, inputs={m: x[[row]] for m, x in batch.inputs.items()}, labels_B=batch.labels_B[[row]])


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize(("modalities", "part"), [(MODALITIES[0], None), (MODALITIES[1], None), (MODALITIES[1], PART)])
def test_the_gradient_is_that_of_the_published_masks(
    fusion: type[Fusion], modalities: tuple[str, ...], part: np.ndarray | None
) -> None:
    """Also with samples of which nothing is left: the mean is over the others."""
    model = model_of(fusion, modalities)
    batch = batch_of(model, part)
    oracle = copy.deepcopy(model)
    batch = replace(batch, inputs={m: x[batch.active_BM[:, c]] for c, (m, x) in enumerate(batch.inputs.items())})
    whole = batch_of(model, part)
    q = drops(oracle, whole)
    theta = sum(model.widths[m] * q[m] for m in q) / sum(model.widths.values())
    draws = stream(3, "opm", AT.epoch).random((ROWS, len(q)), dtype=np.float32)
    losses, removed = [], 0
    for row in range(ROWS):
        trains = [m for c, m in enumerate(modalities) if whole.active_BM[row, c]]
        kept = [m for m in trains if len(trains) == 1 or draws[row, modalities.index(m)] >= q[m]]
        factor = 1.0 if len(trains) == 1 else 1 / (1 - theta)
        if not kept:
            removed += 1
            continue
        features = {m: oracle.encode(m, whole.inputs[m][[row]]) * factor * (m in kept) for m in modalities}
        logits = oracle.fuse(features, torch.tensor([[m in kept for m in modalities]]))
        losses.append(functional.cross_entropy(logits, whole.labels_B[[row]]))
    torch.autograd.backward(torch.stack(losses).mean())
    rule = rule_of(modalities)
    found = trained(rule, model, batch)
    assert max(q.values()) > 0
    assert len(losses) + removed == ROWS
    for name, p in oracle.named_parameters():
        if p.grad is not None and name in found:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)
    assert {k: v for k, v in rule.metrics().items() if "/drop_probability/" in k} == pytest.approx(
        {f"method/opm/drop_probability/{m}": value for m, value in q.items()}, rel=1e-4
    )


def test_samples_of_which_nothing_is_left_occur_with_three_modalities_only() -> None:
    model = model_of(ConcatFusion, MODALITIES[1])
    weakest = min(range(3), key=lambda m: true_probability(model, batch_of(model), model.modalities[m]))
    active = np.ones((ROWS, 3), np.bool_)
    active[1:, weakest] = False
    rule = rule_of(MODALITIES[1], base=1.0)
    batch = seen(model, batch_of(model, active))
    sums = torch.tensor([1.0 if m == weakest else 2.0 for m in range(3)] + [4.0] * 3)
    mask = rule.mask(replace(batch, totals={"opm": sums}))
    assert mask.active_BM.any(dim=1).tolist() == [True] + [False] * (ROWS - 1)
    assert rule.removes
    assert not rule_of(MODALITIES[0]).removes


def test_ranks_mask_by_the_sums_over_the_global_batch(run_on_ranks: Callable[..., list[Any]]) -> None:
    one = model_of(ConcatFusion, MODALITIES[1])
    whole = trained(rule_of(MODALITIES[1]), one, batch_of(one))

    def work(collectives: Collectives) -> Any:
        rows = list(range(collectives.world.rank, ROWS, 2))
        batch = batch_of(one)
        part = replace(
            batch, inputs={m: x[rows] for m, x in batch.inputs.items()}, active_BM=batch.active_BM[rows],
            labels_B=batch.labels_B[rows], samples_B=batch.samples_B[rows],
        )  # fmt: skip
        return trained(rule_of(MODALITIES[1]), copy.deepcopy(one), part, collectives)

    for found in run_on_ranks(2, work):
        for name, gradient in whole.items():
            torch.testing.assert_close(found[name], gradient)


def test_base_0_changes_nothing() -> None:
    model = model_of(ConcatFusion)
    found = rule_of(MODALITIES[0], base=0.0).mask(_counted(rule_of(MODALITIES[0]), model))
    assert found.active_BM.all()
    assert found.factor is not None
    assert bool((found.factor == 1).all())


def _counted(rule: OPM, model: MultimodalModel) -> Any:
    batch = seen(model, batch_of(model))
    with torch.no_grad():
        return replace(batch, totals={"opm": rule.sums_before(batch)})


def test_a_batch_is_modulated_with_the_given_probability_and_within_the_window() -> None:
    rule = rule_of(MODALITIES[0], execute=0.7)
    assert sum(rule.acts(Step(0, n, ROWS)) for n in range(2000)) / 2000 == pytest.approx(0.7, abs=0.04)
    assert [rule.acts(Step(1, n, ROWS)) for n in range(50)] == [rule.acts(Step(1, n, ROWS)) for n in range(50)]
    always = OPM(MODALITIES[0], BASE, STRENGTH, 1.0, window=Window(6), seed=0, draws=SampleDraws(0, "opm", 1, 2))
    assert [always.acts(Step(epoch, 0, ROWS)) for epoch in (0, 5, 6, 100)] == [False, False, True, True]
    assert not always.acts(Step(6, 0, multimodal=0))
