"""Accuracy, balanced accuracy, macro-F1 and majority rate from a confusion matrix, which can be summed over ranks"""

# N samples, C classes

import numpy as np
from numpy.typing import NDArray


def confusion(labels_N: NDArray[np.integer], predictions_N: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count how often each label (row) was predicted as each class (column): int64 (C, C).

    Raises:
        ValueError: lengths differ, or an id is outside 0..C-1.
    """
    labels_N, predictions_N = np.asarray(labels_N), np.asarray(predictions_N)
    if labels_N.shape != predictions_N.shape or labels_N.ndim != 1:
        raise ValueError(
            f"labels and predictions must be one-dimensional and of equal length, but have shapes {labels_N.shape} and "
            f"{predictions_N.shape}."
        )
    for name, ids_N in (("labels", labels_N), ("predictions", predictions_N)):
        if ids_N.size and not (ids_N.min() >= 0 and ids_N.max() < classes):
            raise ValueError(f"{name} must be in 0..{classes - 1}, but are in {ids_N.min()}..{ids_N.max()}.")
    cells_N = labels_N.astype(np.int64) * classes + predictions_N.astype(np.int64)
    return np.bincount(cells_N, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def accuracy(confusion_CC: NDArray[np.int64]) -> float:
    """The fraction of samples predicted correctly, in [0, 1].

    Raises:
        ValueError: there is no sample.
    """
    return float(np.trace(confusion_CC) / _count(confusion_CC))


def balanced_accuracy(confusion_CC: NDArray[np.int64]) -> float:
    """The mean over classes of the fraction of their samples predicted correctly, in [0, 1].

    Classes without samples are left out, as in scikit-learn.

    Raises:
        ValueError: there is no sample.
    """
    _count(confusion_CC)
    count_C = confusion_CC.sum(axis=1)
    return float(np.mean(np.diag(confusion_CC)[count_C > 0] / count_C[count_C > 0]))


def macro_f1(confusion_CC: NDArray[np.int64]) -> float:
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn), in [0, 1].

    Classes that occur neither as label nor as prediction are left out, as in scikit-learn.

    Raises:
        ValueError: there is no sample.
    """
    _count(confusion_CC)
    labelled_plus_predicted_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)  # 2 tp + fp + fn
    present_C = labelled_plus_predicted_C > 0
    return float(np.mean(2 * np.diag(confusion_CC)[present_C] / labelled_plus_predicted_C[present_C]))


def majority_rate(confusion_CC: NDArray[np.int64]) -> float:
    """The accuracy of always predicting the most frequent label, in [0, 1].

    Raises:
        ValueError: there is no sample.
    """
    return float(confusion_CC.sum(axis=1).max() / _count(confusion_CC))


def _count(confusion_CC: NDArray[np.int64]) -> int:
    count = int(confusion_CC.sum())
    if count == 0:
        raise ValueError("a confusion matrix must count at least one sample, but is all zeros.")
    return count
