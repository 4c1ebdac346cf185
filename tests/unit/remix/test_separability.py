"""Scores: agreement with the reference implementation, bounds and extremes"""

# N samples, M modalities, C classes

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.remix import separability
from remix_study.remix.separability import (
    ScoreName,
    kl_from_uniform,
    kl_normalised,
    negative_cross_entropy,
    score,
    score_range,
    true_class,
)
from tests.examples import examples

NAMES: tuple[ScoreName, ...] = get_args(ScoreName)


def random_probs(seed: int, samples: int, modalities: int, classes: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.2), size=(samples, modalities))


@examples(40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 4), st.integers(2, 9))
def test_kl_agrees_with_the_oracle(oracle: Any, seed: int, samples: int, modalities: int, classes: int) -> None:
    probs_NMC = random_probs(seed, samples, modalities, classes)
    expected = [[oracle.separability(row) for row in sample] for sample in probs_NMC.tolist()]
    np.testing.assert_allclose(
        kl_from_uniform(probs_NMC), np.asarray(expected).reshape(samples, modalities), rtol=0, atol=1e-11
    )


def test_kl_is_log2_of_the_classes_minus_the_entropy() -> None:
    probs_NMC = np.random.default_rng(0).dirichlet(np.ones(6), size=(20, 2))
    entropy_NM = -(probs_NMC * np.log2(probs_NMC)).sum(axis=2)
    np.testing.assert_allclose(kl_from_uniform(probs_NMC), np.log2(6) - entropy_NM, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 6, 400])
def test_kl_is_zero_for_uniform_and_log2_of_the_classes_for_one_hot(classes: int) -> None:
    probs_NMC = np.stack([np.full(classes, 1 / classes), np.eye(classes)[0]])[None]
    np.testing.assert_allclose(kl_from_uniform(probs_NMC), [[0.0, np.log2(classes)]], atol=2e-5)
    np.testing.assert_allclose(kl_normalised(probs_NMC), [[0.0, 1.0]], atol=2e-6)


def test_kl_does_not_use_labels() -> None:
    probs_NMC = random_probs(1, 8, 2, 4)
    one, other = np.zeros(8, np.int64), np.full(8, 3)
    np.testing.assert_array_equal(score("kl", probs_NMC, one), score("kl", probs_NMC, other))


@examples(30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4), st.integers(2, 6))
def test_label_aware_scores_agree_with_a_loop(seed: int, samples: int, modalities: int, classes: int) -> None:
    probs_NMC = random_probs(seed, samples, modalities, classes)
    labels_N = np.random.default_rng(seed + 1).integers(0, classes, samples)
    true_NM, logarithm_NM = true_class(probs_NMC, labels_N), negative_cross_entropy(probs_NMC, labels_N)
    assert true_NM.shape == logarithm_NM.shape == (samples, modalities)
    for i in range(samples):
        for m in range(modalities):
            p = float(probs_NMC[i, m, labels_N[i]])
            assert true_NM[i, m] == p
            assert logarithm_NM[i, m] == pytest.approx(np.log(max(p, 1e-9)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_bytes", [1, 200, 10_000])
def test_chunked_equals_unchunked(name: ScoreName, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    probs_NMC, labels_N = random_probs(2, 37, 3, 5), np.arange(37) % 5
    whole_NM = score(name, probs_NMC, labels_N)
    monkeypatch.setattr(separability, "CHUNK_BYTES", chunk_bytes)
    np.testing.assert_array_equal(score(name, probs_NMC, labels_N), whole_NM)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_gives_the_same_scores(name: ScoreName) -> None:
    probs_NMC, labels_N = random_probs(3, 50, 2, 5), np.arange(50) % 5
    scores_NM = score(name, probs_NMC.astype(np.float32), labels_N)
    assert scores_NM.dtype == np.float64
    np.testing.assert_allclose(scores_NM, score(name, probs_NMC, labels_N), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_in_their_range_and_reach_its_bounds(name: ScoreName) -> None:
    classes = 5
    even, certain, wrong = np.full(classes, 0.2), np.eye(classes)[0], np.eye(classes)[1]
    probs_NMC = np.concatenate([random_probs(4, 99, 3, classes), np.stack([even, certain, wrong])[None]])
    scores_NM = score(name, probs_NMC, np.zeros(100, np.int64))
    low, high = score_range(name, classes)
    assert scores_NM.min() == pytest.approx(low, abs=1e-6)
    assert scores_NM.max() == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_better_predictions_have_higher_scores(name: ScoreName) -> None:
    unsure, sure = [0.4, 0.3, 0.3], [0.8, 0.1, 0.1]
    scores_NM = score(name, np.asarray([[unsure, sure]]), np.zeros(1, np.int64))
    assert scores_NM[0, 0] < scores_NM[0, 1]


def test_the_input_is_not_modified() -> None:
    probs_NMC = np.asarray([[[1.0, 0.0], [0.5, 0.5]]])
    kl_from_uniform(probs_NMC)
    np.testing.assert_array_equal(probs_NMC, [[[1.0, 0.0], [0.5, 0.5]]])


@pytest.mark.parametrize("name", ["kl", "kl_normalised", "cross_entropy"])
def test_scores_are_those_of_the_probabilities_clipped_to_their_range(name: ScoreName) -> None:
    """Rounding can move a probability a little above 1, and a score must not leave its range."""
    probs_NMC, labels_N = random_probs(5, 40, 2, 4), np.arange(40) % 4
    probs_NMC[::3] = np.eye(4)[labels_N[::3], None] * (1 + 1e-6)
    clipped_NMC = np.clip(probs_NMC, 1e-9, 1.0)
    np.testing.assert_array_equal(score(name, probs_NMC, labels_N), score(name, clipped_NMC, labels_N))
