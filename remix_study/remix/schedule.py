"""Reassembling: batches of one modality each, the same on every rank

Samples that share a group (one modality, or `joint`) are shuffled and cut into global batches; an order puts the
batches of all groups into one sequence:
    blocks        one group after the other, in training order (released: all video, then all audio); joint last
    alternate     one batch of each group in turn, until they run out
    shuffled      batches in random order
    proportional  every group spread evenly over the epoch
    mixed         no reassembly: samples of all groups share batches (the control)

A group's last batch is often incomplete: `keep` trains it as it is (released), `drop` leaves those samples out for
this epoch, `fill` tops it up with other samples of its group. A kept batch of fewer than `smallest` samples is topped
up to `smallest`, since BatchNorm statistics of a handful of clips are noise and every rank needs some of each batch.
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
    """`columns`: the M axis in training order. `batch`: samples of a global batch. `smallest` <= `batch`."""

    order: Order
    columns: tuple[int, ...]
    batch: int
    incomplete: Incomplete = "keep"
    smallest: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.batch:
            raise ValueError(f"`smallest` must be in 1..{self.batch} (the global batch), but is {self.smallest}")


@dataclass(frozen=True)
class _Group:
    samples: NDArray[np.int64]
    active_M: NDArray[np.bool_]


def reassemble(assignment: Assignment, how: Reassembly, draw: np.random.Generator) -> Schedule:
    """The schedule of one epoch for the whole world."""
    groups = _groups(assignment, how.columns)
    if how.order == "mixed":
        return _mixed(groups, assignment.assigned_NM.shape[1], how, draw)
    parts = [_cut(group, how, draw) for group in groups]
    sequence = _sequence([part.steps for part in parts], how.order, draw)
    samples_TB = np.concatenate([part.samples_TB for part in parts])[sequence]
    active_TBM = np.concatenate([part.active_TBM for part in parts])[sequence]
    return Schedule(samples_TB, active_TBM)


def _groups(assignment: Assignment, columns: Sequence[int]) -> list[_Group]:
    modalities = assignment.assigned_NM.shape[1]
    one_MM = np.eye(modalities, dtype=np.bool_)
    groups = [_Group(np.flatnonzero(assignment.assigned_NM[:, m]), one_MM[m]) for m in columns]
    return [*groups, _Group(np.flatnonzero(assignment.joint_N), np.ones(modalities, np.bool_))]


def _cut(group: _Group, how: Reassembly, draw: np.random.Generator) -> Schedule:
    samples = _completed(draw.permutation(group.samples), how, draw)
    steps = -(-len(samples) // how.batch)
    samples_TB = np.full((steps, how.batch), NO_SAMPLE, np.int64)
    samples_TB.reshape(-1)[: len(samples)] = samples
    active_TBM = (samples_TB != NO_SAMPLE)[:, :, None] & group.active_M
    return Schedule(samples_TB, active_TBM)


def _completed(samples: NDArray[np.int64], how: Reassembly, draw: np.random.Generator) -> NDArray[np.int64]:
    """`samples` as they will be cut into batches: without those of an incomplete batch, or with more for it."""
    rest = samples[len(samples) // how.batch * how.batch :]
    if len(rest) == 0:
        return samples
    if how.incomplete == "drop":
        return samples[: -len(rest)]
    wanted = how.batch if how.incomplete == "fill" else how.smallest
    return np.concatenate([samples, _more(samples, rest, wanted - len(rest), draw)])


def _more(
    samples: NDArray[np.int64], rest: NDArray[np.int64], wanted: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """`wanted` further samples of the group: first those not in `rest`, and again from the start if they run out."""
    if wanted <= 0:
        return rest[:0]
    others = draw.permutation(samples[: len(samples) - len(rest)])
    return np.resize(np.concatenate([others, rest]), wanted)


def _sequence(steps_G: list[int], order: Order, draw: np.random.Generator) -> NDArray[np.int64]:
    """Positions in the concatenation of all groups' batches, in the order in which they are trained."""
    total = sum(steps_G)
    group_T = np.repeat(np.arange(len(steps_G)), steps_G)
    turn_T = np.concatenate([np.arange(steps) for steps in steps_G]) if total else np.zeros(0, np.int64)
    match order:
        case "shuffled":
            return draw.permutation(total)
        case "alternate":
            return np.lexsort((group_T, turn_T))
        case "proportional":
            size_T = np.repeat(np.asarray(steps_G, dtype=np.float64), steps_G)
            return np.lexsort((group_T, (turn_T + 0.5) / np.maximum(size_T, 1)))
        case "blocks" | "mixed":
            return np.arange(total)


def _mixed(groups: list[_Group], modalities: int, how: Reassembly, draw: np.random.Generator) -> Schedule:
    """Rows of all groups in one pool: a sample that is in two groups comes twice."""
    samples = np.concatenate([group.samples for group in groups])
    active = np.concatenate([np.tile(group.active_M, (len(group.samples), 1)) for group in groups])
    pool = _cut(_Group(np.arange(len(samples)), np.ones(modalities, np.bool_)), how, draw).samples_TB
    full_TB = pool != NO_SAMPLE
    samples_TB = np.where(full_TB, samples[pool] if len(samples) else NO_SAMPLE, NO_SAMPLE)
    active_TBM = (
        np.where(full_TB[:, :, None], active[pool], False)
        if len(samples)
        else np.zeros((*pool.shape, modalities), np.bool_)
    )
    return Schedule(samples_TB, active_TBM)
