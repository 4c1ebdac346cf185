"""Charts of the runs: accuracies, differences, modalities, balance, and metrics over epochs

Every function takes numbers (run_data.py) and returns a chart, or None if there is nothing to show.
"""

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from remix_study.figures.chart import (
    INK,
    QUIET,
    Area,
    Axis,
    Chart,
    Dash,
    Key,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Symbol,
)
from remix_study.figures.quantities import Quantity, did
from remix_study.report import run_data
from remix_study.report.styles import Style, Styles, method_keys
from remix_study.report.tables import over
from remix_study.report.words import Unit, plural, unit_of
from remix_study.statistics import Estimate
from remix_study.study.comparison import StudyResult
from remix_study.study.gain import CALIBRATED, LATE_SUM
from remix_study.study.outcomes import FEWEST_SEEDS, Paired
from remix_study.study.sentences import compared_with, gain_told, headline, interval_text, judgement, p_text
from remix_study.units import listed

_EPOCH = Axis("epoch", integer=True)


# --- the answer ------------------------------------------------------------------------------------------------------


def accuracies(found: Sequence[run_data.Accuracies], result: StudyResult, style_of: Styles) -> Chart | None:
    if not found:
        return None
    unit = unit_of("test/accuracy")
    marks: list[Mark] = []
    for row in found:
        style = style_of[row.method]
        seeds = tuple(
            f"{row.method}, replicate {n}: {unit.shown(v)}" for n, v in zip(row.seeds, row.values, strict=True)
        )
        values = tuple(unit.scale * v for v in row.values)
        marks.append(
            Points(
                values, (row.method,) * len(values), style.colour, style.symbol, 7, 0.5, labels=seeds, method=row.method
            )
        )
        mean = row.mean.as_fraction()
        said = f"{row.method}: {_text(mean, unit.scale, 1)} %, {plural(len(values), 'seed')}"
        marks.append(
            Points(
                (unit.scale * mean.mean,), (row.method,), style.colour, style.symbol, 13,
                error=_error(mean, unit.scale), labels=(said,), method=row.method,
            )
        )  # fmt: skip
    legend: list[Key] = []
    lines: tuple[tuple[str, str, Dash], ...] = (
        ("late sum", LATE_SUM, "dot"),
        ("calibrated late product", CALIBRATED, "dash"),
    )
    for words, metric, dash in lines:
        bar = None if result.bar is None else result.bar.networks.estimate(metric)
        if bar is not None:
            marks.insert(0, Rule(unit.scale * bar.mean, INK, dash))
            legend.append(Key(f"separate networks, {words}", INK, None, dash))
    panel = Panel(
        "", Axis(unit.label), Axis("", categories=tuple(row.method for row in found)), tuple(marks), wide=True
    )
    caption = (
        "Accuracy on the held-out test set. Each method's chosen configuration is retrained with new seeds. Small "
        f"markers: one seed; large markers: mean with its 95 % interval{over(result)}. Sorted by mean; unimodal "
        "methods are last."
    )
    return Chart("accuracy", headline(result), caption, (panel,), tuple(legend))


def differences(found: Sequence[run_data.Difference], result: StudyResult, style_of: Styles) -> Chart | None:
    if not found:
        return None
    marks: list[Mark] = [Rule(0.0, INK, "solid")]
    for d in found:
        marks.append(_difference(d.method, d.method, d.ahead, style_of[d.method]))
    shown = [d.method for d in found if d.ahead.verdict in ("ahead", "behind")]
    title = f"{len(shown)} of {plural(len(found), 'difference')} from {result.reference} significant"
    panel = Panel(
        "",
        Axis(f"{result.reference} minus other (points)"),
        Axis("", categories=tuple(d.method for d in found)),
        tuple(marks),
        wide=True,
    )
    caption = (
        f"Mean paired difference with its 95 % interval{over(result)}; {result.reference} is better right of 0. "
        f"Filled markers: significant (p < 0.05) after Holm correction for {compared_with(result)}; "
        f"hollow: not significant, or no verdict (fewer than {FEWEST_SEEDS} seeds). Intervals are not adjusted."
    )
    return Chart("differences", title, caption, (panel,))


