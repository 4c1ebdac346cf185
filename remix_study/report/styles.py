"""Colours, symbols and dashes of a study's methods, the same in every chart"""

from collections.abc import Iterable
from typing import NamedTuple

from remix_study.config.study import StudyConfig
from remix_study.figures.chart import Dash, Key, Symbol

# Okabe and Ito's palette without black and yellow, which are lost on dark and on light paper; then a grey. A method
# has a symbol and a dash besides, so that nothing rests on colour alone.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


class Style(NamedTuple):
    """How one method looks, everywhere."""

    colour: str
    symbol: Symbol
    dash: Dash


Styles = dict[str, Style]


def styles(study: StudyConfig) -> dict[str, Style]:
    """The reference first, then the methods in the order of the file."""
    names = [study.reference, *(name for name in study.methods if name != study.reference)]
    return {
        name: Style(
            _COLOURS[i % len(_COLOURS)],
            _SYMBOLS[i % len(_SYMBOLS)],
            _DASHES[i // len(_COLOURS) % len(_DASHES)],
        )
        for i, name in enumerate(names)
    }


def method_keys(names: Iterable[str], look: dict[str, Style], *, lines: bool) -> tuple[Key, ...]:
    """In the order of `look`, each once."""
    wanted = set(names)
    return tuple(
        Key(name, style.colour, style.symbol, style.dash if lines else None, None, name)
        for name, style in look.items()
        if name in wanted
    )
