"""Means of outcomes over seeds and test clips, and differences of two methods, with their uncertainty

Conclusions are about new seeds and new clips, so both are random effects of a crossed layout with one value per seed
and clip (Clark, Journal of Verbal Learning and Verbal Behavior 12, 1973; Baayen, Davidson and Bates, Journal of Memory
and Language 59, 2008: the same problem with subjects and items). benchmarks/coverage.py simulates how often the
intervals contain the true value.

Does not import torch, so that the report and the terminal show results quickly.
"""

# S seeds, C test clips, G groups of test clips

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
FEWEST_GROUPS = 10  # of test clips, for an interval that can be trusted
_MOST_SIGNS = 2**20
_ROUNDING = 1e-9


class Estimate(NamedTuple):
    """A mean with its uncertainty.

    Attributes:
        mean: in the unit of the values.
        low, high: 95 % confidence interval; infinite if there are too few seeds or groups for one.
        p: two-sided, of the hypothesis that the mean is 0, in [0, 1]; None without an interval, and for figures that
            exist once per seed.
        freedom: degrees of freedom of the t distribution.
        over_clips: whether the interval is over seeds and test clips; if not, over seeds only.
    """

    mean: float
    low: float
    high: float
    p: float | None
    freedom: float
    over_clips: bool

    def as_fraction(self) -> "Estimate":
        """This estimate of a fraction, such as an accuracy: a t interval of few seeds may leave [0, 1]."""
        if not math.isfinite(self.low):
            return self
        return self._replace(low=max(0.0, self.low), high=min(1.0, self.high))


def crossed_mean(value_SC: NDArray[np.generic], group_C: NDArray[np.generic] | None = None) -> Estimate:
    """The mean of outcomes over seeds and test clips.

    The outcomes of a comparison are differences of two methods with the same seeds and clips. With the usual mean
    squares MS_s, MS_c and MS_sc of a two-way layout without replication, the variance of the mean is
    (MS_s + MS_c - MS_sc) / (S C), with Satterthwaite's degrees of freedom. It is at least MS_s / (S C) and
    MS_c / (S C). So seeds that happen to agree leave the uncertainty of the clips.

    Clips of one group (an actor, a source video) are not independent, so groups take their place. A group counts with
    the number of its clips, as in a ratio of two means. Its deviation from the mean is enlarged by the jackknife's
    1 / (1 - h), where h is the fraction of the clips that are in the group (Bell and McCaffrey, Survey Methodology 28,
    2002). The degrees of freedom follow from Kish's effective number of groups.

    Args:
        value_SC: outcomes, such as whether a prediction is correct, (S, C).
        group_C: the group of each clip; None if each clip is a group of its own.

    Returns:
        The mean without an interval if there is one seed or one group, or if no value differs: then nothing tells how
        much further seeds or clips would differ.

    Raises:
        ValueError: there is no seed or no clip.
    """
    outcome_SC = np.asarray(value_SC, dtype=np.float64)
    if outcome_SC.ndim != 2 or outcome_SC.size == 0:
        raise ValueError(f"outcomes must be (seeds, clips), but are {np.shape(value_SC)}")
    mean = float(outcome_SC.mean())
    deviation_SG, effective = _deviations(outcome_SC, group_C)
    seeds, groups = deviation_SG.shape
    if seeds < 2 or groups < 2 or np.ptp(outcome_SC) < _ROUNDING:
        return Estimate(mean, -np.inf, np.inf, None, 0.0, True)
    seed_S = outcome_SC.mean(axis=1) - mean
    group_G = deviation_SG.mean(axis=0)
    rest_SG = deviation_SG - seed_S[:, None] - group_G
    of_seeds = float(groups * (seed_S**2).sum() / (seeds - 1))
    of_groups = float(seeds * (group_G**2).sum() / (groups - 1))
    of_rest = float((rest_SG**2).sum() / ((seeds - 1) * (groups - 1)))
    variance, freedom = _variance((of_seeds, of_groups, of_rest), seeds - 1, max(1.0, effective - 1))
    if variance < _ROUNDING**2:  # values differ within groups only, and cancel there
        return Estimate(mean, -np.inf, np.inf, None, 0.0, True)
    return _interval(mean, variance / (seeds * groups), freedom)


