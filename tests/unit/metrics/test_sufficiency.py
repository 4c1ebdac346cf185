"""Sufficiency ratios in worked examples; the probe on data with a known accuracy"""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from remix_study.metrics.sufficiency import (
    PROBE_GRID,
    chance_corrected,
    linear_probe,
    sufficiency_gap,
    sufficiency_ratio,
)

Split = tuple[NDArray[np.float64], NDArray[np.int64]]


def blobs(count: int, classes: int, spread: float, seed: int, dims: int = 6) -> Split:
    centres = np.random.default_rng(0).normal(size=(classes, dims))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return centres[labels] + spread * rng.normal(size=(count, dims)), labels


def test_ratios_in_a_worked_example() -> None:
    assert sufficiency_ratio(0.6, 0.8) == pytest.approx(0.75)
    assert sufficiency_gap(0.6, 0.8) == pytest.approx(20)
    assert chance_corrected(0.6, 0.8, 0.2) == pytest.approx(2 / 3)


def test_undefined_ratios_are_none() -> None:
    assert sufficiency_ratio(0.6, 0.0) is None
    assert chance_corrected(0.6, 0.2, 0.2) is None
    assert chance_corrected(0.1, 0.1, 0.2) is None


@pytest.mark.slow
def test_importing_the_metrics_does_not_import_scikit_learn() -> None:
    """Each process of a trial imports them, and scikit-learn with scipy.stats takes more than a second."""
    script = "import sys, remix_study.metrics; assert not {'sklearn', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_separable_features_are_probed_perfectly() -> None:
    result = linear_probe(*blobs(60, 3, 0.02, 1), *blobs(30, 3, 0.02, 2), *blobs(30, 3, 0.02, 3), seed=0)
    assert result.accuracy == 1
    assert PROBE_GRID.index(result.C) == 0  # of equally good penalties, the strongest


def test_noise_is_probed_at_chance() -> None:
    rng = np.random.default_rng(0)
    train, val, test = ((rng.normal(size=(n, 4)), rng.integers(0, 4, size=n)) for n in (300, 300, 1000))
    assert linear_probe(*train, *val, *test, seed=0).accuracy == pytest.approx(0.25, abs=0.06)


def test_the_penalty_is_the_best_on_val_of_separate_fits() -> None:
    train, val, test = (blobs(n, 5, 1.2, seed, dims=20) for n, seed in ((60, 1), (200, 2), (200, 3)))
    mean, std = train[0].mean(0), train[0].std(0)
    accuracies = {}
    for C in PROBE_GRID:
        model = LogisticRegression(C=C, max_iter=5000).fit((train[0] - mean) / std, train[1])
        accuracies[C] = [float(np.mean(model.predict((x - mean) / std) == y)) for x, y in (val, test)]
    best = max(PROBE_GRID, key=lambda C: (accuracies[C][0], -C))
    result = linear_probe(*train, *val, *test, seed=0)
    assert pytest.approx(best) == result.C
    assert result.accuracy == pytest.approx(
        accuracies[best][1], abs=0.011
    )  # warm starts may stop at another point of a flat optimum


def test_scale_and_constant_features_do_not_matter() -> None:
    train, val, test = (blobs(n, 3, 0.8, seed) for n, seed in ((60, 1), (60, 2), (60, 3)))
    scale = np.array([1e-4, 1e4, 1, 3, 1, 1])

    def changed(split: Split) -> Split:
        features = np.hstack([split[0] * scale + 5, np.ones((60, 1))])
        return features, split[1]

    plain = linear_probe(*train, *val, *test, seed=0)
    other = linear_probe(*changed(train), *changed(val), *changed(test), seed=0)
    assert (other.accuracy, other.C) == (plain.accuracy, plain.C)


def test_the_probe_is_deterministic() -> None:
    splits = (*blobs(80, 4, 1.0, 1), *blobs(80, 4, 1.0, 2), *blobs(80, 4, 1.0, 3))
    for one, other in zip(linear_probe(*splits, seed=5), linear_probe(*splits, seed=5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_classes_may_be_missing() -> None:
    train, val, test = (blobs(n, 4, 0.02, seed) for n, seed in ((80, 1), (40, 2), (40, 3)))
    some = np.isin(train[1], [0, 2, 3])
    probe = linear_probe(train[0][some], train[1][some], *val, *test, seed=0)
    assert probe.accuracy == pytest.approx(0.75)
    assert probe.classes_K.tolist() == [0, 2, 3]
    for logs_NK, labels_N in ((probe.val_logs_NK, val[1]), (probe.eval_logs_NK, test[1])):
        assert (probe.classes_K[logs_NK.argmax(axis=1)] == labels_N)[labels_N != 1].all()
    some = val[1] > 0
    assert linear_probe(*train, val[0][some], val[1][some], *test, seed=0).accuracy == 1
    one = train[1] == 2
    alone = linear_probe(train[0][one], train[1][one], *val, *test, seed=0)
    assert alone.accuracy == pytest.approx(0.25)
    assert (alone.classes_K.tolist(), alone.val_logs_NK.shape, alone.eval_logs_NK.shape) == ([2], (40, 1), (40, 1))


def test_half_precision_features_are_accepted() -> None:
    train, val, test = (blobs(60, 3, 0.02, seed) for seed in (1, 2, 3))
    x, v, t = (split[0].astype(np.float16) for split in (train, val, test))
    assert linear_probe(x, train[1], v, val[1], t, test[1], seed=0).accuracy == 1


def test_invalid_features_raise() -> None:
    train, val, test = (blobs(6, 3, 0.1, seed) for seed in (1, 2, 3))
    with pytest.raises(ValueError, match="val split must have as many labels as features, and at least one"):
        linear_probe(*train, val[0][:0], val[1][:0], *test, seed=0)
    train[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="train split has NaN"):
        linear_probe(*train, *val, *test, seed=0)


def test_each_sample_is_classified_without_the_others_of_its_split() -> None:
    """The probe learns nothing from the evaluation split: neither its scale nor its labels."""
    train, val, test = (blobs(n, 4, 1.0, seed) for n, seed in ((80, 1), (40, 2), (60, 3)))
    order = np.argsort(test[0][:, 0])  # parts with other means than the whole
    whole = linear_probe(*train, *val, *test, seed=0)
    parts = [linear_probe(*train, *val, test[0][rows], test[1][rows], seed=0) for rows in np.split(order, 6)]
    assert {part.C for part in parts} == {whole.C}
    assert np.mean([part.accuracy for part in parts]) == pytest.approx(whole.accuracy)
