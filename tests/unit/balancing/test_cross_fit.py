"""Cross-fitting: halves of equal classes, the best epoch of each modality and half, what it trains and costs"""

# N training samples, M modalities, C classes, E epochs, n samples of a half

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.balancing import EpochStart, Method
from remix_study.balancing.cross_fit import CrossFit, halves_of
from remix_study.config.run import RunConfig
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.training.loop import train
from remix_study.training.multiply_adds import BACKWARD, forward_multiply_adds
from remix_study.training.run import Run
from tests.examples import examples

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
METHOD = Method("m", ConstantPlan(everything_joint(6, 2), Reassembly("shuffled", (0, 1), 2), 0), ())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 99))
@examples(50)
def test_halves_have_the_same_classes_to_one_sample(labels: list[int], seed: int) -> None:
    labels_N = np.asarray(labels)
    half_N = halves_of(labels_N, seed)
    sizes = np.bincount(half_N, minlength=2)
    assert sizes.sum() == len(labels)
    assert abs(sizes[0] - sizes[1]) <= 1
    for label in set(labels):
        of_class = np.bincount(half_N[labels_N == label], minlength=2)
        assert abs(of_class[0] - of_class[1]) <= 1


def fitted(losses: dict[int, list[NDArray[np.float64]]]) -> CrossFit:
    """After a start whose copies have these losses, by the first position that they are evaluated at."""
    rule = CrossFit(("audio", "video"), 6, [(METHOD, np.asarray([1, 3, 5])), (METHOD, np.asarray([0, 2, 4]))], 2)
    nothing: Any = None
    start = EpochStart(0, nothing, nothing, nothing, copy_losses=lambda _, epochs, n: losses[int(n[0])][:epochs])
    rule.begin(start)
    return rule


def test_each_modality_and_half_has_the_losses_of_its_best_epoch() -> None:
    draw = np.random.default_rng(0)
    losses = {first: list(draw.gamma(2.0, 1.0, (2, 3, 2))) for first in (0, 1)}
    rule = fitted(losses)
    epochs = []
    for first, of_epochs in losses.items():
        for m in range(2):
            best = min(range(2), key=lambda e: float(np.mean(of_epochs[e][:, m])))
            epochs.append((m, best + 1))
            np.testing.assert_allclose(rule.losses()[first::2, m], of_epochs[best][:, m], rtol=1e-6)
    metrics = rule.metrics()
    for m, name in enumerate(("audio", "video")):
        assert metrics[f"remix/reference_loss/{name}"] == pytest.approx(rule.losses()[:, m].mean())
        assert metrics[f"remix/reference_epochs/{name}"] == np.mean([best for of, best in epochs if of == m])
    assert rule.metrics() == {}


def test_a_restored_state_has_the_losses_and_the_metrics() -> None:
    rule = fitted({first: list(np.random.default_rng(first).random((2, 3, 2))) for first in (0, 1)})
    other = CrossFit(("audio", "video"), 6, (), 2)
    other.restore(rule.state())
    np.testing.assert_array_equal(other.losses(), rule.losses())
    assert other.metrics() == rule.metrics() != {}
    assert [epoch for epoch in range(5) if rule.due(epoch)] == [0]


def run_with(recipe: Recipe, assembled: Assembled, rule: str, **changes: Any) -> Run:
    options = {"reference_epochs": 2} if rule == "reducible_loss" else {}
    method = {"name": "remix", "warmup": 1, "filter": {"rule": rule, **options}}
    config = {"method": method, "epochs": 2, "evaluation.probe": False} | changes
    return assembled(recipe(config), f"{rule}{len(changes)}")


def cross_fit_of(run: Run) -> CrossFit:
    (rule,) = [rule for rule in run.method.rules if isinstance(rule, CrossFit)]
    return rule


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["concat", "mmtm"])
def test_no_model_trains_on_the_samples_that_it_is_evaluated_on(
    recipe: Recipe, assembled: Assembled, fusion: str
) -> None:
    run = run_with(recipe, assembled, "reducible_loss", **{"model.fusion": fusion})
    halves, N = vars(cross_fit_of(run))["_halves"], len(run.rows["train"])
    assert sorted(np.concatenate([others for _, others in halves]).tolist()) == list(range(N))
    for method, others_n in halves:
        schedule = method.plan.plan(0, lambda _: None).schedule
        trained = schedule.samples_TB[schedule.samples_TB >= 0]
        assert set(trained.tolist()) == set(range(N)) - set(others_n.tolist())
        together = schedule.active_TBM.sum(axis=2).max()
        assert together == (2 if fusion == "concat" else 1)  # mmtm mixes modalities that train together


@pytest.mark.slow
def test_the_models_of_the_halves_are_counted_and_leave_the_run_as_it_is(recipe: Recipe, assembled: Assembled) -> None:
    run, plain = (run_with(recipe, assembled, rule) for rule in ("reducible_loss", "argmin"))
    found, expected = train(run).history, train(plain).history
    assert np.isfinite(cross_fit_of(run).losses()).all()
    first = {k: v for k, v in found[0].items() if not k.startswith(("time/", "remix/reference_"))}
    first.pop("train/multiply_adds")
    assert first == {k: expected[0][k] for k in first}
    cost, N = sum(forward_multiply_adds(run.model, run.reader.sample_shapes()).values()), len(run.rows["train"])
    # Two epochs, in each of which every sample is trained in one half and evaluated in the other.
    assert found[0]["train/multiply_adds"] - expected[0]["train/multiply_adds"] == cost * 2 * N * (2 + BACKWARD)
    assert torch.isfinite(next(run.model.parameters())).all()


@pytest.mark.slow
def test_a_model_that_is_trained_longer_than_the_run_ends_with_it(recipe: Recipe, assembled: Assembled) -> None:
    run = run_with(recipe, assembled, "reducible_loss", **{"method.filter.reference_epochs": 9})
    assert train(run).history[0]["remix/reference_epochs/audio"] <= 2
