"""MLA: its projection against the direct inverse, its fusion sample by sample, and its plan"""

# B samples of the global batch, M modalities, C classes, T steps, d features

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import FusedLoss, Method, Step, Window
from remix_study.balancing.mla import MLA, ProjectFrom, updated
from remix_study.epoch import NO_SAMPLE
from remix_study.models import EntropyFusion, MultimodalModel
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.remix.alternate import AlternatePlan
from remix_study.sample import Batch
from remix_study.training.step import train_step
from remix_study.world import Solo
from tests.unit.balancing.linear import CLASSES, ROWS, Projection, batch_of
from tests.unit.balancing.test_ogm import changed

WIDTH = 4
TWO = ("audio", "video")


def a_model(modalities: tuple[str, ...] = TWO) -> MultimodalModel:
    torch.manual_seed(0)
    widths = dict.fromkeys(modalities, WIDTH)
    return MultimodalModel({m: Projection(WIDTH) for m in modalities}, EntropyFusion(widths, CLASSES))


def alone(model: MultimodalModel, m: str) -> Batch:
    batch = batch_of(model, np.tile([each == m for each in model.modalities], (ROWS, 1)))
    return Batch(batch.modalities, {m: batch.inputs[m]}, batch.active_BM, batch.labels_B, batch.samples_B)


# --- projection ------------------------------------------------------------------------------------------------------


def test_recursive_least_squares_equal_the_direct_inverse() -> None:
    """Also where the regularisation changes. With the released denominator, a matrix, they do not."""
    draw = torch.Generator().manual_seed(0)
    P_dd = wrong_dd = torch.eye(8, dtype=torch.float64)
    inverse_dd = torch.eye(8, dtype=torch.float64)
    for step in range(30):
        r_d = torch.randn(8, generator=draw, dtype=torch.float64) + 1
        a = 0.1 ** (1 + step / 30)
        P_dd = updated(P_dd, r_d, a)
        inverse_dd = inverse_dd + torch.outer(r_d, r_d) / a
        q_d = wrong_dd @ r_d
        wrong_dd = wrong_dd - torch.outer(q_d, q_d) / (a + torch.outer(q_d, r_d))
    torch.testing.assert_close(P_dd, torch.linalg.inv(inverse_dd), rtol=1e-6, atol=1e-10)
    eigenvalues = torch.linalg.eigvalsh(P_dd)
    assert float(eigenvalues.min()) > 0
    assert float(eigenvalues.max()) <= 1 + 1e-9
    assert not torch.allclose(wrong_dd, torch.linalg.inv(inverse_dd), atol=1e-3)


@pytest.mark.parametrize("project_from", ["previous", "current"])
def test_the_gradient_of_the_shared_weight_is_projected(project_from: ProjectFrom) -> None:
    """With the features of the steps before, or of the step as well. Bias and encoders are left alone."""
    model = a_model()
    rule = MLA(model.modalities, project_from, window=Window())
    inverse_dd = torch.eye(WIDTH, dtype=torch.float64)
    kept = []
    for number, m in enumerate(["audio", "video", "audio"]):
        batch = alone(model, m)
        before, after = changed(rule, model, batch, Step(0, number, steps=3))
        r_d = torch.stack([model.encode(m, batch.inputs[m])[row] for row in range(ROWS)]).mean(dim=0).double().detach()
        with_own_dd = inverse_dd + torch.outer(r_d, r_d) / 0.1 ** (1 + number / 3)
        P_dd = torch.linalg.inv(inverse_dd if project_from == "previous" else with_own_dd)
        inverse_dd = with_own_dd
        for name, gradient in after.items():
            expected = before[name]
            if name == "heads.audio.weight":
                expected = (before[name].double() @ P_dd).float()
                kept.append(float(expected.norm() / before[name].norm()))
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert rule.metrics() == {"method/mla/kept": pytest.approx(sum(kept) / 3, rel=1e-4)}
    assert (kept[0] == pytest.approx(1.0)) == (project_from == "previous")
    assert kept[2] < 1


def test_the_head_stays_as_it_is_for_the_mean_feature_of_earlier_steps() -> None:
    """A projected gradient moves W r by the fraction a / (a + r . r) of that of an unprojected one."""
    model = a_model()
    rule = MLA(model.modalities, "previous", window=Window())
    first, second = alone(model, "audio"), alone(model, "video")
    changed(rule, model, first, Step(0, 0, steps=2))
    before, after = changed(rule, model, second, Step(0, 1, steps=2))
    r_d = model.encode("audio", first.inputs["audio"]).mean(dim=0).detach()
    plain, projected = (grads["heads.audio.weight"] @ r_d for grads in (before, after))
    torch.testing.assert_close(projected, plain * (0.1 / (0.1 + float(r_d @ r_d))), rtol=1e-3, atol=1e-6)


