"""Modality dropout, sample by sample"""

# B samples of the global batch, M modalities

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import Step, Window
from remix_study.balancing.draws import SampleDraws
from remix_study.balancing.modality_dropout import ModalityDropout
from remix_study.models import ConcatFusion
from remix_study.seeds import stream
from tests.unit.balancing.linear import AT, ROWS, batch_of, model_of, seen

THREE = ("audio", "text", "video")


def rule_of(probability: float, modalities: tuple[str, ...] = THREE, rows: int = ROWS, seed: int = 0) -> Any:
    return ModalityDropout(
        modalities, probability, window=Window(), draws=SampleDraws(seed, "modality_dropout", rows, len(modalities))
    )


def masked(rule: Any, active: np.ndarray | None = None, at: Step = AT) -> torch.Tensor:
    model = model_of(ConcatFusion, THREE)
    found: torch.Tensor = rule.mask(seen(model, batch_of(model, active), at)).active_BM
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_modality_is_dropped_where_its_number_is_below_the_probability(seed: int) -> None:
    """At least one of the modalities that a sample trains is kept."""
    active = np.random.default_rng(seed).random((ROWS, 3)) < 0.7
    active[:, seed % 3] = True
    found = masked(rule_of(0.6, seed=seed), active).tolist()
    draws = stream(seed, "modality_dropout", AT.epoch).random((ROWS, 3), dtype=np.float32)
    for row in range(ROWS):
        trains = [m for m in range(3) if active[row, m]]
        kept = [m for m in trains if draws[row, m] >= 0.6]
        if not kept:
            kept = [max(trains, key=lambda m: draws[row, m])]
        assert found[row] == [m in kept for m in range(3)]


def test_subsets_are_as_frequent_as_their_probabilities() -> None:
    """With two modalities and q: both (1-q)^2, each alone q(1-q) + q^2/2."""
    rows, q = 20_000, 0.4
    rule = rule_of(q, ("audio", "video"), rows)
    model = model_of(ConcatFusion)
    some = seen(model, batch_of(model))
    everyone = torch.ones(rows, 2, dtype=torch.bool)
    kept = rule.mask(replace(some, active_BM=everyone, samples_B=torch.arange(rows)))
    count = Counter(map(tuple, kept.active_BM.tolist()))
    assert count[True, True] / rows == pytest.approx((1 - q) ** 2, abs=0.01)
    for alone in ((True, False), (False, True)):
        assert count[alone] / rows == pytest.approx(q * (1 - q) + q * q / 2, abs=0.01)
    rule.apply(model, rule.sums(some), AT)
    dropped = q * (1 - q) + q * q / 2
    assert rule.metrics() == pytest.approx(
        {f"method/modality_dropout/dropped/{m}": dropped for m in ("audio", "video")}, abs=0.01
    )
    assert rule.metrics() == {}


def test_probability_0_keeps_everything_and_1_exactly_one() -> None:
    assert masked(rule_of(0.0)).all()
    assert masked(rule_of(1.0)).sum(dim=1).tolist() == [1] * ROWS


def test_draws_depend_on_seed_epoch_and_sample_only() -> None:
    one = masked(rule_of(0.5))
    assert torch.equal(masked(rule_of(0.5), at=Step(AT.epoch, 99, ROWS)), one)
    assert not torch.equal(masked(rule_of(0.5), at=Step(AT.epoch + 1, AT.number, ROWS)), one)
    assert not torch.equal(masked(rule_of(0.5, seed=1)), one)
    draws = SampleDraws(0, "modality_dropout", ROWS, 3)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws.of(2, order), draws.of(2, torch.arange(ROWS))[order])


def test_a_unimodal_batch_is_left_alone() -> None:
    alone = np.tile([False, True, False], (ROWS, 1))
    rule = rule_of(0.9)
    assert torch.equal(masked(rule, alone), torch.from_numpy(alone))
    assert not rule.acts(Step(0, 0, multimodal=0))
    assert rule.acts(Step(0, 0, multimodal=1))


def test_a_rule_acts_within_its_window() -> None:
    rule = ModalityDropout(THREE, 0.5, window=Window(2, 4), draws=SampleDraws(0, "d", ROWS, 3))
    assert [rule.acts(Step(epoch, 0, 8)) for epoch in range(6)] == [False, False, True, True, False, False]
