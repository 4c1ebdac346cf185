"""Abstaining targets against their formula, and whose gradients they change"""

# B samples of a batch, M modalities, C classes

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from remix_study.balancing import FUSED, CrossEntropy, FusedLoss, UnimodalLosses, Window
from remix_study.balancing.abstain import Abstain
from remix_study.balancing.aug import AUG
from remix_study.balancing.dgl import DGL
from remix_study.balancing.losses import AloneLoss
from remix_study.epoch import SplitStatistics, Statistic
from remix_study.models import ConcatFusion, MultimodalModel
from tests.unit.balancing.linear import AT, CLASSES, ROWS, alone_of, batch_of, gradients_of, model_of, part_of, seen
from tests.unit.balancing.passes import FixedPasses, start, statistics

THREE = ("audio", "text", "video")
SMOOTH = CrossEntropy(0.1, (0.5, 1.0, 2.0, 0.7))


def truth(modalities: int = 2) -> np.ndarray:
    """The samples 1 and 4 are uninformative in the first modality."""
    uninformative_NM = np.zeros((ROWS, modalities), np.bool_)
    uninformative_NM[[1, 4], 0] = True
    return uninformative_NM


def abstain(
    modalities: tuple[str, ...] = ("audio", "video"), weight: float | Callable[[int], float] = 1.0, **options: Any
) -> Abstain:
    return Abstain(modalities, np.arange(ROWS), weight, truth(len(modalities)), **options)


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
@pytest.mark.parametrize(("ce", "weight"), [(CrossEntropy(), 1.0), (SMOOTH, 0.3), (CrossEntropy(), 0.0)])
def test_a_judged_sample_has_a_uniform_target(modalities: tuple[str, ...], ce: CrossEntropy, weight: float) -> None:
    """Label smoothing leaves it as it is, and the class weight is that of the sample's class."""
    model = model_of(ConcatFusion, modalities)
    of = seen(model, batch_of(model))
    plain = UnimodalLosses(0.5, 2.0, ce).loss(of, FusedLoss(ce).loss(of, {}))
    after = UnimodalLosses(0.5, 2.0, ce, abstain(modalities, weight)).loss(of, FusedLoss(ce).loss(of, {}))
    for name in (FUSED, *modalities[1:]):
        assert torch.equal(after[name], plain[name])
    uniform_BC = torch.full((ROWS, CLASSES), 1 / CLASSES)
    expected_B = 0.5 * weight * functional.cross_entropy(of.outputs.head_logits["audio"], uniform_BC, reduction="none")
    if ce.class_weights is not None:
        expected_B = expected_B * torch.tensor(ce.class_weights)[of.labels_B]
    judged_B = torch.from_numpy(truth()[:, 0])
    torch.testing.assert_close(after["audio"], torch.where(judged_B, expected_B, plain["audio"]))


def test_the_weight_is_that_of_the_epoch() -> None:
    model = model_of(ConcatFusion)
    of = seen(model, batch_of(model))
    targets = abstain(weight={AT.epoch: 0.3}.__getitem__)
    changing, constant = (
        UnimodalLosses(1.0, 1.0, targets=each).loss(of, {}) for each in (targets, abstain(weight=0.3))
    )
    assert torch.equal(changing["audio"], constant["audio"])


def test_only_the_head_and_the_encoder_of_the_judged_modality_learn_otherwise() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    plain, found = (
        gradients_of(model, batch, FusedLoss(), UnimodalLosses(1.0, 1.0, CrossEntropy(), targets))
        for targets in (None, abstain())
    )
    changed = {name for name, gradient in found.items() if not torch.equal(gradient, plain[name])}
    own = {*model.encoder_parameters("audio"), *model.head_parameters("audio")}
    assert changed == {name for name, p in model.named_parameters() if p in own}


def test_where_nobody_is_judged_the_losses_are_the_same_bits() -> None:
    model = model_of(ConcatFusion)
    of = seen(model, batch_of(model))
    nobody = Abstain(model.modalities, np.arange(ROWS), 1.0, np.zeros((ROWS, 2), np.bool_))
    plain, found = (UnimodalLosses(1.0, 1.0, CrossEntropy(), targets).loss(of, {}) for targets in (None, nobody))
    assert all(torch.equal(found[m], plain[m]) for m in plain)


def test_in_a_unimodal_batch_the_head_abstains_and_the_fused_loss_keeps_the_label() -> None:
    model = model_of(ConcatFusion)
    of = seen(model, alone_of(batch_of(model), "audio"))
    terms = UnimodalLosses(1.0, 2.0, CrossEntropy(), abstain()).loss(of, FusedLoss().loss(of, {}))
    assert terms.keys() == {FUSED, "audio"}
    assert torch.equal(terms[FUSED], CrossEntropy()(of.outputs.logits_BC, of.labels_B))
    uniform_B = CrossEntropy().to_uniform(of.outputs.head_logits["audio"], of.labels_B)
    torch.testing.assert_close(terms["audio"][[1, 4]], 2 * uniform_B[[1, 4]])


