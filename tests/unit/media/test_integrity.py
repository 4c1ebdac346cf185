"""A damaged store is never trained on: every change of a file is found, and each file is read once per machine"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import open_corpus, verify_store
from remix_study.errors import DamagedStoreError, NotANumberError, StoreError
from remix_study.media import integrity
from remix_study.media.integrity import examine, find_damage, recall
from remix_study.media.presets import AudioPreset, FeaturePreset
from remix_study.media.store import ClipStore, manifest_checksum
from remix_study.training import loop, steps
from remix_study.training.evaluate import evaluate
from remix_study.training.loop import train
from remix_study.training.run import Run
from tests.examples import examples

FILES = [
    "audio-00000.npy", "video-00000.npy", "index.jsonl", "quarantine.jsonl", "card.json", "card.md", "manifest.json",
]  # fmt: skip


@pytest.fixture
def corpus(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small corpus, whose files are old enough to be remembered, and an empty memory."""
    monkeypatch.setenv("REMIX_STUDY_CACHE", str(tmp_path / "cache"))
    copied = tmp_path / "corpus"
    shutil.copytree(small_corpus / "store", copied / "store")
    for path in (copied / "store").iterdir():
        os.utime(path, (1e9, 1e9))
    return copied


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, in any order."""
    names: list[str] = []

    def counted(path: Path, *more: Any) -> integrity.Content:
        names.append(path.name)
        return examine(path, *more)

    monkeypatch.setattr(integrity, "examine", counted)
    return names


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every store as large."""
    monkeypatch.setattr("remix_study.media.store.SMALL_BYTES", -1)
    monkeypatch.setattr("remix_study.datasets.corpus.SMALL_BYTES", -1)


def flip(path: Path, offset: int = -50) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[offset % len(content)] ^= 0x40
    else:
        content += b"\n"
    path.write_bytes(content)


def reseal(store: Path, **changes: Any) -> None:
    """Write the manifest with changed keys and a correct checksum."""
    manifest = json.loads((store / "manifest.json").read_text()) | changes
    manifest["sha256"] = manifest_checksum(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest))


def relist(store: Path, name: str) -> None:
    """Let the manifest list a file as it is."""
    files = json.loads((store / "manifest.json").read_text())["files"]
    content = (store / name).read_bytes()
    reseal(store, files=files | {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}})


def spoil(store: Path, value: float) -> None:
    """Put a value into row 5 of the spectrograms, as if the store had been built with it."""
    rows = np.load(store / "audio-00000.npy", mmap_mode="r+")
    rows[5, 1, 2] = value
    rows.flush()
    relist(store, "audio-00000.npy")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_refused_with_its_name(corpus: Path, name: str) -> None:
    open_corpus(corpus)
    flip(corpus / "store" / name)
    with pytest.raises(DamagedStoreError, match=rf"store is damaged: .*{name}|cannot be read"):
        open_corpus(corpus)


def test_every_damaged_file_is_named_with_the_remedy(corpus: Path) -> None:
    flip(corpus / "store" / "audio-00000.npy")
    flip(corpus / "store" / "video-00000.npy")
    with pytest.raises(DamagedStoreError) as caught:
        open_corpus(corpus)
    assert str(caught.value) == (
        f"The store {corpus / 'store'} is damaged: audio-00000.npy (its checksum has changed), video-00000.npy (its "
        "checksum has changed). Build it again with `remix-study prepare`, and with `--replace` if it asks for that."
    )


def test_a_file_is_read_once_until_it_changes(corpus: Path, examined: list[str]) -> None:
    listed = sorted(set(FILES) - {"manifest.json"})
    open_corpus(corpus)
    assert sorted(examined) == listed
    examined.clear()
    open_corpus(corpus)
    ClipStore.open(corpus).begin_check().require_intact()
    assert examined == []
    os.utime(corpus / "store" / "audio-00000.npy", (2e9, 2e9))
    os.utime(corpus / "store" / "card.md", (1.5e9, 1.5e9))
    open_corpus(corpus)
    assert sorted(examined) == ["audio-00000.npy", "card.md"]
    examined.clear()
    open_corpus(corpus, verify=True)
    assert sorted(examined) == listed


