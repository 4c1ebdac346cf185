"""A miniature of CMU-MOSEI: the layouts of its feature files with missing values, and predictable sentiments"""

import csv
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTS = {"train": 56, "valid": 28, "test": 28}
STEPS = {"audio": 7, "vision": 6, "text": 5}
WIDTHS = {"audio": 4, "vision": 3, "text": 6}
_PER_VIDEO = 4


@dataclass(frozen=True)
class Part:
    """One split: ids, sentiments (N,), arrays (N, T, D) padded with zeros, and true lengths (N,)."""

    ids: list[str]
    sentiments: NDArray[np.float64]
    arrays: dict[str, NDArray[np.float64]]
    lengths: dict[str, NDArray[np.int64]]


def parts(seed: int = 0) -> dict[str, Part]:
    draw = np.random.default_rng(seed)
    made: dict[str, Part] = {}
    for split, count in COUNTS.items():
        # All seven classes; not integers, because the real ones are means of three raters.
        sentiments = (np.arange(count) % 7 - 3) + draw.choice([-1 / 3, 0.0, 1 / 3], count)
        sentiments = np.where(np.arange(count) % 7 == 3, 0.0, np.clip(sentiments, -3, 3))
        arrays, lengths = {}, {}
        for m, steps in STEPS.items():
            values = draw.standard_normal((count, steps, WIDTHS[m]))
            values[..., 0] += 1.5 * sentiments[:, None]
            long = draw.integers(2, steps + 1, count)
            values[np.arange(steps) >= long[:, None]] = 0.0
            arrays[m], lengths[m] = values, long
        arrays["audio"][::5, 1, 2] = -np.inf  # logarithm of silence
        arrays["vision"][1] = 0.0  # no face was found
        ids = [f"{split}-video{i // _PER_VIDEO:02d}$_${i % _PER_VIDEO}" for i in range(count)]
        made[split] = Part(ids, sentiments, arrays, lengths)
    return made


def content(*, aligned: bool = False, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return the content of MMSA's files. Only the unaligned ones have lengths of audio and vision."""
    whole: dict[str, dict[str, Any]] = {}
    for split, part in parts(seed).items():
        mask = np.arange(STEPS["text"]) < part.lengths["text"][:, None]
        tokens = np.stack([np.where(mask, 101, 0), mask, np.zeros_like(mask)], axis=1).astype(np.float32)
        whole[split] = {
            **part.arrays,
            "text_bert": tokens,
            "raw_text": np.array([f"what {clip} says" for clip in part.ids], dtype=object),
            "id": part.ids,
            "regression_labels": part.sentiments,
            "classification_labels": (np.sign(part.sentiments) + 1).astype(np.int64),
            "annotations": ["Negative" if label < 0 else "Positive" for label in part.sentiments],
        }
        if not aligned:
            whole[split] |= {f"{m}_lengths": part.lengths[m].tolist() for m in ("audio", "vision")}
    return whole


def write_pickle(
    path: Path, *, aligned: bool = False, protocol: int = 4, change: Callable[[Any], None] | None = None
) -> Path:
    """Write a pickle of the content, after applying `change` to it."""
    made = content(aligned=aligned)
    if change is not None:
        change(made)
    path.write_bytes(pickle.dumps(made, protocol=protocol))
    return path


def write_splits(root: Path) -> Path:
    """Write train/audio.npy and the like, and labels.csv."""
    for split, part in parts().items():
        (root / split).mkdir(parents=True)
        for m in STEPS:
            np.save(root / split / f"{m}.npy", part.arrays[m])
    return _labels(root)


def write_clips(root: Path) -> Path:
    """Write audio/ID.npy and the like, of different lengths, and labels.csv with a column for the group."""
    for m in STEPS:
        (root / m).mkdir(parents=True)
    for part in parts().values():
        for i, clip in enumerate(part.ids):
            for m in STEPS:
                np.save(root / m / f"{clip}.npy", part.arrays[m][i, : part.lengths[m][i]].astype(np.float32))
    return _labels(root, group=True)


def _labels(root: Path, *, group: bool = False) -> Path:
    with (root / "labels.csv").open("w", encoding="utf-8-sig", newline="") as file:  # with a BOM, as Excel writes it
        writer = csv.writer(file)
        writer.writerow(["id", "label", "split", *(["group"] * group)])
        for split, part in parts().items():
            for clip, label in zip(part.ids, part.sentiments, strict=True):
                writer.writerow([clip, label, split, *([f"by {clip.split('$_$')[0]}"] * group)])
    return root
