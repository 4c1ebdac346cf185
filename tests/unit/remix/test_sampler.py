"""Ranks derive their batches from one schedule without communication"""

# T steps, B samples of one global batch, M modalities

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.remix import Assignment, Reassembly, World, rank_batches, reassemble
from remix_study.remix.schedule import Incomplete, Order
from tests.examples import examples

ORDERS: tuple[Order, ...] = ("blocks", "alternate", "shuffled", "proportional", "mixed")
INCOMPLETE: tuple[Incomplete, ...] = ("keep", "drop", "fill")
property_test = examples(60)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Schedule, int]:
    """Generate a schedule and the number of ranks. Each batch has at least one sample for each rank."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, modalities = draw(st.integers(1, 8)), draw(st.integers(2, 3))
    batch = size * draw(st.integers(1, 4))
    samples = draw(st.integers(1, 60))
    kind_N = rng.choice(
        modalities + 2, samples, p=rng.dirichlet(np.ones(modalities + 2))
    )  # the last two kinds are joint and unassigned
    assigned_NM = kind_N[:, None] == np.arange(modalities)
    how = Reassembly(
        draw(st.sampled_from(ORDERS)),
        tuple(rng.permutation(modalities).tolist()),
        batch,
        draw(st.sampled_from(INCOMPLETE)),
        smallest=draw(st.integers(size, batch)),
    )
    if how.order == "mixed":
        how = replace(how, accumulate=draw(st.booleans()))
    return reassemble(Assignment(assigned_NM, kind_N == modalities), how, rng), size


@property_test
@given(worlds())
def test_ranks_rebuild_the_global_schedule(case: tuple[Schedule, int]) -> None:
    schedule, size = case
    samples_TB = np.full_like(schedule.samples_TB, NO_SAMPLE)
    active_TBM = np.zeros_like(schedule.active_TBM)
    update_TB = np.full_like(schedule.samples_TB, NO_SAMPLE)
    for rank in range(size):
        for batch in rank_batches(schedule, World(rank, size)):
            columns = np.arange(rank, samples_TB.shape[1], size)[: len(batch.samples_b)]
            samples_TB[batch.step, columns] = batch.samples_b
            active_TBM[batch.step, columns] = batch.active_bM
            if batch.update_b is not None:
                update_TB[batch.step, columns] = batch.update_b
            assert batch.global_count == schedule.counts_T[batch.step]
    np.testing.assert_array_equal(samples_TB, schedule.samples_TB)
    np.testing.assert_array_equal(active_TBM, schedule.active_TBM)
    if schedule.update_TB is not None:
        np.testing.assert_array_equal(update_TB, schedule.update_TB)


@property_test
@given(worlds())
def test_ranks_have_equal_steps_and_balanced_batches(case: tuple[Schedule, int]) -> None:
    schedule, size = case
    ranks = [list(rank_batches(schedule, World(rank, size))) for rank in range(size)]
    assert {len(batches) for batches in ranks} == {schedule.steps}
    for steps in zip(*ranks, strict=True):
        lengths = [len(batch.samples_b) for batch in steps]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1
        assert sum(lengths) == steps[0].global_count
        for batch in steps:
            np.testing.assert_array_equal(batch.trained_M, steps[0].trained_M)


@property_test
@given(worlds(), st.integers(0, 12))
def test_a_resumed_rank_trains_the_remaining_batches(case: tuple[Schedule, int], first: int) -> None:
    schedule, size = case
    whole = list(rank_batches(schedule, World(size - 1, size)))
    rest = list(rank_batches(schedule, World(size - 1, size), first_step=first))
    assert [batch.step for batch in rest] == [batch.step for batch in whole[first:]]
    for one, other in zip(rest, whole[first:], strict=True):
        for name in ("samples_b", "active_bM", "trained_M", "global_count", "update_b"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@property_test
@given(worlds(), st.integers(1, 12))
def test_micro_batches_are_the_batch_in_even_pieces(case: tuple[Schedule, int], most: int) -> None:
    schedule, size = case
    for batch in rank_batches(schedule, World(0, size)):
        pieces = batch.split(most)
        lengths = [len(piece.samples_b) for piece in pieces]
        assert len(pieces) == -(-len(batch.samples_b) // most)
        assert max(lengths) <= most
        assert max(lengths) - min(lengths) <= 1
        for name in ("samples_b", "active_bM", *(() if schedule.update_TB is None else ("update_b",))):
            np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(batch, name))
        assert {(piece.step, piece.global_count) for piece in pieces} == {(batch.step, batch.global_count)}
        assert batch.split(None) == [batch]


def test_trained_modalities_are_those_of_all_ranks() -> None:
    """Rank 0 only has audio in this mixed batch, but must know that another rank trains video."""
    active_TBM = np.asarray([[[True, False], [False, True]]])
    schedule = Schedule(np.asarray([[3, 4]]), active_TBM)
    (batch,) = rank_batches(schedule, World(0, 2))
    assert batch.active_bM.tolist() == [[True, False]]
    assert batch.trained_M.tolist() == [True, True]
    assert batch.global_count == 2


def test_a_schedule_with_different_shapes_raises() -> None:
    with pytest.raises(ValueError, match="must start with"):
        Schedule(np.zeros((2, 3), np.int64), np.zeros((2, 4, 2), np.bool_))
    with pytest.raises(ValueError, match="update_TB must have shape"):
        Schedule(np.zeros((2, 3), np.int64), np.zeros((2, 3, 2), np.bool_), np.zeros((2, 4), np.int64))


def test_the_old_name_of_the_global_count_warns() -> None:
    schedule = Schedule(np.asarray([[3, 4]]), np.ones((1, 2, 2), np.bool_))
    (batch,) = rank_batches(schedule, World())
    with pytest.warns(DeprecationWarning, match="global_count"):
        assert batch.whole == 2
