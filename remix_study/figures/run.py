"""Figures of a run, and the comparison of a study: first their numbers, then their drawing

    learning curves    validation accuracy of the fused model and of each unimodal head over epochs
    assignment         share of the samples that each modality trains, over epochs
    scores             histograms of the separability scores
    what methods did   quantities of the added methods over epochs
    comparison         test accuracy of the methods of a study, one dot per seed

Figures are created without pyplot, since several runs may draw in threads of one process.
"""

# N samples, M modalities, C classes

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from remix_study.figures.quantities import did, planned_values, quantities
from remix_study.modality import canonical_order

History = Sequence[Mapping[str, float]]  # one record of metrics per epoch, names of docs/metrics.md

# Okabe and Ito's palette, which is safe for colour-blind readers.
_MODALITY_COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")
_FUSED, _LATE, _JOINT, _UNTRAINED, _INK, _QUIET = "#222222", "#999999", "#8C8C8C", "#E3E3E3", "#222222", "#6B6B6B"


class Curve(NamedTuple):
    name: str
    epochs: list[int]
    values: list[float]


class LearningCurves(NamedTuple):
    fused: Curve
    late_sum: Curve | None
    heads: dict[str, Curve]
    best_epoch: int
    title: str


class AssignmentOverEpochs(NamedTuple):
    """Shares in [0, 1] of all samples: `shares[m]` trains m alone; all shares, `joint` and `untrained` sum to 1.

    `planned`: for each modality, the sum of the planned shares up to it; empty if nothing was planned.
    """

    epochs: list[int]
    shares: dict[str, list[float]]
    joint: list[float]
    untrained: list[float]
    churn: Curve | None
    warmup_epochs: int
    title: str
    planned: tuple[Curve, ...] = ()


class ScoreHistograms(NamedTuple):
    """Histograms. `counts[group][m]`: samples per bin; a group is a class, or "" for all samples."""

    edges: NDArray[np.float64]
    counts: dict[str, dict[str, NDArray[np.int64]]]
    medians: dict[str, float]
    title: str


class QuantityOverEpochs(NamedTuple):
    """One quantity of an added method. `parts`: modality or another part of the model, or "", -> its values."""

    label: str
    parts: dict[str, Curve]


class WhatMethodsDid(NamedTuple):
    """Quantities of the added methods of a run, by method."""

    panels: list[QuantityOverEpochs]
    modalities: tuple[str, ...]
    title: str


class MethodResults(NamedTuple):
    """One method of a study: test accuracies in [0, 1], one per seed; `heads[m]`: of a linear probe of m."""

    method: str
    fused: Sequence[float]
    heads: Mapping[str, Sequence[float]]


class Comparison(NamedTuple):
    """Methods, sorted from best to worst mean."""

    methods: list[MethodResults]
    title: str


def colour(modality: str, modalities: Sequence[str]) -> str:
    """The colour of a modality, the same in all figures."""
    return _MODALITY_COLOURS[list(modalities).index(modality) % len(_MODALITY_COLOURS)]


def curve(history: History, metric: str, name: str) -> Curve | None:
    """One metric over the epochs that have it; None if no epoch has it. Epochs default to the position of a record."""
    points = [
        (int(record.get("epoch", position)), float(record[metric]))
        for position, record in enumerate(history)
        if math.isfinite(record.get(metric, math.nan))
    ]
    return Curve(name, [epoch for epoch, _ in points], [value for _, value in points]) if points else None


def learning_curves(history: History, modalities: Sequence[str]) -> LearningCurves:
    """Validation accuracies over epochs.

    Raises:
        ValueError: no epoch has `val/accuracy`.
    """
    fused = curve(history, "val/accuracy", "fused")
    if fused is None:
        raise ValueError("learning curves need `val/accuracy`, but no epoch has it")
    found = {m: curve(history, f"val/accuracy_uni/{m}", f"{m} head") for m in modalities}
    heads = {m: line for m, line in found.items() if line is not None}
    best = int(np.argmax(fused.values))
    said = f"Best at epoch {fused.epochs[best]}: {_percent(fused.values[best])} fused"
    at_best = {
        m: line.values[line.epochs.index(fused.epochs[best])]
        for m, line in heads.items()
        if fused.epochs[best] in line.epochs
    }
    if at_best:
        said += ", " + ", ".join(f"{_percent(value)} from {m} alone" for m, value in at_best.items())
    late = curve(history, "val/accuracy_late_sum", "late sum of heads")
    return LearningCurves(fused, late, heads, fused.epochs[best], said)


