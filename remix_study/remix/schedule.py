"""Reassembling: form batches of one modality each, identical on every rank

The samples of each group (one modality, or `joint`) are shuffled and split into global batches. They are sorted by one
random number per sample, which depends on the seed and the epoch only. All methods of a study therefore see the samples
of an epoch in the same order, and a sample that changes its group moves the others by one place at most. `order` sorts
the batches of all groups:
    blocks        one group after the other, in training order (released: all video, then all audio); joint last
    alternate     one batch of each group in turn, until none is left
    shuffled      batches in random order
    proportional  the batches of every group spread evenly over the epoch
    mixed         control without reassembly: a batch has samples of all groups

The last batch of a group is often incomplete: `keep` trains it as it is (released), `drop` skips its samples in this
epoch, `fill` adds other samples of the group. A kept batch of fewer than `smallest` samples is filled up to `smallest`,
since BatchNorm needs more than a few samples and every rank needs at least one.

With `accumulate`, `mixed` differs from `blocks` only in the order of the samples. Every encoder is updated with the
gradient of the batches that it has in `blocks`, which are then spread over several steps (`Schedule.update_TB`).
"""

# N training samples, M modalities, T steps, B samples of one global batch

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.remix.assignment import Assignment

Order = Literal["blocks", "alternate", "shuffled", "proportional", "mixed"]
Incomplete = Literal["keep", "drop", "fill"]


@dataclass(frozen=True)
class Reassembly:
    """How batches are formed.

    Args:
        order: see the module docstring.
        columns: columns of the M axis in training order.
        batch: samples of a global batch.
        incomplete: what happens to the last batch of a group.
        smallest: least number of samples of a kept batch, in 1..batch.
        accumulate: with `mixed` only: update encoders with the batches of `blocks`.

    Raises:
        ValueError: `smallest` is out of range, or `accumulate` is given with another order than `mixed`.
    """

    order: Order
    columns: tuple[int, ...]
    batch: int
    incomplete: Incomplete = "keep"
    smallest: int = 2
    accumulate: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.batch:
            raise ValueError(f"`smallest` must be in 1..{self.batch} (the global batch), but is {self.smallest}")
        if self.accumulate and self.order != "mixed":
            raise ValueError(f"`accumulate` needs the order `mixed`, but the order is `{self.order}`")


@dataclass(frozen=True)
class _Group:
    samples: NDArray[np.int64]
    active_M: NDArray[np.bool_]


