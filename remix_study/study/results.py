"""Results: what a study found, as numbers and as one honest sentence

Contenders are compared with the reference seed by seed: the same seed draws the same initial weights and shuffles, so
that the paired difference is less noisy than the difference of means. All accuracies are of the test split.

Every other is a test of its own (paired t-test), so that the p values are adjusted for how many there are (Holm's
step-down, Scandinavian Journal of Statistics 6, 1979): a difference counts only if it stands after that.

No torch at import time: the report and the terminal show results without it.
"""

# S seeds

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError
from remix_study.study.ledger import REPLICATE, SEARCH, Ledger, ReplicateRecord, chosen_replicates

CONFIDENCE = 0.95
_EQUAL = 1e-9  # points by which equal differences of rounded numbers may differ


class Spread(NamedTuple):
    """Mean and sample standard deviation (0 for one value)."""

    mean: float
    std: float


class Paired(NamedTuple):
    """Reference minus method, in percentage points, over the seeds that both have.

    `low`, `high`: the t interval of the mean at 95 %; infinite for fewer than two seeds.
    p: of the two-sided paired t-test, in [0, 1]; None for fewer than two seeds.
    p_holm: the same, adjusted for the number of others; None where p is, and for a ceiling, which is no other.

    Where all differences are equal, as on a small test split they may well be, a t interval has no width and its p is
    0, whatever was found. There the sign test stands in: p = 2^(1 - seeds), or 1 if they are 0; `low` and `high` are
    the mean where that is below 5 %, from six seeds on, and infinite before.
    """

    mean: float
    std: float
    low: float
    high: float
    wins: int
    seeds: int
    p: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """`ahead`, `behind`, or `open`: the interval holds 0, or the difference falls to the other comparisons."""
        if self.p_holm is not None and self.p_holm >= 1 - CONFIDENCE:
            return "open"
        return self._alone

    @property
    def all_equal(self) -> bool:
        """Whether the seeds leave no spread to hold the difference against."""
        return self.seeds >= 2 and self.std == 0

    @property
    def corrected_away(self) -> bool:
        """Whether it would count as a difference, were it the only comparison."""
        return self.verdict == "open" and self._alone != "open"

    @property
    def _alone(self) -> str:
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


class Ceiling(NamedTuple):
    """What one modality reaches when trained alone, in [0, 1]: its own head, and a linear probe (if there is one)."""

    head: float
    probe: float | None


class Method(NamedTuple):
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
    methods: tuple[Method, ...]
    ceilings: dict[str, Ceiling]
    failures: tuple[str, ...]
    sentence: str

    @property
    def others(self) -> tuple[Method, ...]:
        """All but the unimodal ceilings."""
        return tuple(c for c in self.methods if c.ceiling_of is None)


def compare(
    study: StudyConfig,
    replicates: Mapping[str, Mapping[int, Mapping[str, float]]],
    best: Mapping[str, Mapping[str, Any]],
    failures: Sequence[str],
) -> StudyResult:
    """Put the replicates of all methods side by side; a method that has none yet is named and left out.

    Raises:
        StudyError: no method has a complete replicate.
    """
    seen = {name: replicates[name] for name in study.methods if replicates.get(name)}
    if not seen:
        raise StudyError(
            "at least one method needs a complete replicate, but none has any: "
            f"{'; '.join(failures) or 'none was run'}. Let the study run on."
        )
    ceilings = _ceilings(study, seen)
    ahead = _ahead(study, seen)
    methods = tuple(
        Method(
            name=name,
            params=best.get(name, {}),
            seeds={n: {**s, **_sufficiency(s, ceilings)} for n, s in seeds.items()},
            ceiling_of=study.methods[name].ceiling_of,
            control_of=study.methods[name].control_of,
            ahead=ahead.get(name),
        )
        for name, seeds in seen.items()
    )
    result = StudyResult(study.name, study.question, study.reference, methods, ceilings, tuple(failures), "")
    return result._replace(sentence=_sentence(result, [name for name in study.methods if name not in seen]))


