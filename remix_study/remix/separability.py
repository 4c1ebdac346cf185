"""Separability: how much does each modality alone know about this sample?

Every score follows one direction, so that any filtering rule works with any score: **higher means better known**. The
modality with the lowest score is the one that finds the sample hard.
"""

# N samples, n of one chunk, M modalities, C classes

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ScoreName = Literal["kl", "kl_normalised", "cross_entropy", "true_class"]
Probabilities = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-9  # as released: probabilities are clipped from below before the logarithm
_CHUNK_BYTES = 2**19  # of float64; chunks that stay in a core's cache are three times as fast as larger ones


def kl_from_uniform(probs_NMC: Probabilities) -> NDArray[np.float64]:
    """How far each unimodal prediction is from 'no idea', in bits: 0 for uniform, log2 C for one-hot.

    D_m(i) = sum_k p_k log2(p_k C), with p clipped to [1e-9, 1] (Data Remixing as released). Labels are not used: a
    confidently wrong modality counts as one that knows. Returns scores_NM, float64.
    """
    samples, modalities, classes = probs_NMC.shape
    scores_NM = np.empty((samples, modalities))
    rows = min(max(1, _CHUNK_BYTES // (8 * modalities * classes)), max(1, samples))
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
    """`kl_from_uniform` divided by its largest value log2 C: in [0, 1], comparable over numbers of classes."""
    return kl_from_uniform(probs_NMC) / float(np.log2(probs_NMC.shape[-1]))


def negative_cross_entropy(probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log p of the true class, in nats: 0 when certain and right, log(1e-9) = -20.7 at worst; -log C is chance."""
    return np.asarray(np.log(np.clip(true_class(probs_NMC, labels_N), SMALLEST_PROBABILITY, 1.0)))


def true_class(probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability that each modality alone gives to the true class: in [0, 1]."""
    return np.asarray(probs_NMC[np.arange(len(labels_N)), :, labels_N], dtype=np.float64)


def score(name: ScoreName, probs_NMC: Probabilities, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """The score of this name; shape (N, M), higher means better known."""
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
    """The smallest and largest value that a score can take: where thresholds may lie."""
    match name:
        case "kl":
            return 0.0, float(np.log2(classes))
        case "cross_entropy":
            return float(np.log(SMALLEST_PROBABILITY)), 0.0
        case "kl_normalised" | "true_class":
            return 0.0, 1.0
