"""The report's charts: numbers (data.py) into panels, with titles that say what was found

Every function takes numbers and returns a chart, or None where there is nothing to show.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from remix_study.figures.chart import (
    INK,
    QUIET,
    Area,
    Axis,
    Bars,
    Chart,
    Key,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Style,
    Symbol,
    Text,
    method_keys,
)
from remix_study.report import data
from remix_study.report.words import Unit, duration, listed, plural, unit_of
from remix_study.study.results import Spread, StudyResult, headline, interval_text, p_text

Styles = dict[str, Style]
_EPOCH = Axis("epoch", whole=True)
_GROUPS: dict[str, tuple[str, str, float, float]] = {  # words, colour, width, opacity; drawn in this order
    "worse": ("worse half", QUIET, 0.8, 0.35),
    "better": ("better half", "#56B4E9", 1.1, 0.65),
    "best": ("best tenth", "#D55E00", 2.0, 0.95),
}
_STAGES: tuple[tuple[str, str, Literal["", "/", "x", "."]], ...] = (
    ("search", "#0072B2", ""),
    ("replicates", "#E69F00", "/"),
    ("retrained", "#009E73", "x"),
)
_PARTS: tuple[tuple[str, str, Literal["", "/", "x", "."]], ...] = (
    ("scoring", "#D55E00", "x"),
    ("training", "#0072B2", ""),
    ("evaluating", "#E69F00", "/"),
    ("evidence at the end", "#009E73", "."),
)


# --- the answer ------------------------------------------------------------------------------------------------------


def accuracies(found: Sequence[data.Accuracies], result: StudyResult, look: Styles) -> Chart | None:
    if not found:
        return None
    unit = unit_of("test/accuracy")
    marks: list[Mark] = []
    for row in found:
        style = look[row.method]
        seeds = tuple(
            f"{row.method}, replicate {n}: {unit.shown(v)}" for n, v in zip(row.seeds, row.values, strict=True)
        )
        values = tuple(unit.scale * v for v in row.values)
        marks.append(
            Points(
                values, (row.method,) * len(values), style.colour, style.symbol, 7, 0.5, labels=seeds, method=row.method
            )
        )
        mean, std = unit.scale * row.spread.mean, unit.scale * row.spread.std
        said = f"{row.method}: {mean:.1f} ± {std:.1f} %, {plural(len(values), 'seed')}"
        marks.append(
            Points(
                (mean,), (row.method,), style.colour, style.symbol, 13, error=((std, std),), labels=(said,),
                method=row.method,
            )
        )  # fmt: skip
    panel = Panel(
        "", Axis(unit.label), Axis("", categories=tuple(row.method for row in found)), tuple(marks), wide=True
    )
    caption = (
        "The chosen point of each method, trained again with fresh seeds, on a test split that chose nothing. Small: "
        "one seed each; large: their mean ± standard deviation. Best mean on top, methods of one modality below."
    )
    return Chart("accuracy", headline(result), caption, (panel,))


def differences(found: Sequence[data.Difference], result: StudyResult, look: Styles) -> Chart | None:
    if not found:
        return None
    marks: list[Mark] = [Rule(0.0, INK, "solid")]
    for d in found:
        a, style = d.ahead, look[d.method]
        holm = "" if a.p_holm is None else f", Holm {p_text(a.p_holm)}"
        said = f"{d.method}: {a.mean:+.1f} points, {interval_text(a)}, {a.wins}/{a.seeds} seeds"
        marks.append(
            Points(
                (a.mean,), (d.method,), style.colour, style.symbol, 12, hollow=a.verdict == "open",
                error=() if a.all_equal else ((a.mean - a.low, a.high - a.mean),), labels=(said + holm,),
                method=d.method,
            )
        )  # fmt: skip
    shown = [d.method for d in found if d.ahead.verdict != "open"]
    title = f"{len(shown)} of {plural(len(found), 'difference')} to {result.reference} can be told from luck"
    panel = Panel(
        "",
        Axis(f"test accuracy, {result.reference} minus the other (points)"),
        Axis("", categories=tuple(d.method for d in found)),
        tuple(marks),
        wide=True,
    )
    caption = (
        f"Mean paired difference over the seeds and its 95 % t interval; right of 0 {result.reference} is ahead. "
        f"Filled: told from luck also after Holm's correction for {plural(len(found), 'comparison')}; hollow: not. "
        "The intervals themselves are of one comparison each."
        + (" Without one: the same in every seed." if any(d.ahead.all_equal for d in found) else "")
    )
    return Chart("differences", title, caption, (panel,))


# --- every modality --------------------------------------------------------------------------------------------------


def heads(found: Sequence[data.Heads], look: Styles) -> Chart | None:
    if not found:
        return None
    panels = []
    for h in found:
        marks: list[Mark] = []
        if h.ceiling_probe is not None:
            marks.append(Rule(100 * h.ceiling_probe, INK, "dash"))
        if h.ceiling_own is not None:
            marks.append(Rule(100 * h.ceiling_own, QUIET, "dot"))
        for row in h.rows:
            if row.own is not None:
                marks.append(_head(row.method, f"own head of {h.modality}", row.own, "square", look))
            if row.probe is not None:
                marks.append(_head(row.method, f"probe of {h.modality}", row.probe, "circle", look))
        rows = tuple(row.method for row in h.rows)
        panels.append(
            Panel(h.modality, Axis(f"test accuracy from {h.modality} (%)"), Axis("", categories=rows), tuple(marks))
        )
    legend = [
        Key("linear probe of the encoder", INK, "circle"),
        Key("the method's own head", INK, "square", hollow=True),
    ]
    if any(h.ceiling_probe is not None for h in found):
        legend += [Key("probe, trained alone", INK, None, "dash"), Key("own head, trained alone", QUIET, None, "dot")]
    caption = (
        "What each encoder is good for, mean ± standard deviation over the replicates. The probe is a fresh linear "
        "classifier on the frozen encoder, so that it callbacks methods without own heads too."
    )
    return Chart("modalities", weakest(found), caption, tuple(panels), tuple(legend))


def _head(method: str, what: str, spread: Spread, symbol: Symbol, look: Styles) -> Points:
    mean, std = 100 * spread.mean, 100 * spread.std
    said = f"{method}, {what}: {mean:.1f} ± {std:.1f} %"
    return Points(
        (mean,), (method,), look[method].colour, symbol, 11, hollow=symbol == "square", error=((std, std),),
        labels=(said,), method=method,
    )  # fmt: skip


def weakest(found: Sequence[data.Heads]) -> str:
    """Which modality which method leaves furthest behind what it reaches alone, by probes."""
    gaps = [
        (row.probe.mean / h.ceiling_probe, row.method, h.modality)
        for h in found
        for row in h.rows
        if row.probe is not None and h.ceiling_probe
    ]
    if not gaps:
        return "What each encoder is good for"
    ratio, method, modality = min(gaps)
    if ratio > 0.98:
        return "Every encoder reaches at least 98 % of what its modality reaches alone"
    return f"{method} leaves {modality} furthest behind: its probe reaches {100 * ratio:.0f} % of {modality} alone"


def balance(found: Sequence[data.Measured], look: Styles) -> Chart | None:
    if not found:
        return None
    panels = []
    for m in found:
        unit = unit_of(m.metric.removeprefix("test_"))  # the caption says which split
        marks = tuple(
            Points(
                (unit.scale * s.mean,), (name,), look[name].colour, look[name].symbol, 11,
                error=((unit.scale * s.std, unit.scale * s.std),),
                labels=(f"{name}: {unit.scale * s.mean:.3g} ± {unit.scale * s.std:.2g}",), method=name,
            )
            for name, s in m.rows
        )  # fmt: skip
        panels.append(Panel("", Axis(unit.label), Axis("", categories=tuple(name for name, _ in m.rows)), marks))
    caption = (
        "On the test split, mean ± standard deviation over the replicates; 0 is balanced. Balance without accuracy is "
        "no result: a network that knows nothing is balanced. Methods without own heads are missing where heads are "
        "compared."
    )
    return Chart("balance", _least_balanced(found), caption, tuple(panels))


def _least_balanced(found: Sequence[data.Measured]) -> str:
    """Named only where it stands out of the deviations."""
    for m in found:
        if m.metric == "test_balance/imbalance" and len(m.rows) > 1:
            (worst, most), (_, next_) = sorted(m.rows, key=lambda row: -row[1].mean)[:2]
            if most.mean - next_.mean > most.std + next_.std > 0:  # of one seed no deviation is known
                return f"{worst} is the least balanced: imbalance {most.mean:.2f}, all others at most {next_.mean:.2f}"
    return "How balanced each method is"


# --- over epochs -----------------------------------------------------------------------------------------------------


def over_epochs(
    key: str, title: str, caption: str, metrics: Sequence[tuple[str, Sequence[data.Band]]], look: Styles,
    units: Mapping[str, str] | None = None,
) -> Chart | None:  # fmt: skip
    """A panel per metric, a line per method. `units`: of metrics whose unit the runs decide."""
    panels, names = [], set()
    for metric, bands in metrics:
        if not bands:
            continue
        unit = unit_of(metric)
        label = f"{unit.name} ({units[metric]})" if units and metric in units else unit.label
        marks: list[Mark] = []
        for band in bands:
            marks += _band(band, look[band.method], unit)
            names.add(band.method)
        panels.append(Panel("", _EPOCH, Axis(label), tuple(marks)))
    return Chart(key, title, caption, tuple(panels), method_keys(names, look, lines=True)) if panels else None


def _band(band: data.Band, style: Style, unit: Unit) -> list[Mark]:
    scaled = [tuple(unit.scale * v for v in values) for values in (band.low, band.high, band.mean)]
    low, high, mean = scaled
    marks: list[Mark] = []
    if band.runs > 1:
        marks.append(Area(band.epochs, low, high, style.colour, band.method))
    symbol = style.symbol if len(band.epochs) <= 40 else None
    marks.append(Line(band.epochs, mean, style.colour, style.dash, symbol, name=band.method, method=band.method))
    return marks


def scores(
    found: Mapping[str, Mapping[str, Sequence[data.Band]]], more: Sequence[tuple[str, Sequence[data.Band]]], unit: str,
    look: Styles,
) -> Chart | None:  # fmt: skip
    """`found[modality][quantile]` are bands of the methods; `more`: margin and the like, a panel each."""
    panels, names = [], set()
    ends: dict[str, dict[str, float]] = defaultdict(dict)
    for m, quantiles in found.items():
        marks: list[Mark] = []
        for quantile, bands in quantiles.items():
            for band in bands:
                style = look[band.method]
                names.add(band.method)
                if quantile == "q50":
                    marks += _band(band, style, Unit("", "", 1.0))
                    ends[band.method][m] = band.mean[-1]
                else:
                    name = f"{band.method}, {quantile}"
                    marks.append(
                        Line(band.epochs, band.mean, style.colour, "dot", None, 1.2, 0.8, name=name, method=band.method)
                    )
        panels.append(Panel("", _EPOCH, Axis(f"score of {m} ({unit})"), tuple(marks)))
    for metric, bands in more:
        label = f"margin of the decision ({unit})" if metric == "remix/margin" else unit_of(metric).label
        if bands:
            marks = [mark for band in bands for mark in _band(band, look[band.method], unit_of(metric))]
            panels.append(Panel("", _EPOCH, Axis(label), tuple(marks)))
    if not panels or not names:
        return None
    method = next((name for name in look if len(ends[name]) > 1), None)
    title = "How well each modality alone knows the training samples"
    if method is not None:
        least = min(ends[method], key=lambda m: ends[method][m])
        others = ", ".join(f"{v:.2f} for {m}" for m, v in ends[method].items() if m != least)
        title = (
            f"{method} knows its samples least by {least}: median score {ends[method][least]:.2f} at the end, {others}"
        )
    caption = (
        "Separability scores of the training samples, mean over the replicates: the median with one standard deviation "
        "over replicates, and dotted the scores that 10 % and 90 % of the samples lie below. Higher means better known."
    )
    return Chart("scores", title, caption, tuple(panels), method_keys(names, look, lines=True))


def shares_title(bands: Mapping[str, Sequence[data.Band]], joint: Sequence[data.Band]) -> str:
    """What the first Remix method does with its samples at the end; `bands[modality]`."""
    method = next((b.method for found in bands.values() for b in found), None)
    if method is None:
        return "Which samples train what"
    last = {m: b.mean[-1] for m, found in bands.items() for b in found if b.method == method}
    said = [f"{100 * share:.0f} % train {m} alone" for m, share in last.items()]
    together = next((b.mean[-1] for b in joint if b.method == method), 0.0)
    said += [f"{100 * together:.0f} % train all"] if together > 0.005 else []
    return f"{method}, last epoch: {listed(said)}"


# --- the search ------------------------------------------------------------------------------------------------------


def history(found: Sequence[data.Progress], metric: str, direction: str, look: Styles) -> Chart | None:
    having = [p for p in found if p.values]
    if not having:
        return None
    unit = unit_of(metric)
    marks: list[Mark] = []
    for p in having:
        style = look[p.method]
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
    across = Axis("trial of the method", whole=True, range=(-0.5, max(p.last for p in found) + 0.5))
    panels = [Panel("", across, Axis(unit.label), tuple(marks), wide=True)]
    ended = [
        Points(
            numbers, (p.method,) * len(numbers), look[p.method].colour, symbol, 9, method=p.method,
            labels=tuple(f"{p.method}, trial {n}: {kind}" for n in numbers),
        )
        for p in found
        for kind, numbers, symbol in _without_value(p)
        if numbers
    ]  # fmt: skip
    legend = method_keys((p.method for p in found), look, lines=True)
    if ended:
        rows = tuple(dict.fromkeys(points.method for points in ended))
        panels.append(
            Panel("Trials without a value of the objective", across, Axis("", categories=rows), tuple(ended), wide=True)
        )
        symbols = {points.symbol for points in ended}
        legend += tuple(Key(kind, QUIET, s) for kind, s in (("pruned", "tick"), ("failed", "x")) if s in symbols)
    pick = max if direction == "maximize" else min
    top = pick(having, key=lambda p: p.best[-1])
    title = (
        f"{top.method} found the best point: {unit.shown(top.best[-1])} in trial {top.best_numbers[-1]} (validation)"
    )
    caption = "Complete trials as points, the best so far of each method as a line. "
    caption += _thinned(sum(len(p.values) for p in having), sum(p.total for p in having), "points")
    return Chart("history", title, caption.strip(), tuple(panels), legend)


def _without_value(p: data.Progress) -> tuple[tuple[str, tuple[int, ...], Symbol], ...]:
    return (("pruned", p.pruned, "tick"), ("failed", p.failed, "x"))


def pruned(found: data.Pruned, metric: str, look: Styles) -> Chart | None:
    if not found.curves:
        return None
    unit = unit_of(metric)
    marks = tuple(
        Line(
            c.epochs, tuple(unit.scale * v for v in c.values), look[c.method].colour, look[c.method].dash,
            look[c.method].symbol if len(c.epochs) < 3 else None, 1.2, 0.6, name=f"{c.method}, trial {c.number}",
            method=c.method,
        )
        for c in found.curves
    )  # fmt: skip
    ends = Counter(c.epochs[-1] for c in found.curves)
    epoch, often = ends.most_common(1)[0]
    title = f"{plural(found.total, 'trial')} pruned, most often after {plural(epoch, 'epoch')}"
    title += f" ({often} of {len(found.curves)})" if len(ends) > 1 else ""
    caption = (
        "What pruned trials showed until their early end: the best so far of the metric that the pruner callbacks. "
        "Complete trials are not here, and these are in no other figure. "
        + _thinned(len(found.curves), found.total, "curves")
    )
    panel = Panel(
        "", Axis("epochs trained", whole=True), Axis(f"{unit.name}, best so far ({unit.unit})"), marks, wide=True
    )
    return Chart(
        "pruned", title, caption.strip(), (panel,), method_keys((c.method for c in found.curves), look, lines=True)
    )


def importances(
    found: Mapping[str, Mapping[str, float]],
    unknown: Mapping[str, str],
    how: Sequence[str],
    metric: str,
    look: Styles,
) -> Chart | None:
    """`found[method][parameter]` in [0, 1]; `unknown[method]`: why there are none."""
    if not found:
        return None
    total: dict[str, float] = defaultdict(float)
    for values in found.values():
        for path, value in values.items():
            total[path] = max(total[path], value)
    order = tuple(sorted(total, key=lambda path: -total[path]))
    marks = tuple(
        Points(
            tuple(100 * v for v in values.values()), tuple(values), look[name].colour, look[name].symbol, 11, 0.9,
            labels=tuple(f"{name}, {path}: {100 * v:.0f} %" for path, v in values.items()), method=name,
        )
        for name, values in found.items()
    )  # fmt: skip
    first = Counter(max(values, key=lambda path: values[path]) for values in found.values())
    path, often = first.most_common(1)[0]
    title = f"{path} matters most for {often} of {plural(len(found), 'method')}"
    caption = (
        f"Importance for {unit_of(metric).name} by {' and '.join(how)}, among complete trials; parameters that are "
        "always searched sum to 100 % within a method, one that is searched under a condition is judged among the "
        "trials that have it. It ranks what was searched, and says nothing about significance."
    )
    caption += f" {without_importance(unknown)}" if unknown else ""
    panel = Panel("", Axis("importance (%)", range=(-3, 103)), Axis("", categories=order), marks, wide=True)
    return Chart("importances", title, caption, (panel,), method_keys(found, look, lines=False))


def without_importance(unknown: Mapping[str, str]) -> str:
    """Methods with the same reason in one sentence each."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, why in unknown.items():
        by_reason[why].append(name)
    return " ".join(f"None for {listed(names)}: {why}." for why, names in by_reason.items())


