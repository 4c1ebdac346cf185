"""Spectrograms: log(|STFT|^power + floor) on FFT bins or mel bands, or Kaldi's filter banks (torchaudio)

STFT and mel: a Hann window of n_fft samples, centred and padded as the preset says. `fbank` is the front end of AST
(Gong, Chung, Glass; Interspeech 2021, arXiv 2104.01778): the mean is subtracted from the waveform; windows of 25 ms
(Hanning) start every `hop` samples, without dither and with Kaldi's other defaults; the result is cut or padded with
zero frames to `frames`, shifted and scaled.
"""

# S samples, F frequency bands, T frames

import functools

import torch

from remix_study.errors import MediaError
from remix_study.media.presets import AudioPreset
from remix_study.media.torchaudio_import import torchaudio

_WINDOW_S = 0.025  # of `fbank`; Kaldi's default


@functools.cache
def _transform(preset: AudioPreset) -> torch.nn.Module:
    common = {
        "n_fft": preset.n_fft, "hop_length": preset.hop, "power": preset.power, "pad_mode": preset.pad_mode,
        "center": preset.center,
    }  # fmt: skip
    if preset.transform == "stft":
        transform: torch.nn.Module = torchaudio.transforms.Spectrogram(**common)
    else:
        transform = torchaudio.transforms.MelSpectrogram(
            sample_rate=preset.sample_rate, n_mels=preset.mels, f_min=preset.low_hz, f_max=preset.high_hz or None,
            **common,
        )  # fmt: skip
    return transform


def spectrogram(wave_S: torch.Tensor, preset: AudioPreset) -> torch.Tensor:
    """Compute the log spectrogram of a waveform (natural logarithm).

    Args:
        wave_S: mono, at the preset's sample rate.

    Returns:
        float32 of `preset.shape`: (F, T), or (T, F) for `fbank`.

    Raises:
        MediaError: stage `duration` if the waveform is shorter than one window of `fbank`; stage `not-finite` if the
            square of its amplitude exceeds float32.
    """
    if preset.transform == "fbank":
        logs = _fbank(wave_S, preset)
    else:
        logs = torch.log(_transform(preset)(wave_S) + preset.floor)
    if not torch.isfinite(logs).all():
        raise MediaError("its audio is too loud: its spectrogram exceeds float32", stage="not-finite")
    return (logs - preset.shift) / preset.scale


def _fbank(wave_S: torch.Tensor, preset: AudioPreset) -> torch.Tensor:
    assert preset.frames is not None
    if len(wave_S) < (window := round(_WINDOW_S * preset.sample_rate)):
        raise MediaError(
            f"its audio must last at least one window of {1000 * _WINDOW_S:.0f} ms, but has {len(wave_S)} of {window} "
            "samples",
            stage="duration",
        )
    bands: torch.Tensor = torchaudio.compliance.kaldi.fbank(
        (wave_S - wave_S.mean())[None], htk_compat=True, sample_frequency=preset.sample_rate, use_energy=False,
        window_type="hanning", num_mel_bins=preset.mels, dither=0.0, frame_shift=1000 * preset.hop / preset.sample_rate,
        frame_length=1000 * _WINDOW_S,
    )  # fmt: skip
    missing = preset.frames - len(bands)
    return torch.nn.functional.pad(bands, (0, 0, 0, missing)) if missing > 0 else bands[: preset.frames]
