"""Loss rules, compared with explicit cross-entropies"""

# B samples, C classes

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from remix_study.balancing import (
    FUSED,
    CrossEntropy,
    FusedLoss,
    LossRule,
    Step,
    StepBatch,
    Terms,
    UnimodalLosses,
    balanced_weights,
)
from remix_study.models import ConcatFusion, MultimodalModel, TinyEncoder

LABELS = torch.tensor([0, 2, 1, 1])
BOTH = {"audio": torch.tensor([True, True, False, True]), "video": torch.tensor([True, False, True, True])}


@dataclass
class Made:
    logits_BC: torch.Tensor
    head_logits: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor] = field(default_factory=dict)


@pytest.fixture
def outputs() -> Made:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(4, 3, generator=generator) for _ in range(3)]
    return Made(draw[0], {"audio": draw[1], "video": draw[2]})


def cross_entropies(logits_BC: torch.Tensor) -> list[float]:
    rows = zip(logits_BC.tolist(), LABELS.tolist(), strict=True)
    return [math.log(sum(map(math.exp, row))) - row[label] for row, label in rows]


def terms_of(rule: LossRule, outputs: Made, active: dict[str, torch.Tensor], epoch: int = 0) -> Terms:
    model = MultimodalModel({m: TinyEncoder(1) for m in BOTH}, ConcatFusion(dict.fromkeys(BOTH, 64), 3))
    active_BM = torch.stack([active.get(m, torch.zeros(4, dtype=torch.bool)) for m in BOTH | active], dim=1)
    unused = torch.arange(4)
    return rule.loss(StepBatch(model, outputs, LABELS, active_BM, active, active_BM, unused, {}, Step(epoch, 0)), {})


def test_the_fused_loss_is_the_cross_entropy_of_each_sample(outputs: Made) -> None:
    (term,) = terms_of(FusedLoss(), outputs, BOTH).items()
    assert term[0] == FUSED
    assert term[1].tolist() == pytest.approx(cross_entropies(outputs.logits_BC), rel=1e-5)


def test_unimodal_losses_are_weighted_by_the_number_of_active_modalities(outputs: Made) -> None:
    terms = terms_of(UnimodalLosses(together=0.5, alone=2.0), outputs, BOTH)
    audio, video = (cross_entropies(outputs.head_logits[m]) for m in ("audio", "video"))
    expected_audio = [0.5 * audio[0], 2.0 * audio[1], 0.0, 0.5 * audio[3]]
    expected_video = [0.5 * video[0], 0.0, 2.0 * video[2], 0.5 * video[3]]
    assert terms["audio"].tolist() == pytest.approx(expected_audio, rel=1e-5)
    assert terms["video"].tolist() == pytest.approx(expected_video, rel=1e-5)


def test_each_modality_may_have_a_weight_of_its_own(outputs: Made) -> None:
    own = UnimodalLosses(together={"audio": 0.5, "video": 3.0}, alone={"audio": 2.0, "video": 0.25})
    found, audio, video = (
        terms_of(rule, outputs, BOTH) for rule in (own, UnimodalLosses(0.5, 2.0), UnimodalLosses(3.0, 0.25))
    )
    assert torch.equal(found["audio"], audio["audio"])
    assert torch.equal(found["video"], video["video"])


def test_weights_may_be_functions_of_the_epoch(outputs: Made) -> None:
    rule = UnimodalLosses(lambda epoch: 0.5 + epoch, lambda epoch: {"audio": 2.0 + epoch, "video": 3.0})
    for epoch in (0, 4):
        found = terms_of(rule, outputs, BOTH, epoch)
        same = UnimodalLosses(0.5 + epoch, {"audio": 2.0 + epoch, "video": 3.0})
        assert all(torch.equal(found[m], term) for m, term in terms_of(same, outputs, BOTH).items())


def test_a_head_that_did_not_run_has_no_term(outputs: Made) -> None:
    del outputs.head_logits["video"]
    active = {"audio": torch.ones(4, dtype=torch.bool), "video": torch.zeros(4, dtype=torch.bool)}
    terms = terms_of(UnimodalLosses(0.5, 2.0), outputs, active)
    assert list(terms) == ["audio"]
    assert terms["audio"].tolist() == pytest.approx(
        [2.0 * loss for loss in cross_entropies(outputs.head_logits["audio"])]
    )