def _deviations(
    outcome_SC: NDArray[np.float64], group_C: NDArray[np.generic] | None
) -> tuple[NDArray[np.float64], float]:
    """Deviations of groups from the mean (S, G), scaled by their number of clips; and their effective number."""
    mean = outcome_SC.mean()
    if group_C is None:
        return outcome_SC - mean, float(outcome_SC.shape[1])
    _, index_C = np.unique(group_C, return_inverse=True)
    count_G = np.bincount(index_C).astype(np.float64)
    groups, share_G = len(count_G), count_G / count_G.sum()
    sum_SG = np.stack([np.bincount(index_C, weights=row_C, minlength=groups) for row_C in outcome_SC - mean])
    if groups == 1:
        return sum_SG / count_G, 1.0
    enlarged_G = (1 - 1 / groups) / (1 - share_G) * groups / count_G.sum()
    return sum_SG * enlarged_G, float(1 / (share_G**2).sum())


def _variance(squares: tuple[float, float, float], seeds: float, groups: float) -> tuple[float, float]:
    """Combined mean square, and its degrees of freedom; `seeds`, `groups`: degrees of freedom of the first two."""
    of_seeds, of_groups, rest = squares
    combined = of_seeds + of_groups - rest
    highest = max(of_seeds, of_groups)
    if highest < _ROUNDING**2:  # seeds and groups agree in their means, but not in each cell
        return rest, seeds * groups
    if combined <= highest:
        return highest, seeds if of_seeds >= of_groups else groups
    spread = of_seeds**2 / seeds + of_groups**2 / groups + rest**2 / (seeds * groups)
    return combined, combined**2 / spread


def mean_over_seeds(value_S: NDArray[np.floating]) -> Estimate:
    """The mean of figures that exist once per seed, with a t interval. Its p is None: it would rest on seeds alone."""
    seeds = len(value_S)
    mean = float(np.mean(value_S)) if seeds else 0.0
    if seeds < 2:
        return Estimate(mean, -np.inf, np.inf, None, 0.0, False)
    variance = float(np.var(value_S, ddof=1)) / seeds
    return _interval(mean, variance, seeds - 1.0)._replace(p=None, over_clips=False)


def _interval(mean: float, variance: float, freedom: float) -> Estimate:
    from scipy import stats

    error = float(np.sqrt(variance))
    if error == 0:
        return Estimate(mean, mean, mean, None, freedom, True)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Estimate(mean, mean - half, mean + half, p, freedom, True)


def sampling_error(correct_SC: NDArray[np.generic], group_C: NDArray[np.generic] | None = None) -> float | None:
    """Standard error of one seed's accuracy that is due to the choice of test clips, as a mean over seeds; in [0, 1].

    Without groups, it is sqrt(p (1 - p) / (C - 1)) for the accuracy p. None for a single clip or group.
    """
    errors = []
    for row_C in np.asarray(correct_SC, dtype=np.float64):
        deviation_SG, _ = _deviations(row_C[None], group_C)
        groups = deviation_SG.shape[1]
        if groups < 2:
            return None
        errors.append(np.sqrt((deviation_SG**2).sum() / (groups * (groups - 1))))
    return float(np.mean(errors))


def sign_flip_p(difference_S: NDArray[np.floating]) -> float:
    """Exact two-sided p of the mean of paired differences, by flipping the sign of each (Fisher 1935).

    Its smallest value is 2 / 2^S. More than 20 seeds are sampled: 2^20 sign vectors of a fixed generator.
    """
    seeds = len(difference_S)
    if seeds == 0:
        return 1.0
    observed = abs(float(np.sum(difference_S)))
    if 2**seeds <= _MOST_SIGNS:
        sums = np.zeros(1)
        for value in np.asarray(difference_S, dtype=np.float64):
            sums = np.concatenate([sums + value, sums - value])
    else:
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), size=(_MOST_SIGNS, seeds))
        sums = signs @ np.asarray(difference_S, dtype=np.float64)
    return float(np.mean(np.abs(sums) >= observed - _ROUNDING * max(1.0, observed)))


def smallest_sign_flip_p(seeds: int) -> float:
    """The smallest p that `sign_flip_p` can give for so many seeds: 2 / 2^S, at most 1."""
    return min(1.0, 2.0 ** (1 - seeds))


def seeds_for_sign_flip(comparisons: int) -> int:
    """The number of seeds with which `sign_flip_p` can reach 5 % after Holm's correction for so many comparisons."""
    seeds = 1
    while smallest_sign_flip_p(seeds) * comparisons > 1 - CONFIDENCE + _ROUNDING:
        seeds += 1
    return seeds


def holm(p_values: Iterable[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    The k-th smallest of n values is multiplied by n - k + 1. Adjusted values do not decrease and are at most 1.
    """
    given = list(p_values)
    adjusted, floor = [0.0] * len(given), 0.0
    for rank, index in enumerate(sorted(range(len(given)), key=lambda i: given[i])):
        floor = max(floor, min(1.0, (len(given) - rank) * given[index]))
        adjusted[index] = floor
    return adjusted
