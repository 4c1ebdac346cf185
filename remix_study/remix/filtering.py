"""Filtering rules: assign each sample to modalities by its scores

A rule turns scores into costs, and each sample is assigned to the modality with the lowest cost. Every rule supports a
target share per modality: a price per modality is added to the costs until the counts match.

Rules (YAML name: assignment)
    argmin      the modality with the lowest score (released)
    margin      as argmin if the two lowest costs differ by at least `threshold`, else all modalities (joint, or each)
    quantile    each modality gets the `fraction` of samples with its lowest scores; the others stay joint, or rest
    max_share   as argmin, but a modality gets at most `share` of the samples; those with the smallest difference move
    band        only modalities whose score is in [lower, upper]
    tempered    random with probability proportional to exp(-score / temperature): argmin at 0, uniform at infinity
    random      control: uniformly random
    permuted    control: the argmin assignment, randomly permuted over samples, or over those of each class
    rotation    control: samples take turns, so that each sees every modality in proportion (rotation.py)
    inverted    control: the modality with the highest score
"""

# N training samples, M modalities in training order (ties go to the first)

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from remix_study.remix.assignment import Assignment

Scores = NDArray[np.float64]
Shares = NDArray[np.float64] | None


class Filter(Protocol):
    """A rule: scores_NM, optional target shares_M, random generator -> Assignment.

    Without shares, ties go to the lowest column.
    """

    @property
    def needs_scores(self) -> bool:
        """Whether the rule uses scores; if not, the scoring pass is skipped."""
        ...

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment: ...


@dataclass(frozen=True)
class Argmin:
    """Assign to the modality with the lowest score, as in the released code."""

    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        return _each_to_one(cheapest(scores_NM, shares_M, draw), scores_NM.shape[1])


@dataclass(frozen=True)
class Inverted:
    """Control: assign to the modality with the highest score."""

    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        return _each_to_one(cheapest(-scores_NM, shares_M, draw), scores_NM.shape[1])


@dataclass(frozen=True)
class Random:
    """Control: assign uniformly at random.

    Args:
        labels_N: with classes, every class has the target shares of the whole; None: classes do not matter.
    """

    labels_N: NDArray[np.int64] | None = None
    needs_scores = False

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        chosen_N = cheapest_in_groups(-draw.gumbel(size=scores_NM.shape), shares_M, self.labels_N, draw)
        return _each_to_one(chosen_N, scores_NM.shape[1])


@dataclass(frozen=True)
class Permuted:
    """Control: the argmin assignment, randomly permuted over samples.

    Args:
        labels_N: class of each sample, to permute over the samples of each class only: each modality then trains as
            many samples of each class as with argmin. None: over all samples.
    """

    labels_N: NDArray[np.int64] | None = None
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        chosen_N = cheapest(scores_NM, shares_M, draw)
        if self.labels_N is None:
            return _each_to_one(draw.permutation(chosen_N), scores_NM.shape[1])
        permuted_N = np.empty_like(chosen_N)
        shuffled = np.lexsort((draw.random(len(chosen_N)), self.labels_N))
        permuted_N[np.argsort(self.labels_N, kind="stable")] = chosen_N[shuffled]
        return _each_to_one(permuted_N, scores_NM.shape[1])


@dataclass(frozen=True)
class Tempered:
    """Sample from softmax(-score / T) by the Gumbel-max trick: argmin of (score - T g); T in score units."""

    temperature: float
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        noise_NM = draw.gumbel(size=scores_NM.shape)
        cost_NM = -noise_NM if np.isinf(self.temperature) else scores_NM - self.temperature * noise_NM
        return _each_to_one(cheapest(cost_NM, shares_M, draw), scores_NM.shape[1])


@dataclass(frozen=True)
class Margin:
    """Argmin for clear samples. Below `threshold` (score units), a sample trains jointly, or `each` modality alone."""

    threshold: float
    close: Literal["joint", "each"] = "joint"
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        cost_NM = scores_NM + prices(scores_NM, shares_M)
        two_N2 = np.partition(cost_NM, 1, axis=1)[:, :2]
        close_N = two_N2[:, 1] - two_N2[:, 0] < self.threshold
        clear = _each_to_one(cheapest(scores_NM, shares_M, draw), scores_NM.shape[1])
        if self.close == "joint":
            return Assignment(clear.assigned_NM & ~close_N[:, None], close_N)
        return Assignment(clear.assigned_NM | close_N[:, None], np.zeros(len(scores_NM), np.bool_))


