"""Numbers of the search, computed before anything is drawn

    budgets            the trials, replicates and seconds that each method used
    work               its epochs, updates, samples and multiply-adds
    progress           every trial's value, and the best value so far
    pruned             intermediate values of pruned trials
    slices, parallels  hyperparameters against the objective
    fronts             the Pareto front of several objectives
    failures           failed runs, grouped by their reason

Values of the objective are of complete trials only; pruned and failed trials are reported separately. Accuracies are
fractions in [0, 1]; charts show percent. Large studies are thinned: `shown` of `total` items remain.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from remix_study.config.study import ChoiceDimension, Dimension, StudyConfig
from remix_study.study.ledger import (
    FINAL,
    REPLICATE,
    SEARCH,
    Ledger,
    ReplicateRecord,
    TrialRecord,
    chosen_replicates,
    pareto_front,
    summed,
)
from remix_study.study.needed import needed_methods
from remix_study.study.search_space import space_of

T = TypeVar("T")
POINTS = 2400  # most points of one panel, all methods together; more points overlap and slow the page down
CURVES = 200  # most curves of pruned trials, all methods together
LINES = 200  # most parallel coordinates of one method
_ABSENT = object()  # not searched in this trial; None may be a value


class Budget(NamedTuple):
    """What a method used: numbers of trials by their state, of replicates, and seconds.

    `failed` counts failed trials that were not retried, `retried` the others. Seconds are running time, summed over all
    seeds and all starts. `needs`: the methods whose runs it needs, which were trained once and took `needed_s` seconds.
    `replays`: the method that it replays, and whose configuration it has; None if it has a search of its own.
    """

    method: str
    complete: int
    pruned: int
    failed: int
    retried: int
    running: int
    replicates: int
    search_s: float
    replicate_s: float
    final_s: float
    needs: tuple[str, ...] = ()
    needed_s: float = 0.0
    replays: str | None = None

    @property
    def trials(self) -> int:
        """The number of trials that count against the budget."""
        return self.complete + self.pruned + self.failed

    @property
    def total_s(self) -> float:
        return self.search_s + self.replicate_s + self.final_s


def budgets(ledger: Ledger) -> tuple[Budget, ...]:
    """The budget of every method of the study, also of one without trials."""
    found = []
    for name in ledger.study.methods:
        trials = ledger.trials.get(name, ())
        records = (*ledger.replicates.get(name, ()), *ledger.superseded.get(name, ()))
        of = {
            state: sum(t.state == state and not t.retried for t in trials) for state in ("complete", "pruned", "failed")
        }
        found.append(
            Budget(
                method=name,
                complete=of["complete"],
                pruned=of["pruned"],
                failed=of["failed"],
                retried=sum(t.retried for t in trials),
                running=sum(t.state == "running" for t in trials),
                replicates=sum(r.state == "complete" for r in chosen_replicates(ledger, name)),
                search_s=sum(t.seconds for t in trials),
                replicate_s=sum(r.seconds for r in records if r.stage == REPLICATE),
                final_s=sum(r.seconds for r in records if r.stage == FINAL),
                replays=None if ledger.study.trials_of(name) else ledger.study.searched(name),
            )
        )
    needs, own_s = needed_methods(ledger.study, {}), {b.method: b.total_s for b in found}
    return tuple(
        b._replace(needs=tuple(others), needed_s=sum(own_s[other] for other in others))
        for b in found
        for others in (needs[b.method].values(),)
    )


class Work(NamedTuple):
    """What some runs of a method were given.

    `part`: trials or replicates by state; replicates of configurations that were chosen earlier are `superseded`.
    `runs`: their number. `given`: epochs, updates and samples of each encoder, and multiply-adds, as in
    `RunFolder.work`; empty if older versions did not record them.
    """

    method: str
    part: str
    runs: int
    given: Mapping[str, float]


def work(ledger: Ledger) -> tuple[Work, ...]:
    """What every method was given, by part; parts without runs are left out.

    A retried trial counts as failed. Trials and replicates that have not ended count with what is recorded of them.
    """
    found = []
    for name in ledger.study.methods:
        chosen = chosen_replicates(ledger, name)
        records, earlier = (
            [r for r in runs.get(name, ()) if r.stage == REPLICATE] for runs in (ledger.replicates, ledger.superseded)
        )
        parts: dict[str, list[TrialRecord | ReplicateRecord]] = {}
        for state in ("complete", "pruned", "failed"):
            parts[f"{state} trials"] = [t for t in ledger.trials.get(name, ()) if t.state == state]
        parts["unfinished trials"] = [t for t in ledger.trials.get(name, ()) if t.state in ("running", "stopped")]
        for state in ("complete", "failed"):
            parts[f"{state} replicates"] = [r for r in chosen if r.state == state]
        parts["unfinished replicates"] = [r for r in chosen if r.state not in ("complete", "failed")]
        parts["superseded replicates"] = [r for r in (*records, *earlier) if r not in chosen]
        found += [Work(name, part, len(runs), summed(r.work for r in runs)) for part, runs in parts.items() if runs]
    return tuple(found)


class Progress(NamedTuple):
    """The search of one method.

    `values[i]` belongs to the complete trial `numbers[i]`. `best` holds each new best value, `best_numbers` its trial.
    `pruned` and `failed` are numbers of trials without a value. `last` is the number of the last finished trial,
    `total` the number of complete trials before thinning.
    """

    method: str
    numbers: tuple[int, ...]
    values: tuple[float, ...]
    best_numbers: tuple[int, ...]
    best: tuple[float, ...]
    pruned: tuple[int, ...]
    failed: tuple[int, ...]
    last: int
    total: int


def progress(ledger: Ledger) -> tuple[Progress, ...]:
    """The search of every method by the first objective; methods without a finished trial are left out."""
    better = _better(ledger.study)
    found = []
    for name, trials in ledger.trials.items():
        complete = _complete(trials)
        ended = [t for t in trials if t.state in ("complete", "pruned", "failed")]
        if not ended:
            continue
        steps: list[TrialRecord] = []
        for t in complete:
            if not steps or better(t.values[0], steps[-1].values[0]):
                steps.append(t)
        room = POINTS // len(ledger.trials)
        shown = thin(complete, room)
        found.append(
            Progress(
                name,
                tuple(t.number for t in shown),
                tuple(t.values[0] for t in shown),
                tuple(t.number for t in steps),
                tuple(t.values[0] for t in steps),
                tuple(t.number for t in thin([t for t in trials if t.state == "pruned"], room)),
                tuple(t.number for t in thin([t for t in trials if t.state == "failed"], room)),
                ended[-1].number,
                len(complete),
            )
        )
    return tuple(found)


class PrunedCurve(NamedTuple):
    """`values[i]` is the best value so far of the pruner's metric after `epochs[i]` epochs."""

    method: str
    number: int
    epochs: tuple[int, ...]
    values: tuple[float, ...]