def test_multimodal_batches_and_epochs_outside_the_window_are_not_projected() -> None:
    rule = MLA(TWO, "previous", window=Window(1, 3))
    assert [rule.acts(Step(epoch, 0, multimodal=0)) for epoch in range(4)] == [False, True, True, False]
    assert not rule.acts(Step(1, 0, multimodal=1))


def test_the_state_of_the_projection_resumes_exactly() -> None:
    def trained(split_after: int) -> list[Any]:
        model = a_model()
        rule, found = MLA(model.modalities, "previous", window=Window()), []
        for number in range(4):
            if number == split_after:
                state, rule = copy.deepcopy(rule.state()), MLA(model.modalities, "previous", window=Window())
                rule.restore(state)
            after = changed(rule, model, alone(model, TWO[number % 2]), Step(0, number, steps=4))[1]
            found.append(after["heads.audio.weight"].clone())
        return [*found, rule.metrics()]

    one, other = trained(99), trained(2)
    assert one[-1] == other[-1]
    assert all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


# --- head and fusion -------------------------------------------------------------------------------------------------


def test_all_modalities_have_the_same_head() -> None:
    model = a_model(("audio", "text", "video"))
    assert len({id(p) for m in model.modalities for p in model.head_parameters(m)}) == 2
    with pytest.raises(ValueError, match="needs features of one size"):
        MultimodalModel({"audio": Projection(2), "video": Projection(3)}, EntropyFusion({"audio": 2, "video": 3}, 4))


@pytest.mark.parametrize("modalities", [TWO, ("audio", "text", "video")], ids=len)
def test_certain_modalities_of_a_sample_weigh_more(modalities: tuple[str, ...]) -> None:
    model = a_model(modalities)
    active = np.random.default_rng(0).random((ROWS, len(modalities))) < 0.6
    active[:, 0] |= ~active.any(axis=1)
    batch = batch_of(model, active)
    features = {m: model.encode(m, batch.inputs[m]) for m in model.modalities}
    found = model.fuse(features, torch.from_numpy(active))
    for row in range(ROWS):
        weights, logits = [], []
        for column, m in enumerate(model.modalities):
            if active[row, column]:
                h = model.classify(m, features[m][[row]])[0]
                p = h.softmax(dim=0).tolist()
                weights.append(math.exp(sum(each * math.log(each) for each in p)))  # exp(-H)
                logits.append(h)
        expected = sum(w * h for w, h in zip(weights, logits, strict=True)) / sum(weights)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_weights_depend_on_the_sample_and_not_on_its_batch() -> None:
    """With the entropy along the batch, as in the released code, other samples would change the prediction."""
    model = a_model()
    batch = batch_of(model)
    features = {m: model.encode(m, batch.inputs[m]) for m in model.modalities}
    whole = model.fuse(features, batch.active_BM)
    one = model.fuse({m: f[[0]] for m, f in features.items()}, batch.active_BM[[0]])
    torch.testing.assert_close(whole[[0]], one)


def test_the_loss_of_a_unimodal_batch_is_that_of_its_head() -> None:
    model = a_model()
    batch = alone(model, "video")
    logits_BC = model(batch).logits_BC
    torch.testing.assert_close(logits_BC, model.classify("video", model.encode("video", batch.inputs["video"])))


def test_a_step_trains_one_encoder_and_the_head() -> None:
    model = a_model()
    plan = ConstantPlan(everything_joint(ROWS, 2), Reassembly("blocks", (1, 0), ROWS), 0)
    method = Method("mla", plan, (FusedLoss(), MLA(model.modalities, "previous", window=Window())))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(
        model, method, alone(model, "video"), ROWS, optimizer, Solo(), at=Step(0, 0), autocast=False, clip_norm=None
    )
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"encoders.video.layer.{each}" for each in ("weight", "bias")} | {
        f"heads.audio.{each}" for each in ("weight", "bias")
    }


# --- plan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [2, 3])
def test_each_batch_of_joint_training_is_trained_once_per_modality(M: int) -> None:
    joint = ConstantPlan(everything_joint(21, M), Reassembly("shuffled", tuple(range(M)), 8, smallest=2), seed=3)

    def never(_: Any) -> Any:
        raise AssertionError("needs no scores")

    whole, found = joint.plan(4, never).schedule, AlternatePlan(joint).plan(4, never).schedule
    assert found.steps == M * whole.steps
    for t in range(found.steps):
        np.testing.assert_array_equal(found.samples_TB[t], whole.samples_TB[t // M])
        held = found.samples_TB[t] != NO_SAMPLE
        expected = np.zeros((8, M), np.bool_)
        expected[held, t % M] = True
        np.testing.assert_array_equal(found.active_TBM[t], expected)
