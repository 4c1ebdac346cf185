"""Comparison of two methods on the test clips of their replicates

Replicates with the same number have the same seed: the same initial weights and shuffles. So outcomes are compared per
seed and test clip (statistics.py). Replicates without `predictions.parquet` (of version 0.1) are compared per seed.
Such a comparison has an interval, but no p: a p never comes from the spread of the seeds alone.

Does not import torch, so that the report and the terminal show results quickly.
"""

# S seeds, C test clips

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from remix_study import statistics
from remix_study.launch.predictions import Correct
from remix_study.statistics import Estimate, crossed_mean, holm, mean_over_seeds

FEWEST_SEEDS = 5  # for a verdict
_ROUNDING = 1e-9  # points; sums of several accuracies that are equal differ by less
Verdict = Literal["ahead", "open", "behind", "unknown"]
K = TypeVar("K")
_UNI = "test/accuracy_uni/"
_VIEWS = {
    "test/accuracy": "fused",
    "test/accuracy_late_sum": "late_sum",
    "test/accuracy_late_calibrated": "late_calibrated",
    "test/accuracy_best": "best",
    "test/accuracy_last": "last",
}  # metric -> view of the predictions


class Replicated(NamedTuple):
    """The complete replicates of a method.

    Attributes:
        summaries: number -> summary of the run.
        correct: number -> which test clips are predicted correctly, of those with `predictions.parquet`.
        failed: numbers of the replicates that failed.
        retried: numbers of those that had failed and were run again.
    """

    summaries: Mapping[int, Mapping[str, float]]
    correct: Mapping[int, Correct]
    failed: tuple[int, ...] = ()
    retried: tuple[int, ...] = ()


