"""Another store of the same rows: other splits, nothing decoded again

Array files are linked, not copied; index, statistics of the training split, card and fingerprint are the new store's.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remix_study.errors import StoreError
from remix_study.files.disk import sole_writer, storage_errors
from remix_study.media.card import SPLITS
from remix_study.media.plan import canonical_json
from remix_study.media.publish import Content, fresh_folder, link_or_copy, replace_folder, seal
from remix_study.media.store import ClipStore
from remix_study.sample import SampleId


def derive_store(
    store: ClipStore, out: Path, splits: Mapping[SampleId, str], *, card: Mapping[str, Any] | None = None
) -> ClipStore:
    """`out`/store with the rows of `store`, each in the split that `splits` says; kept where it is there already.

    `card` adds facts, or says them otherwise than `store`'s card. A store of other splits that was derived to `out`
    before is replaced.

    Raises:
        StoreError: a row has no split, a class is not in every split, `out` holds a store that was decoded (and is
            not to be lost), or `out` cannot be written.
    """
    _require_splits(store, splits)
    _require_classes(store, splits, out)
    said = canonical_json({"base": store.digest, "splits": [splits[clip] for clip in store.ids]})
    fingerprint = hashlib.sha256(said.encode()).hexdigest()
    folder = out / "store"
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out / ".store.lock"):
            if (kept := _kept(folder, fingerprint)) is not None:
                return kept
            _write(store, folder, splits, fingerprint, card or {})
    return ClipStore.open(folder)


def _kept(folder: Path, fingerprint: str) -> ClipStore | None:
    if not folder.exists():
        return None
    there = ClipStore.open(folder)
    if there.digest == fingerprint:
        return there
    if there.base is None:
        raise StoreError(
            f"{folder} must be free for a store of other splits, but holds one that was decoded. Choose another folder."
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
    seal(
        fresh,
        Content(
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
        raise StoreError(f"every clip must have a split, but {len(missing)} have none, {missing[0]} first.")
    unknown = sorted({splits[clip] for clip in store.ids} - set(SPLITS))
    if unknown:
        raise StoreError(f"a split must be one of {', '.join(SPLITS)}, but is {unknown[0]!r}.")


def _require_classes(store: ClipStore, splits: Mapping[SampleId, str], out: Path) -> None:
    there = {(splits[clip], int(label)) for clip, label in zip(store.ids, store.labels_N, strict=True)}
    lost = [
        f"class {label!r} in split {split!r}"
        for split in sorted({split for split, _ in there})
        for number, label in enumerate(store.classes)
        if (split, number) not in there
    ]
    if lost:
        raise StoreError(
            f"every class must be in every split of {out}, but there is no clip of {'; '.join(lost[:5])}. Use fewer "
            "folds, or leave the class out."
        )
