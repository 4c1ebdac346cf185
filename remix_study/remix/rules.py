"""Rules that read several scoring passes: which samples are worth training through which modality now?

A rule computes a cost per sample and modality from the latest scoring passes; the assignment minimises the sum of
costs at the given shares. In `l_m` (the cross-entropy of modality m alone), `q_m = exp(-l_m)` (the probability of the
true class) and `std`, a pass is one value per sample; P is the number of passes that a rule reads, at most `passes`.

Rules (YAML name: cost)
    learning_progress   -(E_{P-1} - E_P) / sqrt(var(l_m) + 0.01), ranked within each modality and class;
                        E_1 = l_m(1), E_p = decay E_{p-1} + (1 - decay) l_m(p)
                        (learning progress: Graves et al., ICML 2017, arXiv 1704.03003, here per sample)
    cartography         -std(q_m) + penalty [mean(q_m) < 1/C and std(q_m) < still]
                        (ambiguous samples: Swayamdipta et al., EMNLP 2020, arXiv 2009.10795)
    coalition_gain      -(ln z_all(y) - ln z_-m(y)) [argmax z_-m is not y] - tau mean of q_j over the others j;
                        z_all(y), z_-m(y): the fused head's probability of the true class with all modalities, and with
                        all but m (in the spirit of Wei et al., CVPR 2024, arXiv 2309.06255, with probabilities
                        instead of right or wrong)
    reducible_loss      -(l_m - r_m), r_m: the loss of a model of modality m that was not trained on the sample
                        (RHO-LOSS: Mindermann et al., ICML 2022, arXiv 2206.07137)

None beat a random assignment at the same shares in independent measurements (docs/evidence.md). They are here so that
the question can be asked again, at equal shares and class balance.
"""

# N training samples, M modalities, C classes, P scoring passes (the oldest first)

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import ScoringPass, SplitStatistics, Statistic
from remix_study.remix.assignment import Assignment
from remix_study.remix.filtering import Random, Scores, Shares, cheapest_in_groups

SMALLEST_VARIANCE = 0.01  # nats^2: the loss of a sample that hardly changes (0.1 nats) makes no progress


@dataclass(frozen=True, eq=False)
class History:
    """What a rule knows.

    Args:
        modalities: names of the M columns.
        labels_N: classes of the samples, in 0..classes-1.
        classes: number of classes.
        losses_PNM: float32, cross-entropies of the latest scoring passes in nats, the oldest first.
        found: further statistics of the last scoring pass; None if no rule asked for them.
    """

    modalities: tuple[str, ...]
    labels_N: NDArray[np.int64]
    classes: int
    losses_PNM: NDArray[np.float32]
    found: SplitStatistics | None = None

    def after(self, scored: ScoringPass, keep: int) -> "History":
        """The history with one more pass, of which the latest `keep` passes are kept."""
        losses_PNM = np.concatenate([self.losses_PNM, scored.cross_entropy_NM.astype(np.float32)[None]])
        return replace(self, losses_PNM=losses_PNM[-keep:], found=scored.statistics)


class CostRule(Protocol):
    """A rule that computes costs from a history.

    Attributes:
        passes: the number of scoring passes that it reads, at most.
        least: the number of passes that it needs. Before, samples are assigned at random.
        needs: further statistics of a scoring pass.
    """

    @property
    def passes(self) -> int: ...
    @property
    def least(self) -> int: ...
    @property
    def needs(self) -> frozenset[Statistic]: ...

    def costs(self, history: History) -> Scores:
        """Costs (N, M): a sample is assigned to the modality with the lowest, at the given shares."""
        ...

    def metrics(self, history: History) -> dict[str, NDArray[np.float64]]:
        """Name -> value of each modality (M,)."""
        ...


@dataclass(frozen=True)
class ByCost:
    """Assign each sample to the modality with the lowest cost of a rule; a filter rule.

    Args:
        rule: computes the costs.
        explore: the probability with which a sample is assigned at random instead, in [0, 1].
        labels_N: with classes, every class has the shares of the whole; None: classes do not matter.
    """

    rule: CostRule
    explore: float = 0.0
    labels_N: NDArray[np.int64] | None = None
    needs_scores = True

    @property
    def at_random(self) -> Random:
        """What assigns the samples while the rule has too few scoring passes."""
        return Random(self.labels_N)

    def knows_enough(self, history: History) -> bool:
        return len(history.losses_PNM) >= self.rule.least

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        """`scores_NM` are the costs."""
        explored_N = draw.random(len(scores_NM)) < self.explore
        noise_NM = -draw.gumbel(size=scores_NM.shape)
        group_N = explored_N.astype(np.int64) if self.labels_N is None else 2 * self.labels_N + explored_N
        cost_NM = np.where(explored_N[:, None], noise_NM, scores_NM)
        chosen_N = cheapest_in_groups(cost_NM, shares_M, group_N, draw)
        return Assignment(np.eye(scores_NM.shape[1], dtype=np.bool_)[chosen_N], np.zeros(len(chosen_N), np.bool_))


