"""Properties of random splits"""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.datasets.splits import draw_folds, draw_splits
from remix_study.errors import ManifestError
from tests.examples import examples


def corpus(groups: int, each: int, classes: int) -> tuple[list[str], list[str], list[str | None]]:
    """Clips in groups with several classes each, like actors."""
    ids, labels, of = [], [], []
    for group in range(groups):
        for clip in range(each):
            ids.append(f"g{group}-c{clip}")
            labels.append(f"class {(group + clip) % classes}")
            of.append(f"actor {group}")
    return ids, labels, list(of)


@examples(25)
@given(st.integers(8, 40), st.integers(3, 9), st.integers(2, 4), st.integers(0, 5))
def test_no_group_is_in_two_parts_and_every_class_is_in_each(groups: int, each: int, classes: int, seed: int) -> None:
    ids, labels, of = corpus(groups, each, classes)
    try:
        drawn = draw_splits(ids, labels, of, seed=seed)
    except ManifestError:
        return  # too few groups of a class raise instead of giving an invalid split
    parts = collections.defaultdict(set)
    for group, split in zip(of, drawn, strict=True):
        parts[group].add(split)
    assert all(len(found) == 1 for found in parts.values())
    assert len(set(zip(drawn, labels, strict=True))) == 3 * len(set(labels))


def test_splits_do_not_depend_on_the_order_of_the_clips() -> None:
    ids, labels, of = corpus(20, 6, 3)
    forwards = dict(zip(ids, draw_splits(ids, labels, of, seed=3), strict=True))
    backwards = dict(zip(ids[::-1], draw_splits(ids[::-1], labels[::-1], of[::-1], seed=3), strict=True))
    assert forwards == backwards
    assert forwards != dict(zip(ids, draw_splits(ids, labels, of, seed=4), strict=True))
    alone = dict(zip(ids, draw_splits(ids, labels, [None] * len(ids)), strict=True))
    assert alone == dict(zip(ids[::-1], draw_splits(ids[::-1], labels[::-1], [None] * len(ids)), strict=True))


def test_shares_are_approximately_as_requested() -> None:
    ids = [f"{i}" for i in range(1000)]
    labels = [f"class {i % 5}" for i in range(1000)]
    drawn = collections.Counter(draw_splits(ids, labels, [None] * 1000))
    assert drawn == {"train": 700, "val": 100, "test": 200}


def test_a_class_with_few_groups_is_spread_or_raises() -> None:
    ids = [f"{i}" for i in range(63)]
    labels = ["common"] * 60 + ["rare"] * 3
    drawn = draw_splits(ids, labels, [None] * 63)
    assert {split for split, label in zip(drawn, labels, strict=True) if label == "rare"} == {"train", "val", "test"}
    with pytest.raises(ManifestError, match=r"at least 3 clips.*rare has fewer"):
        draw_splits(ids[:-1], labels[:-1], [None] * 62)
    with pytest.raises(ManifestError, match=r"at least 3 groups.*rare has fewer"):
        draw_splits(ids, labels, [*ids[:-2], "same", "same"])


def test_folds_partition_groups_and_have_all_classes() -> None:
    ids, labels, of = corpus(25, 12, 6)
    folds = draw_folds(ids, labels, of, 5)
    assert set(folds) == set(range(5))
    assert all(len({fold for fold, other in zip(folds, of, strict=True) if other == group}) == 1 for group in set(of))
    assert len(set(zip(folds, labels, strict=True))) == 5 * 6
    with pytest.raises(ManifestError, match="at least 30 groups"):
        draw_folds(ids, labels, of, 30)
