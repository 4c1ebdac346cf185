import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remix_study.datasets.corpus import prepare_corpus
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.errors import StoreError
from remix_study.media import disk
from remix_study.media.disk import sole_writer
from remix_study.media.presets import PRESETS
from remix_study.media.store import ClipStore


def build(manifest: Path, out: Path, **options: Any) -> ClipStore:
    settings: dict[str, Any] = {"decoder": "pyav", "workers": 2, "chunk": 2, "name": "test"} | options
    return prepare_corpus(manifest, out, preset=PRESETS["tiny"], **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "copy"))


def damage(clip: Path, how: str) -> None:
    whole = clip.read_bytes()
    match how:
        case "missing":
            clip.unlink()
        case "empty":
            clip.write_bytes(b"")
        case "lfs-pointer":
            clip.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        case "open":
            clip.write_bytes(whole[: len(whole) // 2])  # without its index at the end


def test_a_store_holds_every_clip_in_manifest_order_and_says_what_it_is(corpus: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = build(
        corpus / "manifest.jsonl", tmp_path, card={"licence": "none"}, progress=lambda *counts: seen.append(counts)
    )
    clips = read_manifest(corpus / "manifest.jsonl")
    assert list(store.ids) == [clip.id for clip in clips]
    assert [store.classes[label] for label in store.labels_N] == [clip.label for clip in clips]
    assert [dict(truth) for truth in store.truth] == [dict(clip.truth) for clip in clips]
    assert store.card["licence"] == "none"
    assert store.card["clips_by_split"] == {"train": 8, "val": 4, "test": 4}
    assert seen[0] == (0, 16)
    assert seen[-1] == (16, 16)
    train = store.gather("video", store.rows("train")).astype(np.float64) / 255
    assert store.statistics["video"] == pytest.approx((train.mean(), train.std()))
    heard = store.gather("audio", store.rows("train")).astype(np.float64)
    assert store.statistics["audio"] == pytest.approx((heard.mean(), heard.std()))
    assert not (tmp_path / "store.partial").exists()


def test_the_same_store_is_kept_and_another_is_replaced_only_on_request(corpus: Path, tmp_path: Path) -> None:
    first = build(corpus / "manifest.jsonl", tmp_path)
    made = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    assert build(corpus / "manifest.jsonl", tmp_path).digest == first.digest
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(StoreError, match=r"other content or settings.*replace"):
        build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant())
    replaced = build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant(), replace=True)
    assert replaced.digest != first.digest
    assert not (tmp_path / "store.old").exists()


def _tolerant() -> Any:
    from remix_study.media.checks import Checks

    return Checks(tolerance_s=0.5)


def test_a_copied_corpus_has_the_same_fingerprint_and_bytes(corpus: Path, copy: Path, tmp_path: Path) -> None:
    for clip in copy.rglob("*.mp4"):
        os.utime(clip, (1, 1))
    build(corpus / "manifest.jsonl", tmp_path / "a")
    build(copy / "manifest.jsonl", tmp_path / "b", workers=1, chunk=5)
    assert contents(tmp_path / "a" / "store") == contents(tmp_path / "b" / "store")


KILLED = """
import os, signal, sys
from pathlib import Path
from remix_study.datasets.corpus import prepare_corpus
from remix_study.media.presets import PRESETS

def die(done, total):
    if done >= 9:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare_corpus(Path(sys.argv[1]), Path(sys.argv[2]), preset=PRESETS["tiny"], name="test", decoder="pyav",
                   workers=2, chunk=2, max_bad_fraction=0.2, progress=die)
"""


def test_a_killed_build_goes_on_where_it_was_and_ends_in_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    damage(copy / "clips/train/train-00002.mp4", "empty")  # so that rows are compacted, too
    undisturbed = build(copy / "manifest.jsonl", tmp_path / "undisturbed", max_bad_fraction=0.2)
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    ended = subprocess.run([sys.executable, str(script), str(copy / "manifest.jsonl"), str(tmp_path / "killed")])
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="not finished"):
        ClipStore.open(tmp_path / "killed")
    seen: list[int] = []
    resumed = build(
        copy / "manifest.jsonl", tmp_path / "killed", max_bad_fraction=0.2, progress=lambda done, _: seen.append(done)
    )
    assert seen[0] >= 8  # a journal line for each chunk of two
    assert resumed.digest == undisturbed.digest
    assert contents(resumed.path) == contents(undisturbed.path)


