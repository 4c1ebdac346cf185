"""Fusions: their formulas, and gradients of active modalities next to inactive ones"""

from collections.abc import Mapping
from typing import TypeVar

import pytest
import torch
from torch import nn

from remix_study.models import AttentionFusion, dropout_from
from remix_study.models.fusion import (
    ConcatFusion,
    DecisionFusion,
    FiLMFusion,
    Fusion,
    GatedFusion,
    PublishedFiLMFusion,
    PublishedGatedFusion,
    SumFusion,
)
from remix_study.models.transformer import Block

WIDTHS = {"audio": 6, "video": 5}
WIDTHS_3 = {"audio": 6, "video": 5, "text": 4}
ANY_M: list[type[Fusion]] = [ConcatFusion, SumFusion, DecisionFusion, GatedFusion, AttentionFusion]
CASES = [(fusion, WIDTHS) for fusion in [*ANY_M, FiLMFusion]] + [(fusion, WIDTHS_3) for fusion in ANY_M]
CLASSES = 4
AnyFusion = TypeVar("AnyFusion", bound=Fusion)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def features(widths: Mapping[str, int], rows: int = 3) -> dict[str, torch.Tensor]:
    return {m: torch.randn(rows, width) for m, width in widths.items()}


def randomized(fusion: AnyFusion) -> AnyFusion:
    """Randomize the parameters. At their initial value, 0, biases could be missing from a formula unnoticed."""
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    return fusion


def all_active(fusion: Fusion, rows: int = 3) -> torch.Tensor:
    return torch.ones(rows, len(fusion.modalities), dtype=torch.bool)


def test_concat_is_one_linear_layer_on_all_features() -> None:
    fusion = randomized(ConcatFusion(WIDTHS, CLASSES))
    f = features(WIDTHS)
    weight, bias = fusion.out.weight, fusion.out.bias
    expected = f["audio"] @ weight[:, :6].T + f["video"] @ weight[:, 6:].T + bias
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), expected)


def test_sum_adds_the_linear_layers() -> None:
    fusion = randomized(SumFusion(WIDTHS_3, CLASSES))
    f = features(WIDTHS_3)
    expected = torch.zeros(3, CLASSES)
    for m in WIDTHS_3:
        layer = fusion.out[m]
        assert isinstance(layer, nn.Linear)
        expected = expected + f[m] @ layer.weight.T + layer.bias
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), expected)


def test_decision_is_the_mean_of_the_active_heads() -> None:
    fusion = DecisionFusion(WIDTHS_3, CLASSES)
    heads = {m: torch.randn(4, CLASSES) for m in WIDTHS_3}
    # columns: audio, video, text
    active = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    logits = fusion({}, active, heads)
    a, v, t = heads["audio"], heads["video"], heads["text"]
    everyone = (a + v + t) / 3
    torch.testing.assert_close(logits, torch.stack([everyone[0], (a[1] + t[1]) / 2, v[2], everyone[3]]))
    assert list(fusion.parameters()) == []


def test_film_modulates_video_by_audio_residually() -> None:
    fusion = randomized(FiLMFusion(WIDTHS, CLASSES))
    f = features(WIDTHS)
    modulation = f["audio"] @ fusion.modulation.weight.T + fusion.modulation.bias
    expected = ((1 + modulation[:, :5]) * f["video"] + modulation[:, 5:]) @ fusion.out.weight.T + fusion.out.bias
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), expected)


def test_published_film_modulates_video_by_audio() -> None:
    fusion = randomized(PublishedFiLMFusion(WIDTHS, CLASSES))
    f = features(WIDTHS)
    modulation = f["audio"] @ fusion.modulation.weight.T + fusion.modulation.bias
    expected = (modulation[:, :5] * f["video"] + modulation[:, 5:]) @ fusion.out.weight.T + fusion.out.bias
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), expected)