@dataclass(frozen=True)
class Quantile:
    """Each modality gets the `fraction` in (0, 1] of samples with its lowest scores.

    Ranks are compared, so modalities may have scores of different scale.
    """

    fraction: float
    otherwise: Literal["joint", "rest"] = "joint"
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        samples = len(scores_NM)
        shuffled_N = draw.permutation(samples)  # break ties at random, since rows are often sorted by class
        rank_NM = np.empty(scores_NM.shape)
        order_NM = shuffled_N[np.argsort(scores_NM[shuffled_N], axis=0, kind="stable")]
        np.put_along_axis(rank_NM, order_NM, np.arange(samples)[:, None] / max(samples, 1), axis=0)
        hard_NM = rank_NM < self.fraction
        return _among(np.where(hard_NM, rank_NM, np.inf), shares_M, self.otherwise, draw)


@dataclass(frozen=True)
class MaxShare:
    """Argmin, but a modality gets at most `share` in [1/M, 1] of the samples."""

    share: float
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        samples, modalities = scores_NM.shape
        # At least ceil(N / M), so that all samples fit.
        room = max(int(np.floor(self.share * samples + 1e-9)), -(-samples // modalities))
        return _each_to_one(_within_capacity(scores_NM, cheapest(scores_NM, shares_M, draw), room, draw), modalities)


@dataclass(frozen=True)
class Band:
    """Assign to modalities with `lower` <= score <= `upper` (score units): neither too hard nor already learnt."""

    lower: float
    upper: float
    otherwise: Literal["joint", "rest"] = "joint"
    needs_scores = True

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        inside_NM = (scores_NM >= self.lower) & (scores_NM <= self.upper)
        return _among(np.where(inside_NM, scores_NM, np.inf), shares_M, self.otherwise, draw)


def cheapest(cost_NM: Scores, shares_M: Shares = None, draw: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Return the column with the lowest cost of each row; with `shares_M`, under exact counts per column.

    Counts are N * share, rounded by largest remainders. The sum of costs is minimal under these counts (a transport
    problem). Infinite costs are avoided if the counts allow. `draw` breaks ties between samples at random: saturated
    scores are often equal, and rows are often sorted by class.

    Args:
        cost_NM: float (N, M).
        shares_M: target shares (M,); None: no constraint.
        draw: random generator; None: ties are broken by row order.

    Returns:
        int64 (N,), columns in 0..M-1.
    """
    chosen_N = np.asarray(np.argmin(cost_NM + prices(cost_NM, shares_M), axis=1), dtype=np.int64)
    if shares_M is None:
        return chosen_N
    key_N = _keys(len(cost_NM), draw)
    finite_NM = np.where(np.isfinite(cost_NM), cost_NM, _beyond(cost_NM))
    chosen_N = _repair(finite_NM, chosen_N, target_counts(len(cost_NM), shares_M), key_N)
    return _improve(finite_NM, chosen_N, key_N)


def cheapest_in_groups(
    cost_NM: Scores, shares_M: Shares, group_N: NDArray[np.int64] | None, draw: np.random.Generator
) -> NDArray[np.int64]:
    """As `cheapest`, but every group of samples has the target shares, to one sample; the total counts stay exact."""
    if shares_M is None or group_N is None:
        return cheapest(cost_NM, shares_M, draw)
    _, place_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
    chosen_N = np.zeros(len(cost_NM), np.int64)
    for group, count_M in enumerate(counts_of_groups(size_G, shares_M, draw)):
        rows = np.flatnonzero(place_N == group)
        chosen_N[rows] = cheapest(cost_NM[rows], count_M / len(rows), draw)
    return chosen_N


def counts_of_groups(
    size_G: NDArray[np.int64], shares_M: NDArray[np.float64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """Return counts (G, M), each within 1 of its share.

    A row sums to the size of its group, and a column to its `target_counts`. What rounding down leaves is a bipartite
    graph with given degrees: each group in turn, in random order, gives its samples to the modalities that lack most
    (Gale and Ryser, 1957).
    """
    exact_GM = size_G[:, None] * (shares_M / shares_M.sum())
    count_GM: NDArray[np.int64] = np.floor(exact_GM + 1e-9).astype(np.int64)
    lacks_M = target_counts(int(size_G.sum()), shares_M) - count_GM.sum(axis=0)
    for group in draw.permutation(len(size_G)):
        left = size_G[group] - count_GM[group].sum()
        most = np.lexsort((count_GM[group] - exact_GM[group], -lacks_M))[:left]
        count_GM[group, most] += 1
        lacks_M[most] -= 1
    return count_GM


def target_counts(samples: int, shares_M: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers that sum to `samples`, each within one of samples * share (largest remainders)."""
    exact_M = samples * shares_M / shares_M.sum()
    count_M = np.floor(exact_M + 1e-9).astype(np.int64)
    short = samples - int(count_M.sum())
    count_M[np.argsort(-(exact_M - count_M), kind="stable")[:short]] += 1
    return np.asarray(count_M, dtype=np.int64)


def prices(cost_NM: Scores, shares_M: Shares) -> NDArray[np.float64]:
    """Return a price (M,) per modality, so that argmin(cost + price) gives each modality about its share.

    For M = 2, the midpoint between two neighbouring cost differences is exact. For M > 2, each modality in turn sets
    the price at which it gets its count, until no price changes (coordinate ascent on the dual of the transport
    problem). `cheapest` makes the result exact.
    """
    samples, modalities = cost_NM.shape
    price_M = np.zeros(modalities)
    if shares_M is None or samples == 0:
        return price_M
    count_M = target_counts(samples, shares_M)
    finite_NM = np.where(np.isfinite(cost_NM), cost_NM, _beyond(cost_NM))
    for _ in range(1 if modalities == 2 else 100):
        before_M = price_M.copy()
        for m in range(modalities - 1 if modalities == 2 else modalities):
            others_N = np.delete(finite_NM + price_M, m, axis=1).min(axis=1)
            gain_N = np.sort(others_N - finite_NM[:, m])[::-1]  # the price at which each sample would leave m
            above = gain_N[count_M[m] - 1] if count_M[m] > 0 else gain_N[0] + 2.0
            below = gain_N[count_M[m]] if count_M[m] < samples else gain_N[-1] - 2.0
            price_M[m] = (above + below) / 2
        if np.allclose(before_M, price_M, rtol=0, atol=1e-12):
            break
    return np.asarray(price_M - price_M[-1])


def _beyond(cost_NM: Scores) -> float:
    finite = cost_NM[np.isfinite(cost_NM)]
    return 1.0 if finite.size == 0 else float(finite.max() + 10 * (np.ptp(finite) + 1.0))


def _repair(
    finite_NM: Scores, chosen_N: NDArray[np.int64], count_M: NDArray[np.int64], key_N: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Move samples from modalities with too many to those with too few, lowest extra cost first (ties need this)."""
    chosen_N = chosen_N.copy()
    surplus_M = np.bincount(chosen_N, minlength=len(count_M)) - count_M
    while (surplus_M > 0).any():
        source, target = int(np.argmax(surplus_M)), int(np.argmin(surplus_M))
        mine, _ = _by_loss(finite_NM, chosen_N, source, target, key_N)
        moving = mine[: min(surplus_M[source], -surplus_M[target])]
        chosen_N[moving] = target
        surplus_M[source] -= len(moving)
        surplus_M[target] += len(moving)
    return chosen_N


def _improve(finite_NM: Scores, chosen_N: NDArray[np.int64], key_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Minimise the sum of costs without changing the counts.

    An assignment is optimal if moving samples around a cycle of modalities cannot lower the sum (Klein, Management
    Science 14, 1967). As many samples as help move around a cycle at once.
    """
    modalities = finite_NM.shape[1]
    if modalities < 3 or len(finite_NM) == 0:  # two modalities: `prices` is exact, and `_repair` moves only ties
        return chosen_N
    chosen_N = chosen_N.copy()
    tolerance = 1e-12 * (1.0 + float(np.abs(finite_NM).max()))
    while (cycle := _negative_cycle(_cheapest_moves(finite_NM, chosen_N), tolerance)) is not None:
        moves = [_by_loss(finite_NM, chosen_N, source, target, key_N) for source, target in cycle]
        shortest = min(len(rows) for rows, _ in moves)
        gain_n = np.sum([loss[:shortest] for _, loss in moves], axis=0)  # increasing: each move is sorted by its loss
        helpful = max(1, int((gain_n < -tolerance).sum()))
        for (_, target), (rows, _) in zip(cycle, moves, strict=True):
            chosen_N[rows[:helpful]] = target
    return chosen_N


def _cheapest_moves(finite_NM: Scores, chosen_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (M, M): the lowest extra cost of moving a sample from modality a to b; infinite if a has no sample."""
    modalities = finite_NM.shape[1]
    extra_MM = np.full((modalities, modalities), np.inf)
    for source in range(modalities):
        mine_nM = finite_NM[chosen_N == source]
        if len(mine_nM):
            extra_MM[source] = (mine_nM - mine_nM[:, source, None]).min(axis=0)
    return extra_MM


def _negative_cycle(extra_MM: NDArray[np.float64], tolerance: float) -> list[tuple[int, int]] | None:
    """Return the edges of a cycle whose sum is below -`tolerance`, or None (Bellman and Ford)."""
    modalities = len(extra_MM)
    distance_M, before_M = np.zeros(modalities), np.zeros(modalities, np.int64)
    for _ in range(modalities):
        through_MM = distance_M[:, None] + extra_MM
        nearest_M = through_MM.min(axis=0)
        shorter_M = nearest_M < distance_M - tolerance
        if not shorter_M.any():
            return None
        before_M[shorter_M] = through_MM.argmin(axis=0)[shorter_M]
        distance_M = np.where(shorter_M, nearest_M, distance_M)
    node = int(np.flatnonzero(shorter_M)[0])
    for _ in range(modalities):  # walk back until the cycle is reached
        node = int(before_M[node])
    cycle, target = [], node
    while True:
        source = int(before_M[target])
        cycle.append((source, target))
        if source == node:
            break
        target = source
    return cycle if sum(extra_MM[edge] for edge in cycle) < -tolerance else None


def _by_loss(
    cost_NM: Scores, chosen_N: NDArray[np.int64], source: int, target: int, key_N: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the samples of `source` by the extra cost of moving them to `target`, lowest first, and these costs."""
    mine = np.flatnonzero(chosen_N == source)
    loss = cost_NM[mine, target] - cost_NM[mine, source]
    order = np.lexsort((key_N[mine], loss))
    return mine[order], loss[order]


def _keys(samples: int, draw: np.random.Generator | None) -> NDArray[np.float64]:
    """Return one number per sample, by which equal samples are sorted."""
    return np.arange(samples, dtype=np.float64) if draw is None else draw.random(samples)


def _within_capacity(
    cost_NM: Scores, chosen_N: NDArray[np.int64], room: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    chosen_N = chosen_N.copy()
    key_N = _keys(len(cost_NM), draw)
    modalities = cost_NM.shape[1]
    full: set[int] = set()
    while True:
        count_M = np.bincount(chosen_N, minlength=modalities)
        source = int(np.argmax(count_M))
        if count_M[source] <= room:
            return chosen_N
        full.add(source)
        open_M = np.asarray([m for m in range(modalities) if m not in full])
        mine = np.flatnonzero(chosen_N == source)
        next_best = open_M[np.argmin(cost_NM[np.ix_(mine, open_M)], axis=1)]
        loss = cost_NM[mine, next_best] - cost_NM[mine, source]
        moving = np.lexsort((key_N[mine], loss))[: count_M[source] - room]
        chosen_N[mine[moving]] = next_best[moving]


def _each_to_one(chosen_N: NDArray[np.int64], modalities: int) -> Assignment:
    assigned_NM = np.zeros((len(chosen_N), modalities), np.bool_)
    assigned_NM[np.arange(len(chosen_N)), chosen_N] = True
    return Assignment(assigned_NM, np.zeros(len(chosen_N), np.bool_))


def _among(
    cost_NM: Scores, shares_M: Shares, otherwise: Literal["joint", "rest"], draw: np.random.Generator
) -> Assignment:
    """Assign each row to its cheapest modality with a finite cost; a row without one trains jointly, or rests."""
    some_N = np.isfinite(cost_NM).any(axis=1)
    assigned_NM = np.zeros(cost_NM.shape, np.bool_)
    rows = np.flatnonzero(some_N)
    chosen = cheapest(cost_NM[rows], shares_M, draw)
    # A share must not assign a sample to a modality that the rule excludes.
    closed = ~np.isfinite(cost_NM[rows, chosen])
    chosen[closed] = np.argmin(cost_NM[rows[closed]], axis=1)
    assigned_NM[rows, chosen] = True
    return Assignment(assigned_NM, np.logical_not(some_N) if otherwise == "joint" else np.zeros(len(cost_NM), np.bool_))
