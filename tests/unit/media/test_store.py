import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from remix_study.datasets.corpus import open_corpus, prepare_corpus
from remix_study.errors import StoreError
from remix_study.media.presets import PRESETS, Preset, VideoPreset
from remix_study.media.store import ClipStore


@pytest.fixture
def store(corpus: Path, tmp_path: Path) -> ClipStore:
    return prepare_corpus(
        corpus / "manifest.jsonl", tmp_path, preset=PRESETS["tiny"], name="test", decoder="pyav", workers=2
    )


def test_gather_keeps_the_given_order_and_repetitions(store: ClipStore) -> None:
    rows = np.array([7, 0, 7, 15, 3])
    got = store.gather("video", rows)
    assert got.dtype == np.uint8
    assert got.shape == (5, 1, 16, 16, 3)
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(got[position], store.gather("video", np.array([row]))[0])
    audio = store.gather("audio", rows)
    assert audio.dtype == np.float16
    assert audio.shape == (5, 32, 32)
    got[:] = 0  # a copy, so that the store does not change
    assert store.gather("video", rows).any()


def test_gather_selects_frames_per_row(corpus: Path, tmp_path: Path) -> None:
    preset = Preset("three", {"video": VideoPreset(frames=3, height=8, width=8, resize="area")})
    store = prepare_corpus(
        corpus / "manifest.jsonl", tmp_path, preset=preset, name="test", decoder="pyav", workers=2, shard_bytes=2000
    )
    rows_n, frames_nT = np.array([9, 0, 9]), np.array([[2, 0], [1, 1], [0, 2]])
    whole = store.gather("video", rows_n)
    picked = store.gather("video", rows_n, frames_nT)
    assert picked.shape == (3, 2, 8, 8, 3)
    np.testing.assert_array_equal(picked, whole[np.arange(3)[:, None], frames_nT])


def test_a_replaced_array_file_raises(store: ClipStore) -> None:
    size = (store.path / "video-00000.npy").stat().st_size
    (store.path / "video-00000.npy").write_bytes(bytes(size))
    with pytest.raises(StoreError, match=r"is damaged: its video arrays cannot be read .*Build it again"):
        store.gather("video", np.array([0]))


def test_a_store_of_an_older_schema_raises(store: ClipStore) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps({**manifest, "schema": 1}))
    with pytest.raises(StoreError, match=r"has schema 1, but this version needs 2\. Build it again .*--replace"):
        ClipStore.open(store.path)


def test_a_pickled_store_opens_its_own_maps(store: ClipStore) -> None:
    before = store.gather("audio", np.arange(4))
    pickled = pickle.dumps(store)
    assert len(pickled) < 20_000
    again: ClipStore = pickle.loads(pickled)
    np.testing.assert_array_equal(again.gather("audio", np.arange(4)), before)


def test_a_store_opens_by_its_own_folder_and_by_the_corpus_folder(store: ClipStore) -> None:
    assert ClipStore.open(store.path).digest == ClipStore.open(store.path.parent, verify=True).digest
    assert store.splits == ("train", "val", "test")
    assert sorted(np.concatenate([store.rows(split) for split in store.splits]).tolist()) == list(range(16))


def test_folders_without_a_finished_store_raise(tmp_path: Path, store: ClipStore) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        open_corpus(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no clip store found"):
        open_corpus(tmp_path / "empty")
    with pytest.raises(StoreError, match="must be one of train, val, test"):
        store.rows("trian")
    with pytest.raises(StoreError, match="has audio and video, but not 'text'"):
        store.gather("text", np.array([0]))


@pytest.mark.parametrize("name", ["video-00000.npy", "audio-00000.npy", "index.jsonl", "quarantine.jsonl"])
def test_a_missing_file_or_one_of_another_size_raises(store: ClipStore, name: str) -> None:
    with (store.path / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(StoreError, match="must have"):
        ClipStore.open(store.path)
    (store.path / name).unlink()
    with pytest.raises(StoreError, match="is missing"):
        ClipStore.open(store.path)


def test_verify_detects_a_changed_byte(store: ClipStore) -> None:
    with (store.path / "video-00000.npy").open("r+b") as file:
        file.seek(-10, 2)
        byte = file.read(1)
        file.seek(-10, 2)
        file.write(bytes([byte[0] ^ 1]))
    ClipStore.open(store.path)
    with pytest.raises(StoreError, match=r"damaged: video-00000\.npy \(its checksum has changed\)"):
        ClipStore.open(store.path, verify=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 99}'])
def test_a_damaged_manifest_raises(store: ClipStore, text: str) -> None:
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"damaged|schema 99"):
        ClipStore.open(store.path)
