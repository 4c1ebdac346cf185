"""Changes of a model that are undone: by a copy that is trained before an epoch, and for a pass within an epoch"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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
