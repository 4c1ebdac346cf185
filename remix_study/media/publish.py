"""From finished rows to a published store: compact, measure, seal, rename

    store/<modality>.npy      the good rows, in manifest order
    store/index.jsonl         one line per row
    store/quarantine.jsonl    one line per clip that was left out, with the reason
    store/manifest.json       written last: sizes and checksums of all others, classes, statistics, fingerprint

The folder appears under its name at once and whole, by rename.
"""

# N rows

import collections
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.media.decoders import decoder_version
from remix_study.media.disk import checksum, sync_folder, write_whole
from remix_study.media.partial import Partial, RowStatus, npy_header
from remix_study.media.plan import SCHEMA, Plan, canonical_json, describe
from remix_study.modality import VIDEO

_BLOCK = 256  # rows read at a time


def quarantine_lines(plan: Plan, bad: Sequence[RowStatus]) -> list[str]:
    return [
        canonical_json(
            {
                **{key: value for key, value in describe(plan.clips[status["row"]]).items() if key != "truth"},
                "paths": {m: plan.clips[status["row"]].paths[m] for m in plan.preset.modalities},
                "stage": status["stage"],
                "message": status["message"],
            }
        )
        for status in bad
    ]


def check_quarantine(plan: Plan, bad: Sequence[RowStatus], max_bad_fraction: float, report: Path) -> None:
    """
    Raises:
        StoreError: too many clips are bad, or a class has lost all its clips of a split.
    """
    if not bad:
        return
    write_whole(report, "".join(f"{line}\n" for line in quarantine_lines(plan, bad)))
    reasons = collections.Counter(str(status["stage"]) for status in bad)
    counted = ", ".join(f"{count} {stage}" for stage, count in sorted(reasons.items()))
    if len(bad) > max_bad_fraction * len(plan.clips):
        raise StoreError(
            f"at most {max_bad_fraction:.1%} of the clips may be unusable, but {len(bad)} of {len(plan.clips)} are "
            f"({counted}); {report} names each. Mend or remove them, or allow more (`--max-bad`)."
        )
    gone = {status["row"] for status in bad}
    left = {(clip.split, clip.label) for row, clip in enumerate(plan.clips) if row not in gone}
    lost = sorted({(clip.split, clip.label) for clip in plan.clips} - left)
    if lost:
        which = "; ".join(f"class {label!r} in split {split!r}" for split, label in lost)
        raise StoreError(
            f"every class must keep clips in every split, but all are unusable of {which} ({counted}); "
            f"{report} names each. Mend them, or remove the class from the manifest."
        )


def publish(
    plan: Plan, partial: Partial, folder: Path, *, name: str, manifest_digest: str, card: dict[str, Any]
) -> None:
    """Write `folder` from the partial build; an older store there is replaced. The partial build is removed."""
    fresh = folder.with_name(f"{folder.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    statuses = [partial.statuses[row] for row in range(len(plan.clips))]
    rows_N = np.array([status["row"] for status in statuses if status["stage"] is None], dtype=np.int64)
    bad = [status for status in statuses if status["stage"] is not None]
    for modality in plan.preset.modalities:
        _compact(plan, partial, modality, rows_N, fresh / f"{modality}.npy")
    index = [canonical_json({**describe(plan.clips[row]), "meta": statuses[row]["meta"]}) for row in rows_N.tolist()]
    write_whole(fresh / "index.jsonl", "".join(f"{line}\n" for line in index))
    write_whole(fresh / "quarantine.jsonl", "".join(f"{line}\n" for line in quarantine_lines(plan, bad)))
    train_N = np.array([plan.clips[row].split == "train" for row in rows_N.tolist()], dtype=np.bool_)
    counts = collections.Counter((plan.clips[row].split, plan.clips[row].label) for row in rows_N.tolist())
    classes = sorted({label for _, label in counts})
    splits = [split for split in ("train", "val", "test") if any(split == seen for seen, _ in counts)]
    by_split = {split: {label: counts[split, label] for label in classes} for split in splits}
    whole = {
        "schema": SCHEMA,
        "name": name,
        "fingerprint": plan.fingerprint,
        "manifest_digest": manifest_digest,
        "decoder": decoder_version(plan.decoder),
        "preset": dataclasses.asdict(plan.preset),
        "modalities": list(plan.preset.modalities),
        "rows": len(rows_N),
        "classes": classes,
        "splits": splits,
        "statistics": {
            m: list(_mean_and_std(np.load(fresh / f"{m}.npy", mmap_mode="r"), train_N, m))
            for m in plan.preset.modalities
        },
        "card": {
            **card,
            "name": name,
            "preset": plan.preset.name,
            "decoder": decoder_version(plan.decoder),
            "clips": len(rows_N),
            "clips_by_split": {split: sum(of_class.values()) for split, of_class in by_split.items()},
            "clips_by_split_and_class": by_split,
            "quarantined": len(bad),
            "quarantined_by_reason": dict(sorted(collections.Counter(str(s["stage"]) for s in bad).items())),
        },
        "files": {path.name: checksum(path) for path in sorted(fresh.iterdir())},
    }
    write_whole(fresh / "manifest.json", json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    _swap(fresh, folder)
    partial.close()
    shutil.rmtree(partial.folder)


def _compact(plan: Plan, partial: Partial, modality: str, rows_N: NDArray[np.int64], target: Path) -> None:
    source = partial.files[modality].path
    if len(rows_N) == len(plan.clips):
        try:
            os.link(source, target)  # the same bytes under a second name; the first one goes with the partial build
        except OSError:  # a file system without links
            shutil.copyfile(source, target)
        return
    rows = np.load(source, mmap_mode="r")
    with target.open("wb") as file:
        file.write(npy_header(plan.preset, modality, len(rows_N)))
        for first in range(0, len(rows_N), _BLOCK):
            file.write(rows[rows_N[first : first + _BLOCK]].tobytes())
        file.flush()
        os.fsync(file.fileno())


def _mean_and_std(rows: NDArray[Any], chosen_N: NDArray[np.bool_], modality: str) -> tuple[float, float]:
    """Of all values of the chosen rows (of all rows if none is chosen); video as pixels / 255."""
    chosen = np.flatnonzero(chosen_N) if chosen_N.any() else np.arange(len(rows))
    if modality == VIDEO:  # 256 possible values: count them, and the result is exact
        histogram = np.zeros(256, np.int64)
        for first in range(0, len(chosen), _BLOCK):
            histogram += np.bincount(rows[chosen[first : first + _BLOCK]].reshape(-1), minlength=256)
        values, weights = np.arange(256) / 255, histogram / histogram.sum()
        mean = float(values @ weights)
        return mean, float(np.sqrt((values - mean) ** 2 @ weights)) or 1.0
    count, mean, squares = 0, 0.0, 0.0
    for first in range(0, len(chosen), _BLOCK):  # Chan's update: exact enough whatever the mean
        block = rows[chosen[first : first + _BLOCK]].astype(np.float64)
        shift = float(block.mean()) - mean
        total = count + block.size
        squares += float(((block - block.mean()) ** 2).sum()) + shift**2 * count * block.size / total
        mean, count = mean + shift * block.size / total, total
    return mean, float(np.sqrt(squares / count)) or 1.0


def _swap(fresh: Path, folder: Path) -> None:
    sync_folder(fresh)
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