def test_published_gated_gates_video_by_audio() -> None:
    fusion = randomized(PublishedGatedFusion(WIDTHS, CLASSES))
    f = features(WIDTHS)
    gate = 1 / (1 + torch.exp(-(f["audio"] @ fusion.gate.weight.T + fusion.gate.bias)))
    content = f["video"] @ fusion.content.weight.T + fusion.content.bias
    expected = (gate * content) @ fusion.out.weight.T + fusion.out.bias
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), expected)


@pytest.mark.parametrize(
    ("build", "bias", "blocked"),
    [(PublishedFiLMFusion, "modulation.bias", "video"), (PublishedGatedFusion, "content.bias", "audio")],
)
def test_in_published_fusions_one_modality_alone_is_reached_through_a_bias_only(
    build: type[Fusion], bias: str, blocked: str
) -> None:
    fusion = build(WIDTHS, CLASSES)

    def gradient_of(active: str) -> torch.Tensor:
        f = {m: torch.randn(8, width) if m == active else torch.zeros(8, width) for m, width in WIDTHS.items()}
        active_BM = torch.tensor([[m == active for m in fusion.modalities]] * 8)
        logits = fusion({**f, active: f[active].requires_grad_()}, active_BM, {})
        torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(8) % CLASSES))
        gradient = f[active].grad
        assert gradient is not None
        return gradient

    assert {m: bool((gradient_of(m) == 0).all()) for m in WIDTHS} == {m: m == blocked for m in WIDTHS}
    nn.init.normal_(dict(fusion.named_parameters())[bias])
    assert (gradient_of(blocked).norm(dim=1) > 0).all()


def first_block(fusion: AttentionFusion) -> Block:
    block = fusion.blocks[0]
    assert isinstance(block, Block)
    return block


