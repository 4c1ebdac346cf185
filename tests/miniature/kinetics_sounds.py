"""A miniature of Kinetics-Sounds: MP4 files named by YouTube id, and OGM-GE's lists"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.miniature.media import write_clip

LABELS: Mapping[str, int] = {"bowling": 2, "playing bass guitar": 9, "tickling": 30}
"""Published number of each class"""


def clip(label: str, number: int) -> str:
    """Return the name of a clip in the training lists: a video id of 11 characters, and start and end in seconds."""
    return f"-{LABELS[label]:02d}_vid{number:04d}_{number:06d}_{number + 10:06d}"


def short(name: str) -> str:
    """Return the name of the same clip in the test lists."""
    return f"{name[:11]}_{int(name[12:18])}"


def write(
    root: Path,
    *,
    each: int = 5,
    folders: Sequence[str] = ("",),
    spelt: str = "{label}",
    without: Sequence[str] = (),
) -> Path:
    """Write `each` clips of each class in each of `folders`, such as train. `spelt` names the class folders."""
    for index, folder in enumerate(folders):
        for label, number in LABELS.items():
            where = root / folder / (spelt.format(label=label, underscored=label.replace(" ", "_")))
            for seed in range(index * each, (index + 1) * each):
                if (name := clip(label, seed)) not in without:
                    write_clip(where / f"{name}.mp4", number, seed)
    return root


def write_lists(folder: Path, train: Sequence[str], test: Sequence[str], *, prefix: str = "my_") -> Path:
    """Write lists like OGM-GE's: `clip,10,number`, CRLF; test clips have their short names."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in (("train", train), ("test", [short(name) for name in test])):
        lines = (f"{name},10,{int(name[1:3])}\r\n" for name in names)
        (folder / f"{prefix}{part}.txt").write_text("".join(lines), newline="")
    return folder
