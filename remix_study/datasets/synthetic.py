"""A synthetic corpus of tones and gratings, on which joint training neglects one modality

Origin: rendered by this module; no rights reserved. Eight classes by default. Audio: a tone in one of `classes`
log-spaced bands from 200 to 1700 Hz (at a random frequency of the band), unit RMS, with white noise at an SNR drawn
from `audio_snr_db`; a fraction `muted` of the clips has only noise. Video: a grating of angle pi k / classes, 0.12-0.22
cycles per pixel at 16 x 16, with random phase and drift, and white noise in every frame at an SNR drawn from
`video_snr_db`. Audio is learnt fast, but is useless in muted clips. Video is learnt slowly, and is always informative.

Files: `clips/<split>/<split>-00012.mp4`, one second, MPEG-4 video with AAC audio. Each pixel of the 16 x 16 image is
encoded as a block of 4 x 4 pixels, so that lossy compression keeps its noise; averaging the blocks restores it. Every
clip has its own random stream, so that the same spec gives the same bytes, also after an interruption.
"""

import dataclasses
import functools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from remix_study.datasets.manifest import SPLITS, write_manifest
from remix_study.errors import ConfigError, StoreError
from remix_study.files.disk import exclusive_lock, move_into_place, storage_errors, temporary_path, write_atomically
from remix_study.media.plan import Progress
from remix_study.media.workers import run_jobs
from remix_study.sample import Clip, SampleId
from remix_study.seeds import stream

