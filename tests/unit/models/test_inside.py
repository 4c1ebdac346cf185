"""MMTM and CentralNet: their formulas sample by sample, running means, and what an inactive modality does"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from remix_study.models import (
    CentralNetFusion,
    ImageEncoder,
    InnerFusion,
    MMTMFusion,
    MultimodalModel,
    ResNet18,
    TinyEncoder,
    VectorEncoder,
)
from remix_study.models.inside import Exchange, RunningMean, _pooled
from remix_study.sample import Batch

BuildModel = Callable[..., MultimodalModel]
BuildBatch = Callable[..., Batch]
PICTURES = ("audio", "video", "flow")
EVERY_SUBSET = [[b >> i & 1 for i in range(3)] for b in range(8)]
both = pytest.mark.parametrize("fusion", [MMTMFusion, CentralNetFusion])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomized(model: MultimodalModel) -> MultimodalModel:
    """Randomize what starts at a constant, and would hide errors in a formula: biases, scalars and statistics."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or "scalar" in name:
            nn.init.normal_(parameter, mean=0.5, std=0.5)
    for module in model.modules():
        if isinstance(module, RunningMean):
            nn.init.uniform_(module.mean_C, 0, 2)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def encoder_of(model: MultimodalModel, m: str) -> ImageEncoder:
    encoder = model.encoders[m]
    assert isinstance(encoder, ImageEncoder)
    return encoder


def exchanges_of(model: MultimodalModel) -> list[Exchange]:
    return [module for module in model.modules() if isinstance(module, Exchange)]


def frames_of(x: torch.Tensor) -> torch.Tensor:
    """One sample (1, C, H, W) or (1, C, T, H, W) -> its frames (T, C, H, W)."""
    return x if x.dim() == 4 else x[0].transpose(0, 1)


