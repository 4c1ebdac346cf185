"""A training method: the parts of a training step that it defines

    plan      the samples of every step, and the modalities that they train (`remix_study.epoch.EpochPlan`)
    losses    loss rules, summed

The training loop is the same for all methods, so methods that define different parts can be combined.
"""

# B samples, M modalities, C classes

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from remix_study.epoch import EpochPlan


class StepOutputs(Protocol):
    """Outputs of a model: fused logits (B, C), and unimodal logits m -> (B, C) of the encoders that ran."""

    @property
    def logits_BC(self) -> torch.Tensor: ...
    @property
    def head_logits(self) -> dict[str, torch.Tensor]: ...


class LossRule(Protocol):
    """Computes named loss terms (B,), one value per sample, in nats; zero for samples that a term excludes.

    `active`: modality -> bool (B,), the samples that it trains; modalities without samples are absent.
    """

    def __call__(
        self, outputs: StepOutputs, labels_B: torch.Tensor, active: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Method:
    """A training method."""

    name: str
    plan: EpochPlan
    losses: tuple[LossRule, ...]
    trains_heads: bool = True  # whether the unimodal heads are trained; if not, their metrics are left out
