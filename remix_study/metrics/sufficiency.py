"""Sufficiency: accuracy of each modality relative to training it alone

The ceiling ("solo") is an encoder of the same kind, trained alone with the same settings on the same split. The linear
probe measures the frozen features independently of the head they were trained with.
"""

# N samples, D features

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PROBE_GRID = (1e-3, 1e-2, 1e-1, 1.0, 1e1)  # inverse strength of the L2 penalty, from strong to weak


class ProbeResult(NamedTuple):
    """A linear probe, and its predictions.

    Attributes:
        accuracy: on the evaluation split, in [0, 1].
        C: the inverse strength of the penalty that was best on the validation split.
        classes_K: the classes of the training split, in ascending order.
        val_logs_NK, eval_logs_NK: log-probabilities of these classes, in nats, on the validation and the evaluation
            split.
    """

    accuracy: float
    C: float
    classes_K: NDArray[np.int64]
    val_logs_NK: NDArray[np.float64]
    eval_logs_NK: NDArray[np.float64]


def sufficiency_ratio(accuracy_uni: float, accuracy_solo: float) -> float | None:
    """acc_uni / acc_solo, in [0, inf); may exceed 1. None (undefined) if the solo accuracy is 0."""
    return accuracy_uni / accuracy_solo if accuracy_solo > 0 else None


def sufficiency_gap(accuracy_uni: float, accuracy_solo: float) -> float:
    """100 (acc_solo - acc_uni), in percentage points, in [-100, 100]; below 0 if joint training helped."""
    return 100 * (accuracy_solo - accuracy_uni)


def chance_corrected(accuracy_uni: float, accuracy_solo: float, chance: float) -> float | None:
    """(acc_uni - chance) / (acc_solo - chance), where `chance` is the majority rate.

    None (undefined) if the solo accuracy is not above chance.
    """
    return (accuracy_uni - chance) / (accuracy_solo - chance) if accuracy_solo > chance else None


def linear_probe(
    train_ND: NDArray[np.floating],
    train_labels_N: NDArray[np.integer],
    val_ND: NDArray[np.floating],
    val_labels_N: NDArray[np.integer],
    eval_ND: NDArray[np.floating],
    eval_labels_N: NDArray[np.integer],
    seed: int,
) -> ProbeResult:
    """Multinomial logistic regression with an L2 penalty on frozen features, standardised by the training split.

    The penalty is chosen on the validation split, the strongest of equals. Classes may be missing from any split;
    labels that the training split lacks count as errors.

    Raises:
        ValueError: a split is empty, its lengths differ, or a feature is not finite.
    """
    splits = {"train": (train_ND, train_labels_N), "val": (val_ND, val_labels_N), "eval": (eval_ND, eval_labels_N)}
    for name, (features_ND, labels_N) in splits.items():
        if len(features_ND) == 0 or len(features_ND) != len(labels_N):
            raise ValueError(
                f"the probe's {name} split must have as many labels as features, and at least one, but has "
                f"{len(labels_N)} labels and {len(features_ND)} features."
            )
        if not np.isfinite(features_ND).all():
            raise ValueError(
                f"features must be finite, but the {name} split has NaN or infinity. The encoder has probably "
                "diverged: lower the learning rate."
            )
    classes_K = np.unique(train_labels_N).astype(np.int64)
    if len(classes_K) == 1:  # LogisticRegression refuses a single class
        accuracy = float(np.mean(eval_labels_N == classes_K[0]))
        return ProbeResult(accuracy, PROBE_GRID[0], classes_K, np.zeros((len(val_ND), 1)), np.zeros((len(eval_ND), 1)))
    # Imported here, because they import scipy.stats, too: a fifth of the start of each process of a trial.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(train_ND, dtype=np.float64))
    train_ND, val_ND, eval_ND = (scaler.transform(np.asarray(f, dtype=np.float64)) for f in (train_ND, val_ND, eval_ND))
    # From strong to weak penalty with warm starts: the same optima in fewer steps.
    probe = LogisticRegression(max_iter=2000, warm_start=True, random_state=seed % 2**32)  # all that scikit-learn takes
    best: tuple[float, ProbeResult] | None = None
    for C in PROBE_GRID:
        probe.set_params(C=C)
        with warnings.catch_warnings():
            # On separable features with a weak penalty, the accuracy converges long before the weights.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(train_ND, train_labels_N)
        val_accuracy = float(np.mean(probe.predict(val_ND) == val_labels_N))
        if best is None or val_accuracy > best[0]:
            accuracy = float(np.mean(probe.predict(eval_ND) == eval_labels_N))
            with np.errstate(divide="ignore"):  # the logarithm of 0
                logs = probe.predict_log_proba(val_ND), probe.predict_log_proba(eval_ND)
            best = val_accuracy, ProbeResult(accuracy, C, classes_K, *logs)
    assert best is not None  # the grid is not empty
    return best[1]
