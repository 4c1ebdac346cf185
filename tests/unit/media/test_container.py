"""Timestamps in seconds, from the rational types of PyAV 18 and 19"""

import dataclasses
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.errors import MediaError
from remix_study.media.container import Rational, seconds


@dataclasses.dataclass(frozen=True)
class AVRational:
    """A replacement of PyAV 19's type, which is no `Fraction` and allows a denominator of 0."""

    numerator: int
    denominator: int


@given(
    pts=st.integers(-(2**40), 2**40),
    numerator=st.integers(1, 2**31 - 1),
    denominator=st.integers(1, 2**31 - 1),
)
def test_seconds_are_the_same_bits_for_both_rational_types(pts: int, numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    assert seconds(pts, exact) == float(pts * exact)
    assert seconds(pts, AVRational(exact.numerator, exact.denominator)) == float(pts * exact)


@pytest.mark.parametrize("unknown", [None, AVRational(0, 1), AVRational(0, 0), AVRational(1, 0)])
def test_timestamps_without_a_time_base_raise(unknown: Rational | None) -> None:
    with pytest.raises(MediaError, match="no time base") as refused:
        seconds(1, unknown)
    assert refused.value.stage == "open"


def test_seconds_accepts_the_rational_type_of_the_installed_pyav() -> None:
    frame = av.VideoFrame(4, 4, "gray")
    frame.time_base = Fraction(1, 25)
    assert seconds(50, frame.time_base) == 2
