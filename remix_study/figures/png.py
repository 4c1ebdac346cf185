"""Charts as PNG, for print, MLflow, and pages without JavaScript

Figures are created without pyplot, since a report may be written in a thread.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from remix_study.figures.chart import INK, QUIET, Area, Axis, Bars, Chart, Key, Line, Mark, Panel, Points, Rule, Text

_PAGE = {INK: "#222222", QUIET: "#6B6B6B"}
_SYMBOLS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "X", "triangle-down": "v", "cross": "P",
    "star": "*", "tick": "|",
}  # fmt: skip
_DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_HATCHES = {"": "", "/": "//", "x": "xx", ".": ".."}
_DPI = 110
_WIDTH = 10.0  # inches, as the next three
_LEGEND_ROW, _LEGEND_KEY, _LETTER = 0.24, 0.6, 0.085  # a row of the legend; a key without its name; a letter of a name
_COLUMNS = 6  # of the grid; a wide panel spans all, others two or three


class Pictures(NamedTuple):
    """PNG files of a chart: with its title, and without it."""

    titled: bytes
    plain: bytes


def pictures(chart: Chart) -> Pictures:
    """Draw a chart as PNG. It is drawn once; the plain picture is the part below the title."""
    figure = draw(chart)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # untyped in matplotlib, as the next two
    rows = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]  # matplotlib's gap
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib's gap
    below = rows.shape[0] - int(figure.texts[0].get_window_extent(renderer).y0)
    return Pictures(_png(rows), _png(rows[below:]))


def _png(rows: NDArray[np.uint8]) -> bytes:
    picture = io.BytesIO()
    imsave(picture, rows, format="png")
    return picture.getvalue()


def draw(chart: Chart) -> Figure:
    """Draw the chart on white, ten inches wide."""
    narrow = [panel for panel in chart.panels if not panel.wide]
    each = 3 if any(panel.y.categories for panel in narrow) or len(narrow) in (1, 2, 4) else 2
    places, row, column = [], 0, 0
    heights: list[float] = []
    for panel in chart.panels:
        taken = _COLUMNS if panel.wide else each
        if column + taken > _COLUMNS:
            row, column = row + 1, 0
        places.append((row, column, taken))
        heights += [0.0] * (row + 1 - len(heights))
        heights[row] = max(heights[row], _height(panel))
        column += taken
    title = textwrap.fill(chart.title, 92)
    keys = _keys_per_row(chart.legend)
    height = (
        sum(heights) + 0.6 + 0.25 * title.count("\n") + _LEGEND_ROW * max(0, math.ceil(len(chart.legend) / keys) - 1)
    )
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_PAGE[INK])
    grid = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
    for panel, (row, column, taken) in zip(chart.panels, places, strict=True):
        _panel(figure.add_subplot(grid[row, column : column + taken]), panel)
    if chart.legend:
        handles = [_handle(key) for key in chart.legend]
        figure.legend(
            handles, [key.name for key in chart.legend], loc="outside lower center", ncols=keys,
            frameon=False, fontsize=10,
        )  # fmt: skip
    return figure


def _keys_per_row(legend: Sequence[Key]) -> int:
    longest = max((len(key.name) for key in legend), default=1)
    return max(1, min(5, len(legend), int(_WIDTH / (_LEGEND_KEY + _LETTER * longest))))


def _height(panel: Panel) -> float:
    return 0.9 + 0.34 * len(panel.y.categories) if panel.y.categories else 3.6 if panel.wide else 2.9


def _panel(axes: Axes, panel: Panel) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9.5, colors=_PAGE[INK])
    if panel.y.grid:
        axes.grid(visible=True, axis="both", color="#E6E6E6", linewidth=0.8)
    if panel.heading:
        axes.set_title(
            textwrap.fill(panel.heading, 90 if panel.wide else 46), fontsize=10, loc="left", color=_PAGE[INK]
        )
    filled: dict[str, float] = {}
    for mark in panel.marks:
        _mark(axes, mark, panel, filled)
    _axis(axes, panel.x, "x")
    _axis(axes, panel.y, "y")


def _mark(axes: Axes, mark: Mark, panel: Panel, filled: dict[str, float]) -> None:
    """Draw one mark. `filled`: category -> total length of the bars so far."""
    match mark:
        case Line():
            y = np.asarray([np.nan if v is None else v for v in mark.y], dtype=np.float64)
            marker = "" if mark.symbol is None else _SYMBOLS[mark.symbol]
            style = "steps-post" if mark.step else "default"
            axes.plot(
                _places(mark.x, panel.x), y, color=_colour(mark.colour), linestyle=_DASHES[mark.dash], marker=marker,
                markersize=4, linewidth=0.8 * mark.width, alpha=mark.opacity, drawstyle=style,
            )  # fmt: skip
        case Area():
            axes.fill_between(mark.x, mark.low, mark.high, color=_colour(mark.colour), alpha=0.18, linewidth=0)
        case Points():
            xs, ys, colour = _places(mark.x, panel.x), _places(mark.y, panel.y), _colour(mark.colour)
            axes.plot(
                xs, ys, linestyle="", marker=_SYMBOLS[mark.symbol], markersize=0.75 * mark.size, alpha=mark.opacity,
                color=colour, markerfacecolor="none" if mark.hollow else colour, zorder=3,
                markeredgewidth=1.4 if mark.hollow or mark.symbol == "tick" else 0,
            )  # fmt: skip
            if mark.error:
                axes.errorbar(
                    xs, ys, xerr=np.transpose(mark.error), fmt="none", ecolor=colour, elinewidth=1.6, capsize=3
                )
        case Bars():
            places = _places(mark.categories, panel.y)
            left = [filled.get(c, 0.0) for c in mark.categories]
            axes.barh(
                places, mark.values, left=left, height=0.62, color=mark.colour, hatch=_HATCHES[mark.hatch],
                edgecolor="white", linewidth=0,
            )  # fmt: skip
            for category, value in zip(mark.categories, mark.values, strict=True):
                filled[category] = filled.get(category, 0.0) + value
        case Rule():
            axes.axvline(mark.at, color=_colour(mark.colour), linestyle=_DASHES[mark.dash], linewidth=1.1, zorder=1)
        case Text():
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
            axes.text(mark.x, mark.y, mark.text, fontsize=8, ha="center", va="center", color=_PAGE[INK], bbox=box)
        case unreachable:
            assert_never(unreachable)


def _axis(axes: Axes, axis: Axis, which: str) -> None:
    along = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":  # the title of a y axis is in the heading, see Panel
        along.set_label_text(textwrap.fill(axis.title, 44), fontsize=10, color=_PAGE[INK])
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    if axis.categories:
        along.set_ticks(range(len(axis.categories)), list(axis.categories))
        ends = (-0.5, len(axis.categories) - 0.5)
        set_limits(*(ends if which == "x" else ends[::-1]))
    elif axis.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    elif axis.integer:
        along.set_major_locator(MaxNLocator(integer=True))
    if axis.ticks:
        along.set_ticks([place for place, _ in axis.ticks], [word for _, word in axis.ticks])
    if axis.range is not None:
        set_limits(*axis.range)


def _places(values: Sequence[Any], axis: Axis) -> list[float]:
    """Values as numbers; categories as their positions."""
    index = {category: i for i, category in enumerate(axis.categories)}
    return [float(index[v]) if isinstance(v, str) else float(v) for v in values]


def _colour(colour: str) -> str:
    return _PAGE.get(colour, colour)


def _handle(key: Key) -> Artist:
    if key.hatch is not None:
        return Patch(facecolor=key.colour, hatch=_HATCHES[key.hatch], edgecolor="white", linewidth=0)
    colour = _colour(key.colour)
    return Line2D(
        [], [], color=colour, linestyle="" if key.dash is None else _DASHES[key.dash], linewidth=1.8, markersize=7,
        marker="" if key.symbol is None else _SYMBOLS[key.symbol], markerfacecolor="none" if key.hollow else colour,
    )  # fmt: skip
