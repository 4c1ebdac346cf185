"""What a section of the report consists of: charts, tables, paragraphs and code"""

from collections.abc import Sequence
from typing import NamedTuple

from remix_study.figures.chart import Chart
from remix_study.report.tables import Table


class Note(NamedTuple):
    """A paragraph."""

    text: str


class Code(NamedTuple):
    """`language`: what a reader may copy it into."""

    title: str
    text: str
    folded: bool = False


Block = Chart | Table | Note | Code


class Section(NamedTuple):
    """`short`: in the table of contents; `title` says what was found, where that is honest."""

    key: str
    short: str
    title: str
    blocks: tuple[Block, ...]


def section(key: str, short: str, title: str, blocks: Sequence[Block | None]) -> Section:
    """Without what there is nothing of."""
    return Section(
        key, short, title, tuple(b for b in blocks if b is not None and not (isinstance(b, Table) and not b.rows))
    )
