"""What a model sees of a clip: sizes, rates and transforms, by name

A preset says for each modality which part of a file is kept, and how. Its audio and its video may be chosen apart
(`fbank1024+3x224`), or together by the name of a published protocol:

    tiny             the procedural corpus: a 32 x 32 log-mel spectrogram (100-2000 Hz) and the middle frame, 16 x 16
    ogm              CREMA-D as in the code of OGM-GE (Peng et al., CVPR 2022): `stft188+2x224`
    ogm_paper        CREMA-D as the papers print it, 257 x 299: `stft299+2x224`
    remix            CREMA-D as Data Remixing trains: `stft188+2x224r`, a random frame of each half in training
    kinetics_sounds  Kinetics-Sounds as in the code of OGM-GE and SMV: `fbank1024+3x224r`
    kinetics_stft    Kinetics-Sounds with PMR's spectrogram, 257 x 1004: `stft1004+3x224r`
    mla              CREMA-D as in MLA: `stft626+3x224`

Corpora without sound or with ready arrays make their presets themselves (datasets/ucf101.py, mosei.py).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from remix_study.errors import ConfigError
from remix_study.modality import AUDIO, VIDEO, canonical_order

Normalise = Literal["train", "imagenet", "none"]
"""By mean and deviation of the training split, by those of ImageNet's pixels, or left as it is"""


@dataclass(frozen=True, slots=True)
class AudioPreset:
    """Seconds of mono sound as a spectrogram (F, T), or for `fbank` (T, F) as Kaldi writes it.

    A clip shorter than `seconds` is filled with itself (`tile`) or with zeros; a longer one is cut. `power` 1 is the
    magnitude, 2 the power. `floor` is added before the logarithm. With `mels`, F counts mel bands from `low_hz` to
    `high_hz` (0: half the rate), else FFT bins. `fbank` is Kaldi's: windows of 25 ms every 10 ms, of the waveform
    without its mean; it has no `n_fft`, and is padded with zero frames or cut to `frames`.
    """

    kind: ClassVar[str] = "audio"

    sample_rate: int
    seconds: float
    fill: Literal["tile", "zeros"]
    n_fft: int
    hop: int
    power: float
    floor: float
    # Said explicitly: librosa's default changed between versions, and the edge columns with it.
    pad_mode: Literal["reflect", "constant"]
    transform: Literal["stft", "mel", "fbank"] = "stft"
    center: bool = True  # the first window is centred on the first sample; else it begins there
    mels: int | None = None
    low_hz: float = 0.0
    high_hz: float = 0.0
    clip_to_one: bool = False
    frames: int | None = None  # of `fbank`
    shift: float = 0.0  # stored is (x - shift) / scale
    scale: float = 1.0
    normalise: Normalise = "train"

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

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
        """Of `shape`: where time runs."""
        return 0 if self.transform == "fbank" else 1


@dataclass(frozen=True, slots=True)
class VideoPreset:
    """Frames of `frames` equal segments, resized to (height, width): `candidates` of each, its middle among them.

    Stored is (frames * candidates, height, width, 3), in order of time; evaluation sees the middle candidate of each
    segment, training may draw one (`augment.frames: random`).

    Raises:
        ConfigError: `candidates` is not odd.
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
    """Optical flow at the middle frames of `frames` equal segments, as two channels (u, v).

    Stored as uint8 (frames, height, width, 2): 128 is no motion, 1 and 255 are -`bound` and `bound` pixels per frame at
    the stored size. `source`: `computed` between a frame and the next, or `given` as folders of pictures.
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
    """Ready arrays: a `vector` (D,), a `sequence` (T, D) of vectors, or an `image` (F, T) such as a spectrogram.

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
    """One named way to turn clips into arrays; a modality that `parts` lacks is not stored."""

    name: str
    parts: Mapping[str, Part]

    @property
    def modalities(self) -> tuple[str, ...]:
        return canonical_order(self.parts)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Of one stored row: audio (F, T), video (T, H, W, 3), flow (T, H, W, 2), features as they are."""
        return self.parts[modality].shape

    def dtype(self, modality: str) -> np.dtype[np.generic]:
        return self.parts[modality].dtype

    def row_bytes(self, modality: str) -> int:
        return int(np.prod(self.shape(modality))) * self.dtype(modality).itemsize

    def plain(self) -> dict[str, Any]:
        """As JSON; `from_plain` gives it back."""
        parts = {m: {"kind": self.parts[m].kind, **dataclasses.asdict(self.parts[m])} for m in self.modalities}
        return {"name": self.name, "parts": parts}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Preset":
        """
        Raises:
            KeyError, TypeError: it is not what `plain` gives.
        """
        parts: dict[str, Part] = {}
        for m, given in content["parts"].items():
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            kind: Any = _KINDS[str(values.pop("kind"))]
            parts[m] = kind(**values)
        return cls(content["name"], parts)


def _stft(rate: int, seconds: float, n_fft: int, hop: int, **others: Any) -> AudioPreset:
    """log(|STFT| + 1e-7), tiled: what the code of this field does."""
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
    # The papers' 257 x 299: 16 kHz, windows of 512 that overlap by 353, not centred.
    "stft299": _stft(16000, 3.0, 512, 512 - 353, center=False, clip_to_one=True),
    # PMR's Kinetics-Sounds: the same windows over 10 s -> 257 x 1004.
    "stft1004": _stft(16000, 10.0, 512, 512 - 353, center=False, clip_to_one=True),
    # MLA: 16 kHz, 5 s, n_fft 256, hop 128 -> 129 x 626. It draws the 5 s anew in each epoch; here they are the first.
    "stft626": _stft(16000, 5.0, 256, 128),
    # AST's front end, as OGM-GE and SMV use it on Kinetics-Sounds -> 1024 x 128.
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
    # r: several candidates of each segment, of which training may draw.
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


def preset_named(name: str) -> Preset:
    """`ogm` and the like, or an audio and a video front end such as `fbank1024+3x224`; one of the two may be `none`.

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
        f"`preset` must be one of {', '.join(PRESETS)}, or a front end for audio ({', '.join(AUDIO_FRONT_ENDS)}, none) "
        f"and one for video ({', '.join(VIDEO_FRONT_ENDS)}, none) such as stft188+3x224, but is {name!r}."
    )
