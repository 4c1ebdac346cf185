"""Courses: how many samples another run assigned in each epoch, replayed with samples drawn at random

A control that replays a course agrees with the other run in how many samples trained each modality in each epoch, and
differs only in which ones. A course at its mean also differs in how the numbers change over the epochs. So the gain of
a method splits into its mean shares, the course of its shares, and its choice of samples.

After the warm-up, each sample of an epoch is in one of M + 3 groups:
    a modality   it trains this modality alone, and no other
    each         it trains every modality alone (`margin` with `close: each`)
    joint        it trains all modalities together
    rest         it trains nothing
"""

# N training samples, M modalities, E epochs, G = M + 3 groups: the modalities in their order, each, joint, rest

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from remix_study.remix.assignment import Assignment
from remix_study.remix.filtering import target_counts

_ROUNDING = 1e-6  # of a recorded share times N, which float64 keeps to far less
_OTHER_GROUPS = 3


@dataclass(frozen=True)
class Course:
    """The number of samples in each group, in each epoch.

    Args:
        count_EG: int64 (E, M + 3); every row sums to N.
        redrawn: the epochs before which the other run assigned samples again, although numbers may not have changed.

    Raises:
        ValueError: a number is negative, or the rows have different sums.
    """

    count_EG: NDArray[np.int64]
    redrawn: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if (self.count_EG < 0).any() or len(np.unique(self.count_EG.sum(axis=1))) > 1:
            raise ValueError("a course must have numbers of at least 0, with the same sum in every epoch")

    def changes(self, epoch: int) -> bool:
        """Whether samples are assigned again before an epoch."""
        other = epoch == 0 or not np.array_equal(self.count_EG[epoch], self.count_EG[epoch - 1])
        return other or epoch in self.redrawn

    def draw(self, epoch: int, draw: np.random.Generator) -> Assignment:
        """Return a random assignment with the numbers of an epoch; every one of them is equally likely."""
        count_G = self.count_EG[epoch]
        modalities = len(count_G) - _OTHER_GROUPS
        group_N = draw.permutation(np.repeat(np.arange(len(count_G)), count_G))
        assigned_NM = (group_N[:, None] == np.arange(modalities)) | (group_N == modalities)[:, None]
        return Assignment(assigned_NM, group_N == modalities + 1)

    def at_mean(self, first: int) -> "Course":
        """Return the course that has the mean over the epochs from `first` on in each of these epochs.

        The means are rounded to integers with the same sum by largest remainders.
        """
        count_EG = self.count_EG.copy()
        samples = int(count_EG[0].sum())
        count_EG[first:] = target_counts(samples, count_EG[first:].mean(axis=0) / samples)
        return replace(self, count_EG=count_EG)


def read_course(history: Sequence[Mapping[str, float]], modalities: Sequence[str], samples: int) -> Course:
    """Return the course of a run from the shares that it recorded in each epoch.

    The numbers are exact: a share is recorded as a float64 quotient of two integers below 2^53.

    Args:
        history: the records of all epochs, with `remix/joint_share` and, after the warm-up, `remix/resting_share` and
            `remix/share/<modality>`; and `remix/churn` where samples were assigned again.
        modalities: names of the M columns.
        samples: N of that run.

    Raises:
        ValueError: an epoch has no shares, or they are not those of N samples.
    """
    count_EG = np.asarray([_counts(n, each, modalities, samples) for n, each in enumerate(history)], np.int64)
    return Course(count_EG, frozenset(n for n, each in enumerate(history) if "remix/churn" in each))


def _counts(epoch: int, record: Mapping[str, float], modalities: Sequence[str], samples: int) -> list[int]:
    if "remix/joint_share" not in record:
        raise ValueError(f"its epoch {epoch} has no `remix/joint_share`")
    # An epoch in which all samples train jointly records nothing else.
    keys = ["remix/joint_share", "remix/resting_share", *(f"remix/share/{m}" for m in modalities)]
    exact = [record.get(key, 0.0) * samples for key in keys]
    joint, rest, *alone_M = (round(value) for value in exact)
    # A sample that trains every modality alone counts M times, any other that trains one alone counts once.
    each, odd = divmod(sum(alone_M) - (samples - joint - rest), max(1, len(modalities) - 1))
    counts = [*(count - each for count in alone_M), each, joint, rest]
    if odd or min(counts) < 0 or any(abs(value - round(value)) > _ROUNDING for value in exact):
        raise ValueError(f"the shares of its epoch {epoch} are not those of {samples} samples")
    return counts
