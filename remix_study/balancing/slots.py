"""A method is a few slots of a training step, never the owner of a loop

    plan      which samples a step sees, and through which modalities (`remix_study.epoch.EpochPlan`)
    losses    what each sample is asked for, summed over all rules

Methods that set different slots switch on together without a third class.
"""

# B samples, M modalities, C classes

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from remix_study.epoch import EpochPlan


class StepOutputs(Protocol):
    """Fused logits (B, C), and unimodal logits m -> (B, C) of the encoders that ran."""

    @property
    def logits_BC(self) -> torch.Tensor: ...
    @property
    def head_logits(self) -> dict[str, torch.Tensor]: ...


class LossRule(Protocol):
    """Named loss terms, each with one value per sample (B,), in nats; zero where a sample is not asked."""

    def __call__(
        self, outputs: StepOutputs, labels_B: torch.Tensor, active: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Method:
    """What a run trains with."""

    name: str
    plan: EpochPlan
    losses: tuple[LossRule, ...]
    trains_heads: bool = True  # whether the unimodal heads are trained, and so worth asking
