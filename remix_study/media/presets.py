"""Presets: named front ends that say what is stored of each modality of a clip

A preset is either the name of a published protocol, or an audio and a video front end joined by a plus sign
(`fbank1024+3x224`):

    tiny             the procedural corpus: a 32 x 32 log-mel spectrogram (100-2000 Hz) and the middle frame, 16 x 16
    ogm              CREMA-D as in the code of OGM-GE (Peng et al., CVPR 2022): `stft188+2x224`
    ogm_paper        CREMA-D as stated in the papers, 257 x 299: `stft299+2x224`
    remix            CREMA-D as in the code of Data Remixing: `stft188+2x224r`, a random frame of each half in training
    kinetics_sounds  Kinetics-Sounds as in the code of OGM-GE and SMV: `fbank1024+3x224r`
    kinetics_stft    Kinetics-Sounds with PMR's spectrogram, 257 x 1004: `stft1004+3x224r`
    mla              CREMA-D as in MLA: `stft626+3x224`

Corpora without audio or with feature arrays define their own presets (datasets/ucf101.py, mosei.py).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from remix_study.errors import ConfigError
from remix_study.modality import AUDIO, VIDEO, canonical_order

Normalise = Literal["train", "imagenet", "none"]
"""Mean and standard deviation to normalise by: of the training split, of ImageNet's pixels, or none"""

Channel = Literal["mix", "left", "right", "loudest"]
"""What to keep of audio with several channels: FFmpeg's mix of all, one of the first two, or the loudest of the clip"""


