"""Tables for terminals of any width: no value is cut, and a table that does not fit becomes a list"""

import copy
import dataclasses
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

__all__ = ["Fitted"]

_FOLDED = 10  # least width of a column with `overflow="fold"`, in characters
_BORDERS = 3  # characters that a column takes besides its values: padding and a line


class Fitted:
    """A table whose columns are as wide as the terminal allows.

    Values wrap between words and headings anywhere. If the longest words of all columns do not fit side by side, each
    row is printed as a list of its values.

    Args:
        table: its cells are text with or without markup; those of columns with `overflow="fold"` may break anywhere.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = self._table.columns
        least = [max((_least(cell, column) for cell in _cells(console, column)), default=1) for column in columns]
        left = options.max_width - sum(least) - _BORDERS * len(columns) - 1
        if left < 0:
            yield from self._listed(console)
            return
        wanted = [max(_longest(text) for text in _texts(console, column)) for column in columns]
        fitted = copy.copy(self._table)  # a live display prints the same table again, perhaps in another width
        fitted.columns = list(columns)
        # Those that need the least first, so that as many columns as possible do not wrap.
        for number in sorted(range(len(columns)), key=lambda n: wanted[n] - least[n]):
            more = min(left, max(0, wanted[number] - least[number]))
            fitted.columns[number] = dataclasses.replace(columns[number], width=least[number] + more, overflow="fold")
            left -= more
        yield fitted

    def _listed(self, console: Console) -> Iterator[Text]:
        columns = self._table.columns
        if self._table.title:
            yield _text(console, self._table.title)
        cells = [list(_cells(console, column)) for column in columns]
        headings = [" ".join(_text(console, column.header).plain.split()) for column in columns]
        for row in zip(*cells, strict=True):
            if row[0].plain:
                yield row[0]
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                if cell.plain:
                    yield Text.assemble(f"  {heading}: ", cell)


def _texts(console: Console, column: Column) -> Iterator[Text]:
    yield _text(console, column.header)
    yield from _cells(console, column)


def _cells(console: Console, column: Column) -> Iterator[Text]:
    return (_text(console, cell) for cell in column.cells)


def _text(console: Console, content: object) -> Text:
    return content if isinstance(content, Text) else console.render_str(str(content), highlight=False)


def _least(text: Text, column: Column) -> int:
    words = [text] if column.no_wrap else [Text(word) for word in text.plain.split()]
    longest = max((word.cell_len for word in words), default=1)
    return min(longest, _FOLDED) if column.overflow == "fold" else longest


def _longest(text: Text) -> int:
    return max((line.cell_len for line in text.split(allow_blank=True)), default=1)