def reassemble(assignment: Assignment, how: Reassembly, draw: np.random.Generator) -> Schedule:
    """Return the schedule of one epoch, for all ranks.

    Args:
        assignment: the modalities that each sample trains.
        how: how batches are formed.
        draw: generator of the seed and the epoch, from which nothing has been drawn.
    """
    key_N = draw.random(len(assignment.joint_N))
    groups = _groups(assignment, how.columns)
    if how.order == "mixed" and not how.accumulate:
        return _mixed(groups, how, key_N, draw)
    parts = [_cut(group, how, key_N[group.samples]) for group in groups]
    if how.accumulate and sum(part.steps > 0 for part in parts) > 1:
        return _accumulated(parts, [key_N[group.samples] for group in groups], how, draw)
    sequence = _sequence([part.steps for part in parts], how.order, -(-len(key_N) // how.batch), draw)
    samples_TB = np.concatenate([part.samples_TB for part in parts])[sequence]
    active_TBM = np.concatenate([part.active_TBM for part in parts])[sequence]
    return Schedule(samples_TB, active_TBM)


def _groups(assignment: Assignment, columns: Sequence[int]) -> list[_Group]:
    modalities = assignment.assigned_NM.shape[1]
    one_MM = np.eye(modalities, dtype=np.bool_)
    groups = [_Group(np.flatnonzero(assignment.assigned_NM[:, m]), one_MM[m]) for m in columns]
    return [*groups, _Group(np.flatnonzero(assignment.joint_N), np.ones(modalities, np.bool_))]


def _cut(group: _Group, how: Reassembly, key_n: NDArray[np.float64]) -> Schedule:
    """Split a group into batches, in the order of one key per sample of the group."""
    samples = _completed(group.samples[np.argsort(key_n, kind="stable")], how)
    steps = -(-len(samples) // how.batch)
    samples_TB = np.full((steps, how.batch), NO_SAMPLE, np.int64)
    samples_TB.reshape(-1)[: len(samples)] = samples
    active_TBM = (samples_TB != NO_SAMPLE)[:, :, None] & group.active_M
    return Schedule(samples_TB, active_TBM)


def _completed(samples: NDArray[np.int64], how: Reassembly) -> NDArray[np.int64]:
    """`samples` without the incomplete batch (`drop`), or with samples added to it."""
    rest = samples[len(samples) // how.batch * how.batch :]
    if len(rest) == 0:
        return samples
    if how.incomplete == "drop":
        return samples[: -len(rest)]
    wanted = how.batch if how.incomplete == "fill" else how.smallest
    return np.concatenate([samples, _more(samples, rest, wanted - len(rest))])


def _more(samples: NDArray[np.int64], rest: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """`wanted` more samples of the group, the first in its order: those not in `rest`, repeated if too few."""
    # In random order already, so the first are a random choice.
    return np.resize(samples, wanted) if wanted > 0 else rest[:0]


def _sequence(steps_G: list[int], order: Order, most: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Positions in the concatenated batches of all groups, in training order. A group has at most `most` batches."""
    total = sum(steps_G)
    group_T = np.repeat(np.arange(len(steps_G)), steps_G)
    turn_T = np.concatenate([np.arange(steps) for steps in steps_G]) if total else np.zeros(0, np.int64)
    match order:
        case "shuffled":
            # Also by a key per batch, so that the order does not depend on the number of batches of other groups.
            return np.argsort(draw.random((len(steps_G), most))[group_T, turn_T], kind="stable")
        case "alternate":
            return np.lexsort((group_T, turn_T))
        case "proportional":
            size_T = np.repeat(np.asarray(steps_G, dtype=np.float64), steps_G)
            return np.lexsort((group_T, (turn_T + 0.5) / np.maximum(size_T, 1)))
        case "blocks" | "mixed":
            return np.arange(total)


def _mixed(
    groups: list[_Group],
    how: Reassembly,
    key_N: NDArray[np.float64],
    draw: np.random.Generator,
) -> Schedule:
    """Batches from all groups together; a sample that is in two groups occurs twice."""
    samples = np.concatenate([group.samples for group in groups])
    first = np.zeros(len(samples), np.bool_)
    first[np.unique(samples, return_index=True)[1]] = True
    # Another key where a sample occurs again, or both occurrences would be neighbours.
    again_GN = draw.random((len(groups), len(key_N)))
    group_n = np.repeat(np.arange(len(groups)), [len(group.samples) for group in groups])
    key_n = np.where(first, key_N[samples], again_GN[group_n, samples])
    active = np.concatenate([np.tile(group.active_M, (len(group.samples), 1)) for group in groups])
    return mix(samples, active, key_n, how)


def mix(samples: NDArray[np.int64], active: NDArray[np.bool_], key_n: NDArray[np.float64], how: Reassembly) -> Schedule:
    """Batches of samples that train different modalities, in the order of one key per occurrence of a sample.

    Args:
        samples: the sample of each occurrence.
        active: bool, the modalities that each occurrence trains; one row per occurrence.
        key_n: a random number per occurrence.
        how: how batches are formed.
    """
    modalities = active.shape[1]
    pool = _cut(_Group(np.arange(len(samples)), np.ones(modalities, np.bool_)), how, key_n).samples_TB
    full_TB = pool != NO_SAMPLE
    samples_TB = np.where(full_TB, samples[pool] if len(samples) else NO_SAMPLE, NO_SAMPLE)
    active_TBM = (
        np.where(full_TB[:, :, None], active[pool], False)
        if len(samples)
        else np.zeros((*pool.shape, modalities), np.bool_)
    )
    return Schedule(samples_TB, active_TBM)


def _accumulated(
    parts: list[Schedule], keys: list[NDArray[np.float64]], how: Reassembly, draw: np.random.Generator
) -> Schedule:
    """Mix the samples of pure batches, which become updates. The samples of a group keep their order.

    Args:
        parts: the batches of each group.
        keys: for each group, one key per sample of the group.
    """
    pure = Schedule(np.concatenate([p.samples_TB for p in parts]), np.concatenate([p.active_TBM for p in parts]))
    held_TB = pure.samples_TB != NO_SAMPLE
    key_n = np.concatenate([_sorted_keys(p, key_n, draw) for p, key_n in zip(parts, keys, strict=True)])
    order = np.argsort(key_n, kind="stable")
    full_TB = np.arange(how.batch) < _even_end(len(order), how)[:, None]
    samples_TB, update_TB = (np.full(full_TB.shape, NO_SAMPLE, np.int64) for _ in range(2))
    active_TBM = np.zeros((*full_TB.shape, pure.active_TBM.shape[2]), np.bool_)
    samples_TB[full_TB] = pure.samples_TB[held_TB][order]
    update_TB[full_TB] = np.nonzero(held_TB)[0][order]
    active_TBM[full_TB] = pure.active_TBM[held_TB][order]
    return Schedule(samples_TB, active_TBM, update_TB)


def _sorted_keys(part: Schedule, key_n: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """The keys of a group in ascending order, with new ones for the samples added to its last batch."""
    total = int(part.counts_T.sum())
    return np.sort(np.concatenate([key_n, draw.random(max(0, total - len(key_n)))]))[:total]


def _even_end(total: int, how: Reassembly) -> NDArray[np.int64]:
    """Sizes of the batches of `total` samples. The last two are of equal size if the last would be below `smallest`.

    Samples added to it would change the updates. A batch that is at least twice the number of ranks can be halved; any
    other equals `smallest`, so that it is always complete.
    """
    steps = -(-total // how.batch)
    count_T = np.full(steps, how.batch)
    count_T[-1] = total - (steps - 1) * how.batch
    if steps > 1 and count_T[-1] < how.smallest:
        both = how.batch + count_T[-1]
        count_T[-2:] = (both + 1) // 2, both // 2
    return count_T
