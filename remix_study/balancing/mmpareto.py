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

# M modalities, P parameters of an encoder

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import StepMeans, Window
from remix_study.balancing.slots import Step

_LEAST = 1e-3  # of a weight, as in the released code
_TINY = torch.finfo(torch.float64).tiny


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
            trained = [p for p in unimodal if p.grad is not None]
            if not trained:
                continue
            fused = [p.grad for p in trained if p.grad is not None]
            pairs = list(zip(fused, (unimodal[p] for p in trained), strict=True))
            # Of each parameter; few passes over the gradients, since they are the cost of this rule.
            square_0_P = _stacked([_dot(g_0, g_0) for g_0, _ in pairs])
            square_1_P = _stacked([_dot(g_1, g_1) for _, g_1 in pairs])
            product_P = _stacked([_dot(g_0, g_1) for g_0, g_1 in pairs])
            square_0, square_1, product = square_0_P.sum(), square_1_P.sum(), product_P.sum()
            w_0, _ = weights(square_0, square_1, product)
            cosine = product / (square_0 * square_1).sqrt().clamp(min=_TINY)
            self._means[m].add(torch.stack([cosine, w_0]))
            # G / 2, then enlarged.
            share = w_0.to(fused[0].dtype)
            combined = [torch.lerp(g_1, g_0, share) for g_0, g_1 in pairs]
            norm_P = _stacked(torch._foreach_norm(combined))
            sum_P = (square_0_P + square_1_P + 2 * product_P).clamp(min=0).sqrt()
            longer_P = (sum_P / (2 * norm_P).clamp(min=_TINY)).clamp(min=1.0)
            factor_P = 2 * self._gain * torch.where(product > 0, 1.0, longer_P)
            torch._foreach_mul_(combined, list(factor_P.to(share.dtype).unbind()))
            for p, gradient in zip(trained, combined, strict=True):
                p.grad = gradient

    def metrics(self) -> dict[str, float]:
        return {name: value for means in self._means.values() for name, value in means.take().items()}

    def state(self) -> dict[str, Any]:
        return {m: means.state() for m, means in self._means.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for m, means in self._means.items():
            means.restore(state[m])


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The inner product of two gradients, which need not be copied for it where their memory has the same order."""
    order = sorted(range(one.ndim), key=one.stride, reverse=True)
    return torch.dot(one.permute(order).flatten(), other.permute(order).flatten())


def _stacked(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
    """(P,) in float64, in which small differences of large squares are exact enough."""
    return torch.stack(list(numbers)).double()