def _difference(row: str, method: str, a: Paired, style: Style) -> Points:
    """A difference with its interval; filled if it is significant."""
    holm = "" if a.p_holm is None else f", Holm {p_text(a.p_holm)}"
    said = (
        f"{' '.join(row.split())}: {a.mean:+.1f} points, {interval_text(a) or 'no interval'}, {a.wins}/{a.seeds} seeds"
    )
    return Points(
        (a.mean,), (row,), style.colour, style.symbol, 12, hollow=a.verdict not in ("ahead", "behind"),
        error=((a.mean - a.low, a.high - a.mean),) if math.isfinite(a.low) else (), labels=(said + holm,),
        method=method,
    )  # fmt: skip


def combinations(result: StudyResult, style_of: Styles) -> Chart | None:
    """Combinations minus their parts and controls: a row for each."""
    rows: list[str] = []
    marks: list[Mark] = [Rule(0.0, INK, "solid")]
    for each in result.combinations:
        for part in (*each.parts, *each.controls):
            a, style = part.ahead, style_of[each.name]
            if a.seeds < 2:
                continue
            row = f"{each.name}\nminus {part.name}"  # two lines, which leave room for the plot on a phone
            rows.append(row)
            marks.append(_difference(row, each.name, a, style))
    if not rows:
        return None
    panel = Panel("", Axis("difference (points)"), Axis("", categories=tuple(rows)), tuple(marks), wide=True)
    caption = (
        f"Test accuracy of a method minus that of a part or a control of it, with its 95 % interval{over(result)}. A "
        "combination adds something to a part if its marker is right of 0 and filled: significant (p < 0.05) after "
        f"Holm correction for {compared_with(result)}. Colours are those of the first method."
    )
    return Chart("combinations", _combined(result), caption, (panel,))


_FEW_PANELS = 8


def gains(result: StudyResult, style_of: Styles) -> Chart | None:
    """The parts of each gain: a panel for each method, a row for each part."""
    told = [each for each in result.gains if each.whole.seeds > 1]
    shown = sorted(told, key=lambda each: each.method != result.reference)[:_FEW_PANELS]
    panels = []
    for each in shown:
        style = style_of[each.method]
        rows = {f"{each.method} over\n{each.baseline}": each.whole}
        rows |= {_two_lines(part.name): part.ahead for part in each.parts if part.ahead.seeds > 1}
        marks: list[Mark] = [Rule(0.0, INK, "solid")]
        marks += [_difference(row, each.method, ahead, style) for row, ahead in rows.items()]
        title = each.method if len(shown) > 1 else ""
        panels.append(
            Panel(title, Axis("points"), Axis("", categories=tuple(rows)), tuple(marks), wide=len(shown) == 1)
        )
    if not panels:
        return None
    caption = (
        f"First row: test accuracy of the method minus that of the baseline. Other rows: its parts, which sum to it. "
        f"Means with 95 % intervals{over(result)}. Filled markers: significant (p < 0.05) after Holm correction (first "
        f"row: for {compared_with(result)}; parts: for all parts); hollow: not significant, or no verdict (fewer than "
        f"{FEWEST_SEEDS} seeds)."
    )
    if len(told) > len(shown):
        caption += f" {len(shown)} of {len(told)} methods; tables/gains.csv has all."
    return Chart("gains", gains_title(result), caption, tuple(panels))


