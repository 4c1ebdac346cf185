"""Reassembly: the contents of batches, repeated samples, and the order of batches"""

# N training samples, M modalities, T steps, B samples of one global batch, G groups (each modality, then joint)

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.remix import Assignment, Reassembly, everything_joint, reassemble
from remix_study.remix.schedule import Incomplete, Order
from tests.examples import examples

PURE: tuple[Order, ...] = ("blocks", "alternate", "shuffled", "proportional")
ORDERS: tuple[Order, ...] = (*PURE, "mixed")
INCOMPLETE: tuple[Incomplete, ...] = ("keep", "drop", "fill")
VIDEO_FIRST = (1, 0)
property_test = examples(80)

Key = tuple[int, tuple[bool, ...]]  # (sample, active modalities)


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    """Generate assignments with any number of modalities per sample, joint samples and empty groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, modalities = draw(st.integers(0, 50)), draw(st.integers(2, 4))
    assigned_NM = rng.random((samples, modalities)) < rng.random(modalities) * draw(st.sampled_from([0.0, 0.6, 1.0]))
    return Assignment(assigned_NM, rng.random(samples) < draw(st.sampled_from([0.0, 0.3])))


@st.composite
def reassemblies(draw: st.DrawFn, orders: tuple[Order, ...] = ORDERS, modalities: int = 4) -> Reassembly:
    """Generate settings of the reassembly; see `fitted` for fewer modalities."""
    batch = draw(st.integers(1, 9))
    columns = tuple(draw(st.permutations(range(modalities))))
    return Reassembly(
        draw(st.sampled_from(orders)), columns, batch, draw(st.sampled_from(INCOMPLETE)), draw(st.integers(1, batch))
    )


def fitted(how: Reassembly, assignment: Assignment) -> Reassembly:
    """Return the same settings for the number of modalities of the assignment."""
    modalities = assignment.assigned_NM.shape[1]
    return Reassembly(
        how.order, tuple(m for m in how.columns if m < modalities), how.batch, how.incomplete, how.smallest
    )


def groups(assignment: Assignment) -> list[list[Key]]:
    """Return the samples assigned to each modality, and then the joint ones."""
    modalities = assignment.assigned_NM.shape[1]
    alone: list[list[Key]] = [
        [(i, tuple(k == m for k in range(modalities))) for i, row in enumerate(assignment.assigned_NM) if row[m]]
        for m in range(modalities)
    ]
    return [*alone, [(i, (True,) * modalities) for i, joint in enumerate(assignment.joint_N) if joint]]


def trained(schedule: Schedule) -> list[list[Key]]:
    """Return the samples of each batch."""
    return [
        [(int(i), tuple(bool(a) for a in active)) for i, active in zip(row, actives, strict=True) if i != NO_SAMPLE]
        for row, actives in zip(schedule.samples_TB, schedule.active_TBM, strict=True)
    ]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@property_test
@given(assignments(), reassemblies(PURE))
def test_every_global_batch_holds_one_modality(assignment: Assignment, how: Reassembly) -> None:
    for row in trained(reassemble(assignment, fitted(how, assignment), generator())):
        assert len({active for _, active in row}) == 1


@property_test
@given(assignments(), reassemblies())
def test_rows_are_filled_from_the_left_and_padding_is_inactive(assignment: Assignment, how: Reassembly) -> None:
    schedule = reassemble(assignment, fitted(how, assignment), generator())
    assert schedule.samples_TB.shape[1] == how.batch
    for row, count, active_BM in zip(schedule.samples_TB, schedule.counts_T, schedule.active_TBM, strict=True):
        assert count >= 1
        assert (row[:count] != NO_SAMPLE).all()
        assert (row[count:] == NO_SAMPLE).all()
        assert not active_BM[count:].any()
        assert active_BM[:count].any(axis=1).all()


@property_test
@given(assignments(), reassemblies())
def test_assigned_samples_are_conserved(assignment: Assignment, how: Reassembly) -> None:
    """keep, fill: each once, except for samples that fill up the last batch of a group; drop: each at most once."""
    how = fitted(how, assignment)
    found = Counter(key for row in trained(reassemble(assignment, how, generator())) for key in row)
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
            # Samples are repeated as evenly as possible.
            assert max(times, default=1) <= 1 + -(-(total - len(pool)) // max(len(pool), 1))
    assert not found


@property_test
@given(assignments(), reassemblies())
def test_a_batch_is_filled_up_with_samples_it_does_not_contain_first(assignment: Assignment, how: Reassembly) -> None:
    how = fitted(how, assignment)
    pools = [[*chain(*groups(assignment))]] if how.order == "mixed" else groups(assignment)
    size = {key: len(pool) for pool in pools for key in pool}
    for row in trained(reassemble(assignment, how, generator())):
        assert len(set(row)) == min(len(row), size[row[0]])


@property_test
@given(assignments(), reassemblies(), st.integers(0, 1000))
def test_the_same_seed_gives_the_same_schedule(assignment: Assignment, how: Reassembly, seed: int) -> None:
    how = fitted(how, assignment)
    one, other = reassemble(assignment, how, generator(seed)), reassemble(assignment, how, generator(seed))
    np.testing.assert_array_equal(one.samples_TB, other.samples_TB)
    np.testing.assert_array_equal(one.active_TBM, other.active_TBM)


def sequence(order: Order, steps: tuple[int, int, int], seed: int = 0) -> list[str]:
    """Return the modality of each batch. `steps` are the numbers of two-sample batches of audio, video and joint."""
    kind_N = np.repeat([0, 1, 2], np.asarray(steps) * 2)
    assignment = Assignment(kind_N[:, None] == np.arange(2), kind_N == 2)
    schedule = reassemble(assignment, Reassembly(order, VIDEO_FIRST, batch=2), generator(seed))
    names = {(True, False): "audio", (False, True): "video", (True, True): "joint"}
    return [names[bool(audio), bool(video)] for audio, video in schedule.modalities_TM]


def test_blocks_are_in_training_order_with_joint_last() -> None:
    assert sequence("blocks", (2, 3, 1)) == ["video"] * 3 + ["audio"] * 2 + ["joint"]


def test_blocks_skip_an_empty_group() -> None:
    assert sequence("blocks", (2, 0, 0)) == ["audio"] * 2


def test_alternate_takes_turns_until_groups_run_out() -> None:
    assert sequence("alternate", (1, 3, 2)) == ["video", "audio", "joint", "video", "joint", "video"]


def test_proportional_spreads_every_group_evenly() -> None:
    names = sequence("proportional", (2, 4, 0))
    assert names == ["video", "audio", "video", "video", "audio", "video"]


@property_test
@given(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_every_prefix_of_proportional_is_in_proportion(steps: tuple[int, int, int]) -> None:
    names, total = sequence("proportional", steps), sum(steps)
    for group, count in zip(("audio", "video", "joint"), steps, strict=True):
        for end in range(1, total + 1):
            assert abs(names[:end].count(group) - count * end / total) < 1.5


def test_shuffled_keeps_batches_and_shuffles_their_order() -> None:
    orders = [sequence("shuffled", (5, 5, 0), seed) for seed in range(20)]
    assert all(Counter(names) == {"audio": 5, "video": 5} for names in orders)
    assert len({tuple(names) for names in orders}) > 15


def test_mixed_puts_modalities_into_one_batch() -> None:
    assignment = Assignment(np.arange(40)[:, None] % 2 == np.arange(2), np.zeros(40, np.bool_))
    schedule = reassemble(assignment, Reassembly("mixed", VIDEO_FIRST, batch=10), generator())
    assert schedule.modalities_TM.all()
    assert (schedule.active_TBM.sum(axis=2) == 1).all()
    np.testing.assert_array_equal(schedule.active_TBM.argmax(axis=2), schedule.samples_TB % 2)


def test_samples_are_shuffled_within_their_group() -> None:
    schedule = reassemble(everything_joint(64, 2), Reassembly("blocks", VIDEO_FIRST, batch=64), generator())
    assert schedule.samples_TB[0].tolist() != list(range(64))
    assert sorted(schedule.samples_TB[0].tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("incomplete", "smallest", "counts"),
    [("keep", 1, [4, 1]), ("keep", 3, [4, 3]), ("drop", 2, [4]), ("fill", 2, [4, 4])],
)
def test_an_incomplete_batch_is_kept_dropped_or_filled(
    incomplete: Incomplete, smallest: int, counts: list[int]
) -> None:
    how = Reassembly("blocks", VIDEO_FIRST, 4, incomplete, smallest)
    assert reassemble(everything_joint(5, 2), how, generator()).counts_T.tolist() == counts


def test_a_group_smaller_than_the_smallest_batch_repeats_its_samples() -> None:
    how = Reassembly("blocks", VIDEO_FIRST, 8, smallest=5)
    row: NDArray[np.int64] = reassemble(everything_joint(2, 2), how, generator()).samples_TB[0]
    assert sorted(Counter(row[row != NO_SAMPLE].tolist()).values()) == [2, 3]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [0, 3])
def test_no_assigned_samples_give_no_steps(order: Order, samples: int) -> None:
    nothing = Assignment(np.zeros((samples, 2), np.bool_), np.zeros(samples, np.bool_))
    schedule = reassemble(nothing, Reassembly(order, VIDEO_FIRST, batch=4), generator())
    assert schedule.steps == 0
    assert schedule.active_TBM.shape == (0, 4, 2)


@pytest.mark.parametrize("smallest", [0, 5])
def test_smallest_must_fit_the_batch(smallest: int) -> None:
    with pytest.raises(ValueError, match=r"`smallest` must be in 1\.\.4"):
        Reassembly("blocks", VIDEO_FIRST, 4, smallest=smallest)


def shuffled_batches(assignment: Assignment, order: Order) -> list[set[int]]:
    how = Reassembly(order, VIDEO_FIRST, batch=16)
    return [set(row) - {NO_SAMPLE} for row in reassemble(assignment, how, generator(5)).samples_TB.tolist()]


@pytest.mark.parametrize("order", ["blocks", "alternate", "shuffled", "proportional", "mixed"])
def test_one_changed_decision_keeps_the_other_samples_in_their_batches(order: Order) -> None:
    """The sample that changes moves later samples of both groups by one place."""
    audio_N = generator(1).random(320) < 0.5
    changed_N = audio_N.copy()
    changed_N[7] = ~changed_N[7]
    one, other = (
        shuffled_batches(Assignment(np.stack([audio, ~audio], axis=1), np.zeros(320, np.bool_)), order)
        for audio in (audio_N, changed_N)
    )
    kept = sum(max(len(batch & again) for again in other) for batch in one)
    assert kept >= 320 - 2 * len(one)


def test_all_assignments_see_the_samples_of_an_epoch_in_the_same_order() -> None:
    """So two methods of a study differ in the modalities that a sample trains, and not in the order of the samples."""
    audio_N = generator(1).random(64) < 0.5
    each = Assignment(np.stack([audio_N, ~audio_N], axis=1), np.zeros(64, np.bool_))
    how = Reassembly("blocks", VIDEO_FIRST, batch=1, smallest=1)
    joint, split = (
        reassemble(assignment, how, generator(2)).samples_TB[:, 0] for assignment in (everything_joint(64, 2), each)
    )
    for members_N in (audio_N, ~audio_N):
        assert joint[members_N[joint]].tolist() == split[members_N[split]].tolist()


def test_the_two_occurrences_of_a_sample_in_mixed_batches_are_apart() -> None:
    both = Assignment(np.ones((400, 2), np.bool_), np.zeros(400, np.bool_))
    schedule = reassemble(both, Reassembly("mixed", VIDEO_FIRST, batch=1, smallest=1), generator(3))
    samples = schedule.samples_TB[:, 0]
    assert np.bincount(samples).tolist() == [2] * 400
    distance = [abs(int(np.subtract(*np.flatnonzero(samples == i)))) for i in range(400)]
    assert 200 < np.mean(distance) < 330  # a third of 800, as for two random places


@pytest.mark.parametrize("order", PURE)
def test_the_batches_of_a_group_do_not_depend_on_other_groups(order: Order) -> None:
    """Neither their samples nor their order changes if the samples of another group rest instead."""
    kind_N = generator(1).permutation(np.repeat([0, 1, 2], [40, 30, 50]))
    alone_NM = kind_N[:, None] == np.arange(2)
    how = Reassembly(order, VIDEO_FIRST, batch=8)
    for seed in range(5):
        with_joint, without = (
            trained(reassemble(Assignment(alone_NM, joint_N), how, generator(seed)))
            for joint_N in (kind_N == 2, np.zeros(120, np.bool_))
        )
        assert [row for row in with_joint if row[0][1] != (True, True)] == without


# --- accumulated updates ---------------------------------------------------------------------------------------------


def updates(schedule: Schedule) -> list[list[Key]]:
    """Return the samples of each update, in the order in which they are trained."""
    if schedule.update_TB is None:
        return trained(schedule)
    found: dict[int, list[Key]] = {}
    for key, update in zip(
        chain(*trained(schedule)), schedule.update_TB[schedule.samples_TB != NO_SAMPLE], strict=True
    ):
        found.setdefault(int(update), []).append(key)
    return [found[update] for update in sorted(found)]


def accumulated(assignment: Assignment, how: Reassembly) -> Schedule:
    return reassemble(assignment, replace(how, order="mixed", accumulate=True), generator())


@property_test
@given(assignments(), reassemblies())
def test_accumulated_updates_are_the_batches_of_blocks(assignment: Assignment, how: Reassembly) -> None:
    """Each has the same samples in the same order, so that their number and their sizes are the same, too."""
    how = fitted(how, assignment)
    blocks = reassemble(assignment, replace(how, order="blocks"), generator())
    schedule = accumulated(assignment, how)
    assert updates(schedule) == trained(blocks)
    assert schedule.updates_M.tolist() == blocks.updates_M.tolist()
    assert Counter(chain(*trained(schedule))) == Counter(chain(*trained(blocks)))


@property_test
@given(assignments(), reassemblies(("mixed",)))
def test_the_steps_of_accumulated_updates_are_full(assignment: Assignment, how: Reassembly) -> None:
    """As many samples as in `blocks`, in as few steps as possible, of which none is small."""
    how = fitted(how, assignment)
    count_T = accumulated(assignment, how).counts_T
    assert len(count_T) == -(-count_T.sum() // how.batch)
    assert (count_T[:-2] == how.batch).all()
    assert (count_T >= min(how.smallest, how.batch // 2)).all()


@property_test
@given(assignments(), st.integers(1, 9))
def test_only_added_samples_distinguish_the_steps_from_those_of_mixed(assignment: Assignment, batch: int) -> None:
    once = Assignment(assignment.assigned_NM & ~assignment.joint_N[:, None], assignment.joint_N)
    first_NM = np.cumsum(once.assigned_NM, axis=1) == 1
    once = Assignment(once.assigned_NM & first_NM, once.joint_N)
    how = fitted(Reassembly("mixed", tuple(range(4)), batch, smallest=1), once)
    one, other = accumulated(once, how), reassemble(once, how, generator())
    np.testing.assert_array_equal(one.samples_TB, other.samples_TB)
    np.testing.assert_array_equal(one.active_TBM, other.active_TBM)


@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_the_warm_up_has_no_accumulated_updates(incomplete: Incomplete) -> None:
    how = Reassembly("mixed", VIDEO_FIRST, batch=8, incomplete=incomplete, smallest=5)
    one, other = accumulated(everything_joint(50, 2), how), reassemble(everything_joint(50, 2), how, generator())
    assert one.update_TB is None
    np.testing.assert_array_equal(one.samples_TB, other.samples_TB)
    np.testing.assert_array_equal(one.active_TBM, other.active_TBM)


@pytest.mark.parametrize("order", PURE)
def test_only_mixed_batches_accumulate(order: Order) -> None:
    with pytest.raises(ValueError, match=f"needs the order `mixed`, but the order is `{order}`"):
        Reassembly(order, VIDEO_FIRST, 4, accumulate=True)