def test_micro_batches_sum_to_the_whole_batch() -> None:
    model = model_of(ConcatFusion)
    rule = UnimodalLosses(1.0, 1.0, CrossEntropy(), abstain())
    batch = batch_of(model)
    whole = rule.loss(seen(model, batch), {})
    parts = [rule.loss(seen(model, part_of(batch, rows)), {}) for rows in (slice(0, 4), slice(4, ROWS))]
    for m in model.modalities:
        torch.testing.assert_close(torch.cat([part[m] for part in parts]), whole[m])


def test_a_model_of_one_modality_abstains_with_its_only_head() -> None:
    model = model_of(ConcatFusion, ("audio",))
    of = seen(model, batch_of(model))
    (term_B,) = AloneLoss("audio", CrossEntropy(), abstain(("audio",))).loss(of, {}).values()
    expected_B = CrossEntropy().to_uniform(of.outputs.logits_BC, of.labels_B)
    assert torch.equal(term_B[[1, 4]], expected_B[[1, 4]])
    assert torch.equal(term_B[[0, 2]], CrossEntropy()(of.outputs.logits_BC, of.labels_B)[[0, 2]])


def test_the_losses_of_the_encoders_in_dgl_abstain() -> None:
    model = model_of(ConcatFusion)
    of = seen(model, batch_of(model))
    plain, found = (
        DGL(model.modalities, 2.0, CrossEntropy(), window=Window(), targets=targets).loss(
            of, {FUSED: torch.zeros(ROWS)}
        )
        for targets in (None, abstain())
    )
    changed_B = found["dgl/audio"] != plain["dgl/audio"]
    assert changed_B.nonzero().flatten().tolist() == [1, 4]
    for name in (FUSED, "dgl/video"):
        assert torch.equal(found[name], plain[name])


def test_all_heads_of_aug_abstain_in_full() -> None:
    model = model_of(ConcatFusion)
    model.prepare_heads(1)
    model.add_head("audio")
    of = seen(model, batch_of(model))
    ce = CrossEntropy()
    aug = AUG(model.modalities, 1, 0.0, 0.5, 1.0, 1.0, window=Window(), cross_entropy=ce, targets=abstain())
    before_BC, last_BC = model.classify_each("audio", of.outputs.features["audio"])
    expected_B = 0.5 * (ce.to_uniform(before_BC, of.labels_B) + ce.to_uniform(last_BC, of.labels_B))
    torch.testing.assert_close(aug.loss(of, {})["aug/audio"][[1, 4]], expected_B[[1, 4]])


class Listed:
    """A detector with given results, which counts its calls."""

    needs: frozenset[Statistic] = frozenset(("probabilities",))

    def __init__(self, judged_NM: np.ndarray, *, reads_control: bool = False) -> None:
        self.judged_NM, self.reads_control, self.asked = judged_NM, reads_control, 0

    def judge(self, train: SplitStatistics, control: SplitStatistics | None) -> np.ndarray:
        assert (control is not None) == self.reads_control
        assert len(train.labels_N) == ROWS
        self.asked += 1
        return self.judged_NM

    def state(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


def judged(model: MultimodalModel, *, reads_control: bool = False) -> Abstain:
    """Targets whose detector has judged the samples 1, 2 and 3 uninformative in audio."""
    wrong_NM = np.zeros((ROWS, 2), np.bool_)
    wrong_NM[1:4, 0] = True
    targets = abstain(detector=Listed(wrong_NM, reads_control=reads_control), begin=2, every=3)
    found = statistics(model, batch_of(model))
    targets.begin(start(2, model, FixedPasses(found, found if reads_control else None)))
    return targets


@pytest.mark.parametrize("reads_control", [False, True])
def test_a_detector_judges_when_it_is_due_and_is_measured_against_the_truth(reads_control: bool) -> None:
    model = model_of(ConcatFusion)
    targets = judged(model, reads_control=reads_control)
    assert [epoch for epoch in range(9) if targets.due(epoch)] == [2, 5, 8]
    assert targets.needs == {"probabilities"}
    assert targets.metrics() == {
        "targets/uninformative/audio": 0.5,
        "targets/precision/audio": pytest.approx(1 / 3),
        "targets/recall/audio": 0.5,
        "targets/uninformative/video": 0.0,
    }
    assert targets.metrics() == targets.metrics()  # epochs without a judgement keep the last one


def test_the_truth_is_known_from_the_first_epoch_and_never_judged() -> None:
    targets = abstain()
    assert not any(targets.due(epoch) for epoch in range(9))
    assert targets.needs == frozenset()
    assert targets.metrics() == {"targets/uninformative/audio": pytest.approx(1 / 3), "targets/uninformative/video": 0}


def test_resumed_targets_are_the_same() -> None:
    model = model_of(ConcatFusion)
    targets, resumed = judged(model), abstain(detector=Listed(truth()), begin=2, every=3)
    resumed.restore(targets.state())
    assert resumed.metrics() == targets.metrics()
    assert resumed.state()["detector"] == {"asked": 1}
    of = seen(model, batch_of(model), AT)
    one, other = (UnimodalLosses(1.0, 1.0, CrossEntropy(), each).loss(of, {}) for each in (targets, resumed))
    assert all(torch.equal(one[m], other[m]) for m in one)
