"""Loss rules of joint training, unimodal losses, and Remix

joint            CE(z)
joint_unimodal   CE(z) + sum_m lambda_m CE(h_m)         ("uniform baseline" of MMPareto; Remix's warm-up)
unimodal         CE(h_m), which is CE(z) of a model with one modality and decision fusion
Remix            CE(z) + sum_m alpha_m CE(h_m) for a multimodal sample, CE(z) + gamma_m CE(h_m) for one trained by m

CE is the cross-entropy, optionally with class weights and label smoothing (`CrossEntropy`), the same in every term.
Abstaining targets (`remix_study.balancing.abstain`) change CE(h_m) for some samples.
"""

# B samples, M modalities, C classes

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from remix_study.balancing.abstain import Abstain
from remix_study.balancing.slots import StepBatch, Terms

FUSED = "fused"

Weights = float | Mapping[str, float]
"""One number, or one of each modality"""
WeightsAt = Weights | Callable[[int], Weights]
"""Weights, constant or as a function of the epoch"""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of each sample in nats, (B,), in float32 also under autocast.

    Args:
        label_smoothing: the target is 1 - s for the true class, plus s / C for every class; in [0, 1).
        class_weights: a factor for each class, or None.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        logits_BC = logits_BC.float()
        weight_C = None if self.class_weights is None else _on_device(self.class_weights, logits_BC.device)
        return functional.cross_entropy(
            logits_BC, labels_B, weight=weight_C, label_smoothing=self.label_smoothing, reduction="none"
        )

    def to_uniform(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the uniform distribution in the place of the label, (B,); at least ln C.

        Label smoothing has no effect on it. With class weights, the weight is that of the sample's class.
        """
        loss_B = -logits_BC.float().log_softmax(dim=1).mean(dim=1)
        if self.class_weights is None:
            return loss_B
        return loss_B * _on_device(self.class_weights, loss_B.device)[labels_B]


@lru_cache(maxsize=16)  # copied once: the host would wait for the GPU in every loss term
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # else no backward pass could use it
        return torch.tensor(values, dtype=torch.float32, device=device)


def balanced_weights(labels_N: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Return N / (C n_c) for each class c, so that all classes weigh the same; their mean over the samples is 1.

    A class without samples gets 1. As `class_weight="balanced"` of scikit-learn.
    """
    count_C = np.bincount(labels_N, minlength=classes)
    return tuple(float(len(labels_N) / (classes * count)) if count else 1.0 for count in count_C)


@dataclass(frozen=True)
class FusedLoss:
    """CE(z) of every sample, under the name `fused`."""

    cross_entropy: CrossEntropy = CrossEntropy()

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        return terms | {FUSED: self.cross_entropy(batch.outputs.logits_BC, batch.labels_B)}


@dataclass(frozen=True)
class AloneLoss:
    """CE(h_m) of the only modality of a model, whose fused head is the unimodal head; under the name `fused`."""

    modality: str
    cross_entropy: CrossEntropy = CrossEntropy()
    targets: Abstain | None = None

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        logits_BC = batch.outputs.logits_BC
        return terms | {FUSED: unimodal_loss(self.modality, logits_BC, batch, self.cross_entropy, self.targets)}


@dataclass(frozen=True)
class UnimodalLosses:
    """Weighted CE(h_m) of the samples in which m is active.

    The weight is `together` for samples with several active modalities, else `alone`; either is one number, or one of
    each modality, or a function that returns these for an epoch. A head whose modality is not active has no term, so
    its gradient stays None, as in the released code.
    With abstaining `targets`, the target of a sample that is judged uninformative in m is uniform.
    """

    together: WeightsAt
    alone: WeightsAt
    cross_entropy: CrossEntropy = CrossEntropy()
    targets: Abstain | None = None

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        active = batch.active
        together_B = batch.active_BM.sum(dim=1) > 1
        together = self.together(batch.at.epoch) if callable(self.together) else self.together
        alone = self.alone(batch.at.epoch) if callable(self.alone) else self.alone
        return terms | {
            m: unimodal_loss(m, logits_BC, batch, self.cross_entropy, self.targets)
            * torch.where(together_B, _of(m, together), _of(m, alone))
            * active[m]
            for m, logits_BC in batch.outputs.head_logits.items()
            if m in active
        }


def unimodal_loss(
    modality: str, logits_BC: torch.Tensor, batch: StepBatch, cross_entropy: CrossEntropy, targets: Abstain | None
) -> torch.Tensor:
    """The cross-entropy of each sample, (B,), with its label, or with the uniform target if it should abstain.

    Args:
        logits_BC: predictions from `modality` alone.
        targets: decides which samples abstain; None: none does.
    """
    loss_B = cross_entropy(logits_BC, batch.labels_B)
    abstains_B = None if targets is None else targets.abstains(modality, batch)
    if targets is None or abstains_B is None:
        return loss_B
    weight = targets.weight(batch.at.epoch)
    return torch.where(abstains_B, weight * cross_entropy.to_uniform(logits_BC, batch.labels_B), loss_B)


def _of(modality: str, weights: Weights) -> float:
    return weights[modality] if isinstance(weights, Mapping) else weights
