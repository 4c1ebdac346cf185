"""Gradient-Blending against its formulas"""

# B samples of a batch, N samples of a split, M modalities

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import FusedLoss, Method, Step, Terms, UnimodalLosses, Window
from remix_study.balancing.gblend import GBlend, GBlendLite
from remix_study.epoch import SplitStatistics
from remix_study.models import ConcatFusion, MultimodalModel
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from tests.unit.balancing.linear import ROWS, batch_of, model_of, seen
from tests.unit.balancing.passes import FixedPasses, start

THREE = ("audio", "text", "video")
Losses = dict[str, list[float]]  # loss -> the value of each sample


def split_of(losses: Losses) -> SplitStatistics:
    *own, fused = losses.values()
    count = len(fused)
    return SplitStatistics(
        np.arange(count), np.zeros(count, np.int64), np.ones((count, len(own)), np.bool_),
        np.array(own, dtype=np.float64).T, np.array(fused),
    )  # fmt: skip


def drawn(seed: int, modalities: tuple[str, ...], training: int = 8, control: int = 3) -> list[Losses]:
    """Losses of the training and of the control samples, before and after; there are fewer control samples."""
    draw = np.random.default_rng(seed)
    ranges = [(1.0, 1.5, training), (1.0, 1.5, control), (0.2, 0.6, training), (0.5, 1.0, control)]
    return [{k: draw.uniform(low, high, n).tolist() for k in (*modalities, "fused")} for low, high, n in ranges]


def formula(found: list[Losses], least: float) -> dict[str, float]:
    training_before, control_before, training, control = (
        {k: sum(values) / len(values) for k, values in losses.items()} for losses in found
    )
    ratio = {}
    for k in training:
        gained = max(control_before[k] - control[k], 0.0)
        overfitted = (control[k] - training[k]) - (control_before[k] - training_before[k])
        ratio[k] = gained / max(overfitted, least) ** 2
    return {k: len(ratio) * each / sum(ratio.values()) for k, each in ratio.items()}


def estimated(model: MultimodalModel, found: list[Losses], **others: Any) -> GBlendLite:
    rule = GBlendLite(model.modalities, 2, others.get("least", 0.05), window=others.get("window", Window()))
    for epoch, (training, control) in ((0, found[:2]), (2, found[2:])):
        rule.begin(start(epoch, model, FixedPasses(split_of(training), split_of(control))))
    return rule


def weighted(rule: GBlendLite, model: MultimodalModel, active: np.ndarray | None = None) -> tuple[Terms, Terms]:
    """The loss terms before and after the rule."""
    batch = seen(model, batch_of(model, active))
    terms: Terms = {"other": torch.ones(ROWS)}
    for each in (FusedLoss(), UnimodalLosses(1.0, 1.0)):
        terms = each.loss(batch, terms)
    return terms, rule.loss(batch, terms)


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
@pytest.mark.parametrize("seed", range(3))
def test_losses_are_weighted_by_generalisation_and_overfitting(modalities: tuple[str, ...], seed: int) -> None:
    """Means over samples: sums over splits of different sizes would give other weights."""
    model = model_of(ConcatFusion, modalities)
    found = drawn(seed, model.modalities)
    wished = formula(found, 0.05)
    assert max(wished.values()) > 1.1
    rule = estimated(model, found)
    before, after = weighted(rule, model)
    assert after.keys() == before.keys()
    for k, weight in wished.items():
        torch.testing.assert_close(after[k], before[k] * weight)
    assert torch.equal(after["other"], before["other"])
    metrics = rule.metrics()
    assert metrics["method/gblend_lite/weight_fused"] == pytest.approx(wished["fused"])
    assert metrics["method/gblend_lite/weight/audio"] == pytest.approx(wished["audio"])
    longer = [found[0], {k: v * 5 for k, v in found[1].items()}, found[2], {k: v * 5 for k, v in found[3].items()}]
    assert weighted(estimated(model, longer), model)[1]["fused"].tolist() == pytest.approx(after["fused"].tolist())


def test_a_loss_that_does_not_generalise_gets_no_weight() -> None:
    """The absolute value of a ported formula would reward it."""
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    found[3]["video"] = [5.0] * 3  # worse than before
    _, after = weighted(estimated(model, found), model)
    assert not after["video"].any()
    assert after["audio"].any()


def test_overfitting_has_a_lower_bound() -> None:
    """A loss without overfitting would else get all the weight, and one that overfits less than before, too little."""
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    found[3]["video"] = [v - 0.9 for v in found[3]["video"]]  # better than on the training samples
    wished = formula(found, 0.3)
    before, after = weighted(estimated(model, found, least=0.3), model)
    torch.testing.assert_close(after["video"], before["video"] * wished["video"])
    assert wished["video"] == max(wished.values())


