"""AGM: scale what each modality's part of the fused logits learns (Li et al., ICCV 2023, arXiv 2308.07686)

    c_m      the mean cross-entropy of modality m's part of the fused logits, in nats
    r_m      exp(2 (mean of c - c_m)), how far m is ahead in this step; exp(c_other - c_m) for two modalities
    r*_m     the same with the running means of c over all earlier steps
    kappa_m  exp(alpha min(r*_m - r_m, 10))

The gradient that passes through part m, that of encoder m and of the fusion's weights for its features, is multiplied
by kappa_m. A modality that is further ahead than it was on average (r_m > r*_m) is slowed down, and one that
is further behind is sped up.

The paper computes the parts as Shapley values from forward passes with zeros as inputs. Here a modality is left out
by zeros as features, for which the Shapley values are the split logits of the fusion and cost nothing. If unimodal
heads are trained as well, their gradient in the encoder is scaled with it. Only samples that train several modalities
count, and a batch without such samples is left alone.
"""

# B samples of a micro-batch, M modalities, C classes

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch.nn import functional

from remix_study.balancing.acting import Comparing, StepMeans, Window, sums_of_compared
from remix_study.balancing.slots import Model, Step, StepBatch

_LARGEST_DIFFERENCE = 10.0
_LARGEST_CROSS_ENTROPY = -math.log(1e-8)  # probabilities have this floor in the released code


class AGM(Comparing):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        alpha: strength; 0 leaves the gradients as they are.
        window: epochs in which the rule acts.
    """

    name = "agm"

    def __init__(self, modalities: Sequence[str], alpha: float, *, window: Window) -> None:
        super().__init__(window)
        self._modalities, self._alpha = tuple(modalities), alpha
        self._running_M: torch.Tensor | None = None  # of the steps before this one
        self._steps = 0
        self._means = StepMeans(
            [f"method/agm/{what}/{m}" for what in ("cross_entropy", "factor") for m in self._modalities]
        )

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the cross-entropies and the number of samples, for each modality: (2 M,)."""
        parts = batch.model.split_logits(batch.outputs.features, batch.outputs.head_logits)
        loss_BM = torch.stack(
            [functional.cross_entropy(parts[m].float(), batch.labels_B, reduction="none") for m in self._modalities],
            dim=1,
        ).clamp(max=_LARGEST_CROSS_ENTROPY)
        return sums_of_compared(loss_BM, batch.active_BM)

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        sum_M, count_M = sums_K.chunk(2)
        loss_M = sum_M / count_M.clamp(min=1)
        before_M = loss_M if self._running_M is None else self._running_M.to(loss_M.device)
        loss_M = torch.where(count_M > 0, loss_M, before_M)
        factor_M = torch.exp(self._alpha * (_ahead(before_M) - _ahead(loss_M)).clamp(max=_LARGEST_DIFFERENCE))
        self._running_M = before_M + (loss_M - before_M) / (self._steps + 1)
        self._steps += 1
        self._means.add(torch.cat([loss_M, factor_M]))
        for m, factor in zip(self._modalities, factor_M.unbind(), strict=True):
            own = (p.grad for p in model.encoder_parameters(m) if p.grad is not None)
            if gradients := list(chain(own, model.fusion_gradients(m))):
                torch._foreach_mul_(gradients, factor)

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {"running_M": self._running_M, "steps": self._steps, "means": self._means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._running_M, self._steps = state["running_M"], state["steps"]
        self._means.restore(state["means"])


def _ahead(loss_M: torch.Tensor) -> torch.Tensor:
    """r_m = exp(2 (mean of c - c_m))."""
    return torch.exp(2 * (loss_M.mean() - loss_M))
