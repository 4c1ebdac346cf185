"""PMR against its formulas, sample by sample"""

# B samples of a batch, M modalities, C classes

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from remix_study.balancing import PMR, CrossEntropy, Step, StepBatch, Terms, Window
from remix_study.models import ConcatFusion, GatedFusion, MultimodalModel
from remix_study.sample import Batch
from tests.unit.balancing.linear import AT, CLASSES, ROWS, batch_of, model_of, seen
from tests.unit.balancing.passes import FixedPasses, start, statistics

THREE = ("audio", "text", "video")


def rule_of(model: MultimodalModel, how: Literal["hard", "smooth"] = "hard", weight: float = 0.7, **others: Any) -> PMR:
    return PMR(model.modalities, CLASSES, weight, others.pop("momentum", 0.2), how,
               window=others.pop("window", Window()), cross_entropy=CrossEntropy())  # fmt: skip


def begun(rule: PMR, model: MultimodalModel, batch: Batch, epoch: int = 0) -> PMR:
    rule.begin(start(epoch, model, FixedPasses(statistics(model, batch))))
    return rule


def with_totals(rule: PMR, batch: StepBatch) -> StepBatch:
    with torch.no_grad():
        return replace(batch, totals={rule.name: rule.sums_before(batch)}) if rule.acts(batch.at) else batch


def prototypes(features_Bd: np.ndarray, labels_B: list[int]) -> list[np.ndarray]:
    found = []
    for label in range(CLASSES):
        rows = [row for row, of in zip(features_Bd, labels_B, strict=True) if of == label]
        found.append(sum(rows[1:], rows[0]) / len(rows) if rows else features_Bd.mean(axis=0))
    return found


def probabilities(feature_d: np.ndarray, centres: list[np.ndarray]) -> list[float]:
    powers = [math.exp(-math.sqrt(sum(float(x) ** 2 for x in feature_d - centre))) for centre in centres]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
@pytest.mark.parametrize("how", ["hard", "smooth"])
def test_modalities_that_are_behind_get_the_prototype_loss_of_the_formula(
    modalities: tuple[str, ...], how: Literal["hard", "smooth"]
) -> None:
    model = model_of(GatedFusion, modalities)  # any fusion: only features count
    data = batch_of(model)
    rule = begun(rule_of(model, how), model, data)
    batch = with_totals(rule, seen(model, data))
    labels = data.labels_B.tolist()
    features = {m: batch.outputs.features[m].detach().double().numpy() for m in modalities}
    centres = {m: prototypes(features[m], labels) for m in modalities}
    found = {m: [probabilities(row, centres[m]) for row in features[m]] for m in modalities}
    true = {m: [each[label] for each, label in zip(found[m], labels, strict=True)] for m in modalities}
    mean = {m: sum(true[m]) / ROWS for m in modalities}
    best = max(mean.values())
    behind = {m: float(mean[m] < best) if how == "hard" else min(max(best / mean[m] - 1, 0.0), 1.0) for m in modalities}
    assert min(behind.values()) == 0 < max(behind.values())

    before = {"fused": torch.zeros(ROWS)}
    terms = rule.loss(batch, before)
    assert terms["fused"] is before["fused"]
    assert terms.keys() == {"fused", *(f"pmr/{m}" for m in modalities)}
    for m in modalities:
        expected = torch.tensor([-math.log(p) * 0.7 * behind[m] for p in true[m]])
        torch.testing.assert_close(terms[f"pmr/{m}"], expected, rtol=1e-4, atol=1e-6)
        (gradient_Bd,) = torch.autograd.grad(terms[f"pmr/{m}"].sum(), batch.outputs.features[m], retain_graph=True)
        for row, (p, label) in enumerate(zip(found[m], labels, strict=True)):
            wished = np.zeros(features[m].shape[1])
            for c, centre in enumerate(centres[m]):
                away = features[m][row] - centre
                distance = math.sqrt(sum(float(x) ** 2 for x in away))
                if distance > 1e-6:
                    wished -= 0.7 * behind[m] * (p[c] - (c == label)) * away / distance
            if all(math.dist(features[m][row], centre) > 1e-6 for centre in centres[m]):
                torch.testing.assert_close(gradient_Bd[row].double(), torch.tensor(wished), rtol=1e-3, atol=1e-5)
    assert rule.metrics() == pytest.approx(
        {f"method/pmr/probability/{m}": mean[m] for m in modalities}
        | {f"method/pmr/weight/{m}": 0.7 * behind[m] for m in modalities},
        rel=1e-4,
    )


