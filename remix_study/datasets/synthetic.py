"""A synthetic corpus of tones and gratings, on which joint training neglects one modality

Origin: rendered by this module; no rights reserved. Eight classes by default. Audio: a tone in one of `classes`
log-spaced bands from 200 to 1700 Hz (at a random frequency of the band), unit RMS, with white noise at an SNR drawn
from `audio_snr_db`; a fraction `muted` of the clips has only noise. Video: a grating of angle pi k / classes, 0.12-0.22
cycles per pixel at 16 x 16, with random phase and drift, and white noise in every frame at an SNR drawn from
`video_snr_db`. Audio is learnt fast, but is useless in muted clips. Video is learnt slowly, and is always informative.

Options change the problem. Each is independent of the others: a clip keeps its content when another option changes.

    muted, blind, sensor_off   fractions of the clips that are only noise in one modality; each clip in one at most
    sensor                     a third modality: a wave that travels across four sensors, with a lag of k / classes
                               cycles from each to the next, 32 steps of white noise at an SNR from `sensor_snr_db`
    interaction                xor: the last classes form pairs. In a clip of a pair, each modality shows one of its two
                               patterns at random, and only all modalities together tell the class: it is the first
                               of the pair if an even number of modalities shows the second pattern
    label_noise                fraction of the training clips whose label is another class, drawn at random; validation
                               and test clips keep their labels

`RECIPES` are settings of these options for experiments. Each clip's `truth` in the manifest says what was drawn:

    muted, audio_snr_db, video_snr_db, sensor_snr_db   of the clip
    informative    whether the clip shows its pattern in a modality: {"audio": true, "video": false}
    shown          with `interaction`: the number of the pattern of each modality
    clean_label    where label noise changed the label: the label before

Corpora that an earlier version can render keep its manifest, so that their stores keep their fingerprints. They lack
`informative`, which follows from `muted`; datasets/truth.py reads both.

Files: `clips/<split>/<split>-00012.mp4`, one second, MPEG-4 video with AAC audio, and `.npy` for the sensors (32 x 4).
Each pixel of the 16 x 16 image is encoded as a block of 4 x 4 pixels, so that lossy compression keeps its noise;
averaging the blocks restores it. Every clip has its own random stream, so that the same spec gives the same bytes, also
after an interruption.
"""

# T steps of the sensors, D sensors

import dataclasses
import functools
import io
import json
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from remix_study.datasets.manifest import SPLITS, write_manifest
from remix_study.errors import ConfigError, StoreError
from remix_study.files.disk import exclusive_lock, move_into_place, storage_errors, temporary_path, write_atomically
from remix_study.media.plan import Progress
from remix_study.media.workers import run_jobs
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip, SampleId, Truth
from remix_study.seeds import stream

SENSOR = "sensor"
Interaction = Literal["none", "xor"]

