"""Charts of the search: history, pruned trials, importances, hyperparameters, Pareto fronts, and time

Every function takes numbers (search_data.py) and returns a chart, or None if there is nothing to show.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from remix_study.figures.chart import (
    INK,
    QUIET,
    Axis,
    Bars,
    Chart,
    Key,
    Line,
    Mark,
    Panel,
    Points,
    Symbol,
    Text,
)
from remix_study.report import run_data, search_data
from remix_study.report.styles import Styles, method_keys
from remix_study.report.words import plural, unit_of
from remix_study.units import duration, listed

_GROUPS: dict[str, tuple[str, str, float, float]] = {  # words, colour, width, opacity; drawn in this order
    "worse": ("worse half", QUIET, 0.8, 0.35),
    "better": ("better half", "#56B4E9", 1.1, 0.65),
    "best": ("best tenth", "#D55E00", 2.0, 0.95),
}
_STAGES: tuple[tuple[str, str, Literal["", "/", "x", "."]], ...] = (
    ("search", "#0072B2", ""),
    ("replicates", "#E69F00", "/"),
    ("retraining", "#009E73", "x"),
)
_PARTS: tuple[tuple[str, str, Literal["", "/", "x", "."]], ...] = (
    ("scoring", "#D55E00", "x"),
    ("training", "#0072B2", ""),
    ("evaluation", "#E69F00", "/"),
    ("final evaluation", "#009E73", "."),
)


def history(found: Sequence[search_data.Progress], metric: str, direction: str, style_of: Styles) -> Chart | None:
    having = [p for p in found if p.values]
    if not having:
        return None
    unit = unit_of(metric)
    marks: list[Mark] = []
    for p in having:
        style = style_of[p.method]
        labels = tuple(f"{p.method}, trial {n}: {unit.shown(v, 2)}" for n, v in zip(p.numbers, p.values, strict=True))
        marks.append(
            Points(
                p.numbers, tuple(unit.scale * v for v in p.values), style.colour, style.symbol,
                6 if p.total < 100 else 4, 0.6, labels=labels, method=p.method,
            )
        )  # fmt: skip
        best = tuple(unit.scale * v for v in p.best)
        marks.append(
            Line(
                (*p.best_numbers, p.last), (*best, best[-1]), style.colour, style.dash, step=True, width=2.4,
                name=f"{p.method}, best so far", method=p.method,
            )
        )  # fmt: skip
    across = Axis("trial of the method", integer=True, range=(-0.5, max(p.last for p in found) + 0.5))
    panels = [Panel("", across, Axis(unit.label), tuple(marks), wide=True)]
    ended = [
        Points(
            numbers, (p.method,) * len(numbers), style_of[p.method].colour, symbol, 9, method=p.method,
            labels=tuple(f"{p.method}, trial {n}: {kind}" for n in numbers),
        )
        for p in found
        for kind, numbers, symbol in _without_value(p)
        if numbers
    ]  # fmt: skip
    legend = method_keys((p.method for p in found), style_of, lines=True)
    if ended:
        rows = tuple(dict.fromkeys(points.method for points in ended))
        panels.append(
            Panel("Trials without an objective value", across, Axis("", categories=rows), tuple(ended), wide=True)
        )
        symbols = {points.symbol for points in ended}
        legend += tuple(Key(kind, QUIET, s) for kind, s in (("pruned", "tick"), ("failed", "x")) if s in symbols)
    pick = max if direction == "maximize" else min
    top = pick(having, key=lambda p: p.best[-1])
    title = f"Best trial: {top.method}, trial {top.best_numbers[-1]}, {unit.shown(top.best[-1])} (validation)"
    caption = "Points: complete trials. Lines: best value so far of each method. "
    caption += _thinned(sum(len(p.values) for p in having), sum(p.total for p in having), "points")
    return Chart("history", title, caption.strip(), tuple(panels), legend)


def _without_value(p: search_data.Progress) -> tuple[tuple[str, tuple[int, ...], Symbol], ...]:
    return (("pruned", p.pruned, "tick"), ("failed", p.failed, "x"))


def pruned(found: search_data.Pruned, metric: str, style_of: Styles) -> Chart | None:
    if not found.curves:
        return None
    unit = unit_of(metric)
    marks = tuple(
        Line(
            c.epochs, tuple(unit.scale * v for v in c.values), style_of[c.method].colour, style_of[c.method].dash,
            style_of[c.method].symbol if len(c.epochs) < 3 else None, 1.2, 0.6, name=f"{c.method}, trial {c.number}",
            method=c.method,
        )
        for c in found.curves
    )  # fmt: skip
    ends = Counter(c.epochs[-1] for c in found.curves)
    epoch, often = ends.most_common(1)[0]
    title = f"{plural(found.total, 'trial')} pruned, most often after {plural(epoch, 'epoch')}"
    title += f" ({often} of {len(found.curves)})" if len(ends) > 1 else ""
    caption = (
        "Intermediate values of pruned trials: the best value so far of the metric that the pruner compares. No other "
        "chart includes pruned trials. " + _thinned(len(found.curves), found.total, "curves")
    )
    panel = Panel(
        "", Axis("epochs trained", integer=True), Axis(f"{unit.name}, best so far ({unit.unit})"), marks, wide=True
    )
    return Chart(
        "pruned", title, caption.strip(), (panel,), method_keys((c.method for c in found.curves), style_of, lines=True)
    )


def importances(
    found: Mapping[str, Mapping[str, float]],
    unknown: Mapping[str, str],
    how: Sequence[str],
    metric: str,
    style_of: Styles,
) -> Chart | None:
    """`found[method][parameter]`: importance in [0, 1]; `unknown[method]`: why it could not be computed."""
    if not found:
        return None
    total: dict[str, float] = defaultdict(float)
    for values in found.values():
        for path, value in values.items():
            total[path] = max(total[path], value)
    order = tuple(sorted(total, key=lambda path: -total[path]))
    marks = tuple(
        Points(
            tuple(100 * v for v in values.values()), tuple(values), style_of[name].colour, style_of[name].symbol, 11,
            0.9, labels=tuple(f"{name}, {path}: {100 * v:.0f} %" for path, v in values.items()), method=name,
        )
        for name, values in found.items()
    )  # fmt: skip
    first = Counter(max(values, key=lambda path: values[path]) for values in found.values())
    path, often = first.most_common(1)[0]
    title = f"{path} is the most important hyperparameter for {often} of {plural(len(found), 'method')}"
    caption = (
        f"Importance for {unit_of(metric).name}, computed by {' and '.join(how)} on complete trials. Hyperparameters "
        "without a condition sum to 100 % per method. A conditional one is evaluated on the trials that have it. "
        "Importance ranks hyperparameters within the searched ranges and is not a significance test."
    )
    caption += f" {without_importance(unknown)}" if unknown else ""
    panel = Panel("", Axis("importance (%)", range=(-3, 103)), Axis("", categories=order), marks, wide=True)
    return Chart("importances", title, caption, (panel,), method_keys(found, style_of, lines=False))


def without_importance(unknown: Mapping[str, str]) -> str:
    """One sentence for all methods with the same reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, why in unknown.items():
        by_reason[why].append(name)
    return " ".join(f"Not available for {listed(names)}: {why}." for why, names in by_reason.items())


