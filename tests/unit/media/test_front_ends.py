"""Every audio front end, compared with an implementation of its definition in NumPy"""

# S samples, F bands or bins, T frames

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media import audio
from remix_study.media.presets import AUDIO_FRONT_ENDS, AudioPreset
from remix_study.media.spectrogram import _transform, spectrogram

Array = NDArray[np.float64]

PUBLISHED = {
    "stft188": (257, 188),
    "stft299": (257, 299),
    "stft1004": (257, 1004),
    "stft626": (129, 626),
    "fbank1024": (1024, 128),
    "mel128-3s": (128, 301),
    "mel128-10s": (128, 1001),
    "tiny": (32, 32),
}


def noise(preset: AudioPreset, seconds: float, loud: float = 0.1) -> torch.Tensor:
    wave = np.random.default_rng(0).standard_normal(round(preset.sample_rate * seconds)) * loud
    return torch.from_numpy(wave.astype(np.float32))


def frames_of(wave_S: Array, length: int, hop: int) -> Array:
    count = 1 + (len(wave_S) - length) // hop
    return np.stack([wave_S[t * hop : t * hop + length] for t in range(count)])


def stft_by_hand(wave_S: Array, n_fft: int, hop: int, *, centred: bool) -> Array:
    """|STFT| (F, T), periodic Hann window."""
    padded = np.pad(wave_S, n_fft // 2, mode="reflect") if centred else wave_S
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.abs(np.fft.rfft(frames_of(padded, n_fft, hop) * window, axis=1)).T


def mel(hertz: Array) -> Array:
    return 2595 * np.log10(1 + hertz / 700)


def triangles(points: Array, at: Array) -> Array:
    """Triangular filters along `at`: each rises from its left neighbour's peak to 1, and falls to its right one's."""
    left, peak, right = points[:-2, None], points[1:-1, None], points[2:, None]
    return np.maximum(0, np.minimum((at - left) / (peak - left), (right - at) / (right - peak)))


def kaldi_by_hand(wave_S: Array, rate: int, bands: int) -> Array:
    """Log filter banks (T, F) of windows minus their mean: pre-emphasis, Hanning, 512 bins, 20 Hz to rate / 2."""
    windows = frames_of(wave_S, rate * 25 // 1000, rate // 100)
    windows = windows - windows.mean(1, keepdims=True)
    windows = windows - 0.97 * np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    windows = windows * np.hanning(windows.shape[1])
    power = np.abs(np.fft.rfft(windows, 512, axis=1))[:, :256] ** 2
    points = np.linspace(mel(np.array(20.0)), mel(np.array(rate / 2)), bands + 2)
    weights = triangles(points, mel(np.arange(256) * rate / 512))  # triangles on the mel axis, not in Hz
    return np.log(np.maximum(power @ weights.T, np.finfo(np.float32).eps))


@pytest.mark.parametrize("name", AUDIO_FRONT_ENDS)
@pytest.mark.parametrize("seconds", [0.5, 12.0])
def test_shapes_are_the_published_ones_for_every_clip_length(name: str, seconds: float) -> None:
    preset = AUDIO_FRONT_ENDS[name]
    assert preset.shape == PUBLISHED[name]
    assert spectrogram(audio.fit(noise(preset, seconds), preset), preset).shape == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "n_fft", "hop", "centred"),
    [
        ("stft188", 512, 353, True),
        ("stft299", 512, 159, False),
        ("stft1004", 512, 159, False),
        ("stft626", 256, 128, True),
    ],
)
def test_stft_front_ends_match_the_definition(name: str, n_fft: int, hop: int, centred: bool) -> None:
    preset = AUDIO_FRONT_ENDS[name]
    wave = noise(preset, preset.seconds)
    by_hand = np.log(stft_by_hand(wave.double().numpy(), n_fft, hop, centred=centred) + 1e-7)
    np.testing.assert_allclose(spectrogram(wave, preset).numpy(), by_hand, atol=2e-3)


