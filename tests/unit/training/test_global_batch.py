"""Training on several ranks computes the gradient of the mean loss over the global batch"""

# B samples of the global batch, M modalities

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from remix_study.balancing import Step
from remix_study.config.run import RunConfig
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.step import train_step
from remix_study.world import Collectives

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[..., list[Any]]
ROWS_B = np.array([3, 1, 4, 15, 9, 2])
ACTIVE_BM = np.array([[True, True], [True, False], [False, True], [True, True], [True, False], [True, True]])
RATE = 0.1
SGD = {"optimizer": {"name": "sgd", "learning_rate": RATE, "momentum": 0.0, "weight_decay": 0.0}}


def mean_gradient(run: Run) -> dict[str, torch.Tensor]:
    """Return the gradient of the mean over the batch of CE(z) + sum_m weight_m CE(h_m), sample by sample."""
    losses = []
    for row, active_M in zip(ROWS_B, ACTIVE_BM, strict=True):
        clip = run.reader.read(np.array([row]), active_M[None])
        outputs = run.model(clip)
        loss = nn.functional.cross_entropy(outputs.logits_BC, clip.labels_B)
        for m, active in zip(run.model.modalities, active_M, strict=True):
            if active:
                weight = 0.5 if active_M.all() else 1.0
                loss = loss + weight * nn.functional.cross_entropy(outputs.head_logits[m], clip.labels_B)
        losses.append(loss)
    names, parameters = zip(*run.model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(torch.stack(losses).mean(), parameters), strict=True))


def stepped(
    runs: list[Run], parts: list[NDArray[np.int64]], run_on_ranks: OnRanks, clip_norm: float | None = None
) -> list[dict[str, torch.Tensor]]:
    """Train one step, in which rank r has the samples `parts[r]`, and return the change of each rank's weights."""

    def work(collectives: Collectives) -> dict[str, torch.Tensor]:
        run, part = runs[collectives.world.rank], parts[collectives.world.rank]
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        batch = run.reader.read(ROWS_B[part], ACTIVE_BM[part])
        train_step(
            run.model, run.method, batch, len(ROWS_B), run.optimizer, collectives, autocast=False, clip_norm=clip_norm,
            at=Step(0, 0),
        )  # fmt: skip
        return {name: p.detach() - before[name] for name, p in run.model.named_parameters()}

    return run_on_ranks(len(parts), work)


@pytest.mark.parametrize(
    ("sizes", "clip_norm", "fusion"),
    [
        *[(sizes, clip, "concat") for sizes in [(6,), (3, 3), (5, 1), (1, 2, 3)] for clip in (None, 0.01)],
        *[((1, 2, 3), None, fusion) for fusion in ("attention", "mmtm", "centralnet")],
    ],
    ids=str,
)
def test_a_step_follows_the_gradient_of_the_mean_loss_for_any_distribution_over_ranks(
    recipe: Recipe,
    assembled: Assembled,
    run_on_ranks: OnRanks,
    sizes: tuple[int, ...],
    clip_norm: float | None,
    fusion: str,
) -> None:
    config = recipe({**SGD, "model.fusion": fusion})
    runs = [assembled(config, folder=f"rank{rank}") for rank in range(len(sizes))]
    for run in runs:
        run.model.eval()  # so that BatchNorm does not depend on the other samples of a rank
    gradient = mean_gradient(runs[0])
    norm = float(torch.cat([part.flatten() for part in gradient.values()]).norm())
    factor = 1.0 if clip_norm is None else clip_norm / norm
    assert factor <= 1.0
    parts = np.split(np.arange(len(ROWS_B)), np.cumsum(sizes)[:-1])
    for changes in stepped(runs, parts, run_on_ranks, clip_norm):
        for name, change in changes.items():
            expected = -RATE * factor * gradient[name]
            torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()) + 1e-7)


@pytest.mark.slow
def test_running_means_of_mmtm_are_equal_on_all_ranks_and_close_to_those_of_one(
    recipe: Recipe, assembled: Assembled, run_on_ranks: OnRanks
) -> None:
    """In training, BatchNorm's statistics depend on the samples of a rank, so that they are not the same numbers."""
    config = recipe({"model.fusion": "mmtm", "method.warmup": 1, "epochs": 2, "workers": 2, "evaluation.probe": False})
    alone = assembled(config, "alone")
    train(alone)

    def work(collectives: Collectives) -> Run:
        run = assembled(config, "ranks", collectives=collectives)
        train(run)
        return run

    first, second = run_on_ranks(2, work)
    one = {name: value for name, value in alone.model.named_buffers() if name.endswith("mean_C")}
    assert len(one) == 6
    for name, value in first.model.named_buffers():
        assert torch.equal(value, dict(second.model.named_buffers())[name]), name
        if name in one:
            torch.testing.assert_close(value, one[name], rtol=0.3, atol=0.05)


def test_statistics_of_batchnorm_are_the_mean_over_ranks(
    recipe: Recipe, assembled: Assembled, run_on_ranks: OnRanks
) -> None:
    """So the running mean of the first layer is that of a single rank with the whole batch."""
    config = recipe({"method": {"name": "joint"}, "epochs": 1, "global_batch": 96, "workers": 2})
    alone = assembled(config, "alone")
    train(alone)

    def work(collectives: Collectives) -> Run:
        run = assembled(config, "ranks", collectives=collectives)
        train(run)
        return run

    for run in run_on_ranks(2, work):
        for m in run.model.modalities:
            one, whole = (
                next(module for module in of.model.encoders[m].modules() if isinstance(module, nn.BatchNorm2d))
                for of in (run, alone)
            )
            assert one.running_mean is not None
            assert whole.running_mean is not None
            assert one.running_var is not None
            assert whole.running_var is not None
            torch.testing.assert_close(one.running_mean, whole.running_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.running_var, whole.running_var, rtol=0.1, atol=0.0)
