import concurrent.futures
import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from remix_study.datasets.corpus import prepare_corpus
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.errors import StoreError
from remix_study.files import disk
from remix_study.files.disk import exclusive_lock
from remix_study.media.decoders import _upright
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
            clip.write_bytes(whole[: len(whole) // 2])  # without the index at its end


def test_a_store_holds_every_clip_in_manifest_order_with_card_and_statistics(corpus: Path, tmp_path: Path) -> None:
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


def test_an_identical_store_is_kept_and_another_one_is_replaced_only_on_request(corpus: Path, tmp_path: Path) -> None:
    first = build(corpus / "manifest.jsonl", tmp_path)
    made = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    assert build(corpus / "manifest.jsonl", tmp_path).digest == first.digest
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(StoreError, match=r"differs in checks \(tolerance_s\).*replace"):
        build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant())
    replaced = build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant(), replace=True)
    assert replaced.digest != first.digest
    assert not (tmp_path / "store.old").exists()


def _tolerant() -> Any:
    from remix_study.media.checks import Checks

    return Checks(tolerance_s=0.5)


def test_clips_that_took_too_long_are_decoded_again_on_request(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine may have been busy. A store without them is another one than the store with them."""

    def too_slow(work: Any, rows: Sequence[int], *, on_result: Any, on_lost: Any, **_: Any) -> None:
        on_lost(rows[0], "timeout")
        for row in rows[1:]:
            on_result(row, work(row))

    short = build(corpus / "manifest.jsonl", tmp_path, run=too_slow, max_bad_fraction=0.5)
    again = build(corpus / "manifest.jsonl", tmp_path)
    assert (again.digest, len(again)) == (short.digest, len(short))
    assert "lacks 1 clip whose decoding took too long" in caplog.text
    whole = build(corpus / "manifest.jsonl", tmp_path, replace=True)
    assert len(whole) == len(short) + 1
    assert whole.digest != short.digest
    caplog.clear()
    assert build(corpus / "manifest.jsonl", tmp_path, replace=True).digest == whole.digest
    assert caplog.text == ""


def test_a_copied_corpus_has_the_same_fingerprint_and_bytes(corpus: Path, copy: Path, tmp_path: Path) -> None:
    for clip in copy.rglob("*.mp4"):
        os.utime(clip, (1, 1))
    build(corpus / "manifest.jsonl", tmp_path / "a")
    build(copy / "manifest.jsonl", tmp_path / "b", workers=1, chunk=5)
    assert contents(tmp_path / "a" / "store") == contents(tmp_path / "b" / "store")


SHARD_BYTES = 4000  # one row of audio, five of video
KILLED = """
import os, signal, sys
from pathlib import Path
from remix_study.datasets.corpus import prepare_corpus
from remix_study.media.presets import PRESETS

last = int(sys.argv[3])

def tell(done, total):
    print(done, flush=True)
    if done >= last:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare_corpus(Path(sys.argv[1]), Path(sys.argv[2]), preset=PRESETS["tiny"], name="test", decoder="pyav",
                   workers=2, chunk=2, max_bad_fraction=0.2, progress=tell, shard_bytes=4000)
"""


@pytest.mark.slow
def test_a_killed_build_resumes_and_produces_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    damage(copy / "clips/train/train-00002.mp4", "empty")  # so that rows are compacted, too
    sharded: dict[str, Any] = {"max_bad_fraction": 0.2, "shard_bytes": SHARD_BYTES}
    undisturbed = build(copy / "manifest.jsonl", tmp_path / "undisturbed", **sharded)
    assert len(list(undisturbed.path.glob("video-*.npy"))) == 3
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = [str(copy / "manifest.jsonl"), str(tmp_path / "killed"), "9"]
    ended = subprocess.run([sys.executable, str(script), *arguments], stdout=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="not finished"):
        ClipStore.open(tmp_path / "killed")
    seen: list[int] = []
    resumed = build(copy / "manifest.jsonl", tmp_path / "killed", progress=lambda done, _: seen.append(done), **sharded)
    assert seen[0] >= 8  # a journal line for each chunk of two
    assert resumed.digest == undisturbed.digest
    assert contents(resumed.path) == contents(undisturbed.path)


@pytest.mark.slow
def test_a_build_killed_repeatedly_at_random_moments_produces_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    """The test kills the build some time after a number of progress lines, including while it publishes the store."""
    damage(copy / "clips/train/train-00002.mp4", "empty")
    sharded: dict[str, Any] = {"max_bad_fraction": 0.2, "shard_bytes": SHARD_BYTES}
    undisturbed = build(copy / "manifest.jsonl", tmp_path / "undisturbed", **sharded)
    (script := tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(script), str(copy / "manifest.jsonl"), str(tmp_path / "killed"), "99"]
    draw = random.Random(0)
    for lines in (1, 2, 4, 1, 3, 99):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for number, _ in enumerate(process.stdout, 1):
                if number >= lines:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, 0.05))
            process.kill()
    resumed = build(copy / "manifest.jsonl", tmp_path / "killed", **sharded)
    assert contents(resumed.path) == contents(undisturbed.path)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [".store.lock", "store"]


def here(work: Any, jobs: Any, *, on_result: Any, on_lost: Any, **_: Any) -> None:
    """Run jobs as on a cluster: only pickled work and results are exchanged, in another order."""
    work = pickle.loads(pickle.dumps(work))
    for job in sorted(jobs, key=lambda job: -job):
        on_result(job, pickle.loads(pickle.dumps(work(job))))


def test_workers_without_a_shared_disk_produce_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    damage(copy / "clips/train/train-00002.mp4", "empty")
    sharded: dict[str, Any] = {"max_bad_fraction": 0.2, "shard_bytes": SHARD_BYTES}
    ours = build(copy / "manifest.jsonl", tmp_path / "ours", **sharded)
    theirs = build(copy / "manifest.jsonl", tmp_path / "theirs", run=here, **sharded)
    assert contents(theirs.path) == contents(ours.path)


def test_shards_before_the_first_unusable_clip_are_linked_not_copied(
    corpus: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(copy / "clips/train/train-00006.mp4", "empty")
    linked: list[str] = []
    link = os.link

    def spy(source: Path, target: Path) -> None:
        linked.append(target.name)
        link(source, target)

    monkeypatch.setattr(os, "link", spy)
    build(copy / "manifest.jsonl", tmp_path / "some", max_bad_fraction=0.2, shard_bytes=SHARD_BYTES)
    assert linked == [*(f"audio-{number:05}.npy" for number in range(6)), "video-00000.npy"]
    linked.clear()
    store = build(corpus / "manifest.jsonl", tmp_path / "all", shard_bytes=SHARD_BYTES)
    assert linked == sorted(path.name for path in store.path.glob("*.npy"))


def test_a_store_of_several_shards_reads_like_one_of_a_single_shard(corpus: Path, tmp_path: Path) -> None:
    whole = build(corpus / "manifest.jsonl", tmp_path / "one")
    sharded = build(corpus / "manifest.jsonl", tmp_path / "many", shard_bytes=SHARD_BYTES)
    assert sharded.digest == whole.digest
    rows = np.random.default_rng(0).permutation(16)
    for modality in whole.modalities:
        np.testing.assert_array_equal(sharded.gather(modality, rows), whole.gather(modality, rows))
        assert sharded.statistics[modality] == whole.statistics[modality]
    zeros_nT = np.zeros((16, 2), np.int64)
    np.testing.assert_array_equal(sharded.gather("video", rows, zeros_nT), whole.gather("video", rows)[:, [0, 0]])


def test_the_card_is_written_next_to_the_arrays_as_json_and_markdown(corpus: Path, tmp_path: Path) -> None:
    store = build(corpus / "manifest.jsonl", tmp_path, card={"corpus": "Tones", "citation": "Nobody (2020)"})
    assert json.loads((store.path / "card.json").read_text()) == store.card
    assert store.card["digest"] == store.digest
    page = (store.path / "card.md").read_text()
    assert page.startswith("# Tones\n")
    assert "Nobody (2020)" in page
    assert store.digest in page


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


def test_too_many_unusable_clips_raise_with_counts_and_write_a_report(copy: Path) -> None:
    damage(copy / "clips/train/train-00001.mp4", "empty")
    damage(copy / "clips/train/train-00002.mp4", "missing")
    with pytest.raises(StoreError, match=r"2 of 16 \(1 empty, 1 missing\)") as caught:
        build(copy / "manifest.jsonl", copy)
    report = copy / "store.partial" / "quarantine.jsonl"
    assert str(report) in str(caught.value)
    assert len(report.read_text().splitlines()) == 2
    seen: list[int] = []
    build(copy / "manifest.jsonl", copy, max_bad_fraction=0.2, progress=lambda done, _: seen.append(done))
    assert seen == [16], "no clip must be decoded twice"


def test_a_class_without_usable_clips_in_a_split_raises(copy: Path) -> None:
    damage(copy / "clips/val/val-00003.mp4", "empty")
    with pytest.raises(StoreError, match="class 'tone-and-grating-03' in split 'val'"):
        build(copy / "manifest.jsonl", copy, max_bad_fraction=0.5)


def test_wait_waits_for_another_build(corpus: Path, tmp_path: Path) -> None:
    first = build(corpus / "manifest.jsonl", tmp_path)
    reading: list[int] = []
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as held:
        held.enter_context(exclusive_lock(tmp_path / ".store.lock"))
        waiting = pool.submit(
            build, corpus / "manifest.jsonl", tmp_path, wait=True, reading=lambda done, _: reading.append(done)
        )
        with pytest.raises(concurrent.futures.TimeoutError):
            waiting.result(timeout=0.2)
        assert not reading, "the build must wait before it reads any file"
        held.close()
        assert waiting.result().digest == first.digest


def test_a_second_build_of_the_same_store_raises(corpus: Path, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / ".store.lock"),
        pytest.raises(StoreError, match=f"process {os.getpid()} is using the folder"),
    ):
        build(corpus / "manifest.jsonl", tmp_path)
    assert len(build(corpus / "manifest.jsonl", tmp_path)) == 16


def test_too_little_disk_space_raises_before_any_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"but 0\.00 GB are free"):
        build(corpus / "manifest.jsonl", tmp_path)


def test_a_disk_that_fills_up_raises_and_keeps_finished_work(corpus: Path, tmp_path: Path) -> None:
    def full(done: int, _: int) -> None:
        if done == 8:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"is full\. Finished work is kept"):
        build(corpus / "manifest.jsonl", tmp_path, progress=full)
    seen: list[int] = []
    build(corpus / "manifest.jsonl", tmp_path, progress=lambda done, _: seen.append(done))
    assert seen[0] == 8


def test_a_folder_that_cannot_be_written_raises(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Choose a folder in which you can create files"):
        build(corpus / "manifest.jsonl", tmp_path / "file")


def test_start_and_end_select_part_of_a_clip(corpus: Path, tmp_path: Path) -> None:
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


def test_a_changed_manifest_raises(copy: Path) -> None:
    store = build(copy / "manifest.jsonl", copy)
    store.require_manifest(copy / "manifest.jsonl")
    rows = (copy / "manifest.jsonl").read_text().splitlines()
    (copy / "manifest.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(StoreError, match="has changed since"):
        store.require_manifest(copy / "manifest.jsonl")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write_atomically(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_decoding_starts_no_threads(corpus: Path) -> None:
    """Each core already runs a worker process, but FFmpeg would start a dozen threads to convert a frame to RGB."""
    path = next(corpus.rglob("*.mp4"))
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        frames = list(file.decode(video=0))
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    pixels = [_upright(frame) for frame in frames]  # threads would live as long as their frame
    assert len(list(tasks.iterdir())) <= before
    assert len(pixels) == 8


def test_an_unfinished_build_with_other_settings_is_kept(corpus: Path, tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus / "manifest.jsonl", tmp_path, progress=stop)
    with pytest.raises(
        StoreError, match=r"unfinished build with other settings \(checks\), of which \d+ clips are done"
    ):
        build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant())
    seen: list[int] = []
    build(corpus / "manifest.jsonl", tmp_path, progress=lambda done, _: seen.append(done))
    assert seen[0] >= 4
    assert len(build(corpus / "manifest.jsonl", tmp_path, checks=_tolerant(), replace=True)) == 16
