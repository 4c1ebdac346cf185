"""Results of a study: the comparison of its methods, as numbers and as a sentence

Methods are compared with the reference seed by seed. The same seed gives the same initial weights and shuffles, so the
paired difference is less noisy than the difference of means. All accuracies are on the held-out test set.

Each method is compared by a paired t-test. The p values are adjusted for the number of tests (Holm's step-down method,
Scandinavian Journal of Statistics 6, 1979); a difference is reported only if the adjusted value is significant.

Does not import torch, so that the report and the terminal show results quickly.
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
_EQUAL = 1e-9  # in percentage points: tolerance for rounding


class Spread(NamedTuple):
    """Mean and sample standard deviation (0 for one value)."""

    mean: float
    std: float


class Paired(NamedTuple):
    """Test accuracy of the reference minus that of a method, in percentage points, over the seeds that both have.

    Attributes:
        mean, std: of the differences; `std` is the sample standard deviation.
        low, high: 95 % confidence interval of the mean (Student's t); infinite for fewer than two seeds.
        wins: seeds in which the reference is better.
        seeds: seeds that both have.
        p: of the two-sided paired t-test, in [0, 1]; None for fewer than two seeds.
        p_holm: `p` adjusted for the number of methods; None if `p` is, and for a unimodal ceiling, which is not
            counted.

    If all differences are equal, which happens on small test sets, the t interval has no width and its p is 0. The sign
    test is used instead: p = 2^(1 - seeds), or 1 if the differences are 0. `low` and `high` are then the mean if p is
    below 5 % (six seeds or more), and infinite otherwise.
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
        """Whether the reference is significantly `ahead` or `behind`; otherwise `open`."""
        if self.p_holm is not None and self.p_holm >= 1 - CONFIDENCE:
            return "open"
        return self._alone

    @property
    def all_equal(self) -> bool:
        """Whether the difference is the same in every seed, so that it has no spread."""
        return self.seeds >= 2 and self.std == 0

    @property
    def corrected_away(self) -> bool:
        """Whether the difference is significant before, but not after the adjustment for several tests."""
        return self.verdict == "open" and self._alone != "open"

    @property
    def _alone(self) -> str:
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


class Ceiling(NamedTuple):
    """Test accuracy of one modality trained alone, in [0, 1]: of its head, and of a linear probe if there is one."""

    head: float
    probe: float | None


class Method(NamedTuple):
    """The replicates of a method and its comparison with the reference.

    Attributes:
        params: the chosen hyperparameters.
        seeds: replicate number -> summary of the run, with its sufficiency.
        ceiling_of: the modality whose unimodal ceiling this method is, or None.
        control_of: what the method is a control of, or None.
        ahead: the reference minus this method; None for the reference.
    """

    name: str
    params: Mapping[str, Any]
    seeds: dict[int, dict[str, float]]
    ceiling_of: str | None
    control_of: str | None
    ahead: Paired | None

    def values(self, metric: str) -> NDArray[np.float64]:
        """values_S of a metric: one for each seed that has it, in the order of the seeds."""
        return np.asarray([s[metric] for _, s in sorted(self.seeds.items()) if metric in s], dtype=np.float64)

    def spread(self, metric: str, scale: float = 1.0) -> Spread | None:
        """Mean and deviation of `scale` times a metric over the seeds; None if no seed has it."""
        values_S = self.values(metric) * scale
        if len(values_S) == 0:
            return None
        return Spread(float(values_S.mean()), float(values_S.std(ddof=1)) if len(values_S) > 1 else 0.0)


class StudyResult(NamedTuple):
    """The comparison of a study's methods.

    Attributes:
        methods: those that have a complete replicate, in the order of the study file.
        ceilings: modality -> mean accuracies over the replicates of its unimodal ceiling.
        failures: what failed, with the reasons.
        sentence: the comparison as text.
    """

    name: str
    question: str
    reference: str
    methods: tuple[Method, ...]
    ceilings: dict[str, Ceiling]
    failures: tuple[str, ...]
    sentence: str

    @property
    def others(self) -> tuple[Method, ...]:
        """The methods without the unimodal ceilings."""
        return tuple(c for c in self.methods if c.ceiling_of is None)


def compare(
    study: StudyConfig,
    replicates: Mapping[str, Mapping[int, Mapping[str, float]]],
    best: Mapping[str, Mapping[str, Any]],
    failures: Sequence[str],
) -> StudyResult:
    """Compare the methods of a study. A method without a complete replicate is left out and named in the sentence.

    Args:
        replicates: method -> replicate number -> summary of the run.
        best: method -> its chosen hyperparameters.
        failures: what failed, with the reasons.

    Raises:
        StudyError: no method has a complete replicate.
    """
    seen = {name: replicates[name] for name in study.methods if replicates.get(name)}
    if not seen:
        raise StudyError(
            f"Cannot compare methods: none has a complete replicate ({'; '.join(failures) or 'none was run'}). Resume "
            "the study first."
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
    """The comparison from all replicates so far of the chosen hyperparameters; None if none is complete."""
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
                    failures.append(f"{label}: was complete, but {record.folder} no longer has a result")
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
    """Sufficiency of the unimodal heads, if they are trained, and of linear probes, as metrics."""
    if not ceilings:
        return {}
    # Imported here, because they import torch, which a study without ceilings does not need.
    from remix_study.metrics import sufficiency_ratio
    from remix_study.training.final_evaluation import sufficiency

    alone = {m: summary[f"test/accuracy_uni/{m}"] for m in ceilings if f"test/accuracy_uni/{m}" in summary}
    # Sufficiency above chance is left out: only the run itself knows the majority class of its split.
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
    """The reference minus each other method; p values are adjusted for the number of methods without ceilings."""
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
    """Holm's adjusted p values, in the order given.

    The k-th smallest of n values is multiplied by n - k + 1. Adjusted values do not decrease and are at most 1.
    """
    given = list(p_values)
    adjusted, floor = [0.0] * len(given), 0.0
    for rank, index in enumerate(sorted(range(len(given)), key=lambda i: given[i])):
        floor = max(floor, min(1.0, (len(given) - rank) * given[index]))
        adjusted[index] = floor
    return adjusted


def headline(result: StudyResult) -> str:
    """The comparison as the title of a figure: "remix: ahead of joint; level with remix_random"."""
    if all(c.ahead is None or c.ahead.seeds < 2 for c in result.others):
        return f"{result.reference}: too few seeds to compare"
    words = {"ahead": "ahead of", "open": "level with", "behind": "behind"}
    groups = {verdict: [c.name for c in result.others if c.ahead and c.ahead.verdict == verdict] for verdict in words}
    said = [f"{words[verdict]} {' and '.join(names)}" for verdict, names in groups.items() if names]
    return f"{result.reference}: {'; '.join(said)}" if said else result.reference


def _sentence(result: StudyResult, missing: Sequence[str]) -> str:
    """The comparison as text. `missing`: methods without a complete replicate."""
    name = result.reference
    left_out = f" Not compared, because they have no complete replicate: {', '.join(missing)}." if missing else ""
    if name in missing:
        return f"{name} has no complete replicate yet, so no method can be compared with it.{left_out}"
    compared = [(c, c.ahead) for c in result.others if c.ahead is not None]
    seeds = max((ahead.seeds for _, ahead in compared), default=0)
    if not compared:
        if missing:
            return f"No method can be compared with {name} yet.{left_out}"
        return f"{name} is the only method of this study: it is compared with none."
    if seeds < 2:
        return f"One seed is too few for a comparison: use at least two, better five or more.{left_out}"
    said = "; ".join(_finding(name, c, ahead) for c, ahead in compared)
    return f"On the held-out test set ({seeds} seeds): {said}.{left_out}"


def _finding(name: str, c: Method, ahead: Paired) -> str:
    """The comparison of the reference `name` with one method, as a clause."""
    by, how_sure = f"{abs(ahead.mean):.1f} points", _confidence(ahead)
    match ahead.verdict:
        case "ahead":
            said = f"{name} beats {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} helps" if c.control_of else "")
        case "behind":
            said = f"{name} loses to {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} hurts here" if c.control_of else "")
        case _:
            why = " after the correction for several comparisons" if ahead.corrected_away else ""
            said = f"no significant difference between {name} and {c.name}{why} ({ahead.mean:+.1f} points, {how_sure})"
            return said + (f", so there is no evidence that {c.control_of} helps" if c.control_of else "")


def _confidence(ahead: Paired) -> str:
    won = f"{ahead.wins}/{ahead.seeds} seeds"
    if ahead.p_holm is None:
        return won
    return f"{interval_text(ahead)}, {won}, Holm {p_text(ahead.p_holm)}"


def interval_text(ahead: Paired) -> str:
    """`95 % interval -1.2 to +3.4`, or why there is no interval."""
    if ahead.all_equal:
        return "the same difference in every seed, so no interval"
    return f"95 % interval {ahead.low:+.1f} to {ahead.high:+.1f}"


def p_text(p: float) -> str:
    """`p = 0.034`, or `p < 0.001` for smaller values."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
