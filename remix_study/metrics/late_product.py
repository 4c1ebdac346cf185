"""Calibrated late product: the unimodal predictions multiplied, each raised to an exponent fitted on held-out samples

    q_w(c | x) = prod_m p_m(c | x)^w_m / Z_w(x),    Z_w(x) = sum_c prod_m p_m(c | x)^w_m,    w_m >= 0

With all w_m = 1, it is the late sum; with one modality, w is the inverse of a temperature (Guo et al., ICML 2017, arXiv
1706.04599). The exponents minimise, over N held-out samples with labels y_n,

    f(w) = 1/N sum_n [ ln Z_w(x_n) - sum_m w_m ln p_m(y_n | x_n) ] + PENALTY sum_m (w_m - 1)^2

f is strictly convex: ln Z_w is the log-sum-exp of linear functions of w, so it is convex; the next term is linear; the
Hessian of the penalty is 2 PENALTY I. So f has exactly one minimum with w >= 0, whatever the predictions. With no
samples, it is at w = 1.
"""

# N samples, M modalities, C classes

import numpy as np
from numpy.typing import NDArray

PENALTY = 1e-3
LOWEST = float(np.log(np.finfo(np.float32).tiny))  # ln of a smaller probability counts as this; 0 has no logarithm
_TOLERANCE, _MOST_STEPS = 1e-10, 200
_SUFFICIENT = 1e-4  # part of the predicted decrease that a step must achieve
_ROUNDING = 1e-14  # relative error of f: close to the minimum, decreases are smaller


def fit_exponents(logs_NMC: NDArray[np.floating], labels_N: NDArray[np.integer]) -> NDArray[np.float64]:
    """Fit the exponents w_M >= 0 by projected Newton steps with a line search (Bertsekas, SIAM J. Control 1982).

    Args:
        logs_NMC: log-probabilities of the unimodal predictions, in nats; -inf is allowed.
        labels_N: the classes, in 0..C-1.

    Raises:
        ValueError: the shapes do not match, or a log-probability is not a number.
    """
    logs_NMC = _floored(logs_NMC)
    N, M, _ = logs_NMC.shape
    if labels_N.shape != (N,):
        raise ValueError(f"labels must have shape {(N,)}, but have {labels_N.shape}.")
    if np.isnan(logs_NMC).any():
        raise ValueError(
            "log-probabilities must be numbers, but some are NaN. A head has probably diverged: lower the learning "
            "rate."
        )
    if N == 0:
        return np.ones(M)
    true_M = logs_NMC[np.arange(N), :, labels_N].mean(axis=0)
    w_M = np.ones(M)
    value = _loss(w_M, logs_NMC, true_M)
    for _ in range(_MOST_STEPS):
        gradient_M, hessian_MM = _derivatives(w_M, logs_NMC, true_M)
        distance = np.abs(w_M - np.maximum(w_M - gradient_M, 0)).max()
        if distance <= _TOLERANCE:
            break
        # Exponents at 0 that would fall below stay there; the others take a Newton step among themselves.
        held_M = (w_M <= min(distance, 1e-3)) & (gradient_M > 0)
        step_M = gradient_M.copy()
        step_M[~held_M] = np.linalg.solve(hessian_MM[np.ix_(~held_M, ~held_M)], gradient_M[~held_M])
        for halvings in range(60):
            size = 0.5**halvings
            new_M = np.maximum(w_M - size * step_M, 0)
            predicted = size * gradient_M[~held_M] @ step_M[~held_M] + gradient_M[held_M] @ (w_M - new_M)[held_M]
            new_value = _loss(new_M, logs_NMC, true_M)
            if new_value <= value - _SUFFICIENT * predicted + _ROUNDING * max(1.0, abs(value)):
                break
        else:
            break  # no step decreases f by more than its rounding error
        w_M, value = new_M, new_value
    return w_M


def late_product(logs_NMC: NDArray[np.floating], exponents_M: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities (N, C) of the product with these exponents, in nats; NaN for a sample that has a NaN.

    Raises:
        ValueError: the shapes do not match.
    """
    logs_NMC = _floored(logs_NMC)
    if exponents_M.shape != logs_NMC.shape[1:2]:
        raise ValueError(f"exponents must have shape {logs_NMC.shape[1:2]}, but have {exponents_M.shape}.")
    return _log_product(exponents_M, logs_NMC)


def two_folds(labels_N: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """Divide samples at random into folds 0 and 1, (N,). Their sizes, also within each class, differ by at most 1."""
    order_N = np.lexsort((rng.permutation(len(labels_N)), labels_N))
    fold_N = np.empty(len(labels_N), np.int64)
    fold_N[order_N] = np.arange(len(labels_N)) % 2
    return fold_N


def cross_fitted(
    logs_NMC: NDArray[np.floating], labels_N: NDArray[np.integer], fold_N: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Log-probabilities (N, C) of the product, with exponents fitted on the samples of all other folds."""
    found_NC = np.empty((len(logs_NMC), logs_NMC.shape[2]))
    for fold in np.unique(fold_N):
        mine_N = fold_N == fold
        exponents_M = fit_exponents(logs_NMC[~mine_N], labels_N[~mine_N])
        found_NC[mine_N] = late_product(logs_NMC[mine_N], exponents_M)
    return found_NC


def _floored(logs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
    if logs_NMC.ndim != 3 or 0 in logs_NMC.shape[1:]:
        raise ValueError(f"log-probabilities must have shape (N, M, C) with M, C > 0, but have {logs_NMC.shape}.")
    floored_NMC: NDArray[np.float64] = np.maximum(logs_NMC.astype(np.float64), LOWEST)
    return floored_NMC


def _log_product(w_M: NDArray[np.floating], logs_NMC: NDArray[np.float64]) -> NDArray[np.float64]:
    logs_NC: NDArray[np.float64] = np.einsum("m,nmc->nc", w_M, logs_NMC)
    logs_NC -= logs_NC.max(axis=1, keepdims=True)
    logs_NC -= np.log(np.exp(logs_NC).sum(axis=1, keepdims=True))
    return logs_NC


def _loss(w_M: NDArray[np.float64], logs_NMC: NDArray[np.float64], true_M: NDArray[np.float64]) -> float:
    logs_NC = np.einsum("m,nmc->nc", w_M, logs_NMC)
    highest_N = logs_NC.max(axis=1)
    log_normaliser = (highest_N + np.log(np.exp(logs_NC - highest_N[:, None]).sum(axis=1))).mean()
    return float(log_normaliser - w_M @ true_M + PENALTY * ((w_M - 1) ** 2).sum())


def _derivatives(
    w_M: NDArray[np.float64], logs_NMC: NDArray[np.float64], true_M: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The gradient of f, and its Hessian: the mean covariance of ln p_m(c) under q_w, plus that of the penalty."""
    q_NC = np.exp(_log_product(w_M, logs_NMC))
    mean_NM = np.einsum("nc,nmc->nm", q_NC, logs_NMC)
    centred_NMC = logs_NMC - mean_NM[:, :, None]
    covariance_MM = np.einsum("nc,nic,njc->ij", q_NC, centred_NMC, centred_NMC, optimize=True) / len(logs_NMC)
    gradient_M = mean_NM.mean(axis=0) - true_M + 2 * PENALTY * (w_M - 1)
    return gradient_M, covariance_MM + 2 * PENALTY * np.eye(len(w_M))