class Pruned(NamedTuple):
    curves: tuple[PrunedCurve, ...]
    total: int


def pruned(ledger: Ledger) -> Pruned:
    """Intermediate values of the pruned trials."""
    ended = [t for trials in ledger.trials.values() for t in trials if t.state == "pruned"]
    having = [t for t in ended if t.intermediate]
    curves = tuple(
        PrunedCurve(t.method, t.number, tuple(steps), tuple(t.intermediate[s] for s in steps))
        for t in thin(having, CURVES)
        for steps in [sorted(t.intermediate)]
    )
    return Pruned(curves, len(ended))


class Slice(NamedTuple):
    """One hyperparameter against the first objective.

    `points[method]`: (values of the hyperparameter, values of the objective). `scale`: `log`, `linear` or `choice`.
    `labels`: options of a choice, in the order of the search space. `bounds`: the searched range over all methods; None
    for a choice.
    """

    parameter: str
    scale: Literal["log", "linear", "choice"]
    labels: tuple[str, ...]
    bounds: tuple[float, float] | None
    points: dict[str, tuple[tuple[Any, ...], tuple[float, ...]]]
    shown: int
    total: int


def slices(ledger: Ledger) -> tuple[Slice, ...]:
    """One slice per hyperparameter, of complete trials; methods that search the same one share a slice."""
    points: dict[str, dict[str, list[TrialRecord]]] = defaultdict(dict)
    dimensions: dict[str, Dimension] = {}
    for name, trials in ledger.trials.items():
        for path, dimension in space_of(ledger.study, ledger.study.methods[name]).items():
            having = [t for t in _complete(trials) if path in t.params]
            if having:
                points[path][name] = having
                dimensions.setdefault(path, dimension)
    found = []
    for path, of_methods in points.items():
        labels = tuple(dict.fromkeys(label for name in of_methods for label in _labels(ledger.study, name, path)))
        if labels:  # and options of an earlier version of the study
            values = (str(t.params[path]) for trials in of_methods.values() for t in trials)
            labels = tuple(dict.fromkeys((*labels, *values)))
        room = POINTS // len(of_methods)
        kept = {name: thin(trials, room, best=_sign(ledger.study)) for name, trials in of_methods.items()}
        found.append(
            Slice(
                parameter=path,
                scale="choice" if labels else _scale(dimensions[path]),
                labels=labels,
                bounds=None if labels else _bounds(ledger.study, of_methods, path),
                points={
                    name: (
                        tuple(str(t.params[path]) if labels else t.params[path] for t in trials),
                        tuple(t.values[0] for t in trials),
                    )
                    for name, trials in kept.items()
                },
                shown=sum(map(len, kept.values())),
                total=sum(map(len, of_methods.values())),
            )
        )
    return tuple(found)


