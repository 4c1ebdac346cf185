"""Separability scores: how certain each modality alone is of each sample

For every score, higher means better known, so any filtering rule works with any score.
"""

# N samples, n of one chunk, M modalities, C classes

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ScoreName = Literal["kl", "kl_normalised", "cross_entropy", "true_class"]
Probabilities = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-9  # lower clip before the logarithm, as released
CHUNK_BYTES = 2**19  # of float64; chunks that fit the cache are three times as fast as larger ones


def kl_from_uniform(probs_NMC: Probabilities) -> NDArray[np.float64]:
    """KL divergence of each unimodal prediction from the uniform distribution, in bits.

    D_m(i) = sum_k p_k log2(p_k C), with p clipped to [1e-9, 1] (Data Remixing as released). Labels are not used, so a
    confident wrong prediction scores as high as a confident right one.

    Args:
        probs_NMC: probabilities (N, M, C).

    Returns:
        float64 (N, M), from 0 (uniform) to log2 C (one-hot).
    """
    samples, modalities, classes = probs_NMC.shape
    scores_NM = np.empty((samples, modalities))
    rows = min(max(1, CHUNK_BYTES // (8 * modalities * classes)), max(1, samples))
    p_nMC, bits_nMC = np.empty((2, rows, modalities, classes))
    for start in range(0, samples, rows):
        chunk_nMC = probs_NMC[start : start + rows]
        n = len(chunk_nMC)
        p, bits = p_nMC[:n], bits_nMC[:n]
        np.clip(chunk_nMC, SMALLEST_PROBABILITY, 1.0, out=p, dtype=np.float64)
        np.log2(np.multiply(p, classes, out=bits), out=bits)
        np.einsum("nmc,nmc->nm", p, bits, out=scores_NM[start : start + n])
    return scores_NM


def kl_normalised(probs_NMC: Probabilities) -> NDArray[np.float64]:
    """`kl_from_uniform` divided by its maximum log2 C: in [0, 1], comparable between numbers of classes."""
    return kl_from_uniform(probs_NMC) / float(np.log2(probs_NMC.shape[-1]))


def negative_cross_entropy(probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probability of the true class, in nats: from log(1e-9) = -20.7 to 0; a uniform prediction has -log C."""
    return np.asarray(np.log(np.clip(true_class(probs_NMC, labels_N), SMALLEST_PROBABILITY, 1.0)))


def true_class(probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of the true class from each modality alone, in [0, 1]."""
    return np.asarray(probs_NMC[np.arange(len(labels_N)), :, labels_N], dtype=np.float64)


def score(name: ScoreName, probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the score `name`: float64 (N, M), higher means better known."""
    match name:
        case "kl":
            return kl_from_uniform(probs_NMC)
        case "kl_normalised":
            return kl_normalised(probs_NMC)
        case "cross_entropy":
            return negative_cross_entropy(probs_NMC, labels_N)
        case "true_class":
            return true_class(probs_NMC, labels_N)


def score_range(name: ScoreName, classes: int) -> tuple[float, float]:
    """The smallest and largest possible value of a score."""
    match name:
        case "kl":
            return 0.0, float(np.log2(classes))
        case "cross_entropy":
            return float(np.log(SMALLEST_PROBABILITY)), 0.0
        case "kl_normalised" | "true_class":
            return 0.0, 1.0
