"""DGL against its formula, sample by sample"""

# B samples of the global batch, M modalities, C classes

import pytest
import torch
from torch import nn

from remix_study.balancing import CrossEntropy, FusedLoss, Step, UnimodalLosses, Window
from remix_study.balancing.dgl import DGL
from remix_study.models import ConcatFusion, DecisionFusion, FiLMFusion, Fusion, GatedFusion, MultimodalModel, SumFusion
from remix_study.models.masking import LearnedToken, ZeroInput
from remix_study.sample import Batch
from tests.unit.balancing.linear import AT, ROWS, alone_of, batch_of, gradients_of, model_of, part_of

PAIR, TRIPLE = ("audio", "video"), ("audio", "text", "video")
CASES = [(fusion, PAIR) for fusion in (ConcatFusion, SumFusion, DecisionFusion, FiLMFusion, GatedFusion)] + [
    (fusion, TRIPLE) for fusion in (ConcatFusion, SumFusion, DecisionFusion, GatedFusion)
]


def dgl(model: MultimodalModel, alpha: float = 2.5, window: Window = Window()) -> DGL:  # noqa: B008 - immutable
    return DGL(model.modalities, alpha, CrossEntropy(), window=window)


def is_encoder(name: str) -> bool:
    return name.startswith("encoders.")


def losses_alone(model: MultimodalModel, batch: Batch, m: str) -> list[torch.Tensor]:
    """The loss of each sample if the fusion sees the features of one modality, and zeros elsewhere."""
    found = []
    for row in range(ROWS):
        features = {other: torch.zeros(1, width) for other, width in model.widths.items()}
        features[m] = model.encode(m, batch.inputs[m][row : row + 1])
        only = torch.tensor([[other == m for other in model.modalities]])
        heads = {other: model.heads[other](features[other]) for other in model.modalities}
        logits = model.fusion(features, only, heads)[0]
        found.append(-logits.log_softmax(dim=0)[batch.labels_B[row]])
    return found


@pytest.mark.parametrize(("fusion", "modalities"), CASES)
def test_encoders_learn_from_the_unimodal_losses_and_the_fusion_from_the_fused_loss_only(
    fusion: type[Fusion], modalities: tuple[str, ...]
) -> None:
    model = model_of(fusion, modalities)
    batch = batch_of(model)
    joint = gradients_of(model, batch, FusedLoss())
    rule = dgl(model)
    found = gradients_of(model, batch, FusedLoss(), rule)
    model.zero_grad(set_to_none=True)
    means = {m: torch.stack(losses_alone(model, batch, m)).mean() for m in model.modalities}
    torch.autograd.backward(2.5 * torch.stack(list(means.values())).sum())
    assert found.keys() == joint.keys()
    for name, parameter in model.named_parameters():
        if is_encoder(name):
            assert parameter.grad is not None
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
            assert not torch.allclose(found[name], joint[name])
        elif name in joint:
            torch.testing.assert_close(found[name], joint[name], rtol=1e-4, atol=1e-6)
    assert rule.metrics() == pytest.approx(
        {f"method/dgl/cross_entropy/{m}": float(mean.detach()) for m, mean in means.items()}, rel=1e-4
    )


def test_the_loss_of_an_encoder_has_the_whole_bias_of_the_fusion() -> None:
    """Not its share b / M, which is in the part of the modality in the fused logits."""
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    found = gradients_of(model, batch, FusedLoss(), dgl(model, alpha=1.0))
    weights = dict(model.named_parameters())

    def gradient(bias: torch.Tensor) -> torch.Tensor:
        features = model.encode("audio", batch.inputs["audio"])
        logits = features @ weights["fusion.out.weight"][:, : features.shape[1]].detach().T + bias.detach()
        loss = nn.functional.cross_entropy(logits, batch.labels_B)
        return torch.autograd.grad(loss, weights["encoders.audio.layer.weight"])[0]

    bias = weights["fusion.out.bias"]
    torch.testing.assert_close(found["encoders.audio.layer.weight"], gradient(bias))
    assert not torch.allclose(found["encoders.audio.layer.weight"], gradient(bias / 2), rtol=1e-2)


@pytest.mark.parametrize("fusion", [ConcatFusion, DecisionFusion, GatedFusion])
def test_a_unimodal_batch_trains_its_encoder_and_the_fusion_apart(fusion: type[Fusion]) -> None:
    model = model_of(fusion)
    batch = alone_of(batch_of(model), "audio")
    joint, found = (gradients_of(model, batch, *rules) for rules in ((FusedLoss(),), (FusedLoss(), dgl(model))))
    assert found.keys() == joint.keys()
    assert not [name for name in found if name.startswith(("encoders.video", "heads.video"))]
    for name in found:  # z is u_m, so that only the weight of the encoder's loss differs
        factor = 2.5 if is_encoder(name) else 1.0
        torch.testing.assert_close(found[name], joint[name] * factor, rtol=1e-4, atol=1e-6)


def test_alpha_0_leaves_the_encoders_to_the_losses_of_their_own_heads() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    heads = UnimodalLosses(1.0, 1.0)
    found = gradients_of(model, batch, FusedLoss(), heads, dgl(model, alpha=0.0))
    fused, alone = gradients_of(model, batch, FusedLoss()), gradients_of(model, batch, heads)
    for name in found:
        torch.testing.assert_close(found[name], (fused if name.startswith("fusion") else alone)[name])


def test_outside_its_window_it_changes_nothing() -> None:
    model = model_of(ConcatFusion)
    batch, rule = batch_of(model), dgl(model, window=Window(3))
    plain = gradients_of(model, batch, FusedLoss())
    found = gradients_of(model, batch, FusedLoss(), rule, at=Step(2, 0, ROWS, ROWS))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert rule.metrics() == {}


def test_metrics_are_means_over_all_samples_also_after_a_resume() -> None:
    model = model_of(ConcatFusion)
    batch = batch_of(model)
    whole, parts, resumed = dgl(model), dgl(model), dgl(model)
    gradients_of(model, batch, FusedLoss(), whole)
    gradients_of(model, part_of(batch, slice(0, 2)), FusedLoss(), parts, at=AT)
    resumed.restore(parts.state())
    gradients_of(model, part_of(batch, slice(2, ROWS)), FusedLoss(), resumed)
    assert resumed.metrics() == pytest.approx(whole.metrics(), rel=1e-5)


@pytest.mark.parametrize("kind", ["zero_input", "learned_token"])
def test_the_fused_loss_reaches_no_encoder_through_a_replacement(kind: str) -> None:
    """A learned token belongs to the fusion, and the feature of an input of zeros to the encoder."""
    plain = model_of(ConcatFusion)
    masking = ZeroInput(dict.fromkeys(PAIR, (3,))) if kind == "zero_input" else LearnedToken(plain.widths)
    model = MultimodalModel({m: plain.encoders[m] for m in PAIR}, plain.fusion, masking)  # type: ignore[misc]
    found = gradients_of(model, alone_of(batch_of(model), "audio"), FusedLoss(), dgl(model))
    assert not [name for name in found if name.startswith("encoders.video")]
    assert ("masking.tokens.video" in found) == (kind == "learned_token")
