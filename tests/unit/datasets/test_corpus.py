"""Preparing the stores of a corpus"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from remix_study.datasets.corpus import open_corpus, prepare, stores_of
from remix_study.datasets.cremad import Cremad
from remix_study.datasets.manifest import read_manifest
from remix_study.datasets.table import Table
from remix_study.errors import ManifestError, StoreError
from remix_study.media.presets import preset_named
from remix_study.media.remote_store import upload_store
from remix_study.media.source import source_at
from tests.miniature import cremad
from tests.miniature.media import write_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cremad.write(tmp_path_factory.mktemp("cremad"), actors=5, emotions=("ANG", "SAD"))


def actors(root: Path, *, seed: int = 0, preset: str = "tiny") -> Cremad:
    return Cremad(source_at(root), preset=preset_named(preset), seed=seed)


def test_a_failed_preparation_keeps_the_existing_store_and_manifest(clips: Path, tmp_path: Path) -> None:
    store = prepare(actors(clips), tmp_path, workers=1)
    manifest = (tmp_path / "manifest.jsonl").read_bytes()
    others = next(seed for seed in range(1, 50) if actors(clips, seed=seed).find().clips != actors(clips).find().clips)
    with pytest.raises(
        StoreError,
        match=r"it holds a store that differs in clips \(\d+ with another class, split or group\).*--replace",
    ):
        prepare(actors(clips, seed=others), tmp_path, workers=1)
    assert (tmp_path / "manifest.jsonl").read_bytes() == manifest
    assert open_corpus(tmp_path).digest == store.digest
    replaced = prepare(actors(clips, seed=others), tmp_path, workers=1, replace=True)
    assert open_corpus(tmp_path).digest == replaced.digest != store.digest


def test_folds_are_stores_of_the_same_rows(clips: Path, tmp_path: Path) -> None:
    corpus = Cremad(source_at(clips), split="folds", folds=3, preset=preset_named("tiny"))
    store = prepare(corpus, tmp_path, workers=1)
    tested: set[str | None] = set()
    for fold in range(3):
        of_fold = open_corpus(tmp_path / f"fold-{fold}")
        assert of_fold.ids == store.ids
        assert (of_fold.path / "video-00000.npy").stat().st_ino == (store.path / "video-00000.npy").stat().st_ino
        actors_in = {split: {of_fold.groups[row] for row in of_fold.rows(split)} for split in of_fold.splits}
        assert not actors_in["train"] & actors_in["test"]
        assert not tested & actors_in["test"]
        tested |= actors_in["test"]
    assert tested == set(store.groups)


def test_folds_and_absent_clips_of_an_earlier_preparation_are_removed(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locally and at the URL. The files of a user in the folder of a fold stay."""
    monkeypatch.setenv("REMIX_STUDY_CACHE", str(tmp_path / "cache"))
    out, url = tmp_path / "out", "memory://folds-corpus"
    try:
        for folds in (5, 3):
            corpus = Cremad(source_at(clips), split="folds", folds=folds, preset=preset_named("tiny"))
            found = corpus.find()
            absent = {"1099_DFA_ANG_XX": "anger"} if folds == 5 else {}
            prepare(corpus, out, found=dataclasses.replace(found, absent=absent), workers=1, replace=True)
            if folds == 5:
                (out / "fold-4" / "notes.txt").write_text("mine")
            upload_store(out, url)
        left = sorted(path.name for path in out.glob("fold-*"))
        assert left == ["fold-0", "fold-1", "fold-2", "fold-4"]
        assert [path.name for path in (out / "fold-4").iterdir()] == ["notes.txt"]
        assert len(stores_of(out)) == 4
        there = source_at(url).list()
        assert {path.split("/")[0] for path in there} == {"fold-0", "fold-1", "fold-2", "manifest.jsonl", "store"}
    finally:
        fsspec.filesystem("memory").rm("/folds-corpus", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ["path,label,split"]
    for label, name in enumerate(("dog", "cat")):
        for split in ("train", "val", "test"):
            write_clip(tmp_path / f"{name}-{split}.mp4", label, len(rows))
            rows.append(f"{name}-{split}.mp4,{name},{split}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def table(folder: Path) -> Callable[[], Table]:
    return lambda: Table(source_at(folder), "clips.csv", preset_named("tiny"))


def test_a_manifest_of_the_corpus_owner_is_not_overwritten(folder: Path, table: Callable[[], Table]) -> None:
    (folder / "manifest.jsonl").write_text("mine\n")
    with pytest.raises(ManifestError):
        prepare(table(), folder, workers=1)
    assert (folder / "manifest.jsonl").read_text() == "mine\n"


def test_a_store_next_to_its_table_follows_changes_of_the_table(folder: Path, table: Callable[[], Table]) -> None:
    prepare(table(), folder, workers=1)
    write_clip(folder / "more.mp4", 0, 99)
    with (folder / "clips.csv").open("a") as file:
        file.write("more.mp4,dog,train\n")
    prepare(table(), folder, workers=1, replace=True)
    assert len(read_manifest(folder / "manifest.jsonl")) == 7
    assert len(open_corpus(folder)) == 7
