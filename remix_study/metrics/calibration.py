"""Calibration of predictions: expected calibration error, and cross-entropy"""

# N samples, C classes

import numpy as np
from numpy.typing import NDArray

BINS = 15


def calibration_error(logs_NC: NDArray[np.floating], labels_N: NDArray[np.integer], bins: int = BINS) -> float:
    """Expected calibration error of the predicted class, in [0, 1].

    ECE = sum_b |B_b| / N |acc(B_b) - conf(B_b)|, where B_b holds the samples whose highest probability is in
    ((b-1) / bins, b / bins], acc is the fraction of them predicted correctly, and conf the mean of their highest
    probability. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599), equation 3.

    Args:
        logs_NC: log-probabilities in nats.

    Raises:
        ValueError: there is no sample.
    """
    _require_samples(logs_NC)
    confidence_N = np.exp(logs_NC.max(axis=1).astype(np.float64)).clip(0, 1)
    bin_N = np.ceil(confidence_N * bins).astype(np.int64).clip(1, bins)
    excess_N = (logs_NC.argmax(axis=1) == labels_N) - confidence_N
    return float(np.abs(np.bincount(bin_N, weights=excess_N)).sum() / len(logs_NC))


def cross_entropy(logs_NC: NDArray[np.floating], labels_N: NDArray[np.integer]) -> float:
    """Mean of -ln p(true class), in nats.

    Raises:
        ValueError: there is no sample.
    """
    _require_samples(logs_NC)
    return -float(logs_NC[np.arange(len(labels_N)), labels_N].astype(np.float64).mean())


def _require_samples(logs_NC: NDArray[np.floating]) -> None:
    if len(logs_NC) == 0:
        raise ValueError("predictions must be of at least one sample, but there is none.")
