"""Gradient-Blending: weigh losses by how much they generalise and overfit (Wang, Tran, Feiszli, CVPR 2020, 1905.12681)

The losses k are that of the fused head and those of the M unimodal heads. `every` epochs apart, with means over the
samples of the training split and of the control split, in nats:

    G_k   control loss before - control loss after, at least 0                                    (generalisation)
    O_k   (control - training loss) after - (control - training loss) before, at least `least`    (overfitting)
    w_k   (M + 1) (G_k / O_k^2) / sum_j (G_j / O_j^2)

Loss k is multiplied by w_k, which is 1 until the first estimate; if no G is positive, the weights stay as they are. The
published weights sum to 1. Here their mean is 1, so that equal weights are those of joint training with unimodal
losses, at the same learning rate.

`GBlend`, as published, trains a copy of the model with each loss alone for the next `every` epochs, from the current
weights, and compares it with the model. `GBlendLite` compares the model with itself, `every` epochs earlier, which
costs two passes.

A sample that trains some modalities only has fewer losses; their weights are scaled so that their mean is 1.
"""

# B samples of a micro-batch, M modalities, K = M + 1 losses: those of the modalities, and that of the fused head

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.acting import Window
from remix_study.balancing.losses import FUSED
from remix_study.balancing.slots import EpochStart, Method, StepBatch, Terms
from remix_study.epoch import SplitStatistics, Statistic


class Blend:
    """Base class of rules that weigh the losses by an estimate that they make every few epochs.

    Args:
        modalities: the modalities of the model, in its order.
        every: epochs between two estimates.
        least: the smallest O_k, in nats.
        window: epochs in which the rule acts.
    """

    name: str
    needs: frozenset[Statistic] = frozenset(("fused",))
    changes_model = False

    def __init__(self, modalities: Sequence[str], every: int, least: float, *, window: Window) -> None:
        self._modalities = tuple(modalities)
        self._every, self._least, self._window = every, least, window
        self._weight_K: NDArray[np.float64] = np.ones(len(self._modalities) + 1)
        self._found: dict[str, float] = {}  # metrics of the last estimate
        self._acted = False

    def due(self, epoch: int) -> bool:
        """Whether an estimate begins or ends before this epoch."""
        return epoch in self._window and (epoch - self._window.begin) % self._every == 0

    def begin(self, start: EpochStart) -> None:
        """Begin or end an estimate; subclasses define how they make one."""
        raise NotImplementedError

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        if batch.at.epoch not in self._window:
            return terms
        self._acted = True
        weights = dict(zip((*self._modalities, FUSED), self._weight_K.tolist(), strict=True))
        active = batch.active_BM.unbind(dim=1)
        total_B = weights[FUSED] + sum(
            (rows_B * weights[m] for m, rows_B in zip(self._modalities, active, strict=True)),
            torch.zeros(len(batch.labels_B), device=batch.labels_B.device),
        )
        # Where all weights of a sample are 0, its losses are not weighted.
        mean_B = total_B / (batch.active_BM.sum(dim=1) + 1)
        factors = {k: torch.where(mean_B > 0, weight / mean_B, 1.0) for k, weight in weights.items()}
        return {name: term * factors[name] if name in factors else term for name, term in terms.items()}

    def metrics(self) -> dict[str, float]:
        if not self._acted:
            return {}
        self._acted, found = False, self._found
        self._found = {}
        return self._named("weight", self._weight_K) | found

    def state(self) -> dict[str, Any]:
        return {"weights": self._weight_K.tolist(), "found": dict(self._found), "acted": self._acted}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._weight_K = np.asarray(state["weights"], dtype=np.float64)
        self._found, self._acted = dict(state["found"]), state["acted"]

    def _weigh(self, generalised_K: NDArray[np.float64], overfitted_K: NDArray[np.float64]) -> None:
        """Set the weights, given G and O before their lower bounds."""
        self._found = self._named("generalisation", generalised_K) | self._named("overfitting", overfitted_K)
        ratio_K = np.maximum(generalised_K, 0.0) / np.maximum(overfitted_K, self._least) ** 2
        if ratio_K.sum() > 0:
            self._weight_K = len(ratio_K) * ratio_K / ratio_K.sum()

    def _named(self, what: str, value_K: NDArray[np.float64]) -> dict[str, float]:
        names = [*(f"{what}/{m}" for m in self._modalities), f"{what}_fused"]
        return {f"method/{self.name}/{name}": float(value) for name, value in zip(names, value_K, strict=True)}


class GBlendLite(Blend):
    """Gradient-Blending whose estimates compare the model with itself; see the module docstring."""

    name = "gblend_lite"

    def __init__(self, modalities: Sequence[str], every: int, least: float, *, window: Window) -> None:
        super().__init__(modalities, every, least, window=window)
        self._before: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # training, control

    def begin(self, start: EpochStart) -> None:
        """Compare the losses with those of the estimate before."""
        now = mean_losses(start.passes.train()), mean_losses(start.passes.control())
        if self._before is not None:
            self._weigh(*changes(self._before, now))
        self._before = now

    def state(self) -> dict[str, Any]:
        before = None if self._before is None else [loss_K.tolist() for loss_K in self._before]
        return super().state() | {"before": before}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        before = state["before"]
        self._before = None if before is None else (np.asarray(before[0]), np.asarray(before[1]))


class GBlend(Blend):
    """Gradient-Blending whose estimates train copies of the model; see the module docstring.

    Args:
        alone: loss -> a method that trains with it alone, on all training samples.
    """

    name = "gblend"

    def __init__(
        self, modalities: Sequence[str], every: int, least: float, alone: Mapping[str, Method], *, window: Window
    ) -> None:
        super().__init__(modalities, every, least, window=window)
        self._alone = dict(alone)

    def begin(self, start: EpochStart) -> None:
        """Train a copy with each loss, and weigh the losses of the coming epochs."""
        before = mean_losses(start.passes.train()), mean_losses(start.passes.control())
        found = []
        for number, loss in enumerate((*self._modalities, FUSED)):
            training, control = start.train_copy(self._alone[loss], self._every)
            generalised_K, overfitted_K = changes(before, (mean_losses(training), mean_losses(control)))
            found.append((generalised_K[number], overfitted_K[number]))
        self._weigh(*np.array(found).T)


def mean_losses(found: SplitStatistics) -> NDArray[np.float64]:
    """The mean cross-entropy of the unimodal heads and of the fused head, (K,), in nats."""
    assert found.fused_cross_entropy_N is not None
    return np.append(found.cross_entropy_NM.mean(axis=0), found.fused_cross_entropy_N.mean())


def changes(
    before: tuple[NDArray[np.float64], NDArray[np.float64]], after: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G and O, both (K,), from the training and the control losses before and after."""
    (training_before_K, control_before_K), (training_K, control_K) = before, after
    generalised_K: NDArray[np.float64] = control_before_K - control_K
    return generalised_K, (control_K - training_K) - (control_before_K - training_before_K)
