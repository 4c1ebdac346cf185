"""Diagnosing & Re-learning: move encoders back towards their initial weights (Wei et al., ECCV 2024, arXiv 2407.09705)

Every few epochs, for each modality m:

    P_split   purity: the fraction of the samples of a split whose class is the most frequent one of their cluster, for
              k-means with as many clusters as classes on the features, scaled to [0, 1] per dimension within the split
    w_m       tanh(strength |P_train - P_control|)
    theta_m   w_m theta_m(initial) + (1 - w_m) theta_m, for all parameters of encoder m

An encoder whose training features separate the classes better than its control features has memorised samples, and is
re-initialised the more. Heads and fusion keep their weights.

BatchNorm's running statistics move with the weights, so that w_m = 1 gives the initial encoder. The optimizer forgets
its state for the parameters of an encoder that moved, since momentum and moments belong to other weights. Both are
ours; the released code leaves them as they are. The initial weights are built again from the seed, not stored.

k-means uses one thread and a fixed seed, because a sum over threads depends on their order.
"""

# N samples of a split, M modalities

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.acting import Window
from remix_study.balancing.slots import EpochStart, Model
from remix_study.epoch import SplitStatistics, Statistic
from remix_study.seeds import stream

_STARTS = 10  # of k-means, which keeps the best


class Relearning:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        classes: number of classes.
        every: epochs between two re-initialisations; the first is `every` epochs after the begin of the window.
        times: number of re-initialisations.
        strength: 0 changes nothing.
        window: epochs in which the rule acts.
        seed: of the run, for k-means.
        initial: builds a model with the initial weights, on any device.
    """

    name = "relearning"
    needs: frozenset[Statistic] = frozenset(("features",))
    changes_model = True

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        every: int,
        times: int,
        strength: float,
        *,
        window: Window,
        seed: int,
        initial: Callable[[], Model],
    ) -> None:
        self._modalities, self._classes = tuple(modalities), classes
        self._every, self._times, self._strength = every, times, strength
        self._window, self._seed, self._initial = window, seed, initial
        self._found: dict[str, float] = {}

    def due(self, epoch: int) -> bool:
        """Whether encoders are re-initialised before this epoch."""
        number, rest = divmod(epoch - self._window.begin, self._every)
        return epoch in self._window and rest == 0 and 1 <= number <= self._times

    def begin(self, start: EpochStart) -> None:
        splits = start.passes.train(), start.passes.control()
        # Ranks with other processors may round differently.
        purity_2M = start.agreed(np.array([self._purities(found, start.epoch) for found in splits]))
        weight_M = np.tanh(self._strength * np.abs(purity_2M[0] - purity_2M[1]))
        for what, value_M in (("purity_train", purity_2M[0]), ("purity_control", purity_2M[1]),
                              ("reinitialised", weight_M)):  # fmt: skip
            self._found |= {f"method/relearning/{what}/{m}": float(value)
                            for m, value in zip(self._modalities, value_M, strict=True)}  # fmt: skip
        moved = {m: float(weight) for m, weight in zip(self._modalities, weight_M, strict=True) if weight > 0}
        if moved:
            _move(start.model, self._initial(), moved, start.optimizer)

    def metrics(self) -> dict[str, float]:
        found, self._found = self._found, {}
        return found

    def state(self) -> dict[str, Any]:
        return {"found": dict(self._found)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._found = dict(state["found"])

    def _purities(self, found: SplitStatistics, epoch: int) -> list[float]:
        """The purity of each modality on a split."""
        assert found.features is not None
        seed = int(stream(self._seed, self.name, epoch).integers(2**31))
        return [
            purity(clusters(scaled(found.features[m]), self._classes, seed), found.labels_N) for m in self._modalities
        ]


@torch.no_grad()
def _move(model: Model, initial: Model, weights: Mapping[str, float], optimizer: torch.optim.Optimizer) -> None:
    """Move encoders towards their initial weights, by the weight of each modality, in (0, 1]."""
    for m, weight in weights.items():
        for p, first in zip(model.encoder_parameters(m), initial.encoder_parameters(m), strict=True):
            p.mul_(1 - weight).add_(first.to(p.device), alpha=weight)
            optimizer.state.pop(p, None)
        for buffer, start in zip(model.encoder_buffers(m), initial.encoder_buffers(m), strict=True):
            if buffer.is_floating_point():
                buffer.mul_(1 - weight).add_(start.to(buffer.device), alpha=weight)


def scaled(features_Nd: NDArray[np.float32]) -> NDArray[np.float64]:
    """The features with each dimension scaled to [0, 1]; 0 if it is constant."""
    low_d, high_d = features_Nd.min(axis=0), features_Nd.max(axis=0)
    width_d = (high_d - low_d).astype(np.float64)
    found_Nd: NDArray[np.float64] = (features_Nd - low_d) / np.where(width_d > 0, width_d, 1.0)
    return found_Nd


def clusters(scaled_Nd: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """The cluster of each sample, (N,), for at most `count` clusters."""
    from sklearn.cluster import KMeans  # a second to import
    from threadpoolctl import threadpool_limits

    distinct = len(np.unique(scaled_Nd, axis=0))
    with threadpool_limits(limits=1):
        found = KMeans(min(count, distinct), n_init=_STARTS, random_state=seed).fit_predict(scaled_Nd)
    return np.asarray(found, dtype=np.int64)


def purity(cluster_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """The fraction of samples whose class is the most frequent one of their cluster, in (0, 1]."""
    most = sum(int(np.bincount(labels_N[cluster_N == cluster]).max()) for cluster in np.unique(cluster_N))
    return most / len(labels_N)
