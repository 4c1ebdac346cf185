"""Waiting times, and how tests shorten them"""

import pytest

from remix_study.patience import Patience, parse


def test_only_the_named_times_are_replaced() -> None:
    assert parse("") == Patience()
    assert parse("lease_beat_s=1 lease_silence_s=0.5") == Patience(lease_beat_s=1.0, lease_silence_s=0.5)


@pytest.mark.parametrize("text", ["lease_silence", "lease_silence_s", "lease_silence_s=soon", "lease_silence_s=-1"])
def test_an_unknown_name_or_value_raises(text: str) -> None:
    with pytest.raises(ValueError, match="REMIX_STUDY_PATIENCE"):
        parse(text)
