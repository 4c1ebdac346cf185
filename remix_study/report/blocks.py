"""What a section of the report consists of: charts, tables, paragraphs and code"""

from collections.abc import Sequence
from typing import NamedTuple

from remix_study.figures.chart import Chart
from remix_study.report.table import Table


class Note(NamedTuple):
    """A paragraph."""

    text: str


class Code(NamedTuple):
    """Text to copy; `folded`: collapsed until it is clicked."""

    title: str
    text: str
    folded: bool = False


Block = Chart | Table | Note | Code


class Section(NamedTuple):
    """A section. `short`: its name in the table of contents; `title`: its heading, the finding if there is one."""

    key: str
    short: str
    title: str
    blocks: tuple[Block, ...]


def section(key: str, short: str, title: str, blocks: Sequence[Block | None]) -> Section:
    """A section without missing blocks and empty tables."""
    return Section(
        key, short, title, tuple(b for b in blocks if b is not None and not (isinstance(b, Table) and not b.rows))
    )
