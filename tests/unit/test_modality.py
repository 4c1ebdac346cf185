from itertools import permutations

import pytest

from remix_study.modality import canonical_order


def test_audio_then_video_then_others_by_name() -> None:
    for given in permutations(("video", "text", "depth", "audio")):
        assert canonical_order(given) == ("audio", "video", "depth", "text")


def test_the_order_has_given_names_only() -> None:
    assert canonical_order(["video"]) == ("video",)
    assert canonical_order([]) == ()


def test_a_modality_named_twice_raises() -> None:
    with pytest.raises(ValueError, match="named once"):
        canonical_order(["audio", "audio"])
