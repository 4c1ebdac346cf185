"""A chart as plain data: panels of marks, with texts and colours

web.py and png.py draw the same charts. Values are in displayed units (percent, points, seconds). The colours `INK` and
`QUIET` follow the theme of the page, light or dark.
"""

from typing import Any, Literal, NamedTuple

Symbol = Literal["circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star", "tick"]
Dash = Literal["solid", "dash", "dot", "dashdot"]

INK, QUIET = "@ink", "@quiet"


class Line(NamedTuple):
    """A line. `None` in `y` interrupts it. `step`: draw steps instead of straight segments."""

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
    """The area between two curves."""

    x: tuple[Any, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    colour: str
    method: str = ""


class Points(NamedTuple):
    """Markers. `error`: lengths of error bars along x (left, right). `labels`: texts for the pointer."""

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
    """Horizontal bars, stacked on the previous ones; `hatch` distinguishes them without colour."""

    categories: tuple[str, ...]
    values: tuple[float, ...]
    colour: str
    hatch: Literal["", "/", "x", "."]
    name: str


class Rule(NamedTuple):
    """A vertical line across the panel."""

    at: float
    colour: str = QUIET
    dash: Dash = "dash"


class Text(NamedTuple):
    x: float
    y: float
    text: str


Mark = Line | Area | Points | Bars | Rule | Text


class Axis(NamedTuple):
    """An axis.

    `categories`: names instead of numbers; on a y axis the first is at the top. `ticks`: (position, text) instead of
    numbers. `integer`: ticks at integers only.
    """

    title: str
    log: bool = False
    categories: tuple[str, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    range: tuple[float, float] | None = None
    integer: bool = False
    grid: bool = True


class Panel(NamedTuple):
    """A panel. `wide`: as wide as the page. The title of the y axis is part of `heading`, above the panel."""

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    wide: bool = False

    @property
    def heading(self) -> str:
        return ": ".join(words for words in (self.title, self.y.title) if words)


class Key(NamedTuple):
    """A legend entry; with `method`, a click shows or hides the marks of that method."""

    name: str
    colour: str
    symbol: Symbol | None = None
    dash: Dash | None = None
    hatch: str | None = None
    method: str = ""
    hollow: bool = False


class Chart(NamedTuple):
    """A chart. `title` states the finding, `caption` what is shown."""

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...] = ()
