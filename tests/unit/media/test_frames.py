"""Properties of the functions that choose the frames of a video"""

import numpy as np
import pytest
from hypothesis import assume, example, given
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


@given(
    first=st.integers(0, 50), extra=st.integers(0, 300), rate=st.floats(1, 240), start_s=st.floats(-2, 100),
    frames=FRAMES, candidates=CANDIDATES, dropped=st.integers(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
@example(first=0, extra=114, rate=63.0, start_s=1.0, frames=9, candidates=1, dropped=1, seed=27)
def test_a_constant_rate_chooses_frames_by_number(
    first: int, extra: int, rate: float, start_s: float, frames: int, candidates: int, dropped: int, seed: int
) -> None:
    """Also if times are rounded to milliseconds, or a frame is missing."""
    count = frames + extra
    missing = np.random.default_rng(seed).integers(1, count + 1)
    numbers = np.arange(count) + dropped * (np.arange(count) >= missing)
    times_F = np.sort(np.round(start_s + numbers / rate, 3 if rate < 100 else 6))
    span, preset = video.Span(times_F, times_F[-1] + 1 / rate), policy(frames, candidates)
    assert video.candidate_frames(first, count, preset, span) == video.candidate_frames(first, count, preset)
    assert video.middle_frames(first, count, frames, span) == video.middle_frames(first, count, frames)


@given(steps_s=st.lists(st.floats(0.001, 3), min_size=9, max_size=60), frames=FRAMES, candidates=CANDIDATES)
def test_a_varying_rate_chooses_the_frames_shown_at_the_middles(
    steps_s: list[float], frames: int, candidates: int
) -> None:
    times_F = np.cumsum(steps_s)
    span = video.Span(times_F, times_F[-1] + 0.04)
    assume(not span.is_constant)
    chosen = video.candidate_frames(7, len(times_F), policy(frames, candidates), span)
    ends_F = np.append(times_F[1:], span.end_s)
    segment_s = (span.end_s - times_F[0]) / len(chosen)
    for part, number in enumerate(chosen):
        middle_s = times_F[0] + (part + 0.5) * segment_s
        assert times_F[number - 7] <= middle_s + 0.001
        assert middle_s <= ends_F[number - 7] + 0.001
    assert chosen[candidates // 2 :: candidates] == video.middle_frames(7, len(times_F), frames, span)


@pytest.mark.parametrize("candidates", [0, 2, 4])
def test_an_even_number_of_candidates_raises(candidates: int) -> None:
    with pytest.raises(ConfigError, match="must be odd"):
        policy(1, candidates)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_survives_a_round_trip_through_json(preset: Preset) -> None:
    assert Preset.from_plain(preset.plain()) == preset