def _two_lines(name: str) -> str:
    """A long name on two lines, which leave room for the plot on a phone."""
    return "\n".join(textwrap.wrap(name, max(18, len(name) // 2 + 4)))


def gains_title(result: StudyResult) -> str:
    """The title: the largest significant part of the gain of the reference, or of the first method that has one."""
    first = gain_told(result)
    assert first is not None, "a chart shows gains of at least two seeds"
    clear = [part for part in first.parts if part.ahead.verdict in ("ahead", "behind")]
    said = f"{first.method} over {first.baseline}: {first.whole.mean:+.1f} points"
    if not clear:
        return said
    largest = max(clear, key=lambda part: abs(part.ahead.mean))
    return f"{said}, of which {largest.ahead.mean:+.1f} by {largest.name}"


def separate_networks(result: StudyResult, style_of: Styles) -> Chart | None:
    """Every method minus separately trained unimodal networks: as they are, and with calibrated late products."""
    bar = result.bar
    if bar is None:
        return None
    panels = []
    for title, found in (("fused head minus their late sum", bar.late_sum),
                         ("calibrated late products of both", bar.late_calibrated)):  # fmt: skip
        rows = sorted((name for name, a in found.items() if a.seeds > 1), key=lambda name: -found[name].mean)
        marks: list[Mark] = [Rule(0.0, INK, "solid")]
        marks += [_difference(name, name, found[name], style_of[name]) for name in rows]
        if rows:
            panels.append(Panel(title, Axis("difference (points)"), Axis("", categories=tuple(rows)), tuple(marks)))
    if not panels:
        return None
    better = [
        f"{sum(a.verdict == 'ahead' for a in found.values())} of {plural(len(found), what)}"
        for what, found in (("fused head", bar.late_sum), ("calibrated late product", bar.late_calibrated)) if found
    ]  # fmt: skip
    caption = (
        "Test accuracy of each method minus that of unimodal networks that were trained separately and are added "
        f"without further training, with 95 % intervals{over(result)}; the method is better right of 0. Filled "
        f"markers: significant (p < 0.05) after Holm correction for {plural(bar.comparisons, 'comparison')} with these "
        "networks; hollow: not significant, or no verdict."
    )
    title = f"Significantly better than separately trained networks: {', '.join(better)}"
    return Chart("separate", title, caption, tuple(panels))


def _combined(result: StudyResult) -> str:
    """The title: how many combinations are better than each of their parts."""
    whole = [each for each in result.combinations if each.parts]
    better = sum(judgement(each) == "better than each part" for each in whole)
    if not whole:
        return "Methods and their controls"
    return f"{better} of {plural(len(whole), 'combination')} significantly better than each part"


# --- every modality --------------------------------------------------------------------------------------------------


def heads(found: Sequence[run_data.Heads], style_of: Styles) -> Chart | None:
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
                marks.append(_head(row.method, f"{h.modality} head", row.own, "square", style_of))
            if row.probe is not None:
                marks.append(_head(row.method, f"{h.modality} probe", row.probe, "circle", style_of))
        rows = tuple(row.method for row in h.rows)
        panels.append(
            Panel(h.modality, Axis(f"test accuracy from {h.modality} (%)"), Axis("", categories=rows), tuple(marks))
        )
    legend = [
        Key("linear probe of the encoder", INK, "circle"),
        Key("unimodal head of the method", INK, "square", hollow=True),
    ]
    if any(h.ceiling_probe is not None for h in found):
        legend += [Key("probe, modality alone", INK, None, "dash"), Key("head, modality alone", QUIET, None, "dot")]
    caption = (
        "Test accuracy of each encoder, mean with its 95 % interval (heads: over seeds and test clips; probes: over "
        "seeds). The probe is a new linear classifier on the frozen encoder, so it also measures methods that train no "
        "unimodal heads."
    )
    return Chart("modalities", weakest(found), caption, tuple(panels), tuple(legend))


def _head(method: str, what: str, mean: Estimate, symbol: Symbol, style_of: Styles) -> Points:
    mean = mean.as_fraction()
    said = f"{method}, {what}: {_text(mean, 100, 1)} %"
    return Points(
        (100 * mean.mean,), (method,), style_of[method].colour, symbol, 11, hollow=symbol == "square",
        error=_error(mean, 100), labels=(said,), method=method,
    )  # fmt: skip


def _error(mean: Estimate, scale: float) -> tuple[tuple[float, float], ...]:
    """The error bar of an interval; none for a single seed."""
    if not math.isfinite(mean.low):
        return ()
    return ((scale * (mean.mean - mean.low), scale * (mean.high - mean.mean)),)


def _text(mean: Estimate, scale: float, places: int) -> str:
    """`81.2 (79.0 to 83.4)`"""
    said = f"{scale * mean.mean:.{places}f}"
    if not math.isfinite(mean.low):
        return said
    return f"{said} ({scale * mean.low:.{places}f} to {scale * mean.high:.{places}f})"


def weakest(found: Sequence[run_data.Heads]) -> str:
    """The title: the modality and method whose probe is lowest relative to the modality alone."""
    gaps = [(row.sufficiency, row.method, h.modality) for h in found for row in h.rows if row.sufficiency is not None]
    if not gaps:
        return "Test accuracy of each encoder"
    ratio, method, modality = min(gaps)
    if ratio > 0.98:
        return "Every encoder reaches at least 98 % of its modality alone"
    return f"Lowest sufficiency: the {modality} probe of {method} reaches {100 * ratio:.0f} % of {modality} alone"


def balance(found: Sequence[run_data.Measured], style_of: Styles) -> Chart | None:
    if not found:
        return None
    panels = []
    for m in found:
        unit = unit_of(m.metric.removeprefix("test_"))  # the caption says which split
        marks = tuple(
            Points(
                (unit.scale * s.mean,), (name,), style_of[name].colour, style_of[name].symbol, 11,
                error=_error(s, unit.scale), labels=(f"{name}: {_text(s, unit.scale, 3)}",), method=name,
            )
            for name, s in m.rows
        )  # fmt: skip
        panels.append(Panel("", Axis(unit.label), Axis("", categories=tuple(name for name, _ in m.rows)), marks))
    caption = (
        "On the test split, mean with its 95 % interval over seeds; 0 means balanced. Read balance together with "
        "accuracy, since an untrained network is balanced too. Methods without unimodal heads are missing from panels "
        "that compare heads."
    )
    return Chart("balance", _least_balanced(found), caption, tuple(panels))


def _least_balanced(found: Sequence[run_data.Measured]) -> str:
    """The title; it names a method only if the interval of its imbalance lies above that of the next."""
    for m in found:
        if m.metric == "test_balance/imbalance" and len(m.rows) > 1:
            (worst, most), (_, next_) = sorted(m.rows, key=lambda row: -row[1].mean)[:2]
            if most.low > next_.high:
                return f"{worst} is the least balanced: imbalance {most.mean:.2f}, all others at most {next_.mean:.2f}"
    return "Balance of the modalities"


# --- over epochs -----------------------------------------------------------------------------------------------------


def over_epochs(
    key: str, title: str, caption: str, metrics: Sequence[tuple[str, Sequence[run_data.Band]]], style_of: Styles,
    units: Mapping[str, str] | None = None, planned: Mapping[str, Sequence[run_data.Band]] | None = None,
) -> Chart | None:  # fmt: skip
    """A panel per metric, a line per method.

    Args:
        units: metric -> unit, for metrics whose unit depends on the run.
        planned: metric -> what was planned for it, as thin lines.
    """
    panels, names = [], set()
    for metric, bands in metrics:
        if not bands:
            continue
        unit = unit_of(metric)
        label = f"{unit.name} ({units[metric]})" if units and metric in units else unit.label
        marks: list[Mark] = []
        for band in bands:
            marks += _band(band, style_of[band.method], unit)
            names.add(band.method)
        for band in (planned or {}).get(metric, ()):
            name, mean = f"{band.method}, planned", tuple(unit.scale * value for value in band.mean)
            marks.append(Line(band.epochs, mean, INK, "dot", None, 1.2, name=name, method=band.method))
        panels.append(Panel("", _EPOCH, Axis(label), tuple(marks)))
    return Chart(key, title, caption, tuple(panels), method_keys(names, style_of, lines=True)) if panels else None


def what_method_did(
    method: str, found: Sequence[tuple[Quantity, Sequence[run_data.Band]]], source: str, style_of: Styles
) -> Chart | None:
    """The quantities of one added method: a panel for each, a line for each method of the study that has it."""
    shown = [(quantity, bands) for quantity, bands in found if bands]
    title = f"What {method} did"
    for name in style_of:
        means = {q: float(np.mean(band.mean)) for q, bands in shown for band in bands if band.method == name}
        if means:
            title += f"{f' in {name}' if name != method else ''}: {did(means)}, mean over epochs"
            break
    caption = (
        f"Quantities of {method}, in the epochs in which it acted; docs/metrics.md defines them. {source} Lines: mean "
        "over runs; bands: ± one standard deviation."
    )
    return over_epochs(f"method-{method}", title, caption, [(q.metric, bands) for q, bands in shown], style_of)


def _band(band: run_data.Band, style: Style, unit: Unit) -> list[Mark]:
    scaled = [tuple(unit.scale * v for v in values) for values in (band.low, band.high, band.mean)]
    low, high, mean = scaled
    marks: list[Mark] = []
    if band.runs > 1:
        marks.append(Area(band.epochs, low, high, style.colour, band.method))
    symbol = style.symbol if len(band.epochs) <= 40 else None
    marks.append(Line(band.epochs, mean, style.colour, style.dash, symbol, name=band.method, method=band.method))
    return marks


def scores(
    found: Mapping[str, Mapping[str, Sequence[run_data.Band]]],
    more: Sequence[tuple[str, Sequence[run_data.Band]]],
    unit: str,
    style_of: Styles,
) -> Chart | None:
    """Scores over epochs. `found[modality][quantile]`: a band per method; `more`: (metric, bands), one panel each."""
    panels, names = [], set()
    ends: dict[str, dict[str, float]] = defaultdict(dict)
    for m, quantiles in found.items():
        marks: list[Mark] = []
        for quantile, bands in quantiles.items():
            for band in bands:
                style = style_of[band.method]
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
        label = (
            f"mean margin between the two lowest scores ({unit})" if metric == "remix/margin" else unit_of(metric).label
        )
        if bands:
            marks = [mark for band in bands for mark in _band(band, style_of[band.method], unit_of(metric))]
            panels.append(Panel("", _EPOCH, Axis(label), tuple(marks)))
    if not panels or not names:
        return None
    method = next((name for name in style_of if len(ends[name]) > 1), None)
    title = "Separability scores of the training samples"
    if method is not None:
        least = min(ends[method], key=lambda m: ends[method][m])
        others = ", ".join(f"{v:.2f} for {m}" for m, v in ends[method].items() if m != least)
        title = f"{method} scores lowest on {least}: median {ends[method][least]:.2f} in the last epoch, {others}"
    caption = (
        "Separability scores of the training samples. Lines: median, with ± one standard deviation over replicates; "
        "dotted: 10 % and 90 % quantiles. A higher score means that the modality alone is more certain of a sample."
    )
    return Chart("scores", title, caption, tuple(panels), method_keys(names, style_of, lines=True))


def directions_title(bands: Mapping[str, Sequence[run_data.Band]]) -> str:
    """The title: the method and modality with the lowest mean of C1. `bands[modality]`: C1, a band per method."""
    means = [(float(np.mean(b.mean)), b.method, m) for m, found in bands.items() for b in found]
    if not means:
        return "Directions of gradients"
    lowest, method, m = min(means)
    return f"The fused and the unimodal loss agree least in {method}: mean cosine {lowest:.2f} for {m}"


def shares_title(bands: Mapping[str, Sequence[run_data.Band]], joint: Sequence[run_data.Band]) -> str:
    """The title: the shares of the first Remix method in the last epoch. `bands[modality]`: a band per method."""
    method = next((b.method for found in bands.values() for b in found), None)
    if method is None:
        return "Assignment of samples to modalities"
    last = {m: b.mean[-1] for m, found in bands.items() for b in found if b.method == method}
    said = [f"{100 * share:.0f} % train {m} alone" for m, share in last.items()]
    together = next((b.mean[-1] for b in joint if b.method == method), 0.0)
    said += [f"{100 * together:.0f} % train all modalities"] if together > 0.005 else []
    return f"{method}, last epoch: {listed(said)}"
