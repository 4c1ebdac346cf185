"""Loss rules of joint training, unimodal losses, and Remix

joint            CE(z)
joint_unimodal   CE(z) + lambda sum_m CE(h_m)           ("uniform baseline" of MMPareto; Remix's warm-up)
unimodal         CE(h_m), which is CE(z) of a model with one modality and decision fusion
Remix            CE(z) + alpha sum_m CE(h_m) for a multimodal sample, CE(z) + gamma CE(h_m) for one trained through m
"""

# B samples, M modalities, C classes

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from remix_study.balancing.slots import StepOutputs

FUSED = "fused"


@dataclass(frozen=True)
class FusedLoss:
    """CE(z) of every sample, under the name `fused`."""

    def __call__(
        self,
        outputs: StepOutputs,
        labels_B: torch.Tensor,
        active: Mapping[str, torch.Tensor],  # noqa: ARG002 - the model masks inactive modalities
    ) -> dict[str, torch.Tensor]:
        return {FUSED: cross_entropy(outputs.logits_BC.float(), labels_B, reduction="none")}


@dataclass(frozen=True)
class UnimodalLosses:
    """Weighted CE(h_m) of the samples in which m is active.

    The weight is `together` for samples with several active modalities, else `alone`. A head whose modality is not in
    `active` has no term, so its gradient stays None, as in the released code.
    """

    together: float
    alone: float

    def __call__(
        self, outputs: StepOutputs, labels_B: torch.Tensor, active: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        count_B = torch.stack(list(active.values())).sum(dim=0)
        weight_B = torch.where(count_B > 1, self.together, self.alone)
        return {
            m: cross_entropy(logits_BC.float(), labels_B, reduction="none") * weight_B * active[m]
            for m, logits_BC in outputs.head_logits.items()
            if m in active
        }
