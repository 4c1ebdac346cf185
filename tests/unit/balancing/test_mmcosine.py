"""MMCosine's fusion and rule against the formula, sample by sample"""

# B samples of the global batch, M modalities, C classes

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import OGM, FusedLoss, Window
from remix_study.balancing.mmcosine import MMCosine
from remix_study.models import CosineFusion, MultimodalModel
from remix_study.sample import Batch
from tests.unit.balancing.linear import CLASSES, ROWS, alone_of, batch_of, gradients_of, model_of

PAIR, TRIPLE = ("audio", "video"), ("audio", "text", "video")
SCALE = 7.0
COSINE: Any = partial(CosineFusion, scale=SCALE)


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one @ other) / (torch.sqrt((one * one).sum()) * torch.sqrt((other * other).sum()))


def cosines(model: MultimodalModel, batch: Batch, row: int) -> dict[str, torch.Tensor]:
    """Modality -> the cosine between the feature of a sample and the weights of each class, (C,)."""
    weight, start, found = dict(model.named_parameters())["fusion.out.weight"], 0, {}
    for m in model.modalities:
        feature = model.encode(m, batch.inputs[m][row : row + 1])[0]
        columns = weight[:, start : start + len(feature)]
        found[m] = torch.stack([cosine(feature, columns[c]) for c in range(CLASSES)])
        start += len(feature)
    return found


@pytest.mark.parametrize("modalities", [PAIR, TRIPLE], ids=len)
def test_fused_logits_and_gradients_are_those_of_scaled_cosines(modalities: tuple[str, ...]) -> None:
    model = model_of(COSINE, modalities)
    batch = batch_of(model)
    rule = MMCosine(model.modalities, SCALE)
    found = gradients_of(model, batch, FusedLoss(), rule)
    model.zero_grad(set_to_none=True)
    of = [cosines(model, batch, row) for row in range(ROWS)]
    z = torch.stack([SCALE * torch.stack(list(each.values())).sum(dim=0) for each in of])
    torch.testing.assert_close(model(batch).logits_BC, z)
    torch.autograd.backward(torch.nn.functional.cross_entropy(z, batch.labels_B))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=1e-4, atol=1e-6)
    means = {m: np.mean([of[row][m][batch.labels_B[row]].item() for row in range(ROWS)]) for m in model.modalities}
    assert rule.metrics() == pytest.approx({f"method/mmcosine/cosine/{m}": each for m, each in means.items()}, rel=1e-4)


@torch.no_grad()
def test_subsets_have_the_logits_of_training_and_the_parts_sum_to_them() -> None:
    model = model_of(COSINE, TRIPLE)
    outputs = model(batch_of(model))
    parts = model.split_logits(outputs.features, outputs.head_logits)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(dim=0), outputs.logits_BC)
    only = torch.tensor([[m != "text" for m in model.modalities]]).expand(ROWS, -1)
    torch.testing.assert_close(model.fuse(outputs.features, only), parts["audio"] + parts["video"])
    assert float(model.fuse(outputs.features, torch.zeros_like(only)).abs().max()) == 0


def test_norms_of_features_and_weights_do_not_matter() -> None:
    model = model_of(COSINE)
    batch = batch_of(model)
    before = model(batch).logits_BC
    with torch.no_grad():
        dict(model.named_parameters())["fusion.out.weight"][:, :2].mul_(100)
        for parameter in model.encoders["video"].parameters():
            parameter.mul_(0.01)
    torch.testing.assert_close(model(batch).logits_BC, before, rtol=1e-4, atol=1e-5)
    assert not [name for name, _ in model.fusion.named_parameters() if "bias" in name]


def test_a_unimodal_batch_has_the_cosine_of_its_modality_and_finite_gradients() -> None:
    """A masked feature is zero, where the derivative of a norm is unbounded."""
    model = model_of(COSINE)
    for batch in (alone_of(batch_of(model), "audio"), batch_of(model, np.tile([True, False], (ROWS, 1)))):
        z = torch.stack([SCALE * cosines(model, batch_of(model), row)["audio"] for row in range(ROWS)])
        torch.testing.assert_close(model(batch).logits_BC, z)
        found = gradients_of(model, batch, FusedLoss(), MMCosine(PAIR, SCALE))
        assert all(torch.isfinite(gradient).all() for gradient in found.values())
    with torch.no_grad():
        for parameter in model.encoders["audio"].parameters():
            parameter.zero_()  # a feature that is zero, as after a ReLU
    found = gradients_of(model, batch_of(model), FusedLoss())
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() < 1e3 for gradient in found.values())


def test_methods_that_compare_parts_work_with_it() -> None:
    model = model_of(COSINE)
    batch = batch_of(model)
    plain = gradients_of(model, batch, FusedLoss())
    rule = OGM(PAIR, 0.8, noise=False, window=Window(), seed=0)
    found = gradients_of(model, batch, FusedLoss(), rule)
    changed = {name for name, gradient in found.items() if not torch.allclose(gradient, plain[name])}
    assert len(changed) == 1
    of = [cosines(model, batch, row) for row in range(ROWS)]
    p = {
        m: np.mean([(SCALE * each[m]).softmax(dim=0)[batch.labels_B[row]].item() for row, each in enumerate(of)])
        for m in PAIR
    }
    ahead, behind = sorted(PAIR, key=lambda m: -p[m])
    factor = 1 - math.tanh(0.8 * p[ahead] / p[behind])
    name = f"encoders.{ahead}.layer.weight"
    assert changed == {name}
    torch.testing.assert_close(found[name], plain[name] * factor, rtol=1e-3, atol=1e-6)
