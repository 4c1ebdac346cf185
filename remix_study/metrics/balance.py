"""Balance metrics: differences between modalities, and the contribution of each to the accuracy

`value` is the table v(S): a set of modalities -> accuracy, in [0, 1], with only these active; v(empty) is the accuracy
with all features zero. Features are masked, not inputs, so the table needs no further passes of the encoders.
BalanceBenchmark (arXiv 2502.10816) masks inputs and encodes 2^M times, so its numbers differ.
"""

# M modalities

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray


def accuracy_gap(accuracies: Mapping[str, float]) -> float:
    """100 (max_m acc_m - min_m acc_m), in percentage points, in [0, 100]."""
    return 100 * (max(accuracies.values()) - min(accuracies.values()))


def accuracy_ratio(accuracies: Mapping[str, float]) -> float:
    """min_m acc_m / max_m acc_m, in [0, 1]; 1 if all are 0."""
    best = max(accuracies.values())
    return min(accuracies.values()) / best if best > 0 else 1.0


def abs_log_rho(true_class_prob_sums_M: NDArray[np.float64]) -> float:
    """max_m |ln rho_m|, rho_m = s_m / mean of the other modalities' s, in [0, inf); 0 means balanced.

    s_m is the sum over samples of the probability that modality m alone gives to the true class. For two modalities
    this is |ln (s_1 / s_2)| of OGM-GE (arXiv 2203.15332). A sum of 0 is replaced by the smallest positive float,
    so that the result is finite.

    Raises:
        ValueError: a sum is negative or not a number.
    """
    sums_M = np.asarray(true_class_prob_sums_M, dtype=np.float64)
    if not (sums_M >= 0).all():
        raise ValueError(f"sums of probabilities must be at least 0, but are {sums_M.tolist()}.")
    if len(sums_M) < 2:
        return 0.0
    sums_M = np.maximum(sums_M, np.finfo(np.float64).tiny)
    others_M = np.array([np.delete(sums_M, m).mean() for m in range(len(sums_M))])
    return float(np.abs(np.log(sums_M) - np.log(others_M)).max())


def subsets(modalities: Sequence[str]) -> list[frozenset[str]]:
    """All 2^M sets of modalities, sorted by size, the empty set first: the keys of a table v(S)."""
    sizes = range(len(modalities) + 1)
    return [frozenset(chosen) for chosen in chain.from_iterable(combinations(modalities, size) for size in sizes)]


def shapley(value: Mapping[frozenset[str], float], modalities: Sequence[str]) -> dict[str, float]:
    """Shapley value of each modality for the accuracy; sum_m phi_m = v(all) - v(empty).

    phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)), in [-1, 1]

    Raises:
        ValueError: the table lacks a set of modalities.
    """
    _require(value, subsets(modalities))
    M = len(modalities)
    phi = {}
    for m in modalities:
        gains = (
            factorial(len(S)) * factorial(M - len(S) - 1) / factorial(M) * (value[S | {m}] - value[S])
            for S in subsets([other for other in modalities if other != m])
        )
        phi[m] = float(sum(gains))
    return phi


def imbalance(phi: Mapping[str, float]) -> float:
    """2 / (M (M - 1)) sum_{i<j} |phi_i - phi_j|, in [0, 1]: the mean difference of two Shapley values; 0 for M = 1.

    BalanceBenchmark (arXiv 2502.10816).
    """
    differences = [abs(first - second) for first, second in combinations(phi.values(), 2)]
    return float(np.mean(differences)) if differences else 0.0


def missing(value: Mapping[frozenset[str], float], modalities: Sequence[str]) -> dict[str, float]:
    """Accuracy without each modality: m -> v(all without m), in [0, 1].

    Raises:
        ValueError: the table lacks a set of modalities.
    """
    without = {m: frozenset(modalities) - {m} for m in modalities}
    _require(value, list(without.values()))
    return {m: float(value[S]) for m, S in without.items()}


def average_missing(value: Mapping[frozenset[str], float], modalities: Sequence[str]) -> float:
    """The mean of v(S) over all S that are neither empty nor complete, in [0, 1]; v(all) for M = 1.

    Raises:
        ValueError: the table lacks a set of modalities.
    """
    proper = subsets(modalities)[1:-1] or [frozenset(modalities)]
    _require(value, proper)
    return float(np.mean([value[S] for S in proper]))


def drop(value: Mapping[frozenset[str], float], modalities: Sequence[str]) -> float:
    """100 (v(all) - `average_missing`), in percentage points, in [-100, 100].

    Raises:
        ValueError: the table lacks a set of modalities.
    """
    _require(value, [frozenset(modalities)])
    return 100 * (float(value[frozenset(modalities)]) - average_missing(value, modalities))


def conditional_utilisation(value: Mapping[frozenset[str], float], modalities: Sequence[str]) -> dict[str, float]:
    """u_m = (v(all) - v(all without m)) / v(all), in (-inf, 1]: the fraction of the accuracy that is lost without m.

    Wu et al. (ICML 2022, arXiv 2202.05306). Empty if v(all) = 0, where it is undefined.

    Raises:
        ValueError: the table lacks a set of modalities.
    """
    _require(value, [frozenset(modalities)])
    whole = float(value[frozenset(modalities)])
    return {m: (whole - rest) / whole for m, rest in missing(value, modalities).items()} if whole > 0 else {}


def _require(value: Mapping[frozenset[str], float], needed: Sequence[frozenset[str]]) -> None:
    lacking = [S for S in needed if S not in value]
    if lacking:
        names = "; ".join("{" + ", ".join(sorted(S)) + "}" for S in lacking)
        raise ValueError(f"the table must have an accuracy for each set of modalities, but lacks {names}.")
