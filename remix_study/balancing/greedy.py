"""Greedy: balance the two branches of MMTM by how fast they learn (Wu et al., ICML 2022, arXiv 2202.05306)

    theta_m, psi_m   the weights of modality m's encoder and head, and those of its gates in MMTM with the layers that
                     the gates of both modalities share
    main_m           the sum over steps of |gradient of theta_m|^2 / |theta_m|^2
    gates_m          the same for psi_m
    s_m              log10(gates_m / main_m), how fast the gates learn compared with the branch
    d                s_1 - s_2

If |d| exceeds a threshold, the modality with the larger s relies on the other one. In the next steps, the rebalancing
steps, its gates are their running means, which do not depend on the other modality, so that its branch has to learn.
They add nothing to the sums. Afterwards d is compared again.

It acts in steps with samples that train both modalities, and on these samples only: in a unimodal batch, the gates
depend on nothing but running means anyway.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import Comparing, StepMeans, Window
from remix_study.balancing.slots import Model, Step, StepBatch


class Greedy(Comparing):
    """See the module docstring.

    Args:
        modalities: the two modalities of the model, in its order.
        threshold: |d| above which rebalancing steps follow. Published: 0.01.
        steps: number of rebalancing steps. Published: 5.
    """

    name = "greedy"

    def __init__(self, modalities: Sequence[str], threshold: float, steps: int) -> None:
        super().__init__(Window())
        self._modalities, self._threshold, self._steps = tuple(modalities), threshold, steps
        # main_M and gates_M, float64; the rebalancing steps that are left (a scalar); the modality that they hold.
        self._speed_2M = torch.zeros(2, len(self._modalities), dtype=torch.float64)
        self._left, self._held = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        self._means = StepMeans(
            [f"method/greedy/{what}/{m}" for what in ("gate_speed", "held") for m in self._modalities]
        )

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """It needs no sums over samples: (0,)."""
        return batch.labels_B.new_zeros(0, dtype=torch.float32)

    @torch.no_grad()
    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        pairs = [
            ([*model.encoder_parameters(m), *model.head_parameters(m)], list(model.gate_parameters(m)))
            for m in self._modalities
        ]
        device = pairs[0][0][0].device  # decisions stay there: no step waits for them
        self._speed_2M, self._left, self._held = (each.to(device) for each in (self._speed_2M, self._left, self._held))
        now_2M = torch.stack([torch.stack([_relative(main) for main, _ in pairs]),
                              torch.stack([_relative(gates) for _, gates in pairs])])  # fmt: skip
        comparing = self._left == 0
        self._speed_2M = self._speed_2M + now_2M * comparing
        main_M, gates_M = self._speed_2M.clamp(min=torch.finfo(torch.float64).tiny)
        speed_M = torch.log10(gates_M / main_M)
        difference = speed_M[0] - speed_M[1]
        held_M = torch.arange(len(speed_M), device=device) == self._held
        self._means.add(torch.cat([speed_M, (held_M & ~comparing).double()]))
        unequal = comparing & (difference.abs() > self._threshold)
        self._held = torch.where(unequal, (difference < 0).long(), self._held)
        self._left = torch.where(unequal, self._steps, (self._left - 1).clamp(min=0))
        held_M = torch.arange(len(speed_M), device=device) == self._held
        model.hold_gates(held_M & (self._left > 0))

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {
            "speed_2M": self._speed_2M, "left": self._left, "held": self._held, "means": self._means.state()
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        self._speed_2M, self._left, self._held = state["speed_2M"], state["left"], state["held"]
        self._means.restore(state["means"])


def _relative(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """|gradient|^2 / |weights|^2 over all parameters, a float64 scalar; a parameter without a gradient adds 0 to it."""
    weights = list(parameters)
    gradients = [p.grad for p in weights if p.grad is not None]
    size = torch.stack([p.double().square().sum() for p in weights]).sum()
    if not gradients:
        return torch.zeros_like(size)
    return torch.stack([g.double().square().sum() for g in gradients]).sum() / size