BANDS_HZ = (200.0, 1700.0)
SIDE = 16
_BLOCK = 4
FPS = 8
RATE = 8000
LOUDNESS = 0.15  # of unit RMS, so that peaks of tone and noise at 0 dB stay below 1
CONTRAST = 18.0  # grey levels per unit RMS, so that 3 deviations of grating and noise at -8 dB stay within 128
STEPS, SENSORS = 32, 4
RATES = (0.05, 0.2)  # cycles per step
CYCLES = (0.12, 0.22)  # per pixel
_SENSOR_SNR_DB = (-6.0, 6.0)
_EARLIER = ("train", "val", "test", "classes", "audio_snr_db", "video_snr_db", "muted", "seed")  # of version 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """The size of the corpus and the difficulty of each modality.

    Args:
        train, val, test: clips of each split.
        classes: number of classes, at least 2; with an interaction, at least 4.
        audio_snr_db, video_snr_db, sensor_snr_db: ranges (low, high) of the signal-to-noise ratio in dB, within -60 to
            60.
        muted, blind, sensor_off: fractions of the clips whose audio, video or sensors are only noise, 0 to 1 in all.
        label_noise: fraction of the training clips whose label is another class, 0 to 1 - 1 / `classes`.
        sensor: render the third modality.
        interaction: `xor`: half of the classes (rounded down to pairs) can only be told by all modalities together.
        seed: of all random streams.

    Raises:
        ConfigError: values are out of range; all of them are listed.
    """

    train: int = 1000
    val: int = 500
    test: int = 1000
    classes: int = 8
    audio_snr_db: tuple[float, float] = (0.0, 15.0)
    video_snr_db: tuple[float, float] = (-8.0, 2.0)
    muted: float = 0.15
    seed: int = 0
    blind: float = 0.0
    label_noise: float = 0.0
    sensor: bool = False
    sensor_snr_db: tuple[float, float] = _SENSOR_SNR_DB
    sensor_off: float = 0.0
    interaction: Interaction = "none"

    def __post_init__(self) -> None:
        wrong = [
            f"`{split}` must be at least the number of classes ({self.classes}), but is {self.count(split)}"
            for split in SPLITS
            if self.count(split) < self.classes
        ]
        if self.classes < 2:
            wrong.append(f"`classes` must be at least 2, but is {self.classes}")
        fractions = {name: getattr(self, name) for name in _NOISE_ONLY.values()}
        wrong += [
            f"`{name}` must be between 0 and 1, but is {each}" for name, each in fractions.items() if not 0 <= each <= 1
        ]
        if not wrong and sum(fractions.values()) > 1:
            names = _listed(f"`{name}`" for name, each in fractions.items() if each)
            wrong.append(
                f"{names} must add up to at most 1, because a clip is only noise in one modality at most, but add up "
                f"to {sum(fractions.values()):g}"
            )
        if not 0 <= self.label_noise <= 1 - 1 / max(2, self.classes):
            wrong.append(
                f"`label_noise` must be between 0 and 1 - 1 / classes ({1 - 1 / max(2, self.classes):.3g}), at which "
                f"labels are drawn at random, but is {self.label_noise}"
            )
        for m in (AUDIO, VIDEO, SENSOR):
            name, (low, high) = f"{m}_snr_db", self.snr_db(m)
            if not -60 <= low <= high <= 60:
                wrong.append(f"`{name}` must be (low, high) within -60..60 dB, but is ({low}, {high})")
        if not self.sensor:
            given = {"sensor_off": 0.0, "sensor_snr_db": _SENSOR_SNR_DB}
            wrong += [f"`{key}` needs `sensor`" for key, value in given.items() if getattr(self, key) != value]
        if self.interaction not in get_args(Interaction):
            wrong.append(f"`interaction` must be {' or '.join(get_args(Interaction))}, but is {self.interaction!r}")
        elif self.interaction == "xor" and self.classes < 4:
            wrong.append(
                f"`interaction: xor` needs at least 4 `classes`, because half of them form pairs, but there are "
                f"{self.classes}"
            )
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    def count(self, split: str) -> int:
        """Number of clips of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def snr_db(self, modality: str) -> tuple[float, float]:
        """Range of the signal-to-noise ratio of a modality."""
        found: tuple[float, float] = getattr(self, f"{modality}_snr_db")
        return found

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of each clip, in canonical order."""
        return (AUDIO, VIDEO, SENSOR) if self.sensor else (AUDIO, VIDEO)

    @property
    def pairs(self) -> range:
        """First classes of the pairs that only all modalities together can tell apart."""
        count = self.classes // 4 if self.interaction == "xor" else 0
        return range(self.classes - 2 * count, self.classes, 2)

    @property
    def is_earlier(self) -> bool:
        """Whether version 0.1 could render this corpus."""
        return all(
            getattr(self, field.name) == field.default
            for field in dataclasses.fields(self)
            if field.name not in _EARLIER
        )


_NOISE_ONLY = {AUDIO: "muted", VIDEO: "blind", SENSOR: "sensor_off"}

# Video noise below the default range: there all methods reach 99 % once their learning rates are tuned.
_HARD: Mapping[str, Any] = MappingProxyType({"video_snr_db": (-11.0, -1.0)})
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "demo": _HARD,
        "muted": {**_HARD, "muted": 0.3},
        "blind": {**_HARD, "blind": 0.25},
        "xor": {"interaction": "xor", "video_snr_db": (0.0, 8.0)},  # more noise hides the interaction of 1,000 clips
        "three": {**_HARD, "sensor": True, "sensor_off": 0.15},
    }
)
"""Name -> options; those that a recipe lacks have their defaults"""


def spec_of(recipe: str | None = None, **options: Any) -> SyntheticSpec:
    """The spec of a recipe, with these options instead of the recipe's.

    Raises:
        ConfigError: there is no such recipe, or values are out of range.
    """
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"`recipe` must be one of {', '.join(RECIPES)}, but is {recipe!r}.")
    return SyntheticSpec(**{**(RECIPES[recipe] if recipe else {}), **options})


def card_facts(spec: SyntheticSpec) -> dict[str, Any]:
    """What the card of a store says about the rendering: the recipe, if it is one, and changed options."""
    sizes = {split: spec.count(split) for split in SPLITS}
    recipe = next(
        (name for name in RECIPES if spec == spec_of(name, **sizes, classes=spec.classes, seed=spec.seed)), None
    )
    changed = {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in (*SPLITS, "classes") and getattr(spec, field.name) != field.default
    }
    return {
        "corpus": "Tones and gratings, a synthetic corpus",
        "licence": "rendered by remix-study; no rights reserved",
        **({"recipe": recipe} if recipe else {}),
        "options": json.loads(json.dumps(changed)),
    }


def render(out: Path, spec: SyntheticSpec, *, workers: int | None = None, progress: Progress | None = None) -> Path:
    """Render the corpus into `out` and return its manifest. Existing clips are kept.

    Args:
        workers: number of worker processes; None means one per core.
        progress: called as `progress(done, total)` with numbers of clips.

    Raises:
        ConfigError: label noise leaves a class without training clips.
        StoreError: `out` holds a corpus of another spec, another process writes there, or the disk is full or
            read-only.
    """
    clips = _clips(spec)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / ".render.lock"):
            _claim(out / "synthetic.json", spec)
            for split in SPLITS:
                (out / "clips" / split).mkdir(parents=True, exist_ok=True)
            todo = [job for job, clip in enumerate(clips) if not all((out / p).exists() for p in clip.paths.values())]
            done = len(clips) - len(todo)
            if progress is not None:
                progress(done, len(clips))

            def on_result(_job: int, _result: object) -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress(done, len(clips))

            def on_lost(job: int, reason: str) -> None:
                raise StoreError(f"Rendering {clips[job].id} failed twice ({reason}). Rerun the command to resume.")

            run_jobs(
                functools.partial(_render_job, out, spec), todo, on_result=on_result, on_lost=on_lost, workers=workers
            )
            write_manifest(out / "manifest.jsonl", clips)
    return out / "manifest.jsonl"


def _claim(path: Path, spec: SyntheticSpec) -> None:
    """Write the spec of the corpus, or check that the folder already holds this spec."""
    wanted = json.loads(json.dumps(dataclasses.asdict(spec)))
    if not path.exists():
        write_atomically(path, json.dumps(wanted, indent=1) + "\n")
        return
    defaults = json.loads(json.dumps(dataclasses.asdict(SyntheticSpec())))
    try:
        # Earlier versions lack some options; later ones may have more.
        found = defaults | json.loads(path.read_text())
        other = [f"{key} {found[key]} (wanted {wanted.get(key)})" for key in found if found[key] != wanted.get(key)]
    except (ValueError, TypeError):
        other = ["an unreadable spec"]
    if other:
        raise StoreError(
            f"Cannot render into {path.parent}: it holds a synthetic corpus with {', '.join(other)}. Choose another "
            "folder, or delete that corpus."
        )


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _clips(spec: SyntheticSpec) -> list[Clip]:
    clips = [clip_of(spec, split, number) for split in SPLITS for number in range(spec.count(split))]
    labels = {clip.label for clip in clips if clip.split == "train"}
    if absent := [label for label in map(label_of, range(spec.classes)) if label not in labels]:
        raise ConfigError(
            f"`label_noise` leaves no training clip of {_listed(absent)}. Render more training clips, or choose "
            "another seed."
        )
    return clips


def label_of(number: int) -> str:
    """The label of a class."""
    return f"tone-and-grating-{number:02d}"


def clip_of(spec: SyntheticSpec, split: str, number: int) -> Clip:
    """The clip `number` of a split, with its `truth`."""
    draw = stream(spec.seed, f"synthetic {split}", number)
    true_class = number % spec.classes
    noise_only = draw.random()
    truth: dict[str, Truth] = {"muted": bool(noise_only < spec.muted)}
    truth |= {f"{m}_snr_db": round(float(draw.uniform(*spec.snr_db(m))), 3) for m in (AUDIO, VIDEO)}
    label = true_class
    if not spec.is_earlier:
        # All are drawn whatever the options are, so that an option changes nothing else.
        sensor_snr_db = round(float(draw.uniform(*spec.sensor_snr_db)), 3)
        wrong, other, second_M = draw.random(), int(draw.integers(1, spec.classes)), draw.integers(0, 2, size=3)
        if spec.sensor:
            truth[f"{SENSOR}_snr_db"] = sensor_snr_db
        truth["informative"] = _informative(spec, noise_only)
        if spec.pairs:
            truth["shown"] = _shown(spec, true_class, second_M[: len(spec.modalities)])
        if split == "train" and wrong < spec.label_noise:
            label = (true_class + other) % spec.classes
            truth["clean_label"] = label_of(true_class)
    path = f"clips/{split}/{split}-{number:05d}"
    files = {AUDIO: f"{path}.mp4", VIDEO: f"{path}.mp4", SENSOR: f"{path}.npy"}
    return Clip(
        id=SampleId(f"{split}-{number:05d}"),
        paths={m: files[m] for m in spec.modalities},
        label=label_of(label),
        split=split,
        truth=truth,
    )


def _informative(spec: SyntheticSpec, drawn: float) -> dict[str, bool]:
    """Whether each modality shows its pattern; `drawn` in [0, 1) decides which one does not, if any."""
    found, begin = {}, 0.0
    for m in spec.modalities:
        end = begin + getattr(spec, _NOISE_ONLY[m])
        found[m] = not begin <= drawn < end
        begin = end
    return found


def _shown(spec: SyntheticSpec, label: int, second_M: NDArray[np.int64]) -> dict[str, int]:
    """The pattern that each modality shows; `second_M`: bits, of which the last is replaced by the one that fits."""
    if label < spec.pairs[0]:
        return dict.fromkeys(spec.modalities, label)
    position = label - spec.pairs[0]
    bits = [int(bit) for bit in second_M[:-1]]
    bits.append((position + sum(bits)) % 2)
    return {m: label - position % 2 + bit for m, bit in zip(spec.modalities, bits, strict=True)}


def signals_of(spec: SyntheticSpec, split: str, number: int) -> dict[str, NDArray[Any]]:
    """The signals of a clip before compression, by modality.

    Returns:
        A waveform float32 (8000,), grey frames uint8 (8, 16, 16), and of the sensors float32 (T, D).
    """
    truth: Mapping[str, Any] = clip_of(spec, split, number).truth
    label = number % spec.classes
    shown = truth.get("shown") or dict.fromkeys(spec.modalities, label)
    informative = truth.get("informative") or {AUDIO: not truth["muted"], VIDEO: True}
    draw = stream(spec.seed, f"synthetic {split} content", number)
    signals: dict[str, NDArray[Any]] = {
        AUDIO: tone(draw, shown[AUDIO], spec.classes, snr_db=truth["audio_snr_db"], muted=not informative[AUDIO]),
        VIDEO: grating(draw, shown[VIDEO], spec.classes, snr_db=truth["video_snr_db"], blind=not informative[VIDEO]),
    }
    if spec.sensor:
        off, snr_db = not informative[SENSOR], truth["sensor_snr_db"]
        signals[SENSOR] = travelling(draw, shown[SENSOR], spec.classes, snr_db=snr_db, off=off)
    return signals


def _render_job(out: Path, spec: SyntheticSpec, job: int) -> None:
    number = job
    for split in SPLITS:
        if number < spec.count(split):
            break
        number -= spec.count(split)
    clip, signals = clip_of(spec, split, number), signals_of(spec, split, number)
    if SENSOR in signals:
        content = io.BytesIO()
        np.save(content, signals[SENSOR])
        write_atomically(out / clip.paths[SENSOR], content.getvalue())
    write_clip(out / clip.paths[VIDEO], signals[VIDEO], signals[AUDIO])


def tone(draw: np.random.Generator, label: int, classes: int, *, snr_db: float, muted: bool) -> NDArray[np.float32]:
    """The audio of a clip: one second at 8 kHz, float32 (8000,)."""
    low, high = BANDS_HZ
    frequency = low * (high / low) ** ((label + draw.random()) / classes)
    seconds = np.arange(RATE) / RATE
    signal = math.sqrt(2) * np.sin(2 * math.pi * (frequency * seconds + draw.random()))
    noise = draw.standard_normal(RATE) * 10 ** (-snr_db / 20)
    return ((noise if muted else signal + noise) * LOUDNESS).clip(-1, 1).astype(np.float32)


def grating(
    draw: np.random.Generator, label: int, classes: int, *, snr_db: float, blind: bool = False
) -> NDArray[np.uint8]:
    """The video of a clip: one second at 8 frames per second, uint8 grey (8, 16, 16)."""
    angle = math.pi * label / classes
    cycles = draw.uniform(*CYCLES)
    phase, drift = draw.random(), draw.uniform(-1, 1)  # cycles, cycles per second
    y, x = np.mgrid[:SIDE, :SIDE]
    along = cycles * (x * math.cos(angle) + y * math.sin(angle))
    seconds = np.arange(FPS)[:, None, None] / FPS
    signal = math.sqrt(2) * np.sin(2 * math.pi * (along + phase + drift * seconds))
    noise = draw.standard_normal(signal.shape) * 10 ** (-snr_db / 20)
    picture: NDArray[np.float64] = 128 + CONTRAST * (noise if blind else signal + noise)
    return picture.round().clip(0, 255).astype(np.uint8)


def travelling(
    draw: np.random.Generator, label: int, classes: int, *, snr_db: float, off: bool = False
) -> NDArray[np.float32]:
    """The sensors of a clip, float32 (T, D): a wave that reaches each `label / classes` cycles after the last."""
    rate, phase = draw.uniform(*RATES), draw.random()  # cycles per step, cycles
    steps_T1, lags_D = np.arange(STEPS)[:, None], np.arange(SENSORS) * label / classes
    signal_TD = math.sqrt(2) * np.sin(2 * math.pi * (rate * steps_T1 - lags_D + phase))
    noise_TD = draw.standard_normal(signal_TD.shape) * 10 ** (-snr_db / 20)
    return (noise_TD if off else signal_TD + noise_TD).astype(np.float32)


def write_clip(path: Path, frames: NDArray[np.uint8], wave: NDArray[np.float32]) -> None:
    """Write grey frames (8, 16, 16) and a waveform (8000,) of one second as an .mp4 file, atomically."""
    import av

    part = temporary_path(path)
    with av.open(str(part), "w", format="mp4") as file:
        video = file.add_stream("mpeg4", rate=FPS)
        video.width = video.height = SIDE * _BLOCK
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any machine
        video.codec_context.qmin = video.codec_context.qmax = 2  # fine quantisation keeps the noise
        sound = file.add_stream("aac", rate=RATE, layout="mono")
        sound.bit_rate = 48_000
        grey = frames.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)
        for number, picture in enumerate(grey):
            shot = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
            shot.pts, shot.time_base = number, Fraction(1, FPS)
            file.mux(video.encode(shot))
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(sound.encode(block))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    move_into_place(part, path)
