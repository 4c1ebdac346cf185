"""Properties of the functions that choose the frames of a video"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.errors import ConfigError, MediaError
from remix_study.media import video
from remix_study.media.presets import PRESETS, Preset, VideoPreset

FRAMES = st.integers(1, 9)
CANDIDATES = st.sampled_from([1, 3, 5, 7])


def policy(frames: int, candidates: int = 1) -> VideoPreset:
    return VideoPreset(frames, 8, 8, "area", candidates)


@given(first=st.integers(0, 1000), extra=st.integers(0, 5000), frames=FRAMES, candidates=CANDIDATES)
def test_the_middle_candidate_is_the_middle_frame(first: int, extra: int, frames: int, candidates: int) -> None:
    count = frames + extra
    stored = video.candidate_frames(first, count, policy(frames, candidates))
    assert len(stored) == policy(frames, candidates).shape[0]
    assert stored[candidates // 2 :: candidates] == video.candidate_frames(first, count, policy(frames))
    assert stored[candidates // 2 :: candidates] == video.middle_frames(first, count, frames)


@given(first=st.integers(0, 1000), extra=st.integers(0, 5000), frames=FRAMES, candidates=CANDIDATES)
def test_candidates_lie_in_their_segment_in_order(first: int, extra: int, frames: int, candidates: int) -> None:
    count = frames + extra
    stored = np.array(video.candidate_frames(first, count, policy(frames, candidates)))
    assert (np.diff(stored) >= 0).all()
    assert first <= stored[0] <= stored[-1] < first + count
    segments = np.repeat(np.arange(frames), candidates)
    # Frame n covers [n, n + 1) of the clip, and a segment [k, k + 1) * count / frames: they must touch.
    assert ((stored - first + 1) * frames > segments * count).all()
    assert ((stored - first) * frames < (segments + 1) * count).all()


@given(extra=st.integers(0, 100), frames=FRAMES, candidates=CANDIDATES)
def test_candidates_differ_if_there_are_enough_frames(extra: int, frames: int, candidates: int) -> None:
    stored = video.candidate_frames(0, frames * candidates + extra, policy(frames, candidates))
    assert len(set(stored)) == len(stored)


@given(frames=st.integers(2, 9), candidates=CANDIDATES)
def test_too_few_frames_repeat_and_fewer_than_segments_raise(frames: int, candidates: int) -> None:
    stored = video.candidate_frames(0, frames, policy(frames, candidates))
    assert stored == [frame for frame in range(frames) for _ in range(candidates)]
    with pytest.raises(MediaError, match=f"{frames - 1} frames, but {frames} are needed") as caught:
        video.candidate_frames(0, frames - 1, policy(frames, candidates))
    assert caught.value.stage == "frames"


@pytest.mark.parametrize("candidates", [0, 2, 4])
def test_an_even_number_of_candidates_raises(candidates: int) -> None:
    with pytest.raises(ConfigError, match="must be odd"):
        policy(1, candidates)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_survives_a_round_trip_through_json(preset: Preset) -> None:
    assert Preset.from_plain(preset.plain()) == preset
