"""Which seconds of a wave, and at what rate"""

# S samples

import functools

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray

from remix_study.media.presets import AudioPreset


def cut(
    wave_S: NDArray[np.float32], rate: int, late_s: float, start_s: float | None, end_s: float | None
) -> NDArray[np.float32]:
    """The samples of [start, end) seconds of the file, where the audio track itself starts `late_s` into the file."""
    if late := round(late_s * rate):
        wave_S = np.concatenate([np.zeros(late, np.float32), wave_S])
    first = 0 if start_s is None else round(start_s * rate)
    stop = len(wave_S) if end_s is None else round(end_s * rate)
    return wave_S[first:stop]


@functools.cache
def _resampler(source: int, target: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source, target)  # its filter costs as much as using it


def resample(wave_S: NDArray[np.float32], source: int, target: int) -> torch.Tensor:
    """At `target` Hz, by torchaudio's windowed sinc."""
    wave = torch.from_numpy(np.ascontiguousarray(wave_S))
    if source == target:
        return wave
    resampled: torch.Tensor = _resampler(source, target)(wave)
    return resampled


def fit(wave_S: torch.Tensor, preset: AudioPreset) -> torch.Tensor:
    """Exactly `preset.samples` samples: cut, tiled or filled with zeros; clipped to [-1, 1] if the preset says so.

    For `fbank` at most so many: there frames are filled with zeros, not samples.
    """
    missing = 0 if preset.transform == "fbank" else preset.samples - len(wave_S)
    if missing > 0 and preset.fill == "tile":
        wave_S = wave_S.repeat(-(-preset.samples // len(wave_S)))
    elif missing > 0:
        wave_S = torch.nn.functional.pad(wave_S, (0, missing))
    wave_S = wave_S[: preset.samples]
    return wave_S.clamp(-1, 1) if preset.clip_to_one else wave_S
