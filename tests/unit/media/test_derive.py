import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from remix_study.datasets.corpus import open_corpus, prepare_corpus
from remix_study.errors import StoreError
from remix_study.files.disk import exclusive_lock
from remix_study.media.derive import derive_store
from remix_study.media.presets import PRESETS
from remix_study.media.store import ClipStore
from remix_study.sample import SampleId


@pytest.fixture(scope="module")
def base(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Return a store of sixteen clips, four of each class."""
    return prepare_corpus(
        corpus / "manifest.jsonl", tmp_path_factory.mktemp("base"), preset=PRESETS["tiny"], name="base",
        decoder="pyav", workers=2, shard_bytes=4000, card={"licence": "none", "split": "as rendered"},
    )  # fmt: skip


def fold(store: ClipStore, test: int) -> dict[SampleId, str]:
    """In each class, clip number `fold` is for testing, and the next one for validation."""
    splits: dict[SampleId, str] = {}
    seen: dict[int, int] = {}
    for clip, label in zip(store.ids, store.labels_N.tolist(), strict=True):
        number = seen[label] = seen.get(label, -1) + 1
        splits[clip] = {0: "test", 1: "val"}.get((number - test) % 4, "train")
    return splits


def test_a_derived_store_has_the_same_rows_under_other_splits(base: ClipStore, tmp_path: Path) -> None:
    splits = fold(base, 1)
    derived = derive_store(base, tmp_path / "fold-1", splits, card={"fold": "1 of 4"})
    assert list(derived.ids) == list(base.ids)
    assert {split: [derived.ids[row] for row in derived.rows(split)] for split in derived.splits} == {
        split: [clip for clip in base.ids if splits[clip] == split] for split in ("train", "val", "test")
    }
    for m in base.modalities:
        np.testing.assert_array_equal(derived.gather(m, np.arange(16)), base.gather(m, np.arange(16)))
    pixels = derived.gather("video", derived.rows("train")) / 255
    assert derived.statistics["video"] == pytest.approx((pixels.mean(), pixels.std()))
    assert derived.statistics["video"] != base.statistics["video"]
    assert derived.digest != base.digest
    assert derived.base == base.digest
    assert base.base is None
    assert derived.card["clips_by_split"] == {"train": 8, "val": 4, "test": 4}
    assert (derived.card["licence"], derived.card["fold"], derived.card["digest"]) == ("none", "1 of 4", derived.digest)
    assert "fold" not in base.card


def test_arrays_are_linked_and_the_store_verifies(base: ClipStore, tmp_path: Path) -> None:
    derived = derive_store(base, tmp_path, fold(base, 0))
    assert open_corpus(tmp_path, verify=True).digest == derived.digest
    arrays = sorted(path.name for path in base.path.glob("*.npy"))
    assert len(arrays) > 4, "several shards of each modality"
    assert all((base.path / name).samefile(derived.path / name) for name in arrays)
    assert json.loads((derived.path / "card.json").read_text()) == derived.card


def test_arrays_are_copied_if_hard_links_fail(base: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    derived = derive_store(base, tmp_path, fold(base, 0))
    assert not (base.path / "video-00000.npy").samefile(derived.path / "video-00000.npy")
    assert ClipStore.open(derived.path, verify=True).digest == derived.digest


def test_a_store_with_the_same_splits_is_kept_and_with_others_replaced(base: ClipStore, tmp_path: Path) -> None:
    first = derive_store(base, tmp_path, fold(base, 0))
    made = (first.path / "manifest.json").stat().st_ino
    assert derive_store(base, tmp_path, fold(base, 0)).digest == first.digest
    assert (first.path / "manifest.json").stat().st_ino == made
    other = derive_store(base, tmp_path, fold(base, 2))
    assert open_corpus(tmp_path).digest == other.digest != first.digest


def test_a_decoded_store_is_never_replaced_by_a_derived_one(corpus: Path, base: ClipStore, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path / "store")
    with pytest.raises(StoreError, match="holds a decoded store, which is never replaced"):
        derive_store(base, tmp_path, fold(base, 0))
    assert ClipStore.open(tmp_path, verify=True).digest == base.digest


def test_leftovers_of_a_killed_derivation_are_removed(base: ClipStore, tmp_path: Path) -> None:
    (tmp_path / "store.fresh").mkdir()
    (tmp_path / "store.fresh" / "index.jsonl").write_text("{")
    (tmp_path / "store.old").mkdir()
    derived = derive_store(base, tmp_path, fold(base, 0))
    assert open_corpus(tmp_path, verify=True).digest == derived.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.lock", "store"]


def test_invalid_splits_raise(base: ClipStore, tmp_path: Path) -> None:
    splits = fold(base, 0)
    some = {clip: split for clip, split in splits.items() if split != "val"}
    with pytest.raises(StoreError, match="but 4 have none"):
        derive_store(base, tmp_path, some)
    with pytest.raises(StoreError, match="must be one of train, val, test, but is 'dev'"):
        derive_store(base, tmp_path, {clip: "dev" if split == "val" else split for clip, split in splits.items()})
    first = base.ids[0]
    lost = {**splits, **{clip: "train" for clip, split in splits.items() if split == "test" and clip != first}}
    with pytest.raises(StoreError, match=r"no clip of class '.*' in split 'test'; class"):
        derive_store(base, tmp_path, lost)
    assert not (tmp_path / "store").exists()


def test_a_second_derivation_of_the_same_store_raises(base: ClipStore, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / ".store.lock"),
        pytest.raises(StoreError, match=f"process {os.getpid()} is using the folder"),
    ):
        derive_store(base, tmp_path, fold(base, 0))