def test_an_inactive_head_has_no_term(outputs: Made) -> None:
    """As in the released code, the head of a masked modality has gradients of None, even if its encoder ran."""
    outputs.head_logits["video"].requires_grad_()
    outputs.head_logits["audio"].requires_grad_()
    terms = terms_of(UnimodalLosses(0.5, 2.0), outputs, {"audio": torch.ones(4, dtype=torch.bool)})
    torch.autograd.backward(torch.stack([term.sum() for term in terms.values()]).sum())
    assert list(terms) == ["audio"]
    assert outputs.head_logits["video"].grad is None
    assert outputs.head_logits["audio"].grad is not None


def test_inactive_rows_get_no_gradient(outputs: Made) -> None:
    for logits_BC in outputs.head_logits.values():
        logits_BC.requires_grad_()
    terms = terms_of(UnimodalLosses(1.0, 1.0), outputs, BOTH)
    torch.autograd.backward(torch.stack([term.sum() for term in terms.values()]).sum())
    for m, logits_BC in outputs.head_logits.items():
        assert logits_BC.grad is not None
        assert logits_BC.grad.abs().sum(dim=1).gt(0).tolist() == BOTH[m].tolist()


def test_three_modalities_active_two_at_a_time_count_as_together(outputs: Made) -> None:
    outputs.head_logits["depth"] = outputs.logits_BC
    active = {**BOTH, "depth": torch.tensor([False, True, False, True])}
    terms = terms_of(UnimodalLosses(0.5, 2.0), outputs, active)
    depth = cross_entropies(outputs.logits_BC)
    assert terms["depth"].tolist() == pytest.approx([0.0, 0.5 * depth[1], 0.0, 0.5 * depth[3]], rel=1e-5)
    assert terms["audio"][1].item() == pytest.approx(0.5 * cross_entropies(outputs.head_logits["audio"])[1], rel=1e-5)


@pytest.mark.parametrize("rule", [FusedLoss(), UnimodalLosses(1.0, 1.0)])
def test_losses_are_float32_for_any_logits(outputs: Made, rule: FusedLoss | UnimodalLosses) -> None:
    half = Made(outputs.logits_BC.bfloat16(), {m: x.bfloat16() for m, x in outputs.head_logits.items()})
    assert all(term.dtype == torch.float32 for term in terms_of(rule, half, BOTH).values())


def test_smoothed_and_weighted_losses_equal_the_written_formula(outputs: Made) -> None:
    """Target (1 - s) one-hot + s / C, and a factor for each class of the target, in every term."""
    weights, smoothing = (0.5, 2.0, 1.0), 0.3
    ce = CrossEntropy(smoothing, weights)

    def expected(logits_BC: torch.Tensor) -> list[float]:
        found = []
        for row, label in zip(logits_BC.tolist(), LABELS.tolist(), strict=True):
            logs = [value - math.log(sum(map(math.exp, row))) for value in row]
            target = [(1 - smoothing) * (c == label) + smoothing / 3 for c in range(3)]
            found.append(-sum(w * t * log for w, t, log in zip(weights, target, logs, strict=True)))
        return found

    assert terms_of(FusedLoss(ce), outputs, BOTH)[FUSED].tolist() == pytest.approx(
        expected(outputs.logits_BC), rel=1e-5
    )
    terms = terms_of(UnimodalLosses(1.0, 1.0, ce), outputs, BOTH)
    for m, active_B in BOTH.items():
        wanted = [loss * on for loss, on in zip(expected(outputs.head_logits[m]), active_B.tolist(), strict=True)]
        assert terms[m].tolist() == pytest.approx(wanted, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn_and_average_to_one() -> None:
    labels_N = np.array([0, 0, 0, 0, 1, 2, 2])
    weights = balanced_weights(labels_N, 3)
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels_N))
    assert np.mean([weights[label] for label in labels_N]) == pytest.approx(1.0)
    assert balanced_weights(np.array([0, 2]), 3) == pytest.approx((2 / 3, 1.0, 2 / 3))
