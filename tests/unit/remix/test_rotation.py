"""Balanced rotation: exact numbers in every assignment, and every sample gets its due"""

# N training samples, M modalities

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.remix import Assignment, FixedShare, ProgressShare, RemixSettings, Rotation
from remix_study.remix.filtering import target_counts
from tests.examples import examples
from tests.unit.remix.test_plan import REASSEMBLY, FakeScorer, assert_same, build, run


def rotate(seen_NM: NDArray[np.int64], shares_M: NDArray[np.float64] | None, seed: int) -> Assignment:
    return Rotation(seen_NM)(np.zeros(seen_NM.shape), shares_M, np.random.default_rng(seed))


@examples(15)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**16))
def test_at_equal_shares_every_sample_trains_each_modality_once_in_every_round(
    modalities: int, each: int, seed: int
) -> None:
    seen_NM = np.zeros((modalities * each, modalities), np.int64)
    for turn in range(3 * modalities):
        assigned_NM = rotate(seen_NM, None, seed + turn).assigned_NM
        np.testing.assert_array_equal(assigned_NM.sum(axis=0), each)
        seen_NM += assigned_NM
        assert seen_NM.max() - seen_NM.min() == (0 if (turn + 1) % modalities == 0 else 1)


@examples(15)
@given(st.integers(2, 5), st.integers(1, 40), st.booleans(), st.integers(0, 2**16))
def test_counts_are_exact_and_every_sample_stays_close_to_its_due(
    modalities: int, samples: int, varying: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shares_M = rng.dirichlet(np.ones(modalities))
    seen_NM = np.zeros((samples, modalities), np.int64)
    for turn in range(12):
        shares_M = rng.dirichlet(np.ones(modalities)) if varying else shares_M
        assignment = rotate(seen_NM, shares_M, seed + turn)
        np.testing.assert_array_equal(assignment.assigned_NM.sum(axis=0), target_counts(samples, shares_M))
        assert (assignment.assigned_NM.sum(axis=1) == 1).all()
        seen_NM = seen_NM + assignment.assigned_NM
        due_M = seen_NM.sum(axis=0) / samples
        assert np.abs(seen_NM - due_M).max() < (1 if modalities <= 3 else 1.5)


def test_the_first_turn_is_drawn_uniformly() -> None:
    shares_M = np.asarray([0.25, 0.75])
    drawn = [rotate(np.zeros((8, 2), np.int64), shares_M, seed).assigned_NM[:, 0] for seed in range(600)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), 0.25, atol=0.07)
    assert np.mean([each[0] and each[1] for each in drawn]) == pytest.approx(2 / 8 * 1 / 7, abs=0.03)


@pytest.mark.parametrize("share", [None, FixedShare((0.3, 0.7)), ProgressShare()])
def test_a_rotation_that_resumes_assigns_the_same_samples(share: FixedShare | ProgressShare | None) -> None:
    settings = RemixSettings(
        warmup=1, score="kl", filter=Rotation(), how=REASSEMBLY, share=share, joint_share=0.2, rescore_every=2
    )
    whole, half, resumed = (build(settings) for _ in range(3))
    wanted = run(whole, FakeScorer(), range(9))
    run(half, FakeScorer(), range(4))
    resumed.restore(half.state())
    for one, other in zip(run(resumed, FakeScorer(), range(4, 9)), wanted[4:], strict=True):
        assert_same(one, other)