def slices(found: Sequence[data.Slice], metric: str, look: Styles) -> Chart | None:
    if not found:
        return None
    unit = unit_of(metric)
    panels = []
    for s in found:
        size = 6 if s.shown < 300 else 4
        marks = tuple(
            Points(
                xs, tuple(unit.scale * v for v in ys), look[name].colour, look[name].symbol, size, 0.6, method=name,
                labels=tuple(f"{name}: {_said(x)}, {unit.shown(v)}" for x, v in zip(xs, ys, strict=True)),
            )
            for name, (xs, ys) in s.points.items()
        )  # fmt: skip
        scale = " (log scale)" if s.scale == "log" else ""
        x = Axis(f"{s.parameter}{scale}", log=s.scale == "log", categories=s.labels, range=_around(s))
        panels.append(Panel("", x, Axis(unit.label), marks))
    shown, total = sum(s.shown for s in found), sum(s.total for s in found)
    caption = f"Each searched parameter against {unit.name}, complete trials only. "
    caption += _thinned(shown, total, "points", best=True)
    names = {name for s in found for name in s.points}
    title = f"{plural(len(found), 'searched parameter')} against {unit.name}"
    return Chart("slices", title, caption.strip(), tuple(panels), method_keys(names, look, lines=False))


def _around(s: data.Slice) -> tuple[float, float] | None:
    """The searched range and a little more, so that points at its ends are seen."""
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