def result_of(ledger: Ledger) -> StudyResult | None:
    """The comparison of what a study has so far: complete replicates of each method's chosen point; None without."""
    replicates: dict[str, dict[int, dict[str, float]]] = {}
    best: dict[str, dict[str, Any]] = {}
    failures = [
        f"{name}-{SEARCH}-{t.number}: {t.reason}"
        for name, trials in ledger.trials.items()
        for t in trials
        if t.state == "failed" and t.reason is not None and not t.retried
    ]
    for name in ledger.study.methods:
        chosen = ledger.chosen(name)
        if chosen is None:
            continue
        best[name] = chosen.params
        replicates[name] = {}
        for record in chosen_replicates(ledger, name):
            label = f"{name}-{REPLICATE}-{record.number}"
            if record.state == "failed":
                failures.append(f"{label}: {record.reason}")
            elif record.state == "complete":
                summary = _summary(record)
                if summary is None:
                    failures.append(f"{label}: it was complete, but {record.folder} has no result any more")
                else:
                    replicates[name][record.number] = summary
    return compare(ledger.study, replicates, best, failures) if any(replicates.values()) else None


def _summary(record: ReplicateRecord) -> dict[str, float] | None:
    from remix_study.launch.folder import RunFolder

    return RunFolder(Path(record.folder)).result()


def _ceilings(study: StudyConfig, replicates: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Ceiling]:
    found = {}
    for name, seeds in replicates.items():
        modality = study.methods[name].ceiling_of
        if modality is not None:
            probes = [s[f"probe/accuracy/{modality}"] for s in seeds.values() if f"probe/accuracy/{modality}" in s]
            head = float(np.mean([s["test/accuracy"] for s in seeds.values()]))
            found[modality] = Ceiling(head, float(np.mean(probes)) if probes else None)
    return found


def _sufficiency(summary: Mapping[str, float], ceilings: Mapping[str, Ceiling]) -> dict[str, float]:
    """Of the own heads where they are trained, and of linear probes, which need no trained head."""
    if not ceilings:
        return {}
    # Here and not above: they bring torch, which a look at a study without ceilings does not need.
    from remix_study.metrics import sufficiency_ratio
    from remix_study.training.evidence import sufficiency

    alone = {m: summary[f"test/accuracy_uni/{m}"] for m in ceilings if f"test/accuracy_uni/{m}" in summary}
    # Chance does not enter: sufficiency above chance belongs to a run, which knows its split's majority class.
    found = sufficiency(alone, {m: ceiling.head for m, ceiling in ceilings.items()}, chance=0.0)
    found = {key: value for key, value in found.items() if "above_chance" not in key}
    for m, ceiling in ceilings.items():
        probed = summary.get(f"probe/accuracy/{m}")
        if probed is None or ceiling.probe is None:
            continue
        ratio = sufficiency_ratio(probed, ceiling.probe)
        if ratio is not None:
            found[f"sufficiency/probe_ratio/{m}"] = ratio
    return found


def _ahead(study: StudyConfig, replicates: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Paired]:
    """The reference against each of the others; p values adjusted over the others, ceilings left out of the count."""
    if study.reference not in replicates:
        return {}
    reference = replicates[study.reference]
    found = {name: _paired(reference, seeds) for name, seeds in replicates.items() if name != study.reference}
    tested = {
        name: paired.p
        for name, paired in found.items()
        if paired.p is not None and study.methods[name].ceiling_of is None
    }
    adjusted = dict(zip(tested, holm(tested.values()), strict=True))
    return {name: paired._replace(p_holm=adjusted.get(name)) for name, paired in found.items()}