def draw_learning_curves(data: LearningCurves) -> Figure:
    figure, axes = _figure(8.0, 4.6, data.title)
    lines: list[tuple[Curve, str]] = []
    for modality, line in data.heads.items():
        tint = colour(modality, list(data.heads))
        axes.plot(line.epochs, line.values, color=tint, linewidth=1.8, marker=_dot(line), markersize=4)
        lines.append((line, tint))
    if data.late_sum is not None:
        axes.plot(*data.late_sum[1:], color=_LATE, linewidth=1.6, linestyle=(0, (4, 2)))
        lines.append((data.late_sum, _QUIET))
    axes.plot(*data.fused[1:], color=_FUSED, linewidth=2.6, marker=_dot(data.fused), markersize=4)
    lines.append((data.fused, _FUSED))
    best = data.fused.values[data.fused.epochs.index(data.best_epoch)]
    axes.axvline(data.best_epoch, color=_QUIET, linewidth=0.9, linestyle=":", zorder=0)
    axes.plot([data.best_epoch], [best], marker="*", markersize=15, color=_FUSED, markeredgecolor="white", zorder=5)
    _name_lines(axes, lines)
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _epochs(axes)
    return figure


def assignment(history: History, modalities: Sequence[str], warmup_epochs: int = 0) -> AssignmentOverEpochs:
    """Shares over epochs, from `remix/share/*`, `remix/joint_share`, `remix/churn` and `schedule/share/*`.

    The warm-up is left out.

    Raises:
        ValueError: no epoch has an assignment.
    """
    records = [
        (int(record.get("epoch", position)), record)
        for position, record in enumerate(history)
        if any(f"remix/share/{m}" in record for m in modalities)
    ]
    if not records:
        raise ValueError(
            "the assignment figure needs `remix/share/*`, but no epoch has it: the run has not used Remix yet"
        )
    own = {m: [float(record.get(f"remix/share/{m}", 0.0)) for _, record in records] for m in modalities}
    joint = [float(record.get("remix/joint_share", 0.0)) for _, record in records]
    untrained = [max(0.0, 1.0 - together - sum(parts)) for together, *parts in zip(joint, *own.values(), strict=True)]
    last = {m: shares[-1] for m, shares in own.items()}
    least = min(last, key=lambda m: last[m])
    title = f"Remix: {least} trains {_percent(last[least])} of the samples in the last epoch"
    title += "".join(f", {m} {_percent(share)}" for m, share in last.items() if m != least)
    churn = curve(history, "remix/churn", "churn")
    epochs = [epoch for epoch, _ in records]
    return AssignmentOverEpochs(
        epochs, own, joint, untrained, churn, warmup_epochs, title, _planned(records, modalities)
    )


def _planned(records: Sequence[tuple[int, Mapping[str, float]]], modalities: Sequence[str]) -> tuple[Curve, ...]:
    """For each modality, the sum of the planned shares up to it, in the epochs that have a plan."""
    keys = [f"schedule/share/{m}" for m in modalities]
    sums = [(epoch, np.cumsum([record[key] for key in keys])) for epoch, record in records
            if all(key in record for key in keys)]  # fmt: skip
    if not sums:
        return ()
    epochs = [epoch for epoch, _ in sums]
    return tuple(Curve(m, epochs, [float(each[n]) for _, each in sums]) for n, m in enumerate(modalities))


