"""Another store of the same rows: other splits, nothing decoded again

Array files are linked, not copied; index, statistics of the training split, card and fingerprint are the new store's.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remix_study.errors import StoreError
from remix_study.media.disk import sole_writer, storage_errors
from remix_study.media.plan import canonical_json
from remix_study.media.publish import Content, fresh_folder, link_or_copy, replace_folder, seal
from remix_study.media.store import ClipStore
from remix_study.sample import SampleId


def derive_store(
    store: ClipStore, out: Path, splits: Mapping[SampleId, str], *, card: Mapping[str, Any] | None = None
) -> ClipStore:
    """`out`/store with the rows of `store`, each in the split that `splits` says; kept where it is there already.

    Raises:
        StoreError: a row has no split, a class is not in every split, or `out` cannot be written.
    """
    index = [json.loads(line) for line in (store.path / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    missing = [row["id"] for row in index if row["id"] not in splits]
    if missing:
        raise StoreError(f"every clip must have a split, but {len(missing)} have none, {missing[0]} first.")
    index = [{**row, "split": splits[row["id"]]} for row in index]
    _require_classes(index, out)
    said = canonical_json({"base": store.digest, "splits": [row["split"] for row in index], "card": dict(card or {})})
    fingerprint = hashlib.sha256(said.encode()).hexdigest()
    folder = out / "store"
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out / ".store.lock"):
            if folder.exists() and (kept := ClipStore.open(folder)).digest == fingerprint:
                return kept
            manifest = json.loads((store.path / "manifest.json").read_text(encoding="utf-8"))
            fresh = fresh_folder(folder)
            arrays = {name: known for name, known in manifest["files"].items() if name.endswith(".npy")}
            for name in arrays:
                link_or_copy(store.path / name, fresh / name)
            quarantine = (store.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
            seal(
                fresh,
                Content(
                    name=store.name,
                    fingerprint=fingerprint,
                    manifest_digest=manifest["manifest_digest"],
                    decoder=manifest["decoder"],
                    preset=store.preset,
                    per_shard=manifest["per_shard"],
                    index=index,
                    quarantine=[json.loads(line) for line in quarantine],
                    facts={**store.card, **(card or {})},
                ),
                known=arrays,
            )
            replace_folder(fresh, folder)
    return ClipStore.open(folder)


def _require_classes(index: list[dict[str, Any]], out: Path) -> None:
    there = {(row["split"], row["label"]) for row in index}
    splits, classes = sorted({split for split, _ in there}), sorted({label for _, label in there})
    lost = [
        f"class {label!r} in split {split!r}" for split in splits for label in classes if (split, label) not in there
    ]
    if lost:
        raise StoreError(
            f"every class must be in every split of {out}, but there is no clip of {'; '.join(lost[:5])}. Use fewer "
            "folds, or leave the class out."
        )
