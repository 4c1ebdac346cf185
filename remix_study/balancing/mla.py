"""MLA: one modality per step, and a head that they share (Zhang et al., CVPR 2024, arXiv 2311.10707)

    plan      each batch is trained once per modality (`remix_study.remix.alternate`), or as Remix plans it
    head      one linear layer for all modalities: h_m = V f_m + c
    loss      CE(h_m), which is the fused loss of a unimodal batch
    fusion    z = sum of w_m h_m with w = softmax(-entropy of h_m), per sample (`remix_study.models.EntropyFusion`)
    gradient  that of V is multiplied by P, so that the head changes little for the features of earlier steps

P is that of recursive least squares. It begins as the identity, and after every step, with r the mean feature of its
global batch and q = P r,
    P <- P - q q^T / (a + r . q)
so that P is the inverse of I + sum over the steps of r r^T / a. The regularisation a = 0.1^(1 + t / T) falls from 0.1
to 0.01 over the T steps of an epoch. The gradient of a step is projected with the P of the steps before it
(`previous`), or with that which contains its own mean feature (`current`, as in the released code).

P is kept in float64. Its eigenvalues never grow: the head learns less and less in the directions that features take on
average, over the whole training. Batches in which samples train several modalities are not projected.
"""

# B samples of a micro-batch, d features, C classes

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from remix_study.balancing.acting import StepMeans, Window
from remix_study.balancing.slots import Model, Step, StepBatch

ProjectFrom = Literal["previous", "current"]


class MLA:
    """The projection; see the module docstring.

    Args:
        modalities: the modalities of the model, in its order. They share the parameters of one head.
        project_from: the steps whose features the projection of a step knows.
        window: epochs in which gradients are projected.
    """

    name = "mla"

    def __init__(self, modalities: Sequence[str], project_from: ProjectFrom, *, window: Window) -> None:
        self._modalities = tuple(modalities)
        self._project_from, self._window = project_from, window
        self._P_dd: torch.Tensor | None = None
        self._means = StepMeans(["method/mla/kept"])

    def acts(self, step: Step) -> bool:
        """Whether the step is within the window and trains one modality per sample."""
        return step.multimodal == 0 and step.epoch in self._window

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the features of the modalities in training, and the number of samples: (d + 1,)."""
        columns = zip(self._modalities, batch.active_BM.unbind(dim=1), strict=True)
        total_d = torch.stack([(batch.outputs.features[m] * rows_B[:, None]).sum(dim=0) for m, rows_B in columns]).sum(
            dim=0
        )
        return torch.cat([total_d.float(), batch.active_BM.any(dim=1).sum()[None].float()])

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:
        mean_d = (sums_K[:-1] / sums_K[-1].clamp(min=1)).double()
        P_dd = torch.eye(len(mean_d), dtype=torch.float64, device=mean_d.device) if self._P_dd is None else self._P_dd
        before_dd = P_dd.to(mean_d.device)  # loaded on the CPU after a resume
        self._P_dd = updated(before_dd, mean_d, 0.1 ** (1 + step.number / max(step.steps, 1)))
        used_dd = before_dd if self._project_from == "previous" else self._P_dd
        for p in model.head_parameters(self._modalities[0]):
            if p.ndim == 2 and p.grad is not None:
                projected = (p.grad.double() @ used_dd).to(p.grad.dtype)
                tiny = torch.finfo(projected.dtype).tiny
                self._means.add((projected.norm() / p.grad.norm().clamp(min=tiny))[None])
                p.grad = projected

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {"P_dd": self._P_dd, "means": self._means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._P_dd = state["P_dd"]
        self._means.restore(state["means"])


def updated(P_dd: torch.Tensor, mean_d: torch.Tensor, a: float) -> torch.Tensor:
    """P after a step of recursive least squares: the inverse of P^-1 + r r^T / a, with r = `mean_d`."""
    q_d = P_dd @ mean_d
    return P_dd - torch.outer(q_d, q_d) / (a + mean_d @ q_d)
