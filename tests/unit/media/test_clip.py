"""Clips that decode but are incomplete, presets, and decoder versions"""

import dataclasses
import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from remix_study.datasets.synthetic import write_clip
from remix_study.errors import ConfigError, MediaError, StoreError
from remix_study.media import audio, checks, video
from remix_study.media.checks import Checks
from remix_study.media.clip import DecodedClip, decode_clip
from remix_study.media.decoders import PyAVDecoder, decoder_version
from remix_study.media.presets import AUDIO_FRONT_ENDS, PRESETS, Preset, VideoPreset, preset_named
from remix_study.media.source import source_at
from remix_study.media.spectrogram import spectrogram
from remix_study.sample import Clip, SampleId

TINY = PRESETS["tiny"]
NOISE = np.random.default_rng(0).integers(0, 255, (8, 16, 16)).astype(np.uint8)
WAVE = (np.random.default_rng(1).standard_normal(8000) * 0.1).astype(np.float32)
CLIP = Clip(SampleId("a"), {"audio": "a.mp4", "video": "a.mp4"}, "x", "train")


def stage_of(root: Path, clip: Clip = CLIP, accepted: Checks | None = None) -> str | None:
    try:
        decode_clip(clip, source_at(root), TINY, PyAVDecoder(), accepted or Checks())
    except MediaError as error:
        return error.stage
    return None


def test_a_silent_clip_raises_unless_silence_is_allowed(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", NOISE, np.zeros(8000, np.float32))
    assert stage_of(tmp_path) == "silent"
    assert stage_of(tmp_path, accepted=Checks(allow_silent=True)) is None


def test_silence_is_judged_in_the_part_that_the_preset_keeps(tmp_path: Path) -> None:
    """TINY keeps the first second."""
    wave = np.concatenate([np.zeros(9600, np.float32), WAVE])
    write_clip(tmp_path / "a.mp4", np.resize(NOISE, (18, 16, 16)), wave)
    with pytest.raises(MediaError, match=r"the beginning of its audio that is kept \(1 s\) is silent") as caught:
        decode_clip(CLIP, source_at(tmp_path), TINY, PyAVDecoder(), Checks())
    assert caught.value.stage == "silent"
    assert stage_of(tmp_path, dataclasses.replace(CLIP, start=1.0)) is None
    assert stage_of(tmp_path, accepted=Checks(allow_silent=True)) is None


def test_a_static_clip_raises_unless_static_clips_are_allowed(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", np.full((8, 16, 16), 90, np.uint8), WAVE)
    assert stage_of(tmp_path) == "static"
    assert stage_of(tmp_path, accepted=Checks(allow_static=True)) is None


def test_a_track_much_shorter_than_the_file_raises(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", NOISE, WAVE[:4000])
    assert stage_of(tmp_path) == "duration"
    assert stage_of(tmp_path, accepted=Checks(tolerance_s=0.6)) is None


def test_a_start_after_the_end_raises(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", NOISE, WAVE)
    assert stage_of(tmp_path, dataclasses.replace(CLIP, start=5.0)) == "duration"
    assert stage_of(tmp_path, dataclasses.replace(CLIP, start=0.88, end=0.99)) == "frames"


@pytest.mark.parametrize("modality", ["audio", "video"])
class TestWindows:
    @pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (None, 1.02), (0.2, None)])
    def test_a_window_within_the_file_is_taken(
        self, tmp_path: Path, modality: str, start: float | None, end: float | None
    ) -> None:
        assert window_of(tmp_path, modality, start, end).rows[modality].size

    @pytest.mark.parametrize(
        ("start", "end"),
        [(0.5, 1.6), (None, 9.0), (0.9, 1.2)],  # the last lacks two thirds, although less than the tolerance
    )
    def test_a_window_beyond_the_end_raises_with_both_lengths(
        self, tmp_path: Path, modality: str, start: float | None, end: float
    ) -> None:
        first = start or 0.0
        with pytest.raises(MediaError, match=r"holds .* s of the .* s") as refused:
            window_of(tmp_path, modality, start, end)
        assert refused.value.stage == "duration"
        held, window = re.findall(r"holds (.*) s of the (.*) s from", str(refused.value))[0]
        assert float(held) == pytest.approx(1 - first, abs=0.03)  # AAC comes in blocks
        assert float(window) == pytest.approx(end - first)

    @pytest.mark.parametrize("end", [None, 6.0])
    def test_a_window_after_the_end_raises(self, tmp_path: Path, modality: str, end: float | None) -> None:
        with pytest.raises(MediaError, match=r"ends at 1\.0\d s, before `start` \(5 s\)") as refused:
            window_of(tmp_path, modality, 5.0, end)
        assert refused.value.stage == "duration"


def window_of(root: Path, modality: str, start: float | None, end: float | None) -> DecodedClip:
    write_clip(root / "a.mp4", NOISE, WAVE)
    clip, preset = dataclasses.replace(CLIP, start=start, end=end), Preset("p", {modality: TINY.parts[modality]})
    return decode_clip(clip, source_at(root), preset, PyAVDecoder(), Checks())


@pytest.mark.parametrize("name", AUDIO_FRONT_ENDS)
def test_audio_below_a_tenth_of_the_preset_raises(tmp_path: Path, name: str) -> None:
    part = AUDIO_FRONT_ENDS[name]
    write_clip(tmp_path / "a.mp4", NOISE, np.tile(WAVE, 2))
    for end in (part.seconds / 10, 0.09 * part.seconds):
        clip = dataclasses.replace(CLIP, start=0.0, end=end)
        checks = Checks(tolerance_s=2)  # the picture lasts one second
        if end == part.seconds / 10:
            assert decode_clip(clip, source_at(tmp_path), Preset("p", {"audio": part}), PyAVDecoder(), checks).rows
            continue
        with pytest.raises(MediaError, match="the preset needs at least") as refused:
            decode_clip(clip, source_at(tmp_path), Preset("p", {"audio": part}), PyAVDecoder(), checks)
        assert refused.value.stage == "duration"


def test_a_waveform_that_is_not_finite_raises() -> None:
    with pytest.raises(MediaError, match="not numbers"):
        checks.check_wave(np.array([0.1, np.nan]), Checks())


def test_a_complete_clip_has_the_shapes_of_its_preset(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", NOISE, WAVE)
    for preset in PRESETS.values():
        rows = decode_clip(CLIP, source_at(tmp_path), preset, PyAVDecoder(), Checks()).rows
        for modality in preset.modalities:
            assert rows[modality].shape == preset.shape(modality)
            assert rows[modality].dtype == preset.dtype(modality)


def test_presets_have_the_published_shapes() -> None:
    assert PRESETS["ogm"].shape("audio") == (257, 188)
    assert PRESETS["ogm"].shape("video") == (2, 224, 224, 3)
    assert TINY.shape("audio") == (32, 32)
    with pytest.raises(ConfigError, match="one of tiny, ogm"):
        preset_named("big")


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 1, 2]), (30, [5, 15, 25]), (31, [5, 15, 25]), (100, [16, 50, 83])]
)
def test_middle_frames_of_equal_segments(count: int, expected: list[int]) -> None:
    assert video.middle_frames(0, count, 3) == expected
    assert video.middle_frames(7, count, 3) == [7 + frame for frame in expected]