def test_without_generalisation_the_weights_stay() -> None:
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    found[3] = {k: [9.0] * 3 for k in found[3]}
    before, after = weighted(estimated(model, found), model)
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_before_the_first_estimate_it_is_joint_training_with_unimodal_losses() -> None:
    model = model_of(ConcatFusion, THREE)
    rule = GBlendLite(model.modalities, 10, 0.05, window=Window())
    assert [epoch for epoch in range(25) if rule.due(epoch)] == [0, 10, 20]
    before, after = weighted(rule, model, np.array([[True, True, False], [True, False, False]] * 3))
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_losses_of_fewer_modalities_keep_a_mean_weight_of_1() -> None:
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    w = formula(found, 0.05)
    before, after = weighted(estimated(model, found), model, np.array([[True, False], [True, True], [False, True]] * 2))
    scale_B = [2 / (w["audio"] + w["fused"]), 1.0, 2 / (w["video"] + w["fused"])] * 2
    for k in ("audio", "video", "fused"):
        torch.testing.assert_close(after[k], before[k] * w[k] * torch.tensor(scale_B))


def test_a_sample_whose_losses_all_have_weight_0_is_trained_as_without_it() -> None:
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    found[3] |= {"video": [9.0] * 3, "fused": [9.0] * 3}
    rows = np.array([[True, True], [False, True]] * 3)
    before, after = weighted(estimated(model, found), model, rows)
    assert torch.equal(after["video"][1::2], before["video"][1::2])
    assert not after["video"][::2].any()


def test_outside_its_window_it_changes_nothing() -> None:
    model = model_of(ConcatFusion)
    rule = estimated(model, drawn(0, model.modalities), window=Window(4, 8))
    assert [epoch for epoch in range(12) if rule.due(epoch)] == [4, 6]
    before, after = weighted(rule, model)  # epoch 2
    assert after is before
    assert rule.metrics() == {}


def test_its_state_resumes_exactly() -> None:
    model = model_of(ConcatFusion)
    found = drawn(0, model.modalities)
    passes = FixedPasses(split_of(found[2]), split_of(found[3]))
    one, other = estimated(model, found), GBlendLite(model.modalities, 2, 0.05, window=Window())
    other.restore(one.state())
    after = [weighted(rule, model)[1] for rule in (one, other)]
    assert all(torch.equal(after[0][k], after[1][k]) for k in after[0])
    lower = replace(passes, control_split=split_of({k: [v - 0.1 for v in vs] for k, vs in found[3].items()}))
    for rule in (one, other):
        rule.begin(start(4, model, lower))
    assert one.metrics() == other.metrics()


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
def test_copies_are_trained_with_each_loss_alone_and_judged_by_it(modalities: tuple[str, ...]) -> None:
    """Each estimate is that of its own copy: what the copy does to other losses does not count."""
    model = model_of(ConcatFusion, modalities)
    losses = (*model.modalities, "fused")
    plan = ConstantPlan(everything_joint(ROWS, len(modalities)), Reassembly("shuffled", (0, 1), ROWS), 0)
    rule = GBlend(model.modalities, 4, 0.05, {k: Method(k, plan, (FusedLoss(),)) for k in losses}, window=Window(2))
    training, control, *_ = drawn(9, model.modalities)
    copies = {k: drawn(number, model.modalities)[2:] for number, k in enumerate(losses)}
    asked = []

    def train_copy(method: Method, epochs: int) -> tuple[SplitStatistics, SplitStatistics]:
        asked.append((method.name, epochs))
        return split_of(copies[method.name][0]), split_of(copies[method.name][1])

    begun = start(6, model, FixedPasses(split_of(training), split_of(control)))
    rule.begin(begun._replace(train_copy=train_copy))
    assert asked == [(k, 4) for k in losses]
    after = [{k: copies[k][split][k] for k in losses} for split in (0, 1)]
    wished = formula([training, control, *after], 0.05)
    batch = seen(model, batch_of(model), Step(6, 0, ROWS))
    terms = UnimodalLosses(1.0, 1.0).loss(batch, FusedLoss().loss(batch, {}))
    for k, term in rule.loss(batch, terms).items():
        torch.testing.assert_close(term, terms[k] * wished[k])
    assert rule.metrics()["method/gblend/weight_fused"] == pytest.approx(wished["fused"])
    assert [epoch for epoch in range(12) if rule.due(epoch)] == [2, 6, 10]
