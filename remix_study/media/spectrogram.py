"""The audio that a model sees: log(|STFT|^power + floor), on FFT bins or mel bands (torchaudio)

Hann window of n_fft samples, centred frames, padded as the preset says.
"""

# S samples, F frequency bands, T frames

import functools

import torch
import torchaudio

from remix_study.media.presets import AudioPreset


@functools.cache
def _transform(preset: AudioPreset) -> torch.nn.Module:
    common = {"n_fft": preset.n_fft, "hop_length": preset.hop, "power": preset.power, "pad_mode": preset.pad_mode}
    if preset.mels is None:
        transform: torch.nn.Module = torchaudio.transforms.Spectrogram(**common)
    else:
        transform = torchaudio.transforms.MelSpectrogram(
            sample_rate=preset.sample_rate, n_mels=preset.mels, f_min=preset.low_hz, f_max=preset.high_hz, **common
        )
    return transform


def log_spectrogram(wave_S: torch.Tensor, preset: AudioPreset) -> torch.Tensor:
    """(S,) mono at the preset's rate -> float32 (F, T), natural logarithm."""
    spectrogram: torch.Tensor = _transform(preset)(wave_S)
    return torch.log(spectrogram + preset.floor)
