"""Durations and sizes as text, and texts as cells of CSV files"""

import pytest

from remix_study.units import cell_as_text, duration, file_size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.251, "0.25 s"), (2.34, "2.3 s"), (12, "12 s"), (90, "1.5 min"), (7200, "2.0 h")],
)
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(1500, "2 kB"), (3_400_000, "3.40 MB"), (1_250_000_000, "1.25 GB")])
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert file_size(count) == text


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "--", "-", "+1.2 to =A1"]
)
def test_a_cell_that_a_spreadsheet_would_run_is_a_text(text: str) -> None:
    assert cell_as_text(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["-0.5", "+1e-3", "-.5", "-12,800", "+1.2 ± 0.3", "+1.2 ± 0.3*", "-1.0 to +2.0", "", "remix", "a=b", "'=1"]
)
def test_numbers_and_other_texts_stay_as_they_are(text: str) -> None:
    assert cell_as_text(text) == text