def attention_of_one(fusion: AttentionFusion, f: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of one sample (1, C) from its active modalities, with no token for the others."""
    state = fusion.state_dict()
    W, heads = len(state["class_token_W"]), first_block(fusion).heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scale = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        normal: torch.Tensor = centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]
        return normal

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        projected: torch.Tensor = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        return projected

    tokens = [state["class_token_W"][None]]
    for i, m in enumerate(fusion.modalities):
        if m in f:
            tokens.append(linear(f[m], f"projection.{m}") + state["kind_MW"][i])
    x_TW = torch.cat(tokens)
    for n in range(len(fusion.blocks)):
        asked = linear(norm(x_TW, f"blocks.{n}.norm1"), f"blocks.{n}.asked")
        q, k, v = asked[:, :W], asked[:, W : 2 * W], asked[:, 2 * W :]
        mixed = []
        for part in torch.arange(W).chunk(heads):
            weights_TT = (q[:, part] @ k[:, part].T / len(part) ** 0.5).softmax(dim=1)
            mixed.append(weights_TT @ v[:, part])
        x_TW = x_TW + linear(torch.cat(mixed, dim=1), f"blocks.{n}.answered")
        wide = linear(norm(x_TW, f"blocks.{n}.norm2"), f"blocks.{n}.layers.0")
        x_TW = x_TW + linear(nn.functional.gelu(wide), f"blocks.{n}.layers.2")
    return linear(norm(x_TW[:1], "norm"), "out")


def test_attention_equals_a_transformer_without_tokens_for_inactive_modalities() -> None:
    fusion = randomized(AttentionFusion(WIDTHS_3, CLASSES, width=8, layers=2, heads=2))
    every = features(WIDTHS_3, rows=7)
    active_BM = torch.tensor([[b >> i & 1 for i in range(3)] for b in range(1, 8)], dtype=torch.bool)
    masked = {m: every[m] * active_BM[:, i, None] for i, m in enumerate(fusion.modalities)}
    found = fusion(masked, active_BM, {})
    for row in range(7):
        own = {m: every[m][row : row + 1] for i, m in enumerate(fusion.modalities) if active_BM[row, i]}
        torch.testing.assert_close(found[row : row + 1], attention_of_one(fusion, own), rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_and_repeats_with_its_generator() -> None:
    fusion = AttentionFusion(WIDTHS, CLASSES, width=8, dropout=0.5)
    f = features(WIDTHS, rows=64)

    def logits(seed: int) -> torch.Tensor:
        with dropout_from(fusion, lambda: torch.Generator().manual_seed(seed)):
            found: torch.Tensor = fusion(f, all_active(fusion, 64), {})
        return found

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    fusion.eval()
    assert torch.equal(logits(1), logits(2))


def test_dropout_keeps_the_expected_value() -> None:
    dropped = first_block(AttentionFusion(WIDTHS, CLASSES, width=8, dropout=0.25)).dropout(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_without_dropout_no_generator_is_made() -> None:
    with dropout_from(AttentionFusion(WIDTHS, CLASSES), lambda: pytest.fail("not needed")):
        pass


def test_gated_gates_each_modality_by_the_others() -> None:
    fusion = randomized(GatedFusion(WIDTHS_3, CLASSES))
    f = features(WIDTHS_3)
    state = fusion.state_dict()
    mixed = torch.zeros(3, 6)
    for m in WIDTHS_3:
        push = torch.stack([f[j] @ state[f"gate.{j}.weight"].T for j in WIDTHS_3 if j != m]).sum(0)
        mixed += 2 / (1 + torch.exp(-push)) * (f[m] @ state[f"content.{m}.weight"].T)
    torch.testing.assert_close(
        fusion(f, all_active(fusion), {}), mixed @ state["out.weight"].T + state["out.bias"], rtol=1e-4, atol=1e-4
    )


def test_gated_does_not_gate_a_single_modality() -> None:
    fusion = randomized(GatedFusion(WIDTHS, CLASSES))
    f = features(WIDTHS) | {"video": torch.zeros(3, 5)}
    content = f["audio"] @ fusion.state_dict()["content.audio.weight"].T
    torch.testing.assert_close(fusion(f, all_active(fusion), {}), fusion.out(content))


@pytest.mark.parametrize(
    ("build", "widths", "active"),
    [(build, widths, m) for build, widths in CASES for m in widths],
    ids=lambda value: (
        value.__name__ if isinstance(value, type) else str(len(value)) if isinstance(value, dict) else value
    ),
)
def test_active_modalities_get_gradients_next_to_zero_features(
    build: type[Fusion], widths: dict[str, int], active: str
) -> None:
    fusion = build(widths, CLASSES)  # as initialized
    heads = {m: nn.Linear(width, CLASSES) for m, width in widths.items()}
    f = {m: torch.randn(8, width) if m == active else torch.zeros(8, width) for m, width in widths.items()}
    f[active].requires_grad_()
    active_BM = torch.tensor([[m == active for m in fusion.modalities]] * 8)
    logits = fusion(f, active_BM, {m: heads[m](f[m]) for m in widths})
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(8) % CLASSES))
    gradient = f[active].grad
    assert gradient is not None
    assert (gradient.norm(dim=1) > 1e-4).all()


@pytest.mark.parametrize("build", [FiLMFusion, PublishedFiLMFusion, PublishedGatedFusion])
@pytest.mark.parametrize("widths", [WIDTHS_3, {"audio": 6}], ids=["three", "one"])
def test_fusions_of_two_raise_unless_there_are_two_modalities(build: type[Fusion], widths: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match=rf"needs exactly 2 modalities, but there are {len(widths)}: audio.*Use concat"
    ):
        build(widths, CLASSES)


@pytest.mark.parametrize("build", ANY_M)
def test_a_single_modality_can_be_fused(build: type[Fusion]) -> None:
    fusion = build({"audio": 6}, CLASSES)
    f = features({"audio": 6})
    assert fusion(f, all_active(fusion), {"audio": torch.randn(3, CLASSES)}).shape == (3, CLASSES)


@pytest.mark.parametrize(("build", "widths"), CASES)
def test_the_order_of_modalities_does_not_matter(build: type[Fusion], widths: dict[str, int]) -> None:
    torch.manual_seed(3)
    one = build(widths, CLASSES)
    torch.manual_seed(3)
    other = build(dict(reversed(widths.items())), CLASSES)
    assert one.modalities == other.modalities
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
