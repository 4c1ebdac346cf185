import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import Method
from remix_study.epoch import ScoringPass
from remix_study.remix import Argmin, ProgressShare, Reassembly, RemixPlan, RemixSettings
from remix_study.training.state import Progress, pack, unpack


def test_the_first_of_equal_epochs_stays_best() -> None:
    progress = Progress()
    assert [progress.add({"val/accuracy": value}) for value in (0.2, 0.5, 0.5, 0.4)] == [True, True, False, False]
    assert (progress.best_epoch, progress.next_epoch) == (1, 4)


@pytest.mark.parametrize(
    ("select_by", "best"), [("accuracy", 0), ("balanced_accuracy", 1), ("macro_f1", 2), ("cross_entropy", 3)]
)
def test_the_best_epoch_is_chosen_by_the_given_metric(select_by: str, best: int) -> None:
    """Each epoch is the best by one metric; the cross-entropy is minimised, and its highest value comes first."""
    progress = Progress(select_by)
    for epoch in range(4):
        names = ("accuracy", "balanced_accuracy", "macro_f1")
        progress.add({f"val/{name}": float(number == epoch) for number, name in enumerate(names)}
                     | {"val/cross_entropy": 3.0 - epoch, f"test/{select_by}": 9.0 * epoch})  # fmt: skip
    assert progress.best_epoch == best


def test_an_epoch_of_zero_accuracy_is_better_than_none() -> None:
    assert Progress().add({"val/accuracy": 0.0})


def test_records_are_plain_numbers() -> None:
    progress = Progress()
    progress.add({"val/accuracy": np.float64(0.5), "x": np.float32(1)})  # type: ignore[dict-item]
    assert [type(value) for value in progress.history[0].values()] == [float, float]


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_checkpoint_round_trips_with_weights_only(epochs: int) -> None:
    """The plan is in warm-up, at its first assignment, or later."""

    def plan() -> RemixPlan:
        how = Reassembly("blocks", (1, 0), batch=4, smallest=2)
        settings = RemixSettings(warmup=1, score="kl", filter=Argmin(), how=how, share=ProgressShare())
        return RemixPlan(settings, ("audio", "video"), np.arange(12) % 3, 3, seed=0)

    def run_scoring_pass(score: Any) -> ScoringPass:
        scores_NM = np.random.default_rng(0).random((12, 2))
        return ScoringPass(scores_NM, scores_NM)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, RemixPlan]:
        model = nn.Linear(2, 2)
        return model, torch.optim.Adam(model.parameters()), plan()

    model, optimizer, before = fresh()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for epoch in range(epochs):
        before.plan(epoch, run_scoring_pass)
    progress = Progress("macro_f1")
    progress.add({"val/accuracy": 0.5, "val/macro_f1": 0.4})
    file = io.BytesIO()
    torch.save(pack(progress, model, optimizer, Method("remix", before, ()), "digest"), file)
    file.seek(0)
    content = torch.load(file, weights_only=True)

    other, its_optimizer, after = fresh()
    assert unpack(content, other, its_optimizer, Method("remix", after, ()), "macro_f1") == progress
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    assert str(its_optimizer.state_dict()) == str(optimizer.state_dict())
    for epoch in range(epochs, epochs + 2):
        one, same = before.plan(epoch, run_scoring_pass), after.plan(epoch, run_scoring_pass)
        np.testing.assert_array_equal(one.schedule.samples_TB, same.schedule.samples_TB)
        assert one.metrics == same.metrics