def draw_assignment(data: AssignmentOverEpochs) -> Figure:
    figure, axes = _figure(8.0, 4.6, data.title)
    # Bars, not areas, since an assignment is constant within an epoch.
    floor = np.zeros(len(data.epochs))
    parts = [(m, shares, colour(m, list(data.shares))) for m, shares in data.shares.items()]
    parts += [("joint", data.joint, _JOINT), ("untrained", data.untrained, _UNTRAINED)]
    for name, shares, tint in parts:
        if any(share > 5e-4 for share in shares):
            axes.bar(
                data.epochs, shares, bottom=floor, width=1.0, color=tint, edgecolor="white", linewidth=0.6, label=name
            )
        floor = floor + np.asarray(shares)
    for number, line in enumerate(data.planned):
        edges = [edge for epoch in line.epochs for edge in (epoch - 0.5, epoch + 0.5, epoch + 0.5)]
        heights = [height for value in line.values for height in (value, value, math.nan)]
        axes.plot(edges, heights, color=_INK, linewidth=1.2, label="planned" if number == 0 else None)
    if data.warmup_epochs:
        axes.axvspan(-0.5, data.warmup_epochs - 0.5, color="#F3F3F3", zorder=0)
        axes.text(
            (data.warmup_epochs - 1) / 2,
            0.5,
            "warm-up",
            rotation=90,
            ha="center",
            va="center",
            color=_QUIET,
            fontsize=10,
        )
    axes.set_xlim(
        min(-0.5 if data.warmup_epochs else data.epochs[0] - 0.5, data.epochs[0] - 0.5), data.epochs[-1] + 0.5
    )
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the training samples")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = axes.get_legend_handles_labels()
    if data.churn is not None:
        second = axes.twinx()
        second.plot(
            data.churn.epochs, data.churn.values, color=_INK, linewidth=1.8, marker="o", markersize=4,
            label="churn (right)", markeredgecolor="white",
        )  # fmt: skip
        second.set_ylim(0, max(0.05, 1.15 * max(data.churn.values)))
        second.set_ylabel("churn: assignments that changed", color=_INK)
        second.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        second.spines[["top", "left"]].set_visible(False)
        more, names = second.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    _legend_below(figure, axes, handles, labels)
    _epochs(axes)
    axes.grid(visible=False)
    return figure


def score_histograms(
    scores_NM: NDArray[np.float64],
    modalities: Sequence[str],
    labels_N: NDArray[np.int64] | None = None,
    classes: Sequence[str] | None = None,
    bins: int = 30,
) -> ScoreHistograms:
    """Histograms of one scoring pass; with `labels_N` and `classes`, one group per class. NaN is left out.

    Raises:
        ValueError: `scores_NM` is not (N, M) with N > 0 and a column for each modality.
    """
    if scores_NM.ndim != 2 or scores_NM.shape[1] != len(modalities) or not np.isfinite(scores_NM).any():
        raise ValueError(f"scores must be (N, {len(modalities)}) numbers, but are {scores_NM.shape}")
    finite = scores_NM[np.isfinite(scores_NM)]
    edges = np.histogram_bin_edges(finite, bins=bins)
    groups: dict[str, NDArray[np.bool_]] = {"": np.ones(len(scores_NM), dtype=np.bool_)}
    if labels_N is not None and classes is not None:
        groups = {name: labels_N == label for label, name in enumerate(classes)}
    counts = {
        name: {m: np.histogram(scores_NM[rows, column], edges)[0] for column, m in enumerate(modalities)}
        for name, rows in groups.items()
    }
    medians = {m: float(np.nanmedian(scores_NM[:, column])) for column, m in enumerate(modalities)}
    most = max(medians, key=lambda m: medians[m])
    others = ", ".join(f"{m} {value:.2f}" for m, value in medians.items() if m != most)
    title = f"Highest separability from {most}: median score {medians[most]:.2f} ({others})"
    return ScoreHistograms(edges, counts, medians, title)


