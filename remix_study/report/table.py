"""A table as plain data, and its text as CSV and Markdown"""

import csv
import io
import math
from typing import NamedTuple

from remix_study.statistics import Estimate
from remix_study.units import cell_as_text


class Table(NamedTuple):
    """A table whose cells are formatted text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> "Table":
        """The table as it is shown: without the columns that are empty in every row."""
        kept = [n for n in range(len(self.header)) if not self.rows or any(row[n] for row in self.rows)]
        rows = tuple(tuple(row[n] for n in kept) for row in self.rows)
        return Table(self.title, tuple(self.header[n] for n in kept), rows)


def to_csv(table: Table) -> str:
    """The table as CSV; cells that spreadsheets would run as formulas are quoted as text."""
    text = io.StringIO()
    rows = [[cell_as_text(cell) for cell in row] for row in (table.header, *table.rows)]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The table as Markdown; `|` and line breaks in cells are escaped."""
    head, *rows = [[_markdown_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _markdown_cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def shown(found: Estimate, scale: float, places: int) -> str:
    """`mean ± half of its 95 % interval`, or the mean alone if there is no interval."""
    mean = f"{scale * found.mean:.{places}f}"
    return f"{mean} ± {scale * (found.high - found.low) / 2:.{places}f}" if math.isfinite(found.low) else mean
