"""MMPareto: one direction from the gradients of the fused and of the unimodal loss (Wei and Hu, ICML 2024)

For each encoder m, over all of its parameters:

    g_0, g_1   gradients of the fused loss and of m's unimodal loss
    w          (1/2, 1/2) if g_0 . g_1 > 0; else the weights in [0.001, 0.999] that sum to 1 and minimise
               |w_0 g_0 + w_1 g_1|
    G          2 w_0 g_0 + 2 w_1 g_1

Of each parameter, G is enlarged to the norm of g_0 + g_1 if it is shorter, and then multiplied by `gain`. Heads and
fusion follow the sum of the losses. Where the gradients do not conflict, an encoder therefore gets `gain` times the
gradient of joint training with unimodal losses, as with a higher learning rate.

In a unimodal batch, the encoder in training has both losses, and the rule acts on it alone.
"""

# M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import StepMeans, Window
from remix_study.balancing.slots import Step

_LEAST = 1e-3  # of a weight, as in the released code


def weights(square_0: torch.Tensor, square_1: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """The weights of two gradients, (2,), from |g_0|^2, |g_1|^2 and g_0 . g_1."""
    distance = square_0 + square_1 - 2 * product
    first = ((square_1 - product) / distance.clamp(min=torch.finfo(distance.dtype).tiny)).clamp(_LEAST, 1 - _LEAST)
    first = torch.where(product > 0, 0.5, first)
    return torch.stack([first, 1 - first])


class MMPareto:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        gain: factor of the gradients of the encoders. Published: 1.5.
        window: epochs in which the rule acts.
    """

    name = "mmpareto"

    def __init__(self, modalities: Sequence[str], gain: float, *, window: Window) -> None:
        self._modalities = tuple(modalities)
        self._gain, self._window = gain, window
        self._means = {m: StepMeans([f"method/mmpareto/{what}/{m}" for what in ("cosine", "weight_fused")])
                       for m in self._modalities}  # fmt: skip

    def acts(self, step: Step) -> bool:
        return step.epoch in self._window

    def combine(self, alone: Mapping[str, Mapping[torch.nn.Parameter, torch.Tensor]]) -> None:
        """Set the gradients of the encoders; see `CombineRule`."""
        for m, unimodal in alone.items():
            pairs = [(p, p.grad, gradient) for p, gradient in unimodal.items() if p.grad is not None]
            if not pairs:
                continue
            square_0 = torch.stack([g_0.square().sum() for _, g_0, _ in pairs]).sum()
            square_1 = torch.stack([g_1.square().sum() for _, _, g_1 in pairs]).sum()
            product = torch.stack([(g_0 * g_1).sum() for _, g_0, g_1 in pairs]).sum()
            w_0, w_1 = weights(square_0, square_1, product)
            cosine = product / (square_0 * square_1).sqrt().clamp(min=torch.finfo(product.dtype).tiny)
            self._means[m].add(torch.stack([cosine, w_0]))
            for p, g_0, g_1 in pairs:
                p.grad = _direction(g_0, g_1, w_0, w_1, self._gain)

    def metrics(self) -> dict[str, float]:
        return {name: value for means in self._means.values() for name, value in means.take().items()}

    def state(self) -> dict[str, Any]:
        return {m: means.state() for m, means in self._means.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for m, means in self._means.items():
            means.restore(state[m])


def _direction(g_0: torch.Tensor, g_1: torch.Tensor, w_0: torch.Tensor, w_1: torch.Tensor, gain: float) -> torch.Tensor:
    combined = 2 * w_0 * g_0 + 2 * w_1 * g_1
    longer = (g_0 + g_1).norm() / combined.norm().clamp(min=torch.finfo(combined.dtype).tiny)
    direction: torch.Tensor = combined * longer.clamp(min=1.0) * gain
    return direction