@dataclass(frozen=True, slots=True)
class AudioPreset:
    """Mono audio as a spectrogram, float16 (F, T), or (T, F) for `fbank`.

    Args:
        sample_rate: in Hz.
        seconds: length that is kept. Longer clips are cut.
        fill: repeat a shorter clip (`tile`), or pad it with zeros (`zeros`).
        n_fft, hop: length and step of the windows, in samples. `fbank` has no `n_fft`: its windows last 25 ms.
        power: 1 for the magnitude, 2 for the power.
        floor: added before the logarithm.
        pad_mode: padding at the edges, if `center`.
        transform: FFT bins (`stft`), mel bands (`mel`), or Kaldi's filter banks of the waveform minus its mean
            (`fbank`).
        center: centre the first window on the first sample; otherwise it begins there.
        mels, low_hz, high_hz: number of mel bands and their range (`high_hz` 0 means half the sample rate).
        clip_to_one: clip the waveform to [-1, 1].
        frames: for `fbank`, the number of frames T, cut or padded with zeros.
        shift, scale: the stored value is (x - shift) / scale.
        normalise: see `Normalise`.
        channel: see `Channel`.
    """

    kind: ClassVar[str] = "audio"

    sample_rate: int
    seconds: float
    fill: Literal["tile", "zeros"]
    n_fft: int
    hop: int
    power: float
    floor: float
    pad_mode: Literal["reflect", "constant"]  # no default: librosa's changed between versions
    transform: Literal["stft", "mel", "fbank"] = "stft"
    center: bool = True
    mels: int | None = None
    low_hz: float = 0.0
    high_hz: float = 0.0
    clip_to_one: bool = False
    frames: int | None = None
    shift: float = 0.0
    scale: float = 1.0
    normalise: Normalise = "train"
    channel: Channel = "mix"

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

    @property
    def least_s(self) -> float:
        """The shortest audio that is taken: a tenth of `seconds`. A shorter clip would be mostly padding or repeats."""
        return self.seconds / 10

    @property
    def shape(self) -> tuple[int, int]:
        if self.transform == "fbank":
            assert self.frames is not None
            assert self.mels is not None
            return self.frames, self.mels
        columns = self.samples // self.hop if self.center else (self.samples - self.n_fft) // self.hop
        return (self.mels or self.n_fft // 2 + 1), 1 + columns

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(np.float16)

    @property
    def time_axis(self) -> int:
        """The axis of `shape` that is time."""
        return 0 if self.transform == "fbank" else 1


@dataclass(frozen=True, slots=True)
class VideoPreset:
    """RGB frames, uint8 (frames * candidates, height, width, 3), in order of time.

    Evaluation uses the middle candidate of each segment; training may draw one (`augment.frames: random`).

    Args:
        frames: number of equal segments.
        height, width: in pixels.
        resize: `area` averages pixels, `bilinear` is antialiased.
        candidates: frames to store of each segment, an odd number; its middle frame is the middle one.
        normalise: see `Normalise`.

    Raises:
        ConfigError: `candidates` is even.
    """

    kind: ClassVar[str] = "video"

    frames: int
    height: int
    width: int
    resize: Literal["area", "bilinear"]
    candidates: int = 1
    normalise: Normalise = "train"

    def __post_init__(self) -> None:
        if self.candidates % 2 == 0:
            raise ConfigError(
                f"`candidates` must be odd, so that one is the middle of its segment, but is {self.candidates}. "
                f"Use {self.candidates + 1}."
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames * self.candidates, self.height, self.width, 3

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class FlowPreset:
    """Optical flow at the middle frames of equal segments, uint8 (frames, height, width, 2), with channels u and v.

    Args:
        frames: number of equal segments.
        height, width: in pixels.
        bound: pixels per frame, at the stored size. 128 is no motion, 1 and 255 are -`bound` and `bound`.
        source: `computed` between a frame and the next, or `given` as folders of images.
        normalise: see `Normalise`.
    """

    kind: ClassVar[str] = "flow"

    frames: int
    height: int
    width: int
    bound: float = 20.0
    source: Literal["computed", "given"] = "computed"
    normalise: Normalise = "train"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, self.height, self.width, 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(np.uint8)

    @property
    def candidates(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class FeaturePreset:
    """Feature arrays: a `vector` (D,), a `sequence` (T, D) of vectors, or an `image` (F, T) such as a spectrogram.

    A sequence is cut to its first T steps, or filled with not-a-number, which a model receives as the mean.
    """

    kind: ClassVar[str] = "features"

    layout: Literal["vector", "sequence", "image"]
    shape: tuple[int, ...]
    normalise: Normalise = "train"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(np.float32)


Part = AudioPreset | VideoPreset | FlowPreset | FeaturePreset
_KINDS: dict[str, type[Part]] = {part.kind: part for part in (AudioPreset, VideoPreset, FlowPreset, FeaturePreset)}


@dataclass(frozen=True)
class Preset:
    """What is stored of a clip: one part per modality. Modalities that `parts` lacks are not stored."""

    name: str
    parts: Mapping[str, Part]

    @property
    def modalities(self) -> tuple[str, ...]:
        return canonical_order(self.parts)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one stored row: audio (F, T), video (T, H, W, 3), flow (T, H, W, 2), or that of the features."""
        return self.parts[modality].shape

    def dtype(self, modality: str) -> np.dtype[np.generic]:
        """Data type of a stored row."""
        return self.parts[modality].dtype

    def row_bytes(self, modality: str) -> int:
        """Bytes of one stored row."""
        return int(np.prod(self.shape(modality))) * self.dtype(modality).itemsize

    def plain(self) -> dict[str, Any]:
        """The preset as JSON data, which `from_plain` reads."""
        parts = {m: {"kind": self.parts[m].kind, **dataclasses.asdict(self.parts[m])} for m in self.modalities}
        for part in parts.values():
            if part.get("channel") == "mix":  # so that the presets of older versions keep their digests
                del part["channel"]
        return {"name": self.name, "parts": parts}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Preset":
        """The preset of the JSON data that `plain` returned.

        Raises:
            KeyError, TypeError: `content` is not the data of a preset.
        """
        parts: dict[str, Part] = {}
        for m, given in content["parts"].items():
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            kind: Any = _KINDS[str(values.pop("kind"))]
            parts[m] = kind(**values)
        return cls(content["name"], parts)


def _stft(rate: int, seconds: float, n_fft: int, hop: int, **others: Any) -> AudioPreset:
    """log(|STFT| + 1e-7) of a tiled waveform, as in most published code."""
    given = {"fill": "tile", "power": 1.0, "floor": 1e-7, "pad_mode": "reflect", "normalise": "none", **others}
    return AudioPreset(sample_rate=rate, seconds=seconds, n_fft=n_fft, hop=hop, **given)


def _mel(seconds: float) -> AudioPreset:
    return AudioPreset(
        sample_rate=16000, seconds=seconds, fill="zeros", n_fft=1024, hop=160, power=2.0, floor=1e-6,
        pad_mode="reflect", transform="mel", mels=128, low_hz=20.0, high_hz=8000.0,
    )  # fmt: skip


def _frames(count: int, candidates: int = 1) -> VideoPreset:
    return VideoPreset(count, 224, 224, "bilinear", candidates, normalise="imagenet")


AUDIO_FRONT_ENDS: dict[str, AudioPreset] = {
    "tiny": AudioPreset(
        sample_rate=8000, seconds=1.0, fill="zeros", n_fft=512, hop=256, power=2.0, floor=1e-6, pad_mode="reflect",
        transform="mel", mels=32, low_hz=100.0, high_hz=2000.0,
    ),
    # OGM-GE's code: 22.05 kHz, tiled to 3 s, clipped to [-1, 1], n_fft 512, hop 353 -> 257 x 188.
    "stft188": _stft(22050, 3.0, 512, 353, clip_to_one=True),
    # As stated in the papers, 257 x 299: 16 kHz, windows of 512 that overlap by 353, not centred.
    "stft299": _stft(16000, 3.0, 512, 512 - 353, center=False, clip_to_one=True),
    # PMR on Kinetics-Sounds: the same windows over 10 s -> 257 x 1004.
    "stft1004": _stft(16000, 10.0, 512, 512 - 353, center=False, clip_to_one=True),
    # MLA: 16 kHz, 5 s, n_fft 256, hop 128 -> 129 x 626. MLA draws 5 s in each epoch; this takes the first 5 s.
    "stft626": _stft(16000, 5.0, 256, 128),
    # AST's front end, as used by OGM-GE and SMV on Kinetics-Sounds -> 1024 x 128.
    "fbank1024": AudioPreset(
        sample_rate=16000, seconds=10.0, fill="zeros", n_fft=0, hop=160, power=2.0, floor=0.0, pad_mode="constant",
        transform="fbank", mels=128, frames=1024, shift=-4.503877, scale=2 * 5.141276, normalise="none",
    ),
    "mel128-3s": _mel(3.0),
    "mel128-10s": _mel(10.0),
}  # fmt: skip

VIDEO_FRONT_ENDS: dict[str, VideoPreset] = {
    "tiny": VideoPreset(frames=1, height=16, width=16, resize="area"),
    **{f"{count}x224": _frames(count) for count in (1, 2, 3, 8)},
    # r (random): several candidates of each segment, of which training may draw one.
    "2x224r": _frames(2, candidates=3),
    "3x224r": _frames(3, candidates=3),
}

_PUBLISHED = {
    "tiny": "tiny+tiny",
    "ogm": "stft188+2x224",
    "ogm_paper": "stft299+2x224",
    "remix": "stft188+2x224r",
    "kinetics_sounds": "fbank1024+3x224r",
    "kinetics_stft": "stft1004+3x224r",
    "mla": "stft626+3x224",
}


def _composed(name: str, audio: str, video: str) -> Preset:
    return Preset(name, {AUDIO: AUDIO_FRONT_ENDS[audio], VIDEO: VIDEO_FRONT_ENDS[video]})


PRESETS: dict[str, Preset] = {name: _composed(name, *of.split("+")) for name, of in _PUBLISHED.items()}


def with_channel(preset: Preset, channel: Channel) -> Preset:
    """The preset with this channel of its audio.

    Raises:
        ConfigError: the preset has no audio from media files, and `channel` is not `mix`.
    """
    parts = {
        m: dataclasses.replace(part, channel=channel) if isinstance(part, AudioPreset) else part
        for m, part in preset.parts.items()
    }
    if channel != "mix" and parts == dict(preset.parts):
        raise ConfigError(
            f"`channel` applies to audio that is decoded from media files, but the preset {preset.name!r} has none. "
            "Remove it."
        )
    return Preset(preset.name, parts)


def preset_named(name: str) -> Preset:
    """The preset of this name.

    Args:
        name: a published protocol such as `ogm`, or an audio and a video front end such as `fbank1024+3x224`, of which
            one may be `none`.

    Raises:
        ConfigError: no preset has this name.
    """
    if name in PRESETS:
        return PRESETS[name]
    audio, plus, video = name.partition("+")
    if plus and audio in {*AUDIO_FRONT_ENDS, "none"} and video in {*VIDEO_FRONT_ENDS, "none"} and audio != video:
        parts: dict[str, Part] = {}
        if audio != "none":
            parts[AUDIO] = AUDIO_FRONT_ENDS[audio]
        if video != "none":
            parts[VIDEO] = VIDEO_FRONT_ENDS[video]
        return Preset(name, parts)
    raise ConfigError(
        f"`preset` must be one of {', '.join(PRESETS)}, or an audio front end ({', '.join(AUDIO_FRONT_ENDS)}, none) "
        f"and a video front end ({', '.join(VIDEO_FRONT_ENDS)}, none) such as stft188+3x224, but is {name!r}."
    )