def test_a_file_that_may_change_without_a_new_time_is_not_remembered(corpus: Path) -> None:
    path = corpus / "store" / "card.md"
    examine(path)
    assert recall(path) is not None
    path.write_bytes(path.read_bytes())
    examine(path)
    assert recall(path) is None


def test_a_cache_that_cannot_be_written_costs_only_time(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIX_STUDY_CACHE", "/dev/null")
    open_corpus(corpus)
    flip(corpus / "store" / "audio-00000.npy")
    with pytest.raises(DamagedStoreError, match="audio-00000"):
        open_corpus(corpus)


def test_threads_that_check_one_store_share_the_work(corpus: Path, examined: list[str]) -> None:
    store = ClipStore.open(corpus)
    threads = [threading.Thread(target=store.require_intact) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(examined) == sorted(set(FILES) - {"manifest.json"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_shard_and_row(corpus: Path, value: float) -> None:
    spoil(corpus / "store", value)
    with pytest.raises(DamagedStoreError, match=r"audio-00000\.npy \(its values must be finite, but .* row 5 are not"):
        open_corpus(corpus)


SPECTROGRAM = AudioPreset(8000, 1.0, "tile", 256, 128, 1.0, 0.0, "reflect")


@examples(40)
@given(
    st.sampled_from([np.float16, np.float32]), st.integers(1, 30), st.integers(1, 9), st.integers(1, 64),
    st.sampled_from([np.nan, np.inf, -np.inf, None]), st.data(),
)  # fmt: skip
def test_the_first_row_that_is_not_finite_is_found_wherever_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, dtype: type, rows: int, width: int, chunk: int, value: float | None,
    data: st.DataObject,
) -> None:  # fmt: skip
    folder = tmp_path_factory.getbasetemp()
    array: NDArray[Any] = np.linspace(-60000, 60000, rows * width).reshape(rows, width).astype(dtype)
    row = data.draw(st.integers(0, rows - 1))
    if value is not None:
        array[row, data.draw(st.integers(0, width - 1))] = value
    path = folder / "audio-00000.npy"
    np.save(path, array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "_CHUNK_BYTES", chunk)
        found = examine(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.nan_row == (row if value is not None and np.isnan(value) else None)
    assert found.infinite_row == (row if value is not None and np.isinf(value) else None)


def test_nan_is_a_missing_value_in_features_only(tmp_path: Path) -> None:
    array = np.zeros((3, 4), np.float32)
    array[1, 1] = np.nan
    np.save(tmp_path / "text-00000.npy", array)
    content = (tmp_path / "text-00000.npy").read_bytes()
    files = {"text-00000.npy": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    assert find_damage(tmp_path, files, {"text": FeaturePreset("vector", (4,))}) == []
    assert find_damage(tmp_path, files, {"text": FeaturePreset("sequence", (2, 2))}) == []
    for other in (FeaturePreset("image", (2, 2)), SPECTROGRAM):
        assert "row 1" in find_damage(tmp_path, files, {"text": other})[0].what


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "a/b.npy", "..", ".", "", "a\0b", "..\\secret"])
def test_a_manifest_entry_that_points_outside_the_store_is_refused(corpus: Path, name: str) -> None:
    store = corpus / "store"
    files = json.loads((store / "manifest.json").read_text())["files"]
    reseal(store, files=files | {name: files["card.md"]})
    with pytest.raises(DamagedStoreError, match="which is not the name of a file in the store"):
        open_corpus(corpus)


@pytest.mark.parametrize("name", ["audio-00000.npy", "index.jsonl"])
def test_a_file_without_a_checksum_is_refused(corpus: Path, name: str) -> None:
    store = corpus / "store"
    files = json.loads((store / "manifest.json").read_text())["files"]
    del files[name]
    reseal(store, files=files)
    with pytest.raises(DamagedStoreError, match=f"manifest.json does not list {name}"):
        open_corpus(corpus)


def test_a_manifest_of_an_impossible_size_is_refused_at_once(corpus: Path) -> None:
    reseal(corpus / "store", rows=10**15)
    with pytest.raises(DamagedStoreError, match="does not list audio-"):
        open_corpus(corpus)


def test_a_manifest_without_a_checksum_of_its_own_is_accepted(corpus: Path) -> None:
    path = corpus / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    open_corpus(corpus)


@pytest.mark.usefixtures("large")
def test_a_large_store_is_not_read_before_training_but_known_damage_is_refused(
    corpus: Path, examined: list[str]
) -> None:
    flip(corpus / "store" / "audio-00000.npy")
    os.utime(corpus / "store" / "audio-00000.npy", (1e9, 1e9))
    store = open_corpus(corpus)
    assert examined == []
    check = store.begin_check()
    with pytest.raises(DamagedStoreError, match="audio-00000"):
        check.require_intact()
    examined.clear()
    with pytest.raises(DamagedStoreError, match="audio-00000"):
        open_corpus(corpus)
    assert examined == []


@pytest.fixture
def run_on(tmp_path: Path, recipe: Callable[..., RunConfig]) -> Callable[[ClipStore], Run]:
    import torch

    from remix_study.assemble import assemble
    from remix_study.tracking.tracker import NullTracker
    from remix_study.world import Solo

    def make(store: ClipStore) -> Run:
        (tmp_path / "run").mkdir(exist_ok=True)
        changes = {"method": {"name": "joint"}, "epochs": 1}
        return assemble(recipe(changes), store, Solo(), torch.device("cpu"), NullTracker(), tmp_path / "run")

    return make


@pytest.mark.usefixtures("large")
def test_no_result_of_a_damaged_large_store_is_recorded(
    corpus: Path, run_on: Callable[[ClipStore], Run], tmp_path: Path
) -> None:
    store = open_corpus(corpus)
    flip(corpus / "store" / "video-00000.npy")
    with pytest.raises(DamagedStoreError, match="video-00000"):
        train(run_on(store))
    assert (tmp_path / "run" / "history.jsonl").read_text() == ""
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("checked", [True, False])
def test_a_loss_that_is_not_a_number_is_explained_by_damage_if_there_is_any(
    corpus: Path, run_on: Callable[[ClipStore], Run], damaged: bool, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damaged:
        spoil(corpus / "store", np.nan)
    else:
        monkeypatch.setattr(steps, "train_step", _diverge)
    with pytest.raises(DamagedStoreError if damaged else NotANumberError, match="row 5" if damaged else "diverged"):
        train(run_on(open_corpus(corpus)), checked=checked)


def _diverge(*_: Any, **__: Any) -> None:
    raise NotANumberError("diverged")


@pytest.mark.usefixtures("large")
def test_an_epoch_is_not_recorded_before_all_files_are_compared(
    corpus: Path, run_on: Callable[[ClipStore], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(open_corpus(corpus))
    evaluated, events = threading.Event(), []
    save = loop._save

    def reading(*given: Any, **more: Any) -> list[Any]:
        evaluated.wait(30)
        events.append("read")
        return find_damage(*given, **more)

    def evaluating(*given: Any, **more: Any) -> Any:
        evaluated.set()
        return evaluate(*given, **more)

    def saving(*given: Any) -> None:
        events.append("saved")
        save(*given)

    monkeypatch.setattr("remix_study.media.store.find_damage", _after_the_first(find_damage, reading))
    monkeypatch.setattr(loop, "evaluate", evaluating)
    monkeypatch.setattr(loop, "_save", saving)
    train(run)
    assert events == ["read", "saved"]


def _after_the_first(first: Callable[..., Any], others: Callable[..., Any]) -> Callable[..., Any]:
    functions: Iterator[Callable[..., Any]] = iter([first])

    def call(*given: Any, **more: Any) -> Any:
        return next(functions, others)(*given, **more)

    return call


def test_verify_names_every_damaged_file_whatever_is_remembered(corpus: Path) -> None:
    store = corpus / "store"
    assert verify_store(store).damages == ()
    times = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    for name in ("audio-00000.npy", "video-00000.npy"):
        flip(store / name)
        os.utime(store / name, ns=(times[store / name],) * 2)
    (store / "card.md").unlink()
    assert {each.file: each.what for each in verify_store(store).damages} == {
        "audio-00000.npy": "its checksum has changed",
        "video-00000.npy": "its checksum has changed",
        "card.md": "it is missing",
    }
    with pytest.raises(StoreError, match=r"card\.md is missing"):
        open_corpus(corpus)


def test_progress_counts_all_megabytes(corpus: Path) -> None:
    reported: list[tuple[int, int]] = []
    ClipStore.open(corpus).require_intact(progress=lambda done, total: reported.append((done, total)))
    assert reported[-1][0] == reported[-1][1] >= 1