def slices(found: Sequence[search_data.Slice], metric: str, style_of: Styles) -> Chart | None:
    if not found:
        return None
    unit = unit_of(metric)
    panels = []
    for s in found:
        size = 6 if s.shown < 300 else 4
        marks = tuple(
            Points(
                xs, tuple(unit.scale * v for v in ys), style_of[name].colour, style_of[name].symbol, size, 0.6,
                method=name, labels=tuple(f"{name}: {_said(x)}, {unit.shown(v)}" for x, v in zip(xs, ys, strict=True)),
            )
            for name, (xs, ys) in s.points.items()
        )  # fmt: skip
        scale = " (log scale)" if s.scale == "log" else ""
        x = Axis(f"{s.parameter}{scale}", log=s.scale == "log", categories=s.labels, range=_around(s))
        panels.append(Panel("", x, Axis(unit.label), marks))
    shown, total = sum(s.shown for s in found), sum(s.total for s in found)
    caption = f"Each searched hyperparameter against {unit.name}; complete trials only. "
    caption += _thinned(shown, total, "points", best=True)
    names = {name for s in found for name in s.points}
    title = f"{plural(len(found), 'searched hyperparameter')} against {unit.name}"
    return Chart("slices", title, caption.strip(), tuple(panels), method_keys(names, style_of, lines=False))