def mmtm_of_one(model: MultimodalModel, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Logits and features of one sample, of which `inputs` has the active modalities."""
    maps = {m: frames_of(x) for m, x in inputs.items()}
    gain = 2.0
    for stage in range(4):
        maps = {m: encoder_of(model, m).stage(stage, each) for m, each in maps.items()}
        if stage == 0:
            continue
        state = exchanges_of(model)[stage - 1].state_dict()
        squeezes = [maps[m].mean((0, 2, 3)) if m in maps else state[f"means.{m}.mean_C"] for m in model.modalities]
        hidden = (state["squeeze.weight"] @ torch.cat(squeezes) + state["squeeze.bias"]).clamp(min=0)
        for m in maps:
            gate = gain / (1 + torch.exp(-(state[f"excite.{m}.weight"] @ hidden + state[f"excite.{m}.bias"])))
            maps[m] = maps[m] * gate[None, :, None, None]
    features = {m: each.mean((0, 2, 3)) for m, each in maps.items()}
    heads = {m: model.heads[m](features[m]) for m in features}
    return torch.stack(list(heads.values())).mean(0), features


def central_of_one(model: MultimodalModel, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    fusion = model.fusion
    assert isinstance(fusion, CentralNetFusion)
    maps = {m: frames_of(x) for m, x in inputs.items()}
    central = torch.zeros(())
    for stage, size in enumerate([(12, 16), (6, 8), (3, 4), (2, 2)]):  # half of 24 x 32, the smallest sides
        maps = {m: encoder_of(model, m).stage(stage, each) for m, each in maps.items()}
        if stage > 0:
            layers = fusion.convolutions[stage - 1]
            assert isinstance(layers, nn.Sequential)
            convolution, norm = layers[0], layers[1]
            central = fusion.scalar_I[stage - 1] * norm(convolution(central)).clamp(min=0)
        for i, m in enumerate(model.modalities):
            if m in maps:
                own = functional.adaptive_avg_pool2d(maps[m].mean(0, keepdim=True), size)
                central = central + fusion.scalar_IM[stage, i] * own
    logits: torch.Tensor = fusion.out(central.mean((0, 2, 3)))
    return logits, {m: each.mean((0, 2, 3)) for m, each in maps.items()}


@pytest.mark.parametrize(("fusion", "of_one"), [(MMTMFusion, mmtm_of_one), (CentralNetFusion, central_of_one)])
@pytest.mark.parametrize("all_rows", [False, True])
def test_the_formula_sample_by_sample_for_every_subset_of_modalities(
    fusion: type[InnerFusion], of_one: Any, all_rows: bool, build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = randomized(build_model(fusion, PICTURES)).eval()
    full = build_batch(EVERY_SUBSET[1:], PICTURES, all_rows=True)
    with torch.no_grad():
        outputs = model(full if all_rows else build_batch(EVERY_SUBSET[1:], PICTURES))
        for row, active in enumerate(EVERY_SUBSET[1:]):
            own = {m: full.inputs[m][row : row + 1] for m, on in zip(PICTURES, active, strict=True) if on}
            logits_C, features = of_one(model, own)
            torch.testing.assert_close(outputs.logits_BC[row], logits_C, rtol=1e-3, atol=1e-4)
            for m in own:
                torch.testing.assert_close(outputs.features[m][row], features[m], rtol=1e-3, atol=1e-4)


@both
def test_subsets_and_only_equal_a_batch_with_these_modalities(
    fusion: type[InnerFusion], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = randomized(build_model(fusion, PICTURES)).eval()
    full = build_batch([[1, 1, 1]] * 3, PICTURES)
    with torch.no_grad():
        outputs = model(full)
        features, fused = model.subsets(
            full.inputs, [frozenset(m for m, on in zip(PICTURES, each, strict=True) if on) for each in EVERY_SUBSET]
        )
        assert len(fused) == 8
        for names, logits_BC in fused.items():
            batch = build_batch([[int(m in names) for m in PICTURES]] * 3, PICTURES)
            inputs = {m: full.inputs[m] for m in names}
            expected = model(Batch(PICTURES, inputs, batch.active_BM, batch.labels_B, batch.samples_B))
            torch.testing.assert_close(logits_BC, expected.logits_BC, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.only(full, outputs, names), expected.logits_BC, rtol=1e-4, atol=1e-5)
            for m in names if len(names) == 1 else ():
                torch.testing.assert_close(features[m], expected.features[m], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(model.encode(m, full.inputs[m]), features[m], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="fuses inside the encoders"):
        model.fuse(features, full.active_BM)


@both
def test_each_modality_changes_the_logits_that_the_others_give(
    fusion: type[InnerFusion], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(fusion).eval()
    batch = build_batch([[1, 1]] * 4)
    with torch.no_grad():
        together, audio = model(batch), model(build_batch([[1, 0]] * 4))
    assert not torch.allclose(together.logits_BC, audio.logits_BC)
    same = torch.allclose(together.features["audio"], audio.features["audio"])
    assert same == (fusion is CentralNetFusion)  # whose encoders do not depend on each other


def mean_of(exchange: Exchange, m: str) -> RunningMean:
    mean = exchange.means[m]
    assert isinstance(mean, RunningMean)
    return mean


def means_of(model: MultimodalModel) -> list[torch.Tensor]:
    return [module.mean_C.clone() for module in model.modules() if isinstance(module, RunningMean)]


@pytest.mark.parametrize("all_rows", [False, True])
def test_running_means_follow_active_training_samples_only(
    all_rows: bool, build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(MMTMFusion).train()
    video = build_batch([[0, 1]] * 4, all_rows=all_rows)
    model(video)
    for exchange in exchanges_of(model):
        audio, seen = mean_of(exchange, "audio"), mean_of(exchange, "video")
        assert (int(audio.updates), int(seen.updates)) == (0, 1)
        assert (audio.mean_C == 0).all()
        assert (seen.mean_C > 0).any()
    before = means_of(model)
    model.eval()(build_batch([[1, 1]] * 4))
    assert all(torch.equal(a, b) for a, b in zip(before, means_of(model), strict=True))


def test_a_running_mean_is_exact_at_first_and_then_exponential() -> None:
    mean = RunningMean(2)
    batches = torch.randn(30, 5, 2)
    counted = torch.ones(5, dtype=torch.bool)
    for n, batch in enumerate(batches[:10]):
        mean.update(batch, counted)
        torch.testing.assert_close(mean.mean_C, batches[: n + 1].mean((0, 1)))
    expected = mean.mean_C.clone()
    for n, batch in enumerate(batches[10:]):
        chosen = torch.arange(5) <= n % 5
        expected = 0.9 * expected + 0.1 * batch[chosen].mean(0)
        mean.update(batch, chosen)
        mean.update(batch, torch.zeros(5, dtype=torch.bool))  # changes nothing
        torch.testing.assert_close(mean.mean_C, expected)


def test_the_squeeze_of_an_inactive_modality_is_its_running_mean_not_zero(
    build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(MMTMFusion).eval()
    batch = build_batch([[1, 0]] * 2)
    with torch.no_grad():
        unknown = model(batch).logits_BC
        for exchange in exchanges_of(model):
            mean_of(exchange, "video").mean_C.fill_(3.0)
        assert not torch.allclose(model(batch).logits_BC, unknown)


@both
def test_in_a_joint_batch_every_loss_reaches_the_encoders_that_it_depends_on(
    fusion: type[InnerFusion], build_model: BuildModel, build_batch: BuildBatch
) -> None:
    model = build_model(fusion).train()
    outputs = model(build_batch([[1, 1]] * 4))
    losses = {"fused": outputs.logits_BC.square().sum()} | {
        m: each.square().sum() for m, each in outputs.head_logits.items()
    }
    reached = {
        name: [
            m
            for m in model.modalities
            if any(
                g is not None and bool((g != 0).any())
                for g in torch.autograd.grad(
                    loss, list(model.encoders[m].parameters()), retain_graph=True, allow_unused=True
                )
            )
        ]
        for name, loss in losses.items()
    }
    mixed = fusion is MMTMFusion
    assert reached == {
        "fused": ["audio", "video"],
        "audio": ["audio", "video"] if mixed else ["audio"],
        "video": ["audio", "video"] if mixed else ["video"],
    }


def test_a_gate_has_the_factor_of_its_option(build_batch: BuildBatch) -> None:
    def features(gain: float) -> torch.Tensor:
        torch.manual_seed(1)
        encoders: dict[str, Any] = {"audio": TinyEncoder(1), "video": TinyEncoder(3)}
        model = MultimodalModel(encoders, MMTMFusion(encoders, 4, gain=gain)).eval()
        for exchange in exchanges_of(model):
            for parameter in exchange.excite.parameters():
                nn.init.zeros_(parameter)  # so that every gate is gain / 2
        found: torch.Tensor = model(build_batch([[1, 1]] * 2)).features["audio"]
        return found

    plain = features(2.0)
    torch.manual_seed(1)
    encoder = TinyEncoder(1).eval()
    torch.testing.assert_close(plain, encoder(build_batch([[1, 1]] * 2).inputs["audio"]))


@pytest.mark.parametrize("ratio", [1, 4, 1000])
def test_the_hidden_layer_has_the_size_of_its_ratio(ratio: float) -> None:
    encoders: dict[str, Any] = {"audio": TinyEncoder(1), "video": ResNet18(3, width=4)}
    fusion = MMTMFusion(encoders, 4, ratio=ratio)
    totals = [16 + 8, 48 + 16, 128 + 32]
    exchanges = [each for each in fusion.exchanges if isinstance(each, Exchange)]
    assert [each.squeeze.out_features for each in exchanges] == [max(1, int(2 * t / ratio)) for t in totals]


@pytest.mark.parametrize(("size", "target"), [((7, 9), (3, 4)), ((5, 5), (5, 2)), ((4, 4), (4, 4)), ((3, 2), (1, 1))])
def test_pooling_equals_adaptive_average_pooling_and_its_gradient(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *size, requires_grad=True)
    found, expected = _pooled(maps, target), functional.adaptive_avg_pool2d(maps, target)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((each * weight).sum(), maps, retain_graph=True)[0] for each in (found, expected))
    )


def test_pooling_can_be_trained_after_it_was_evaluated() -> None:
    """A tensor of inference mode cannot be used in training, so the cached matrices must not be one."""
    with torch.inference_mode():
        _pooled(torch.randn(1, 1, 11, 13), (4, 5))
    maps = torch.randn(1, 1, 11, 13, requires_grad=True)
    torch.autograd.backward(_pooled(maps, (4, 5)).sum())
    assert maps.grad is not None


@pytest.mark.parametrize("build", [TinyEncoder, lambda channels: ResNet18(channels, width=4)], ids=["tiny", "resnet18"])
@pytest.mark.parametrize("size", [(33, 40), (64, 50)])
def test_stages_have_the_sizes_that_they_state(build: Callable[[int], ImageEncoder], size: tuple[int, int]) -> None:
    encoder = build(2).eval()
    maps = x = torch.randn(3, 2, *size)
    for stage, (stride, channels) in enumerate(zip(encoder.strides, encoder.channels, strict=True)):
        size = (-(-size[0] // stride), -(-size[1] // stride))
        maps = encoder.stage(stage, maps)
        assert maps.shape == (3, channels, *size)
    assert channels == encoder.out_features
    torch.testing.assert_close(maps, encoder.maps(x))


@both
def test_one_sample_can_be_trained(fusion: type[InnerFusion], build_model: BuildModel, build_batch: BuildBatch) -> None:
    """The last maps of 16 x 16 pixels have one value per channel, from which BatchNorm has no statistics."""
    model = build_model(fusion).train()
    batch = build_batch([[1, 1]])
    inputs = {m: x[..., :16, :16] for m, x in batch.inputs.items()}
    model.fusion.sizes = [(8, 8), (4, 4), (2, 2), (1, 1)]  # type: ignore[assignment]
    outputs = model(Batch(batch.modalities, inputs, batch.active_BM, batch.labels_B, batch.samples_B))
    outputs.logits_BC.sum().backward()
    assert all(norm.training for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


def test_encoders_must_have_stages_that_fit() -> None:
    tiny: dict[str, Any] = {"audio": TinyEncoder(1), "video": ResNet18(3, width=4)}
    with pytest.raises(ValueError, match="same channels and strides"):
        CentralNetFusion(tiny, 4, dict.fromkeys(tiny, (32, 32)))
    vectors: dict[str, Any] = {"audio": TinyEncoder(1), "text": VectorEncoder(5, width=128)}
    staged: dict[str, Any] = {"audio": TinyEncoder(1), "text": TinyEncoder(1)}
    with pytest.raises(ValueError, match="MMTMFusion needs encoders with stages"):
        MultimodalModel(vectors, MMTMFusion(staged, 4))


def layers_of(model: MultimodalModel) -> Sequence[tuple[nn.Module, tuple[int, ...]]]:
    assert isinstance(model.fusion, InnerFusion)
    return model.fusion.layers()


def test_the_central_convolutions_take_what_they_state(build_model: BuildModel, build_batch: BuildBatch) -> None:
    model = build_model(CentralNetFusion, PICTURES).eval()
    seen: list[tuple[int, ...]] = []
    for layer, _ in layers_of(model):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    model(build_batch([[1, 1, 1]], PICTURES))
    assert seen == [shape for _, shape in layers_of(model)]
    assert len(seen) == 3
    assert layers_of(build_model(MMTMFusion)) == []