def draw_score_histograms(data: ScoreHistograms, unit: str = "bits from uniform") -> Figure:
    groups = len(data.counts)
    wide = min(groups, 4)
    high = math.ceil(groups / wide)
    size = (8.0, 4.2) if groups == 1 else (max(8.0, 2.6 * wide + 0.6), 2.0 * high + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    _title(figure, data.title)
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    modalities = list(data.medians)
    for axes, (group, counts) in zip(grid.flat, data.counts.items(), strict=False):
        _plain(axes)
        for m in modalities:
            tint = colour(m, modalities)
            axes.stairs(counts[m], data.edges, fill=True, color=tint, alpha=0.35)
            axes.stairs(counts[m], data.edges, color=tint, linewidth=1.6, label=m)
            if groups == 1:
                axes.axvline(data.medians[m], color=tint, linewidth=1.4, linestyle="--")
        axes.set_title(group, fontsize=10, loc="left", color=_QUIET)
        axes.set_xlim(data.edges[0], data.edges[-1])
    for axes in list(grid.flat)[groups:]:
        axes.set_visible(False)
    note = " (dashed: median)" if groups == 1 else ""
    figure.supxlabel(f"separability score, {unit}{note}", fontsize=11, color=_INK)
    figure.supylabel("samples", fontsize=11, color=_INK)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if groups == 1:
        grid.flat[0].legend(handles, labels, frameon=False, fontsize=11)
    else:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    return figure


def what_methods_did(history: History, modalities: Sequence[str]) -> WhatMethodsDid:
    """The quantities of added methods and of abstaining targets over epochs, from `method/...` and `targets/...`.

    Raises:
        ValueError: no epoch has any.
    """
    panels, said = [], []
    for method, listed in quantities(history).items():
        curves = {each: line for each in listed if (line := curve(history, each.metric, each.part)) is not None}
        for name in dict.fromkeys(each.name for each in curves):
            parts = {each.part: line for each, line in curves.items() if each.name == name}
            first = next(each for each in curves if each.name == name)
            panels.append(QuantityOverEpochs(f"{method}: {first.label}", parts))
        if curves:
            said.append(f"{method}: {did({each: float(np.mean(line.values)) for each, line in curves.items()})}")
    if not panels:
        raise ValueError("the figure needs `method/...`, but no epoch has it: no added method has acted yet")
    return WhatMethodsDid(panels, tuple(modalities), f"{'; '.join(said)} (means over epochs)")


def schedules(history: History, modalities: Sequence[str]) -> WhatMethodsDid:
    """What schedules planned over epochs, from `schedule/...`, without the shares, which `assignment` has.

    Raises:
        ValueError: no epoch has any.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for metric in planned_values(history):
        name, _, part = metric.removeprefix("schedule/").rpartition("/")
        if part not in modalities:
            name, part = f"{name}/{part}".removeprefix("/"), ""
        if (line := curve(history, metric, part)) is not None:
            panels.setdefault(name, {})[part] = line
    if not panels:
        raise ValueError("the figure needs `schedule/...`, but no epoch has it: the run has no schedules")
    found = [QuantityOverEpochs(name.replace("/", " ").replace("_", " "), parts) for name, parts in panels.items()]
    return WhatMethodsDid(found, tuple(modalities), f"Planned over epochs: {', '.join(each.label for each in found)}")


def draw_what_methods_did(data: WhatMethodsDid) -> Figure:
    """A panel for each quantity, a line for each modality."""
    wide = min(len(data.panels), 2)
    high = math.ceil(len(data.panels) / wide)
    figure = Figure(figsize=(max(8.0, 5.0 * wide), 3.1 * high + 1.0), layout="constrained")
    _title(figure, data.title)
    grid = figure.subplots(high, wide, sharex=True, squeeze=False)
    handles: dict[str, Artist] = {}
    for axes, panel in zip(grid.flat, data.panels, strict=False):
        _plain(axes)
        others = [part for part in panel.parts if part not in data.modalities]
        for part, line in panel.parts.items():
            if part in data.modalities:
                tint, dash = colour(part, data.modalities), "-"
            else:
                tint, dash = (_FUSED, _LATE)[others.index(part) % 2], ("-", "--", ":")[others.index(part) // 2 % 3]
            (drawn,) = axes.plot(
                line.epochs, line.values, color=tint, linestyle=dash, linewidth=1.8, marker=_dot(line), markersize=4
            )
            if part:
                handles.setdefault(part, drawn)
        axes.set_title(panel.label, fontsize=11, loc="left", color=_INK)
        _epochs(axes)
    for axes in list(grid.flat)[len(data.panels) :]:
        axes.set_visible(False)
        grid[-2, -1].tick_params(labelbottom=True)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles)),
            frameon=False, fontsize=10.5,
        )  # fmt: skip
    return figure


def comparison(results: Sequence[MethodResults]) -> Comparison:
    """Sort methods by mean test accuracy; the title names the best and its lead over the next, in points.

    Raises:
        ValueError: no results, or a method without any.
    """
    if not results or any(not result.fused for result in results):
        raise ValueError("a comparison needs at least one test accuracy of every method")
    ordered = sorted(results, key=lambda result: -float(np.mean(result.fused)))
    first = ordered[0]
    mean = float(np.mean(first.fused))
    if len(ordered) == 1:
        return Comparison(ordered, f"{first.method} reaches {_percent(mean)}")
    lead = 100 * (mean - float(np.mean(ordered[1].fused)))
    spread = 100 * max(_std(first.fused), _std(ordered[1].fused))
    # A lead within one standard deviation over seeds is not reported as one.
    if lead <= spread:
        title = (
            f"No clear difference: {first.method} and {ordered[1].method} differ by {lead:.1f} points, std {spread:.1f}"
        )
    else:
        title = f"{first.method} leads with {_percent(mean)}, {lead:.1f} points above {ordered[1].method}"
    return Comparison(ordered, title)


def draw_comparison(data: Comparison) -> Figure:
    """One row per method: a dot per seed, mean ± standard deviation, and the mean of each linear probe."""
    modalities = list(canonical_order({m for result in data.methods for m in result.heads}))
    rows = len(data.methods)
    figure = Figure(figsize=(9.0, 1.7 + 0.72 * rows), layout="constrained")
    _title(figure, data.title, size=14)
    panels = figure.subplots(
        1, 2 if modalities else 1, sharey=True, squeeze=False, width_ratios=[3, 2][: 2 if modalities else 1]
    )[0]
    for axes in panels:
        _plain(axes)
        axes.grid(visible=True, axis="x", color="#E6E6E6", linewidth=0.8)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    for row, result in enumerate(data.methods):
        tint = "#0072B2" if row == 0 else _QUIET
        mean, std = float(np.mean(result.fused)), _std(result.fused)
        # Dots are offset in the order of the seeds, so that equal values stay visible.
        lift = np.linspace(-0.13, 0.13, len(result.fused)) if len(result.fused) > 1 else np.zeros(1)
        panels[0].scatter(result.fused, row + lift, s=26, color=tint, alpha=0.45, linewidths=0, zorder=3)
        panels[0].errorbar(mean, row, xerr=std, fmt="o", color=tint, markersize=9, capsize=4, elinewidth=2, zorder=4)
        words = f"{100 * mean:.1f} ± {100 * std:.1f} %" if len(result.fused) > 1 else f"{100 * mean:.1f} %"
        panels[0].text(mean, row - 0.26, words, ha="center", va="bottom", fontsize=10.5, color=_INK)
        for m in modalities:
            if result.heads.get(m):
                panels[1].errorbar(
                    float(np.mean(result.heads[m])),
                    row,
                    xerr=_std(result.heads[m]),
                    fmt="o",
                    color=colour(m, modalities),
                    markersize=8,
                    capsize=3,
                    elinewidth=1.6,
                    label=m if row == 0 else None,
                )
    panels[0].set_yticks(range(rows), [result.method for result in data.methods], fontsize=12)
    panels[0].set_ylim(rows - 0.5, -0.6)
    panels[0].set_xlabel("test accuracy, fused (dots: seeds; mean ± std)", fontsize=10.5)
    panels[0].margins(x=0.16)
    if modalities:
        panels[1].set_xlabel("test accuracy of linear probes", fontsize=10.5)
        by_label: dict[str, Artist] = {}
        for handle, label in zip(*panels[1].get_legend_handles_labels(), strict=True):
            by_label.setdefault(label, handle)
        panels[1].legend(
            list(by_label.values()), list(by_label), loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(by_label),
            columnspacing=1.2, frameon=False, fontsize=11, handletextpad=0.2, borderaxespad=0.0,
        )  # fmt: skip
        panels[1].margins(x=0.12)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    _title(figure, title)
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _title(figure: Figure, said: str, size: float = 13) -> None:
    """Wrap the title, and make the figure higher by its additional lines."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    font = FontProperties(size=size, weight="bold")
    room = 0.97 * figure.bbox.width
    lines = [""]
    for word in said.split():
        longer = f"{lines[-1]} {word}".strip()
        if renderer.get_text_width_height_descent(longer, font, False)[0] <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    figure.set_figheight(figure.get_figheight() + (len(lines) - 1) * 1.3 * size / 72)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=size, fontweight="bold", color=_INK)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.grid(visible=True, axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10.5, colors=_INK)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_below(figure: Figure, axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    axes.set_xlabel("epoch")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10.5)


def _name_lines(axes: Axes, lines: Sequence[tuple[Curve, str]]) -> None:
    """Label each line at its right end, and separate labels that would overlap."""
    low, high = axes.get_ylim()
    apart = 0.062 * (high - low)
    ends = sorted(lines, key=lambda line: line[0].values[-1])
    heights = [line.values[-1] for line, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    # Move all labels down if they exceed the frame.
    over = max(0.0, heights[-1] - (high - apart / 3))
    for (line, tint), height in zip(ends, heights, strict=True):
        axes.annotate(
            line.name, (line.epochs[-1], height - over), xytext=(9, 0), textcoords="offset points", va="center",
            color=tint, fontsize=11, annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(low, high)


def _dot(line: Curve) -> str:
    return "o" if len(line.epochs) <= 30 else ""


def _std(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); 0 for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
