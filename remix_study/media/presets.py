"""What a model sees of a clip: sizes, rates and transforms, by name

`tiny`  the procedural corpus: a 32 x 32 log-mel spectrogram (100-2000 Hz) and the middle frame, 16 x 16.
`ogm`   CREMA-D as in the code of OGM-GE (Peng et al., CVPR 2022): 22.05 kHz, tiled to 3 s, clipped to [-1, 1],
        log(|STFT| + 1e-7), 257 x 188; 2 frames of 224 x 224, without their random crop.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from remix_study.errors import ConfigError
from remix_study.modality import AUDIO, VIDEO, canonical_order


@dataclass(frozen=True, slots=True)
class AudioPreset:
    """Seconds of mono sound as a log spectrogram (F, T).

    A clip shorter than `seconds` is filled with itself (`tile`) or with zeros; a longer one is cut. `power` 1 is the
    magnitude, 2 the power. `floor` is added before the logarithm. With `mels`, F counts mel bands from `low_hz` to
    `high_hz`, else FFT bins.
    """

    sample_rate: int
    seconds: float
    fill: Literal["tile", "zeros"]
    n_fft: int
    hop: int
    power: float
    floor: float
    # Said explicitly: librosa's default changed between versions, and the edge columns with it.
    pad_mode: Literal["reflect", "constant"]
    mels: int | None = None
    low_hz: float = 0.0
    high_hz: float = 0.0
    clip_to_one: bool = False

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.mels or self.n_fft // 2 + 1), 1 + self.samples // self.hop


@dataclass(frozen=True, slots=True)
class VideoPreset:
    """The middle frames of `frames` equal segments, resized to (height, width)."""

    frames: int
    height: int
    width: int
    resize: Literal["area", "bilinear"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, self.height, self.width, 3


@dataclass(frozen=True, slots=True)
class Preset:
    """One named way to turn clips into arrays; a modality that is None is not stored."""

    name: str
    audio: AudioPreset | None
    video: VideoPreset | None

    @property
    def modalities(self) -> tuple[str, ...]:
        return canonical_order(m for m, part in ((AUDIO, self.audio), (VIDEO, self.video)) if part is not None)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Of one stored row: audio (F, T), video (T, H, W, 3)."""
        part = {AUDIO: self.audio, VIDEO: self.video}[modality]
        if part is None:
            raise KeyError(modality)
        return part.shape

    def dtype(self, modality: str) -> np.dtype[np.generic]:
        return np.dtype(np.float16) if modality == AUDIO else np.dtype(np.uint8)

    def row_bytes(self, modality: str) -> int:
        return int(np.prod(self.shape(modality))) * self.dtype(modality).itemsize


PRESETS = {
    "tiny": Preset(
        name="tiny",
        audio=AudioPreset(
            sample_rate=8000, seconds=1.0, fill="zeros", n_fft=512, hop=256, power=2.0, floor=1e-6, pad_mode="reflect",
            mels=32, low_hz=100.0, high_hz=2000.0,
        ),
        video=VideoPreset(frames=1, height=16, width=16, resize="area"),
    ),
    "ogm": Preset(
        name="ogm",
        audio=AudioPreset(
            sample_rate=22050, seconds=3.0, fill="tile", n_fft=512, hop=353, power=1.0, floor=1e-7, pad_mode="reflect",
            clip_to_one=True,
        ),
        video=VideoPreset(frames=2, height=224, width=224, resize="bilinear"),
    ),
}  # fmt: skip


def preset_named(name: str) -> Preset:
    """
    Raises:
        ConfigError: no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"`preset` must be one of {', '.join(PRESETS)}, but is {name!r}.")
    return PRESETS[name]
