"""Assignment of samples to modalities, and statistics of an assignment"""

# N training samples, M modalities, C classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Assignment:
    """The modalities that each sample trains until the next assignment.

    Args:
        assigned_NM: bool (N, M); sample i is in batches that train modality m alone.
        joint_N: bool (N,); sample i is in batches that train all modalities.

    A sample may be in several kinds of batches, or in none (it rests).

    Raises:
        ValueError: the arrays differ in N.
    """

    assigned_NM: NDArray[np.bool_]
    joint_N: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.assigned_NM.shape[:1] != self.joint_N.shape:
            raise ValueError(f"assigned_NM {self.assigned_NM.shape} and joint_N {self.joint_N.shape} differ in N")

    @property
    def trained_N(self) -> NDArray[np.bool_]:
        """Mask of the samples that train at least one modality."""
        return np.asarray(self.assigned_NM.any(axis=1) | self.joint_N)

    def shares_M(self) -> NDArray[np.float64]:
        """share_m = n_m / N: the fraction of all samples that trains modality m alone."""
        return np.asarray(self.assigned_NM.mean(axis=0), dtype=np.float64)

    def joint_share(self) -> float:
        """The fraction of all samples that trains all modalities together."""
        return float(self.joint_N.mean())

    def resting_share(self) -> float:
        """The fraction of all samples that trains nothing."""
        return float(1.0 - self.trained_N.mean())

    def entropy(self) -> float:
        """-sum share log share / log M over the single-modality shares: 1 if equal, 0 if one modality has all."""
        shares_M = self.shares_M()
        total = shares_M.sum()
        if total == 0 or len(shares_M) < 2:
            return 0.0
        parts = shares_M[shares_M > 0] / total
        return float(-(parts * np.log(parts)).sum() / np.log(len(shares_M))) + 0.0

    def churn(self, before: "Assignment") -> float:
        """The fraction of samples whose assignment differs from `before`."""
        changed_N = (self.assigned_NM != before.assigned_NM).any(axis=1) | (self.joint_N != before.joint_N)
        return float(changed_N.mean())

    def shares_by_class(self, labels_N: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
        """shares_CM: the fraction of each class that trains each modality; NaN for a class without samples."""
        count_C = np.bincount(labels_N, minlength=classes).astype(np.float64)
        with np.errstate(invalid="ignore"):
            columns = [
                np.bincount(labels_N, weights=column, minlength=classes) / count_C for column in self.assigned_NM.T
            ]
        return np.stack(columns, axis=1)


def everything_joint(samples: int, modalities: int) -> Assignment:
    """Every sample trains all modalities, as in the warm-up and in joint training."""
    return Assignment(np.zeros((samples, modalities), np.bool_), np.ones(samples, np.bool_))


def mean_margin(scores_NM: NDArray[np.float64]) -> float:
    """Mean over samples of (second lowest - lowest score), in the unit of the score."""
    two_N2 = np.partition(scores_NM, 1, axis=1)[:, :2]
    return float((two_N2[:, 1] - two_N2[:, 0]).mean())


def column_order(modalities: Sequence[str], order: Sequence[str]) -> list[int]:
    """The columns of the M axis in training order.

    Raises:
        ValueError: `order` does not name each modality once.
    """
    if sorted(order) != sorted(modalities):
        raise ValueError(f"`order` must name each of {list(modalities)} once, but is {list(order)}")
    return [list(modalities).index(name) for name in order]
