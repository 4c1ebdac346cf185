"""Durations and sizes as text"""

import pytest

from remix_study.units import duration, file_size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.251, "0.25 s"), (2.34, "2.3 s"), (12, "12 s"), (90, "1.5 min"), (7200, "2.0 h")],
)
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(1500, "2 kB"), (3_400_000, "3.40 MB"), (1_250_000_000, "1.25 GB")])
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert file_size(count) == text
