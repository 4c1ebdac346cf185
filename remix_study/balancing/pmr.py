"""PMR: pull the features of modalities that are behind towards the prototypes of their classes (Fan et al., CVPR 2023)

Before every epoch, a pass over all training samples gives the mean feature of each class. For class k of modality m:

    c_mk     (1 - momentum) * mean feature of the pass + momentum * c_mk of the epoch before
    l_m[k]   -|f_m - c_mk|, the logits of a classifier without parameters
    p_m      the mean probability that l_m gives to the true class
    PCE_m    the cross-entropy of l_m, which is added to the loss with the weight
             weight                                   of every modality with p_m < max_j p_j (`hard`, as released), or
             weight * clip(max_j p_j / p_m - 1, 0, 1)   (`smooth`)

p_m is the mean over the samples of a step that train several modalities. A sample that trains one modality is not
compared; it gets `weight` times the prototype loss of this modality. The gradient of a distance of 0 is 0.
"""

# N training samples, B samples of a micro-batch, M modalities, C classes

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.acting import Comparing, StepMeans, Window, sums_of_compared
from remix_study.balancing.losses import CrossEntropy
from remix_study.balancing.slots import EpochStart, StepBatch, Terms
from remix_study.epoch import Statistic


class PMR(Comparing):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        classes: number of classes.
        weight: of the prototype loss; 0 changes nothing.
        momentum: weight of earlier prototypes, in [0, 1).
        coefficient: how the weight depends on how far a modality is behind.
        window: epochs in which the rule acts.
        cross_entropy: of the training losses.
    """

    name = "pmr"
    needs: frozenset[Statistic] = frozenset(("features",))
    changes_model = False

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        weight: float,
        momentum: float,
        coefficient: Literal["hard", "smooth"],
        *,
        window: Window,
        cross_entropy: CrossEntropy,
    ) -> None:
        super().__init__(window)
        self._modalities, self._classes = tuple(modalities), classes
        self._weight, self._momentum, self._coefficient = weight, momentum, coefficient
        self._cross_entropy = cross_entropy
        self._prototypes: dict[str, torch.Tensor] = {}  # m -> (C, d_m)
        self._means = StepMeans(
            [f"method/pmr/{what}/{m}" for what in ("probability", "weight") for m in self._modalities]
        )

    def due(self, epoch: int) -> bool:
        """Whether the prototypes are renewed before this epoch."""
        return epoch in self._window

    def begin(self, start: EpochStart) -> None:
        found = start.passes.train()
        assert found.features is not None
        for m in self._modalities:
            new_Cd = torch.from_numpy(class_means(found.features[m], found.labels_N, self._classes))
            if m in self._prototypes:
                new_Cd = (1 - self._momentum) * new_Cd + self._momentum * self._prototypes[m].cpu()
            self._prototypes[m] = new_Cd

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the true class's probability and the number of samples, for each modality: (2 M,)."""
        label_B1 = batch.labels_B[:, None]
        true_BM = torch.cat([self._logits(batch, m).softmax(dim=1).gather(1, label_B1) for m in self._modalities], 1)
        return sums_of_compared(true_BM, batch.active_BM)

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        if batch.at.epoch not in self._window:
            return terms
        together_M = torch.zeros(len(self._modalities), device=batch.labels_B.device)
        if self.name in batch.totals:
            probability_M, together_M = self._weights(*batch.totals[self.name].chunk(2))
            self._means.add(torch.cat([probability_M, together_M]))
        several_B = batch.active_BM.sum(dim=1) > 1
        return terms | {
            f"pmr/{m}": self._cross_entropy(self._logits(batch, m), batch.labels_B)
            * torch.where(several_B, together, self._weight)
            * batch.active[m]
            for m, together in zip(self._modalities, together_M.unbind(), strict=True)
            if m in batch.active
        }

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {"prototypes": dict(self._prototypes), "means": self._means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._prototypes = dict(state["prototypes"])
        self._means.restore(state["means"])

    def _weights(self, sum_M: torch.Tensor, count_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean probability of the true class, and the weight of the prototype loss, both (M,)."""
        seen_M = count_M > 0
        mean_M = sum_M / count_M.clamp(min=1)
        best = mean_M.max()
        if self._coefficient == "hard":
            behind_M = (mean_M < best).float()
        else:
            behind_M = (best / mean_M.clamp(min=torch.finfo(mean_M.dtype).tiny) - 1).clamp(0, 1)
        return mean_M, self._weight * behind_M * seen_M

    def _logits(self, batch: StepBatch, m: str) -> torch.Tensor:
        feature_Bd = batch.outputs.features[m]
        self._prototypes[m] = self._prototypes[m].to(feature_Bd.device)  # copied in the first step only
        # Not torch.cdist, which computes distances from products and so loses small ones.
        distance_BC: torch.Tensor = torch.linalg.vector_norm(feature_Bd[:, None] - self._prototypes[m], dim=2)
        return -distance_BC


def class_means(features_Nd: NDArray[np.float32], labels_N: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """The mean feature of each class, (C, d); that of all samples for a class without samples."""
    features_Nd = features_Nd.astype(np.float64)
    sum_Cd = np.zeros((classes, features_Nd.shape[1]))
    np.add.at(sum_Cd, labels_N, features_Nd)
    count_C1 = np.bincount(labels_N, minlength=classes)[:, None]
    means_Cd = np.where(count_C1 > 0, sum_Cd / np.maximum(count_C1, 1), features_Nd.mean(axis=0))
    return means_Cd.astype(np.float32)
