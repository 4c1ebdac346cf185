import os
from pathlib import Path

import numpy as np
import pytest

from remix_study.datasets.manifest import read_manifest
from remix_study.datasets.synthetic import SyntheticSpec, grating, render, tone, write_clip
from remix_study.errors import ConfigError, StoreError
from remix_study.media.container import probe
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.presets import VIDEO_FRONT_ENDS
from remix_study.media.video import resize
from remix_study.seeds import stream

SPEC = SyntheticSpec(train=6, val=3, test=3, classes=3, muted=0.5, seed=4)


@pytest.mark.slow
def test_an_interrupted_rendering_resumes_and_keeps_finished_clips(tmp_path: Path) -> None:
    manifest = render(tmp_path, SPEC, workers=2)
    clips = sorted(tmp_path.rglob("*.mp4"))
    assert len(clips) == 12
    before = {clip: clip.read_bytes() for clip in clips}
    manifest.unlink()
    clips[3].unlink()
    os.utime(clips[0], (1, 1))
    seen: list[tuple[int, int]] = []
    render(tmp_path, SPEC, workers=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(11, 12), (12, 12)]
    assert clips[0].stat().st_mtime == 1
    assert {clip: clip.read_bytes() for clip in clips} == before


def test_another_spec_in_the_same_folder_raises(tmp_path: Path) -> None:
    render(tmp_path, SPEC, workers=1)
    other = SyntheticSpec(train=6, val=3, test=3, classes=3, muted=0.1, seed=4)
    with pytest.raises(StoreError, match=r"muted 0\.5 \(wanted 0\.1\)"):
        render(tmp_path, other, workers=1)


def test_truth_and_balance_are_as_specified(tmp_path: Path) -> None:
    clips = read_manifest(render(tmp_path, SPEC, workers=2))
    assert {clip.split: sum(other.split == clip.split for other in clips) for clip in clips} == {
        "train": 6,
        "val": 3,
        "test": 3,
    }
    assert {sum(clip.label == label for clip in clips) for label in {clip.label for clip in clips}} == {4}
    for clip in clips:
        assert isinstance(clip.truth["muted"], bool)
        assert 0 <= float(clip.truth["audio_snr_db"]) <= 15
        assert -8 <= float(clip.truth["video_snr_db"]) <= 2


def test_compression_keeps_signal_and_noise(tmp_path: Path) -> None:
    draw = stream(0, "test")
    frames = grating(draw, 1, 8, snr_db=-5)
    wave = tone(draw, 6, 8, snr_db=5, muted=False)
    write_clip(tmp_path / "a.mp4", frames, wave)
    container = probe(tmp_path / "a.mp4")
    preset = VIDEO_FRONT_ENDS["tiny"]
    decoded = [resize(frame, preset)[..., 0] for frame in PyAVDecoder().frames(tmp_path / "a.mp4", range(8), 8)]
    assert np.corrcoef(np.stack(decoded).ravel(), frames.ravel())[0, 1] > 0.99
    heard = PyAVDecoder().wave(tmp_path / "a.mp4", container)[:8000]
    assert np.corrcoef(heard, wave)[0, 1] > 0.98


def test_a_tone_is_in_its_band_at_its_snr() -> None:
    edges = np.geomspace(200, 1700, 9)
    for label in range(8):
        wave = tone(stream(1, "tone", label), label, 8, snr_db=60, muted=False)
        peak = np.abs(np.fft.rfft(wave)).argmax()
        assert edges[label] - 1 <= peak <= edges[label + 1] + 1
    clean, noisy = (tone(stream(1, "tone"), 2, 8, snr_db=snr, muted=False) for snr in (60.0, 3.0))
    assert 10 * np.log10(np.var(clean) / np.var(noisy - clean)) == pytest.approx(3, abs=0.3)
    muted = tone(stream(1, "tone"), 2, 8, snr_db=3, muted=True)
    assert np.var(noisy) / np.var(muted) == pytest.approx(1 + 10**0.3, rel=0.1)


def test_a_grating_has_its_angle() -> None:
    for label in range(8):
        picture = grating(stream(2, "grating", label), label, 8, snr_db=40)[0].astype(float)
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean(), (64, 64))))
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        angle = np.degrees(np.arctan2(y - 32, x - 32)) % 180
        away = abs(angle - 180 * label / 8)
        assert min(away, 180 - away) < 10


def test_all_invalid_values_of_a_spec_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"`val` must be at least.*`muted` must be.*`audio_snr_db` must be"):
        SyntheticSpec(val=3, muted=2, audio_snr_db=(5, 1))
