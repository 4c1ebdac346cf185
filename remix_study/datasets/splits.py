"""Drawing splits and folds: each group in one part, every class in every part, deterministic for a seed

A group is something that training and test must not share, such as an actor, a video or a place. Groups are assigned
to folds by scikit-learn's StratifiedGroupKFold, which preserves class proportions as far as groups allow; if every clip
is its own group, by the faster StratifiedKFold. The result depends on the set of clips and the seed, not on their
order.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from remix_study.errors import ManifestError

PARTS: Mapping[str, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
_FOLDS = 10  # the clips are divided into ten folds, of which each part gets its share


def draw_splits(
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str | None],
    parts: Mapping[str, float] = PARTS,
    seed: int = 0,
) -> list[str]:
    """Draw a split for each clip.

    Args:
        ids, labels, groups: one entry per clip; a clip whose group is None is its own group.
        parts: names of the splits, with their approximate shares.
        seed: the same seed and set of clips give the same splits.

    Returns:
        The name of each clip's split.

    Raises:
        ManifestError: a class has too few groups to be in every part.
    """
    if not ids:
        raise ManifestError("There must be clips to draw splits of, but there are none.")
    wanted = _folds_of(parts)
    folds = _assign_folds(ids, labels, groups, sum(wanted.values()), len(parts), seed)
    names = [name for name, count in wanted.items() for _ in range(count)]
    drawn = [names[fold] for fold in folds]
    return _with_every_class(drawn, ids, labels, groups, list(parts))


def draw_folds(
    ids: Sequence[str], labels: Sequence[str], groups: Sequence[str | None], folds: int, seed: int = 0
) -> list[int]:
    """Draw a fold for each clip.

    Args:
        ids, labels, groups: one entry per clip; a clip whose group is None is its own group.
        folds: number of folds.
        seed: the same seed and set of clips give the same folds.

    Returns:
        The number of each clip's fold, 0 to folds - 1.

    Raises:
        ManifestError: a class has too few groups to be in every fold.
    """
    assigned = _assign_folds(ids, labels, groups, folds, folds, seed)
    present = {(fold, label) for fold, label in zip(assigned, labels, strict=True)}
    absent = sorted({label for label in labels for fold in range(folds) if (fold, label) not in present})
    if absent:
        raise ManifestError(
            f"Every class must be in each of {folds} folds, but the groups of {', '.join(absent[:10])} do not allow "
            "it. Use fewer folds."
        )
    return assigned


def _folds_of(parts: Mapping[str, float]) -> dict[str, int]:
    """The number of folds of each part, out of ten and at least one."""
    return {name: max(1, round(share * _FOLDS)) for name, share in parts.items()}


def _assign_folds(
    ids: Sequence[str], labels: Sequence[str], groups: Sequence[str | None], folds: int, least: int, seed: int
) -> list[int]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    own = [f"clip {each}" if group is None else f"group {group}" for each, group in zip(ids, groups, strict=True)]
    of_class: dict[str, set[str]] = collections.defaultdict(set)
    for label, group in zip(labels, own, strict=True):
        of_class[label].add(group)
    few = sorted(label for label, found in of_class.items() if len(found) < least)
    if few:
        units = "clips" if all(group is None for group in groups) else "groups"
        raise ManifestError(
            f"A class must have at least {least} {units} to be in every split, but {', '.join(few[:10])} "
            f"{'has' if len(few) == 1 else 'have'} fewer. Add clips, exclude the class, or add a split column."
        )
    order = sorted(range(len(ids)), key=lambda i: (own[i], ids[i]))
    # scikit-learn requires a class with at least one clip per fold.
    count = max(2, min(folds, len(set(own)), collections.Counter(labels).most_common(1)[0][1]))
    numbers = {label: number for number, label in enumerate(sorted(of_class))}
    y = np.array([numbers[labels[i]] for i in order])
    names = np.array([own[i] for i in order])
    assigned = [0] * len(ids)
    with np.errstate(all="ignore"):
        kind = StratifiedKFold if len(set(own)) == len(own) else StratifiedGroupKFold
        splitter = kind(count, shuffle=True, random_state=seed)
        for fold, (_, chosen) in enumerate(_quietly(splitter, y, names)):
            for place in chosen:
                assigned[order[place]] = fold * folds // count
    return assigned


def _quietly(splitter: object, y: np.ndarray, names: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    import warnings

    with warnings.catch_warnings():  # about classes with fewer clips than folds, which the callers handle
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter.split(y, y, names))  # type: ignore[attr-defined]  # scikit-learn has no types


def _with_every_class(
    drawn: list[str], ids: Sequence[str], labels: Sequence[str], groups: Sequence[str | None], parts: list[str]
) -> list[str]:
    """Move groups into parts that lack a class, from parts that keep all their classes without them."""
    own = [f"clip {each}" if group is None else f"group {group}" for each, group in zip(ids, groups, strict=True)]
    members: dict[str, list[int]] = collections.defaultdict(list)
    for place, group in enumerate(own):
        members[group].append(place)
    counts = collections.Counter(zip(drawn, labels, strict=True))
    for _ in range(len(parts) * len(set(labels))):
        if not (lacking := _lacking(parts, labels, counts)):
            return drawn
        part, label = lacking[0]
        movable = _movable(part, label, members, drawn, labels, counts)
        if movable is None:
            break
        for place in members[movable]:
            counts[drawn[place], labels[place]] -= 1
            drawn[place] = part
            counts[part, labels[place]] += 1
    if lacking := _lacking(parts, labels, counts):
        missing = "; ".join(f"{label} in {part}" for part, label in lacking[:10])
        raise ManifestError(
            f"Every class must be in every split, but the groups do not allow it (missing: {missing}). Add clips, "
            "exclude the class, or add a split column."
        )
    return drawn


def _lacking(
    parts: Sequence[str], labels: Sequence[str], counts: Mapping[tuple[str, str], int]
) -> list[tuple[str, str]]:
    return [(part, label) for part in parts for label in sorted(set(labels)) if not counts[part, label]]


def _movable(
    part: str,
    label: str,
    members: Mapping[str, list[int]],
    drawn: Sequence[str],
    labels: Sequence[str],
    counts: Mapping[tuple[str, str], int],
) -> str | None:
    """The smallest group with this class whose current part keeps all its classes without it; None if there is none."""
    for _, group in sorted((len(places), group) for group, places in members.items()):
        places = members[group]
        current = drawn[places[0]]
        of_group = collections.Counter(labels[place] for place in places)
        if current != part and of_group[label] and all(counts[current, each] > n for each, n in of_group.items()):
            return group
    return None
