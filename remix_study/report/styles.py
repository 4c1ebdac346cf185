"""Colours, symbols and dashes of a study's methods, the same in every chart"""

from collections.abc import Iterable
from typing import NamedTuple

from remix_study.config.study import StudyConfig
from remix_study.figures.chart import Dash, Key, Symbol

# Okabe and Ito's palette without black and yellow, which lack contrast on dark and on light backgrounds, plus grey. A
# method also has a symbol and a dash, for readers who cannot tell the colours apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


class Style(NamedTuple):
    """The style of one method in every chart."""

    colour: str
    symbol: Symbol
    dash: Dash


Styles = dict[str, Style]


def styles(study: StudyConfig) -> dict[str, Style]:
    """Assign a style to every method: the reference first, then in the order of the study file."""
    names = [study.reference, *(name for name in study.methods if name != study.reference)]
    return {
        name: Style(
            _COLOURS[i % len(_COLOURS)],
            _SYMBOLS[i % len(_SYMBOLS)],
            _DASHES[i // len(_COLOURS) % len(_DASHES)],
        )
        for i, name in enumerate(names)
    }


def method_keys(names: Iterable[str], style_of: dict[str, Style], *, lines: bool) -> tuple[Key, ...]:
    """Legend entries of `names`, in the order of `style_of`."""
    wanted = set(names)
    return tuple(
        Key(name, style.colour, style.symbol, style.dash if lines else None, None, name)
        for name, style in style_of.items()
        if name in wanted
    )
