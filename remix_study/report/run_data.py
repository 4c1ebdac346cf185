"""Numbers of the runs that train the chosen configurations, computed before anything is drawn

    runs_of                      histories and summaries of a method's replicates
    bands                        a metric over epochs: mean and standard deviation over those runs
    methods_quantities           what the runs recorded of added methods
    parts                        where the time of one run went
    costs                        time, work and memory of every method, relative to joint training
    accuracies, differences      test accuracy of every method, and paired differences from the reference
    heads, measured              unimodal heads, probes and balance of every method

Accuracies are fractions in [0, 1]; charts show percent.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from remix_study.figures.quantities import Quantity, quantities
from remix_study.modality import canonical_order
from remix_study.statistics import Estimate, mean_over_seeds
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import Ledger, chosen_replicates
from remix_study.study.outcomes import Paired

History = Sequence[Mapping[str, float]]  # one record per epoch of one run; names as in docs/metrics.md


# --- runs of the chosen configurations -------------------------------------------------------------------------------


class Runs(NamedTuple):
    """Runs of a method's chosen configuration.

    `source`: `replicates`, or `search` (the chosen trial) if there are none yet. `summaries`: of the complete runs.
    """

    method: str
    source: Literal["replicates", "search"]
    histories: tuple[History, ...]
    summaries: tuple[Mapping[str, float], ...]
    score: str | None


def runs_of(ledger: Ledger, method: str) -> Runs | None:
    """Read the run folders of a method's complete replicates, or of its chosen trial if there are none.

    Returns:
        None if no trial is complete, or if the method replays another one and has no replicate. Missing folders are
        skipped.
    """
    chosen = ledger.chosen(method)
    if chosen is None:
        return None
    replicates = [r.folder for r in chosen_replicates(ledger, method) if r.state == "complete"]
    if not replicates and ledger.study.searched(method) != method:  # the chosen trial is of another method
        return None
    source: Literal["replicates", "search"] = "replicates" if replicates else "search"
    folders = [Path(folder) for folder in replicates or chosen.folders]
    read = [_read(folder) for folder in folders]
    known = [(history, summary) for history, summary, _ in read if history]
    score = next((score for _, _, score in read if score is not None), None)
    return Runs(method, source, tuple(h for h, _ in known), tuple(s for _, s in known if s is not None), score)


def _read(folder: Path) -> tuple[History, Mapping[str, float] | None, str | None]:
    """History, summary, and `method.score` of a run, which determines the unit of its scores."""
    from remix_study.launch.folder import RunFolder  # imports torch, which would slow down `--help`

    run = RunFolder(folder)
    return run.history, run.result(), (run.config().get("method") or {}).get("score")


class Band(NamedTuple):
    """A metric of one method over epochs: mean over the runs that have it, and ± one standard deviation."""

    method: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: int


def band(method: str, histories: Iterable[History], metric: str) -> Band | None:
    """The band of one method; None if no run has the metric."""
    values: dict[int, list[float]] = defaultdict(list)
    runs = 0
    for history in histories:
        points = [
            (int(record.get("epoch", position)), float(record[metric]))
            for position, record in enumerate(history)
            if math.isfinite(record.get(metric, math.nan))
        ]
        runs += bool(points)
        for epoch, value in points:
            values[epoch].append(value)
    if not values:
        return None
    epochs = sorted(values)
    mean = [float(np.mean(values[e])) for e in epochs]
    std = [float(np.std(values[e], ddof=1)) if len(values[e]) > 1 else 0.0 for e in epochs]
    return Band(
        method,
        tuple(epochs),
        tuple(mean),
        tuple(m - s for m, s in zip(mean, std, strict=True)),
        tuple(m + s for m, s in zip(mean, std, strict=True)),
        runs,
    )


def bands(runs: Iterable[Runs], metric: str) -> tuple[Band, ...]:
    found = [band(r.method, r.histories, metric) for r in runs]
    return tuple(b for b in found if b is not None)


def modalities(runs: Iterable[Runs], result: StudyResult | None) -> tuple[str, ...]:
    """The modalities of all runs, in the canonical order."""
    prefixes = ("val/accuracy_uni/", "val/accuracy_only/", "remix/share/", "probe/accuracy/", "test/accuracy_uni/")
    records = [h[-1] for r in runs for h in r.histories if h] + [s for r in runs for s in r.summaries]
    records += [s for c in (result.methods if result else ()) for s in c.seeds.values()]
    names = {key.removeprefix(p) for record in records for key in record for p in prefixes if key.startswith(p)}
    return canonical_order(names)


def methods_quantities(runs: Iterable[Runs]) -> dict[str, list[Quantity]]:
    """Added method -> the quantities that any run recorded of it."""
    return quantities(record for r in runs for history in r.histories for record in history)


class Parts(NamedTuple):
    """Mean seconds of one run of the chosen configuration, by part."""

    method: str
    score: float
    train: float
    evaluate: float
    evidence: float


def parts(runs: Iterable[Runs]) -> tuple[Parts, ...]:
    names = ("time/total_score_s", "time/total_train_s", "time/total_evaluate_s", "time/evidence_s")
    return tuple(
        Parts(r.method, *(float(np.mean([s.get(name, 0.0) for s in r.summaries])) for name in names))
        for r in runs
        if r.summaries
    )


class Cost(NamedTuple):
    """What a method costs, as means over its replicates.

    Attributes:
        training: seconds of training and of preparing epochs, divided by those of the baseline; with its interval over
            the seeds of both.
        multiply_adds: of training, divided by those of the baseline.
        inference: time of a prediction, divided by that of the baseline; of the fastest replicate of each, since other
            processes only make a pass slower.
        training_s, inference_s, peak_bytes: absolute, on a GPU only.
    """

    method: str
    training: Estimate | None
    multiply_adds: float | None
    inference: float | None
    training_s: float | None
    inference_s: float | None
    peak_bytes: float | None


_TIME, _WORK, _PREDICTION, _MEMORY = "time", "train/total_multiply_adds", "time/inference_s", "memory/peak_bytes"


def baseline(result: StudyResult) -> str:
    """The method whose cost is 1: joint training, or the reference if the study has none."""
    joint = [c.name for c in result.others if c.family == ("joint",) and c.control_of is None]
    return joint[0] if joint else result.reference


def costs(result: StudyResult) -> tuple[Cost, ...]:
    """The cost of every method relative to that of `baseline`; empty if the baseline has no replicate."""
    seeds = {c.name: {n: _timed(summary) for n, summary in c.seeds.items()} for c in result.methods}
    one = seeds.get(baseline(result))
    if one is None:
        return ()
    found = []
    for name, own in seeds.items():
        mean = {key: float(np.mean(values)) if (values := [s[key] for s in own.values() if key in s]) else None
                for key in (_TIME, _MEMORY)}  # fmt: skip
        on_gpu = mean[_MEMORY] is not None
        work = _relative(own, one, _WORK)
        fastest = [
            min((s[_PREDICTION] for s in each.values() if _PREDICTION in s), default=None) for each in (own, one)
        ]
        found.append(
            Cost(
                name, _relative(own, one, _TIME), None if work is None else work.mean,
                fastest[0] / fastest[1] if fastest[0] is not None and fastest[1] else None,
                mean[_TIME] if on_gpu else None, fastest[0] if on_gpu else None, mean[_MEMORY],
            )
        )  # fmt: skip
    return tuple(found)


def _timed(summary: Mapping[str, float]) -> dict[str, float]:
    """The summary of a run with the seconds of training and of preparing epochs as `time`."""
    parts = ("time/total_train_s", "time/total_score_s")
    whole = {_TIME: sum(summary[part] for part in parts)} if all(part in summary for part in parts) else {}
    return {**summary, **whole}


def _relative(
    own: Mapping[int, Mapping[str, float]], one: Mapping[int, Mapping[str, float]], metric: str
) -> Estimate | None:
    """The ratio of a metric to that of the baseline, as the mean over the seeds of both."""
    values = [own[n][metric] / one[n][metric] for n in sorted(own.keys() & one.keys())
              if metric in own[n] and one[n].get(metric)]  # fmt: skip
    return mean_over_seeds(np.asarray(values, dtype=np.float64)) if values else None


# --- the comparison --------------------------------------------------------------------------------------------------


class Accuracies(NamedTuple):
    """Test accuracies of one method, per replicate, in [0, 1]."""

    method: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: Estimate
    ceiling_of: str | None


def accuracies(result: StudyResult) -> tuple[Accuracies, ...]:
    """Test accuracies, best mean first, unimodal ceilings last."""
    found = []
    for c in result.methods:
        mean = c.estimate("test/accuracy")
        if mean is not None:
            seeds = tuple(n for n in sorted(c.seeds) if "test/accuracy" in c.seeds[n])
            found.append(Accuracies(c.name, seeds, tuple(c.values("test/accuracy")), mean, c.ceiling_of))
    return tuple(sorted(found, key=lambda a: (a.ceiling_of is not None, -a.mean.mean)))


class Difference(NamedTuple):
    """Test accuracy of the reference minus that of `method`, in percentage points."""

    method: str
    ahead: Paired


def differences(result: StudyResult) -> tuple[Difference, ...]:
    """Differences to methods with at least two seeds in common (one gives no interval), greatest first."""
    found = [Difference(c.name, c.ahead) for c in result.others if c.ahead is not None and c.ahead.seeds >= 2]
    return tuple(sorted(found, key=lambda d: -d.ahead.mean))


class Head(NamedTuple):
    """Test accuracy in [0, 1] of one method's unimodal head and probe of one modality.

    `sufficiency`: of the probe, its ratio to that of the modality alone; None without a ceiling.
    """

    method: str
    own: Estimate | None
    probe: Estimate | None
    sufficiency: float | None = None


class Heads(NamedTuple):
    """Unimodal head and linear probe of every method for one modality, and the accuracy of the modality alone."""

    modality: str
    rows: tuple[Head, ...]
    ceiling_own: float | None
    ceiling_probe: float | None


def heads(result: StudyResult, names: Sequence[str]) -> tuple[Heads, ...]:
    found = []
    for m in names:
        rows = [
            Head(
                c.name,
                c.estimate(f"test/accuracy_uni/{m}"),
                c.estimate(f"probe/accuracy/{m}"),
                None if (ratio := c.estimate(f"sufficiency/probe_ratio/{m}")) is None else ratio.mean,
            )
            for c in result.methods
        ]
        ceiling = result.ceilings.get(m)
        found.append(
            Heads(
                m,
                tuple(row for row in rows if row.own is not None or row.probe is not None),
                None if ceiling is None else ceiling.head,
                None if ceiling is None else ceiling.probe,
            )
        )
    return tuple(h for h in found if h.rows)


class Measured(NamedTuple):
    """One metric of the replicates, for each method."""

    metric: str
    rows: tuple[tuple[str, Estimate], ...]


def measured(result: StudyResult, metric: str) -> Measured | None:
    found = [(c.name, c.estimate(metric)) for c in result.methods]
    known = tuple((name, mean) for name, mean in found if mean is not None)
    return Measured(metric, known) if known else None
