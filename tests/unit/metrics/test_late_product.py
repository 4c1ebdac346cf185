"""The calibrated late product: its minimum by independent means, and what must hold for any predictions"""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp

from remix_study.metrics.late_product import LOWEST, PENALTY, cross_fitted, fit_exponents, late_product, two_folds

Predictions = tuple[NDArray[np.float64], NDArray[np.int64]]


def predictions(seed: int, N: int, M: int, C: int, scale: float = 2.0, truth: float = 1.0) -> Predictions:
    """Log-probabilities of heads that see the truth with noise, and whose confidence is wrong."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, C, N)
    logits_NMC = rng.normal(size=(N, M, C)) + truth * rng.uniform(-0.3, 1, (1, M, 1)) * np.eye(C)[labels_N][:, None]
    return log_softmax(scale * rng.uniform(0.2, 3, (1, M, 1)) * logits_NMC, axis=2), labels_N


def saturated(found: Predictions, seed: int) -> Predictions:
    """The same, with probabilities of exactly 0 and 1, also of the labelled class."""
    logs_NMC, labels_N = found
    rng = np.random.default_rng(seed)
    logs_NMC = np.where(rng.uniform(size=logs_NMC.shape) < 0.2, -np.inf, logs_NMC)
    return logs_NMC, labels_N


cases = st.builds(
    lambda seed, N, M, C, scale, sharp: (
        saturated(predictions(seed, N, M, C, scale), seed) if sharp else predictions(seed, N, M, C, scale)
    ),
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3), st.integers(1, 6),
    st.sampled_from([0.1, 2.0, 30.0]), st.booleans(),
)  # fmt: skip


def loss(w_M: Any, logs_NMC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> float:
    """f(w) as in the docstring of the module."""
    score_NC = (np.asarray(w_M)[:, None] * np.maximum(logs_NMC, LOWEST)).sum(axis=1)
    surprise_N = logsumexp(score_NC, axis=1) - score_NC[np.arange(len(labels_N)), labels_N]
    return float(surprise_N.mean() + PENALTY * ((np.asarray(w_M) - 1) ** 2).sum())


@given(cases, st.integers(0, 2**32 - 1))
@example((np.full((3, 2, 4), -np.inf), np.array([0, 1, 2])), 0)
@example((np.zeros((1, 1, 1)), np.array([0])), 0)
def test_no_other_exponents_are_better(found: Predictions, seed: int) -> None:
    exponents_M = fit_exponents(*found)
    assert (exponents_M >= 0).all()
    least = loss(exponents_M, *found)
    rng = np.random.default_rng(seed)
    near = np.maximum(exponents_M + rng.normal(size=(4, len(exponents_M))) * 0.05, 0)
    far = rng.exponential(size=(4, len(exponents_M)))
    for other_M in (*near, *far, np.zeros_like(exponents_M), np.ones_like(exponents_M)):
        assert least <= loss(other_M, *found) + 1e-9


@pytest.mark.parametrize("M", [1, 2, 3])
@pytest.mark.parametrize("truth", [1.0, -2.0])  # heads that are worse than chance get exponents of 0
def test_exponents_equal_those_of_scipy(M: int, truth: float) -> None:
    for seed in range(3):
        found = predictions(seed, 60, M, 4, truth=truth)
        found = saturated(found, seed) if seed == 2 else found
        expected = minimize(loss, np.full(M, 0.5), found, method="L-BFGS-B", bounds=[(0, None)] * M,
                            options={"ftol": 1e-15, "gtol": 1e-9})  # fmt: skip
        np.testing.assert_allclose(fit_exponents(*found), expected.x, atol=1e-4)


def test_one_modality_gets_a_temperature() -> None:
    logs_NMC, labels_N = predictions(0, 200, 1, 5)
    best = minimize_scalar(lambda t: loss([1 / t], logs_NMC, labels_N), bounds=(0.05, 20), options={"xatol": 1e-9})
    assert fit_exponents(logs_NMC, labels_N)[0] == pytest.approx(1 / best.x, abs=1e-5)
    tempered_NC = log_softmax(logs_NMC[:, 0] / best.x, axis=1)
    np.testing.assert_allclose(late_product(logs_NMC, np.array([1 / best.x])), tempered_NC, atol=1e-9)


@given(cases)
def test_a_product_is_a_distribution(found: Predictions) -> None:
    logs_NMC, _ = found
    for exponents_M in (fit_exponents(*found), np.zeros(logs_NMC.shape[1]), np.full(logs_NMC.shape[1], 5.0)):
        logs_NC = late_product(logs_NMC, exponents_M)
        np.testing.assert_allclose(np.exp(logs_NC).sum(axis=1), 1)
        assert np.isfinite(logs_NC).all()


def test_exponents_of_one_are_the_late_sum_and_what_no_samples_give() -> None:
    logs_NMC, labels_N = predictions(0, 20, 2, 3)
    np.testing.assert_allclose(late_product(logs_NMC, np.ones(2)), log_softmax(logs_NMC.sum(axis=1), axis=1))
    np.testing.assert_array_equal(fit_exponents(logs_NMC[:0], labels_N[:0]), [1, 1])


@given(cases)
def test_exponents_do_not_depend_on_the_order_of_modalities_and_samples(found: Predictions) -> None:
    logs_NMC, labels_N = found
    turned = fit_exponents(logs_NMC[::-1, ::-1], labels_N[::-1])
    np.testing.assert_allclose(turned[::-1], fit_exponents(logs_NMC, labels_N), atol=1e-6)


@given(cases, st.integers(0, 2**32 - 1))
def test_no_sample_is_judged_by_its_own_label(found: Predictions, seed: int) -> None:
    """New labels of a fold change the predictions of the other fold only."""
    logs_NMC, labels_N = found
    rng = np.random.default_rng(seed)
    fold_N = two_folds(labels_N, rng)
    before_NC = cross_fitted(logs_NMC, labels_N, fold_N)
    mine_N = fold_N == 0
    other_N = np.where(mine_N, rng.integers(0, logs_NMC.shape[2], len(labels_N)), labels_N)
    np.testing.assert_array_equal(cross_fitted(logs_NMC, other_N, fold_N)[mine_N], before_NC[mine_N])
    exponents_M = fit_exponents(logs_NMC[~mine_N], labels_N[~mine_N])
    np.testing.assert_array_equal(late_product(logs_NMC[mine_N], exponents_M), before_NC[mine_N])


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 2**32 - 1))
def test_folds_divide_every_class_in_halves(labels: list[int], seed: int) -> None:
    labels_N = np.array(labels, np.int64)
    fold_N = two_folds(labels_N, np.random.default_rng(seed))
    np.testing.assert_array_equal(two_folds(labels_N, np.random.default_rng(seed)), fold_N)
    for part_N in (fold_N, *(fold_N[labels_N == label] for label in set(labels))):
        assert abs(int((part_N == 0).sum()) - int((part_N == 1).sum())) <= 1


def test_invalid_predictions_raise() -> None:
    logs_NMC, labels_N = predictions(0, 4, 2, 3)
    with pytest.raises(ValueError, match="must be numbers, but some are NaN"):
        fit_exponents(np.where(logs_NMC == logs_NMC[0, 0, 0], np.nan, logs_NMC), labels_N)
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\)"):
        fit_exponents(logs_NMC, labels_N[:3])
    with pytest.raises(ValueError, match=r"exponents must have shape \(2,\)"):
        late_product(logs_NMC, np.ones(3))
    with pytest.raises(ValueError, match=r"must have shape \(N, M, C\)"):
        late_product(logs_NMC[0], np.ones(2))
