"""A store that is damaged, a link, or of another corpus: kept or replaced, with the reason and the remedy"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remix_study.datasets.corpus import prepare_corpus
from remix_study.errors import DamagedStoreError, StoreError
from remix_study.media.checks import Checks
from remix_study.media.derive import derive_store
from remix_study.media.presets import PRESETS, with_channel
from remix_study.media.store import ClipStore

Build = Callable[..., ClipStore]


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with its store."""
    folder = shutil.copytree(corpus, tmp_path_factory.mktemp("built") / "corpus")
    prepare_corpus(folder / "manifest.jsonl", preset=PRESETS["tiny"], name="test", workers=1)
    return folder


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """The folder of a corpus with its store, which a test may change."""
    return shutil.copytree(built, tmp_path / "corpus")


@pytest.fixture
def build(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    monkeypatch.setenv("REMIX_STUDY_CACHE", str(tmp_path / "cache"))

    def make(**options: Any) -> ClipStore:
        settings: dict[str, Any] = {"preset": PRESETS["tiny"], "name": "test", "workers": 1}
        return prepare_corpus(own / "manifest.jsonl", **settings | options)

    return make


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_a_damaged_store_is_not_taken_for_a_finished_one_and_replaced_on_request(build: Build) -> None:
    store = build()
    flip(store.path / "video-00000.npy")
    with pytest.raises(DamagedStoreError, match=r"video-00000\.npy .*--replace"):
        build()
    ClipStore.open(build(replace=True).path, verify=True)


def test_a_damaged_store_of_a_fold_is_derived_again(build: Build, tmp_path: Path) -> None:
    store = build()
    splits = {id_: split for split in store.splits for id_ in (store.ids[row] for row in store.rows(split))}
    fold = derive_store(store, tmp_path / "fold-0", splits)
    flip(fold.path / "audio-00000.npy")  # a hard link to the file of the store
    derive_store(build(replace=True), tmp_path / "fold-0", splits)
    ClipStore.open(fold.path, verify=True)


@pytest.mark.parametrize("exists", [True, False])
def test_a_store_that_is_a_link_is_refused_before_any_clip_is_decoded(
    build: Build, own: Path, tmp_path: Path, exists: bool
) -> None:
    target = tmp_path / "elsewhere"
    shutil.move(own / "store", target)
    if not exists:
        shutil.rmtree(target)
    (own / "store").symlink_to(target)
    decoded: list[int] = []
    with pytest.raises(StoreError, match=r"corpus/store: it is a symbolic link to .*elsewhere, .* Remove the link"):
        build(replace=True, checks=Checks(tolerance_s=0.5), progress=lambda done, total: decoded.append(done))
    assert decoded == []
    assert target.exists() == exists
    if exists:  # an unchanged store behind a link is as good as another
        assert build(replace=True).path == own / "store"


def test_what_lies_at_the_place_of_the_older_store_does_not_stop_a_replacement(build: Build, own: Path) -> None:
    (own / "store.old").symlink_to(own / "clips")
    (own / "store.fresh").write_text("x")
    build(replace=True, checks=Checks(tolerance_s=0.5))
    assert (own / "clips").is_dir()
    assert not os.path.lexists(own / "store.old")


def rename_class(own: Path) -> None:
    path = own / "manifest.jsonl"
    path.write_text(path.read_text().replace('"label": "', '"label": "a '))


def touch_clip(own: Path) -> None:
    with next((own / "clips").rglob("*.mp4")).open("ab") as file:
        file.write(b"x")


def forget_decoding(own: Path) -> None:
    """Make the store one of version 0.1, which had other arrays, another fingerprint and no settings."""
    path = own / "store/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"], manifest["sha256"]
    path.write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (None, {"preset": PRESETS["ogm"]}, r"preset \(tiny there, ogm wanted\)\."),
        (None, {"checks": Checks(tolerance_s=0.5)}, r"checks \(tolerance_s\)\."),
        (None, {"preset": with_channel(PRESETS["tiny"], "left")}, r"preset \(parts\.audio\.channel\)\."),
        (forget_decoding, {}, r"the version of this program, which decodes differently\."),
        (rename_class, {}, r"clips \(16 with another class, split or group\)\."),
        (touch_clip, {}, r"the files of the clips, or their `start` and `end`\."),
    ],
    ids=["preset", "checks", "channel", "version", "classes", "files"],
)
def test_a_conflict_says_what_differs(
    build: Build, own: Path, change: Callable[[Path], None] | None, options: dict[str, Any], words: str
) -> None:
    if change is not None:
        change(own)
    with pytest.raises(StoreError, match=rf"it holds a store that differs in {words} .* \(`--replace`\)"):
        build(**options)


def test_a_conflict_counts_clips_that_were_added_or_left_out(build: Build, own: Path) -> None:
    path = own / "manifest.jsonl"
    lines = path.read_text().splitlines()
    renamed = [line.replace('"id": "', '"id": "new ') if number < 2 else line for number, line in enumerate(lines)]
    path.write_text("\n".join(renamed) + "\n")
    with pytest.raises(StoreError, match=r"clips \(2 missing there, 2 only there\)"):
        build()