@pytest.mark.parametrize("how", ["missing", "empty", "lfs-pointer", "open"])
def test_an_unusable_clip_is_quarantined_with_its_reason(copy: Path, how: str) -> None:
    damage(copy / "clips/train/train-00001.mp4", how)
    store = build(copy / "manifest.jsonl", copy, max_bad_fraction=0.1)
    (line,) = (store.path / "quarantine.jsonl").read_text().splitlines()
    left_out = json.loads(line)
    assert (left_out["id"], left_out["stage"]) == ("train-00001", how)
    assert store.card["quarantined_by_reason"] == {how: 1}
    assert len(store) == 15
    assert "train-00001" not in store.ids
    whole = build(copy / "manifest.jsonl", copy / "again", max_bad_fraction=0.1)
    assert contents(whole.path) == contents(store.path)


def test_rows_after_a_quarantined_one_keep_their_own_arrays(corpus: Path, copy: Path, tmp_path: Path) -> None:
    damage(copy / "clips/train/train-00001.mp4", "open")
    all_of_them = build(corpus / "manifest.jsonl", tmp_path / "all")
    fewer = build(copy / "manifest.jsonl", tmp_path / "fewer", max_bad_fraction=0.1)
    rows = np.array([row for row, clip in enumerate(all_of_them.ids) if clip in set(fewer.ids)])
    for modality in ("audio", "video"):
        np.testing.assert_array_equal(fewer.gather(modality, np.arange(len(fewer))), all_of_them.gather(modality, rows))


def test_too_many_unusable_clips_fail_with_counts_and_report(copy: Path) -> None:
    damage(copy / "clips/train/train-00001.mp4", "empty")
    damage(copy / "clips/train/train-00002.mp4", "missing")
    with pytest.raises(StoreError, match=r"2 of 16 are \(1 empty, 1 missing\)") as caught:
        build(copy / "manifest.jsonl", copy)
    report = copy / "store.partial" / "quarantine.jsonl"
    assert str(report) in str(caught.value)
    assert len(report.read_text().splitlines()) == 2
    seen: list[int] = []
    build(copy / "manifest.jsonl", copy, max_bad_fraction=0.2, progress=lambda done, _: seen.append(done))
    assert seen == [16]  # nothing is decoded twice


def test_a_class_that_loses_all_its_clips_of_a_split_is_an_error(copy: Path) -> None:
    damage(copy / "clips/val/val-00003.mp4", "empty")
    with pytest.raises(StoreError, match="class 'tone-and-grating-03' in split 'val'"):
        build(copy / "manifest.jsonl", copy, max_bad_fraction=0.5)


def test_two_builds_of_one_store_do_not_meet(corpus: Path, tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / ".store.lock"),
        pytest.raises(StoreError, match=f"process {os.getpid()} does"),
    ):
        build(corpus / "manifest.jsonl", tmp_path)
    assert len(build(corpus / "manifest.jsonl", tmp_path)) == 16


def test_too_little_space_is_said_before_any_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"but 0\.00 GB are free"):
        build(corpus / "manifest.jsonl", tmp_path)


def test_a_disk_that_fills_up_is_one_sentence_and_work_is_kept(corpus: Path, tmp_path: Path) -> None:
    def full(done: int, _: int) -> None:
        if done == 8:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"is full\. What is done is kept"):
        build(corpus / "manifest.jsonl", tmp_path, progress=full)
    seen: list[int] = []
    build(corpus / "manifest.jsonl", tmp_path, progress=lambda done, _: seen.append(done))
    assert seen[0] == 8


def test_a_folder_that_cannot_be_written_is_one_sentence(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="must be a folder that can be written"):
        build(corpus / "manifest.jsonl", tmp_path / "file")


def test_start_and_end_are_honoured(corpus: Path, tmp_path: Path) -> None:
    import dataclasses

    clips = read_manifest(corpus / "manifest.jsonl")
    manifest = corpus / "halves.jsonl"
    write_manifest(manifest, [dataclasses.replace(clip, start=0.5, end=1.0) for clip in clips])
    halves = build(manifest, tmp_path)
    index = [json.loads(line) for line in (halves.path / "index.jsonl").read_text().splitlines()]
    assert {row["meta"]["frames"] for row in index} == {4}
    assert {row["meta"]["audio_s"] for row in index} == {0.5}
    silence = halves.gather("audio", np.arange(len(halves)))[:, :, -8:].astype(np.float32)
    assert (silence <= np.log(1e-6) + 0.01).all()  # half a second of zeros was filled in


def test_a_store_says_when_its_manifest_has_changed(copy: Path) -> None:
    store = build(copy / "manifest.jsonl", copy)
    store.matches(copy / "manifest.jsonl")
    rows = (copy / "manifest.jsonl").read_text().splitlines()
    (copy / "manifest.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(StoreError, match="has changed since"):
        store.matches(copy / "manifest.jsonl")


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write_whole(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
