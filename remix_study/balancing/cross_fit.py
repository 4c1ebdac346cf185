"""Two-fold cross-fitting: losses of the training samples under models that were not trained on them

Before the first epoch, the training samples are divided into two halves with the same classes. For each half, a copy of
the model with its initial weights trains each modality alone on it. After each of its epochs, the copy is evaluated on
the other half. The losses of the epoch with the lowest mean are kept, for each modality and half: those of a model that
has learnt what can be learnt from half of the samples, and has not memorised the sample.

The filter rule `reducible_loss` reads them (Mindermann et al., ICML 2022, arXiv 2206.07137: a model of held-out data).
"""

# N training samples, M modalities, n samples of a half

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.slots import EpochStart, Method
from remix_study.epoch import Statistic
from remix_study.seeds import stream


class CrossFit:
    """A rule that acts once, before the first epoch; see the module docstring.

    Args:
        modalities: names of the M columns.
        samples: N.
        halves: for each half, the method that trains each modality alone on it, and the positions of all other samples.
        epochs: of each half, at most those of the run.
    """

    name = "cross_fit"
    needs: frozenset[Statistic] = frozenset()
    changes_model = True  # it leaves the model as it is, but must act before the plan, which reads the losses

    def __init__(
        self,
        modalities: Sequence[str],
        samples: int,
        halves: Sequence[tuple[Method, NDArray[np.int64]]],
        epochs: int,
    ) -> None:
        self._modalities, self._halves, self._epochs = tuple(modalities), tuple(halves), epochs
        self._losses_NM = np.full((samples, len(self._modalities)), np.nan, np.float32)
        self._found: dict[str, float] = {}  # metrics

    def losses(self) -> NDArray[np.float32]:
        """Cross-entropies (N, M) in nats; NaN before the first epoch begins."""
        return self._losses_NM

    def due(self, epoch: int) -> bool:
        return epoch == 0

    def begin(self, start: EpochStart) -> None:
        """Train both halves."""
        chosen = []
        for method, others_n in self._halves:
            losses_EnM = np.stack(start.copy_losses(method, self._epochs, others_n))
            best_M = losses_EnM.mean(axis=1).argmin(axis=0)
            self._losses_NM[others_n] = np.take_along_axis(losses_EnM, best_M[None, None], axis=0)[0]
            chosen.append(best_M + 1)
        self._losses_NM = start.agreed(self._losses_NM.astype(np.float64)).astype(np.float32)
        means = {"reference_loss": self._losses_NM.mean(axis=0), "reference_epochs": np.mean(chosen, axis=0)}
        self._found = {
            f"remix/{name}/{m}": float(value)
            for name, value_M in means.items()
            for m, value in zip(self._modalities, value_M, strict=True)
        }

    def metrics(self) -> dict[str, float]:
        found, self._found = self._found, {}
        return found

    def state(self) -> dict[str, Any]:
        return {"losses_NM": torch.from_numpy(self._losses_NM.copy()), "found": dict(self._found)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._losses_NM, self._found = state["losses_NM"].cpu().numpy(), dict(state["found"])


def halves_of(labels_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The half of each sample, 0 or 1: half of each class at random, to one sample."""
    half_N = np.empty_like(labels_N)
    half_N[np.lexsort((stream(seed, "halves").random(len(labels_N)), labels_N))] = np.arange(len(labels_N)) % 2
    return half_N
