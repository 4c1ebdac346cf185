"""Results: what a study found, as numbers and as one honest sentence

Contenders are compared with the reference seed by seed: the same seed draws the same initial weights and shuffles, so
that the paired difference is less noisy than the difference of means. All accuracies are of the test split.
"""

# S seeds

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from remix_study.config import StudyConfig
from remix_study.errors import StudyError
from remix_study.metrics import sufficiency_ratio
from remix_study.training.evidence import sufficiency

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean and sample standard deviation (0 for one value)."""

    mean: float
    std: float


class Paired(NamedTuple):
    """Reference minus contender, in percentage points, over the seeds that both have.

    `low`, `high`: the t interval of the mean at 95 %; infinite for fewer than two seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    wins: int
    seeds: int

    @property
    def verdict(self) -> str:
        """`ahead`, `behind`, or `open` where the interval holds 0."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


class Ceiling(NamedTuple):
    """What one modality reaches when trained alone, in [0, 1]: its own head, and a fresh linear probe."""

    head: float
    probe: float


class Contender(NamedTuple):
    """`seeds[number]`: the summary of each replicate, sufficiency included. `ahead`: None for the reference."""

    name: str
    params: Mapping[str, Any]
    seeds: dict[int, dict[str, float]]
    ceiling_of: str | None
    control_of: str | None
    ahead: Paired | None

    def values(self, metric: str) -> NDArray[np.float64]:
        """values_S of the seeds that have this metric, in the order of the seeds."""
        return np.asarray([s[metric] for _, s in sorted(self.seeds.items()) if metric in s], dtype=np.float64)

    def spread(self, metric: str, scale: float = 1.0) -> Spread | None:
        values_S = self.values(metric) * scale
        if len(values_S) == 0:
            return None
        return Spread(float(values_S.mean()), float(values_S.std(ddof=1)) if len(values_S) > 1 else 0.0)


class StudyResult(NamedTuple):
    """`ceilings[m]`: of modality m trained alone, mean test accuracy and mean accuracy of a linear probe."""

    name: str
    question: str
    reference: str
    contenders: tuple[Contender, ...]
    ceilings: dict[str, Ceiling]
    failures: tuple[str, ...]
    sentence: str

    @property
    def rivals(self) -> tuple[Contender, ...]:
        """All but the unimodal ceilings."""
        return tuple(c for c in self.contenders if c.ceiling_of is None)


def compare(
    study: StudyConfig,
    replicates: Mapping[str, Mapping[int, Mapping[str, float]]],
    best: Mapping[str, Mapping[str, Any]],
    failures: Sequence[str],
) -> StudyResult:
    """Put the replicates of all methods side by side.

    Raises:
        StudyError: a method has no complete replicate.
    """
    empty = [name for name, seeds in replicates.items() if not seeds]
    if empty:
        raise StudyError(
            f"each method needs a complete replicate, but {', '.join(empty)} has none: {'; '.join(failures)}"
        )
    ceilings = {
        method.ceiling_of: Ceiling(
            float(np.mean([s["test/accuracy"] for s in replicates[name].values()])),
            float(np.mean([s[f"probe/accuracy/{method.ceiling_of}"] for s in replicates[name].values()])),
        )
        for name, method in study.methods.items()
        if method.ceiling_of is not None
    }
    contenders = tuple(
        Contender(
            name=name,
            params=best[name],
            seeds={n: {**s, **_sufficiency(s, ceilings)} for n, s in replicates[name].items()},
            ceiling_of=method.ceiling_of,
            control_of=method.control_of,
            ahead=_paired(replicates[study.reference], replicates[name]),
        )
        if name != study.reference
        else Contender(
            name,
            best[name],
            {n: {**s, **_sufficiency(s, ceilings)} for n, s in replicates[name].items()},
            None,
            None,
            None,
        )
        for name, method in study.methods.items()
    )
    result = StudyResult(study.name, study.question, study.reference, contenders, ceilings, tuple(failures), "")
    return result._replace(sentence=_sentence(result))


def _sufficiency(summary: Mapping[str, float], ceilings: Mapping[str, Ceiling]) -> dict[str, float]:
    """Of the own heads where they are trained, and of linear probes, which need no trained head."""
    alone = {m: summary[f"test/accuracy_uni/{m}"] for m in ceilings if f"test/accuracy_uni/{m}" in summary}
    # Chance does not enter: sufficiency above chance belongs to a run, which knows its split's majority class.
    found = sufficiency(alone, {m: ceiling.head for m, ceiling in ceilings.items()}, chance=0.0)
    found = {key: value for key, value in found.items() if "above_chance" not in key}
    for m, ceiling in ceilings.items():
        probed = summary.get(f"probe/accuracy/{m}")
        if probed is not None and (ratio := sufficiency_ratio(probed, ceiling.probe)) is not None:
            found[f"sufficiency/probe_ratio/{m}"] = ratio
    return found


def _paired(reference: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]) -> Paired:
    shared = sorted(set(reference) & set(other))
    difference_S = 100 * np.asarray([reference[n]["test/accuracy"] - other[n]["test/accuracy"] for n in shared])
    seeds = len(shared)
    if seeds == 0:
        return Paired(float("nan"), float("nan"), -np.inf, np.inf, 0, 0)
    mean, wins = float(difference_S.mean()), int((difference_S > 0).sum())
    if seeds == 1:
        return Paired(mean, 0.0, -np.inf, np.inf, wins, 1)
    std = float(difference_S.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * std / np.sqrt(seeds)
    return Paired(mean, std, mean - half, mean + half, wins, seeds)


def headline(result: StudyResult) -> str:
    """The verdicts in a few words, for a picture's title: "remix: ahead of joint; level with remix_random"."""
    words = {"ahead": "ahead of", "open": "level with", "behind": "behind"}
    groups = {verdict: [c.name for c in result.rivals if c.ahead and c.ahead.verdict == verdict] for verdict in words}
    said = [f"{words[verdict]} {' and '.join(names)}" for verdict, names in groups.items() if names]
    return f"{result.reference}: {'; '.join(said)}" if said else result.reference


def _sentence(result: StudyResult) -> str:
    """What the numbers say, and no more."""
    name = result.reference
    seeds = max((c.ahead.seeds for c in result.contenders if c.ahead), default=0)
    if seeds < 2:
        return "One seed cannot tell a difference from luck: compare over at least two, better five or more."
    parts = []
    for c in result.rivals:
        if c.ahead is None:
            continue
        by = f"{abs(c.ahead.mean):.1f} points ({c.ahead.wins}/{c.ahead.seeds} seeds)"
        match c.ahead.verdict:
            case "ahead":
                said = f"{name} beats {c.name} by {by}"
                said += f", so {c.control_of} does help" if c.control_of else ""
            case "behind":
                said = f"{name} loses to {c.name} by {by}"
                said += f", so {c.control_of} does harm here" if c.control_of else ""
            case _:
                said = f"{name} and {c.name} cannot be told apart ({c.ahead.mean:+.1f} points, "
                said += f"{c.ahead.wins}/{c.ahead.seeds} seeds)"
                said += f", so nothing here shows that {c.control_of} helps" if c.control_of else ""
        parts.append(said)
    return f"Over {seeds} seeds, on a test split that chose nothing: " + "; ".join(parts) + "."
