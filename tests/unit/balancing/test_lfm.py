"""LFM against its formula, sample by sample"""

# B samples of the global batch, C classes

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from remix_study.balancing import FusedLoss, Step, Window
from remix_study.balancing.lfm import LFM, divergence, weight
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, MultimodalModel, SumFusion
from remix_study.sample import Batch
from tests.unit.balancing.linear import ROWS, alone_of, batch_of, gradients_of, model_of

EPOCHS = 10
LATER = Step(3, 0, ROWS, ROWS)  # a third of the way, a = weight(0.3)


def parts_of(model: MultimodalModel, batch: Batch, row: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The fused logits (C,) of a sample, and the modalities' parts of them, from the weights."""
    features = {m: model.encode(m, batch.inputs[m][row : row + 1]) for m in model.modalities}
    heads = {m: model.heads[m](features[m]) for m in model.modalities}
    everything = torch.ones(1, len(model.modalities), dtype=torch.bool)
    parts = model.fusion.split(features, heads)
    return model.fusion(features, everything, heads)[0], {m: part[0] for m, part in parts.items()}


def written(model: MultimodalModel, batch: Batch, a: float, *, reverse: bool = False) -> torch.Tensor:
    """The mean of 2 (a CE(z) + (1 - a) JS); `reverse`: with KL of the middle and a prediction instead."""
    total = torch.zeros(())
    for row in range(ROWS):
        z, parts = parts_of(model, batch, row)
        pairs = list(itertools.combinations(model.modalities, 2))
        apart = torch.zeros(())
        for pair in pairs:
            predictions = [parts[m].softmax(dim=0) for m in pair]
            middle = (predictions[0] + predictions[1]) / 2
            for p in predictions:
                q, r = (middle, p) if reverse else (p, middle)
                apart = apart + 0.5 * sum(q[c] * torch.log(q[c] / r[c]) for c in range(len(q))) / len(pairs)
        total = total + 2 * (a * -z.log_softmax(dim=0)[batch.labels_B[row]] + (1 - a) * apart) / ROWS
    return total


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize("modalities", [("audio", "video"), ("audio", "text", "video")], ids=len)
def test_the_gradients_are_those_of_the_written_loss(fusion: type[Fusion], modalities: tuple[str, ...]) -> None:
    model = model_of(fusion, modalities)
    batch = batch_of(model)
    rule = LFM(model.modalities, EPOCHS, window=Window())
    found = gradients_of(model, batch, FusedLoss(), rule, at=LATER)
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(written(model, batch, weight(0.3)))
    for name, gradient in found.items():
        expected = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    metrics = rule.metrics()
    assert metrics["method/lfm/weight_fused"] == pytest.approx(2 * weight(0.3), rel=1e-6)
    assert 0 < metrics["method/lfm/divergence"] <= math.log(2)


def test_the_divergence_is_not_that_of_the_released_code() -> None:
    """It has the middle in the place of the prediction, and the other way round."""
    model = model_of(DecisionFusion)
    batch = batch_of(model)
    found = gradients_of(model, batch, FusedLoss(), LFM(model.modalities, EPOCHS, window=Window()), at=LATER)
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(written(model, batch, weight(0.3), reverse=True))
    expected = dict(model.named_parameters())["encoders.audio.layer.weight"].grad
    assert expected is not None
    assert not torch.allclose(found["encoders.audio.layer.weight"], expected, rtol=1e-2)


def test_the_divergence_is_that_of_scipy_for_any_logits() -> None:
    draw = np.random.default_rng(0)
    one, other = (draw.normal(scale=3, size=(20, 5)) for _ in range(2))
    predictions = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (one, other)]
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(*predictions, strict=True)]
    np.testing.assert_allclose(divergence(torch.tensor(one), torch.tensor(other)), expected, atol=1e-6)
    opposite = torch.tensor([[300.0, -300.0]])
    assert divergence(opposite, -opposite).tolist() == pytest.approx([math.log(2)])
    assert divergence(opposite, opposite).tolist() == [0.0]


def test_the_weight_is_the_published_schedule_for_any_number_of_epochs() -> None:
    for epoch, published in ((0, 0.205), (50, 0.437), (100, 0.539), (199, 0.916)):
        assert weight(epoch / 200) == pytest.approx(published, abs=1e-3)
    rule = LFM(("audio", "video"), 8, window=Window())
    model = model_of(DecisionFusion)
    gradients_of(model, batch_of(model), FusedLoss(), rule, at=Step(4, 0, ROWS, ROWS))
    assert rule.metrics()["method/lfm/weight_fused"] == pytest.approx(2 * 0.539, abs=2e-3)
    assert all(0.2 < weight(progress) <= 1 for progress in np.linspace(0, 1, 501))


def test_samples_that_train_one_modality_keep_the_fused_loss() -> None:
    model = model_of(ConcatFusion)
    mixed = batch_of(model, np.array([[True, True], [True, False]] * 3))
    rule = LFM(model.modalities, EPOCHS, window=Window())
    found = gradients_of(model, mixed, FusedLoss(), rule, at=LATER)
    joint = {row: parts_of(model, mixed, row) for row in (0, 2, 4)}
    model.zero_grad(set_to_none=True)
    logits = model(mixed).logits_BC
    ce = torch.nn.functional.cross_entropy(logits, mixed.labels_B, reduction="none")
    apart = sum(
        (divergence(parts["audio"][None], parts["video"][None])[0] for _, parts in joint.values()), torch.zeros(())
    )
    a = weight(0.3)
    torch.autograd.backward((ce[1::2].sum() + 2 * a * ce[::2].sum() + 2 * (1 - a) * apart) / ROWS)
    for name, gradient in found.items():
        expected = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    alone = alone_of(batch_of(model), "audio")
    plain = gradients_of(model, alone, FusedLoss())
    step = Step(3, 0, 0, ROWS)
    assert not rule.acts(step)
    found = gradients_of(model, alone, FusedLoss(), rule, at=step)
    assert all(torch.equal(found[name], gradient) for name, gradient in plain.items())
