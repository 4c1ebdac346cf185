"""Multiply-adds of encoders and of networks between them, to compare methods independently of the machine"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from remix_study.models import InnerFusion, MultimodalModel

BACKWARD = 2  # times the multiply-adds of the forward pass: gradients of the inputs and of the weights


def forward_multiply_adds(model: MultimodalModel, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
    """Modality -> multiply-adds of its encoder for one sample.

    Counted with torch's formulas on the meta device, which computes nothing. Convolutions, matrix products and
    attention count; heads and fusion, which are small, do not.

    Args:
        shapes: modality -> shape of the input of one sample, (1, ...).
    """
    return {m: _multiply_adds(model.encoders[m], shapes[m]) for m in model.modalities}


def central_multiply_adds(model: MultimodalModel) -> int:
    """Multiply-adds for one sample of a network between the encoders (`InnerFusion.layers`); 0 without one."""
    if not isinstance(model.fusion, InnerFusion):
        return 0
    return sum(_multiply_adds(layer, torch.Size(shape)) for layer, shape in model.fusion.layers())


def _multiply_adds(module: nn.Module, shape: torch.Size) -> int:
    state = {name: value.detach().to("meta") for name, value in module.state_dict().items()}
    was_training = module.training
    module.eval()
    with _Count() as counter, torch.no_grad():
        functional_call(module, state, (torch.empty(shape, device="meta"),))
    module.train(was_training)
    operations: int = counter.operations
    return operations // 2  # a multiply-add is two operations


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Counts operations in this thread. `FlopCounterMode` also sets hooks of all threads, which may train models."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=out))
        return out
