"""A miniature of AVE: MP4 files named by YouTube id, and the three published lists"""

from collections.abc import Sequence
from pathlib import Path

from tests.miniature.media import write_clip

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
CATEGORIES = ("Bark", "Church bell", "Frying (food)")


def video(label: int, number: int) -> str:
    return f"-{label}ave_id{number:04d}"


def write(
    root: Path, *, without: Sequence[str] = (), header: bool = False, more: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write 3 training, 1 validation and 1 test video of each category. `more`: (split, line) to add to the lists."""
    lists: dict[str, list[str]] = {split: [HEADER] if header else [] for split in ("train", "val", "test")}
    for label, category in enumerate(CATEGORIES):
        for number, split in enumerate(("train", "train", "train", "val", "test")):
            name = video(label, number)
            lists[split].append(f"{category}&{name}&good&{number}&10")
            if name not in without:
                write_clip(root / "AVE" / f"{name}.mp4", label, number)
    for split, line in more:
        lists[split].append(line)
    for split, lines in lists.items():
        (root / f"{split}Set.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "Annotations.txt").write_text(
        "\n".join([HEADER, *(line for lines in lists.values() for line in lines)]) + "\n"
    )
    return root
