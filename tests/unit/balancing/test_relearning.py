"""Diagnosing & Re-learning against its formulas"""

# N samples of a split

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import Window
from remix_study.balancing.relearning import Relearning, clusters, purity, scaled
from remix_study.balancing.slots import EpochStart
from remix_study.epoch import SplitStatistics
from remix_study.models import ConcatFusion, MultimodalModel
from tests.unit.balancing.linear import CLASSES, model_of
from tests.unit.balancing.passes import FixedPasses, start

THREE = ("audio", "text", "video")
BLOBS = 3  # samples of each class


def split_of(modalities: tuple[str, ...], mixed: dict[str, int]) -> SplitStatistics:
    """Features in one blob per class, of which `mixed[m]` samples of class 0 lie in the blob of class 1."""
    labels_N = np.repeat(np.arange(CLASSES), BLOBS)
    draw = np.random.default_rng(0)
    features = {}
    for m in modalities:
        blob_N = labels_N.copy()
        blob_N[: mixed.get(m, 0)] = 1
        corner_Nd = np.array([[0, 0], [0, 9], [9, 0], [9, 9]])[blob_N]
        features[m] = (corner_Nd + draw.normal(scale=0.1, size=(len(labels_N), 2))).astype(np.float32)
    rows_N = np.arange(len(labels_N))
    held = np.ones((len(labels_N), len(modalities)), np.bool_)
    return SplitStatistics(rows_N, labels_N, held, np.zeros(held.shape), features=features)


def rule_of(initial: MultimodalModel, strength: float = 3.0, **others: Any) -> Relearning:
    return Relearning(
        initial.modalities, CLASSES, others.get("every", 20), others.get("times", 3), strength,
        window=others.get("window", Window()), seed=0, initial=lambda: initial,
    )  # fmt: skip


def models(modalities: tuple[str, ...]) -> tuple[MultimodalModel, MultimodalModel]:
    """A model, and its initial weights."""
    initial = model_of(ConcatFusion, modalities)
    for m in modalities:
        initial.encoders[m].norm = nn.BatchNorm1d(2)
    trained = copy.deepcopy(initial)
    with torch.no_grad():
        for tensor in [*trained.parameters(), *(b for b in trained.buffers() if b.is_floating_point())]:
            tensor.add_(1.0)
    return trained, initial


@pytest.mark.parametrize("modalities", [("audio", "video"), THREE], ids=len)
def test_encoders_move_towards_their_initial_weights_by_the_difference_of_purities(modalities: tuple[str, ...]) -> None:
    model, initial = models(modalities)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rule = rule_of(initial)
    training, control = split_of(modalities, {}), split_of(modalities, {"audio": 2, "video": 1})
    rule.begin(start(20, model, FixedPasses(training, control)))
    # Of 12 samples, those in the blob of another class do not count.
    purities = {"audio": 10 / 12, "video": 11 / 12} | ({"text": 1.0} if "text" in modalities else {})
    weight = {m: math.tanh(3 * abs(1.0 - p)) for m, p in purities.items()}
    first = initial.state_dict()
    for name, value in model.state_dict().items():
        w = weight[name.split(".")[1]] if name.startswith("encoders.") and value.is_floating_point() else 0.0
        wished = w * first[name] + (1 - w) * before[name]
        torch.testing.assert_close(value, wished.to(value.dtype))
    assert not torch.equal(
        model.state_dict()["encoders.audio.norm.running_var"], before["encoders.audio.norm.running_var"]
    )
    metrics = rule.metrics()
    for m in modalities:
        assert metrics[f"method/relearning/reinitialised/{m}"] == pytest.approx(weight[m])
        assert metrics[f"method/relearning/purity_train/{m}"] == 1.0
        assert metrics[f"method/relearning/purity_control/{m}"] == pytest.approx(purities[m])
    assert rule.metrics() == {}


def test_the_optimizer_forgets_its_state_for_encoders_that_moved_only() -> None:
    model, initial = models(("audio", "video"))
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    passes = FixedPasses(split_of(model.modalities, {}), split_of(model.modalities, {"audio": 2}))
    rule_of(initial).begin(EpochStart(20, model, optimizer, passes))
    forgotten = {id(p) for p in model.encoder_parameters("audio")}
    assert {id(p) for p in model.parameters()} - {id(p) for p in optimizer.state} == forgotten
    again = torch.optim.Adam(model.parameters())
    again.load_state_dict(optimizer.state_dict())
    optimizer.step()


@pytest.mark.parametrize(("strength", "mixed"), [(0.0, 2), (3.0, 0)], ids=["strength 0", "equal purities"])
def test_without_strength_or_difference_nothing_changes(strength: float, mixed: int) -> None:
    model, initial = models(("audio", "video"))
    before = copy.deepcopy(model.state_dict())
    passes = FixedPasses(split_of(model.modalities, {}), split_of(model.modalities, {"audio": mixed}))
    rule_of(initial, strength).begin(start(20, model, passes))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_acts_every_few_epochs_and_a_number_of_times() -> None:
    model = model_of(ConcatFusion)
    rule = rule_of(model, every=4, times=2)
    assert [epoch for epoch in range(30) if rule.due(epoch)] == [4, 8]
    later = rule_of(model, every=4, times=9, window=Window(3, 12))
    assert [epoch for epoch in range(30) if later.due(epoch)] == [7, 11]


def test_ranks_use_the_numbers_of_rank_0() -> None:
    model, initial = models(("audio", "video"))
    passes = FixedPasses(split_of(model.modalities, {}), split_of(model.modalities, {"audio": 2}))
    rule = rule_of(initial)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule.begin(EpochStart(20, model, optimizer, passes, lambda values: np.array([[0.9, 0.9], [0.9, 0.4]])))
    metrics = rule.metrics()
    assert metrics["method/relearning/reinitialised/audio"] == 0.0
    assert metrics["method/relearning/reinitialised/video"] == pytest.approx(math.tanh(1.5))


def test_scaling_is_per_dimension_and_takes_constant_ones() -> None:
    found = scaled(np.array([[1.0, 5.0, -2.0], [3.0, 5.0, 0.0], [2.0, 5.0, 2.0]], np.float32))
    assert found.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.5, 0.0, 1.0]]


def test_purity_is_the_fraction_of_the_most_frequent_classes() -> None:
    assert purity(np.array([0, 0, 0, 1, 1, 4]), np.array([2, 2, 1, 0, 2, 3])) == pytest.approx(4 / 6)


def test_clusters_are_the_same_each_time_and_at_most_as_many_as_there_are_points() -> None:
    draw = np.random.default_rng(3).uniform(size=(40, 3))
    assert clusters(draw, 5, 7).tolist() == clusters(draw, 5, 7).tolist()
    assert len(np.unique(clusters(np.repeat(draw[:2], 4, axis=0), 5, 7))) == 2


def test_its_state_resumes_exactly() -> None:
    model, initial = models(("audio", "video"))
    rule, again = rule_of(initial), rule_of(initial)
    passes = FixedPasses(split_of(model.modalities, {}), split_of(model.modalities, {"audio": 2}))
    rule.begin(start(20, model, passes))
    again.restore(rule.state())
    assert rule.metrics() == again.metrics() != {}
