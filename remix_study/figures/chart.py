"""A chart as plain data: panels of marks, with words and colours, for the page and for pictures alike

web.py and png.py draw the same charts. Values are as shown (percent, points, seconds); colours `INK` and `QUIET` are
the page's own, dark on light and light on dark.
"""

from typing import Any, Literal, NamedTuple

Symbol = Literal["circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star", "tick"]
Dash = Literal["solid", "dash", "dot", "dashdot"]

INK, QUIET = "@ink", "@quiet"


class Line(NamedTuple):
    """`None` in `y` breaks it. `step`: it holds until the next point."""

    x: tuple[Any, ...]
    y: tuple[float | None, ...]
    colour: str
    dash: Dash = "solid"
    symbol: Symbol | None = None
    width: float = 2.0
    opacity: float = 1.0
    step: bool = False
    name: str = ""
    method: str = ""


class Area(NamedTuple):
    """Between two curves."""

    x: tuple[Any, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    colour: str
    method: str = ""


class Points(NamedTuple):
    """`error`: half widths along x, or (to the left, to the right) of each. `labels`: what a pointer reads."""

    x: tuple[Any, ...]
    y: tuple[Any, ...]
    colour: str
    symbol: Symbol
    size: float = 8.0
    opacity: float = 1.0
    hollow: bool = False
    error: tuple[tuple[float, float], ...] = ()
    labels: tuple[str, ...] = ()
    name: str = ""
    method: str = ""


class Bars(NamedTuple):
    """Horizontal, stacked on the bars before them; `hatch` tells them apart without colour."""

    categories: tuple[str, ...]
    values: tuple[float, ...]
    colour: str
    hatch: Literal["", "/", "x", "."]
    name: str


class Rule(NamedTuple):
    """A line across the panel at one value of the x axis."""

    at: float
    colour: str = QUIET
    dash: Dash = "dash"


class Text(NamedTuple):
    x: float
    y: float
    text: str


Mark = Line | Area | Points | Bars | Rule | Text


class Axis(NamedTuple):
    """`categories`: it has no numbers; of a y axis the first is on top. `ticks`: (place, word) instead of numbers."""

    title: str
    log: bool = False
    categories: tuple[str, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    range: tuple[float, float] | None = None
    whole: bool = False
    grid: bool = True


class Panel(NamedTuple):
    """`wide`: over the whole page. A y axis of numbers is named above the panel, where it need not be read sideways."""

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    wide: bool = False

    @property
    def heading(self) -> str:
        return ": ".join(words for words in (self.title, self.y.title) if words)


class Key(NamedTuple):
    """An entry of a legend; with a `method`, a click on it shows and hides the method's marks."""

    name: str
    colour: str
    symbol: Symbol | None = None
    dash: Dash | None = None
    hatch: str | None = None
    method: str = ""
    hollow: bool = False


class Chart(NamedTuple):
    """`title` says what was found, `caption` what is shown."""

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...] = ()