class Paired(NamedTuple):
    """Test accuracy of the reference minus that of a method, in percentage points, over the seeds that both have.

    Other contrasts of accuracies (`contrast`) have the same fields: the reference then stands for the terms with
    sign 1.

    Attributes:
        mean, std: of the differences; `std` is the sample standard deviation over seeds (0 for one).
        low, high: 95 % confidence interval of the mean; infinite for fewer than two seeds.
        wins: seeds in which the reference is better.
        seeds: seeds that both have.
        clips: test clips; None if some of these replicates has no predictions. The interval is then over seeds only.
        groups: groups of test clips; None without groups.
        p: two-sided, in [0, 1]; None without an interval over clips, or if the methods agree on every clip in every
            seed.
        p_holm: `p` adjusted for the comparisons of its family; None if `p` is, and for a unimodal ceiling, which is not
            counted.
        sign_flip: exact p of the sign-flip test over seeds; None for no seed.
        with_failures: `mean` over all replicates, if one that failed predicts no clip correctly; None if none failed.
    """

    mean: float
    std: float
    low: float
    high: float
    wins: int
    seeds: int
    clips: int | None = None
    groups: int | None = None
    p: float | None = None
    p_holm: float | None = None
    sign_flip: float | None = None
    with_failures: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the reference is significantly `ahead` or `behind`, or neither (`open`); `unknown` without a test."""
        if self.seeds < FEWEST_SEEDS or self.clips is None or np.isinf(self.low):
            return "unknown"
        if self.p_holm is not None and self.p_holm >= 1 - statistics.CONFIDENCE:
            return "open"
        return self._alone

    @property
    def corrected_away(self) -> bool:
        """Whether the difference is significant before, but not after the adjustment for several tests."""
        return self.verdict == "open" and self._alone != "open"

    @property
    def _alone(self) -> Verdict:
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


def paired(reference: Replicated, other: Replicated, metric: str = "test/accuracy") -> Paired:
    """Compare two methods by an accuracy on the test split: `test/accuracy`, `..._best` or `..._last`.

    All their predictions must be of the same clips.
    """
    found = contrast([Term(1, reference, metric), Term(-1, other, metric)])
    return found._replace(with_failures=_with_failures(reference, other, metric))


class Term(NamedTuple):
    """`sign` times an accuracy on the test split of a method."""

    sign: Literal[1, -1]
    method: Replicated
    metric: str


def contrast(terms: Sequence[Term]) -> Paired:
    """The sum of accuracies with signs, over the seeds that have all of them, in percentage points.

    The signs sum to 0. All predictions must be of the same clips.
    """
    shared = [n for n in sorted(set.intersection(*(set(t.method.summaries) for t in terms)))
              if all(t.metric in t.method.summaries[n] for t in terms)]  # fmt: skip
    if not shared:
        return Paired(0.0, 0.0, -np.inf, np.inf, 0, 0)
    difference_S = 100 * np.asarray(
        [sum(t.sign * t.method.summaries[n][t.metric] for t in terms) for n in shared], dtype=np.float64
    )
    difference_S[np.abs(difference_S) < _ROUNDING] = 0.0
    outcomes_SC = [outcomes(t.method, t.metric, shared) for t in terms]
    known_SC = [each for each in outcomes_SC if each is not None]
    estimate, clips, groups = mean_over_seeds(difference_S), None, None
    if len(known_SC) == len(terms):
        group_C = terms[0].method.correct[shared[0]].group_C
        value_SC = sum((t.sign * 100.0 * each for t, each in zip(terms, known_SC, strict=True)), np.zeros(1))
        estimate = crossed_mean(value_SC, group_C)
        if len(shared) > 1 and not value_SC.any():  # no difference, rather than an unknown one
            estimate = estimate._replace(low=0.0, high=0.0)
        clips = value_SC.shape[1]
        groups = None if group_C is None else len(np.unique(group_C))
    return Paired(
        mean=float(difference_S.mean()),
        std=float(difference_S.std(ddof=1)) if len(shared) > 1 else 0.0,
        low=estimate.low,
        high=estimate.high,
        wins=int((difference_S > 0).sum()),
        seeds=len(shared),
        clips=clips,
        groups=groups,
        p=estimate.p,
        sign_flip=statistics.sign_flip_p(difference_S),
    )


def adjusted(found: Mapping[K, Paired], planned: int) -> dict[K, Paired]:
    """The comparisons of a family with Holm's adjusted p values.

    A comparison without a p counts as one with p = 1, so that a method that has failed or is not complete yet does not
    make the others significant.

    Args:
        found: the comparisons of the family that were made.
        planned: the number of comparisons in the family.
    """
    tested = {key: each.p for key, each in found.items() if each.p is not None}
    p_holm = dict(zip(tested, holm([*tested.values(), *[1.0] * (planned - len(tested))]), strict=False))
    return {key: each._replace(p_holm=p_holm.get(key)) for key, each in found.items()}


def _with_failures(reference: Replicated, other: Replicated, metric: str) -> float | None:
    if not reference.failed and not other.failed:
        return None
    values = [
        {**{n: s[metric] for n, s in each.summaries.items() if metric in s}, **dict.fromkeys(each.failed, 0.0)}
        for each in (reference, other)
    ]
    shared = set(values[0]) & set(values[1])
    return 100 * float(np.mean([values[0][n] - values[1][n] for n in shared])) if shared else None


def outcomes(method: Replicated, metric: str, seeds: Sequence[int]) -> NDArray[np.float64] | None:
    """Whether each test clip is predicted correctly (S, C), as 0 or 1; None if some seed has no such predictions."""
    view = _VIEWS.get(metric) or (metric.removeprefix(_UNI) if metric.startswith(_UNI) else None)
    if view is None or not seeds:
        return None
    found = [method.correct.get(n) for n in seeds]
    rows = [c.views[view] for c in found if c is not None and view in c.views]
    return np.stack(rows).astype(np.float64) if len(rows) == len(seeds) else None


def over_clips(method: Replicated, metric: str) -> Estimate | None:
    """Mean of an accuracy over seeds and test clips; None if some seed that has it has no such predictions."""
    seeds = [n for n, summary in sorted(method.summaries.items()) if metric in summary]
    value_SC = outcomes(method, metric, seeds)
    return None if value_SC is None else crossed_mean(value_SC, method.correct[seeds[0]].group_C)


def ratio(method: Replicated, ceiling: Replicated, metric: str, of_ceiling: str) -> Estimate | None:
    """The mean of `metric` of a method, divided by that of `of_ceiling` of its ceiling, over the seeds of both.

    The interval is that of the linearised ratio. It is over seeds and test clips where both have predictions. Without a
    common seed, it is the ratio of the means over all seeds, without an interval.

    Returns:
        None if one of them does not have the metric, or if the ceiling is 0.
    """
    seeds = [n for n in sorted(set(method.summaries) & set(ceiling.summaries))
             if metric in method.summaries[n] and of_ceiling in ceiling.summaries[n]]  # fmt: skip
    if not seeds:
        above, below = ([s[key] for s in each.summaries.values() if key in s]
                        for each, key in ((method, metric), (ceiling, of_ceiling)))  # fmt: skip
        if not above or not below or not any(below):
            return None
        return Estimate(float(np.mean(above) / np.mean(below)), -np.inf, np.inf, None, 0.0, False)
    first_SC, second_SC = outcomes(method, metric, seeds), outcomes(ceiling, of_ceiling, seeds)
    if first_SC is not None and second_SC is not None:
        linear_SC = _linearised(first_SC, second_SC)
        return None if linear_SC is None else crossed_mean(linear_SC, method.correct[seeds[0]].group_C)
    columns: list[Any] = [[m[n][key] for n in seeds] for m, key in
                          ((method.summaries, metric), (ceiling.summaries, of_ceiling))]  # fmt: skip
    linear_S = _linearised(*(np.asarray(column, dtype=np.float64) for column in columns))
    return None if linear_S is None else mean_over_seeds(linear_S)


def _linearised(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Values whose mean is the ratio of the means, and whose deviations are those of the ratio to first order."""
    mean = float(below.mean())
    if mean == 0:
        return None
    found = float(above.mean()) / mean
    linear: NDArray[np.float64] = found + (above - found * below) / mean
    return linear
