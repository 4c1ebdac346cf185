"""Mixed precision in training, scoring passes and evaluations"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import Step
from remix_study.config.run import RunConfig
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.step import train_step

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_all_passes_of_a_run_have_its_precision(
    recipe: Recipe, assembled: Assembled, precision: str, dtype: torch.dtype
) -> None:
    """Otherwise, modalities would be scored, and epochs selected, with other numbers than those of training."""
    run = assembled(recipe({"precision": precision, "evaluation": {"test": True, "probe": True}}))
    seen: dict[bool, list[torch.dtype]] = {True: [], False: []}  # by training or evaluation mode

    def record(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.device.type != "meta":  # counting multiply-adds computes nothing
            seen[layer.training].append(output.dtype)

    for layer in run.model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    train(run)
    assert len(seen[True]) > 0
    assert len(seen[False]) > 0
    assert set(seen[True]) == set(seen[False]) == {dtype}


def test_bfloat16_has_the_range_of_single_precision(recipe: Recipe, assembled: Assembled) -> None:
    """Activations may exceed 65504, the largest number of float16."""
    run = assembled(recipe({"optimizer": {"name": "sgd", "learning_rate": 0.1}}))
    (norm, *_) = (module for module in run.model.encoders["audio"].modules() if isinstance(module, nn.BatchNorm2d))
    largest: list[float] = []
    norm.register_forward_hook(lambda norm, inputs, _: largest.append(float(inputs[0].detach().abs().max())))
    with torch.no_grad():
        next(iter(run.model.encoders["audio"].parameters())).mul_(1e7)
    batch = run.reader.read(np.arange(6), np.ones((6, 2), np.bool_))
    loss = train_step(
        run.model, run.method, batch, 6, run.optimizer, run.collectives, autocast=True, clip_norm=None, at=Step(0, 0)
    )
    assert largest[0] > 65504
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in run.model.parameters())
