"""Derived stores: the rows of a store under other splits, without decoding again

Array files are linked, not copied. The new store has its own index, training statistics, card and fingerprint.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remix_study.errors import DamagedStoreError, StoreError
from remix_study.files.disk import exclusive_lock, storage_errors
from remix_study.media.card import SPLITS
from remix_study.media.plan import canonical_json
from remix_study.media.publish import (
    StoreContent,
    fresh_folder,
    link_or_copy,
    replace_folder,
    require_no_link,
    write_metadata,
)
from remix_study.media.store import ClipStore
from remix_study.sample import SampleId


def derive_store(
    store: ClipStore, out: Path, splits: Mapping[SampleId, str], *, card: Mapping[str, Any] | None = None
) -> ClipStore:
    """Derive a store with other splits in `out`/store. An existing store with the same splits is returned unchanged.

    A store with other splits that was derived to `out` before is replaced.

    Args:
        splits: the split of every row, by id.
        card: facts that are added to, or replace those of, the card of `store`.

    Raises:
        StoreError: a row has no split, a class is not in every split, `out` holds a decoded store (which is never
            replaced), or `out` cannot be written.
    """
    _require_splits(store, splits)
    _require_classes(store, splits, out)
    identity = canonical_json({"base": store.digest, "splits": [splits[clip] for clip in store.ids]})
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    folder = out / "store"
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / ".store.lock"):
            if (existing := _existing(folder, fingerprint)) is not None:
                return existing
            require_no_link(folder)
            _write(store, folder, splits, fingerprint, card or {})
    return ClipStore.open(folder)


def _existing(folder: Path, fingerprint: str) -> ClipStore | None:
    """The store in `folder` if it has this fingerprint; None if it is missing or may be replaced."""
    if not folder.exists():
        return None
    existing = ClipStore.open(folder)
    if existing.digest == fingerprint:
        try:
            existing.require_intact()
        except DamagedStoreError:
            return None
        return existing
    if existing.base is None:
        raise StoreError(
            f"Cannot derive a store in {folder}: it holds a decoded store, which is never replaced. Choose another "
            "folder."
        )
    return None


def _write(
    store: ClipStore, folder: Path, splits: Mapping[SampleId, str], fingerprint: str, facts: Mapping[str, Any]
) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text(encoding="utf-8"))
    arrays = {name: known for name, known in manifest["files"].items() if name.endswith(".npy")}
    fresh = fresh_folder(folder)
    for name in arrays:
        link_or_copy(store.path / name, fresh / name)
    write_metadata(
        fresh,
        StoreContent(
            name=store.name,
            fingerprint=fingerprint,
            manifest_digest=manifest["manifest_digest"],
            decoder=manifest["decoder"],
            preset=store.preset,
            per_shard=manifest["per_shard"],
            rows=len(store),
            index=({**row, "split": splits[row["id"]]} for row in _lines(store.path / "index.jsonl")),
            quarantine=list(_lines(store.path / "quarantine.jsonl")),
            facts={**store.card, **facts},
            base=store.digest,
        ),
        known=arrays,
    )
    replace_folder(fresh, folder)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _require_splits(store: ClipStore, splits: Mapping[SampleId, str]) -> None:
    missing = [clip for clip in store.ids if clip not in splits]
    if missing:
        raise StoreError(f"Every clip must have a split, but {len(missing)} have none, such as {missing[0]}.")
    unknown = sorted({splits[clip] for clip in store.ids} - set(SPLITS))
    if unknown:
        raise StoreError(f"A split must be one of {', '.join(SPLITS)}, but is {unknown[0]!r}.")


def _require_classes(store: ClipStore, splits: Mapping[SampleId, str], out: Path) -> None:
    present = {(splits[clip], int(label)) for clip, label in zip(store.ids, store.labels_N, strict=True)}
    missing = [
        f"class {label!r} in split {split!r}"
        for split in sorted({split for split, _ in present})
        for number, label in enumerate(store.classes)
        if (split, number) not in present
    ]
    if missing:
        raise StoreError(
            f"Every class must be in every split of {out}, but there is no clip of {'; '.join(missing[:5])}. Use fewer "
            "folds, or exclude the class."
        )