@dataclass(frozen=True)
class LearningProgress:
    """Assign samples to the modality in which their loss falls most, relative to how much it varies.

    Args:
        passes: scoring passes that are compared, at least 2.
        decay: of the moving average, in [0, 1): the weight of the average before.
    """

    passes: int = 5
    decay: float = 0.5
    needs = frozenset[Statistic]()

    @property
    def least(self) -> int:
        return min(4, self.passes)

    def costs(self, history: History) -> Scores:
        losses_PNM = history.losses_PNM.astype(np.float64)
        progress_NM = self._progress(losses_PNM) / np.sqrt(losses_PNM.var(axis=0) + SMALLEST_VARIANCE)
        return ranks_within(-progress_NM, history.labels_N)

    def metrics(self, history: History) -> dict[str, NDArray[np.float64]]:
        return {"learning_progress": self._progress(history.losses_PNM.astype(np.float64)).mean(axis=0)}

    def _progress(self, losses_PNM: NDArray[np.float64]) -> NDArray[np.float64]:
        """E_{P-1} - E_P (N, M), in nats: positive where the loss falls."""
        before_NM = now_NM = losses_PNM[0]
        for loss_NM in losses_PNM[1:]:
            before_NM, now_NM = now_NM, self.decay * now_NM + (1 - self.decay) * loss_NM
        return np.asarray(before_NM - now_NM)


@dataclass(frozen=True)
class Cartography:
    """Assign samples to the modality in which their probability of the true class varies most.

    Args:
        passes: scoring passes whose standard deviation is taken, at least 2.
        penalty: added to the cost of hopeless samples: below chance on average, with hardly any variation.
        still: the standard deviation below which a sample hardly varies, in [0, 0.5].
    """

    passes: int = 5
    penalty: float = 0.5
    still: float = 0.1
    needs = frozenset[Statistic]()

    @property
    def least(self) -> int:
        return min(3, self.passes)

    def costs(self, history: History) -> Scores:
        mean_NM, std_NM = self._mean_and_std(history)
        hopeless_NM = (mean_NM < 1 / history.classes) & (std_NM < self.still)
        return np.asarray(-std_NM + self.penalty * hopeless_NM)

    def metrics(self, history: History) -> dict[str, NDArray[np.float64]]:
        mean_NM, std_NM = self._mean_and_std(history)
        hopeless_NM = (mean_NM < 1 / history.classes) & (std_NM < self.still)
        return {"variability": std_NM.mean(axis=0), "hopeless_share": hopeless_NM.mean(axis=0)}

    def _mean_and_std(self, history: History) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        true_PNM = np.exp(-history.losses_PNM.astype(np.float64))
        return true_PNM.mean(axis=0), true_PNM.std(axis=0)


@dataclass(frozen=True)
class CoalitionGain:
    """Assign samples to the modality that corrects the fused head most where the other modalities alone are wrong.

    Args:
        tau: weight of what the other modalities know of the sample, in nats; it decides where no gain does.
    """

    tau: float = 0.1
    passes = 3  # only the last is read; before, the fused head knows too little without a modality
    least = 3
    needs = frozenset[Statistic](("subsets", "subset_losses"))

    def costs(self, history: History) -> Scores:
        true_NM = np.exp(-history.losses_PNM[-1].astype(np.float64))
        others_NM = (true_NM.sum(axis=1, keepdims=True) - true_NM) / (true_NM.shape[1] - 1)
        return np.asarray(-self._gains(history) - self.tau * others_NM)

    def metrics(self, history: History) -> dict[str, NDArray[np.float64]]:
        return {"coalition_gain": self._gains(history).mean(axis=0)}

    def _gains(self, history: History) -> Scores:
        """What the modality adds for each sample about which the others are wrong, (N, M), in nats."""
        found = history.found
        assert found is not None
        assert found.right is not None
        assert found.subset_cross_entropy is not None
        every = frozenset(history.modalities)
        loss, right = found.subset_cross_entropy, found.right
        gains = [(loss[every - {m}] - loss[every]) * ~right[every - {m}] for m in history.modalities]
        return np.stack(gains, axis=1)


@dataclass(frozen=True)
class ReducibleLoss:
    """Assign samples to the modality in which most can still be learnt.

    That is where their loss is above that of a model which was not trained on them. A sample that tells nothing has a
    high loss with both, and a sample that is mastered has a low loss.

    Args:
        reference: returns these losses r_m, (N, M) in nats.
    """

    reference: Callable[[], NDArray[np.float32]]
    passes = least = 1
    needs = frozenset[Statistic]()

    def costs(self, history: History) -> Scores:
        return np.asarray(self.reference() - history.losses_PNM[-1], dtype=np.float64)

    def metrics(self, history: History) -> dict[str, NDArray[np.float64]]:
        return {"reducible_loss": -self.costs(history).mean(axis=0)}


def ranks_within(cost_NM: Scores, labels_N: NDArray[np.int64]) -> Scores:
    """Ranks of the costs within each modality and class, in (0, 1); equal costs have equal ranks."""
    rank_NM = np.empty(cost_NM.shape)
    order_N = np.argsort(labels_N, kind="stable")
    for rows in np.split(order_N, np.flatnonzero(np.diff(labels_N[order_N])) + 1):
        for m in range(cost_NM.shape[1]):
            _, place_n, count = np.unique(cost_NM[rows, m], return_inverse=True, return_counts=True)
            rank_NM[rows, m] = ((np.cumsum(count) - count / 2) / len(rows))[place_n]
    return rank_NM
