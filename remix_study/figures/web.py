"""Charts as JSON for plotly.js

No plotly objects are created in Python, since their validation is slow. The page replaces colours that begin with `@`
by those of its theme.
"""

import html
import math
import textwrap
from typing import Any, assert_never

from remix_study.figures.chart import INK, QUIET, Area, Axis, Bars, Line, Mark, Panel, Points, Rule, Symbol, Text

PAPER, GRID = "@paper", "@grid"
_LETTERS, _FEW_LETTERS = 32, 22  # per line of an axis title: fits a phone, and next to long categories
Spec = dict[str, Any]


def spec(panel: Panel) -> Spec:
    """`data` and `layout` of one panel for plotly.js."""
    marks = panel.marks
    data = [trace for mark in marks for trace in _traces(mark)]
    layout: Spec = {
        "height": _height(panel),
        "margin": {"l": 8, "r": 16, "t": 10, "b": 8},
        "showlegend": False,
        "hovermode": "closest",
        "barmode": "stack",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 13, "color": INK, "family": "inherit"},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": QUIET, "font": {"color": INK, "size": 13}, "namelength": -1},
        "xaxis": _axis(panel.x, _span(marks), across=True) | {"title": _title(panel)},
        "yaxis": _axis(panel.y, None, across=False) | {"title": {"text": ""}},  # see Panel
        "shapes": [_rule(mark) for mark in marks if isinstance(mark, Rule)],
        "annotations": [_note(mark) for mark in marks if isinstance(mark, Text)],
    }
    return {"data": data, "layout": layout}


def _traces(mark: Mark) -> list[Spec]:
    match mark:
        case Line():
            line = {"color": mark.colour, "dash": mark.dash, "width": mark.width}
            trace = {
                "type": "scatter", "x": _values(mark.x), "y": _values(mark.y), "name": _text(mark.name),
                "mode": "lines" if mark.symbol is None else "lines+markers", "opacity": mark.opacity,
                "line": line | ({"shape": "hv"} if mark.step else {}), "connectgaps": False, "meta": mark.method,
            }  # fmt: skip
            if mark.symbol is not None:
                trace["marker"] = _marker(mark.symbol, mark.colour, 6.0, hollow=False)
            return [trace]
        case Area():
            return [
                {
                    "type": "scatter", "x": _values((*mark.x, *reversed(mark.x))), "mode": "lines", "fill": "toself",
                    "y": _values((*mark.high, *reversed(mark.low))), "fillcolor": _faint(mark.colour),
                    "line": {"width": 0}, "hoverinfo": "skip", "meta": mark.method,
                }
            ]  # fmt: skip
        case Points():
            trace = {
                "type": "scatter", "mode": "markers", "x": _values(mark.x), "y": _values(mark.y),
                "opacity": mark.opacity, "name": _text(mark.name), "meta": mark.method,
                "marker": _marker(mark.symbol, mark.colour, mark.size, hollow=mark.hollow),
            }  # fmt: skip
            if mark.labels:
                trace |= {"text": [_text(label) for label in mark.labels], "hoverinfo": "text"}
            if mark.error:
                left, right = zip(*mark.error, strict=True)
                trace["error_x"] = {
                    "type": "data", "symmetric": False, "array": _values(right), "arrayminus": _values(left),
                    "color": mark.colour, "thickness": 2, "width": 5,
                }  # fmt: skip
            return [trace]
        case Bars():
            hatch = {"shape": mark.hatch, "fgcolor": PAPER, "fillmode": "overlay", "size": 7, "solidity": 0.35}
            return [
                {
                    "type": "bar", "orientation": "h", "x": _values(mark.values), "y": _values(mark.categories),
                    "name": _text(mark.name), "marker": {"color": mark.colour, "pattern": hatch if mark.hatch else {}},
                }
            ]  # fmt: skip
        case Rule() | Text():
            return []  # of the layout
        case unreachable:
            assert_never(unreachable)


def _marker(symbol: Symbol, colour: str, size: float, *, hollow: bool) -> Spec:
    if symbol == "tick":
        return {"symbol": "line-ns-open", "color": colour, "size": size, "line": {"width": 1.6, "color": colour}}
    return {
        "symbol": f"{symbol}-open" if hollow else symbol,
        "color": colour,
        "size": size,
        "line": {"width": 2 if hollow else 0},
    }


def _axis(axis: Axis, span: tuple[float, float] | None, *, across: bool) -> Spec:
    found: Spec = {
        "automargin": True,
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": QUIET,
        "tickcolor": QUIET,
        "showgrid": axis.grid,
        "showline": axis.grid,
    }
    if axis.categories:
        found |= {"type": "category", "categoryorder": "array", "categoryarray": [_text(c) for c in axis.categories]}
        found["range"] = [-0.5, len(axis.categories) - 0.5] if across else [len(axis.categories) - 0.5, -0.5]
    elif axis.log:
        # Ticks at powers of ten only for many decades; also at 2 and 5 for few.
        found |= {"type": "log", "dtick": "D2", "exponentformat": "power"}
    if axis.ticks:
        found |= {"tickvals": [t for t, _ in axis.ticks], "ticktext": [_text(w) for _, w in axis.ticks]}
    if axis.range is not None:
        found["range"] = [_value(math.log10(end) if axis.log else end) for end in axis.range]
    if axis.integer and span is not None:
        found["dtick"] = _whole_step(span[1] - span[0])
    return found


def _title(panel: Panel) -> Spec:
    letters = _FEW_LETTERS if panel.y.categories and not panel.wide else _LETTERS
    return {"text": _text("\n".join(textwrap.wrap(panel.x.title, letters))), "standoff": 8}


def _whole_step(span: float) -> float:
    """Distance between integer ticks: 1, 2 or 5 times a power of ten, for about six ticks."""
    for power in range(12):
        for step in (1.0, 2.0, 5.0):
            if span / (step * 10**power) <= 7:
                return float(step * 10**power)
    return span


def _span(marks: tuple[Mark, ...]) -> tuple[float, float] | None:
    xs = [x for mark in marks if isinstance(mark, Line | Points) for x in mark.x if isinstance(x, int | float)]
    return (min(xs), max(xs)) if xs else None


def _rule(mark: Rule) -> Spec:
    at = _value(mark.at)
    line = {"color": mark.colour, "dash": mark.dash, "width": 1.4}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}


def _note(mark: Text) -> Spec:
    return {
        "x": mark.x, "y": _value(mark.y), "text": _text(mark.text), "showarrow": False, "xanchor": "center",
        "bgcolor": PAPER, "font": {"size": 11, "color": INK}, "borderpad": 1, "opacity": 0.9,
    }  # fmt: skip


def _height(panel: Panel) -> int:
    if panel.y.categories:
        return 92 + 34 * len(panel.y.categories)
    return 360 if panel.wide else 290


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _text(text: str) -> str:
    """Escape text, since plotly interprets some HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def _values(values: tuple[Any, ...]) -> list[Any]:
    return [_text(v) if isinstance(v, str) else _value(v) for v in values]


def _value(value: float | None) -> float | int | None:
    """Round to six digits; None instead of NaN and infinity, which JSON lacks."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")
