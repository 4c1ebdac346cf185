import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remix_study.errors import StoreError
from remix_study.media.checks import Checks
from remix_study.media.partial import Partial, RowStatus
from remix_study.media.plan import Plan
from remix_study.media.presets import FeaturePreset, Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId

PART = FeaturePreset("vector", (4,))


def plan(clips: int = 10, text: str = "text") -> Plan:
    listed = tuple(Clip(SampleId(f"{n}"), {text: f"{n}.npy"}, "a", "train") for n in range(clips))
    sources: dict[str, tuple[int, str] | None] = {
        f"{n}.npy": (n, hashlib.sha256(b"%d" % n).hexdigest()) for n in range(clips)
    }
    return Plan(listed, source_at("."), Preset("vectors", {text: PART}), "pyav", Checks(), sources)


def partial(folder: Path, of: Plan | None = None) -> Partial:
    return Partial(folder / "store.partial", of or plan(), shard_bytes=48)  # three rows


def finish(build: Partial, rows: range | list[int], stage: str | None = None) -> None:
    for row in rows:
        if stage is None:
            build.writers["text"].write(row, np.full(4, row, np.float32))
        build.record(RowStatus(row=row, stage=stage, message="", meta={"frames": row}))


def test_a_build_resumes_after_the_last_complete_line(tmp_path: Path) -> None:
    first = partial(tmp_path)
    finish(first, range(4))
    finish(first, [4], "silent")
    first.flush()
    first.close()
    journal = tmp_path / "store.partial" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"row": 5, "sta')
    again = partial(tmp_path)
    assert [row for row in range(10) if row in again] == [0, 1, 2, 3, 4]
    assert len(again) == 5
    finish(again, [9, 5])
    again.flush()
    assert [again.status(row)["meta"] for row in (0, 5, 9)] == [{"frames": 0}, {"frames": 5}, {"frames": 9}]
    assert [status["row"] for status in again.bad] == [4]
    assert again.good_n.tolist() == [0, 1, 2, 3, 5, 9]
    np.testing.assert_array_equal(again.reader("text").gather(again.good_n)[:, 0], again.good_n)
    assert len(partial(tmp_path)) == 7
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("garbage", [b"\0\0\0\n", b"[]\n", b'{"row": 99, "stage": null}\n', b"{}\n"])
def test_rows_after_a_damaged_line_are_decoded_again(tmp_path: Path, garbage: bytes) -> None:
    first = partial(tmp_path)
    finish(first, range(2))
    first.flush()
    with (tmp_path / "store.partial" / "journal.jsonl").open("ab") as file:
        file.write(garbage)
    again = partial(tmp_path)
    finish(again, [2])
    again.flush()
    assert [row for row in range(10) if row in partial(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("stage", ["timeout", "died", "memory"])
def test_failures_that_the_machine_may_have_caused_are_retried(tmp_path: Path, stage: str) -> None:
    first = partial(tmp_path)
    finish(first, [0], stage)
    first.flush()
    again = partial(tmp_path)
    assert 0 not in again
    finish(again, [0])
    again.flush()
    third = partial(tmp_path)
    assert third.good_n.tolist() == [0]
    assert not third.bad


def test_a_worker_that_outlives_its_build_cannot_write_into_the_next_one(tmp_path: Path) -> None:
    orphan = partial(tmp_path).writers["text"]
    same = partial(tmp_path)
    orphan.write(0, np.full(4, 7, np.float32))  # the build resumes, and would write the same values
    assert same.reader("text").gather(np.array([0])).tolist() == [[7, 7, 7, 7]]
    other = partial(tmp_path, plan(clips=11))
    with pytest.raises(FileNotFoundError):
        orphan.write(0, np.full(4, 7, np.float32))
    assert other.reader("text").gather(np.array([0])).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("lost", ["plan.json", "shard"])
def test_a_build_with_missing_files_restarts(tmp_path: Path, lost: str) -> None:
    first = partial(tmp_path)
    finish(first, range(10))
    first.flush()
    (first.folder / lost if lost != "shard" else first.rows_folder / "text-00001.npy").unlink()
    assert len(partial(tmp_path)) == 0


def test_only_written_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = partial(tmp_path)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    finish(build, [4, 5, 9])
    build.flush()
    assert synced == ["text-00001.npy", "text-00003.npy", "journal.jsonl"], (
        "rows must be synced before their journal lines"
    )


def test_a_disk_too_small_for_the_store_is_left_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        partial(tmp_path)
    assert not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"0\.00 GB are free"):
        partial(tmp_path)
    assert not list(tmp_path.iterdir())
