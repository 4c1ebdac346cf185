"""A miniature of CREMA-D: FLV and WAV files with the released names, its tables, and OGM-GE's lists"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tests.miniature.media import write_clip, write_frames

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SENTENCES = ("DFA", "IEO")
ARRAY_SHAPE = (17, 12)
Layout = Literal["released", "flv", "frames", "arrays"]


def clips(actors: int, emotions: Sequence[str] = EMOTIONS, sentences: Sequence[str] = SENTENCES) -> list[str]:
    """Return clip names, such as 1001_DFA_ANG_XX."""
    return [
        f"{1001 + actor}_{sentence}_{emotion}_XX"
        for actor in range(actors)
        for sentence in sentences
        for emotion in emotions
    ]


def write(
    root: Path,
    *,
    actors: int = 4,
    emotions: Sequence[str] = EMOTIONS,
    sentences: Sequence[str] = SENTENCES,
    layout: Layout = "released",
    without: Sequence[str] = (),
    tables: bool = True,
) -> Path:
    """Write clips of every actor, sentence and emotion. `without` names files or folders to omit."""
    root.mkdir(parents=True, exist_ok=True)
    names = clips(actors, emotions, sentences)
    for seed, clip in enumerate(names):
        label = EMOTIONS.index(clip.split("_")[2])
        for path in _paths(clip, layout):
            if path not in without:
                _write(root / path, label, seed)
    if tables:
        write_tables(root, names, actors)
    return root


def _paths(clip: str, layout: Layout) -> tuple[str, ...]:
    match layout:
        case "released":
            return f"VideoFlash/{clip}.flv", f"AudioWAV/{clip}.wav"
        case "flv":
            return (f"VideoFlash/{clip}.flv",)
        case "frames":
            return f"Image-01-FPS/{clip}", f"AudioWAV/{clip}.wav"
        case "arrays":
            return f"visual/{clip}", f"audio/{clip}.npy"


def _write(path: Path, label: int, seed: int) -> None:
    if path.suffix == ".npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(seed).normal(label, 1, ARRAY_SHAPE).astype(np.float32))
    elif path.suffix:
        write_clip(path, label, seed, sound=True)
    else:
        write_frames(path, label, seed)


def write_tables(root: Path, names: Sequence[str], actors: int) -> None:
    """Write the tables, with headers, quotes and line ends as released."""
    people = [
        f'{1001 + actor},{20 + actor},"{("Male", "Female")[actor % 2]}","Caucasian","Not Hispanic"'
        for actor in range(actors)
    ]
    (root / "VideoDemographics.csv").write_text(_lines('"ActorID","Age","Sex","Race","Ethnicity"', *people))
    (root / "SentenceFilenames.csv").write_text(
        _lines('"Stimulus_Number","Filename"', *(f'{i},"{clip}"' for i, clip in enumerate(names, start=1)))
    )
    write_votes(
        root / "summaryTable.csv", {clip: (("N", "69.1"), ("A:F", "30:51.00"), (clip[9], " 64")) for clip in names}
    )


def write_votes(path: Path, votes: dict[str, tuple[tuple[str, str], tuple[str, str], tuple[str, str]]]) -> None:
    """Write votes and levels by voice, face and both."""
    header = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"'
    rows = (
        ",".join(f'"{cell}"' for cell in (i, clip, *voice, *face, *both))
        for i, (clip, (voice, face, both)) in enumerate(votes.items(), start=1)
    )
    path.write_text(_lines(header, *rows))


def write_lists(folder: Path, train: Sequence[str], test: Sequence[str], *, prefix: str = "", bom: bool = True) -> Path:
    """Write lists like OGM-GE's: no header, CRLF, and optionally a byte order mark, as in its stat.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in (("train", train), ("test", test)):
        text = "".join(f"{clip},{clip.split('_')[2]}\r\n" for clip in names)
        (folder / f"{prefix}{part}.csv").write_text(text, encoding="utf-8-sig" if bom else "utf-8", newline="")
    return folder


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