def parallels(found: Sequence[data.Parallel]) -> Chart | None:
    if not found:
        return None
    panels = []
    for p in found:
        marks: list[Mark] = []
        for group, (words, colour, width, opacity) in _GROUPS.items():
            lines = [line for line, its in zip(p.lines, p.groups, strict=True) if its == group]
            if not lines:
                continue
            # One broken line for all: a mark each would be slow. The break lies beyond the last axis.
            x = tuple(place for line in lines for place in (*range(len(line)), len(line) - 1))
            y = tuple(place for line in lines for place in (*line, None))
            marks.append(Line(x, y, colour, "solid", None, width, opacity, name=words))
        marks += [Text(a, place, word) for a, axis in enumerate(p.axes) for place, word in axis.ticks]
        unit = unit_of(p.axes[-1].name)
        marks += [Text(len(p.axes) - 1, place, unit.shown(end)) for place, end in zip((0.0, 1.0), p.ends, strict=True)]
        names = [_broken(axis.name) + (" (log)" if axis.log else "") for axis in p.axes[:-1]]
        names.append(unit.name.replace(", ", ",\n"))
        across = Axis("", ticks=tuple((float(a), name) for a, name in enumerate(names)), range=(-0.3, len(names) - 0.7))
        up = Axis("", ticks=((-9.0, ""),), range=(-0.07, 1.07), grid=False)  # every axis has words of its own
        panels.append(Panel(p.method, across, up, tuple(marks), wide=True))
    legend = tuple(
        Key(words, colour, None, "solid") for words, colour, _, _ in (_GROUPS[g] for g in ("best", "better", "worse"))
    )
    caption = (
        "Every line is a complete trial, every axis a searched parameter; the last is the objective, better above. A "
        "gap is a parameter that was not searched there. "
        + _thinned(sum(len(p.lines) for p in found), sum(p.total for p in found), "lines", best=True)
    )
    return Chart("parallel", "Where the best trials of each method lie", caption.strip(), tuple(panels), legend)


