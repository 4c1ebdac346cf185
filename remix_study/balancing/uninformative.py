"""Detectors: which training samples are uninformative in which modality

g_im   the probability that modality m alone gives to the class of sample i, minus the frequency of this class; on
       average 0 for a modality that knows nothing
h_im   the mean of g_im over the passes so far

A modality has uninformative samples only if the samples form two clear groups, and the lower one knows nothing. The
groups are those of Otsu (1979): their threshold has the largest variance between the groups. They are clear if this is
at least `SEPARATION` of the whole variance, which is 0.64 for a normal and 0.75 for a uniform distribution. The lower
group knows nothing if its mean is between -1/(2C) and 1/C; below, it is wrong rather than ignorant. A modality that is
still learning, or that is hard everywhere, has one group. Its uninformative samples are those that are at most
`NEAR` of the way from the mean of the lower to that of the upper group: what lies between the groups is hard, and still
learns.

history    these samples, by h. The mean counts early passes, when nothing was memorised.
held_out   the groups are those of the control samples, by g, and with their threshold the training samples are judged,
           by h. No head trains on control samples, so memorisation does not affect their groups.

A judged sample no longer trains the head with its label, so memorisation does not affect its later g.
"""

# N training samples, M modalities, C classes

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.epoch import SplitStatistics, Statistic

SEPARATION = 0.85
NEAR = 0.25


class Detector(Protocol):
    """Judges the training samples of a run.

    `needs`: further statistics of the passes. `reads_control`: whether it reads the control samples.
    """

    needs: frozenset[Statistic]
    reads_control: bool

    def judge(self, train: SplitStatistics, control: SplitStatistics | None) -> NDArray[np.bool_]:
        """Whether each training sample is uninformative in each modality, (N, M). `control` is given if it is read."""
        ...

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


class History:
    """`history`; see the module docstring.

    Args:
        classes: number of classes.
    """

    needs: frozenset[Statistic] = frozenset()
    reads_control = False

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._sum_NM: NDArray[np.float64] | None = None
        self._passes = 0

    def judge(
        self,
        train: SplitStatistics,
        control: SplitStatistics | None,  # noqa: ARG002 - required by Detector
    ) -> NDArray[np.bool_]:
        h_NM = self._mean(train)
        return h_NM <= np.asarray([highest(h_N, self._classes) for h_N in h_NM.T])

    def state(self) -> dict[str, Any]:
        return {"passes": self._passes, "sum_NM": None if self._sum_NM is None else torch.from_numpy(self._sum_NM)}

    def restore(self, state: Mapping[str, Any]) -> None:
        sum_NM = state["sum_NM"]
        self._passes, self._sum_NM = state["passes"], None if sum_NM is None else sum_NM.numpy()

    def _mean(self, train: SplitStatistics) -> NDArray[np.float64]:
        """h, with the latest pass, (N, M)."""
        g_NM = gains(train, self._classes)
        self._sum_NM = g_NM if self._sum_NM is None else self._sum_NM + g_NM
        self._passes += 1
        return self._sum_NM / self._passes


class HeldOut(History):
    """`held_out`; see the module docstring."""

    reads_control = True

    def judge(self, train: SplitStatistics, control: SplitStatistics | None) -> NDArray[np.bool_]:
        assert control is not None
        g_KM = gains(control, self._classes, train.labels_N)
        highest_M = [highest(g_K, self._classes) for g_K in g_KM.T]
        return self._mean(train) <= np.asarray(highest_M)


DETECTORS = {"history": History, "held_out": HeldOut}


def gains(found: SplitStatistics, classes: int, labels_N: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """The probability that each modality alone gives to the class of each sample, minus the frequency of the class.

    Args:
        labels_N: the samples whose frequencies count; by default those of `found`.

    Returns:
        (N, M), in [-1, 1].
    """
    counted_N = found.labels_N if labels_N is None else labels_N
    frequency_C = np.bincount(counted_N, minlength=classes) / len(counted_N)
    gain_NM: NDArray[np.float64] = np.exp(-found.cross_entropy_NM) - frequency_C[found.labels_N, None]
    return gain_NM


def highest(value_N: NDArray[np.float64], classes: int) -> float:
    """The highest value with which a sample counts as uninformative, by values of g or h; -inf if none does.

    See the module docstring.
    """
    groups = two_groups(value_N)
    if groups is None or groups.separation < SEPARATION or not -0.5 <= groups.lower * classes <= 1:
        return -np.inf
    return groups.lower + NEAR * (groups.upper - groups.lower)


class Groups(NamedTuple):
    """The means of two groups, and the part of the variance that lies between them, in (0, 1]."""

    lower: float
    upper: float
    separation: float


def two_groups(value_N: NDArray[np.float64]) -> Groups | None:
    """The groups of Otsu's threshold; None if all values are equal."""
    sorted_N = np.sort(value_N)
    if len(sorted_N) == 0 or sorted_N[0] == sorted_N[-1]:
        return None
    count_n = np.arange(1, len(sorted_N))
    total_n = sorted_N.cumsum()
    lower_n = total_n[:-1] / count_n
    upper_n = (total_n[-1] - total_n[:-1]) / (len(sorted_N) - count_n)
    between_n = count_n * (len(sorted_N) - count_n) / len(sorted_N) ** 2 * (upper_n - lower_n) ** 2
    best = int(between_n.argmax())
    return Groups(float(lower_n[best]), float(upper_n[best]), float(between_n[best] / sorted_N.var()))
