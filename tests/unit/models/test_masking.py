"""Replacements of the features of inactive modalities: their formulas, and who gets which gradient"""

import copy
import pickle
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.nn import functional

from remix_study.metrics import modality_interference
from remix_study.models import (
    ConcatFusion,
    Encoder,
    FiLMFusion,
    Fusion,
    GatedFusion,
    LearnedToken,
    Masking,
    MeanFeature,
    MultimodalModel,
    PublishedFiLMFusion,
    PublishedGatedFusion,
    SumFusion,
    ZeroInput,
)
from remix_study.sample import Batch
from remix_study.tracking.model import FusedLogits

SIZES = {"audio": 3, "video": 2}  # of the inputs
WIDTHS = {"audio": 4, "video": 5}
CLASSES = 3
NAMES = ("zero_input", "mean_feature", "learned_token")
each_masking = pytest.mark.parametrize("name", NAMES)
each_fusion = pytest.mark.parametrize(
    "fusion", [ConcatFusion, SumFusion, GatedFusion, FiLMFusion, PublishedGatedFusion, PublishedFiLMFusion]
)


class Linear(Encoder):
    """A linear layer, with BatchNorm after it if asked for."""

    def __init__(self, size: int, width: int, norm: bool) -> None:
        super().__init__()
        self.out_features = width
        self.linear = nn.Linear(size, width)
        self.norm = nn.BatchNorm1d(width) if norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result if self.norm is None else torch.as_tensor(self.norm(result))


def build(name: str | None, fusion: type[Fusion] = ConcatFusion, *, norm: bool = False) -> MultimodalModel:
    """Return a model with random parameters, and with replacements that are not zero."""
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {m: Linear(SIZES[m], WIDTHS[m], norm) for m in SIZES}
    built: Mapping[str | None, Masking | None] = {
        None: None, "zero_input": ZeroInput({m: (size,) for m, size in SIZES.items()}),
        "mean_feature": MeanFeature(WIDTHS), "learned_token": LearnedToken(WIDTHS),
    }  # fmt: skip
    masking = built[name]
    model = MultimodalModel(encoders, fusion(WIDTHS, CLASSES), masking)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    for m, buffer in model.named_buffers():
        if "mean_" in m or "running_var" in m:
            nn.init.uniform_(buffer, 0.5, 2.0)
    return model.train()


