"""The control split, checked against all divisions of small training splits"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.datasets.control import draw_control, without_control


class Split(NamedTuple):
    labels_N: NDArray[np.int64]
    groups: list[str | None]

    @property
    def units(self) -> list[str]:
        return [f"clip {n}" if group is None else group for n, group in enumerate(self.groups)]


@st.composite
def splits(draw: st.DrawFn, *, mixed: bool = True, most: int = 24) -> Split:
    """Draw a training split, whose groups have clips of several classes if `mixed`."""
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 5)), min_size=1, max_size=most))
    groups = [None if g is None else f"g{g}" if mixed else f"g{g} of {label}" for label, g in rows]
    return Split(np.array([label for label, _ in rows]), groups)


fractions = st.floats(0.001, 0.5)
seeds = st.integers(0, 2**31)


@given(splits(), fractions, seeds)
def test_groups_are_not_divided_and_training_keeps_every_class(split: Split, fraction: float, seed: int) -> None:
    chosen_N = draw_control(*split, fraction, seed)
    sides: dict[str, set[bool]] = {}
    for unit, chosen in zip(split.units, chosen_N.tolist(), strict=True):
        sides.setdefault(unit, set()).add(chosen)
    assert all(len(of_unit) == 1 for of_unit in sides.values())
    assert set(split.labels_N[~chosen_N]) == set(split.labels_N)


@given(splits(mixed=False), fractions, seeds)
def test_both_parts_have_every_class_with_two_groups(split: Split, fraction: float, seed: int) -> None:
    chosen_N = draw_control(*split, fraction, seed)
    groups_of = {label: {u for u, each in zip(split.units, split.labels_N, strict=True) if each == label}
                 for label in set(split.labels_N.tolist())}  # fmt: skip
    alone = sorted(label for label, units in groups_of.items() if len(units) == 1)
    assert sorted(set(groups_of) - set(split.labels_N[chosen_N].tolist())) == alone
    assert without_control(*split) == alone


@given(splits(most=10), fractions, seeds)
def test_what_is_absent_from_control_is_told_for_all_seeds(split: Split, fraction: float, seed: int) -> None:
    present = set(split.labels_N[draw_control(*split, fraction, seed)].tolist())
    absent = set(without_control(*split))
    assert set(split.labels_N.tolist()) - present <= absent
    assert absent or divisible(split)


def divisible(split: Split) -> bool:
    """Return whether some division of the groups has every class in both parts."""
    classes, units = set(split.labels_N.tolist()), np.array(split.units)
    for count in range(1, len(set(split.units))):
        for chosen in combinations(sorted(set(split.units)), count):
            inside = np.isin(units, chosen)
            if set(split.labels_N[inside].tolist()) == classes == set(split.labels_N[~inside].tolist()):
                return True
    return False


@given(st.lists(st.integers(2, 30), min_size=1, max_size=4), fractions, seeds)
def test_without_groups_each_class_gives_its_fraction(sizes: list[int], fraction: float, seed: int) -> None:
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    chosen_N = draw_control(labels_N, [None] * len(labels_N), fraction, seed)
    for label, size in enumerate(sizes):
        control = np.count_nonzero(chosen_N[labels_N == label])
        assert control == 1 or abs(control - fraction * size) <= 0.5 + 1e-9


def test_equal_groups_with_all_classes_give_the_nearest_number_of_groups() -> None:
    labels_N = np.tile(np.arange(6), 40)
    groups: list[str | None] = [f"actor {n // 6}" for n in range(240)]
    drawn = [draw_control(labels_N, groups, 0.1, seed) for seed in range(4)]
    assert [np.count_nonzero(chosen_N) for chosen_N in drawn] == [24] * 4
    assert len({chosen_N.tobytes() for chosen_N in drawn}) == 4  # another seed, other samples


@given(splits(), fractions, seeds)
def test_the_names_of_groups_do_not_matter(split: Split, fraction: float, seed: int) -> None:
    renamed = [None if group is None else f"other {group}" for group in split.groups]
    np.testing.assert_array_equal(
        draw_control(*split, fraction, seed), draw_control(split.labels_N, renamed, fraction, seed)
    )
