"""Changes of a model that are undone: by a copy that is trained before an epoch, and for a pass within an epoch"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from remix_study.balancing import Method
from remix_study.epoch import SplitStatistics
from remix_study.remix.sampler import rank_batches
from remix_study.training.preemption import preemption_at
from remix_study.training.run import Run
from remix_study.training.scoring import SplitPasses
from remix_study.training.step import SharedFlags
from remix_study.training.steps import average_statistics, run_step, set_rates
from remix_study.world import Collectives


@contextmanager
def undone(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo all changes of the model and of the optimizer that a block makes, bit by bit.

    In the block, the model begins with its current parameters and buffers, and the optimizer without a state. One copy
    of the parameters and buffers is in memory.
    """
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state, rates = optimizer.state, [group["lr"] for group in optimizer.param_groups]
    optimizer.state = defaultdict(dict)
    try:
        yield
    finally:
        optimizer.state = state
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


@contextmanager
def averaged(model: nn.Module, collectives: Collectives) -> Iterator[None]:
    """Average BatchNorm's running statistics over ranks, within a block.

    Ranks update them from their own batches, and average them after the epoch. Every rank must enter the block.
    """
    buffers = [b for b in model.buffers() if b.is_floating_point()] if collectives.world.size > 1 else []
    before = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        collectives.sum_(buffer)
        buffer.div_(collectives.world.size)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def train_copy(
    run: Run, first: int, passes: SplitPasses, trained_M: NDArray[np.int64], method: Method, epochs: int
) -> tuple[SplitStatistics, SplitStatistics]:
    """Train a copy of the model before epoch `first`; see `EpochStart.train_copy`.

    Args:
        passes: counts what is evaluated.
        trained_M: counts the samples on which each encoder is trained.

    Raises:
        RunPreempted: a rank got the notice of a preemption. The run resumes before the epoch.
    """
    with undone(run.model, run.optimizer):
        for _ in _epochs_of_copy(run, first, passes, trained_M, method, epochs):
            pass
        return passes.afresh()


def copy_losses(
    run: Run,
    first: int,
    passes: SplitPasses,
    trained_M: NDArray[np.int64],
    method: Method,
    epochs: int,
    samples: NDArray[np.int64],
) -> list[NDArray[np.float64]]:
    """As `train_copy`; see `EpochStart.copy_losses`."""
    with undone(run.model, run.optimizer):
        copied = _epochs_of_copy(run, first, passes, trained_M, method, epochs)
        return [passes.losses_afresh(samples) for _ in copied]


def _epochs_of_copy(
    run: Run, first: int, passes: SplitPasses, trained_M: NDArray[np.int64], method: Method, epochs: int
) -> Iterator[None]:
    """Train the epochs of a copy, and stop after each."""
    flags = SharedFlags(lambda: (run.preempted(),))
    for epoch in range(first, min(first + epochs, run.settings.epochs)):
        schedule = method.plan.plan(epoch, passes.score).schedule
        set_rates(run, method, epoch)
        run.model.train()
        for mine in rank_batches(schedule, run.collectives.world):
            run_step(run, method, epoch, mine, flags)
            if flags.counts[0]:
                run.collectives.barrier()
                raise preemption_at(first, 0)
        average_statistics(run)
        trained_M += schedule.active_TBM.sum(axis=(0, 1))
        yield