def test_a_feature_on_its_prototype_gives_finite_gradients() -> None:
    """The derivative of a square root at 0 is infinite, and 0/0 is not a number."""
    model = model_of(ConcatFusion)
    data = batch_of(model)
    labels_B = torch.arange(ROWS).clamp(max=CLASSES - 1)  # one sample of most classes, which is its prototype
    data = replace(data, labels_B=labels_B)
    rule = begun(rule_of(model), model, data)
    terms = rule.loss(with_totals(rule, seen(model, data)), {})
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    for m in model.modalities:
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.encoder_parameters(m))


def test_a_class_without_samples_gives_numbers() -> None:
    model = model_of(ConcatFusion)
    data = batch_of(model)
    data = replace(data, labels_B=torch.zeros_like(data.labels_B))
    rule = begun(rule_of(model), model, data)
    terms = rule.loss(with_totals(rule, seen(model, data)), {})
    assert all(torch.isfinite(term).all() for term in terms.values())


def test_the_momentum_is_the_weight_of_earlier_prototypes() -> None:
    model = model_of(ConcatFusion)
    one = batch_of(model)
    other = replace(one, inputs={m: x + 1 for m, x in one.inputs.items()})
    rule = begun(rule_of(model, momentum=0.3), model, one)
    first = {m: rule.state()["prototypes"][m].clone() for m in model.modalities}
    alone = begun(rule_of(model), model, other).state()["prototypes"]
    begun(rule, model, other, epoch=1)
    for m, found in rule.state()["prototypes"].items():
        torch.testing.assert_close(found, 0.7 * alone[m] + 0.3 * first[m])
        assert not torch.allclose(found, first[m])


def test_samples_that_train_one_modality_get_a_constant_weight_and_are_not_compared() -> None:
    model = model_of(ConcatFusion)
    active = np.array([[True, False]] * 3 + [[True, True]] * (ROWS - 3))
    rule = begun(rule_of(model), model, batch_of(model))
    batch = with_totals(rule, seen(model, batch_of(model, active)))
    assert batch.totals["pmr"][2:].tolist() == [3.0, 3.0]
    terms = rule.loss(batch, {})
    weight = {m: rule.metrics()[f"method/pmr/weight/{m}"] for m in ("audio",)}["audio"]
    plain = -rule._logits(batch, "audio").log_softmax(dim=1)[range(ROWS), batch.labels_B]
    torch.testing.assert_close(terms["pmr/audio"], plain * torch.tensor([0.7] * 3 + [weight] * 3))
    assert terms["pmr/video"][:3].tolist() == [0.0] * 3


def test_a_unimodal_batch_leaves_the_other_encoder_alone() -> None:
    model = model_of(ConcatFusion)
    rule = begun(rule_of(model), model, batch_of(model))
    at = Step(2, 5, multimodal=0)
    assert not rule.acts(at)
    data = batch_of(model, np.tile([True, False], (ROWS, 1)))
    terms = rule.loss(with_totals(rule, seen(model, data, at)), {})
    assert list(terms) == ["pmr/audio"]
    torch.autograd.backward(terms["pmr/audio"].sum())
    assert all(p.grad is not None for p in model.encoder_parameters("audio"))
    assert all(p.grad is None for p in model.encoder_parameters("video"))
    assert rule.metrics() == {}


def test_outside_its_window_it_neither_reads_nor_adds() -> None:
    model = model_of(ConcatFusion)
    rule = rule_of(model, window=Window(3, 5))
    assert [rule.due(epoch) for epoch in range(6)] == [False, False, False, True, True, False]
    terms: Terms = {"fused": torch.zeros(ROWS)}
    assert rule.loss(seen(model, batch_of(model), AT), terms) is terms


def test_its_state_resumes_exactly() -> None:
    model = model_of(ConcatFusion)
    rule = begun(rule_of(model), model, batch_of(model))
    rule.loss(with_totals(rule, seen(model, batch_of(model))), {})
    state: Mapping[str, Any] = rule.state()
    again = rule_of(model)
    again.restore(state)
    one, other = ({**each.loss(with_totals(each, seen(model, batch_of(model))), {})} for each in (rule, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rule.metrics() == again.metrics()
