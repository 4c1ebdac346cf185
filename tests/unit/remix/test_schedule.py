"""Reassembly: what every batch holds, who is in it how often, and in which order batches come"""

# N training samples, M modalities, T steps, B samples of one global batch, G groups (each modality, then joint)

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.remix import Assignment, Reassembly, everything_joint, reassemble
from remix_study.remix.schedule import Incomplete, Order

PURE: tuple[Order, ...] = ("blocks", "alternate", "shuffled", "proportional")
ORDERS: tuple[Order, ...] = (*PURE, "mixed")
INCOMPLETE: tuple[Incomplete, ...] = ("keep", "drop", "fill")
VIDEO_FIRST = (1, 0)
laws = settings(deadline=None, max_examples=80)

Key = tuple[int, tuple[bool, ...]]  # a sample, and the modalities it is trained through


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    """Any assignment: of one, several, all or no modalities, joint or not, even groups without samples."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, modalities = draw(st.integers(0, 50)), draw(st.integers(2, 4))
    assigned_NM = rng.random((samples, modalities)) < rng.random(modalities) * draw(st.sampled_from([0.0, 0.6, 1.0]))
    return Assignment(assigned_NM, rng.random(samples) < draw(st.sampled_from([0.0, 0.3])))


@st.composite
def ways(draw: st.DrawFn, orders: tuple[Order, ...] = ORDERS, modalities: int = 4) -> Reassembly:
    batch = draw(st.integers(1, 9))
    columns = tuple(draw(st.permutations(range(modalities))))
    return Reassembly(
        draw(st.sampled_from(orders)), columns, batch, draw(st.sampled_from(INCOMPLETE)), draw(st.integers(1, batch))
    )


def fitted(how: Reassembly, assignment: Assignment) -> Reassembly:
    modalities = assignment.assigned_NM.shape[1]
    return Reassembly(
        how.order, tuple(m for m in how.columns if m < modalities), how.batch, how.incomplete, how.smallest
    )


def groups(assignment: Assignment) -> list[list[Key]]:
    modalities = assignment.assigned_NM.shape[1]
    alone: list[list[Key]] = [
        [(i, tuple(k == m for k in range(modalities))) for i, row in enumerate(assignment.assigned_NM) if row[m]]
        for m in range(modalities)
    ]
    return [*alone, [(i, (True,) * modalities) for i, joint in enumerate(assignment.joint_N) if joint]]


def trained(schedule: Schedule) -> list[list[Key]]:
    return [
        [(int(i), tuple(bool(a) for a in active)) for i, active in zip(row, actives, strict=True) if i != NO_SAMPLE]
        for row, actives in zip(schedule.samples_TB, schedule.active_TBM, strict=True)
    ]


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@laws
@given(assignments(), ways(PURE))
def test_every_global_batch_holds_one_modality(assignment: Assignment, how: Reassembly) -> None:
    for row in trained(reassemble(assignment, fitted(how, assignment), dice())):
        assert len({active for _, active in row}) == 1


@laws
@given(assignments(), ways())
def test_rows_are_full_from_the_left_and_nothing_is_active_in_the_rest(assignment: Assignment, how: Reassembly) -> None:
    schedule = reassemble(assignment, fitted(how, assignment), dice())
    assert schedule.samples_TB.shape[1] == how.batch
    for row, count, active_BM in zip(schedule.samples_TB, schedule.counts_T, schedule.active_TBM, strict=True):
        assert count >= 1
        assert (row[:count] != NO_SAMPLE).all()
        assert (row[count:] == NO_SAMPLE).all()
        assert not active_BM[count:].any()
        assert active_BM[:count].any(axis=1).all()


@laws
@given(assignments(), ways())
def test_assigned_samples_are_conserved(assignment: Assignment, how: Reassembly) -> None:
    """keep, fill: each once, but for what tops up a group's last batch; drop: each at most once."""
    how = fitted(how, assignment)
    found = Counter(key for row in trained(reassemble(assignment, how, dice())) for key in row)
    kinds = groups(assignment)
    pools = [[key for kind in kinds for key in kind]] if how.order == "mixed" else kinds
    for pool in pools:
        rest = len(pool) % how.batch
        match how.incomplete:
            case "keep":
                total = len(pool) + (max(how.smallest - rest, 0) if rest else 0)
            case "fill":
                total = len(pool) + (how.batch - rest if rest else 0)
            case "drop":
                total = len(pool) - rest
        times = [found.pop(key, 0) for key in pool]
        assert sum(times) == total
        if how.incomplete == "drop":
            assert max(times, default=0) <= 1
        else:
            assert min(times, default=1) >= 1
            # Nobody comes a second time more often than needed.
            assert max(times, default=1) <= 1 + -(-(total - len(pool)) // max(len(pool), 1))
    assert not found


@laws
@given(assignments(), ways())
def test_a_batch_is_topped_up_first_with_samples_it_does_not_hold(assignment: Assignment, how: Reassembly) -> None:
    how = fitted(how, assignment)
    pools = [[*chain(*groups(assignment))]] if how.order == "mixed" else groups(assignment)
    size = {key: len(pool) for pool in pools for key in pool}
    for row in trained(reassemble(assignment, how, dice())):
        assert len(set(row)) == min(len(row), size[row[0]])


@laws
@given(assignments(), ways(), st.integers(0, 1000))
def test_the_same_dice_make_the_same_schedule(assignment: Assignment, how: Reassembly, seed: int) -> None:
    how = fitted(how, assignment)
    one, other = reassemble(assignment, how, dice(seed)), reassemble(assignment, how, dice(seed))
    np.testing.assert_array_equal(one.samples_TB, other.samples_TB)
    np.testing.assert_array_equal(one.active_TBM, other.active_TBM)


def sequence(order: Order, steps: tuple[int, int, int], seed: int = 0) -> list[str]:
    """The batches' modalities when audio, video and joint samples fill so many batches of two."""
    kind_N = np.repeat([0, 1, 2], np.asarray(steps) * 2)
    assignment = Assignment(kind_N[:, None] == np.arange(2), kind_N == 2)
    schedule = reassemble(assignment, Reassembly(order, VIDEO_FIRST, batch=2), dice(seed))
    names = {(True, False): "audio", (False, True): "video", (True, True): "joint"}
    return [names[bool(audio), bool(video)] for audio, video in schedule.modalities_TM]


def test_blocks_come_in_training_order_and_joint_last() -> None:
    assert sequence("blocks", (2, 3, 1)) == ["video"] * 3 + ["audio"] * 2 + ["joint"]


def test_blocks_skip_an_empty_group() -> None:
    assert sequence("blocks", (2, 0, 0)) == ["audio"] * 2


def test_alternate_takes_turns_until_groups_run_out() -> None:
    assert sequence("alternate", (1, 3, 2)) == ["video", "audio", "joint", "video", "joint", "video"]


def test_proportional_spreads_every_group_evenly() -> None:
    names = sequence("proportional", (2, 4, 0))
    assert names == ["video", "audio", "video", "video", "audio", "video"]


@laws
@given(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_proportional_keeps_every_beginning_in_proportion(steps: tuple[int, int, int]) -> None:
    names, total = sequence("proportional", steps), sum(steps)
    for group, count in zip(("audio", "video", "joint"), steps, strict=True):
        for end in range(1, total + 1):
            assert abs(names[:end].count(group) - count * end / total) < 1.5


def test_shuffled_keeps_the_batches_and_mixes_their_order() -> None:
    orders = [sequence("shuffled", (5, 5, 0), seed) for seed in range(20)]
    assert all(Counter(names) == {"audio": 5, "video": 5} for names in orders)
    assert len({tuple(names) for names in orders}) > 15


def test_mixed_puts_modalities_into_one_batch() -> None:
    assignment = Assignment(np.arange(40)[:, None] % 2 == np.arange(2), np.zeros(40, np.bool_))
    schedule = reassemble(assignment, Reassembly("mixed", VIDEO_FIRST, batch=10), dice())
    assert schedule.modalities_TM.all()
    assert (schedule.active_TBM.sum(axis=2) == 1).all()
    np.testing.assert_array_equal(schedule.active_TBM.argmax(axis=2), schedule.samples_TB % 2)


def test_samples_are_shuffled_within_their_group() -> None:
    schedule = reassemble(everything_joint(64, 2), Reassembly("blocks", VIDEO_FIRST, batch=64), dice())
    assert schedule.samples_TB[0].tolist() != list(range(64))
    assert sorted(schedule.samples_TB[0].tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("incomplete", "smallest", "counts"),
    [("keep", 1, [4, 1]), ("keep", 3, [4, 3]), ("drop", 2, [4]), ("fill", 2, [4, 4])],
)
def test_what_happens_to_an_incomplete_batch(incomplete: Incomplete, smallest: int, counts: list[int]) -> None:
    how = Reassembly("blocks", VIDEO_FIRST, 4, incomplete, smallest)
    assert reassemble(everything_joint(5, 2), how, dice()).counts_T.tolist() == counts


def test_a_group_smaller_than_the_smallest_batch_repeats_its_samples() -> None:
    how = Reassembly("blocks", VIDEO_FIRST, 8, smallest=5)
    row: NDArray[np.int64] = reassemble(everything_joint(2, 2), how, dice()).samples_TB[0]
    assert sorted(Counter(row[row != NO_SAMPLE].tolist()).values()) == [2, 3]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [0, 3])
def test_no_assigned_samples_give_no_steps(order: Order, samples: int) -> None:
    nothing = Assignment(np.zeros((samples, 2), np.bool_), np.zeros(samples, np.bool_))
    schedule = reassemble(nothing, Reassembly(order, VIDEO_FIRST, batch=4), dice())
    assert schedule.steps == 0
    assert schedule.active_TBM.shape == (0, 4, 2)


@pytest.mark.parametrize("smallest", [0, 5])
def test_smallest_must_fit_the_batch(smallest: int) -> None:
    with pytest.raises(ValueError, match=r"`smallest` must be in 1\.\.4"):
        Reassembly("blocks", VIDEO_FIRST, 4, smallest=smallest)
