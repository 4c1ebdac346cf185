"""Tables in terminals of any width"""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from remix_study.cli.narrow import Fitted

WORDS = st.text("abc0123456789.", min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=5).map(" ".join)


def drawn(table: Table | Fitted, width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(table if isinstance(table, Fitted) else Fitted(table))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@given(data=st.data(), columns=st.integers(1, 7), width=st.integers(30, 120))
def test_no_value_is_cut_at_any_width(data: st.DataObject, columns: int, width: int) -> None:
    table = Table(title="title")
    for number in range(columns):
        table.add_column(data.draw(WORDS), no_wrap=number == 0 and data.draw(st.booleans()), justify="right")
    rows = data.draw(st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=4))
    for row in rows:
        table.add_row(*row)
    shown = drawn(table, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    words = shown.split()
    for word in (word for row in rows for cell in row for word in cell.split()):
        assert word in words


@pytest.mark.parametrize("width", [40, 200])
def test_a_table_that_does_not_fit_becomes_a_list(width: int) -> None:
    table = Table(title="Runs")
    for name in ("method", "trials", "best/val_accuracy", "test/accuracy"):
        table.add_column(name)
    table.add_row("joint_unimodal_and_more", "13/300", "0.512345678", "")
    shown = drawn(table, width)
    if width == 200:
        assert "│ joint_unimodal_and_more │ 13/300 │" in shown
    else:
        assert shown.splitlines() == [
            "Runs", "joint_unimodal_and_more", "  trials: 13/300", "  best/val_accuracy: 0.512345678",
        ]  # fmt: skip


def test_a_table_is_the_same_if_it_is_printed_again() -> None:
    table = Table("method", "value")
    table.add_row("joint", "0.5123456789012")
    fitted = Fitted(table)
    widths = range(15, 40)
    first = [drawn(fitted, width) for width in widths]
    assert [drawn(fitted, width) for width in reversed(widths)][::-1] == first
    assert "\u2502 joint  \u2502 0.5123456789012 \u2502" in first[-1]
