"""UMT, compared with the mean squared distance of each sample's features, computed one by one"""

# B samples, M modalities

import copy

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import FusedLoss, Mask, Step, StepBatch, Window
from remix_study.balancing.umt import UMT
from remix_study.models import ConcatFusion, FiLMFusion, Fusion, MultimodalModel
from remix_study.sample import Batch
from remix_study.training.step import _masked
from tests.unit.balancing.linear import AT, ROWS, batch_of, model_of, seen

WEIGHT = 3.0
EVERYONE = np.ones((ROWS, 2), np.bool_)
SOME = np.array([[1, 1], [1, 0], [0, 1], [1, 0], [1, 1], [0, 1]], np.bool_)
AUDIO = np.tile(np.array([[True, False]]), (ROWS, 1))


class Normalised(nn.Module):
    """A teacher whose BatchNorm would learn from every batch in training mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(3), nn.Linear(3, width)
        self.seen = 0  # samples

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        found: torch.Tensor = self.layer(self.norm(x))
        return found


def umt_of(model: MultimodalModel, *, window: Window = Window()) -> tuple[UMT, dict[str, Normalised]]:  # noqa: B008
    torch.manual_seed(3)
    teachers = {m: Normalised(model.widths[m]).train() for m in model.modalities}
    for teacher in teachers.values():
        assert teacher.norm.running_mean is not None
        nn.init.normal_(teacher.norm.running_mean)
    return UMT(teachers, WEIGHT, window=window, autocast=False), teachers


def only_active(batch: Batch) -> Batch:
    """The batch as it is read for training: without the inputs of inactive modalities."""
    inputs = {m: batch.inputs[m][batch.active_BM[:, i]] for i, m in enumerate(batch.modalities)}
    return Batch(
        batch.modalities, {m: x for m, x in inputs.items() if len(x)}, batch.active_BM, batch.labels_B, batch.samples_B
    )


def expected(model: MultimodalModel, teachers: dict[str, Normalised], whole: Batch, active: np.ndarray) -> torch.Tensor:
    """The formula, sample by sample: (B, M)."""
    found = torch.zeros(active.shape)
    for i, m in enumerate(model.modalities):
        teacher = copy.deepcopy(teachers[m]).eval()
        for b in range(len(active)):
            if active[b, i]:
                x = whole.inputs[m][b : b + 1]
                found[b, i] = WEIGHT * ((model.encode(m, x) - teacher(x)) ** 2).mean()
    return found


@pytest.mark.parametrize("fusion", [ConcatFusion, FiLMFusion])
@pytest.mark.parametrize("active", [EVERYONE, SOME, AUDIO], ids=["all", "some", "audio"])
@pytest.mark.parametrize("read", [only_active, lambda batch: batch], ids=["only active", "all inputs"])
def test_each_term_is_the_weighted_mean_squared_distance_of_a_sample(
    fusion: type[Fusion], active: np.ndarray, read: object
) -> None:
    model = model_of(fusion, ("audio", "video"))
    umt, teachers = umt_of(model)
    whole = batch_of(model, active)
    batch = seen(model, read(whole))  # type: ignore[operator]  # one of two functions
    before = FusedLoss().loss(batch, {})
    terms = umt.loss(batch, before)
    wanted_BM = expected(model, teachers, whole, active)
    assert {name: terms[name] for name in before} == before
    for i, m in enumerate(model.modalities):
        if active[:, i].any():
            torch.testing.assert_close(terms[f"umt/{m}"], wanted_BM[:, i])
        else:
            assert f"umt/{m}" not in terms
            assert teachers[m].seen == 0
    umt.apply(model, umt.sums(batch), AT)
    mean_M = wanted_BM.sum(dim=0) / WEIGHT / torch.from_numpy(active).sum(dim=0)
    shown = {f"method/umt/distance/{m}": pytest.approx(float(mean_M[i].detach()), rel=1e-5)
             for i, m in enumerate(model.modalities) if active[:, i].any()}  # fmt: skip
    assert umt.metrics() == shown
    assert umt.metrics() == {}


def test_the_gradient_is_that_of_the_formula_and_reaches_no_teacher() -> None:
    model = model_of(ConcatFusion)
    umt, teachers = umt_of(model)
    before = {m: copy.deepcopy(teacher.state_dict()) for m, teacher in teachers.items()}
    whole = batch_of(model, SOME)
    terms = umt.loss(seen(model, only_active(whole)), {})
    torch.autograd.backward(torch.stack([term.sum() for term in terms.values()]).sum())
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    torch.autograd.backward(expected(model, teachers, whole, SOME).sum())
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not name.startswith("encoders"):
            assert found[name] is None  # heads and fusion learn nothing from teachers
        else:
            torch.testing.assert_close(found[name], parameter.grad)
    for m, teacher in teachers.items():
        assert not teacher.training
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        for key, value in teacher.state_dict().items():
            assert torch.equal(value, before[m][key]), key


def test_masks_and_factors_of_other_methods_do_not_change_its_terms() -> None:
    """They act between the encoders and the fusion."""
    model = model_of(ConcatFusion)
    umt, _ = umt_of(model)
    batch = seen(model, only_active(batch_of(model, SOME)))
    kept = SOME & np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1], [0, 1]], np.bool_)
    mask = Mask(torch.from_numpy(kept), torch.tensor(2.0))
    masked = _masked(model, _masked(model, batch, mask, False), mask, False)
    plain, found = umt.loss(batch, {}), umt.loss(masked, {})
    assert plain.keys() == found.keys()
    assert all(torch.equal(found[name], term) for name, term in plain.items())


def test_outside_its_window_it_adds_nothing_and_no_teacher_runs() -> None:
    model = model_of(ConcatFusion)
    umt, teachers = umt_of(model, window=Window(3, 5))
    batch: StepBatch = seen(model, batch_of(model), AT)
    assert umt.loss(batch, {}) == {}
    assert not umt.acts(AT)
    assert [umt.passes(epoch) for epoch in range(2, 6)] == [0, 1, 1, 0]
    assert umt.acts(Step(3, 0))
    assert [teacher.seen for teacher in teachers.values()] == [0, 0]


def test_distances_of_an_epoch_survive_a_resume() -> None:
    model = model_of(ConcatFusion)
    whole, parts = umt_of(model)[0], [umt_of(model)[0] for _ in range(2)]
    for number, (active, rule) in enumerate(zip((EVERYONE, AUDIO), parts, strict=True)):
        if number:
            rule.restore(parts[0].state())
        for each in (whole, rule):
            batch = seen(model, only_active(batch_of(model, active)))
            each.loss(batch, {})
            each.apply(model, each.sums(batch), AT)
    assert whole.metrics() == parts[1].metrics()
