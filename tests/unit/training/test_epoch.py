"""One epoch of training: the mode of the model, the mean loss, and clashes"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remix_study.config.run import RunConfig
from remix_study.training import steps
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.step import train_step

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[..., list[Any]]


def test_training_does_not_depend_on_the_mode_that_the_model_was_in(recipe: Recipe, assembled: Assembled) -> None:
    config = recipe({"method": {"name": "joint"}, "epochs": 1})
    fresh, evaluated = assembled(config, "fresh"), assembled(config, "evaluated")
    evaluated.model.eval()
    histories = [train(run).history for run in (fresh, evaluated)]
    norms = [layer for layer in fresh.model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms  # BatchNorm only counts batches in training mode
    assert all(norm.num_batches_tracked == histories[0][0]["train/steps"] for norm in norms)
    assert histories[0][0]["train/loss"] == histories[1][0]["train/loss"]
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, evaluated.model.state_dict()[name]), name


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_training_loss_of_an_epoch_is_the_mean_over_its_samples(
    recipe: Recipe, assembled: Assembled, run_on_ranks: OnRanks, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """Also if the last batch is smaller than the others."""
    config = recipe({"method": {"name": "joint"}, "epochs": 1, "global_batch": 40, "workers": ranks})
    sums: list[float] = []

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = train_step(*args, **kwargs)
        sums.append(float(loss))
        return loss

    monkeypatch.setattr(steps, "train_step", recorded)
    for result in run_on_ranks(ranks, lambda collectives: train(assembled(config, collectives=collectives))):
        assert result.history[0]["train/steps"] == 3
        assert result.history[0]["train/samples"] == 96
        assert result.history[0]["train/loss"] == pytest.approx(sum(sums) / 96, rel=1e-6)
    assert len(sums) == 3 * ranks


def test_clash_metrics_are_the_mean_of_the_cosines_and_the_fraction_below_zero(
    recipe: Recipe, assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the steps in which they are measured: 0, 3 and 6 of the seven of each epoch."""
    cosines = {"audio": [-0.5, 0.25, 0.0, 0.1, -0.1, -0.3], "video": [0.4, 0.3, 1e-6, -1.0, 0.0, 0.0]}
    calls: list[int] = []

    def made_up(*args: Any) -> dict[str, float]:
        calls.append(len(args))
        return {m: values[len(calls) - 1] for m, values in cosines.items()}

    monkeypatch.setattr(steps, "modality_interference", made_up)
    run = assembled(recipe({"method": {"name": "joint"}, "epochs": 2, "global_batch": 14, "evaluation.clash_every": 3}))
    history = train(run).history
    assert len(calls) == 6
    for epoch, record in enumerate(history):
        assert record["train/steps"] == 7
        for m, values in cosines.items():
            of_epoch = values[3 * epoch : 3 * epoch + 3]
            assert record[f"clash/c2/{m}"] == pytest.approx(sum(of_epoch) / 3)
            assert record[f"clash/c2_negative/{m}"] == pytest.approx(sum(value < 0 for value in of_epoch) / 3)


def test_measuring_clashes_does_not_change_the_training(recipe: Recipe, assembled: Assembled) -> None:
    """Also if the fusion has dropout: what is dropped in a step does not depend on the passes that measure."""
    fusion = {"name": "attention", "dropout": 0.5}
    plain = {"method": {"name": "joint"}, "model.fusion": fusion, "epochs": 1, "global_batch": 48}
    runs = [assembled(recipe({**plain, "evaluation.clash_every": every}), str(every)) for every in (0, 1)]
    for run in runs:
        train(run)
    for name, value in runs[0].model.state_dict().items():
        assert torch.equal(value, runs[1].model.state_dict()[name]), name
