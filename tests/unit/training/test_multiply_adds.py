"""Multiply-adds of encoders, and their metric"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from remix_study.config.run import RunConfig
from remix_study.models import ConcatFusion, MultimodalModel
from remix_study.models.resnet import ResNet18
from remix_study.models.sequence import SequenceEncoder
from remix_study.models.vector import VectorEncoder
from remix_study.training.loop import train
from remix_study.training.multiply_adds import central_multiply_adds, forward_multiply_adds
from remix_study.training.run import Run

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]


def model_of(**encoders: Any) -> MultimodalModel:
    return MultimodalModel(encoders, ConcatFusion({m: e.out_features for m, e in encoders.items()}, 3))


def test_resnet18_has_the_multiply_adds_of_its_paper() -> None:
    """1.8e9 for a picture of 224 x 224 pixels (He et al., table 1)."""
    model = model_of(video=ResNet18(3))
    found = forward_multiply_adds(model, {"video": torch.Size((1, 3, 224, 224))})
    assert found["video"] == pytest.approx(1.81e9, rel=0.005)
    several = forward_multiply_adds(model, {"video": torch.Size((1, 3, 4, 224, 224))})
    assert several["video"] == 4 * found["video"], "frames are pictures"


def test_every_encoder_is_counted_as_by_torch() -> None:
    model = model_of(text=SequenceEncoder(5), sensor=VectorEncoder(7), audio=ResNet18(1, width=8))
    shapes = {"text": (1, 50, 5), "sensor": (1, 7), "audio": (1, 1, 40, 33)}
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = forward_multiply_adds(model, {m: torch.Size(shape) for m, shape in shapes.items()})
    assert model.encoders["audio"].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    for m, shape in shapes.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode(m, torch.ones(shape))
        # On a CPU, torch does not count attention: queries with keys, and weights with values, in two blocks.
        attention = 2 * 2 * 50 * 50 * model.widths["text"] if m == "text" else 0
        assert found[m] == counter.get_total_flops() / 2 + attention, m


def test_the_network_of_centralnet_costs_three_passes_per_sample_of_an_epoch(
    recipe: Recipe, assembled: Assembled
) -> None:
    run = assembled(recipe({"epochs": 1, "method": {"name": "joint"}, "model.fusion": "centralnet"}))
    central = 9 * (8 * 16 * 16 + 16 * 48 * 4 + 48 * 128)  # the smallest maps have 4 x 4, 2 x 2 and 1 x 1 pixels
    assert central_multiply_adds(run.model) == central
    cost = sum(forward_multiply_adds(run.model, run.reader.sample_shapes()).values())
    assert train(run).history[0]["train/multiply_adds"] == 3 * 96 * (cost + central)


def test_an_epoch_costs_three_passes_per_trained_sample_and_one_per_scored(
    recipe: Recipe, assembled: Assembled
) -> None:
    def of(**changes: Any) -> tuple[list[dict[str, float]], dict[str, float], dict[str, int]]:
        config = recipe({"epochs": 3, "evaluation.probe": False, **changes})
        run = assembled(config, config.digest("corpus"))
        result = train(run)
        return result.history, result.summary, forward_multiply_adds(run.model, run.reader.sample_shapes())

    samples = 96
    joint, summary, cost = of(method={"name": "joint"})
    assert [r["train/multiply_adds"] for r in joint] == [3 * samples * sum(cost.values())] * 3
    assert summary["train/total_multiply_adds"] == 9 * samples * sum(cost.values())
    remix, _, _ = of(method={"name": "remix", "warmup": 1, "rescore_every": 2})
    trained = [sum(3 * cost[m] * r[f"train/samples/{m}"] for m in cost) for r in remix]
    scored = samples * sum(cost.values())
    np.testing.assert_allclose([r["train/multiply_adds"] for r in remix], np.add(trained, [0, scored, 0]))
    released, _, _ = of(method={"name": "remix", "warmup": 1, "rescore_every": 2}, masking="zero_feature")
    # Both encoders run for every sample.
    np.testing.assert_allclose(
        [r["train/multiply_adds"] for r in released],
        np.add([3 * r["train/samples"] * sum(cost.values()) for r in released], [0, scored, 0]),
    )