def _paired(reference: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]) -> Paired:
    from scipy import stats

    shared = sorted(set(reference) & set(other))
    difference_S = 100 * np.asarray([reference[n]["test/accuracy"] - other[n]["test/accuracy"] for n in shared])
    seeds = len(shared)
    if seeds == 0:
        return Paired(0.0, 0.0, -np.inf, np.inf, 0, 0)
    mean = float(difference_S.mean())
    wins = int((difference_S > 0).sum())
    if seeds == 1:
        return Paired(mean, 0.0, -np.inf, np.inf, wins, 1)
    if np.ptp(difference_S) < _EQUAL:
        p = 2.0 ** (1 - seeds) if abs(mean) > _EQUAL else 1.0
        low, high = (mean, mean) if p < 1 - CONFIDENCE else (-np.inf, np.inf)
        return Paired(mean, 0.0, low, high, wins, seeds, p)
    std = float(difference_S.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * std / np.sqrt(seeds))
    p = float(2 * stats.t.sf(abs(mean) / std * np.sqrt(seeds), seeds - 1))
    return Paired(mean, std, mean - half, mean + half, wins, seeds, p)


def holm(p_values: Iterable[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: the k-th smallest of n times n - k + 1, not falling, at most 1."""
    given = list(p_values)
    adjusted, floor = [0.0] * len(given), 0.0
    for rank, index in enumerate(sorted(range(len(given)), key=lambda i: given[i])):
        floor = max(floor, min(1.0, (len(given) - rank) * given[index]))
        adjusted[index] = floor
    return adjusted


def headline(result: StudyResult) -> str:
    """The verdicts in a few words, for a picture's title: "remix: ahead of joint; level with remix_random"."""
    if all(c.ahead is None or c.ahead.seeds < 2 for c in result.others):
        return f"{result.reference}: too few seeds to compare"
    words = {"ahead": "ahead of", "open": "level with", "behind": "behind"}
    groups = {verdict: [c.name for c in result.others if c.ahead and c.ahead.verdict == verdict] for verdict in words}
    said = [f"{words[verdict]} {' and '.join(names)}" for verdict, names in groups.items() if names]
    return f"{result.reference}: {'; '.join(said)}" if said else result.reference


def _sentence(result: StudyResult, missing: Sequence[str]) -> str:
    """What the numbers say, and no more."""
    name = result.reference
    left_out = f" Without a complete replicate, and so not compared: {', '.join(missing)}." if missing else ""
    if name in missing:
        return f"{name} has no complete replicate yet, so that nothing can be compared with it.{left_out}"
    compared = [(c, c.ahead) for c in result.others if c.ahead is not None]
    seeds = max((ahead.seeds for _, ahead in compared), default=0)
    if not compared:
        return f"Nothing can be compared with {name} yet.{left_out}" if missing else f"{name} has no other here."
    if seeds < 2:
        return f"One seed cannot tell a difference from luck: compare over at least two, better five or more.{left_out}"
    said = "; ".join(_finding(name, c, ahead) for c, ahead in compared)
    return f"Over {seeds} seeds, on a test split that chose nothing: {said}.{left_out}"


def _finding(name: str, c: Method, ahead: Paired) -> str:
    """One other's clause, with its confidence."""
    by, how_sure = f"{abs(ahead.mean):.1f} points", _confidence(ahead)
    match ahead.verdict:
        case "ahead":
            said = f"{name} beats {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} does help" if c.control_of else "")
        case "behind":
            said = f"{name} loses to {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} does harm here" if c.control_of else "")
        case _:
            why = ", once all comparisons are counted" if ahead.corrected_away else ""
            said = f"{name} and {c.name} cannot be told apart{why} ({ahead.mean:+.1f} points, {how_sure})"
            return said + (f", so nothing here shows that {c.control_of} helps" if c.control_of else "")


def _confidence(ahead: Paired) -> str:
    won = f"{ahead.wins}/{ahead.seeds} seeds"
    if ahead.p_holm is None:
        return won
    return f"{interval_text(ahead)}, {won}, Holm {p_text(ahead.p_holm)}"


def interval_text(ahead: Paired) -> str:
    """`95 % interval -1.2 to +3.4`, or why there is none."""
    if ahead.all_equal:
        return "the same in every seed, so no interval"
    return f"95 % interval {ahead.low:+.1f} to {ahead.high:+.1f}"


def p_text(p: float) -> str:
    """`p = 0.034`; a p value near 0 is not known to be 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
