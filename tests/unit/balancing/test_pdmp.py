"""PDMP: constant factors, and which modality is dominant"""

# N training samples, B samples of the global batch, M modalities

from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import EpochStart, Step, Window
from remix_study.balancing.pdmp import PDMP
from remix_study.epoch import SplitStatistics
from remix_study.models import ConcatFusion, FiLMFusion, Fusion
from tests.unit.balancing.linear import batch_of, model_of
from tests.unit.balancing.test_ogm import changed


class Passes:
    """Gives one table, and counts how often it was asked for."""

    def __init__(self, loss_M: list[float], right: dict[str, float] | None = None) -> None:
        self.asked = 0
        rows = np.arange(10)
        loss_NM = np.tile(np.array(loss_M), (10, 1))
        table = None if right is None else {frozenset({m}): rows < 10 * share for m, share in right.items()}
        self.found = SplitStatistics(rows, rows, np.ones(loss_NM.shape, np.bool_), loss_NM, right=table)

    def train(self) -> SplitStatistics:
        self.asked += 1
        return self.found

    def control(self) -> SplitStatistics:
        raise AssertionError


def begin(rule: PDMP, epoch: int, passes: Any) -> None:
    model = model_of(ConcatFusion)
    if rule.due(epoch):
        rule.begin(EpochStart(epoch, model, torch.optim.SGD(model.parameters(), lr=0.1), passes))


@pytest.mark.parametrize("fusion", [ConcatFusion, FiLMFusion])
def test_weights_of_encoders_get_the_factor_of_their_modality(fusion: type[Fusion]) -> None:
    """With any fusion; biases, heads and fusion are left alone."""
    model = model_of(fusion)
    rule = PDMP(model.modalities, "video", 3.0, 0.25, window=Window(), heads=False)
    before, after = changed(rule, model, batch_of(model))
    factors = {"encoders.video.layer.weight": 3.0, "encoders.audio.layer.weight": 0.25}
    for name, gradient in after.items():
        torch.testing.assert_close(gradient, before[name] * factors.get(name, 1.0))
    assert rule.metrics() == {"method/pdmp/factor/audio": 0.25, "method/pdmp/factor/video": 3.0}


def test_with_three_modalities_all_but_one_get_the_smaller_factor() -> None:
    model = model_of(ConcatFusion, ("audio", "text", "video"))
    rule = PDMP(model.modalities, "text", 3.0, 0.25, window=Window(), heads=False)
    before, after = changed(rule, model, batch_of(model))
    for m in model.modalities:
        name = f"encoders.{m}.layer.weight"
        torch.testing.assert_close(after[name], before[name] * (3.0 if m == "text" else 0.25))


def test_a_given_modality_needs_no_pass() -> None:
    rule = PDMP(("audio", "video"), "audio", 2.0, 0.5, window=Window(), heads=False)
    assert rule.acts(Step(0, 0, 8))
    assert not any(rule.due(epoch) for epoch in range(5))
    assert not rule.needs


@pytest.mark.parametrize(
    ("heads", "passes"),
    [
        (True, Passes([0.9, 0.4], {"audio": 0.9, "video": 0.1})),
        (False, Passes([0.1, 0.4], {"audio": 0.2, "video": 0.3})),
    ],
    ids=["heads", "fused"],
)
def test_without_it_modalities_are_ranked_by_heads_or_by_the_fused_head(heads: bool, passes: Passes) -> None:
    """Not before the first epoch, in which nothing is trained yet."""
    rule = PDMP(("audio", "video"), None, 2.0, 0.5, window=Window(), heads=heads)
    assert rule.needs == (frozenset() if heads else {"subsets"})
    begin(rule, 0, passes)
    assert not rule.acts(Step(0, 0, 8))
    begin(rule, 1, passes)
    assert rule.acts(Step(1, 0, 8))
    assert passes.asked == 1
    changed(rule, model := model_of(ConcatFusion), batch_of(model))
    assert rule.metrics() == {"method/pdmp/factor/audio": 0.5, "method/pdmp/factor/video": 2.0}


def test_the_ranking_is_part_of_the_state() -> None:
    rule, other = (PDMP(("audio", "video"), None, 2.0, 0.5, window=Window(), heads=True) for _ in range(2))
    begin(rule, 1, Passes([0.9, 0.4]))
    other.restore(rule.state())
    assert other.acts(Step(1, 3, 8))
    assert other.state() == rule.state()


def test_a_unimodal_batch_and_epochs_outside_the_window_are_left_alone() -> None:
    rule = PDMP(("audio", "video"), "audio", 2.0, 0.5, window=Window(2, 4), heads=True)
    assert [rule.acts(Step(epoch, 0, 8)) for epoch in range(6)] == [False, False, True, True, False, False]
    assert not rule.acts(Step(2, 0, multimodal=0))


def test_factors_1_leave_all_gradients_as_they_are() -> None:
    model = model_of(ConcatFusion)
    rule = PDMP(model.modalities, "audio", 1.0, 1.0, window=Window(), heads=True)
    before, after = changed(rule, model, batch_of(model))
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())
