"""Detectors of uninformative samples: groups whose truth is known, and distributions that have no groups"""

# N training samples, M modalities, C classes

import numpy as np
import pytest

from remix_study.balancing.uninformative import DETECTORS, HeldOut, History, gains, highest, two_groups
from remix_study.epoch import SplitStatistics

C, N = 8, 400
IGNORANT = np.arange(N) < 80


def found_of(probability_NM: np.ndarray, labels_N: np.ndarray | None = None) -> SplitStatistics:
    """Statistics in which each modality gives these probabilities to the class of each sample."""
    rows = len(probability_NM)
    labels_N = np.arange(rows) % C if labels_N is None else labels_N
    return SplitStatistics(np.arange(rows), labels_N, np.ones(probability_NM.shape, np.bool_), -np.log(probability_NM))


def mixed(draw: np.random.Generator, ignorant_N: np.ndarray = IGNORANT) -> np.ndarray:
    """Probabilities of the true class: near 1/C where a modality is ignorant, else near 0.8."""
    known_N = draw.beta(16, 4, len(ignorant_N))
    return np.where(ignorant_N, draw.beta(4, 4 * (C - 1), len(ignorant_N)), known_N)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("modalities", [2, 3])
def test_the_ignorant_group_is_judged_and_only_in_its_modality(name: str, modalities: int) -> None:
    draw = np.random.default_rng(0)
    hard_NM = draw.beta(2, 3, (N, modalities))
    hard_NM[:, 0] = mixed(draw)
    judged_NM = DETECTORS[name](C).judge(found_of(hard_NM), found_of(hard_NM))
    assert judged_NM.shape == (N, modalities)
    assert np.mean(judged_NM[:, 0] == IGNORANT) > 0.99
    assert not judged_NM[:, 1:].any()


@pytest.mark.parametrize(
    "value_N",
    [
        np.random.default_rng(0).normal(0.3, 0.1, N),
        np.random.default_rng(0).uniform(-0.1, 0.9, N),
        np.random.default_rng(0).beta(2, 3, N) - 1 / C,
        np.zeros(N),
        np.where(IGNORANT, 0.45, 0.85),  # two groups, and each knows something
        np.where(IGNORANT, -0.12, 0.8),  # wrong, not ignorant
        np.zeros(1),
    ],
    ids=["normal", "uniform", "hard everywhere", "equal", "half known", "wrong", "one sample"],
)
def test_without_a_clear_ignorant_group_nothing_is_judged(value_N: np.ndarray) -> None:
    assert highest(value_N, C) == -np.inf


def test_what_lies_between_the_groups_is_not_judged() -> None:
    value_N = np.concatenate([np.zeros(100), [0.15, 0.3, 0.45], np.full(300, 0.8)])
    assert np.flatnonzero(value_N <= highest(value_N, C)).tolist() == list(range(101))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_with_the_largest_variance_between_them(seed: int) -> None:
    value_N = np.random.default_rng(seed).normal(size=40) ** 3
    groups = two_groups(value_N)
    assert groups is not None
    best = max(
        (
            (value_N <= t).mean()
            * (value_N > t).mean()
            * (value_N[value_N > t].mean() - value_N[value_N <= t].mean()) ** 2,
            t,
        )
        for t in sorted(value_N)[:-1]
    )
    assert groups.separation == pytest.approx(best[0] / value_N.var())
    assert (groups.lower, groups.upper) == pytest.approx(
        (value_N[value_N <= best[1]].mean(), value_N[value_N > best[1]].mean())
    )


def test_a_frequent_class_is_no_knowledge() -> None:
    labels_N = np.repeat([0, 1], [300, 100])
    prior_NM = np.where(labels_N == 0, 0.75, 0.25)[:, None]
    assert gains(found_of(prior_NM, labels_N), 2) == pytest.approx(0)


def test_samples_that_are_memorised_later_stay_judged() -> None:
    """The mean over the passes remembers when nobody had memorised them."""
    draw = np.random.default_rng(0)
    history = History(C)
    for epoch in range(6):
        p_N = np.where(IGNORANT, np.clip(1 / C + 0.08 * max(epoch - 3, 0), 0, 0.9), mixed(draw))
        judged_NM = history.judge(found_of(p_N[:, None]), None)
    assert judged_NM[:, 0].tolist() == IGNORANT.tolist()


def test_held_out_finds_no_groups_that_come_from_memory() -> None:
    """A hard modality has memorised a part of the training samples, and tells no control samples apart."""
    draw = np.random.default_rng(0)
    train = found_of(np.where(IGNORANT, draw.uniform(0.1, 0.2, N), draw.uniform(0.7, 0.9, N))[:, None])
    hard = found_of(draw.beta(2, 3, (80, 1)))
    assert History(C).judge(train, None).any()
    assert not HeldOut(C).judge(train, hard).any()
    mixed_control = found_of(mixed(draw, np.arange(80) < 16)[:, None])
    assert np.mean(HeldOut(C).judge(train, mixed_control)[:, 0] == IGNORANT) > 0.95


@pytest.mark.parametrize("name", DETECTORS)
def test_a_resumed_detector_judges_alike(name: str) -> None:
    draw = np.random.default_rng(0)
    passes = [found_of(np.stack([mixed(draw), draw.beta(2, 3, N)], axis=1)) for _ in range(3)]
    whole, resumed = DETECTORS[name](C), DETECTORS[name](C)
    for found in passes[:2]:
        whole.judge(found, found)
    resumed.restore(whole.state())
    assert resumed.judge(passes[2], passes[2]).tolist() == whole.judge(passes[2], passes[2]).tolist()