def test_area_resize_averages_blocks() -> None:
    grey = NOISE[0].repeat(4, 0).repeat(4, 1)
    small = video.resize(np.stack([grey] * 3, -1), VideoPreset(1, 16, 16, "area"))
    np.testing.assert_array_equal(small[..., 1], NOISE[0])


def test_a_tone_excites_its_own_mel_band_in_proportion_to_loudness() -> None:
    seconds = torch.arange(8000) / 8000
    preset = AUDIO_FRONT_ENDS["tiny"]
    peaks = [
        int(spectrogram(torch.sin(2 * torch.pi * hertz * seconds), preset).mean(1).argmax())
        for hertz in (200.0, 500.0, 1000.0, 1700.0)
    ]
    assert peaks == sorted(set(peaks))
    tone = torch.sin(2 * torch.pi * 500 * seconds)
    assert spectrogram(2 * tone, preset).max() - spectrogram(tone, preset).max() == pytest.approx(np.log(4), abs=0.01)


def test_a_spectrogram_is_the_stft_by_definition() -> None:
    preset = AUDIO_FRONT_ENDS["stft188"]
    wave = torch.randn(preset.samples, generator=torch.Generator().manual_seed(0))
    stft = torch.stft(wave, 512, 353, window=torch.hann_window(512), pad_mode="reflect", return_complex=True)
    torch.testing.assert_close(spectrogram(wave, preset), torch.log(stft.abs() + 1e-7), atol=1e-4, rtol=1e-4)


def test_a_short_waveform_is_tiled_or_zero_padded_according_to_the_preset() -> None:
    tiled, filled = AUDIO_FRONT_ENDS["stft188"], AUDIO_FRONT_ENDS["tiny"]
    ramp = torch.linspace(-2, 2, 1000)
    assert torch.equal(audio.fit(ramp, tiled)[1000:2000], ramp.clamp(-1, 1))
    assert audio.fit(ramp, filled)[1000:].abs().max() == 0


def test_a_late_track_is_preceded_by_zeros_and_cut_relative_to_the_file() -> None:
    wave = np.ones(100, np.float32)
    assert audio.cut(wave, 100, 0.5, None, None)[:50].max() == 0
    assert len(audio.cut(wave, 100, 0.5, None, None)) == 150
    assert audio.cut(wave, 100, 0.5, 0.4, 0.7).tolist() == [0.0] * 10 + [1.0] * 20


def test_decord_and_decord2_installed_together_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"decord": "0.6.0", "decord2": "3.4.0"}
    monkeypatch.setattr(importlib.metadata, "version", installed.__getitem__)
    with pytest.raises(StoreError, match="pip uninstall decord decord2"):
        decoder_version("decord")

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(StoreError, match="is not installed"):
        decoder_version("decord")