@pytest.mark.parametrize("name", ["mel128-3s", "tiny"])
def test_mel_front_ends_match_the_definition(name: str) -> None:
    preset = AUDIO_FRONT_ENDS[name]
    assert preset.mels is not None
    wave = noise(preset, preset.seconds)
    power = stft_by_hand(wave.double().numpy(), preset.n_fft, preset.hop, centred=True) ** 2
    low, high = mel(np.array([preset.low_hz, preset.high_hz]))
    points = 700 * (10 ** (np.linspace(low, high, preset.mels + 2) / 2595) - 1)
    weights = triangles(points, np.linspace(0, preset.sample_rate / 2, preset.n_fft // 2 + 1))
    np.testing.assert_allclose(spectrogram(wave, preset).numpy(), np.log(weights @ power + 1e-6), atol=2e-3)


@pytest.mark.parametrize("seconds", [3.0, 10.0])
def test_fbank1024_matches_the_definition_of_ast(seconds: float) -> None:
    preset = AUDIO_FRONT_ENDS["fbank1024"]
    wave = noise(preset, seconds) + 0.3  # plus a constant, which subtracting the mean removes
    bands = kaldi_by_hand((wave - wave.mean()).double().numpy(), 16000, 128)
    padded = np.concatenate([bands, np.zeros((1024 - len(bands), 128))])  # before normalising, as AST does
    ours = spectrogram(audio.fit(wave, preset), preset).numpy()
    np.testing.assert_allclose(ours, (padded + 4.503877) / (2 * 5.141276), atol=2e-3)
    assert ours[-1] == pytest.approx(4.503877 / (2 * 5.141276))


def test_fbank_raises_without_one_window_of_audio() -> None:
    preset = AUDIO_FRONT_ENDS["fbank1024"]
    assert spectrogram(noise(preset, 0.025), preset).shape == (1024, 128)
    for samples in (1, 399):
        with pytest.raises(MediaError, match=f"has {samples} of 400 samples") as caught:
            spectrogram(torch.ones(samples), preset)
        assert caught.value.stage == "duration"


@pytest.mark.parametrize("name", AUDIO_FRONT_ENDS)
def test_audible_levels_fit_the_range_and_precision_of_float16(name: str) -> None:
    preset = AUDIO_FRONT_ENDS[name]
    click = torch.zeros(preset.samples)
    click[preset.samples // 2] = 1.0
    for wave in (torch.zeros(preset.samples), click, noise(preset, preset.seconds, 1.0), noise(preset, 1.0, 1000.0)):
        exact = spectrogram(audio.fit(wave, preset), preset).numpy()
        stored = exact.astype(preset.dtype)
        assert np.isfinite(stored).all()
        assert np.abs(stored - exact).max() < 0.01


def test_silence_becomes_the_logarithm_of_the_floor() -> None:
    preset = AUDIO_FRONT_ENDS["stft188"]
    assert spectrogram(torch.zeros(preset.samples), preset).numpy() == pytest.approx(np.log(1e-7))


@pytest.mark.parametrize("name", ["tiny", "mel128-3s"])
def test_a_waveform_too_loud_for_float32_raises(name: str) -> None:
    preset = AUDIO_FRONT_ENDS[name]
    with pytest.raises(MediaError, match="too loud") as caught:
        spectrogram(torch.full((preset.samples,), 1e30), preset)
    assert caught.value.stage == "not-finite"


@pytest.mark.parametrize("name", [name for name, preset in AUDIO_FRONT_ENDS.items() if preset.transform == "mel"])
def test_no_mel_band_is_empty(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        front_end = _transform.__wrapped__(AUDIO_FRONT_ENDS[name])  # not from the cache, which would not warn again
    bank = dict(front_end.named_buffers())["mel_scale.fb"]
    assert (bank.sum(0) > 0).all()