def _around(s: search_data.Slice) -> tuple[float, float] | None:
    """The searched range with a margin, so that points at its ends are visible."""
    if s.bounds is None:
        return None
    low, high = s.bounds
    if s.scale == "log":
        factor = (high / low) ** 0.04 if high > low else 2.0
        return low / factor, high * factor
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _said(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def parallels(found: Sequence[search_data.Parallel]) -> Chart | None:
    if not found:
        return None
    panels = []
    for p in found:
        marks: list[Mark] = []
        for group, (words, colour, width, opacity) in _GROUPS.items():
            lines = [line for line, its in zip(p.lines, p.groups, strict=True) if its == group]
            if not lines:
                continue
            # One line with breaks for all trials, since a mark per trial draws slowly. Breaks lie beyond the last axis.
            x = tuple(place for line in lines for place in (*range(len(line)), len(line) - 1))
            y = tuple(place for line in lines for place in (*line, None))
            marks.append(Line(x, y, colour, "solid", None, width, opacity, name=words))
        marks += [Text(a, place, word) for a, axis in enumerate(p.axes) for place, word in axis.ticks]
        unit = unit_of(p.axes[-1].name)
        marks += [Text(len(p.axes) - 1, place, unit.shown(end)) for place, end in zip((0.0, 1.0), p.ends, strict=True)]
        names = [_broken(axis.name) + (" (log)" if axis.log else "") for axis in p.axes[:-1]]
        names.append(unit.name.replace(", ", ",\n"))
        across = Axis("", ticks=tuple((float(a), name) for a, name in enumerate(names)), range=(-0.3, len(names) - 0.7))
        up = Axis("", ticks=((-9.0, ""),), range=(-0.07, 1.07), grid=False)  # every axis has labels of its own
        panels.append(Panel(p.method, across, up, tuple(marks), wide=True))
    legend = tuple(
        Key(words, colour, None, "solid") for words, colour, _, _ in (_GROUPS[g] for g in ("best", "better", "worse"))
    )
    caption = (
        "Each line is a complete trial, each axis a searched hyperparameter. The last axis is the objective, with the "
        "best value at the top. A gap means that the trial has no such hyperparameter. "
        + _thinned(sum(len(p.lines) for p in found), sum(p.total for p in found), "lines", best=True)
    )
    return Chart("parallel", "Hyperparameters of the best trials", caption.strip(), tuple(panels), legend)


def _broken(path: str) -> str:
    """A long dotted name on two lines."""
    head, dot, tail = path.rpartition(".")
    return f"{head}.\n{tail}" if dot and len(path) > 14 else path


def fronts(found: Sequence[tuple[tuple[str, str], Sequence[search_data.Front]]], style_of: Styles) -> Chart | None:
    """`found`: ((metric along x, along y), fronts of the methods) for each pair of objectives."""
    panels, names = [], set()
    for (x, y), of_methods in found:
        one, two = unit_of(x), unit_of(y)
        marks: list[Mark] = []
        for f in of_methods:
            style = style_of[f.method]
            names.add(f.method)
            xs, ys = tuple(one.scale * v for v in f.xs), tuple(two.scale * v for v in f.ys)
            labels = tuple(
                f"{f.method}, trial {n}: {one.shown(a)}; {two.name} {two.shown(b, 2)}"
                for n, a, b in zip(f.numbers, f.xs, f.ys, strict=True)
            )
            marks.append(Points(xs, ys, style.colour, style.symbol, 6, 0.35, labels=labels, method=f.method))
            front = tuple(xs[i] for i in f.front), tuple(ys[i] for i in f.front)
            marks.append(
                Line(*front, style.colour, style.dash, style.symbol, name=f"{f.method}, front", method=f.method)
            )
            if f.chosen is not None:
                marks.append(
                    Points(
                        (xs[f.chosen],), (ys[f.chosen],), style.colour, "star", 17,
                        labels=(f"chosen: {labels[f.chosen]}",), method=f.method,
                    )
                )  # fmt: skip
        if marks:
            panels.append(Panel("", Axis(one.label), Axis(two.label), tuple(marks), wide=True))
    if not panels:
        return None
    sizes = [f"{len(f.front)} of {f.total} for {f.method}" for f in found[0][1]]
    caption = (
        "Complete trials by two objectives. A line joins the Pareto-optimal trials of a method: no other trial is at "
        "least as good in all objectives and better in one. With more than two objectives, all of them count. A star "
        "marks the chosen trial."
    )
    caption += _thinned(sum(len(f.xs) for f in found[0][1]), sum(f.total for f in found[0][1]), "points")
    title = f"On the Pareto front: {listed(sizes)}"
    return Chart(
        "pareto", title, caption, tuple(panels), (*method_keys(names, style_of, lines=True), Key("chosen", INK, "star"))
    )


def seconds(found: Sequence[search_data.Budget], runs: Sequence[run_data.Parts]) -> Chart | None:
    total = sum(b.total_s for b in found)
    if total <= 0:
        return None
    by = max(b.total_s for b in found)
    per, unit = (3600.0, "h") if by >= 2 * 3600 else (60.0, "min") if by >= 120 else (1.0, "s")
    names = tuple(b.method for b in found)
    stages = [[b.search_s / per for b in found], [b.replicate_s / per for b in found], [b.final_s / per for b in found]]
    bars = tuple(
        Bars(names, tuple(values), colour, hatch, name)
        for (name, colour, hatch), values in zip(_STAGES, stages, strict=True)
        if any(values)
    )
    panels = [Panel("Running time of all runs, by stage", Axis(f"time ({unit})"), Axis("", categories=names), bars)]
    legend = [Key(bar.name, bar.colour, None, None, bar.hatch) for bar in bars]
    if runs:
        names = tuple(p.method for p in runs)
        columns = list(zip(*(p[1:] for p in runs), strict=True))
        bars = tuple(
            Bars(names, tuple(values), colour, hatch, name)
            for (name, colour, hatch), values in zip(_PARTS, columns, strict=True)
            if any(values)
        )
        panels.append(
            Panel("One run of the chosen configuration, by part", Axis("time (s)"), Axis("", categories=names), bars)
        )
        legend += [Key(bar.name, bar.colour, None, None, bar.hatch) for bar in bars]
    search = sum(b.search_s for b in found)
    title = f"The search took {100 * search / total:.0f} % of {duration(total)} of running time"
    caption = (
        "Running time is summed over all runs, including interrupted ones. It exceeds wall-clock time if runs were "
        "parallel. One run: mean over the runs of the chosen configuration; final evaluation: probes and test split."
    )
    return Chart("time", title, caption, tuple(panels), tuple(legend))


def _thinned(shown: int, total: int, what: str, *, best: bool = False) -> str:
    if shown >= total:
        return ""
    which = "the best ones and an even selection of the others" if best else "evenly selected"
    return f"Showing {shown:,} of {total:,} {what}: {which}."
