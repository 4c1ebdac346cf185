"""Calibration error and cross-entropy, compared with plain loops"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from remix_study.metrics.calibration import calibration_error, cross_entropy


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 5), st.sampled_from([0.5, 3.0, 100.0]))
def test_calibration_error_equals_a_loop_over_bins(seed: int, N: int, C: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logs_NC, labels_N = log_softmax(scale * rng.normal(size=(N, C)), axis=1), rng.integers(0, C, N)
    top_N = np.exp(logs_NC.max(axis=1))
    total = 0.0
    for b in range(1, 16):
        inside = [n for n in range(N) if (b - 1) / 15 < top_N[n] <= b / 15]
        if inside:
            right = np.mean([logs_NC[n].argmax() == labels_N[n] for n in inside])
            total += len(inside) / N * abs(right - np.mean(top_N[inside]))
    assert calibration_error(logs_NC, labels_N) == pytest.approx(total, abs=1e-12)


def test_calibration_in_worked_examples() -> None:
    certain_NC = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert calibration_error(certain_NC, np.array([0, 0])) == 0
    assert calibration_error(certain_NC, np.array([1, 1])) == 1
    assert calibration_error(certain_NC, np.array([0, 1])) == 0.5
    half_NC = np.log(np.full((4, 2), 0.5))
    assert calibration_error(half_NC, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert cross_entropy(half_NC, np.array([0, 1, 0, 1])) == pytest.approx(np.log(2))


def test_predictions_of_no_sample_raise() -> None:
    for measure in (calibration_error, cross_entropy):
        with pytest.raises(ValueError, match="at least one sample"):
            measure(np.empty((0, 2)), np.empty(0, np.int64))