class ParallelAxis(NamedTuple):
    """An axis of parallel coordinates. `ticks`: (position in [0, 1], label)."""

    name: str
    log: bool
    ticks: tuple[tuple[float, str], ...]


class Parallel(NamedTuple):
    """Complete trials of one method as parallel coordinates.

    `lines[i][a]`: position of trial i on axis a in [0, 1]; None if the trial has no such hyperparameter. The last axis
    is the objective, from `ends[0]` (worst) to `ends[1]` (best). `groups[i]`: `best` (the best tenth), `better` (the
    rest of the better half) or `worse`.
    """

    method: str
    axes: tuple[ParallelAxis, ...]
    ends: tuple[float, float]
    lines: tuple[tuple[float | None, ...], ...]
    groups: tuple[str, ...]
    total: int


def parallels(ledger: Ledger) -> tuple[Parallel, ...]:
    """For each method with at least two searched hyperparameters and two complete trials."""
    found = []
    for name, trials in ledger.trials.items():
        space = space_of(ledger.study, ledger.study.methods[name])
        complete = _complete(trials)
        if len(space) < 2 or len(complete) < 2:
            continue
        sign = _sign(ledger.study)
        ranked = sorted(complete, key=lambda t: (-sign * t.values[0], t.number))
        tenth, half = math.ceil(len(ranked) / 10), math.ceil(len(ranked) / 2)
        group = {t.number: "best" if i < tenth else "better" if i < half else "worse" for i, t in enumerate(ranked)}
        shown = thin(complete, LINES, best=sign)
        axes, columns = [], []
        for path, dimension in space.items():
            axis, column = _parallel_axis(path, dimension, [t.params.get(path, _ABSENT) for t in shown])
            axes.append(axis)
            columns.append(column)
        low, high = min(t.values[0] for t in complete), max(t.values[0] for t in complete)
        bottom, top = (low, high) if sign > 0 else (high, low)
        axes.append(ParallelAxis(ledger.study.metrics[0], False, ()))
        columns.append([_place(t.values[0], bottom, top) for t in shown])
        lines = tuple(zip(*columns, strict=True))
        groups = tuple(group[t.number] for t in shown)
        found.append(Parallel(name, tuple(axes), (bottom, top), lines, groups, len(complete)))
    return tuple(found)