def _broken(path: str) -> str:
    """A long dotted name in two lines."""
    head, dot, tail = path.rpartition(".")
    return f"{head}.\n{tail}" if dot and len(path) > 14 else path


def fronts(found: Sequence[tuple[tuple[str, str], Sequence[data.Front]]], look: Styles) -> Chart | None:
    """`found`: ((metric along x, along y), fronts of the methods) for each pair of objectives."""
    panels, names = [], set()
    for (x, y), of_methods in found:
        one, two = unit_of(x), unit_of(y)
        marks: list[Mark] = []
        for f in of_methods:
            style = look[f.method]
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
    sizes = [f"{len(f.front)} of {len(f.xs)} for {f.method}" for f in found[0][1]]
    caption = (
        "Complete trials by two objectives. Lines join the points that no other trial of the method beats in one "
        "objective without losing in another (of all objectives, where there are more than two); a star is the "
        "chosen point."
    )
    title = f"On the Pareto front: {listed(sizes)}"
    return Chart(
        "pareto", title, caption, tuple(panels), (*method_keys(names, look, lines=True), Key("chosen", INK, "star"))
    )


# --- time ------------------------------------------------------------------------------------------------------------


def seconds(found: Sequence[data.Budget], runs: Sequence[data.Parts]) -> Chart | None:
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
    panels = [Panel("Work of all runs, by stage", Axis(f"time ({unit})"), Axis("", categories=names), bars)]
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
            Panel("One run of the chosen point, by its parts", Axis("time (s)"), Axis("", categories=names), bars)
        )
        legend += [Key(bar.name, bar.colour, None, None, bar.hatch) for bar in bars]
    search = sum(b.search_s for b in found)
    title = f"The search took {100 * search / total:.0f} % of {duration(total)} of work"
    caption = (
        "Work is summed over runs, which may have run at once, interrupted starts included: it is no wall-clock time. "
        "One run is the mean over the runs of the chosen point; evidence is the probes and the test split."
    )
    return Chart("time", title, caption, tuple(panels), tuple(legend))


def _thinned(shown: int, total: int, what: str, *, best: bool = False) -> str:
    if shown >= total:
        return ""
    which = "the best of them, and the others evenly spaced" if best else "evenly spaced"
    return f"Shown: {shown:,} of {total:,} {what}, {which}."
