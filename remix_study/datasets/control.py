"""The control split: training samples on which no method trains

Some methods read held-out data while they train. Neither the validation split, which chooses epochs and trials, nor the
test split may change the weights, so these methods read a part of the training split. All methods of a study leave the
same samples out of their training.

A group of clips stays together, because clips of one group depend on each other. Both parts have every class where the
groups allow it; if not, training has it. The result depends on the seed, the fraction, and the labels and groups of the
training split in their order.
"""

# N training samples, C classes

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.media.store import ClipStore
from remix_study.seeds import stream


class _Group(NamedTuple):
    """Clips that stay together: their positions, and class -> number of clips."""

    members: list[int]
    counts: dict[int, int]


@lru_cache(maxsize=4)  # a check asks for each configuration of a study
def divide_training(store: ClipStore, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the store on which a run trains, and those of its control split; both ascending."""
    rows_N = store.rows("train")
    if not fraction:
        return rows_N, rows_N[:0]
    control_N = draw_control(store.labels_N[rows_N], _groups_of(store), fraction, seed)
    return rows_N[~control_N], rows_N[control_N]


@lru_cache(maxsize=1)
def classes_without_control(store: ClipStore) -> tuple[str, ...]:
    """Return the names of the classes that no control split has, because of the groups of the training split."""
    absent = without_control(store.labels_N[store.rows("train")], _groups_of(store))
    return tuple(store.classes[label] for label in absent)


def _groups_of(store: ClipStore) -> list[str | None]:
    return [store.groups[row] for row in store.rows("train")]


def draw_control(
    labels_N: NDArray[np.int64], groups: Sequence[str | None], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Draw the samples of the control split from the training split: (N,) bool.

    Groups are drawn at random while they bring the number of clips of each class closer to `fraction` of the class, in
    squares over the classes. Then classes without a control clip get one group each, the smallest that fits.

    Args:
        labels_N: classes, from 0.
        groups: the group of each sample; a sample whose group is None is its own group.
        fraction: of the samples of each class, in (0, 1).
        seed: of the run.
    """
    units = _groups(labels_N, groups)
    order = stream(seed, "control").permutation(len(units)).tolist()
    draw = _Draw(units, fraction)
    draw.fill(order)
    draw.cover(order)
    if draw.absent():
        # Other groups are in the way of the last classes. The classes come first, in an order that no seed changes.
        draw = _Draw(units, fraction)
        draw.cover(range(len(units)))
        draw.fill(order)
    chosen_N = np.zeros(len(labels_N), np.bool_)
    for number in draw.chosen:
        chosen_N[units[number].members] = True
    return chosen_N


def without_control(labels_N: NDArray[np.int64], groups: Sequence[str | None]) -> list[int]:
    """Return the classes that no control split has, whatever its seed and its fraction, because of the groups."""
    draw = _Draw(_groups(labels_N, groups), fraction=0.0)
    draw.cover(range(len(draw.units)))
    return draw.absent()


def _groups(labels_N: NDArray[np.int64], groups: Sequence[str | None]) -> list[_Group]:
    """The groups, in the order of their first samples."""
    found: dict[object, _Group] = {}
    for number, (label, group) in enumerate(zip(labels_N.tolist(), groups, strict=True)):
        unit = found.setdefault((number,) if group is None else group, _Group([], {}))
        unit.members.append(number)
        unit.counts[label] = unit.counts.get(label, 0) + 1
    return list(found.values())


class _Draw:
    """A control split that grows group by group, and never takes all clips of a class."""

    def __init__(self, units: Sequence[_Group], fraction: float) -> None:
        self.units = units
        self.chosen: set[int] = set()
        self._fraction = fraction
        self._total: dict[int, int] = {}
        self._having: dict[int, int] = {}  # class -> number of groups
        for unit in units:
            for label, count in unit.counts.items():
                self._total[label] = self._total.get(label, 0) + count
                self._having[label] = self._having.get(label, 0) + 1
        self._taken = dict.fromkeys(self._total, 0)

    def fill(self, order: Iterable[int]) -> None:
        """Take each group with which the squared differences from the wanted numbers of clips become smaller."""
        for number in order:
            counts = self.units[number].counts
            change = sum(
                count * (count + 2 * (self._taken[label] - self._fraction * self._total[label]))
                for label, count in counts.items()
            )
            if change < 0 and self._may_take(number):
                self._take(number)

    def cover(self, order: Iterable[int]) -> None:
        """Take a group for each class that is absent, if possible; first for the classes in the fewest groups."""
        by_size = sorted(order, key=lambda number: len(self.units[number].members))
        for label in sorted(self._total, key=lambda label: (self._having[label], label)):
            if self._taken[label]:
                continue
            fitting = (n for n in by_size if label in self.units[n].counts and self._may_take(n))
            if (number := next(fitting, None)) is not None:
                self._take(number)

    def absent(self) -> list[int]:
        """The classes without a control clip, in order."""
        return sorted(label for label, taken in self._taken.items() if not taken)

    def _may_take(self, number: int) -> bool:
        counts = self.units[number].counts
        return number not in self.chosen and all(self._taken[c] + n < self._total[c] for c, n in counts.items())

    def _take(self, number: int) -> None:
        self.chosen.add(number)
        for label, count in self.units[number].counts.items():
            self._taken[label] += count
