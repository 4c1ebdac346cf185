"""ReconBoost's weights against their formula, sample by sample"""

# B samples of a batch, N training samples, M modalities

import math

import numpy as np
import pytest
import torch

from remix_study.balancing import FUSED, FusedLoss, UnimodalLosses, Window
from remix_study.balancing.reconboost import ReconBoost
from remix_study.epoch import SplitStatistics
from remix_study.models import ConcatFusion
from tests.unit.balancing.linear import AT, CLASSES, ROWS, batch_of, model_of, seen
from tests.unit.balancing.passes import FixedPasses, start

THREE = ("audio", "text", "video")


def found_of(logits_NMC: np.ndarray, labels_N: np.ndarray, rows_N: np.ndarray) -> SplitStatistics:
    logs = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
    N, M, _ = logits_NMC.shape
    true_NM = logs[np.arange(N), :, labels_N]
    return SplitStatistics(rows_N, labels_N, np.ones((N, M), np.bool_), -true_NM, log_probabilities_NMC=logs)


def weight(logits_MC: np.ndarray, label: int, m: int, base: float, strength: float) -> float:
    """The weight of one sample, from a plain loop over modalities and classes."""
    others = [sum(logits_MC[j][c] for j in range(len(logits_MC)) if j != m) for c in range(CLASSES)]
    p = math.exp(others[label]) / sum(math.exp(each) for each in others)
    return (base - strength * p) / CLASSES


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
@pytest.mark.parametrize(("base", "strength"), [(5.0, 1.0), (2.0, 2.0)])
def test_unimodal_losses_are_weighted_by_what_the_others_know(
    modalities: tuple[str, ...], base: float, strength: float
) -> None:
    """Samples are found by their rows in the clip store, which are not their positions in the split."""
    model = model_of(ConcatFusion, modalities)
    batch = batch_of(model)
    rows_N = batch.samples_B.numpy()[::-1].copy()
    logits_NMC = np.random.default_rng(0).normal(0, 2, (ROWS, len(modalities), CLASSES))
    labels_N = batch.labels_B.numpy()[::-1].copy()
    rule = ReconBoost(model.modalities, base, strength, window=Window())
    rule.begin(start(AT.epoch, model, FixedPasses(found_of(logits_NMC, labels_N, rows_N))))
    of = seen(model, batch)
    terms = UnimodalLosses(1.0, 1.0).loss(of, FusedLoss().loss(of, {}))
    after = rule.loss(of, terms)
    assert torch.equal(after[FUSED], terms[FUSED])
    wished = np.array(
        [[weight(logits_NMC[n], labels_N[n], m, base, strength) for m in range(len(modalities))] for n in range(ROWS)]
    )
    for m, name in enumerate(model.modalities):
        torch.testing.assert_close(after[name], terms[name] * torch.tensor(wished[::-1, m].copy()).float())
    metrics = rule.metrics()
    assert metrics["method/reconboost/weight/audio"] == pytest.approx(wished[:, 0].mean(), rel=1e-5)
    assert rule.metrics() == {}


def test_a_sample_that_the_others_know_weighs_less() -> None:
    logits_NMC = np.zeros((2, 2, CLASSES))
    logits_NMC[0, 1, 0] = 9.0  # video is certain of the true class of sample 0
    rule = ReconBoost(("audio", "video"), 5.0, 1.0, window=Window())
    model = model_of(ConcatFusion)
    rule.begin(start(0, model, FixedPasses(found_of(logits_NMC, np.zeros(2, np.int64), np.arange(2)))))
    audio_N, video_N = rule.state()["weights"].unbind(dim=1)
    assert audio_N[0] < audio_N[1]
    assert video_N[0] == video_N[1]


def test_a_term_of_a_modality_that_does_not_train_is_not_added() -> None:
    model = model_of(ConcatFusion)
    active = np.array([[True, False]] * ROWS)
    batch = batch_of(model, active)
    rule = ReconBoost(model.modalities, 5.0, 1.0, window=Window())
    found = found_of(np.zeros((ROWS, 2, CLASSES)), batch.labels_B.numpy(), np.arange(ROWS))
    rule.begin(start(AT.epoch, model, FixedPasses(found)))
    of = seen(model, batch)
    after = rule.loss(of, UnimodalLosses(1.0, 1.0).loss(of, FusedLoss().loss(of, {})))
    assert list(after) == [FUSED, "audio"]


def test_it_acts_in_its_window_and_resumes_with_its_weights() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    of = seen(model, batch)
    terms = UnimodalLosses(1.0, 1.0).loss(of, {})
    rule = ReconBoost(model.modalities, 5.0, 1.0, window=Window(AT.epoch + 1))
    assert rule.loss(of, terms) is terms
    assert not rule.due(AT.epoch)
    rule = ReconBoost(model.modalities, 5.0, 1.0, window=Window())
    logits_NMC = np.random.default_rng(1).normal(size=(ROWS, 2, CLASSES))
    rule.begin(start(AT.epoch, model, FixedPasses(found_of(logits_NMC, batch.labels_B.numpy(), np.arange(ROWS)))))
    resumed = ReconBoost(model.modalities, 5.0, 1.0, window=Window())
    resumed.restore(rule.state())
    for name, term in resumed.loss(of, terms).items():
        assert torch.equal(term, rule.loss(of, terms)[name])
