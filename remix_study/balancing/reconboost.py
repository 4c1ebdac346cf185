"""ReconBoost's weights: a modality learns most from samples that the others get wrong (Hua et al., ICML 2024)

arXiv 2405.09321. Before each epoch, from one pass over the training samples:

    p_i,-m   probability of sample i's true class in softmax(sum over j != m of h_j), the unimodal logits of the others
    w_i,m    (base - strength p_i,-m) / C

The unimodal loss of modality m for sample i is multiplied by w_i,m. This is the published loss of a stage, which trains
one modality against the sum of the others. The stages themselves, one modality at a time with a new optimizer for each,
are not a part of it: with Remix, a unimodal batch trains one modality; otherwise all train at once.

The weights use the probabilities of the true class, so they complement Remix's scores, which do not look at labels.
"""

# N training samples, M modalities, C classes, B samples of a batch

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.acting import Window
from remix_study.balancing.slots import EpochStart, StepBatch, Terms
from remix_study.epoch import Statistic


class ReconBoost:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order; at least two.
        base: w_1. Published: 5, 4 for AVE.
        strength: w_2, at most `base`. Published: 1.
        window: epochs in which the rule acts.
    """

    name = "reconboost"
    needs: frozenset[Statistic] = frozenset(("probabilities",))
    changes_model = False

    def __init__(self, modalities: Sequence[str], base: float, strength: float, *, window: Window) -> None:
        self._modalities = tuple(modalities)
        self._base, self._strength, self._window = base, strength, window
        self._weight_RM = torch.zeros(0, len(self._modalities))  # of the rows of the clip store
        self._means: dict[str, float] = {}

    def due(self, epoch: int) -> bool:
        """Whether the weights are renewed before this epoch."""
        return epoch in self._window

    def begin(self, start: EpochStart) -> None:
        found = start.passes.train()
        assert found.log_probabilities_NMC is not None
        other_NM = probabilities_of_others(found.log_probabilities_NMC, found.labels_N)
        weight_NM = (self._base - self._strength * other_NM) / found.log_probabilities_NMC.shape[2]
        self._weight_RM = torch.zeros(int(found.rows_N.max()) + 1, len(self._modalities))
        self._weight_RM[torch.from_numpy(found.rows_N)] = torch.from_numpy(weight_NM).float()
        columns = zip(self._modalities, other_NM.mean(axis=0), weight_NM.mean(axis=0), strict=True)
        self._means = {
            f"method/reconboost/{what}/{m}": float(value)
            for m, probability, weight in columns
            for what, value in (("probability_of_others", probability), ("weight", weight))
        }

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Weigh the unimodal losses."""
        if batch.at.epoch not in self._window:
            return terms
        self._weight_RM = self._weight_RM.to(batch.samples_B.device)  # copied in the first step only
        columns = zip(self._modalities, self._weight_RM[batch.samples_B].unbind(dim=1), strict=True)
        return terms | {m: terms[m] * weight_B for m, weight_B in columns if m in terms}

    def metrics(self) -> dict[str, float]:
        found, self._means = self._means, {}
        return found

    def state(self) -> dict[str, Any]:
        return {"weights": self._weight_RM, "means": dict(self._means)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._weight_RM, self._means = state["weights"], dict(state["means"])


def probabilities_of_others(log_probabilities_NMC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> NDArray[Any]:
    """The probability of the true class in the softmax of the sum of the other modalities' logits, (N, M).

    Args:
        log_probabilities_NMC: of every modality alone, in nats. They differ from its logits by a constant per sample,
            which the softmax removes.
        labels_N: the classes.
    """
    other_NMC = log_probabilities_NMC.sum(axis=1, keepdims=True) - log_probabilities_NMC
    other_NMC = other_NMC - other_NMC.max(axis=2, keepdims=True)
    p_NMC = np.exp(other_NMC)
    p_NMC /= p_NMC.sum(axis=2, keepdims=True)
    true_NM: NDArray[Any] = p_NMC[np.arange(len(labels_N)), :, labels_N]
    return true_NM
