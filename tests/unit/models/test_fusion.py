"""Fusions: their formulas, and gradients of active modalities next to inactive ones"""

from collections.abc import Mapping
from typing import TypeVar

import pytest
import torch
from torch import nn

from remix_study.models.fusion import ConcatFusion, DecisionFusion, FiLMFusion, Fusion, GatedFusion, SumFusion

WIDTHS = {"audio": 6, "video": 5}
WIDTHS_3 = {"audio": 6, "video": 5, "text": 4}
ANY_M: list[type[Fusion]] = [ConcatFusion, SumFusion, DecisionFusion, GatedFusion]
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


@pytest.mark.parametrize("widths", [WIDTHS_3, {"audio": 6}], ids=["three", "one"])
def test_film_raises_unless_there_are_two_modalities(widths: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match=rf"needs exactly 2 modalities, but there are {len(widths)}: audio.*Use concat"
    ):
        FiLMFusion(widths, CLASSES)


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