def batch_of(active: list[list[int]], *, all_rows: bool = False) -> Batch:
    active_BM = torch.tensor(active, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    inputs = {m: torch.randn(len(active), size, generator=generator) for m, size in SIZES.items()}
    if not all_rows:
        inputs = {m: x[active_BM[:, i]] for i, (m, x) in enumerate(inputs.items()) if active_BM[:, i].any()}
    rows = torch.arange(len(active))
    return Batch(tuple(SIZES), inputs, active_BM, rows % CLASSES, rows)


MIXED = [[1, 1], [1, 0], [0, 1], [1, 0], [1, 1]]
AUDIO = [[1, 0]] * 4


def loss_of(model: MultimodalModel, batch: Batch) -> torch.Tensor:
    """The fused and the unimodal losses, as in training."""
    outputs = model(batch)
    loss = functional.cross_entropy(outputs.logits_BC, batch.labels_B, reduction="sum")
    for i, m in enumerate(SIZES):
        if m in outputs.head_logits:
            own_B = functional.cross_entropy(outputs.head_logits[m], batch.labels_B, reduction="none")
            loss = loss + (own_B * batch.active_BM[:, i]).sum()
    return loss


def replacement(model: MultimodalModel, m: str) -> torch.Tensor:
    """The replacement by its definition."""
    match model.masking:
        case ZeroInput():
            encoder = copy.deepcopy(model.encoders[m]).eval()
            return torch.as_tensor(encoder(torch.zeros(1, SIZES[m]))[0])
        case MeanFeature():
            return model.masking.get_buffer(f"mean_{m}")
        case LearnedToken():
            return torch.as_tensor(model.masking.tokens[m])
    return torch.zeros(WIDTHS[m])


@each_masking
@each_fusion
@pytest.mark.parametrize("all_rows", [False, True])
def test_the_fusion_reads_the_replacement_of_each_inactive_modality(
    name: str, fusion: type[Fusion], all_rows: bool
) -> None:
    model = build(name, fusion)
    batch, full = batch_of(MIXED, all_rows=all_rows), batch_of(MIXED, all_rows=True)
    encoded = {m: model.encoders[m](full.inputs[m]) for m in SIZES}
    for row, active in enumerate(MIXED):
        features = {
            m: (encoded[m][row] if on else replacement(model, m))[None] for m, on in zip(SIZES, active, strict=True)
        }
        logits_BC = model.fusion(features, torch.tensor([active], dtype=torch.bool), {})
        torch.testing.assert_close(model(batch).logits_BC[row], logits_BC[0])
        torch.testing.assert_close(model.fuse(encoded, full.active_BM)[row], logits_BC[0])


@each_masking
def test_only_the_owner_of_a_replacement_gets_its_gradient(name: str) -> None:
    """With z = W_a f_a + W_v r + b, the gradient in r is sum_i W_v^T (p_i - y_i), over the samples without video."""
    model, batch = build(name), batch_of(AUDIO)
    torch.autograd.backward(loss_of(model, batch))
    z_BC = model(batch).logits_BC
    assert isinstance(model.fusion, ConcatFusion)
    error_BC = z_BC.softmax(dim=1) - functional.one_hot(batch.labels_B, CLASSES)
    wanted_d = (error_BC @ model.fusion.out.weight[:, WIDTHS["audio"] :]).sum(dim=0)
    video = {key: p.grad for key, p in model.encoders["video"].named_parameters()}
    assert all(p.grad is None for p in model.heads["video"].parameters())
    assert all(p.grad is not None for p in model.encoders["audio"].parameters())
    match model.masking:
        case ZeroInput():  # the feature of zeros is the bias
            weight, bias = video["linear.weight"], video["linear.bias"]
            assert weight is not None
            assert not weight.any()
            torch.testing.assert_close(bias, wanted_d)
        case LearnedToken():
            assert list(video.values()) == [None, None]
            torch.testing.assert_close(model.masking.tokens["video"].grad, wanted_d)
            assert model.masking.tokens["audio"].grad is None
        case _:
            assert list(video.values()) == [None, None]


@pytest.mark.parametrize("all_rows", [False, True])
def test_a_token_has_no_gradient_where_every_sample_is_active(all_rows: bool) -> None:
    model = build("learned_token")
    torch.autograd.backward(loss_of(model, batch_of([[1, 1]] * 3, all_rows=all_rows)))
    assert isinstance(model.masking, LearnedToken)
    assert [p.grad for p in model.masking.parameters()] == [None, None]


@each_fusion
@pytest.mark.parametrize("name", ["mean_feature", "learned_token"])
def test_replacements_of_zero_train_as_zero_features(name: str, fusion: type[Fusion]) -> None:
    plain, masked = build(None, fusion), build(name, fusion)
    assert masked.masking is not None
    for each in (*masked.masking.parameters(), *masked.masking.buffers()):
        nn.init.zeros_(each)
    masked.load_state_dict(plain.state_dict(), strict=False)
    for model in (plain, masked):
        torch.autograd.backward(loss_of(model, batch_of(MIXED)))
    others = dict(masked.named_parameters())
    for key, p in plain.named_parameters():
        torch.testing.assert_close(others[key].grad, p.grad)


def test_masking_changes_neither_the_initial_weights_nor_the_order_of_parameters() -> None:
    kept = [key for key, _ in build(None).named_parameters()]
    for name in NAMES:
        model = build(name)
        assert [key for key, _ in model.named_parameters()][: len(kept)] == kept
    fresh = [LearnedToken(WIDTHS), MeanFeature(WIDTHS)]
    assert not any(each.any() for masking in fresh for each in (*masking.parameters(), *masking.buffers()))


def test_zeros_neither_change_nor_use_the_statistics_of_a_batch() -> None:
    """With its statistics, the variance of zeros would be 0, and the running variance would decay to 0."""
    model = build("zero_input", norm=True)
    before = copy.deepcopy(model.encoders["video"]).eval()
    encoder = model.encoders["video"]
    assert isinstance(encoder, Linear)
    assert encoder.norm is not None
    for _ in range(3):
        outputs = model(batch_of(AUDIO))
    torch.testing.assert_close(outputs.features["video"], before(torch.zeros(4, 2)))
    outputs.logits_BC.sum().backward()
    for key, buffer in before.named_buffers():
        assert torch.equal(encoder.get_buffer(key), buffer)
    assert encoder.norm.training
    assert encoder.norm.weight.grad is not None
    for _ in range(50):
        encoder(torch.zeros(4, 2))
    decayed_d = encoder.get_buffer("norm.running_var") / before.get_buffer("norm.running_var")
    assert float(decayed_d.max()) < 0.01


def test_the_mean_is_over_the_samples_that_trained_a_modality_in_the_last_epoch() -> None:
    """For any division over micro-batches and ranks; ranks average their buffers."""
    model = build("mean_feature")
    whole = batch_of(MIXED, all_rows=True)
    wanted = {m: model.encoders[m](whole.inputs[m])[whole.active_BM[:, i]].mean(dim=0) for i, m in enumerate(SIZES)}
    before = {m: replacement(model, m).clone() for m in SIZES}
    parts = [copy.deepcopy(model) for _ in range(2)]
    model(batch_of(MIXED))
    assert all(torch.equal(replacement(model, m), before[m]) for m in SIZES)  # constant within an epoch
    for rank, row in ((0, 0), (1, 1), (1, 2), (1, 3), (0, 4)):
        inputs = {m: x[row : row + 1] for m, x in whole.inputs.items()}
        chosen = (whole.active_BM[row : row + 1], whole.labels_B[:1], whole.samples_B[:1])
        parts[rank](Batch(whole.modalities, inputs, *chosen))
    for one, other in zip(*(part.buffers() for part in parts), strict=True):
        mean = (one + other) / 2
        one.copy_(mean)
        other.copy_(mean)
    for each in (model, *parts):
        each.eval()(batch_of(MIXED))  # evaluation is not observed
        each.end_epoch()
        for m in SIZES:
            torch.testing.assert_close(replacement(each, m), wanted[m])
    model.train()(batch_of(AUDIO))
    model.end_epoch()
    torch.testing.assert_close(replacement(model, "video"), wanted["video"])  # nothing new was seen
    assert not torch.allclose(replacement(model, "audio"), wanted["audio"])


@each_masking
def test_interference_compares_gradients_of_the_own_encoder_only(name: str) -> None:
    """Otherwise, the gradient of an encoder would include that of its replacement in the terms of the others."""
    model, batch = build(name), batch_of([[1, 1]] * 4)
    outputs = model(batch)
    for i, m in enumerate(SIZES):
        only_BM = torch.zeros(4, 2, dtype=torch.bool)
        only_BM[:, i] = True
        alone = functional.cross_entropy(model.fuse(outputs.features, only_BM, trains="encoders"), batch.labels_B)
        (other,) = SIZES.keys() - {m}
        parameters = list(model.encoders[other].parameters())
        assert not any(g.any() for g in torch.autograd.grad(alone, parameters, allow_unused=True, retain_graph=True,
                                                            materialize_grads=True))  # fmt: skip
    assert set(modality_interference(model, batch)) == set(SIZES)


@each_masking
def test_a_saved_model_predicts_without_a_modality(name: str) -> None:
    model = build(name).eval()
    saved = pickle.loads(pickle.dumps(FusedLogits(model, model.modalities)))
    batch = batch_of(AUDIO)
    audio, wanted_BC = batch.inputs["audio"], model(batch).logits_BC
    for missing in (None, torch.empty(0, 2)):
        torch.testing.assert_close(saved(audio, missing), wanted_BC)
    with pytest.raises(ValueError, match="at least one of"):
        saved(None, None)
    for view in ("fused", "late_calibrated"):  # one clip must not be combined with five others
        with pytest.raises(ValueError, match="same number of rows for each modality, but have audio 1, video 5"):
            saved(audio[:1], torch.ones(5, SIZES["video"]), view=view)


def test_a_model_that_an_older_version_pickled_masks_with_zeros() -> None:
    model = build(None).eval()
    del model._modules["masking"]
    loaded = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(loaded(batch_of(MIXED)).logits_BC, build(None).eval()(batch_of(MIXED)).logits_BC)
