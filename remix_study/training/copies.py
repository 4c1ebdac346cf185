"""Train copies of a model before an epoch, and leave the model as it is"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
