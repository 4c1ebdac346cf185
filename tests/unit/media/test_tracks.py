"""Audio, video and arrays in separate files"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media import audio
from remix_study.media.checks import Checks
from remix_study.media.clip import DecodedClip, decode_clip
from remix_study.media.decoders import DECODERS, DecoderName, decoder_named
from remix_study.media.presets import AUDIO_FRONT_ENDS, PRESETS, FeaturePreset, Preset, VideoPreset
from remix_study.media.source import source_at
from remix_study.media.spectrogram import spectrogram
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import Picture, write_clip
from tests.timed_media import FPS, Kind, video_preset, write_timed

RATE, SECONDS = 16000, 2.0
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame"}
SPLIT = Preset("split", {"audio": AUDIO_FRONT_ENDS["tiny"], "video": VideoPreset(2, 48, 64, "area")})


def tone() -> NDArray[np.int16]:
    """One second of 400 Hz, then one of 1200 Hz, so that a cut is detectable."""
    seconds = np.arange(round(RATE * SECONDS)) / RATE
    wave = np.sin(2 * np.pi * np.where(seconds < 1, 400, 1200) * seconds)
    rounded: NDArray[np.int16] = np.rint(wave * 10000).astype(np.int16)
    return rounded


def write_sound(path: Path) -> Path:
    form = "s16p" if path.suffix == ".mp3" else "s16"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(SOUNDS[path.suffix[1:]], rate=RATE, layout="mono")
        block = av.AudioFrame.from_ndarray(tone()[None], format=form, layout="mono")
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
        fit = av.AudioResampler(format=form, layout="mono", rate=RATE, frame_size=stream.frame_size or 1024)
        for each in [*fit.resample(block), *fit.resample(None)]:
            file.mux(stream.encode(each))
        file.mux(stream.encode(None))
    return path


def write_video(path: Path) -> Path:
    return write_clip(path, pictures=(Picture(frames=20),), sounds=())


def decoded(
    root: Path,
    paths: dict[str, str],
    decoder: DecoderName,
    preset: Preset = SPLIT,
    start: float | None = None,
    end: float | None = None,
) -> DecodedClip:
    clip = Clip(SampleId("a"), paths, "x", "train", start=start, end=end)
    return decode_clip(clip, source_at(root), preset, decoder_named(decoder), Checks())


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", SOUNDS)
def test_audio_and_video_can_be_separate_files(tmp_path: Path, kind: str, decoder: DecoderName) -> None:
    write_sound(tmp_path / f"a.{kind}")
    write_video(tmp_path / "v.mp4")
    clip = decoded(tmp_path, {"audio": f"a.{kind}", "video": "v.mp4"}, decoder)
    part = AUDIO_FRONT_ENDS["tiny"]
    wave = audio.resample(tone().astype(np.float32) / np.float32(32768), RATE, part.sample_rate)
    expected = spectrogram(audio.fit(wave, part), part).numpy()
    loud = expected > expected.max() - np.log(1e4)  # within 40 dB of the loudest, where MP3 keeps what it is given
    assert np.abs(clip.rows["audio"] - expected)[loud].mean() < (0.2 if kind == "mp3" else 0.01)
    assert clip.meta["audio_rate"] == RATE
    assert clip.meta["audio_s"] == pytest.approx(SECONDS, abs=0.1 if kind == "mp3" else 1e-3)
    assert clip.meta["frames"] == 20
    assert not np.array_equal(clip.rows["video"][0], clip.rows["video"][1])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", SOUNDS)
def test_start_and_end_cut_both_files(tmp_path: Path, kind: str, decoder: DecoderName) -> None:
    write_sound(tmp_path / f"a.{kind}")
    write_video(tmp_path / "v.mp4")
    paths = {"audio": f"a.{kind}", "video": "v.mp4"}
    low = decoded(tmp_path, paths, decoder, end=0.9)
    high = decoded(tmp_path, paths, decoder, start=1.1)
    assert low.rows["audio"].mean(1).argmax() < high.rows["audio"].mean(1).argmax()
    assert (low.meta["frames"], high.meta["frames"]) == (9, 9)


def test_one_file_with_both_tracks_equals_two_files(tmp_path: Path) -> None:
    write_clip(tmp_path / "both.mp4")
    once = decoded(tmp_path, {"audio": "both.mp4", "video": "both.mp4"}, "pyav")
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "both.mp4").read_bytes())
    twice = decoded(tmp_path, {"audio": "both.mp4", "video": "copy.mp4"}, "pyav")
    for modality in SPLIT.modalities:
        np.testing.assert_array_equal(once.rows[modality], twice.rows[modality])
    assert once.meta == twice.meta


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_missing_track_is_reported(tmp_path: Path, decoder: DecoderName) -> None:
    write_sound(tmp_path / "a.wav")
    write_video(tmp_path / "v.mp4")
    for paths, stage in (
        ({"audio": "v.mp4", "video": "v.mp4"}, "audio"),
        ({"audio": "a.wav", "video": "a.wav"}, "video"),
        ({"audio": "a.wav", "video": "gone.mp4"}, "missing"),
    ):
        with pytest.raises(MediaError) as caught:
            decoded(tmp_path, paths, decoder)
        assert caught.value.stage == stage


def test_audio_video_and_arrays_form_one_clip(tmp_path: Path) -> None:
    """`start` applies to the audio; the array covers the whole clip."""
    write_sound(tmp_path / "a.wav")
    write_video(tmp_path / "v.mp4")
    np.save(tmp_path / "t.npy", np.arange(10, dtype=np.float32).reshape(2, 5))
    preset = Preset("three", {**SPLIT.parts, "text": FeaturePreset("vector", (5,))})
    paths = {"audio": "a.wav", "video": "v.mp4", "text": "t.npy#1"}
    clip = decoded(tmp_path, paths, "pyav", preset, start=0.5)
    assert set(clip.rows) == {"audio", "video", "text"}
    assert clip.rows["text"].tolist() == [5, 6, 7, 8, 9]
    for modality, row in clip.rows.items():
        assert row.shape == preset.shape(modality)


def test_index_metadata_is_json(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.flac")
    write_video(tmp_path / "v.mp4")
    meta = decoded(tmp_path, {"audio": "a.flac", "video": "v.mp4"}, "pyav").meta
    assert {type(value) for value in meta.values()} <= {int, float}
    assert set(meta) == {"audio_s", "audio_rate", "video_s", "frames", "height", "width"}


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_stored_middle_candidate_is_the_frame_stored_without_candidates(
    tmp_path: Path, decoder: DecoderName
) -> None:
    write_video(tmp_path / "v.mp4")
    for start, frames, candidates in ((None, 2, 3), (0.35, 3, 5), (1.5, 5, 3)):  # the last has 5 frames for 15
        rows = [
            decoded(
                tmp_path, {"video": "v.mp4"}, decoder, start=start,
                preset=Preset("p", {"video": VideoPreset(frames, 24, 32, "area", each)}),
            ).rows["video"]
            for each in (1, candidates)
        ]  # fmt: skip
        np.testing.assert_array_equal(rows[1][candidates // 2 :: candidates], rows[0])


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_preset_of_real_files_has_its_shapes(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "both.mp4")
    preset = PRESETS[name]
    rows = decoded(tmp_path, {"audio": "both.mp4", "video": "both.mp4"}, "decord", preset).rows
    for modality in preset.modalities:
        assert rows[modality].shape == preset.shape(modality)
        assert np.isfinite(rows[modality]).all()


@pytest.mark.parametrize(("start", "end", "taken"), [(1.0, 3.0, False), (2.3, 5.0, True), (2.3, 3.3, False)])
def test_a_track_that_begins_late_in_a_window_is_left_out(
    tmp_path: Path, start: float, end: float, taken: bool
) -> None:
    """By more than half a second or a quarter of the window; its first frames would stand for what is missing."""
    times_s = [2.6 + number / FPS for number in range(85)]
    write_timed(tmp_path / "late.mkv", Kind("mkv", "libx264", "pcm_s16le"), 6.0, times_s=times_s)
    clip = Clip(SampleId("a"), {"video": "late.mkv"}, "x", "train", start=start, end=end)
    preset = Preset("p", {"video": video_preset(3)})
    if taken:
        assert decode_clip(clip, source_at(tmp_path), preset, decoder_named("pyav"), Checks()).rows["video"].size
        return
    with pytest.raises(MediaError, match=r"its video track begins at 2\.60 s, .* s after the start") as caught:
        decode_clip(clip, source_at(tmp_path), preset, decoder_named("pyav"), Checks())
    assert caught.value.stage == "duration"
