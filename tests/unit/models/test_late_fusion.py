"""MultimodalModel: both maskings, mixed batches, and encoders of inactive modalities"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from remix_study.models import (
    AttentionFusion,
    CentralNetFusion,
    ConcatFusion,
    DecisionFusion,
    Encoder,
    FiLMFusion,
    Fusion,
    GatedFusion,
    MMTMFusion,
    MultimodalModel,
    Outputs,
    PublishedFiLMFusion,
    PublishedGatedFusion,
    SumFusion,
    TinyEncoder,
    VectorEncoder,
)
from remix_study.sample import Batch

BuildModel = Callable[..., MultimodalModel]
BuildBatch = Callable[..., Batch]
PAIR = ("audio", "video")
TRIPLE = ("audio", "video", "text")
PICTURES = ("audio", "video", "flow")
ANY_M: list[type[Fusion]] = [ConcatFusion, SumFusion, DecisionFusion, GatedFusion, AttentionFusion]
OF_TWO: list[type[Fusion]] = [*ANY_M, FiLMFusion, PublishedFiLMFusion, PublishedGatedFusion]
INSIDE: list[type[Fusion]] = [MMTMFusion, CentralNetFusion]
CASES = [(fusion, PAIR) for fusion in [*OF_TWO, *INSIDE]] + [(fusion, TRIPLE) for fusion in ANY_M]
CASES += [(fusion, PICTURES) for fusion in INSIDE]
each_fusion = pytest.mark.parametrize(("fusion", "modalities"), CASES)


def mixed_rows(modalities: tuple[str, ...]) -> list[list[int]]:
    """Return rows in which each modality is active alone, rows with all modalities, and for M = 3 one row with two."""
    M = len(modalities)
    rows = [[int(m == alone) for m in range(M)] for alone in range(M)]
    return [*rows, [1] * M, *rows[::-1], [1] * M, [1, *[0] * (M - 2), 1]]


def active_names(batch: Batch) -> list[list[str]]:
    """The names of the active modalities of each sample."""
    return [[m for m, on in zip(batch.modalities, row, strict=True) if on] for row in batch.active_BM.tolist()]


def loss_as_in_training(outputs: Outputs, batch: Batch) -> torch.Tensor:
    loss = functional.cross_entropy(outputs.logits_BC, batch.labels_B)
    for column, m in enumerate(batch.modalities):
        if m in outputs.head_logits and batch.active_BM[:, column].any():
            loss = loss + functional.cross_entropy(outputs.head_logits[m], batch.labels_B)
    return loss


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


@each_fusion
def test_a_mixed_batch_equals_its_single_rows(
    fusion: type[Fusion], modalities: tuple[str, ...], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(fusion, modalities).eval()
    active = mixed_rows(modalities)
    full = build_batch(active, modalities, all_rows=True)
    with torch.no_grad():
        together = model(build_batch(active, modalities))
        for row, actives in enumerate(active):
            inputs = {m: full.inputs[m][row : row + 1] for m, on in zip(modalities, actives, strict=True) if on}
            single = Batch(modalities, inputs, full.active_BM[row : row + 1], full.labels_B[:1], full.samples_B[:1])
            alone = model(single)
            torch.testing.assert_close(together.logits_BC[row], alone.logits_BC[0], rtol=1e-4, atol=1e-5)
            for m in inputs:
                torch.testing.assert_close(together.head_logits[m][row], alone.head_logits[m][0], rtol=1e-4, atol=1e-5)


@each_fusion
def test_both_maskings_and_fuse_agree_in_evaluation(
    fusion: type[Fusion], modalities: tuple[str, ...], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(fusion, modalities).eval()
    active = mixed_rows(modalities)
    full = build_batch(active, modalities, all_rows=True)
    with torch.no_grad():
        skipped, zeroed = model(build_batch(active, modalities)), model(full)
        features, by_subset = model.subsets(full.inputs, {frozenset(each) for each in active_names(full)})
        fused = torch.stack([by_subset[frozenset(each)][row] for row, each in enumerate(active_names(full))])
        for m in modalities:
            torch.testing.assert_close(features[m], model.encode(m, full.inputs[m]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(skipped.logits_BC, zeroed.logits_BC, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused, zeroed.logits_BC, rtol=1e-4, atol=1e-5)
    for column, m in enumerate(modalities):
        for outputs in (skipped, zeroed):
            assert (outputs.features[m][~full.active_BM[:, column]] == 0).all()
            assert outputs.features[m][full.active_BM[:, column]].abs().sum() > 0


@each_fusion
def test_a_skipped_encoder_has_no_gradients_and_unchanged_statistics(
    fusion: type[Fusion], modalities: tuple[str, ...], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    for column, active in enumerate(modalities):
        model = build_model(fusion, modalities).train()
        before = {m: running_statistics(model.encoders[m]) for m in modalities}
        batch = build_batch([[int(c == column) for c in range(len(modalities))]] * 4, modalities)
        outputs = model(batch)
        torch.autograd.backward(loss_as_in_training(outputs, batch))
        assert set(outputs.head_logits) == {active}
        for m in modalities:
            gradients = [p.grad for part in (model.encoders[m], model.heads[m]) for p in part.parameters()]
            updated = [not torch.equal(a, b) for a, b in zip(before[m], model.encoders[m].buffers(), strict=True)]
            if m == active:
                assert all(g is not None and g.abs().sum() > 0 for g in gradients[:1])
                assert all(updated)
            else:
                assert all(g is None for g in gradients)
                assert not any(updated)
                assert (outputs.features[m] == 0).all()


@each_fusion
def test_a_zeroed_encoder_has_zero_gradients_and_updated_statistics(
    fusion: type[Fusion], modalities: tuple[str, ...], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    for column, active in enumerate(modalities):
        model = build_model(fusion, modalities).train()
        before = {m: running_statistics(model.encoders[m]) for m in modalities}
        batch = build_batch([[int(c == column) for c in range(len(modalities))]] * 4, modalities, all_rows=True)
        outputs = model(batch)
        torch.autograd.backward(loss_as_in_training(outputs, batch))
        for m in modalities:
            for p in model.encoders[m].parameters():
                assert p.grad is not None
                assert bool((p.grad == 0).all()) or m == active
            for a, b in zip(before[m], model.encoders[m].buffers(), strict=True):
                assert not torch.equal(a, b)
            if m != active:
                assert (outputs.features[m] == 0).all()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoders[active].parameters())


def test_an_empty_input_is_treated_as_absent(build_model: BuildModel, build_batch: BuildBatch) -> None:
    model = build_model(ConcatFusion).train()
    batch = build_batch([[1, 0]] * 4)
    with_empty = Batch(
        PAIR, {**batch.inputs, "video": torch.zeros(0, 3, 2, 32, 32)}, batch.active_BM, batch.labels_B, batch.samples_B
    )
    outputs = model(with_empty)
    outputs.logits_BC.sum().backward()
    assert "video" not in outputs.head_logits
    assert all(p.grad is None for p in model.encoders["video"].parameters())


def test_inactive_rows_give_no_gradient_in_a_mixed_batch(build_model: BuildModel, build_batch: BuildBatch) -> None:
    model = build_model(GatedFusion).eval()
    batch = build_batch([[1, 1], [0, 1], [1, 0]], all_rows=True)
    batch.inputs["audio"].requires_grad_()
    model(batch).logits_BC.square().sum().backward()
    gradient = batch.inputs["audio"].grad
    assert gradient is not None
    assert (gradient.flatten(1).norm(dim=1) > 0).tolist() == [True, False, True]


def test_a_unimodal_model_uses_its_column_of_a_multimodal_batch(
    build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(ConcatFusion, ("video",)).eval()
    batch = build_batch([[1, 1], [1, 0], [0, 1]])
    outputs = model(batch)
    assert (outputs.features["video"].abs().sum(1) > 0).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="lacks text"):
        build_model(ConcatFusion, TRIPLE)(batch)


def test_without_active_modalities_logits_are_the_bias(build_model: BuildModel, build_batch: BuildBatch) -> None:
    batch = build_batch([[0, 0], [0, 0]])
    concat = build_model(ConcatFusion)
    assert isinstance(concat.fusion, ConcatFusion)
    nn.init.normal_(concat.fusion.out.bias)
    torch.testing.assert_close(concat(batch).logits_BC, concat.fusion.out.bias.expand(2, -1))
    decision = build_model(DecisionFusion)
    state = decision.state_dict()
    biases = (state["heads.audio.bias"] + state["heads.video.bias"]) / 2
    torch.testing.assert_close(decision(batch).logits_BC, biases.expand(2, -1))


@pytest.mark.parametrize("fusion", OF_TWO)
def test_channels_last_gives_the_same_outputs(
    fusion: type[Fusion], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    plain, last = build_model(fusion), build_model(fusion)
    last.to(memory_format=torch.channels_last)
    batch = build_batch([[1, 1], [1, 0], [0, 1], [1, 1]])
    torch.testing.assert_close(last(batch).logits_BC, plain(batch).logits_BC, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("fusion", "modalities"), CASES)
def test_the_seed_determines_the_initial_weights(
    fusion: type[Fusion], modalities: tuple[str, ...], build_model: BuildModel
) -> None:
    one, same, other = (build_model(fusion, modalities, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_wrong_number_of_rows_raises(build_model: BuildModel, build_batch: BuildBatch) -> None:
    model = build_model(ConcatFusion)
    batch = build_batch([[1, 1], [1, 0], [0, 1], [0, 1]])
    for video, given in ({"video": batch.inputs["video"][:2]}, 2), ({}, 0):
        cut = Batch(PAIR, {"audio": batch.inputs["audio"], **video}, batch.active_BM, batch.labels_B, batch.samples_B)
        with pytest.raises(
            ValueError, match=rf"'video'.* all 4 rows of the batch or its 3 active ones, but has {given}"
        ):
            model(cut)


def test_encoders_and_fusion_must_agree(build_model: BuildModel) -> None:
    pair = build_model(ConcatFusion)
    encoders = {"audio": build_model(ConcatFusion, ("audio",)).encoders["audio"]}
    with pytest.raises(ValueError, match="the encoders have audio and the fusion audio, video"):
        MultimodalModel(encoders, pair.fusion)  # type: ignore[arg-type]  # ModuleDict loses the type of its values


def narrow(width: int) -> Encoder:
    """Return an encoder whose BatchNorm sees one value per channel of each sample."""
    encoder = VectorEncoder(10, width=width)
    encoder.layers.append(nn.BatchNorm1d(width))
    return encoder


def test_one_value_per_channel_uses_running_statistics_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """BatchNorm itself raises for it."""
    torch.manual_seed(0)
    model = MultimodalModel({"text": narrow(6)}, ConcatFusion({"text": 6}, num_classes=3)).train()
    (norm,) = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    norm.running_mean = torch.linspace(-1, 1, 6)
    before = running_statistics(model)
    active_BM, label_B = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    batch = Batch(("text",), {"text": torch.randn(1, 10)}, active_BM, label_B, label_B)
    first, _ = model(batch), model(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, running_statistics(model), strict=True))
    assert norm.training
    assert not norm._forward_pre_hooks
    assert torch.equal(first.features["text"], copy.deepcopy(model).eval()(batch).features["text"])
    assert caplog.text.count("1 BatchNorm layers see one value per channel") == 1


def test_under_autocast_logits_are_exact_functions_of_the_features(build_batch: BuildBatch) -> None:
    """The largest of 309 bfloat16 logits need not be unique, and ties would go to the lowest class."""
    torch.manual_seed(0)
    modalities = ("audio", "video")
    for fusion in OF_TWO:
        encoders: dict[str, Encoder] = {"audio": TinyEncoder(1), "video": TinyEncoder(3)}
        widths = {m: encoder.out_features for m, encoder in encoders.items()}
        model = MultimodalModel(encoders, fusion(widths, 309)).eval()
        batch = build_batch([[1, 1]] * 6)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(batch)
            fused = model.fuse(outputs.features, batch.active_BM)
            heads = {m: model.classify(m, outputs.features[m]) for m in modalities}
            rough = model.encode("audio", batch.inputs["audio"])
        assert outputs.logits_BC.dtype == rough.dtype == torch.float32
        assert torch.equal(rough, rough.bfloat16().float())  # the encoder computed in bfloat16
        with torch.no_grad():
            assert torch.equal(fused, model.fuse(outputs.features, batch.active_BM))
            assert torch.equal(outputs.logits_BC, fused)
            for m in modalities:
                assert torch.equal(heads[m], model.classify(m, outputs.features[m]))
                assert torch.equal(outputs.head_logits[m], heads[m])
