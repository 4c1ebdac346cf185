"""Cutting, resampling and padding of waveforms"""

# S samples

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.media.presets import AudioPreset
from remix_study.media.torchaudio_import import torchaudio


def cut(
    wave_S: NDArray[np.float32], rate: int, late_s: float, start_s: float | None, end_s: float | None
) -> NDArray[np.float32]:
    """The samples between `start_s` and `end_s`.

    Args:
        wave_S: the audio track.
        rate: sample rate in Hz.
        late_s: when the audio track starts, in seconds from the start of the file; the time before it is zeros.
        start_s, end_s: seconds from the start of the file; None means the start and the end of the file.
    """
    if late := round(late_s * rate):
        wave_S = np.concatenate([np.zeros(late, np.float32), wave_S])
    first = 0 if start_s is None else round(start_s * rate)
    stop = len(wave_S) if end_s is None else round(end_s * rate)
    return wave_S[first:stop]


@functools.cache
def _resampler(source: int, target: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source, target)  # cached: computing its filter costs as much as applying it


def resample(wave_S: NDArray[np.float32], source: int, target: int) -> torch.Tensor:
    """Resample from `source` to `target` Hz with torchaudio's windowed sinc filter."""
    wave = torch.from_numpy(np.ascontiguousarray(wave_S))
    if source == target:
        return wave
    resampled: torch.Tensor = _resampler(source, target)(wave)
    return resampled


def fit(wave_S: torch.Tensor, preset: AudioPreset) -> torch.Tensor:
    """Cut, tile or zero-pad a waveform to `preset.samples` samples, and clip it to [-1, 1] if the preset says so.

    For `fbank` the waveform is only cut, because its frames are padded later.
    """
    missing = 0 if preset.transform == "fbank" else preset.samples - len(wave_S)
    if missing > 0 and preset.fill == "tile":
        wave_S = wave_S.repeat(-(-preset.samples // len(wave_S)))
    elif missing > 0:
        wave_S = torch.nn.functional.pad(wave_S, (0, missing))
    wave_S = wave_S[: preset.samples]
    return wave_S.clamp(-1, 1) if preset.clip_to_one else wave_S
