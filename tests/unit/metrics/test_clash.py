"""Clash: worked example on a linear model, separate backward passes on a real one, and no side effects"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from remix_study.metrics.clash import modality_interference, objective_conflict
from remix_study.models import (
    AttentionFusion,
    CentralNetFusion,
    ConcatFusion,
    DecisionFusion,
    FiLMFusion,
    Fusion,
    GatedFusion,
    MMTMFusion,
    MultimodalModel,
    SumFusion,
    TinyEncoder,
    VectorEncoder,
)
from remix_study.sample import Batch

PAIR = ("audio", "video")
MEASURES = pytest.mark.parametrize("measure", [objective_conflict, modality_interference])
Measure = Callable[..., dict[str, float]]


class LinearOutputs(NamedTuple):
    logits_BC: torch.Tensor
    head_logits: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor]


class LinearModel(nn.Module):
    """A model with simple gradients: f_m = E_m x_m (a scalar to two features), z = sum_m W_m f_m, h_m = V_m f_m."""

    def __init__(self) -> None:
        super().__init__()
        self.modalities = PAIR
        self.encoders = nn.ModuleDict({m: nn.Linear(1, 2, bias=False) for m in PAIR})
        self.fused = {m: torch.randn(3, 2, dtype=torch.float64) for m in PAIR}
        self.own = {m: torch.randn(3, 2, dtype=torch.float64) for m in PAIR}
        self.double()

    def fuse(
        self, features: Mapping[str, torch.Tensor], active_BM: torch.Tensor, *, constant: bool = False
    ) -> torch.Tensor:
        del constant  # nothing is replaced
        return sum((features[m] * active_BM[:, i, None] @ self.fused[m].T for i, m in enumerate(PAIR)), torch.zeros(()))

    def only(self, batch: Batch, outputs: LinearOutputs, kept: Collection[str]) -> torch.Tensor:
        return self.fuse(outputs.features, batch.active_BM * torch.tensor([m in kept for m in PAIR]))

    def forward(self, batch: Batch) -> LinearOutputs:
        features = {m: self.encoders[m](batch.inputs[m]) * batch.active_BM[:, i, None] for i, m in enumerate(PAIR)}
        own = {m: features[m] @ self.own[m].T for m in PAIR}
        return LinearOutputs(self.fuse(features, batch.active_BM), own, features)


def gradient_of(logits: torch.Tensor, weight: torch.Tensor, x: torch.Tensor, label: int) -> torch.Tensor:
    """Return d CE / d E = W^T (softmax(logits) - onehot(label)) x of one sample, for logits = W E x + other terms."""
    error = torch.softmax(logits, 0) - functional.one_hot(torch.tensor(label), 3)
    return torch.outer(weight.T @ error, x).flatten()


def test_both_cosines_on_a_linear_model() -> None:
    torch.manual_seed(0)
    model = LinearModel()
    active = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 1]], dtype=torch.bool)
    inputs = {m: torch.randn(4, 1, dtype=torch.float64) for m in PAIR}
    labels = torch.tensor([0, 2, 1, 1])
    batch = Batch(PAIR, inputs, active, labels, torch.arange(4))
    c1, c2 = objective_conflict(model, batch), modality_interference(model, batch)
    for column, m in enumerate(PAIR):
        fused, own = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        whole, alone = fused.clone(), own.clone()
        for i in range(4):
            if not active[i, column]:
                continue
            parts = {n: model.encoders[n].weight.detach() @ inputs[n][i] for n in PAIR}  # type: ignore[operator]
            z = sum((model.fused[n] @ parts[n] for j, n in enumerate(PAIR) if active[i, j]), torch.zeros(3))
            of_z = gradient_of(z, model.fused[m], inputs[m][i], int(labels[i]))
            fused += of_z
            own += gradient_of(model.own[m] @ parts[m], model.own[m], inputs[m][i], int(labels[i]))
            if active[i].all():
                whole += of_z
                alone += gradient_of(model.fused[m] @ parts[m], model.fused[m], inputs[m][i], int(labels[i]))
        assert c1[m] == pytest.approx(float(functional.cosine_similarity(fused, own, dim=0)), abs=1e-5)
        assert c2[m] == pytest.approx(float(functional.cosine_similarity(whole, alone, dim=0)), abs=1e-5)


def tiny_model(fusion: type[Fusion], text: bool = False) -> MultimodalModel:
    torch.manual_seed(0)
    encoders: dict[str, TinyEncoder | VectorEncoder] = {"audio": TinyEncoder(1), "video": TinyEncoder(3)}
    if text:
        encoders["text"] = VectorEncoder(10)
    between: Fusion
    staged = {m: e for m, e in encoders.items() if isinstance(e, TinyEncoder)}
    if issubclass(fusion, MMTMFusion):
        between = fusion(staged, num_classes=4)
    elif issubclass(fusion, CentralNetFusion):
        between = fusion(staged, num_classes=4, sizes=dict.fromkeys(staged, (32, 32)))
    else:
        between = fusion({m: e.out_features for m, e in encoders.items()}, num_classes=4)
    return MultimodalModel(encoders, between)


def tiny_batch(model: MultimodalModel, active: list[list[int]], seed: int = 1) -> Batch:
    torch.manual_seed(seed)
    shapes = {"audio": (1, 32, 32), "video": (3, 2, 32, 32), "text": (10,)}
    active_BM = torch.tensor(active, dtype=torch.bool)
    inputs = {
        m: torch.randn(len(active), *shapes[m])[active_BM[:, i]]
        for i, m in enumerate(model.modalities)
        if active_BM[:, i].any()
    }
    return Batch(model.modalities, inputs, active_BM, torch.arange(len(active)) % 4, torch.arange(len(active)))


@MEASURES
@pytest.mark.parametrize(
    ("fusion", "text"),
    [(f, t) for f in (ConcatFusion, SumFusion, DecisionFusion, GatedFusion) for t in (False, True)]
    + [(FiLMFusion, False), (AttentionFusion, True)],
)
def test_every_fusion_gives_a_cosine_per_modality(measure: Measure, fusion: type[Fusion], text: bool) -> None:
    model = tiny_model(fusion, text)
    cosines = measure(model, tiny_batch(model, [[1] * len(model.modalities)] * 6))
    assert set(cosines) == set(model.modalities)
    assert all(-1 <= cosine <= 1 for cosine in cosines.values())


@pytest.mark.parametrize(
    ("fusion", "training"),
    [(GatedFusion, False), (GatedFusion, True), (CentralNetFusion, True),
     (MMTMFusion, False)],  # in training, a pass changes the running means that the next one uses
)  # fmt: skip
def test_agrees_with_plain_backward_passes(fusion: type[Fusion], training: bool) -> None:
    model = tiny_model(fusion).train(training)
    batch = tiny_batch(model, [[1, 1]] * 6)
    c1, c2 = objective_conflict(model, batch), modality_interference(model, batch)

    def gradient(m: str, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        model.zero_grad()
        torch.autograd.backward(loss())
        return torch.cat([p.grad.flatten() for p in model.encoders[m].parameters() if p.grad is not None])

    def with_only(column: int) -> torch.Tensor:
        only = torch.zeros(6, 2, dtype=torch.bool)
        only[:, column] = True
        inputs = {PAIR[column]: batch.inputs[PAIR[column]]}
        logits_BC: torch.Tensor = model(Batch(PAIR, inputs, only, batch.labels_B, batch.samples_B)).logits_BC
        return logits_BC

    for column, m in enumerate(PAIR):
        whole = gradient(m, lambda: functional.cross_entropy(model(batch).logits_BC, batch.labels_B))
        own = gradient(m, lambda m=m: functional.cross_entropy(model(batch).head_logits[m], batch.labels_B))  # type: ignore[misc]
        alone = gradient(m, lambda c=column: functional.cross_entropy(with_only(c), batch.labels_B))  # type: ignore[misc]
        assert c1[m] == pytest.approx(float(functional.cosine_similarity(whole, own, dim=0)), abs=1e-3)
        assert c2[m] == pytest.approx(float(functional.cosine_similarity(whole, alone, dim=0)), abs=1e-3)


def test_objectives_that_coincide_do_not_conflict() -> None:
    # With decision fusion, the fused logits of a single active modality are those of its head.
    model = tiny_model(DecisionFusion)
    assert objective_conflict(model, tiny_batch(model, [[1, 0]] * 4)) == {"audio": pytest.approx(1, abs=1e-5)}


def test_opposite_objectives_conflict_fully() -> None:
    torch.manual_seed(0)
    model = LinearModel()
    model.fused["video"] = torch.zeros(3, 2, dtype=torch.float64)
    model.own["audio"] = model.fused["audio"]
    nn.init.zeros_(model.encoders["audio"].weight)  # type: ignore[arg-type]
    inputs = {m: torch.ones(1, 1, dtype=torch.float64) for m in PAIR}
    batch = Batch(PAIR, inputs, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]), torch.tensor([0]))
    assert objective_conflict(model, batch)["audio"] == pytest.approx(1, abs=1e-6)
    model.own["audio"] = -model.fused["audio"]
    assert objective_conflict(model, batch)["audio"] == pytest.approx(-1, abs=1e-6)


def test_undefined_cosines_are_omitted() -> None:
    model = tiny_model(ConcatFusion)
    pure = tiny_batch(model, [[0, 1]] * 4)
    assert set(objective_conflict(model, pure)) == {"video"}
    assert modality_interference(model, pure) == {}
    assert objective_conflict(model, tiny_batch(model, [[0, 0]] * 4)) == {}
    for p in model.encoders["audio"].parameters():
        p.requires_grad_(False)
    assert set(objective_conflict(model, tiny_batch(model, [[1, 1]] * 4))) == {"video"}


@MEASURES
def test_measuring_has_no_side_effects(measure: Measure) -> None:
    model = tiny_model(FiLMFusion).train()
    batch = tiny_batch(model, [[1, 1]] * 4 + [[1, 0]] * 2)
    next(model.encoders["video"].parameters()).grad = (kept := torch.ones(8, 3, 3, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # gradients are enabled in spite of the context
        first, second = measure(model, batch), measure(model, batch)
    assert first == second
    assert len(first) == 2
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == 1
    assert grads[0] is kept
    assert torch.equal(kept, torch.ones(8, 3, 3, 3))


@MEASURES
def test_ranks_together_measure_the_global_batch(measure: Measure) -> None:
    # Evaluation mode: in training mode ranks have batch statistics of their own. One rank has no video at all.
    model = tiny_model(ConcatFusion).eval()
    rows = [[1, 1], [1, 1], [1, 0], [0, 1], [1, 0], [1, 0]]
    whole = tiny_batch(model, rows)
    shares = []
    for lo, hi in ((0, 4), (4, 6)):
        active = whole.active_BM[lo:hi]
        inputs = {}
        for i, m in enumerate(PAIR):
            skip = int(whole.active_BM[:lo, i].sum())
            if active[:, i].any():
                inputs[m] = whole.inputs[m][skip : skip + int(active[:, i].sum())]
        shares.append(Batch(PAIR, inputs, active, whole.labels_B[lo:hi], whole.samples_B[lo:hi]))
    sent: list[list[torch.Tensor]] = [[], []]
    for rank, share in enumerate(shares):
        measure(model, share, lambda flat, rank=rank: sent[rank].append(flat.clone()))
    assert len(sent[0]) == len(sent[1]) == 2  # no rank waits for another
    pending = [a + b for a, b in zip(*sent, strict=True)]
    together = measure(model, shares[1], lambda flat: flat.copy_(pending.pop(0)))
    assert together == pytest.approx(measure(model, whole), abs=1e-4)