_BANDS_HZ = (200.0, 1700.0)
_SIDE = 16
_BLOCK = 4
_FPS = 8
_RATE = 8000
_LOUDNESS = 0.15  # of unit RMS, so that peaks of tone and noise at 0 dB stay below 1
_CONTRAST = 18.0  # grey levels per unit RMS, so that 3 deviations of grating and noise at -8 dB stay within 128


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """The size of the corpus and the difficulty of each modality.

    Args:
        train, val, test: clips of each split.
        classes: number of classes, at least 2.
        audio_snr_db, video_snr_db: ranges (low, high) of the signal-to-noise ratio in dB, within -60 to 60.
        muted: fraction of clips whose audio is only noise, 0 to 1.
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

    def __post_init__(self) -> None:
        wrong = [
            f"`{split}` must be at least the number of classes ({self.classes}), but is {self.count(split)}"
            for split in SPLITS
            if self.count(split) < self.classes
        ]
        if self.classes < 2:
            wrong.append(f"`classes` must be at least 2, but is {self.classes}")
        if not 0 <= self.muted <= 1:
            wrong.append(f"`muted` must be between 0 and 1, but is {self.muted}")
        for name, (low, high) in (("audio_snr_db", self.audio_snr_db), ("video_snr_db", self.video_snr_db)):
            if not -60 <= low <= high <= 60:
                wrong.append(f"`{name}` must be (low, high) within -60..60 dB, but is ({low}, {high})")
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    def count(self, split: str) -> int:
        """Number of clips of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def render(out: Path, spec: SyntheticSpec, *, workers: int | None = None, progress: Progress | None = None) -> Path:
    """Render the corpus into `out` and return its manifest. Existing clips are kept.

    Args:
        workers: number of worker processes; None means one per core.
        progress: called as `progress(done, total)` with numbers of clips.

    Raises:
        StoreError: `out` holds a corpus of another spec, another process writes there, or the disk is full or
            read-only.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / ".render.lock"):
            _claim(out / "synthetic.json", spec)
            clips = [_clip(spec, split, number) for split in SPLITS for number in range(spec.count(split))]
            for split in SPLITS:
                (out / "clips" / split).mkdir(parents=True, exist_ok=True)
            todo = [job for job, clip in enumerate(clips) if not (out / clip.paths["video"]).exists()]
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
    try:
        found = json.loads(path.read_text())
        other = [f"{key} {found.get(key)} (wanted {wanted[key]})" for key in wanted if found.get(key) != wanted[key]]
    except (ValueError, AttributeError):
        other = ["an unreadable spec"]
    if other:
        raise StoreError(
            f"Cannot render into {path.parent}: it holds a synthetic corpus with {', '.join(other)}. Choose another "
            "folder, or delete that corpus."
        )


def _clip(spec: SyntheticSpec, split: str, number: int) -> Clip:
    draw = _draw(spec, split, number)
    path = f"clips/{split}/{split}-{number:05d}.mp4"
    return Clip(
        id=SampleId(f"{split}-{number:05d}"),
        paths={"audio": path, "video": path},
        label=f"tone-and-grating-{number % spec.classes:02d}",
        split=split,
        truth={
            "muted": bool(draw.random() < spec.muted),
            "audio_snr_db": round(float(draw.uniform(*spec.audio_snr_db)), 3),
            "video_snr_db": round(float(draw.uniform(*spec.video_snr_db)), 3),
        },
    )


def _draw(spec: SyntheticSpec, split: str, number: int) -> np.random.Generator:
    return stream(spec.seed, f"synthetic {split}", number)


def _render_job(out: Path, spec: SyntheticSpec, job: int) -> None:
    number = job
    for split in SPLITS:
        if number < spec.count(split):
            break
        number -= spec.count(split)
    clip = _clip(spec, split, number)
    draw = stream(spec.seed, f"synthetic {split} content", number)
    label = number % spec.classes
    wave = tone(draw, label, spec.classes, snr_db=float(clip.truth["audio_snr_db"]), muted=bool(clip.truth["muted"]))
    frames = grating(draw, label, spec.classes, snr_db=float(clip.truth["video_snr_db"]))
    write_clip(out / clip.paths["video"], frames, wave)


def tone(draw: np.random.Generator, label: int, classes: int, *, snr_db: float, muted: bool) -> NDArray[np.float32]:
    """The audio of a clip: one second at 8 kHz, float32 (8000,)."""
    low, high = _BANDS_HZ
    frequency = low * (high / low) ** ((label + draw.random()) / classes)
    seconds = np.arange(_RATE) / _RATE
    signal = math.sqrt(2) * np.sin(2 * math.pi * (frequency * seconds + draw.random()))
    noise = draw.standard_normal(_RATE) * 10 ** (-snr_db / 20)
    return ((noise if muted else signal + noise) * _LOUDNESS).clip(-1, 1).astype(np.float32)


def grating(draw: np.random.Generator, label: int, classes: int, *, snr_db: float) -> NDArray[np.uint8]:
    """The video of a clip: one second at 8 frames per second, uint8 grey (8, 16, 16)."""
    angle = math.pi * label / classes
    cycles = draw.uniform(0.12, 0.22)  # per pixel
    phase, drift = draw.random(), draw.uniform(-1, 1)  # cycles, cycles per second
    y, x = np.mgrid[:_SIDE, :_SIDE]
    along = cycles * (x * math.cos(angle) + y * math.sin(angle))
    seconds = np.arange(_FPS)[:, None, None] / _FPS
    signal = math.sqrt(2) * np.sin(2 * math.pi * (along + phase + drift * seconds))
    noise = draw.standard_normal(signal.shape) * 10 ** (-snr_db / 20)
    picture: NDArray[np.float64] = 128 + _CONTRAST * (signal + noise)
    return picture.round().clip(0, 255).astype(np.uint8)


def write_clip(path: Path, frames: NDArray[np.uint8], wave: NDArray[np.float32]) -> None:
    """Write grey frames (8, 16, 16) and a waveform (8000,) of one second as an .mp4 file, atomically."""
    import av

    part = temporary_path(path)
    with av.open(str(part), "w", format="mp4") as file:
        video = file.add_stream("mpeg4", rate=_FPS)
        video.width = video.height = _SIDE * _BLOCK
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any machine
        video.codec_context.qmin = video.codec_context.qmax = 2  # fine quantisation keeps the noise
        sound = file.add_stream("aac", rate=_RATE, layout="mono")
        sound.bit_rate = 48_000
        grey = frames.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)
        for number, picture in enumerate(grey):
            shot = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
            shot.pts, shot.time_base = number, Fraction(1, _FPS)
            file.mux(video.encode(shot))
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = _RATE, 0, Fraction(1, _RATE)
        file.mux(sound.encode(block))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    move_into_place(part, path)