class Front(NamedTuple):
    """Complete trials of one method by two objectives.

    `front` (sorted by `xs`) and `chosen` are indices into `xs` and `ys`. `total`: the number of complete trials before
    thinning.
    """

    method: str
    numbers: tuple[int, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    front: tuple[int, ...]
    chosen: int | None
    total: int


def fronts(ledger: Ledger, other: int = 1) -> tuple[Front, ...]:
    """The first objective against objective number `other`; empty if the study has no such objective."""
    if len(ledger.study.objective) <= other:
        return ()
    found = []
    for name, trials in ledger.trials.items():
        complete = _complete(trials)
        if not complete or len(ledger.study.objectives_of(name)) <= other:
            continue
        best = {t.number for t in pareto_front(ledger.study, trials)}
        others = thin([t for t in complete if t.number not in best], POINTS // len(ledger.trials))
        shown = sorted([*others, *(t for t in complete if t.number in best)], key=lambda t: t.number)
        chosen = ledger.chosen(name)
        place = {t.number: i for i, t in enumerate(shown)}
        found.append(
            Front(
                name,
                tuple(t.number for t in shown),
                tuple(t.values[0] for t in shown),
                tuple(t.values[other] for t in shown),
                tuple(sorted((place[n] for n in best), key=lambda i: shown[i].values[0])),
                None if chosen is None else place[chosen.number],
                len(complete),
            )
        )
    return tuple(found)


class Failure(NamedTuple):
    """Runs of one method and stage that failed for the same reason.

    `folder`: of the first of them, relative to the study's folder if it is inside; "" if it had none.
    """

    method: str
    stage: str
    cause: str
    reason: str
    numbers: tuple[int, ...]
    retried: int
    folder: str


def failures(ledger: Ledger) -> tuple[Failure, ...]:
    """Failures, most frequent first. An interrupted run that was resumed is not a failure."""
    alike: dict[tuple[str, str, str, str], list[tuple[int, bool, str]]] = defaultdict(list)
    for name, trials in ledger.trials.items():
        for t in trials:
            if t.state == "failed" and t.reason is not None:
                key = (name, SEARCH, t.cause or "other", t.reason)
                alike[key].append((t.number, t.retried, t.folders[-1] if t.folders else ""))
    for name, records in ledger.replicates.items():
        for r in records:
            if r.state == "failed":
                alike[name, r.stage, r.cause or "other", r.reason or "no reason recorded"].append(
                    (r.number, False, r.folder)
                )
    found = [
        Failure(
            *key, tuple(n for n, _, _ in runs), sum(again for _, again, _ in runs), _within(runs[0][2], ledger.folder)
        )
        for key, runs in alike.items()
    ]
    return tuple(sorted(found, key=lambda f: -len(f.numbers)))


# --- help ------------------------------------------------------------------------------------------------------------


def thin(items: Sequence[T], limit: int, best: int | None = None) -> list[T]:
    """At most `limit` of `items`, evenly spaced, in their order.

    With `best` (1: greater values are better, -1: smaller), items must be trials, and half of the limit is reserved for
    the best ones.
    """
    if len(items) <= limit:
        return list(items)
    first: list[int] = []
    if best is not None:
        by_value = sorted(range(len(items)), key=lambda i: (-best * items[i].values[0], i))  # type: ignore[attr-defined]  # trials
        first = by_value[: limit // 2]
    taken = set(first)
    rest = [i for i in range(len(items)) if i not in taken]
    wanted = limit - len(first)
    spaced = [rest[k * (len(rest) - 1) // max(1, wanted - 1)] for k in range(wanted)]
    return [items[i] for i in sorted(taken | set(spaced))]


def _within(path: str, folder: Path) -> str:
    inside = Path(path)
    return str(inside.relative_to(folder)) if path and inside.is_relative_to(folder) else path


def _complete(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.state == "complete" and t.values and math.isfinite(t.values[0])]


def _sign(study: StudyConfig) -> int:
    return 1 if study.objective[0].direction == "maximize" else -1


def _better(study: StudyConfig) -> Any:
    sign = _sign(study)
    return lambda one, other: sign * one > sign * other


def _scale(dimension: Dimension) -> Literal["log", "linear", "choice"]:
    if isinstance(dimension, ChoiceDimension):
        return "choice"
    return "log" if dimension.log else "linear"


def _labels(study: StudyConfig, method: str, path: str) -> list[str]:
    dimension = space_of(study, study.methods[method])[path]
    return [str(label) for label in dimension.of] if isinstance(dimension, ChoiceDimension) else []


def _bounds(study: StudyConfig, of_methods: Mapping[str, Sequence[TrialRecord]], path: str) -> tuple[float, float]:
    """The searched range, extended to the values of trials, since an earlier version may have had another range."""
    values = [float(t.params[path]) for trials in of_methods.values() for t in trials]
    for name in of_methods:
        dimension = space_of(study, study.methods[name])[path]
        if not isinstance(dimension, ChoiceDimension):
            values += [float(dimension.low), float(dimension.high)]
    return min(values), max(values)


def _parallel_axis(path: str, dimension: Dimension, values: list[Any]) -> tuple[ParallelAxis, list[float | None]]:
    if isinstance(dimension, ChoiceDimension):
        labels = [str(label) for label in dimension.of]
        places = {label: 0.5 if len(labels) == 1 else i / (len(labels) - 1) for i, label in enumerate(labels)}
        # An option of an earlier version of the study has no position on this axis.
        column = [None if v is _ABSENT else places.get(str(v)) for v in values]
        return ParallelAxis(path, False, tuple((place, label) for label, place in places.items())), column
    low, high = float(dimension.low), float(dimension.high)
    ends = ((0.0, _short(low)), (1.0, _short(high)))
    if dimension.log:
        spread = [None if v is _ABSENT else _place(math.log(v), math.log(low), math.log(high)) for v in values]
    else:
        spread = [None if v is _ABSENT else _place(float(v), low, high) for v in values]
    return ParallelAxis(path, dimension.log, ends), spread


def _place(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _short(value: float) -> str:
    return f"{value:.3g}"
